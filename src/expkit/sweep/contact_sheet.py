"""The contact sheet of a sweep: its cells laid out by their axes.

The last axis runs across and the one before it down. Each combination of the other axes has a page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product

from PIL import Image

from expkit.images import text_drawing
from expkit.images.image_io import INK, contain_image
from expkit.images.labels import axis_labels, key_of, shorten_texts
from expkit.images.sheets import fitting_side, lay_out_tiles, line_length

DOWN = 40  # rows of a page; further rows are on the next page
MAX_TILE_PICTURES = 16  # of a cell; a cell with more is shown by its labelled sheet
HOLE = (238, 238, 238)  # colour of a tile without a picture
FAILED = (252, 230, 226)  # colour of the tile of a cell that failed
MEGAPIXELS = 100  # of a page at most

# (cell, side in pixels) -> the picture in the cell's tile, or None if it has no picture
Picture = Callable[[Mapping, int], Image.Image | None]


def sheet_pages(
    axes: Mapping[str, Sequence], cells: Sequence[Mapping], picture: Picture, title: str, note: str
) -> list[Image.Image]:
    """The pages of the contact sheet of a sweep.

    Args:
        axes: {key: values} of the swept keys.
        cells: mappings with "axes" ({key: value}) and "error", in typed order.
        picture: makes the picture of a cell.
        title: the first line of each page.
        note: the text at the foot of each page.
    """
    grids = [part for grid in grid_cells(axes, cells) for part in cut_rows(*grid)]
    pages = []
    for number, (heading, down, across, rows) in enumerate(grids, 1):
        page_number = f"{number} of {len(grids)}" if len(grids) > 1 else ""
        page_title = " · ".join(filter(None, [title, heading, page_number]))
        pages.append(sheet_page(rows, picture, page_title, note, down, across))
    return pages


def sheet_page(
    rows: Sequence[Sequence[Mapping | None]],
    picture: Picture,
    title: str,
    note: str,
    down: Sequence[str] = (),
    across: Sequence[str] = (),
    under: Sequence[Sequence[str]] = (),
) -> Image.Image:
    """One page of a contact sheet.

    Args:
        rows: rows of cells; None is an empty place.
        picture: makes the picture of a cell.
        title: the line above everything.
        note: the text at the foot.
        down: a label before each row.
        across: a label above each column.
        under: a label under each cell.
    """
    side = fitting_side(rows, 48)
    images = [[picture(cell, side) if cell else None for cell in row] for row in rows]
    size = max((image.size for row in images for image in row if image), default=(side, side))

    def tile(cell: Mapping | None, image: Image.Image | None) -> Image.Image:
        if image:
            return center_image(image, size)
        return empty_cell((cell or {}).get("error") or "", size)

    tiles = [
        [tile(cell, image) for cell, image in zip(row, row_images, strict=True)]
        for row, row_images in zip(rows, images, strict=True)
    ]
    return limit_size(lay_out_tiles(tiles, down, across, title, note, under))


def grid_cells(
    axes: Mapping[str, Sequence], cells: Sequence[Mapping]
) -> list[tuple[str, list[str], list[str], list[list]]]:
    """Arrange cells in grids, one for each combination of the values of all axes but the last two.

    A single axis that does not fit in one row is folded into several rows.

    Returns:
        (heading, labels of the rows, labels of the columns, rows of cells) of each grid.
    """
    if not axes:
        return [("", [], [], fold_axis(cells))]
    names = name_axes(axes)
    *outer, across = axes
    if not outer:
        rows = fold_axis(cells)
        if len(rows) == 1:
            return [("", [], names[across], rows)]
        label_of = dict(zip(map(key_of, axes[across]), names[across], strict=True))
        return [("", [f"{label_of[key_of(row[0]['axes'][across])]} …" for row in rows], [], rows)]
    *outer, down = outer
    cell_at = {tuple(key_of(cell["axes"][key]) for key in axes): cell for cell in cells}
    grids = []
    for indices in product(*[range(len(axes[key])) for key in outer]):
        outer_places = list(zip(outer, indices, strict=True))
        outer_keys = [key_of(axes[key][index]) for key, index in outer_places]
        rows = [
            [cell_at.get((*outer_keys, key_of(row_value), key_of(value))) for value in axes[across]]
            for row_value in axes[down]
        ]
        heading = ", ".join(names[key][index] for key, index in outer_places)
        grids.append((heading, names[down], names[across], rows))
    return grids


def name_axes(axes: Mapping[str, Sequence]) -> dict[str, list[str]]:
    """{key: labels of its values, in the form KEY VALUE}."""
    return {
        key: [f"{key} {label}" for label in shorten_texts(axis_labels(values))]
        for key, values in axes.items()
    }


def fold_axis(cells: Sequence) -> list[list]:
    """Arrange the cells of one axis in rows.

    Up to 12 cells are one row. More are rows of equal length if their number has a divisor from 6
    to 12, and rows of 12 otherwise.
    """
    width = line_length(len(cells))
    return [list(cells[start : start + width]) for start in range(0, len(cells), width)]


def cut_rows(heading: str, down: list[str], across: list[str], rows: list[list]) -> list[tuple]:
    """Split a grid into grids of at most `DOWN` rows."""
    parts = [slice(start, start + DOWN) for start in range(0, len(rows), DOWN)]
    return [(heading, down[part], across, rows[part]) for part in parts]


def empty_cell(error: str, size: tuple[int, int]) -> Image.Image:
    """The tile of a cell without a picture: its error, or "missing" if it has not run."""
    image = Image.new("RGB", size, FAILED if error else HOLE)
    font_size = max(9, min(13, size[0] // 11))
    text = f"failed: {error}" if error else "missing"
    lines = text_drawing.wrap_text(text, font_size, size[0] - 8).split("\n")
    max_lines = max(1, (size[1] - 8) // (font_size + 3))
    if len(lines) > max_lines:
        last = text_drawing.end_with_ellipsis(lines[max_lines - 1], font_size, size[0] - 8)
        lines = [*lines[: max_lines - 1], last]
    text_drawing.draw_text(image, (4, 4), "\n".join(lines), font_size, INK, spacing=3)
    return image


def center_image(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture in the middle of a page of this size, made smaller if it is larger than that."""
    if image.size == size:
        return image
    page = Image.new("RGB", size, HOLE)
    if image.width > size[0] or image.height > size[1]:
        image = contain_image(image, size)
    page.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return page


def make_montage(images: Sequence[Image.Image], side: int) -> Image.Image:
    """Put pictures of one size side by side, in about a square of rows and columns.

    A small montage is enlarged by a whole number, to a width of about `side` pixels.
    """
    columns = math.ceil(math.sqrt(len(images)))
    width, height = images[0].size
    factor = max(1, round(side / (columns * width)))
    montage = Image.new("RGB", (columns * width, math.ceil(len(images) / columns) * height), HOLE)
    for index, image in enumerate(images):
        montage.paste(image.convert("RGB"), (index % columns * width, index // columns * height))
    enlarged_size = (montage.width * factor, montage.height * factor)
    return montage.resize(enlarged_size, Image.Resampling.NEAREST)


def limit_size(image: Image.Image) -> Image.Image:
    """The picture, made smaller if it has more than `MEGAPIXELS` megapixels."""
    scale = math.sqrt(MEGAPIXELS * 1e6 / (image.width * image.height))
    if scale >= 1:
        return image
    return contain_image(image, (int(image.width * scale), int(image.height * scale)))
