"""Pictograms as they are shown: each row of a batch moved, coloured and put before a background in its own way, and its captions.

    picture = s(g(p(M p)) + (1 − opacity) background)        M a turn, a scale, a shift, a mirror and a gentle warp

What a caption says holds: "in grey", "soft", "line drawing" and the colour behind. Of what it does not say anything may be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import pi, radians
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

from expkit.core.rng import Draws, stream
from expkit.data.augment import blur_matrices
from expkit.data.pictograms import OVER, Concept, Pictograms
from expkit.errors import UserError
from expkit.text import caption_grammar
from expkit.text.caption_grammar import ANY, GROUNDS, LINES, PLAIN, SOFT


@dataclass(frozen=True)
class AugmentStrength:
    """How much pictures differ. turn: degrees each way; zoom: smallest and largest; shift: of the side, each way; stretch: 1 ± so much.

    warp: of the side; hue: radians each way; tone: 1 ± so much of saturation and contrast, ± half of it of brightness; mirror: how often.
    """

    turn: float = 15.0
    zoom: tuple[float, float] = (0.72, 1.02)
    shift: float = 0.07
    stretch: float = 0.08
    warp: float = 0.02
    hue: float = 0.25
    tone: float = 0.25
    mirror: float = 0.5


LUMA = torch.tensor([0.299, 0.587, 0.114])


def render_scene(
    glyphs: Tensor,
    style: Tensor,
    grey: Tensor,
    ground: Tensor,
    mirrors: Tensor,
    draws: Draws,
    vary: AugmentStrength,
) -> Tensor:
    """Glyphs (N, 4, 2S, 2S) in [0, 1], their colours multiplied by their opacity -> pictures (N, 3, S, S) in [0, 1].

    style, grey, ground (N,): each row's scene; mirrors (N,): whether it may be mirrored.
    """
    chance, bumps = draws.uniform((40,)), draws.normal((2, 4, 4))
    moved = place_glyphs(glyphs, chance[:, :8], bumps, mirrors, vary)
    coloured = adjust_tone(moved, chance[:, 8:12], grey, vary)
    behind = render_background(ground, chance[:, 12:26], coloured.shape[-1], style, grey)
    lined = render_lines(moved, behind, chance[:, 26:30], grey)
    whole = torch.where(
        (style == LINES).view(-1, 1, 1, 1), lined, coloured[:, :3] + (1 - coloured[:, 3:]) * behind
    )
    side = glyphs.shape[-1]
    sigma = torch.where(style == SOFT, side * (0.018 + 0.018 * chance[:, 30]), 0.05)
    blur = blur_matrices(sigma, side)[:, None]
    return F.avg_pool2d(blur @ whole @ blur.mT, OVER).clamp(0, 1)


def place_glyphs(
    glyphs: Tensor, chance: Tensor, bumps: Tensor, mirrors: Tensor, vary: AugmentStrength
) -> Tensor:
    """Turned, scaled, shifted, mirrored and warped about the middle; chance (N, 8) in [0, 1), bumps (N, 2, 4, 4) normal."""
    spread = 2 * chance - 1
    angle = radians(vary.turn) * spread[:, 0]
    zoom = vary.zoom[0] + (vary.zoom[1] - vary.zoom[0]) * chance[:, 1]
    side = torch.where(mirrors & (chance[:, 2] < vary.mirror), -1.0, 1.0)
    wide, high = zoom * (1 + vary.stretch * spread[:, 3]), zoom * (1 + vary.stretch * spread[:, 4])
    shift = 2 * vary.shift * spread[:, 5:7]
    turned = torch.stack(
        [angle.cos() * side / wide, -angle.sin() * side / wide, angle.sin() / high, angle.cos() / high], 1
    ).view(-1, 2, 2)
    where = torch.cat([turned, -(turned @ shift[:, :, None])], 2)
    grid = F.affine_grid(where, list(glyphs.shape), align_corners=False)
    field = F.interpolate(bumps, glyphs.shape[-2:], mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    return F.grid_sample(glyphs, grid + vary.warp * field, align_corners=False)


def adjust_tone(glyphs: Tensor, chance: Tensor, grey: Tensor, vary: AugmentStrength) -> Tensor:
    """In other colours, or in grey; chance (N, 4) in [0, 1): hue, saturation, contrast, brightness."""
    spread = 2 * chance - 1
    saturation = torch.where(grey, 0.0, 1 + vary.tone * spread[:, 1])
    mix = hue_matrices(vary.hue * spread[:, 0], saturation) * (1 + vary.tone * spread[:, 2]).view(-1, 1, 1)
    colour, opacity = glyphs[:, :3], glyphs[:, 3:]
    middle = (
        0.5 * vary.tone * (spread[:, 3] - spread[:, 2]).view(-1, 1, 1, 1)
    )  # contrast is about the middle grey
    changed = (mix @ colour.flatten(2)).view_as(colour) + middle * opacity
    return torch.cat([torch.minimum(changed.clamp(min=0), opacity), opacity], 1)


def hue_matrices(angle: Tensor, saturation: Tensor) -> Tensor:
    """Colours turned about the grey axis, and nearer to it or farther from it: (N, 3, 3)."""
    to = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]]).to(angle)
    cos, sin, one, none = (
        saturation * angle.cos(),
        saturation * angle.sin(),
        torch.ones_like(angle),
        torch.zeros_like(angle),
    )
    turn = torch.stack([one, none, none, none, cos, -sin, none, sin, cos], 1).view(-1, 3, 3)
    return torch.linalg.inv(to) @ turn @ to


def render_background(ground: Tensor, chance: Tensor, side: int, style: Tensor, grey: Tensor) -> Tensor:
    """Plain or graded, (N, 3, side, side): near the colour that is named, else any, often white. chance (N, 14) in [0, 1)."""
    free = torch.where(chance[:, :1] < 0.2, torch.ones_like(chance[:, 1:4]), hsv_to_rgb(chance[:, 1:4]))
    pale = 0.8 + 0.2 * chance[:, 1:4]
    free = torch.where(((style == LINES) & (chance[:, 4] < 0.7))[:, None], pale, free)
    free = torch.where(
        (grey & (chance[:, 5] < 0.8))[:, None], (free * LUMA.to(free)).sum(1, keepdim=True), free
    )
    named = torch.tensor([*GROUNDS.values(), (0.0, 0.0, 0.0)]).to(chance)[ground]
    first = torch.where((ground == ANY)[:, None], free, named + 0.08 * (2 * chance[:, 6:9] - 1)).clamp(0, 1)
    graded = ((chance[:, 9] < 0.5) & (first.min(1).values < 0.98))[:, None] * (0.7 * chance[:, 10:11] - 0.35)
    angle = 2 * pi * chance[:, 11]
    place = (torch.arange(side, device=chance.device) + 0.5) / side * 2 - 1
    slope = angle.cos().view(-1, 1, 1) * place + angle.sin().view(-1, 1, 1) * place[:, None]
    return (first[:, :, None, None] * (1 + graded[:, :, None, None] * slope[:, None])).clamp(0, 1)


def hsv_to_rgb(chance: Tensor) -> Tensor:
    """Hue, saturation and value (N, 3) in [0, 1) as a colour, of any value from dark to bright."""
    ramp = ((6 * chance[:, :1] + torch.tensor([0.0, 4.0, 2.0]).to(chance)) % 6 - 3).abs().sub(1).clamp(0, 1)
    return (0.1 + 0.9 * chance[:, 2:]) * (1 - 0.9 * chance[:, 1:2] * (1 - ramp))


def render_lines(glyphs: Tensor, behind: Tensor, chance: Tensor, grey: Tensor) -> Tensor:
    """The edges of the glyphs before their background, dark on a light one and light on a dark one. chance (N, 4): ink, strength."""
    side = glyphs.shape[-1]
    narrow = blur_matrices(torch.full_like(chance[:, 0], side / 90), side)[:, None]
    flat = narrow @ torch.cat([glyphs[:, :3] + (1 - glyphs[:, 3:]), glyphs[:, 3:]], 1) @ narrow.mT
    steep = sobel_kernel().to(flat).view(2, 1, 3, 3).repeat(4, 1, 1, 1)
    slopes = F.conv2d(F.pad(flat, (1, 1, 1, 1), mode="replicate"), steep, groups=4).view(
        len(flat), 4, 2, side, side
    )
    edges = torch.hypot(*slopes.unbind(2)).amax(1, keepdim=True)  # .norm(dim=2) takes fifty times as long
    drawn = (edges * side / 64 * (5 + 4 * chance[:, 3].view(-1, 1, 1, 1)) - 0.35).clamp(0, 1)
    light = ((behind * LUMA.to(behind).view(-1, 1, 1)).sum(1, keepdim=True)).mean((2, 3), keepdim=True)
    dark = torch.where((chance[:, 0] < 0.5) | grey, 0.05, 0.35 * chance[:, 1:4].T).T[:, :, None, None]
    return behind + drawn * (torch.where(light < 0.45, 0.97 - 0.3 * dark, dark) - behind)


@cache
def sobel_kernel() -> Tensor:
    across = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
    return torch.stack([across, across.T])


@dataclass(frozen=True, eq=False)
class Captions:
    """texts: "" and then M captions of each concept; style, grey, ground: the scene of each."""

    texts: tuple[str, ...]
    each: int
    style: Tensor
    grey: Tensor
    ground: Tensor

    @classmethod
    def of(cls, concepts: Sequence[Concept], each: int, seed: int = 0) -> Captions:
        """`each` captions of every concept, its name alone among them; equal for equal names and seeds."""
        said = [
            ("", caption_grammar.Scene()),
            *[pair for concept in concepts for pair in make_captions(concept, each, seed)],
        ]
        style, grey, ground = torch.tensor([scene for _, scene in said]).T
        return cls(tuple(text for text, _ in said), each, style, grey.bool(), ground)

    def to(self, device: torch.device) -> Captions:
        return Captions(
            self.texts, self.each, self.style.to(device), self.grey.to(device), self.ground.to(device)
        )

    def scenes(self, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """How these captions are to be shown: style, grey, ground, (N,) each."""
        return self.style[places], self.grey[places], self.ground[places]

    def drawn(self, labels: Tensor, chance: Tensor) -> Tensor:
        """A caption of each label: its place in `texts`, for chance (N,) in [0, 1)."""
        return 1 + labels * self.each + (chance * self.each).long()


def make_captions(concept: Concept, each: int, seed: int) -> list[tuple[str, caption_grammar.Scene]]:
    random = Random(f"{seed} {concept.name}")
    called = [concept.name, concept.name, *concept.others]
    plain = [
        (text, caption_grammar.Scene())
        for name in (concept.name, *concept.others)
        for text in (caption_grammar.usual_phrase(name), name)
    ]
    return (plain + [caption_grammar.random_caption(random.choice(called), random) for _ in range(each)])[
        :each
    ]


@dataclass(frozen=True, eq=False)
class Scenes:
    """How the pictures of a training are shown: what may be mirrored (K,), what captions say, and how much they vary beside that."""

    mirrors: Tensor
    captions: Captions
    vary: AugmentStrength

    @classmethod
    def of(cls, pictures: Pictograms, each: int, vary: AugmentStrength) -> Scenes:
        if not pictures.concepts:
            raise UserError(
                "This recipe shows pictures as their captions say, and these have none: give data=pictograms."
            )
        return cls(pictures.mirrors, Captions.of(pictures.concepts, each), vary)

    def sharp(self) -> Scenes:
        """The same with no picture blurred."""
        style = self.captions.style
        return replace(self, captions=replace(self.captions, style=style.masked_fill(style == SOFT, PLAIN)))

    def to(self, device: torch.device) -> Scenes:
        return Scenes(self.mirrors.to(device), self.captions.to(device), self.vary)

    def shown(self, glyphs: Tensor, labels: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Glyphs (N, 4, 2S, 2S) in [0, 1] of these labels as pictures (N, 3, S, S), and the places of what is said of them, (N,)."""
        said = self.captions.drawn(labels, draws.uniform((1,))[:, 0])
        return render_scene(glyphs, *self.captions.scenes(said), self.mirrors[labels], draws, self.vary), said


def render_rows(pictures: Pictograms, rows: Tensor, seed: int, scenes: Scenes) -> tuple[Tensor, list[str]]:
    """Pictures (N, 3, S, S) in [0, 1] of these rows and what they are of; another seed shows them in other ways."""
    seen, said = scenes.shown(
        pictures.shown(rows).float() / 255, pictures.labels[rows], Draws(stream(seed, "views"), len(rows))
    )
    return seen, [scenes.captions.texts[place] for place in said.tolist()]
