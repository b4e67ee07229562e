"""Sheets: grids of equally large pictures with titles and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

from PIL import Image, ImageDraw
from torch import Tensor

from expkit.images import text_drawing
from expkit.images.image_io import FAINT, INK, PAPER, enlarge_pixels
from expkit.images.labels import MAX_WRAPPED_LABEL, shorten_texts

EDGE = (214, 214, 214)  # the outline of each picture, so that the edges of white ones are visible
WIDEST = 12  # pictures of a line; more are broken into several lines
MARGIN = 16  # pixels around the page
BESIDE = 220  # pixels: the widest label beside a row
LEAST = 520  # pixels: the narrowest page that has a title
MAX_NOTE = 2000  # characters of a note


@dataclass(frozen=True)
class TextBlock:
    """Texts that are broken into lines, and the space that the largest of them needs.

    size: of the letters, in pixels.
    """

    texts: tuple[str, ...]
    size: int

    @classmethod
    def of(
        cls, texts: Sequence[str], size: int, width: float, most: int = MAX_WRAPPED_LABEL
    ) -> TextBlock:  # fmt: skip
        """Wrap texts to `width` pixels, cut to `most` characters; different ones stay different."""
        wrapped = [text_drawing.wrap_text(text, size, width) for text in shorten_texts(texts, most)]
        return cls(tuple(wrapped), size)

    @property
    def line(self) -> int:
        """The height of a line, in pixels."""
        return self.size + 4

    @property
    def height(self) -> int:
        """The height of the highest text, in pixels."""
        return max([(text.count("\n") + 1) * self.line for text in self.texts if text] or [0])

    @property
    def width(self) -> int:
        """The width of the widest text, in pixels."""
        return max([round(text_drawing.text_width(text, self.size)) for text in self.texts] or [0])

    def put(
        self,
        page: Image.Image,
        number: int,
        place: tuple[float, float],
        anchor: str,
        ink=INK,
    ) -> None:
        """Draw the text of index `number` on the page."""
        text_drawing.draw_text(page, place, self.texts[number], self.size, ink, anchor)


def picture_sheet(
    rows: Sequence[Sequence[Tensor]],
    down: Sequence[str] = (),
    across: Sequence[str] = (),
    title: str = "",
    note: str = "",
    side: int = 0,
    under: Sequence[Sequence[str]] = (),
) -> Image.Image:
    """A sheet of rows of pictures (C, H, W) in [0, 1].

    Args:
        rows: the pictures, row by row.
        down: the labels of the rows.
        across: the labels of the columns.
        title: the line at the top.
        note: the small text at the bottom.
        side: pictures are enlarged by a whole factor to about so many pixels; 0: `fitting_side`.
        under: the labels of the pictures, row by row.
    """
    side = side or fitting_side(rows)
    tiles = [[enlarge_pixels(picture, side) for picture in row] for row in rows]
    return lay_out_tiles(tiles, down, across, title, note, under)


def fitting_side(rows: Sequence[Sequence], least: int = 56) -> int:
    """The side, in pixels, of pictures that fill a page without exceeding it."""
    return max(least, min(168, 1900 // max(map(len, rows)), 1500 // len(rows)))


def line_length(count: int, most: int = WIDEST) -> int:
    """The number of pictures per line if `count` pictures are broken into lines of at most `most`.

    Lines are equally long if a length from most // 2 to `most` allows it, else `most` long.
    """
    if count <= most:
        return count
    return max([n for n in range(most // 2, most + 1) if count % n == 0], default=most)


def square_line_length(count: int) -> int:
    """The number of pictures per line; hundreds of pictures form about a square."""
    return line_length(count, max(WIDEST, isqrt(count)))


def lay_out_tiles(
    tiles: Sequence[Sequence[Image.Image]],
    down: Sequence[str] = (),
    across: Sequence[str] = (),
    title: str = "",
    note: str = "",
    under: Sequence[Sequence[str]] = (),
) -> Image.Image:
    """A sheet of rows of tiles, no tile larger than the first; texts as in `picture_sheet`."""
    columns = max(len(row) for row in tiles)
    width, height = tiles[0][0].size
    gap = max(4, width // 24)
    small = max(13, min(18, width // 7))
    beside, above = TextBlock.of(down, small, BESIDE), TextBlock.of(across, small, width)
    captions = [text for row in under for text in row]
    below = TextBlock.of(captions, max(11, min(14, width // 10)), width)
    left = MARGIN + beside.width + 10 * bool(beside.width)
    page_width = max(left + columns * (width + gap) - gap + MARGIN, LEAST if title or note else 0)
    text_width = page_width - 2 * MARGIN
    head = TextBlock.of([title], 22, text_width)
    foot = TextBlock.of([note], small, text_width, MAX_NOTE)
    top = MARGIN + head.height + 4 * bool(title) + above.height + 6 * bool(above.height)
    inset = max(0, (beside.height - height + 1) // 2)  # space for labels higher than their pictures
    step = max(height + gap + below.height + inset, beside.height + gap)
    page = Image.new("RGB", (page_width, top + len(tiles) * step + MARGIN + foot.height), PAPER)
    head.put(page, 0, (MARGIN, MARGIN - 4), "la")
    foot.put(page, 0, (MARGIN, page.height - foot.height - 10), "la", FAINT)
    for column in range(len(across)):
        above.put(page, column, (left + column * (width + gap) + width / 2, top + inset - 5), "md")
    for number, row in enumerate(tiles):
        y = top + number * step + inset
        if down:
            beside.put(page, number, (left - 10, y + height / 2), "rm")
        for column, tile in enumerate(row):
            x = left + column * (width + gap)
            page.paste(tile, (x, y))
            ImageDraw.Draw(page).rectangle((x - 1, y - 1, x + width, y + height), outline=EDGE)
            if under:
                index = sum(map(len, under[:number])) + column
                below.put(page, index, (x + width / 2, y + height + 3), "ma")
    return page


def stack_pages(pages: Sequence[tuple[str, Image.Image]], width: int = 1200) -> Image.Image:
    """Pages below one another, each resized to `width` pixels and below its own heading."""
    sections = []
    for heading, page in pages:
        words = TextBlock.of([heading], 22, width - 2 * MARGIN)
        size = (width, round(page.height * width / page.width))
        sections.append((words, page.convert("RGB").resize(size, Image.Resampling.LANCZOS)))
    heading_heights = [max(words.height - 4, 22) + 2 * MARGIN for words, _ in sections]
    total_height = sum(heading_heights) + sum(page.height for _, page in sections)
    stack = Image.new("RGB", (width, total_height), PAPER)
    top = 0
    for heading_height, (words, page) in zip(heading_heights, sections, strict=True):
        words.put(stack, 0, (MARGIN, top + MARGIN), "la")
        stack.paste(page, (0, top + heading_height))
        top += heading_height + page.height
    return stack
