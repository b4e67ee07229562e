"""Sheets: rows of pictures of one size, with words around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

from PIL import Image, ImageDraw
from torch import Tensor

from expkit.images import text_drawing
from expkit.images.image_io import FAINT, INK, PAPER, enlarge_pixels
from expkit.images.labels import WHOLE, shorten_texts

EDGE = (214, 214, 214)  # around each picture, so that white ones end somewhere
WIDEST = 12  # pictures of a line: more stand in several
MARGIN, BESIDE, LEAST = (
    16,
    220,
    520,
)  # pixels: around the page, the widest label beside a row, the narrowest page that has a title
LONGEST = 2000  # characters of a note


@dataclass(frozen=True)
class Words:
    """Texts broken into lines of at most `width` pixels, and the room that the highest of them needs. size: of the letters, in pixels."""

    texts: tuple[str, ...]
    size: int

    @classmethod
    def of(cls, texts: Sequence[str], size: int, width: float, most: int = WHOLE) -> Words:
        """Texts of more than `most` characters are shortened, so that those that differ still do."""
        return cls(
            tuple(text_drawing.wrap_text(text, size, width) for text in shorten_texts(texts, most)), size
        )

    @property
    def line(self) -> int:
        return self.size + 4

    @property
    def height(self) -> int:
        return max([(text.count("\n") + 1) * self.line for text in self.texts if text] or [0])

    @property
    def width(self) -> int:
        return max([round(text_drawing.text_width(text, self.size)) for text in self.texts] or [0])

    def put(self, page: Image.Image, number: int, place: tuple[float, float], anchor: str, ink=INK) -> None:
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
    """Rows of pictures (C, H, W) in [0, 1], enlarged a whole number of times to about `side` pixels.

    A label before each row, above each column and under each picture, a title over all and a note at the foot.
    """
    side = side or fitting_side(rows)
    return lay_out_tiles(
        [[enlarge_pixels(picture, side) for picture in row] for row in rows], down, across, title, note, under
    )


def fitting_side(rows: Sequence[Sequence], least: int = 56) -> int:
    """The side, in pixels, of pictures that fill a page but no more."""
    return max(least, min(168, 1900 // max(map(len, rows)), 1500 // len(rows)))


def line_length(count: int, most: int = WIDEST) -> int:
    """How many of so many pictures stand in a line of at most `most`: all of them, or equally many in each where that makes few lines."""
    return (
        count
        if count <= most
        else max([n for n in range(most // 2, most + 1) if count % n == 0], default=most)
    )


def square_line_length(count: int) -> int:
    """How many of so many pictures stand in a line, where hundreds are to make about a square."""
    return line_length(count, max(WIDEST, isqrt(count)))


def lay_out_tiles(
    tiles: Sequence[Sequence[Image.Image]],
    down: Sequence[str] = (),
    across: Sequence[str] = (),
    title: str = "",
    note: str = "",
    under: Sequence[Sequence[str]] = (),
) -> Image.Image:
    """Rows of tiles, the first as large as any, with words around them."""
    widest = max(len(row) for row in tiles)
    width, height = tiles[0][0].size
    gap, small = max(4, width // 24), max(13, min(18, width // 7))
    beside, above = Words.of(down, small, BESIDE), Words.of(across, small, width)
    below = Words.of([text for row in under for text in row], max(11, min(14, width // 10)), width)
    left = MARGIN + beside.width + 10 * bool(beside.width)
    total = max(left + widest * (width + gap) - gap + MARGIN, LEAST if title or note else 0)
    head, foot = (
        Words.of([title], 22, total - 2 * MARGIN),
        Words.of([note], small, total - 2 * MARGIN, LONGEST),
    )
    top = MARGIN + head.height + 4 * bool(title) + above.height + 6 * bool(above.height)
    inset = max(0, (beside.height - height + 1) // 2)  # of a row whose label is higher than its pictures
    step = max(height + gap + below.height + inset, beside.height + gap)
    page = Image.new("RGB", (total, top + len(tiles) * step + MARGIN + foot.height), PAPER)
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
                below.put(page, sum(map(len, under[:number])) + column, (x + width / 2, y + height + 3), "ma")
    return page


def stack_pages(pages: Sequence[tuple[str, Image.Image]], width: int = 1200) -> Image.Image:
    """Pages under one another, each as wide as `width` and under a heading of its own."""
    fitted = []
    for heading, page in pages:
        words = Words.of([heading], 22, width - 2 * MARGIN)
        fitted.append(
            (
                words,
                page.convert("RGB").resize(
                    (width, round(page.height * width / page.width)), Image.Resampling.LANCZOS
                ),
            )
        )
    heads = [max(words.height - 4, 22) + 2 * MARGIN for words, _ in fitted]
    whole = Image.new("RGB", (width, sum(heads) + sum(page.height for _, page in fitted)), PAPER)
    top = 0
    for head, (words, page) in zip(heads, fitted, strict=True):
        words.put(whole, 0, (MARGIN, top + MARGIN), "la")
        whole.paste(page, (0, top + head))
        top += head + page.height
    return whole
