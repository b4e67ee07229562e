"""Colour pictograms with names: the glyphs of a colour font, drawn into memory.

A concept is one glyph, its name and what else people call it (from the package emoji). Skin tones, flags, keycaps and those that only say
whether a man or a woman does it are left out. Neither the font nor what is drawn from it is a part of expkit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from expkit.data.labelled_pictures import Pictures
from expkit.errors import UserError, suggest
from expkit.storage.inputs import FONT

NATIVE, CANVAS = (
    109,
    136,
)  # pixels: the size of the font's only strike, and the square that holds any of its glyphs
OVER = 2  # glyphs are kept so many times as large as pictures are, so that turning and shrinking do not blur them

FIRST = (
    """
skull|rocket|old man|dog|cat|fire|mountain|pencil|house|castle|fish|red apple|sunflower|automobile|guitar|elephant|butterfly|crown|top hat
cook|tokyo tower|houses|snow-capped mountain|grinning face|crying face|ghost|robot|alien|astronaut|princess|santa claus|christmas tree
jack-o-lantern|clown face|mage|moai|statue of liberty|desert island|teddy bear|police officer|person|woman|man|baby|old woman
deciduous tree|evergreen tree|palm tree|cactus|mushroom|rose|tulip|four leaf clover|maple leaf|sun|crescent moon|star|cloud|rainbow
snowflake|snowman|umbrella|water wave|volcano|sailboat|airplane|bicycle|bus|locomotive|helicopter|police car|fire engine|tractor|ship
anchor|tent|camping|bridge at night|church|factory|stadium|fountain|ferris wheel|lion|tiger face|bear|panda|koala|fox|wolf|monkey face
pig face|cow face|horse|rabbit face|mouse face|frog|chicken|penguin|owl|eagle|duck|parrot|swan|turtle|snake|crocodile|shark|whale|dolphin
octopus|crab|lobster|snail|spider|honeybee|lady beetle|ant|scorpion|t-rex|dragon face|unicorn|camel|giraffe|zebra|kangaroo|gorilla
hedgehog|bat|squid|tropical fish|banana|grapes|watermelon|strawberry|cherries|lemon|pineapple|peach|pear|tomato|carrot|ear of corn
eggplant|avocado|broccoli|bread|cheese wedge|hamburger|pizza|hot dog|taco|egg|cookie|doughnut|birthday cake|ice cream|lollipop|candy
hot beverage|wine glass|beer mug|teapot|fork and knife|kitchen knife|key|locked|hammer|axe|wrench|screwdriver|scissors|paintbrush|crayon
book|open book|closed book|newspaper|envelope|package|wrapped gift|balloon|soccer ball|basketball|baseball|tennis|trophy|violin|trumpet
drum|saxophone|microphone|musical keyboard|camera|television|laptop|telephone|mobile phone|light bulb|candle|alarm clock|watch
hourglass done|glasses|sunglasses|eye|ear|nose|mouth|foot|brain|heart|bone|red heart|hand|raised hand|thumbs up|waving hand|clapping hands
angry face|smiling face with sunglasses|sleeping face|pile of poo|vampire|fairy|genie|zombie|ninja|detective|firefighter|artist|farmer
judge|pilot|scientist|guard|prince|dress|t-shirt|jeans|shoe|running shoe|high-heeled shoe|backpack|handbag|ring|gem stone|money bag|coin
magnet|telescope|microscope|bed|chair|door|toilet|bathtub|broom|basket|balance scale|bell|trident emblem|globe showing americas|mount fuji
tornado|comet|delivery truck|taxi|ambulance|motorcycle|racing car|flying saucer|speedboat|dagger|shield|bomb|crystal ball|spider web
troll|elf|superhero|girl|boy|person with crown|rooster|pig|cow|ewe|rabbit|mouse|tiger|leopard|monkey|deer|rhinoceros|hippopotamus
flamingo|peacock|baby chick|dove|jellyfish|raccoon|green apple|coconut|croissant|pretzel|pancakes|popcorn|french fries|cupcake
hot pepper|cherry blossom|bouquet|potted plant|feather|kite|socks|ringed planet|classical building|sunset|sandwich|goat|ladder
""".strip()
    .replace("\n", "|")
    .split("|")
)  # fmt: skip  the most familiar, which small trainings begin with

ALSO = {  # what people say and the package does not
    "jack-o-lantern": "pumpkin halloween-pumpkin", "old man": "grandpa grandfather", "old woman": "grandma grandmother",
    "dog face": "puppy doggy", "cat face": "kitten kitty", "rocket": "spaceship space-rocket", "cook": "chef barista",
    "camping": "campsite campfire-by-a-tent", "fire": "campfire flame flames", "water wave": "ocean-wave", "fountain": "waterfall",
    "skull and crossbones": "pirate-skull", "grinning face": "smiley happy-face", "crying face": "sad-face", "mage": "wizard",
    "automobile": "car", "airplane": "plane jet", "lady beetle": "ladybug ladybird", "honeybee": "bee", "sauropod": "dinosaur",
    "musical keyboard": "piano", "mantelpiece clock": "clock", "deciduous tree": "tree", "doughnut": "donut", "wrapped gift": "present",
    "person with crown": "king-or-queen", "princess": "queen", "prince": "king", "crossed swords": "swords", "dagger": "sword",
    "snow-capped mountain": "snowy-mountain", "mountain": "mountains hill", "couch and lamp": "sofa couch", "cup with straw": "soda",
    "hot beverage": "cup-of-coffee cup-of-tea", "spiral shell": "sea-shell", "evergreen tree": "fir-tree pine-tree", "houses": "village",
    "wheel": "tyre", "mobile phone": "cell-phone smartphone", "rabbit face": "bunny", "delivery truck": "truck lorry", "blossom": "flower",
}  # fmt: skip
UNSAID = {
    "no good",
    "sob",
    "mate",
    "free",
    "soon",
    "on",
    "end",
    "back",
    "top",
    "up",
    "imp",
}  # aliases that say too little
SKIN, ZWJ, PLAIN_TEXT, KEYCAP = set(range(0x1F3FB, 0x1F400)), "\u200d", "\ufe0f", "\u20e3"
LEFT_OUT = re.compile(
    r"(?:wo)?m[ae]n (?!in suit|dancing|and)\w|family|couple|kiss .*man|people holding hands|mer(?:maid|man)|pregnant (?:wo)?man|"
    r".*facing right|deaf (?:wo)?man|zzz|"
    r"japanese .*button|.*(?:medium|small) (?:small )?square|.*medium-small square|person (?:bald|red hair|curly hair|white hair)|"
    r".*flag|keycap|input|.*symbol for beginner|(?:wo)?men.s (?:holding|with)|.*prohibited button"
)
SIDED = re.compile(
    r"\b(?:arrow|arrows|button|o'clock|thirty|clock|watch|stopwatch|left|right|leftwards|rightwards|tilted|sign|symbol|mark|calendar|"
    r"dollar|yen|euro|pound|banknote|banknotes|musical|map|globe|points|medal|circled|chart|ballot|hotel|hospital|bank|cinema|post office|"
    r"store|police|taxi|aries|taurus|gemini|cancer|leo|virgo|libra|scorpio|sagittarius|capricorn|aquarius|pisces|ophiuchus|om|zzz|dvd|"
    r"waxing|waning|quarter moon|copyright|registered|exclamation|card|dice|die|pager|receipt|newspaper|keyboard|currency|alternation|"
    r"vs|pool|closet|no one|repeat|barber|stop|x-ray|menorah|joker|mahjong|e-mail|bow and arrow|input|love hotel|tear-off|khanda)\b"
)


@dataclass(frozen=True)
class Concept:
    """One glyph. name and others: what it is called, in lower case."""

    sign: str
    name: str
    others: tuple[str, ...] = ()

    @property
    def mirrors(self) -> bool:
        """Whether its mirror image means the same: not of arrows, letters and clocks."""
        return not SIDED.search(self.name.replace("-", " "))


@dataclass(frozen=True, eq=False)
class Pictograms(Pictures):
    """images: uint8 (K, 4, 2·size, 2·size), a glyph each, its colours multiplied by its opacity; labels: (N,), whose glyph a row shows.

    What a row looks like in a picture, its background and its caption, is drawn when it is shown: see `expkit.data.captioned_scenes`.
    """

    concepts: tuple[Concept, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        return 3, self.images.shape[-2] // OVER, self.images.shape[-1] // OVER

    @property
    def mirrors(self) -> Tensor:
        """(K,), whether each may be mirrored."""
        return torch.tensor([concept.mirrors for concept in self.concepts])

    def only(self, rows: Tensor | slice) -> Pictograms:
        return Pictograms(self.images, self.labels[rows], self.names, self.concepts)

    def shown(self, rows: Tensor) -> Tensor:
        return self.images[self.labels[rows]]


def pictograms(
    train: bool,
    font: str | None = None,
    size: int = 32,
    concepts: int | Sequence[str] | None = None,
    views: int = 100,
) -> Pictograms:
    """Each concept `views` times an epoch to train on, and once to test on; what is drawn for the two comes from different streams.

    concepts: how many, the most familiar first, or their names; None: all.
    """
    known, images = draw_glyphs(str(font or FONT), size)
    places = select_concepts(known, concepts)
    kept = tuple(known[place] for place in places)
    labels = torch.arange(len(kept)).repeat(views if train else 1)
    return Pictograms(images[places], labels, tuple(concept.name for concept in kept), kept)


def select_concepts(known: Sequence[Concept], wanted: int | Sequence[str] | None) -> list[int]:
    """The places of the wanted concepts."""
    if wanted is None or isinstance(wanted, int):
        if wanted is not None and not 1 <= wanted <= len(known):
            raise UserError(
                f"data.concepts={wanted} does not fit: the font has 1 to {len(known)}. Give a number of them, or their names."
            )
        return list(range(len(known)))[:wanted]
    places = {name: place for place, concept in reversed([*enumerate(known)]) for name in concept.others}
    places |= {concept.name: place for place, concept in enumerate(known)}
    for name in wanted:
        if str(name).lower() not in places:
            raise UserError(
                f"There is no pictogram {str(name)!r}.{suggest(name, places)} Give data.concepts=NUMBER, or names such as skull."
            )
    if not wanted:
        raise UserError(
            "data.concepts=[] names no pictogram: give a number of them, or names such as [skull,rocket]."
        )
    return list(dict.fromkeys(places[str(name).lower()] for name in wanted))


def emoji_names() -> tuple[Concept, ...]:
    """What there are names for, the familiar first, then as the code points go."""
    try:
        from emoji import EMOJI_DATA, STATUS
    except ImportError:
        raise UserError(
            "The names of pictograms come from a library that is not here, emoji: run `pip install emoji`, or install expkit[pictograms]."
        ) from None
    found = {
        sign: facts
        for sign, facts in EMOJI_DATA.items()
        if facts["status"] == STATUS["fully_qualified"] and may_be(sign)
    }
    names = {sign: name_in_words(facts["en"]) for sign, facts in found.items()}
    names = {sign: name for sign, name in names.items() if not LEFT_OUT.match(name)}
    taken, known = {*names.values(), *UNSAID}, []
    for sign, name in sorted(names.items(), key=lambda item: (ZWJ in item[0], item[0])):
        others = [other.replace("-", " ") for other in ALSO.get(name, "").split()]
        others += [
            other
            for other in map(name_in_words, found[sign].get("alias", ()))
            if re.fullmatch(r"[a-z][a-z' -]{2,}", other)
        ]
        new = tuple(dict.fromkeys(other for other in others if other not in taken))
        taken |= set(new)
        known.append(Concept(sign, name, new))
    order = {name: place for place, name in enumerate(FIRST)}
    rank = lambda concept: min(order.get(name, len(order)) for name in (concept.name, *concept.others))
    return tuple(sorted(known, key=rank))


def may_be(sign: str) -> bool:
    """Whether a sign is no skin tone, flag or keycap."""
    return not (
        set(map(ord, sign)) & SKIN
        or KEYCAP in sign
        or any(0x1F1E6 <= ord(c) <= 0x1F1FF or ord(c) > 0xE0000 for c in sign)
    )


def name_in_words(name: str) -> str:
    """:snow-capped_mountain: -> snow-capped mountain"""
    return re.sub(r" \(.*\)", "", name.strip(":").replace("_", " ").replace("’", "'")).lower()


@lru_cache(maxsize=2)  # a part to train on and one to test on are asked for in turn
def draw_glyphs(font: str, size: int) -> tuple[tuple[Concept, ...], Tensor]:
    """The concepts that a font has, and their glyphs, uint8 (K, 4, 2·size, 2·size)."""
    from PIL import Image, ImageDraw, features

    type_face, shapes = open_font(font), features.check("raqm")
    concepts, images = [], []
    for concept in emoji_names():
        joined = ZWJ in concept.sign
        text = concept.sign if joined else concept.sign.replace(PLAIN_TEXT, "")
        box = type_face.getbbox(text)
        if (joined and not shapes) or not (0 < box[2] - box[0] <= CANVAS and box[3] > box[1]):
            continue
        canvas = Image.new(
            "RGBA", (CANVAS, CANVAS)
        )  # clear and black, so that what is drawn is multiplied by its opacity
        place = ((CANVAS - box[2] - box[0]) // 2, (CANVAS - box[3] - box[1]) // 2)
        ImageDraw.Draw(canvas).text(place, text, font=type_face, embedded_color=True)
        if canvas.getbbox():
            concepts.append(concept)
            images.append(
                torch.frombuffer(bytearray(canvas.tobytes()), dtype=torch.uint8)
                .view(CANVAS, CANVAS, 4)
                .permute(2, 0, 1)
            )
    if not images:
        raise UserError(f"The font {font} has no colour pictograms. {ADVICE}")
    parts = torch.stack(images).split(200)
    small = [
        F.interpolate(part.float(), (OVER * size,) * 2, mode="bilinear", antialias=True).round().byte()
        for part in parts
    ]
    return tuple(concepts), torch.cat(small)


ADVICE = (
    "Run `apt-get install -y fonts-noto-color-emoji`, or say where NotoColorEmoji.ttf is with data.font=PATH."
)


def open_font(font: str):
    from PIL import ImageFont

    if not Path(font).expanduser().is_file():
        raise UserError(f"There is no font at {font}, and pictograms are drawn with one. {ADVICE}")
    try:
        return ImageFont.truetype(str(Path(font).expanduser()), NATIVE)
    except OSError as error:
        raise UserError(f"The font {font} cannot draw {NATIVE} pixels ({error}). {ADVICE}") from None
