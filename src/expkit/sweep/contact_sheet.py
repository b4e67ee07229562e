"""The sheet of a sweep: its cells laid out by their axes, the last one across, the one before it down, those before that a page each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product

from PIL import Image

from expkit.images import text_drawing
from expkit.images.image_io import INK
from expkit.images.labels import axis_labels, key_of, shorten_texts
from expkit.images.sheets import fitting_side, lay_out_tiles, line_length

DOWN = 40  # rows of a page; more go on on the next one
SHOWN = 16  # pictures of a cell that stand in its place; where there are more, its labelled sheet does
HOLE, FAILED = (238, 238, 238), (252, 230, 226)
MEGAPIXELS = 100

Picture = Callable[
    [Mapping, int], Image.Image | None
]  # (cell, side) -> what stands in its place, None where there is nothing


def sheet_pages(
    axes: Mapping[str, Sequence], cells: Sequence[Mapping], picture: Picture, title: str, note: str
) -> list[Image.Image]:
    """cells: {axes: {key: value}, error}, in typed order."""
    grids, made = [part for grid in grid_cells(axes, cells) for part in cut_rows(*grid)], []
    for number, (heading, down, across, rows) in enumerate(grids, 1):
        place = f"{number} of {len(grids)}" if len(grids) > 1 else ""
        made.append(
            sheet_page(rows, picture, " · ".join(filter(None, [title, heading, place])), note, down, across)
        )
    return made


def sheet_page(
    rows: Sequence[Sequence[Mapping | None]],
    picture: Picture,
    title: str,
    note: str,
    down: Sequence[str] = (),
    across: Sequence[str] = (),
    under: Sequence[Sequence[str]] = (),
) -> Image.Image:
    """Rows of cells, None where there is none, with labels before each row, above each column and under each cell."""
    side = fitting_side(rows, 48)
    images = [[picture(cell, side) if cell else None for cell in row] for row in rows]
    size = max((image.size for row in images for image in row if image), default=(side, side))
    tiles = [
        [
            center_image(image, size) if image else empty_cell((cell or {}).get("error") or "", size)
            for cell, image in zip(row, there, strict=True)
        ]
        for row, there in zip(rows, images, strict=True)
    ]
    return limit_size(lay_out_tiles(tiles, down, across, title, note, under))


def grid_cells(
    axes: Mapping[str, Sequence], cells: Sequence[Mapping]
) -> list[tuple[str, list[str], list[str], list[list]]]:
    """(heading, labels down, labels across, rows of cells), one for each combination of all axes but the last two."""
    if not axes:
        return [("", [], [], fold_axis(cells))]
    names = name_axes(axes)
    *outer, across = axes
    if not outer:
        rows = fold_axis(cells)
        if len(rows) == 1:
            return [("", [], names[across], rows)]
        known = dict(zip(map(key_of, axes[across]), names[across], strict=True))
        return [("", [f"{known[key_of(row[0]['axes'][across])]} …" for row in rows], [], rows)]
    *outer, down = outer
    found = {tuple(key_of(cell["axes"][key]) for key in axes): cell for cell in cells}
    grids = []
    for places in product(*[range(len(axes[key])) for key in outer]):
        values = [key_of(axes[key][place]) for key, place in zip(outer, places, strict=True)]
        rows = [
            [found.get((*values, key_of(one), key_of(other))) for other in axes[across]] for one in axes[down]
        ]
        heading = ", ".join(names[key][place] for key, place in zip(outer, places, strict=True))
        grids.append((heading, names[down], names[across], rows))
    return grids


def name_axes(axes: Mapping[str, Sequence]) -> dict[str, list[str]]:
    """{key: a label of each value}, which says the key too."""
    return {
        key: [f"{key} {said}" for said in shorten_texts(axis_labels(values))] for key, values in axes.items()
    }


def fold_axis(cells: Sequence) -> list[list]:
    """One axis in rows of equal length where there is a divisor, of twelve where there is none."""
    width = line_length(len(cells))
    return [list(cells[start : start + width]) for start in range(0, len(cells), width)]


def cut_rows(heading: str, down: list[str], across: list[str], rows: list[list]) -> list[tuple]:
    starts = range(0, len(rows), DOWN)
    return [(heading, down[start : start + DOWN], across, rows[start : start + DOWN]) for start in starts]


def empty_cell(error: str, size: tuple[int, int]) -> Image.Image:
    """A place without a picture, and why: its error, or nothing where it is still to come."""
    image = Image.new("RGB", size, FAILED if error else HOLE)
    letters = max(9, min(13, size[0] // 11))
    lines = text_drawing.wrap_text(f"failed: {error}" if error else "missing", letters, size[0] - 8).split(
        "\n"
    )
    most = max(1, (size[1] - 8) // (letters + 3))
    lines = (
        lines
        if len(lines) <= most
        else [*lines[: most - 1], text_drawing.end_with_ellipsis(lines[most - 1], letters, size[0] - 8)]
    )
    text_drawing.draw_text(image, (4, 4), "\n".join(lines), letters, INK, spacing=3)
    return image


def center_image(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    if image.size == size:
        return image
    page = Image.new("RGB", size, HOLE)
    image = image if image.width <= size[0] and image.height <= size[1] else contain_image(image, size)
    page.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return page


def contain_image(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    scale = min(size[0] / image.width, size[1] / image.height)
    return image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
    )


def make_montage(images: Sequence[Image.Image], side: int) -> Image.Image:
    """Pictures of one size as one of about `side` pixels or more: small ones enlarged a whole number of times."""
    across = math.ceil(math.sqrt(len(images)))
    width, height = images[0].size
    times = max(1, round(side / (across * width)))
    whole = Image.new("RGB", (across * width, math.ceil(len(images) / across) * height), HOLE)
    for number, image in enumerate(images):
        whole.paste(image.convert("RGB"), (number % across * width, number // across * height))
    return whole.resize((whole.width * times, whole.height * times), Image.Resampling.NEAREST)


def limit_size(image: Image.Image) -> Image.Image:
    """At most 100 megapixels."""
    scale = math.sqrt(MEGAPIXELS * 1e6 / (image.width * image.height))
    return (
        image if scale >= 1 else contain_image(image, (int(image.width * scale), int(image.height * scale)))
    )
