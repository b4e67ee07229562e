"""Text on pictures, in any script: each character is drawn with the first font that has it, or its name is.

Text of the characters of `PLAIN` alone is drawn with Pillow's own font. Other text is split into runs of one font and one direction.
Fonts: Noto Sans (package manimgx-fonts), Noto Sans CJK (package noto-cjk-sans-jp-regular), both under the SIL Open Font License; DejaVu
Sans, which matplotlib brings; Noto Color Emoji, where the system has it; any other font of the system.

Letters are joined, marks placed and emoji combined by Raqm, where Pillow has it (`PIL.features.check("raqm")`); without it Arabic letters
stand side by side.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache, lru_cache, partial
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont, features

from expkit.images.labels import character_name, grapheme_clusters, mark_invisible

PLAIN = re.compile("[ -~©«°±´·»‘’“”…‹›™]*")  # what Pillow's own font has
PACKAGES = ("manimgx_fonts", "noto_cjk_sans_jp_regular")
FIRST, LAST = ("NotoSans[", "NotoSansCJK"), ("NotoEmoji",)  # of the packages' fonts; italics are left out
EMOJI_SIZES = (
    109,
    136,
    160,
    96,
    64,
    48,
)  # pixels of the pictures in fonts of emoji: those of Noto, then others'
NO_FONTS = ("lastresort", "adobeblank")  # fonts that draw a box for everything, or nothing
BREAKS = re.compile(r"(?<=[/\\_,;:=&?.+|-])")  # where a word that is too long is broken first
STRONG = {"L": "L", "R": "R", "AL": "R"}  # classes of direction
NUMBERS, SEPARATORS = ("EN", "AN"), ("ES", "CS")
DIRECTED = (*STRONG, *NUMBERS, *SEPARATORS)


class Run(NamedTuple):
    """A part of a line, drawn with one font, in one direction."""

    text: str
    font: str
    right_to_left: bool = False


# Which font has a character.


@cache
def font_paths() -> tuple[str, ...]:
    """The paths of the fonts that are always there, in the order in which they are tried."""
    import matplotlib

    folders = [
        folder
        for name in PACKAGES
        if (spec := find_spec(name))
        for folder in spec.submodule_search_locations or ()
    ]
    found = [
        path
        for folder in folders
        for path in sorted(Path(folder).glob("*.[ot]tf"))
        if "Italic" not in path.name
    ]
    found.sort(
        key=lambda path: (
            path.name.startswith(LAST),
            not path.name.startswith(FIRST[0]),
            not path.name.startswith(FIRST[1]),
        )
    )
    emoji = [path for path in found if path.name.startswith(LAST)]
    dejavu = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")
    return tuple(map(str, [*(path for path in found if path not in emoji), dejavu, *emoji]))


@cache
def system_fonts() -> tuple[str, ...]:
    """The paths of the other fonts of this machine, regular ones first."""
    from matplotlib.font_manager import findSystemFonts

    found = [
        path
        for path in sorted(findSystemFonts())
        if not any(name in Path(path).stem.lower() for name in NO_FONTS)
    ]
    return tuple(
        sorted(
            found, key=lambda path: not re.search("regular|dejavusans$|sans$", Path(path).stem, re.IGNORECASE)
        )
    )


@cache
def character_test(font: str) -> Callable[[str], bool]:
    """A function that says whether a font has a character."""
    from matplotlib.ft2font import FT2Font

    try:
        face = FT2Font(font)
    except (RuntimeError, OSError):
        return lambda character: False
    return cache(lambda character: face.get_char_index(ord(character)) > 0)


@cache
def colour_font() -> tuple[str, int] | None:
    """The path and the size of the system's font of coloured emoji."""
    names = [path for path in system_fonts() if re.search("emoji|seguiemj", Path(path).name, re.IGNORECASE)]
    for path in sorted(names, key=lambda path: "NotoColorEmoji" not in path):
        for size in EMOJI_SIZES:
            try:
                face = ImageFont.truetype(path, size)
            except OSError:
                continue
            if drawn_in_colour("😀", face):
                return path, size
    return None


def drawn_in_colour(text: str, face: ImageFont.FreeTypeFont) -> bool:
    page = Image.new("RGB", (200, 200))
    ImageDraw.Draw(page).text((0, 0), text, "white", face, embedded_color=True)
    return any(len(set(colour)) > 1 for _, colour in page.getcolors(1 << 16))


@lru_cache(maxsize=8192)
def font_of(cluster: str) -> str | None:
    """The first font that has all characters of a cluster but those that are never drawn; None where there is none."""
    needed = drawn_of(cluster)
    if not needed:
        return font_paths()[0]
    colour = colour_font() if in_colour(cluster) else None
    if colour and all(map(character_test(colour[0]), needed)):
        return colour[0]
    return next(
        (
            font
            for several in (font_paths, system_fonts)
            for font in several()
            if all(map(character_test(font), needed))
        ),
        None,
    )


def drawn_of(cluster: str) -> str:
    """A cluster without what is never drawn itself: variation selectors, joiners, tags."""
    import regex

    return regex.sub(r"\p{Default_Ignorable_Code_Point}", "", cluster)


def in_colour(cluster: str) -> bool:
    """Whether a cluster is an emoji that is meant to be coloured."""
    import regex

    return bool(regex.search(r"\p{Emoji_Presentation}|\uFE0F", cluster)) and "\ufe0e" not in cluster


def drawable_clusters(cluster: str) -> str:
    """The cluster; where no font has it whole, its characters, and the names of those that no font has."""
    if font_of(cluster):
        return cluster
    return "".join(
        one if not drawn_of(one) or font_of(one) else character_name(one)
        for one in cluster
        if one not in "\u200d\ufe0f"
    )


def text_for_matplotlib(text: str) -> str:
    """The text for matplotlib, which draws outlines only: names for characters that none of `font_paths` has."""
    if PLAIN.fullmatch(text):
        return text
    known = [character_test(font) for font in font_paths()]
    kept = [
        one
        for cluster in grapheme_clusters(mark_invisible(text))
        for one in (cluster if in_one(cluster, known) else drawn_of(cluster))
    ]
    return "".join(one if any(has(one) for has in known) else character_name(one) for one in kept)


def in_one(cluster: str, known: Sequence[Callable[[str], bool]]) -> bool:
    """Whether one font has all of a cluster."""
    return any(all(map(has, cluster)) for has in known) and not in_colour(cluster)


# Lines.


@lru_cache(maxsize=2048)
def prepare_text(text: str) -> str:
    """The text as it is drawn: what cannot be seen or drawn has a mark or a name."""
    return (
        text
        if PLAIN.fullmatch(text)
        else "".join(map(drawable_clusters, grapheme_clusters(mark_invisible(text))))
    )


@lru_cache(maxsize=2048)
def split_runs(line: str) -> tuple[Run, ...]:
    """The runs of a prepared line, from left to right."""
    parts = grapheme_clusters(line)
    levels = embedding_levels([text_direction(part) for part in parts])
    both = zip(
        merge_space_runs([font_of(part) or font_paths()[-1] for part in parts], parts), levels, strict=True
    )
    placed = [(font, level, part) for (font, level), part in zip(both, parts, strict=True)]
    split = [
        (font, level, "".join(part for _, _, part in group))
        for (font, level), group in groupby(placed, lambda one: one[:2])
    ]
    return tuple(Run(text, font, bool(level % 2)) for font, level, text in in_visual_order(split))


def merge_space_runs(found: Sequence[str], parts: Sequence[str]) -> list[str]:
    """Spaces are drawn with the font of what stands before them, so that runs are long; those of emoji are as wide as emoji."""
    made: list[str] = []
    for font, part in zip(found, parts, strict=True):
        goes_on = made and part == " " and "emoji" not in made[-1].lower() and character_test(made[-1])(" ")
        made.append(made[-1] if goes_on else font)
    return made


def text_direction(cluster: str) -> str:
    """Unicode's class of direction of the first character that has one."""
    return next((kind for kind in map(unicodedata.bidirectional, cluster) if kind in DIRECTED), "")


def embedding_levels(kinds: Sequence[str]) -> list[int]:
    """The level of each cluster of a line, odd where it is read from right to left, of its directions.

    Unicode's algorithm (UAX #9) less marks of direction, which are never drawn, and less pairs of brackets.
    """
    base = next((kind for kind in kinds if kind in STRONG), "L")
    base, last, found = STRONG[base], STRONG[base], []
    for place, kind in enumerate(kinds):
        around = {*kinds[max(0, place - 1) : place], *kinds[place + 1 : place + 2]}
        if kind in STRONG:
            last = STRONG[kind]
            found.append(last)
        elif kind in NUMBERS or (kind in SEPARATORS and around and around <= {*NUMBERS}):
            found.append("L" if last == "L" else "number")
        else:
            found.append("")
    levels = {"L": 0 if base == "L" else 2, "R": 1, "number": 2}
    sides = {"L": "L", "R": "R", "number": "R"}
    for place, kind in enumerate(found):
        if not kind:
            before = sides[found[place - 1]] if place else base
            after = next((sides[later] for later in found[place:] if later), base)
            found[place] = before if before == after else base
    return [levels[kind] for kind in found]


def in_visual_order(parts: list) -> list:
    """Parts (…, level, …) as they stand from left to right: rule L2 of UAX #9."""
    for least in range(max((part[1] for part in parts), default=0), 0, -1):
        groups = [
            (high, [*group]) for high, group in groupby(parts, lambda part, least=least: part[1] >= least)
        ]
        parts = [part for high, group in groups for part in (group[::-1] if high else group)]
    return parts


@lru_cache(maxsize=2048)
def wrap_text(text: str, size: int, width: float) -> str:
    """The text in lines no wider than `width` pixels: broken at spaces, between Chinese, Japanese and Korean characters, and inside a
    word where that is too wide for a line."""
    lines, said = [""], prepare_text(text)
    measure = partial(measure_line, size=size, plain=is_plain(said))
    for word in filter(None, said.split(" ")):
        for number, piece in enumerate(break_points(word)):
            longer = f"{lines[-1]} {piece}" if lines[-1] and not number else lines[-1] + piece
            if measure(longer) <= width:
                lines[-1] = longer
            else:
                lines += break_word(piece, measure, width)
    return "\n".join(lines if lines[0] or len(lines) == 1 else lines[1:])


def break_points(word: str) -> list[str]:
    """The parts of a word between which a line may end: each Chinese, Japanese or Korean character, with the marks that close it."""
    if word.isascii():
        return [word]
    made = [""]
    for cluster in grapheme_clusters(word):
        closes = unicodedata.category(cluster[0]) in ("Pe", "Pf", "Po")
        if made[-1] and not closes and (is_wide(cluster) or is_wide(made[-1])):
            made.append("")
        made[-1] += cluster
    return made


def is_wide(text: str) -> bool:
    return unicodedata.east_asian_width(text[0]) in "WF"


def break_word(word: str, measure: Callable[[str], float], width: float) -> list[str]:
    """A word in lines: whole, or where it is too wide broken after marks such as slashes, or else anywhere."""
    lines = [""]
    for part in [word] if measure(word) <= width else BREAKS.split(word):
        if measure(lines[-1] + part) <= width:
            lines[-1] += part
        elif measure(part) <= width:
            lines.append(part)
        else:
            for cluster in grapheme_clusters(part):
                fits = not lines[-1] or measure(lines[-1] + cluster) <= width
                lines = [*lines[:-1], lines[-1] + cluster] if fits else [*lines, cluster]
    return lines


def end_with_ellipsis(line: str, size: int, width: float) -> str:
    """A line that goes on where it cannot be seen: with an ellipsis, within `width` pixels in either font."""
    kept = grapheme_clusters(line)
    while (
        kept
        and max(measure_line(f"{''.join(kept)} …", size, plain) for plain in {is_plain(line), False}) > width
    ):
        kept.pop()
    return f"{''.join(kept)} …".strip()


def is_plain(text: str) -> bool:
    """Whether Pillow's own font has all of a text, in lines or not; all lines of a text are drawn alike."""
    return bool(PLAIN.fullmatch(text.replace("\n", "")))


# Drawing.


@cache
def plain_face(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


@cache
def face_of(font: str, size: int) -> tuple[ImageFont.FreeTypeFont, float]:
    """A font at a size, and how many times it is too small: fonts of emoji that are pictures have one size."""
    colour = colour_font() if "emoji" in font.lower() or "seguiemj" in font.lower() else None
    native = colour[1] if colour and colour[0] == font else size
    return ImageFont.truetype(font, native), size / native


def shape_run(run: Run) -> tuple[str, dict]:
    """A run's text as Pillow draws it, and how it is told the direction and the language."""
    if features.check("raqm"):
        return run.text, {
            "direction": "rtl" if run.right_to_left else "ltr",
            "language": han_language(run.text),
        }
    return "".join(reversed(grapheme_clusters(run.text))) if run.right_to_left else run.text, {}


def han_language(text: str) -> str | None:
    """The language whose forms Chinese characters take: Japanese or Korean where there is such a letter beside them, else Chinese."""
    if any("\u3040" <= character <= "\u30ff" for character in text):
        return "ja"
    if any("\uac00" <= character <= "\ud7a3" for character in text):
        return "ko"
    return "zh-Hans" if any("\u3400" <= character <= "\u9fff" for character in text) else None


@lru_cache(maxsize=8192)
def measure_line(line: str, size: int, plain: bool) -> float:
    """The width in pixels of a line of a prepared text, which `is_plain` or not."""
    return (
        plain_face(size).getlength(line) if plain else sum(run_length(run, size) for run in split_runs(line))
    )


def text_width(text: str, size: int) -> float:
    """The width in pixels of the longest line of a text, as `wrap_text` makes them."""
    return max(measure_line(line, size, is_plain(text)) for line in text.split("\n"))


def run_length(run: Run, size: int) -> float:
    (face, scale), (text, told) = face_of(run.font, size), shape_run(run)
    return face.getlength(text, **told) * scale


def draw_text(
    page: Image.Image,
    place: tuple[float, float],
    text: str,
    size: int,
    ink: tuple[int, int, int],
    anchor: str = "la",
    spacing: int = 4,
) -> None:
    """Draw lines, as `wrap_text` makes them, on an RGB page. anchor: l, m or r, and a (top), m or d (bottom), of all lines together."""
    face = plain_face(size)
    if is_plain(text):
        align = {"l": "left", "m": "center", "r": "right"}[anchor[0]]
        ImageDraw.Draw(page).multiline_text(
            place, text, ink, face, anchor=anchor, align=align, spacing=spacing
        )
        return
    lines, step, (ascent, descent) = text.split("\n"), face.getbbox("A")[3] + spacing, face.getmetrics()
    above = {"a": ascent, "m": (ascent - descent) / 2, "d": -descent}[anchor[1]]
    top = place[1] + above - {"a": 0, "m": 0.5, "d": 1}[anchor[1]] * (len(lines) - 1) * step
    for number, line in enumerate(lines):
        left = place[0] - {"l": 0, "m": 0.5, "r": 1}[anchor[0]] * measure_line(line, size, False)
        for run in split_runs(line):
            draw_run(page, (left, top + number * step), run, size, ink)
            left += run_length(run, size)


def draw_run(
    page: Image.Image, place: tuple[float, float], run: Run, size: int, ink: tuple[int, int, int]
) -> None:
    """Draw a run, whose baseline begins at `place`."""
    (face, scale), (text, told) = face_of(run.font, size), shape_run(run)
    if scale == 1:
        ImageDraw.Draw(page).text(place, text, ink, face, anchor="ls", embedded_color=True, **told)
        return
    left, top, right, bottom = face.getbbox(text, anchor="ls", **told)
    large = Image.new("RGBA", (max(1, int(right - left)), max(1, int(bottom - top))))
    ImageDraw.Draw(large).text((-left, -top), text, ink, face, anchor="ls", embedded_color=True, **told)
    small = large.resize([max(1, round(side * scale)) for side in large.size], Image.Resampling.LANCZOS)
    page.paste(small, (round(place[0] + left * scale), round(place[1] + top * scale)), small)
