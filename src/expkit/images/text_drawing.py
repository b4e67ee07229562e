"""Draw text in any script on images: each character in the first font that has it, else its name.

Text with no characters outside `PLAIN` is drawn with Pillow's own font. Other text is split into
runs of one font and one direction. Fonts: Noto Sans (package manimgx-fonts) and Noto Sans CJK
(package noto-cjk-sans-jp-regular), both under the SIL Open Font License; DejaVu Sans, which comes
with matplotlib; Noto Color Emoji, if the system has it; any other font of the system.

Raqm joins letters, places marks and combines emoji, if Pillow has it
(`PIL.features.check("raqm")`). Without it Arabic letters are not joined.
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

PLAIN = re.compile("[ -~©«°±´·»‘’“”…‹›™]*")  # the characters of Pillow's own font
PACKAGES = ("manimgx_fonts", "noto_cjk_sans_jp_regular")
# Fonts of these packages that are tried first and last; italics are left out
FIRST, LAST = ("NotoSans[", "NotoSansCJK"), ("NotoEmoji",)
EMOJI_SIZES = (109, 136, 160, 96, 64, 48)  # pixels of bitmaps in emoji fonts: Noto's first
NO_FONTS = ("lastresort", "adobeblank")  # fonts that draw a box for every character, or nothing
BREAKS = re.compile(r"(?<=[/\\_,;:=&?.+|-])")  # where a word that is too long is broken first
STRONG = {"L": "L", "R": "R", "AL": "R"}  # bidirectional classes with their direction
NUMBERS, SEPARATORS = ("EN", "AN"), ("ES", "CS")
DIRECTED = (*STRONG, *NUMBERS, *SEPARATORS)


class GlyphRun(NamedTuple):
    """A part of a line with one font and one direction."""

    text: str
    font: str
    right_to_left: bool = False


# Font selection


@cache
def font_paths() -> tuple[str, ...]:
    """The paths of the fonts that Python packages bring, in the order in which they are tried."""
    import matplotlib

    folders = []
    for package in PACKAGES:
        spec = find_spec(package)
        if spec:
            folders += spec.submodule_search_locations or ()
    paths = [
        path
        for folder in folders
        for path in sorted(Path(folder).glob("*.[ot]tf"))
        if "Italic" not in path.name
    ]
    paths.sort(
        key=lambda path: (
            path.name.startswith(LAST),
            not path.name.startswith(FIRST[0]),
            not path.name.startswith(FIRST[1]),
        )
    )
    emoji = [path for path in paths if path.name.startswith(LAST)]
    dejavu = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")
    return tuple(map(str, [*(path for path in paths if path not in emoji), dejavu, *emoji]))


@cache
def system_fonts() -> tuple[str, ...]:
    """The paths of the system's fonts, regular ones first."""
    from matplotlib.font_manager import findSystemFonts

    paths = [
        path
        for path in sorted(findSystemFonts())
        if not any(name in Path(path).stem.lower() for name in NO_FONTS)
    ]
    regular = re.compile("regular|dejavusans$|sans$", re.IGNORECASE)
    return tuple(sorted(paths, key=lambda path: not regular.search(Path(path).stem)))


@cache
def character_test(font: str) -> Callable[[str], bool]:
    """A function that returns whether a font has a character."""
    from matplotlib.ft2font import FT2Font

    try:
        face = FT2Font(font)
    except (RuntimeError, OSError):
        return lambda character: False
    return cache(lambda character: face.get_char_index(ord(character)) > 0)


@cache
def colour_font() -> tuple[str, int] | None:
    """The path and the size of the system's colour emoji font, or None."""
    emoji = re.compile("emoji|seguiemj", re.IGNORECASE)
    paths = [path for path in system_fonts() if emoji.search(Path(path).name)]
    for path in sorted(paths, key=lambda path: "NotoColorEmoji" not in path):
        for size in EMOJI_SIZES:
            try:
                face = ImageFont.truetype(path, size)
            except OSError:
                continue
            if drawn_in_colour("😀", face):
                return path, size
    return None


def drawn_in_colour(text: str, face: ImageFont.FreeTypeFont) -> bool:
    """Whether the font draws any pixel that is not grey."""
    page = Image.new("RGB", (200, 200))
    ImageDraw.Draw(page).text((0, 0), text, "white", face, embedded_color=True)
    red, green, blue = page.split()
    return red.tobytes() != green.tobytes() or green.tobytes() != blue.tobytes()


@lru_cache(maxsize=8192)
def font_of(cluster: str) -> str | None:
    """The first font that has all visible characters of a cluster, or None."""
    needed = visible_characters(cluster)
    if not needed:
        return font_paths()[0]
    colour = colour_font() if in_colour(cluster) else None
    if colour and all(map(character_test(colour[0]), needed)):
        return colour[0]
    for list_fonts in (font_paths, system_fonts):
        for font in list_fonts():
            if all(map(character_test(font), needed)):
                return font
    return None


def visible_characters(cluster: str) -> str:
    """A cluster without invisible code points: variation selectors, joiners, tags."""
    import regex

    return regex.sub(r"\p{Default_Ignorable_Code_Point}", "", cluster)


def in_colour(cluster: str) -> bool:
    """Whether a cluster is an emoji that Unicode presents in colour."""
    import regex

    return bool(regex.search(r"\p{Emoji_Presentation}|\uFE0F", cluster)) and "\ufe0e" not in cluster


def drawable_clusters(cluster: str) -> str:
    """The cluster if one font has all of it, else its characters, or names if no font has them."""
    if font_of(cluster):
        return cluster
    text = ""
    for character in cluster:
        if character not in "\u200d\ufe0f":
            is_undrawable = visible_characters(character) and not font_of(character)
            text += character_name(character) if is_undrawable else character
    return text


def text_for_matplotlib(text: str) -> str:
    """The text with names for characters that no font of `font_paths` has.

    matplotlib draws outlines only, so the colour emoji font cannot be used.
    """
    if PLAIN.fullmatch(text):
        return text
    tests = [character_test(font) for font in font_paths()]
    clusters = [
        cluster if has_outline_font(cluster, tests) else visible_characters(cluster)
        for cluster in grapheme_clusters(mark_invisible(text))
    ]
    return "".join(
        character if any(has(character) for has in tests) else character_name(character)
        for character in "".join(clusters)
    )


def has_outline_font(cluster: str, known: Sequence[Callable[[str], bool]]) -> bool:
    """Whether one font has all of a cluster, and the cluster is not a colour emoji.

    known: a `character_test` for each font.
    """
    return any(all(map(has, cluster)) for has in known) and not in_colour(cluster)


# Lines


@lru_cache(maxsize=2048)
def prepare_text(text: str) -> str:
    """The text as it is drawn: invisible and undrawable characters replaced by marks or names."""
    if PLAIN.fullmatch(text):
        return text
    return "".join(map(drawable_clusters, grapheme_clusters(mark_invisible(text))))


@lru_cache(maxsize=2048)
def split_runs(line: str) -> tuple[GlyphRun, ...]:
    """The runs of a prepared line, from left to right."""
    clusters = grapheme_clusters(line)
    levels = embedding_levels([text_direction(cluster) for cluster in clusters])
    fonts = [font_of(cluster) or font_paths()[-1] for cluster in clusters]
    fonts = merge_space_runs(fonts, clusters)
    items = zip(fonts, levels, clusters, strict=True)
    runs = [
        (font, level, "".join(cluster for _, _, cluster in group))
        for (font, level), group in groupby(items, lambda item: item[:2])
    ]
    return tuple(GlyphRun(text, font, bool(level % 2)) for font, level, text in in_visual_order(runs))


def merge_space_runs(found: Sequence[str], parts: Sequence[str]) -> list[str]:
    """Fonts in which a space has the font of the cluster before it, so that runs are long.

    Emoji fonts are an exception, because their spaces are as wide as emoji.
    """
    fonts: list[str] = []
    for font, part in zip(found, parts, strict=True):
        previous = fonts[-1] if fonts else ""
        extends_run = previous and part == " " and "emoji" not in previous.lower()
        fonts.append(previous if extends_run and character_test(previous)(" ") else font)
    return fonts


def text_direction(cluster: str) -> str:
    """The Unicode bidirectional class of the first character that has one of DIRECTED, or ""."""
    return next((kind for kind in map(unicodedata.bidirectional, cluster) if kind in DIRECTED), "")


def embedding_levels(kinds: Sequence[str]) -> list[int]:
    """The embedding level of each cluster of a line, odd if it is read from right to left.

    This is the Unicode Bidirectional Algorithm (UAX #9) without direction marks, which are never
    drawn, and without bracket pairs.

    Args:
        kinds: the bidirectional class of each cluster, as from `text_direction`.
    """
    base = STRONG[next((kind for kind in kinds if kind in STRONG), "L")]
    last_strong = base
    resolved = []
    for index, kind in enumerate(kinds):
        neighbours = {*kinds[max(0, index - 1) : index], *kinds[index + 1 : index + 2]}
        if kind in STRONG:
            last_strong = STRONG[kind]
            resolved.append(last_strong)
        elif kind in NUMBERS or (kind in SEPARATORS and neighbours and neighbours <= {*NUMBERS}):
            resolved.append("L" if last_strong == "L" else "number")
        else:
            resolved.append("")
    levels = {"L": 0 if base == "L" else 2, "R": 1, "number": 2}
    sides = {"L": "L", "R": "R", "number": "R"}
    for index, kind in enumerate(resolved):
        if not kind:
            before = sides[resolved[index - 1]] if index else base
            after = next((sides[later] for later in resolved[index:] if later), base)
            resolved[index] = before if before == after else base
    return [levels[kind] for kind in resolved]


def in_visual_order(parts: list) -> list:
    """Parts (…, level, …) in visual order from left to right: rule L2 of UAX #9."""
    for least in range(max((part[1] for part in parts), default=0), 0, -1):
        reordered = []
        for is_high, group in groupby(parts, lambda part, least=least: part[1] >= least):
            members = [*group]
            reordered += members[::-1] if is_high else members
        parts = reordered
    return parts


@lru_cache(maxsize=2048)
def wrap_text(text: str, size: int, width: float) -> str:
    """The text in lines no wider than `width` pixels.

    Lines are broken at spaces, between Chinese, Japanese and Korean characters, and inside words
    that are too wide for a line.
    """
    lines = [""]
    prepared = prepare_text(text)
    measure = partial(measure_line, size=size, plain=is_plain(prepared))
    for word in filter(None, prepared.split(" ")):
        for index, piece in enumerate(break_points(word)):
            separator = " " if lines[-1] and not index else ""
            longer = f"{lines[-1]}{separator}{piece}"
            if measure(longer) <= width:
                lines[-1] = longer
            else:
                lines += break_word(piece, measure, width)
    return "\n".join(lines if lines[0] or len(lines) == 1 else lines[1:])


def break_points(word: str) -> list[str]:
    """The parts of a word between which a line may be broken.

    Each Chinese, Japanese or Korean character is one, with the closing punctuation after it.
    """
    if word.isascii():
        return [word]
    parts = [""]
    for cluster in grapheme_clusters(word):
        closes = unicodedata.category(cluster[0]) in ("Pe", "Pf", "Po")
        if parts[-1] and not closes and (is_wide(cluster) or is_wide(parts[-1])):
            parts.append("")
        parts[-1] += cluster
    return parts


def is_wide(text: str) -> bool:
    """Whether the first character is wide, as Chinese, Japanese and Korean ones are."""
    return unicodedata.east_asian_width(text[0]) in "WF"


def break_word(word: str, measure: Callable[[str], float], width: float) -> list[str]:
    """A word in lines: whole if it fits, else broken after marks such as slashes, else anywhere."""
    lines = [""]
    for part in [word] if measure(word) <= width else BREAKS.split(word):
        if measure(lines[-1] + part) <= width:
            lines[-1] += part
        elif measure(part) <= width:
            lines.append(part)
        else:
            for cluster in grapheme_clusters(part):
                if not lines[-1] or measure(lines[-1] + cluster) <= width:
                    lines[-1] += cluster
                else:
                    lines.append(cluster)
    return lines


def end_with_ellipsis(line: str, size: int, width: float) -> str:
    """A line cut off with an ellipsis, at most `width` pixels wide in either font."""
    clusters = grapheme_clusters(line)
    fonts_are_plain = {is_plain(line), False}
    while clusters:
        shortened = f"{''.join(clusters)} …"
        if max(measure_line(shortened, size, plain) for plain in fonts_are_plain) <= width:
            break
        clusters.pop()
    return f"{''.join(clusters)} …".strip()


def is_plain(text: str) -> bool:
    """Whether Pillow's own font has all of a text, which may have several lines.

    All lines of a text are drawn in the same way.
    """
    return bool(PLAIN.fullmatch(text.replace("\n", "")))


# Drawing


@cache
def plain_face(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font."""
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # as Pillow's wheels have FreeType
    return font


@cache
def face_of(font: str, size: int) -> tuple[ImageFont.FreeTypeFont, float]:
    """A font and the factor by which its glyphs must be scaled to `size`.

    The factor is 1 except for bitmap emoji fonts, which have a single size.
    """
    colour = colour_font() if "emoji" in font.lower() or "seguiemj" in font.lower() else None
    native = colour[1] if colour and colour[0] == font else size
    return ImageFont.truetype(font, native), size / native


def shape_run(run: GlyphRun) -> tuple[str, dict]:
    """A run's text as Pillow draws it, and Pillow's options for direction and language.

    Without Raqm there are no options, and text from right to left is reversed.
    """
    if features.check("raqm"):
        direction = "rtl" if run.right_to_left else "ltr"
        return run.text, {"direction": direction, "language": han_language(run.text)}
    return "".join(reversed(grapheme_clusters(run.text))) if run.right_to_left else run.text, {}


def han_language(text: str) -> str | None:
    """The language whose forms Chinese characters take.

    Japanese if the text has kana, Korean if it has hangul, else Chinese; None for other text.
    """
    if any("\u3040" <= character <= "\u30ff" for character in text):
        return "ja"
    if any("\uac00" <= character <= "\ud7a3" for character in text):
        return "ko"
    return "zh-Hans" if any("\u3400" <= character <= "\u9fff" for character in text) else None


@lru_cache(maxsize=8192)
def measure_line(line: str, size: int, plain: bool) -> float:
    """The width in pixels of a line of a prepared text; plain: whether the text `is_plain`."""
    if plain:
        return plain_face(size).getlength(line)
    return sum(run_length(run, size) for run in split_runs(line))


def text_width(text: str, size: int) -> float:
    """The width in pixels of the longest line of a text from `wrap_text`."""
    return max(measure_line(line, size, is_plain(text)) for line in text.split("\n"))


def run_length(run: GlyphRun, size: int) -> float:
    """The width of a run, in pixels."""
    face, scale = face_of(run.font, size)
    text, options = shape_run(run)
    return face.getlength(text, **options) * scale


def draw_text(
    page: Image.Image,
    place: tuple[float, float],
    text: str,
    size: int,
    ink: tuple[int, int, int],
    anchor: str = "la",
    spacing: int = 4,
) -> None:
    """Draw the lines of a text from `wrap_text` on an RGB page.

    Args:
        page: the image to draw on.
        place: (x, y) of the anchor.
        text: the text, prepared by `wrap_text`.
        size: of the letters, in pixels.
        ink: the colour.
        anchor: l, m or r (left, middle, right), then a, m or d (top, middle, bottom), of all lines
            together.
        spacing: additional pixels between lines.
    """
    face = plain_face(size)
    if is_plain(text):
        align = {"l": "left", "m": "center", "r": "right"}[anchor[0]]
        ImageDraw.Draw(page).multiline_text(
            place, text, ink, face, anchor=anchor, align=align, spacing=spacing
        )
        return
    lines = text.split("\n")
    step = face.getbbox("A")[3] + spacing
    ascent, descent = face.getmetrics()
    above = {"a": ascent, "m": (ascent - descent) / 2, "d": -descent}[anchor[1]]
    top = place[1] + above - {"a": 0, "m": 0.5, "d": 1}[anchor[1]] * (len(lines) - 1) * step
    for number, line in enumerate(lines):
        left = place[0] - {"l": 0, "m": 0.5, "r": 1}[anchor[0]] * measure_line(line, size, False)
        for run in split_runs(line):
            draw_run(page, (left, top + number * step), run, size, ink)
            left += run_length(run, size)


def draw_run(
    page: Image.Image, place: tuple[float, float], run: GlyphRun, size: int, ink: tuple[int, int, int]
) -> None:
    """Draw a run whose baseline starts at `place`."""
    face, scale = face_of(run.font, size)
    text, options = shape_run(run)
    draw_options = {"anchor": "ls", "embedded_color": True, **options}
    if scale == 1:
        ImageDraw.Draw(page).text(place, text, ink, face, **draw_options)
        return
    left, top, right, bottom = face.getbbox(text, anchor="ls", **options)
    large = Image.new("RGBA", (max(1, int(right - left)), max(1, int(bottom - top))))
    ImageDraw.Draw(large).text((-left, -top), text, ink, face, **draw_options)
    size_on_page = [max(1, round(side * scale)) for side in large.size]
    small = large.resize(size_on_page, Image.Resampling.LANCZOS)
    page.paste(small, (round(place[0] + left * scale), round(place[1] + top * scale)), small)
