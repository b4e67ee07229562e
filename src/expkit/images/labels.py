"""Labels: the text of a value for sheets, web pages, charts, TensorBoard and W&B.

A label is unambiguous: texts that could be read as a number, as null or as empty are quoted, and
different values of one axis never have the same label.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import zip_longest

from expkit.storage.files import short_hash

MAX_LABEL = 60  # characters of a label of a row, a column or a page
MAX_WRAPPED_LABEL = 240  # characters of a label that is broken into lines
EMPTY = "(empty)"
NOT_WORDS = re.compile(
    r"null|~|true|false|[-+]?(inf|nan|\.inf|\.nan)|"
    r"[-+]?([0-9][0-9_]*\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?",
    re.IGNORECASE,
)
NAMED = {"\n": "⏎", "\t": "⇥"}
# Unicode categories that draw nothing, or nothing that all readers recognize
INVISIBLE = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
JOINERS = "\u200c\u200d"  # they select the shape of their neighbours
TAGS = range(0xE0020, 0xE0080)  # they form the flags of regions


def format_label(value) -> str:
    """The text of a value of any type; texts that look like another value are quoted as in JSON."""
    if isinstance(value, str):
        if not value:
            return EMPTY
        ambiguous = NOT_WORDS.fullmatch(value) or value == EMPTY
        single_spaced = value == " ".join(value.split())
        if (single_spaced and not ambiguous) or "\n" in value.strip():
            return mark_invisible(value)
        return quote_value(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(format_label, value))}]"
    if isinstance(value, dict):
        items = ", ".join(f"{key}: {format_label(item)}" for key, item in value.items())
        return f"{{{items}}}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def axis_labels(values: Sequence) -> list[str]:
    """The labels of the values of one axis: those of different values always look different."""
    labels = [format_label(value) for value in values]
    looks = [look_of(label) for label in labels]
    distinct_values = set(zip(looks, map(key_of, values), strict=True))
    counts = Counter(look for look, _ in distinct_values)
    return [
        quote_value(value, True) if counts[look] > 1 else label
        for label, look, value in zip(labels, looks, values, strict=True)
    ]


def quote_value(value, ascii_only: bool = False) -> str:
    """A value as JSON. In quoted text, spaces that are easily overlooked are marked."""
    text = mark_invisible(json.dumps(value, ensure_ascii=ascii_only, default=str))
    return re.sub(r"(?<![^ \"]) | (?![^ \"])", "␣", text) if isinstance(value, str) else text


def key_of(value) -> str:
    """A key that is equal for equal values of one type: those of 1, 1.0, "1" and true differ."""
    return f"{type(value).__name__} {value!r}"


def look_of(text: str) -> str:
    """A text as it looks to a reader: letters composed, all white space equal."""
    return " ".join(unicodedata.normalize("NFC", mark_invisible(text)).split())


@lru_cache(maxsize=4096)
def mark_invisible(text: str) -> str:
    """The text with marks for invisible characters: line ends, tabs, controls, direction marks."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_mark_character, unicodedata.normalize("NFC", text)))


def _mark_character(character: str) -> str:
    if character in NAMED:
        return NAMED[character]
    hidden = (
        unicodedata.category(character) in INVISIBLE
        and character not in JOINERS
        and ord(character) not in TAGS
    )
    return character_name(character) if hidden else character


def character_name(character: str) -> str:
    """The name of a character that cannot be drawn: ⟨dog face⟩; without a short name, ⟨U+732B⟩."""
    name = unicodedata.name(character, "").lower()
    if name and len(name) <= 24 and not name.endswith(f"-{ord(character):x}"):
        return f"⟨{name}⟩"
    return f"⟨U+{ord(character):04X}⟩"


def grapheme_clusters(text: str) -> list[str]:
    """The characters as a reader counts them: letters with their marks, joined emoji, flags."""
    if text.isascii():
        return [*text]
    import regex

    return regex.findall(r"\X", text)


def shorten_texts(texts: Sequence[str], most: int = MAX_LABEL) -> list[str]:
    """Texts cut to at most `most` characters; different texts stay different.

    What is cut out of their middle is what they have in common.
    """
    short = {text: cut_middle(text, 0, most) for text in dict.fromkeys(texts)}
    for separate in (_cut_at_difference, _append_digests):
        if len({look_of(label) for label in short.values()}) < len(short):
            short = separate(short, most)
    return [short[text] for text in texts]


def cut_middle(text: str, start: int, most: int) -> str:
    """A text cut to `most` characters: its beginning and the part around index `start`.

    If `start` lies in the beginning, only the beginning remains. If the part reaches the end of the
    text, it is extended to the end.
    """
    if len(text) <= most:
        return text
    clusters = grapheme_clusters(text)
    if len(clusters) <= most:
        return text
    head = most // 3
    if start <= most - 2:
        return f"{''.join(clusters[: most - 1]).rstrip()}…"
    rest = most - head - 2
    start = max(head, start - most // 6)
    beginning = "".join(clusters[:head]).rstrip()
    if start + rest >= len(clusters) - 1:
        return f"{beginning}…{''.join(clusters[-rest - 1 :])}"
    return f"{beginning}…{''.join(clusters[start : start + rest])}…"


def _cut_at_difference(short: dict[str, str], most: int) -> dict[str, str]:
    """Cut texts that look alike around their first difference; repeat for those that still do."""
    result = dict(short)
    groups = _group_alike(short)
    while groups:
        group = groups.pop()
        columns = zip_longest(*map(grapheme_clusters, group))
        start = next(index for index, column in enumerate(columns) if len(set(column)) > 1)
        cuts = {text: cut_middle(text, start, most) for text in group}
        result |= cuts
        groups += [subgroup for subgroup in _group_alike(cuts) if len(subgroup) < len(group)]
    return result


def _append_digests(short: dict[str, str], most: int) -> dict[str, str]:
    """Append a digest of the whole text to texts that look alike."""
    with_digests = {
        text: f"{cut_middle(short[text], 0, most - 9)} #{text_digest(text)}"
        for group in _group_alike(short)
        for text in group
    }
    return short | with_digests


def _group_alike(short: dict[str, str]) -> list[list[str]]:
    """The groups of two or more texts whose shortened forms look alike."""
    groups: dict[str, list[str]] = {}
    for text, label in short.items():
        groups.setdefault(look_of(label), []).append(text)
    return [group for group in groups.values() if len(group) > 1]


def file_name(text: str, most: int) -> str:
    """A text as a name of at most `most` characters; a digest keeps cut names different."""
    return text if len(text) <= most else f"{cut_middle(text, 0, most - 9)} #{text_digest(text)}"


def text_digest(text: str) -> str:
    """Six hexadecimal digits of the text's BLAKE2b hash."""
    return short_hash(text.encode("utf-8", "surrogatepass"), size=3)
