"""Grammar of captions: "a line drawing of a skull in grey on a blue background".

    text = [lead] [a] [manner] thing [words]        or        thing, words

A caption is a thing, and words for how it is shown. The same words are used to write captions and
to parse prompts, so that an unknown thing in a prompt can be replaced by a known one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from random import Random
from typing import NamedTuple

PLAIN, LINES, SOFT = range(3)
LEADS = {
    PLAIN: ("a picture of", "a drawing of", "an icon of", "a pictogram of", "a photo of",
            "a painting of"),
    LINES: ("a line drawing of", "an outline of", "a pencil sketch of", "a lithograph of"),
    SOFT: ("a soft picture of", "a blurred picture of", "an oil painting of"),
}  # fmt: skip
STYLE_WORDS = {
    PLAIN: (),
    LINES: ("line drawing", "outlined", "lithograph"),
    SOFT: ("soft", "blurred"),
}
GREYS = ("grey", "gray", "in grey", "in gray", "black and white")
GROUNDS = {
    "white": (1.0, 1.0, 1.0), "black": (0.04, 0.04, 0.04), "grey": (0.55, 0.55, 0.55),
    "red": (0.85, 0.13, 0.13), "orange": (0.96, 0.55, 0.13), "yellow": (0.98, 0.86, 0.25),
    "green": (0.2, 0.65, 0.28), "teal": (0.1, 0.6, 0.6), "light blue": (0.62, 0.82, 0.97),
    "blue": (0.16, 0.37, 0.85), "purple": (0.5, 0.25, 0.7), "pink": (0.97, 0.62, 0.75),
    "brown": (0.45, 0.29, 0.17), "beige": (0.93, 0.87, 0.74),
}  # fmt: skip
FREQUENT_TEMPLATES = ("a line drawing of {}", "{} in grey")  # their embeddings ship, 6 kB each
COLOURS = tuple(GROUNDS)
ANY = len(COLOURS)  # a background that the caption does not mention


class Scene(NamedTuple):
    """How a thing is shown.

    Attributes:
        style: PLAIN, LINES or SOFT.
        grey: whether it is shown in grey.
        ground: index in COLOURS of the background, or ANY.
    """

    style: int = PLAIN
    grey: bool = False
    ground: int = ANY


def with_article(thing: str) -> str:
    """The thing with an indefinite article, by a heuristic; none for a plural or if it has one."""
    words = re.findall(r"[\w’']+", thing)
    if not words or words[0] in {"a", "an", "the"}:
        return thing
    if re.search(r"(?<![su’'i])s$", words[-1]) and not words[-1].endswith("glass"):  # a plural
        return thing
    has_vowel = words[0][0] in "aeiou" and not re.match("uni|eu|one|use", words[0])
    return f"{'an' if has_vowel else 'a'} {thing}"


def random_caption(thing: str, random: Random) -> tuple[str, Scene]:
    """A random scene, and a random caption of the thing in it."""
    style = random.choices((PLAIN, LINES, SOFT), (70, 15, 15))[0]
    grey = random.random() < 0.15
    ground = random.randrange(ANY) if random.random() < 0.4 else ANY
    scene = Scene(style, grey, ground)
    return phrase(thing, scene, random), scene


def phrase(thing: str, scene: Scene, random: Random) -> str:
    """A random caption of the thing in this scene, as a list of words or as prose."""
    colour = behind = lead = ""
    if scene.ground != ANY:
        spelling = random.choice(("grey", "gray"))  # drawn for every colour
        colour = COLOURS[scene.ground].replace("grey", spelling)
    is_list = random.random() < 0.3
    if colour:
        background = f"{colour} background"
        in_prose = f"on {with_article(background)}"
        behind = random.choice((f"on {colour}", background if is_list else in_prose))
    if not is_list and (scene.style != PLAIN or random.random() >= 0.5):
        lead = random.choice(LEADS[scene.style])
    manner = [] if lead or scene.style == PLAIN else [random.choice(STYLE_WORDS[scene.style])]
    manner += [random.choice(GREYS)] if scene.grey else []
    if is_list:
        return ", ".join(part for part in (thing, *manner, behind) if part)
    before = [word for word in manner if not word.startswith("in ")]
    after = [word for word in manner if word.startswith("in ")]
    noun = with_article(" ".join([*before, thing]))
    return " ".join(part for part in (lead, noun, *after, behind) if part)


def usual_phrase(thing: str) -> str:
    """The usual caption of a thing alone: with its article."""
    return with_article(thing)


COLOURED = "|".join(["gray", *sorted(COLOURS, key=len, reverse=True)])
MANNER_WORDS = {word for words in (*STYLE_WORDS.values(), GREYS) for word in words}
MANNERS = "|".join(sorted(MANNER_WORDS, key=len, reverse=True))
KINDS = (
    "picture|photo|photograph|image|drawing|painting|icon|pictogram|emoji|sketch|outline|"
    "lithograph|watercolou?r|illustration|cartoon|rendering|engraving|sculpture|logo|symbol"
)
CAPTION_PATTERN = re.compile(
    rf"(?P<lead>(?:(?:an? |the )?(?:[\w-]+ ){{0,3}}?(?:{KINDS}) of )?)"
    rf"(?:(?:an?|the|some|my|one) )?(?P<manner>(?:(?:{MANNERS}) )*)(?P<thing>.+?)"
    rf"(?P<words>(?:,? (?:{MANNERS}|on (?:an? )?(?:{COLOURED})(?: background)?|"
    rf"(?:{COLOURED}) background))*)"
)


class Parts(NamedTuple):
    """The parts of a caption, as in the module's grammar."""

    lead: str
    manner: str
    thing: str
    words: str

    def of(self, thing: str) -> str:
        """The caption with another thing in place of this one."""
        return f"{self.lead}{with_article(self.manner + thing)}{self.words}"


def normalize_text(text: str) -> str:
    """The text in lower case, with single spaces, ' for ’, and no " .!" at its ends."""
    return re.sub(r"\s+", " ", str(text)).strip(" .!").lower().replace("’", "'")


def parse_caption(text: str, known: Iterable[str] = ()) -> Parts:
    """Split a caption into its parts.

    Args:
        text: the caption, as `normalize_text` returns it, not empty.
        known: things that are not split further, although they begin with a manner.
    """
    match = CAPTION_PATTERN.fullmatch(text)
    assert match is not None, text  # it matches every text that is not empty
    parts = Parts(**match.groupdict())
    whole = parts.manner + parts.thing
    if parts.manner and whole in known:
        return Parts(parts.lead, "", whole, parts.words)
    return parts
