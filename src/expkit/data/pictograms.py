"""Colour pictograms with names: the glyphs of a colour emoji font, drawn into memory.

A concept is one glyph with its name and its other names, from the package emoji. Skin tones, flags,
keycaps and glyphs that differ from others only in gender are left out. Neither the font nor what is
drawn from it is a part of expkit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from expkit.data.labelled_pictures import Pictures
from expkit.errors import UserError, suggest
from expkit.storage.inputs import FONT

NATIVE = 109  # pixels: the only bitmap size of the font
CANVAS = 136  # pixels: the side of a square that any of its glyphs fits into
OVER = 2  # glyphs are stored larger than pictures by this factor: transforms then do not blur them

# The most familiar concepts, which small trainings use first
FIRST = (
    """
skull|rocket|old man|dog|cat|fire|mountain|pencil|house|castle|fish|red apple|sunflower|automobile
guitar|elephant|butterfly|crown|top hat|cook|tokyo tower|houses|snow-capped mountain|grinning face
crying face|ghost|robot|alien|astronaut|princess|santa claus|christmas tree|jack-o-lantern
clown face|mage|moai|statue of liberty|desert island|teddy bear|police officer|person|woman|man
baby|old woman|deciduous tree|evergreen tree|palm tree|cactus|mushroom|rose|tulip|four leaf clover
maple leaf|sun|crescent moon|star|cloud|rainbow|snowflake|snowman|umbrella|water wave|volcano
sailboat|airplane|bicycle|bus|locomotive|helicopter|police car|fire engine|tractor|ship|anchor|tent
camping|bridge at night|church|factory|stadium|fountain|ferris wheel|lion|tiger face|bear|panda
koala|fox|wolf|monkey face|pig face|cow face|horse|rabbit face|mouse face|frog|chicken|penguin|owl
eagle|duck|parrot|swan|turtle|snake|crocodile|shark|whale|dolphin|octopus|crab|lobster|snail|spider
honeybee|lady beetle|ant|scorpion|t-rex|dragon face|unicorn|camel|giraffe|zebra|kangaroo|gorilla
hedgehog|bat|squid|tropical fish|banana|grapes|watermelon|strawberry|cherries|lemon|pineapple|peach
pear|tomato|carrot|ear of corn|eggplant|avocado|broccoli|bread|cheese wedge|hamburger|pizza|hot dog
taco|egg|cookie|doughnut|birthday cake|ice cream|lollipop|candy|hot beverage|wine glass|beer mug
teapot|fork and knife|kitchen knife|key|locked|hammer|axe|wrench|screwdriver|scissors|paintbrush
crayon|book|open book|closed book|newspaper|envelope|package|wrapped gift|balloon|soccer ball
basketball|baseball|tennis|trophy|violin|trumpet|drum|saxophone|microphone|musical keyboard|camera
television|laptop|telephone|mobile phone|light bulb|candle|alarm clock|watch|hourglass done|glasses
sunglasses|eye|ear|nose|mouth|foot|brain|heart|bone|red heart|hand|raised hand|thumbs up
waving hand|clapping hands|angry face|smiling face with sunglasses|sleeping face|pile of poo
vampire|fairy|genie|zombie|ninja|detective|firefighter|artist|farmer|judge|pilot|scientist|guard
prince|dress|t-shirt|jeans|shoe|running shoe|high-heeled shoe|backpack|handbag|ring|gem stone
money bag|coin|magnet|telescope|microscope|bed|chair|door|toilet|bathtub|broom|basket|balance scale
bell|trident emblem|globe showing americas|mount fuji|tornado|comet|delivery truck|taxi|ambulance
motorcycle|racing car|flying saucer|speedboat|dagger|shield|bomb|crystal ball|spider web|troll|elf
superhero|girl|boy|person with crown|rooster|pig|cow|ewe|rabbit|mouse|tiger|leopard|monkey|deer
rhinoceros|hippopotamus|flamingo|peacock|baby chick|dove|jellyfish|raccoon|green apple|coconut
croissant|pretzel|pancakes|popcorn|french fries|cupcake|hot pepper|cherry blossom|bouquet
potted plant|feather|kite|socks|ringed planet|classical building|sunset|sandwich|goat|ladder
""".strip()
    .replace("\n", "|")
    .split("|")
)

ALSO = {  # common names that the package does not have
    "jack-o-lantern": "pumpkin halloween-pumpkin", "old man": "grandpa grandfather",
    "old woman": "grandma grandmother", "dog face": "puppy doggy", "cat face": "kitten kitty",
    "rocket": "spaceship space-rocket", "cook": "chef barista",
    "camping": "campsite campfire-by-a-tent", "fire": "campfire flame flames",
    "water wave": "ocean-wave", "fountain": "waterfall", "skull and crossbones": "pirate-skull",
    "grinning face": "smiley happy-face", "crying face": "sad-face", "mage": "wizard",
    "automobile": "car", "airplane": "plane jet", "lady beetle": "ladybug ladybird",
    "honeybee": "bee", "sauropod": "dinosaur", "musical keyboard": "piano",
    "mantelpiece clock": "clock", "deciduous tree": "tree", "doughnut": "donut",
    "wrapped gift": "present", "person with crown": "king-or-queen", "princess": "queen",
    "prince": "king", "crossed swords": "swords", "dagger": "sword",
    "snow-capped mountain": "snowy-mountain", "mountain": "mountains hill",
    "couch and lamp": "sofa couch", "cup with straw": "soda",
    "hot beverage": "cup-of-coffee cup-of-tea", "spiral shell": "sea-shell",
    "evergreen tree": "fir-tree pine-tree", "houses": "village", "wheel": "tyre",
    "mobile phone": "cell-phone smartphone", "rabbit face": "bunny",
    "delivery truck": "truck lorry", "blossom": "flower",
}  # fmt: skip
# Aliases of the package that are too general
UNSAID = {"no good", "sob", "mate", "free", "soon", "on", "end", "back", "top", "up", "imp"}
SKIN, ZWJ, EMOJI_SELECTOR, KEYCAP = set(range(0x1F3FB, 0x1F400)), "\u200d", "\ufe0f", "\u20e3"
# Names of glyphs that are left out
LEFT_OUT = re.compile(
    r"(?:wo)?m[ae]n (?!in suit|dancing|and)\w|family|couple|kiss .*man|people holding hands|"
    r"mer(?:maid|man)|pregnant (?:wo)?man|.*facing right|deaf (?:wo)?man|zzz|japanese .*button|"
    r".*(?:medium|small) (?:small )?square|.*medium-small square|"
    r"person (?:bald|red hair|curly hair|white hair)|.*flag|keycap|input|.*symbol for beginner|"
    r"(?:wo)?men.s (?:holding|with)|.*prohibited button"
)
# Names of glyphs whose mirror images mean something else
SIDED = re.compile(
    r"\b(?:arrow|arrows|button|o'clock|thirty|clock|watch|stopwatch|left|right|leftwards|"
    r"rightwards|tilted|sign|symbol|mark|calendar|dollar|yen|euro|pound|banknote|banknotes|"
    r"musical|map|globe|points|medal|circled|chart|ballot|hotel|hospital|bank|cinema|post office|"
    r"store|police|taxi|aries|taurus|gemini|cancer|leo|virgo|libra|scorpio|sagittarius|capricorn|"
    r"aquarius|pisces|ophiuchus|om|zzz|dvd|waxing|waning|quarter moon|copyright|registered|"
    r"exclamation|card|dice|die|pager|receipt|newspaper|keyboard|currency|alternation|vs|pool|"
    r"closet|no one|repeat|barber|stop|x-ray|menorah|joker|mahjong|e-mail|bow and arrow|input|"
    r"love hotel|tear-off|khanda)\b"
)


@dataclass(frozen=True)
class Concept:
    """One glyph.

    sign: its characters. name, others: its name and its other names, in lower case.
    """

    sign: str
    name: str
    others: tuple[str, ...] = ()

    @property
    def mirrors(self) -> bool:
        """Whether its mirror image has the same meaning; not so for arrows, letters and clocks."""
        return not SIDED.search(self.name.replace("-", " "))


@dataclass(frozen=True, eq=False)
class Pictograms(Pictures):
    """Pictograms that are rendered as pictures later, with a random background and caption.

    See `expkit.data.captioned_scenes`.

    images: uint8 (K, 4, 2·size, 2·size), one glyph per concept: colours multiplied by opacity, then
        opacity.
    labels: (N,), the index of each row's glyph.
    concepts: one per glyph.
    """

    concepts: tuple[Concept, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(3, size, size) of the rendered pictures."""
        return 3, self.images.shape[-2] // OVER, self.images.shape[-1] // OVER

    @property
    def mirrors(self) -> Tensor:
        """(K,), whether each concept may be mirrored."""
        return torch.tensor([concept.mirrors for concept in self.concepts])

    def select(self, rows: Tensor | slice) -> Pictograms:
        """The pictograms of these rows: indices, a mask or a slice. All glyphs are kept."""
        return replace(self, labels=self.labels[rows])

    def images_of(self, rows: Tensor) -> Tensor:
        """The glyphs of these rows, uint8 (N, 4, 2·size, 2·size)."""
        return self.images[self.labels[rows]]


def emoji_pictograms(
    train: bool,
    font: str | None = None,
    size: int = 32,
    concepts: int | Sequence[str] | None = None,
    views: int = 100,
) -> Pictograms:
    """The pictograms of a colour emoji font.

    Training and test pictures differ in their random streams.

    Args:
        train: the training part, in which each concept occurs `views` times per epoch, or the test
            part, in which it occurs once.
        font: path of NotoColorEmoji.ttf; None: the path of Debian's package.
        size: pixels of a picture's side.
        concepts: their number, the most familiar first, or their names; None: all.
        views: pictures of each concept per epoch.
    """
    all_concepts, images = draw_glyphs(str(font or FONT), size)
    places = select_concepts(all_concepts, concepts)
    selected = tuple(all_concepts[place] for place in places)
    labels = torch.arange(len(selected)).repeat(views if train else 1)
    names = tuple(concept.name for concept in selected)
    return Pictograms(images[places], labels, names, selected)


def select_concepts(known: Sequence[Concept], wanted: int | Sequence[str] | None) -> list[int]:
    """The indices in `known` of a number of concepts, or of those with these names; None: all."""
    if wanted is None or isinstance(wanted, int):
        if wanted is not None and not 1 <= wanted <= len(known):
            raise UserError(
                f"data.concepts={wanted} does not fit: the font has 1 to {len(known)}. "
                "Give a number of them, or their names."
            )
        return list(range(len(known)))[:wanted]
    places = {}
    for place, concept in reversed([*enumerate(known)]):  # the first of equal names overwrites
        places |= dict.fromkeys(concept.others, place)
    places |= {concept.name: place for place, concept in enumerate(known)}
    for name in wanted:
        if str(name).lower() not in places:
            raise UserError(
                f"There is no pictogram {str(name)!r}.{suggest(name, places)} "
                "Give data.concepts=NUMBER, or names such as skull."
            )
    if not wanted:
        advice = "give a number of them, or names such as [skull,rocket]"
        raise UserError(f"data.concepts=[] names no pictogram: {advice}.")
    return list(dict.fromkeys(places[str(name).lower()] for name in wanted))


def emoji_names() -> tuple[Concept, ...]:
    """The concepts of the package emoji: FIRST, then by code points; joined emoji come last."""
    try:
        from emoji import EMOJI_DATA, STATUS
    except ImportError:
        raise UserError(
            "The names of pictograms come from a library that is not here, emoji: "
            "run `pip install emoji`, or install expkit[pictograms]."
        ) from None
    entries = {
        sign: entry
        for sign, entry in EMOJI_DATA.items()
        if entry["status"] == STATUS["fully_qualified"] and is_concept_sign(sign)
    }
    names = {sign: name_in_words(entry["en"]) for sign, entry in entries.items()}
    names = {sign: name for sign, name in names.items() if not LEFT_OUT.match(name)}
    used_names = {*names.values(), *UNSAID}
    concepts = []
    for sign, name in sorted(names.items(), key=lambda item: (ZWJ in item[0], item[0])):
        others = [other.replace("-", " ") for other in ALSO.get(name, "").split()]
        others += [
            alias
            for alias in map(name_in_words, entries[sign].get("alias", ()))
            if re.fullmatch(r"[a-z][a-z' -]{2,}", alias)
        ]
        others = tuple(dict.fromkeys(other for other in others if other not in used_names))
        used_names |= set(others)
        concepts.append(Concept(sign, name, others))
    order = {name: place for place, name in enumerate(FIRST)}

    def rank(concept: Concept) -> int:
        return min(order.get(name, len(order)) for name in (concept.name, *concept.others))

    return tuple(sorted(concepts, key=rank))


def is_concept_sign(sign: str) -> bool:
    """Whether an emoji may be a concept: it has no skin tone and is no flag or keycap."""
    return not (
        set(map(ord, sign)) & SKIN
        or KEYCAP in sign
        or any(0x1F1E6 <= code <= 0x1F1FF or code > 0xE0000 for code in map(ord, sign))
    )


def name_in_words(name: str) -> str:
    """A name of the package emoji as words: ":snow-capped_mountain:" -> "snow-capped mountain"."""
    return re.sub(r" \(.*\)", "", name.strip(":").replace("_", " ").replace("’", "'")).lower()


@lru_cache(maxsize=2)  # the training and the test part are requested in turn
def draw_glyphs(font: str, size: int) -> tuple[tuple[Concept, ...], Tensor]:
    """The K concepts that a font has, and their glyphs: uint8 (K, 4, 2·size, 2·size).

    Colours are multiplied by opacity.
    """
    from PIL import Image, ImageDraw, features

    type_face = open_font(font)
    has_raqm = features.check("raqm")  # it is needed to draw joined emoji as one glyph
    concepts, images = [], []
    for concept in emoji_names():
        joined = ZWJ in concept.sign
        text = concept.sign if joined else concept.sign.replace(EMOJI_SELECTOR, "")
        box = type_face.getbbox(text)
        if (joined and not has_raqm) or not (0 < box[2] - box[0] <= CANVAS and box[3] > box[1]):
            continue
        # Transparent black, so that the drawn colours are multiplied by their opacity
        canvas = Image.new("RGBA", (CANVAS, CANVAS))
        place = ((CANVAS - box[2] - box[0]) // 2, (CANVAS - box[3] - box[1]) // 2)
        ImageDraw.Draw(canvas).text(place, text, font=type_face, embedded_color=True)
        if canvas.getbbox():
            concepts.append(concept)
            levels = torch.frombuffer(bytearray(canvas.tobytes()), dtype=torch.uint8)
            images.append(levels.view(CANVAS, CANVAS, 4).permute(2, 0, 1))
    if not images:
        raise UserError(f"The font {font} has no colour pictograms. {ADVICE}")
    glyphs = []
    for part in torch.stack(images).split(200):
        resized = F.interpolate(part.float(), (OVER * size,) * 2, mode="bilinear", antialias=True)
        glyphs.append(resized.round().byte())
    return tuple(concepts), torch.cat(glyphs)


ADVICE = (
    "Run `apt-get install -y fonts-noto-color-emoji`, "
    "or say where NotoColorEmoji.ttf is with data.font=PATH."
)  # fmt: skip


def open_font(font: str):
    """A font at the size NATIVE; raises UserError if it is missing or lacks that size."""
    from PIL import ImageFont

    path = Path(font).expanduser()
    if not path.is_file():
        raise UserError(f"There is no font at {font}, and pictograms are drawn with one. {ADVICE}")
    try:
        return ImageFont.truetype(str(path), NATIVE)
    except OSError as error:
        problem = f"The font {font} cannot draw {NATIVE} pixels ({error})"
        raise UserError(f"{problem}. {ADVICE}") from None
