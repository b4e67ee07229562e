"""How a thing is asked for: "a line drawing of a skull in grey on a blue background" is a thing, and words for how it is shown.

    text = [lead] [a] [manner] thing [words]        or        thing, words

A text is taken apart again with the same words, so that an unknown thing in it can be replaced by a known one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from random import Random
from typing import NamedTuple

PLAIN, LINES, SOFT = range(3)
LEADS = {
    PLAIN: ("a picture of", "a drawing of", "an icon of", "a pictogram of", "a photo of", "a painting of"),
    LINES: ("a line drawing of", "an outline of", "a pencil sketch of", "a lithograph of"),
    SOFT: ("a soft picture of", "a blurred picture of", "an oil painting of"),
}
WORDS = {PLAIN: (), LINES: ("line drawing", "outlined", "lithograph"), SOFT: ("soft", "blurred")}
GREYS = ("grey", "gray", "in grey", "in gray", "black and white")
GROUNDS = {
    "white": (1.0, 1.0, 1.0), "black": (0.04, 0.04, 0.04), "grey": (0.55, 0.55, 0.55), "red": (0.85, 0.13, 0.13),
    "orange": (0.96, 0.55, 0.13), "yellow": (0.98, 0.86, 0.25), "green": (0.2, 0.65, 0.28), "teal": (0.1, 0.6, 0.6),
    "light blue": (0.62, 0.82, 0.97), "blue": (0.16, 0.37, 0.85), "purple": (0.5, 0.25, 0.7), "pink": (0.97, 0.62, 0.75),
    "brown": (0.45, 0.29, 0.17), "beige": (0.93, 0.87, 0.74),
}  # fmt: skip
OFTEN = ("a line drawing of {}", "{} in grey")  # whose embeddings ship, 6 kB each
COLOURS = tuple(GROUNDS)
ANY = len(COLOURS)  # a background of which nothing is said
NULL = ""


class Scene(NamedTuple):
    """How a thing is shown: one of PLAIN, LINES, SOFT; whether in grey; which of COLOURS is behind it, or ANY."""

    style: int = PLAIN
    grey: bool = False
    ground: int = ANY


def with_article(thing: str) -> str:
    """A thing with the article that most people give it: none where it is several, or has one."""
    first, last = re.findall(r"[\w’']+", thing)[:1], re.findall(r"[\w’']+", thing)[-1:]
    several = last and re.search(r"(?<![su’'i])s$", last[0]) and not last[0].endswith("glass")
    if not first or several or first[0] in {"a", "an", "the"}:
        return thing
    return f"{'an' if first[0][0] in 'aeiou' and not re.match('uni|eu|one|use', first[0]) else 'a'} {thing}"


def random_caption(thing: str, random: Random) -> tuple[str, Scene]:
    """A thing as somebody may ask for it, and how it is to be shown."""
    style = random.choices((PLAIN, LINES, SOFT), (70, 15, 15))[0]
    grey, ground = random.random() < 0.15, random.randrange(ANY) if random.random() < 0.4 else ANY
    return phrase(thing, Scene(style, grey, ground), random), Scene(style, grey, ground)


def phrase(thing: str, scene: Scene, random: Random) -> str:
    """In one of many ways, as a list of words or as prose."""
    colour = (
        "" if scene.ground == ANY else COLOURS[scene.ground].replace("grey", random.choice(("grey", "gray")))
    )
    listed = random.random() < 0.3
    ground = f"{colour} background"
    behind = (
        random.choice((f"on {colour}", ground if listed else f"on {with_article(ground)}")) if colour else ""
    )
    lead = (
        ""
        if listed or (scene.style == PLAIN and random.random() < 0.5)
        else random.choice(LEADS[scene.style])
    )
    manner = [] if lead or scene.style == PLAIN else [random.choice(WORDS[scene.style])]
    manner += [random.choice(GREYS)] if scene.grey else []
    if listed:
        return ", ".join(part for part in (thing, *manner, behind) if part)
    before = [word for word in manner if not word.startswith("in ")]
    after = [word for word in manner if word.startswith("in ")]
    return " ".join(part for part in (lead, with_article(" ".join([*before, thing])), *after, behind) if part)


def usual_phrase(thing: str) -> str:
    """The phrase that stands for a thing alone."""
    return with_article(thing)


COLOURED = "|".join(["gray", *sorted(COLOURS, key=len, reverse=True)])
MANNERS = "|".join(
    sorted({word for words in (*WORDS.values(), GREYS) for word in words}, key=len, reverse=True)
)
KINDS = (
    "picture|photo|photograph|image|drawing|painting|icon|pictogram|emoji|sketch|outline|lithograph|watercolou?r|illustration|cartoon|"
    "rendering|engraving|sculpture|logo|symbol"
)
WHOLE = re.compile(
    rf"(?P<lead>(?:(?:an? |the )?(?:[\w-]+ ){{0,3}}?(?:{KINDS}) of )?)(?:(?:an?|the|some|my|one) )?(?P<manner>(?:(?:{MANNERS}) )*)"
    rf"(?P<thing>.+?)(?P<words>(?:,? (?:{MANNERS}|on (?:an? )?(?:{COLOURED})(?: background)?|(?:{COLOURED}) background))*)"
)


class Parts(NamedTuple):
    lead: str
    manner: str
    thing: str
    words: str

    def of(self, thing: str) -> str:
        """The same said of another thing."""
        return f"{self.lead}{with_article(self.manner + thing)}{self.words}"


def normalize_text(text: str) -> str:
    """What texts that mean the same have in common: lower case, single spaces, no full stop."""
    return re.sub(r"\s+", " ", str(text)).strip(" .!").lower().replace("’", "'")


def parse_caption(text: str, known: Iterable[str] = ()) -> Parts:
    """A text, `normalize_text` and not empty, as its parts; what is in `known` is a thing as a whole."""
    parts = Parts(**WHOLE.fullmatch(text).groupdict())
    longer = parts.manner + parts.thing
    return Parts(parts.lead, "", longer, parts.words) if parts.manner and longer in known else parts
