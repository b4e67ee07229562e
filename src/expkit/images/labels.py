"""Labels: the text of a value, wherever it is shown. Sheets, pages, charts, TensorBoard and W&B all take it from here.

A label says one thing: texts that could be read as a number, as null or as nothing are quoted, and values of one axis never have one label.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import zip_longest

LONGEST = 60  # characters of a label of a row, a column or a page
WHOLE = 240  # characters of a label that is broken into lines
EMPTY = "(empty)"
NOT_WORDS = re.compile(
    r"null|~|true|false|[-+]?(inf|nan|\.inf|\.nan)|[-+]?([0-9][0-9_]*\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?",
    re.IGNORECASE,
)
NAMED = {"\n": "⏎", "\t": "⇥"}
INVISIBLE = (
    "Cc",
    "Cf",
    "Cs",
    "Co",
    "Zl",
    "Zp",
)  # categories of Unicode that draw nothing, or nothing that everybody knows
JOINERS = "\u200c\u200d"  # which choose the shape of their neighbours
TAGS = range(0xE0020, 0xE0080)  # which make flags of regions


def format_label(value) -> str:
    """The text of a value of any type: words as they are, and whatever could be taken for something else quoted as in JSON."""
    if isinstance(value, str):
        words = not NOT_WORDS.fullmatch(value) and value != EMPTY and value == " ".join(value.split())
        return (
            EMPTY
            if not value
            else mark_invisible(value)
            if words or "\n" in value.strip()
            else quote_value(value)
        )
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(format_label, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {format_label(item)}' for key, item in value.items())}}}"
    return (
        {None: "null", True: "true", False: "false"}[value]
        if value is None or isinstance(value, bool)
        else str(value)
    )


def axis_labels(values: Sequence) -> list[str]:
    """The labels of the values of one axis: of values that differ, no two look alike."""
    found = [format_label(value) for value in values]
    alike = Counter(
        look
        for look, _ in {(look_of(text), key_of(value)) for text, value in zip(found, values, strict=True)}
    )
    return [
        quote_value(value, True) if alike[look_of(text)] > 1 else text
        for text, value in zip(found, values, strict=True)
    ]


def quote_value(value, ascii_only: bool = False) -> str:
    """A value as JSON, words between quotes; spaces are marked where they could be overlooked."""
    said = mark_invisible(json.dumps(value, ensure_ascii=ascii_only, default=str))
    return re.sub(r"(?<![^ \"]) | (?![^ \"])", "␣", said) if isinstance(value, str) else said


def key_of(value) -> str:
    """Equal for equal values: 1, 1.0, "1" and true differ."""
    return f"{type(value).__name__} {value!r}"


def look_of(text: str) -> str:
    """What a person sees of a text: composed letters, all spaces alike."""
    return " ".join(unicodedata.normalize("NFC", mark_invisible(text)).split())


@lru_cache(maxsize=4096)
def mark_invisible(text: str) -> str:
    """The text with marks for what cannot be seen: line ends, tabs, control characters, marks of direction."""
    return (
        text
        if text.isascii() and text.isprintable()
        else "".join(map(_visible, unicodedata.normalize("NFC", text)))
    )


def _visible(character: str) -> str:
    if character in NAMED:
        return NAMED[character]
    hidden = (
        unicodedata.category(character) in INVISIBLE
        and character not in JOINERS
        and ord(character) not in TAGS
    )
    return character_name(character) if hidden else character


def character_name(character: str) -> str:
    """The name of a character that cannot be drawn: ⟨dog face⟩, or where it has none or a long one, ⟨U+732B⟩."""
    name = unicodedata.name(character, "").lower()
    return (
        f"⟨{name}⟩"
        if name and len(name) <= 24 and not name.endswith(f"-{ord(character):x}")
        else f"⟨U+{ord(character):04X}⟩"
    )


def grapheme_clusters(text: str) -> list[str]:
    """What a reader takes for single characters: letters with their marks, joined emoji, flags."""
    if text.isascii():
        return [*text]
    import regex

    return regex.findall(r"\X", text)


def shorten_texts(texts: Sequence[str], most: int = LONGEST) -> list[str]:
    """Texts of at most `most` characters; those that differ still do: what is cut out of the middle is what they have in common."""
    short = {text: cut_middle(text, 0, most) for text in dict.fromkeys(texts)}
    for apart in (_around_the_difference, _numbered):
        if len({look_of(one) for one in short.values()}) < len(short):
            short = apart(short, most)
    return [short[text] for text in texts]


def cut_middle(text: str, start: int, most: int) -> str:
    """A beginning, and what begins at a place further on; the end of the text where that is all."""
    if len(text) <= most:
        return text
    parts = grapheme_clusters(text)
    if len(parts) <= most:
        return text
    head = most // 3
    if start <= most - 2:
        return f"{''.join(parts[: most - 1]).rstrip()}…"
    rest, start = most - head - 2, max(head, start - most // 6)
    if start + rest >= len(parts) - 1:
        return f"{''.join(parts[:head]).rstrip()}…{''.join(parts[-rest - 1 :])}"
    return f"{''.join(parts[:head]).rstrip()}…{''.join(parts[start : start + rest])}…"


def _around_the_difference(short: dict[str, str], most: int) -> dict[str, str]:
    """The texts that look alike, cut around where they first differ; those that still look alike, around where these do."""
    made, groups = dict(short), _alike(short)
    while groups:
        group = groups.pop()
        start = next(
            place
            for place, found in enumerate(zip_longest(*map(grapheme_clusters, group)))
            if len(set(found)) > 1
        )
        cuts = {text: cut_middle(text, start, most) for text in group}
        made |= cuts
        groups += [part for part in _alike(cuts) if len(part) < len(group)]
    return made


def _numbered(short: dict[str, str], most: int) -> dict[str, str]:
    """Those that look alike, with a mark made of the whole text."""
    marked = {
        text: f"{cut_middle(one, 0, most - 9)} #{text_digest(text)}"
        for group in _alike(short)
        for text, one in ((t, short[t]) for t in group)
    }
    return short | marked


def _alike(short: dict[str, str]) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for text, one in short.items():
        groups.setdefault(look_of(one), []).append(text)
    return [group for group in groups.values() if len(group) > 1]


def file_name(text: str, most: int) -> str:
    """A text as a name of at most `most` characters, which differs where the texts do, known or not."""
    return text if len(text) <= most else f"{cut_middle(text, 0, most - 9)} #{text_digest(text)}"


def text_digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=3).hexdigest()
