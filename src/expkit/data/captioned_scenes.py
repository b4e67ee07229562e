"""Scenes: pictograms with random augmentations and backgrounds, and captions that describe them.

    picture(p) = s(g(glyph(M p)) + (1 − opacity) background)

p is a position; M rotates, scales, shifts, mirrors and gently warps; g changes the colours; s
blurs. All are random for each row of a batch. What a caption says is true of its picture: "in
grey", "soft", "line drawing" and the colour of the background. What it does not mention is random.
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
from expkit.data.labelled_pictures import Pictures
from expkit.data.pictograms import OVER, Concept, Pictograms
from expkit.errors import UserError
from expkit.text import caption_grammar
from expkit.text.caption_grammar import ANY, GROUNDS, LINES, PLAIN, SOFT


@dataclass(frozen=True)
class AugmentStrength:
    """The strength of the random augmentations of pictures.

    turn: largest rotation in each direction, in degrees.
    zoom: smallest and largest scale.
    shift: largest shift in each direction, as a fraction of the side.
    stretch: width and height are scaled by 1 ± stretch at the most.
    warp: standard deviation of the warp in `grid_sample`'s coordinates, in which the side is 2.
    hue: largest rotation of the hue in each direction, in radians.
    tone: saturation and contrast are scaled by 1 ± tone at the most; brightness changes by half of
        it at the most.
    mirror: the probability of mirroring.
    """

    turn: float = 15.0
    zoom: tuple[float, float] = (0.72, 1.02)
    shift: float = 0.07
    stretch: float = 0.08
    warp: float = 0.02
    hue: float = 0.25
    tone: float = 0.25
    mirror: float = 0.5


# RGB -> YIQ
YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
LUMA = YIQ[0]


def render_scene(
    glyphs: Tensor,
    style: Tensor,
    grey: Tensor,
    ground: Tensor,
    mirrors: Tensor,
    draws: Draws,
    vary: AugmentStrength,
) -> Tensor:
    """Pictures (N, 3, S, S) in [0, 1] of glyphs, each in its scene.

    Args:
        glyphs: (N, 4, 2S, 2S) in [0, 1], colours multiplied by opacity, then opacity.
        style, grey, ground: (N,), the scene of each row, see `caption_grammar.Scene`.
        mirrors: (N,), whether each row may be mirrored.
        draws: the random numbers.
        vary: the strength of the augmentations.
    """
    chance, bumps = draws.uniform((40,)), draws.normal((2, 4, 4))
    warped_glyphs = place_glyphs(glyphs, chance[:, :8], bumps, mirrors, vary)
    toned_glyphs = adjust_tone(warped_glyphs, chance[:, 8:12], grey, vary)
    behind = render_background(ground, chance[:, 12:26], toned_glyphs.shape[-1], style, grey)
    lines = render_lines(warped_glyphs, behind, chance[:, 26:30], grey)
    composite = toned_glyphs[:, :3] + (1 - toned_glyphs[:, 3:]) * behind
    whole = torch.where((style == LINES).view(-1, 1, 1, 1), lines, composite)
    side = glyphs.shape[-1]
    sigma = torch.where(style == SOFT, side * (0.018 + 0.018 * chance[:, 30]), 0.05)
    blur = blur_matrices(sigma, side)[:, None]
    return F.avg_pool2d(blur @ whole @ blur.mT, OVER).clamp(0, 1)


def place_glyphs(
    glyphs: Tensor, chance: Tensor, bumps: Tensor, mirrors: Tensor, vary: AugmentStrength
) -> Tensor:
    """Rotate, scale, shift, mirror and warp glyphs about their middle.

    chance: (N, 8) random numbers in [0, 1). bumps: (N, 2, 4, 4) normal, the coarse warp field.
    """
    spread = 2 * chance - 1
    angle = radians(vary.turn) * spread[:, 0]
    zoom = vary.zoom[0] + (vary.zoom[1] - vary.zoom[0]) * chance[:, 1]
    sign = torch.where(mirrors & (chance[:, 2] < vary.mirror), -1.0, 1.0)
    wide = zoom * (1 + vary.stretch * spread[:, 3])
    high = zoom * (1 + vary.stretch * spread[:, 4])
    shift = 2 * vary.shift * spread[:, 5:7]
    cos, sin = angle.cos(), angle.sin()
    matrix = torch.stack([cos * sign / wide, -sin * sign / wide, sin / high, cos / high], 1)
    matrix = matrix.view(-1, 2, 2)
    theta = torch.cat([matrix, -(matrix @ shift[:, :, None])], 2)
    grid = F.affine_grid(theta, list(glyphs.shape), align_corners=False)
    field = F.interpolate(bumps, glyphs.shape[-2:], mode="bicubic", align_corners=True)
    grid = grid + vary.warp * field.permute(0, 2, 3, 1)
    return F.grid_sample(glyphs, grid, align_corners=False)


def adjust_tone(glyphs: Tensor, chance: Tensor, grey: Tensor, vary: AugmentStrength) -> Tensor:
    """Change the colours of glyphs, or remove them where `grey` (N,) is true.

    chance: (N, 4) random numbers in [0, 1) for hue, saturation, contrast and brightness.
    """
    spread = 2 * chance - 1
    saturation = torch.where(grey, 0.0, 1 + vary.tone * spread[:, 1])
    contrast = (1 + vary.tone * spread[:, 2]).view(-1, 1, 1)
    mix = hue_matrices(vary.hue * spread[:, 0], saturation) * contrast
    colour, opacity = glyphs[:, :3], glyphs[:, 3:]
    # Half of the contrast is subtracted from the brightness: contrast is about the middle grey
    offset = 0.5 * vary.tone * (spread[:, 3] - spread[:, 2]).view(-1, 1, 1, 1)
    new_colour = (mix @ colour.flatten(2)).view_as(colour) + offset * opacity
    return torch.cat([torch.minimum(new_colour.clamp(min=0), opacity), opacity], 1)


def hue_matrices(angle: Tensor, saturation: Tensor) -> Tensor:
    """Matrices (N, 3, 3) on RGB that rotate hues about the grey axis and scale the saturation.

    The rotation is in YIQ. angle: (N,) in radians; saturation: (N,), the factor.
    """
    to_yiq = YIQ.to(angle)
    cos, sin = saturation * angle.cos(), saturation * angle.sin()
    ones, zeros = torch.ones_like(angle), torch.zeros_like(angle)
    turn = torch.stack([ones, zeros, zeros, zeros, cos, -sin, zeros, sin, cos], 1).view(-1, 3, 3)
    return torch.linalg.inv(to_yiq) @ turn @ to_yiq


def render_background(
    ground: Tensor,
    chance: Tensor,
    side: int,
    style: Tensor,
    grey: Tensor,
) -> Tensor:
    """Plain or graded backgrounds, (N, 3, side, side) in [0, 1].

    Each is near the colour of index `ground`; for ANY it has a random colour, often white.
    chance: (N, 14) random numbers in [0, 1).
    """
    white = torch.ones_like(chance[:, 1:4])
    free = torch.where(chance[:, :1] < 0.2, white, hsv_to_rgb(chance[:, 1:4]))
    pale = 0.8 + 0.2 * chance[:, 1:4]
    free = torch.where(((style == LINES) & (chance[:, 4] < 0.7))[:, None], pale, free)
    luma = (free * LUMA.to(free)).sum(1, keepdim=True)
    free = torch.where((grey & (chance[:, 5] < 0.8))[:, None], luma, free)
    named_colour = torch.tensor([*GROUNDS.values(), (0.0, 0.0, 0.0)]).to(chance)[ground]
    near_named = named_colour + 0.08 * (2 * chance[:, 6:9] - 1)
    colour = torch.where((ground == ANY)[:, None], free, near_named).clamp(0, 1)
    is_graded = (chance[:, 9] < 0.5) & (colour.min(1).values < 0.98)
    gradient = is_graded[:, None] * (0.7 * chance[:, 10:11] - 0.35)
    angle = 2 * pi * chance[:, 11]
    place = (torch.arange(side, device=chance.device) + 0.5) / side * 2 - 1
    slope = angle.cos().view(-1, 1, 1) * place + angle.sin().view(-1, 1, 1) * place[:, None]
    brightness = 1 + gradient[:, :, None, None] * slope[:, None]
    return (colour[:, :, None, None] * brightness).clamp(0, 1)


def hsv_to_rgb(chance: Tensor) -> Tensor:
    """Random colours (N, 3) from hue, saturation and value (N, 3) in [0, 1).

    Saturation is scaled to [0, 0.9), value to [0.1, 1).
    """
    ramp = (6 * chance[:, :1] + torch.tensor([0.0, 4.0, 2.0]).to(chance)) % 6 - 3
    ramp = ramp.abs().sub(1).clamp(0, 1)
    return (0.1 + 0.9 * chance[:, 2:]) * (1 - 0.9 * chance[:, 1:2] * (1 - ramp))


def render_lines(glyphs: Tensor, behind: Tensor, chance: Tensor, grey: Tensor) -> Tensor:
    """The edges of glyphs on their background, dark on a light one and light on a dark one.

    chance: (N, 4) random numbers in [0, 1) for the ink's colour and the strength.
    """
    side = glyphs.shape[-1]
    narrow = blur_matrices(torch.full_like(chance[:, 0], side / 90), side)[:, None]
    on_white = glyphs[:, :3] + (1 - glyphs[:, 3:])
    smooth = narrow @ torch.cat([on_white, glyphs[:, 3:]], 1) @ narrow.mT
    kernel = sobel_kernel().to(smooth).view(2, 1, 3, 3).repeat(4, 1, 1, 1)
    slopes = F.conv2d(F.pad(smooth, (1, 1, 1, 1), mode="replicate"), kernel, groups=4)
    slopes = slopes.view(len(smooth), 4, 2, side, side)
    # .norm(dim=2) takes fifty times as long
    edges = torch.hypot(*slopes.unbind(2)).amax(1, keepdim=True)
    strength = 5 + 4 * chance[:, 3].view(-1, 1, 1, 1)
    coverage = (edges * side / 64 * strength - 0.35).clamp(0, 1)
    luma = (behind * LUMA.to(behind).view(-1, 1, 1)).sum(1, keepdim=True)
    light = luma.mean((2, 3), keepdim=True)
    dark = torch.where((chance[:, 0] < 0.5) | grey, 0.05, 0.35 * chance[:, 1:4].T)
    dark = dark.T[:, :, None, None]
    ink = torch.where(light < 0.45, 0.97 - 0.3 * dark, dark)
    return behind + coverage * (ink - behind)


@cache
def sobel_kernel() -> Tensor:
    """The Sobel kernels (2, 3, 3) for slopes across and down."""
    across = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
    return torch.stack([across, across.T])


@dataclass(frozen=True, eq=False)
class Captions:
    """Captions of concepts, with the scene that each describes.

    texts: "", then `each` captions of every concept.
    each: captions per concept.
    style, grey, ground: (len(texts),), the scenes, see `caption_grammar.Scene`.
    """

    texts: tuple[str, ...]
    each: int
    style: Tensor
    grey: Tensor
    ground: Tensor

    @classmethod
    def of(cls, concepts: Sequence[Concept], each: int, seed: int = 0) -> Captions:
        """Make `each` captions of every concept, its name alone among them.

        They depend on the concept's names and the seed only.
        """
        captions = [("", caption_grammar.Scene())]
        for concept in concepts:
            captions += make_captions(concept, each, seed)
        style, grey, ground = torch.tensor([scene for _, scene in captions]).T
        return cls(tuple(text for text, _ in captions), each, style, grey.bool(), ground)

    def to(self, device: torch.device) -> Captions:
        """The captions with their scenes on a device."""
        style, grey, ground = (part.to(device) for part in (self.style, self.grey, self.ground))
        return Captions(self.texts, self.each, style, grey, ground)

    def scenes(self, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The scenes of the captions with these indices: style, grey, ground, (N,) each."""
        return self.style[places], self.grey[places], self.ground[places]

    def sample_indices(self, labels: Tensor, chance: Tensor) -> Tensor:
        """The index in `texts` of a random caption for each label; chance: (N,) in [0, 1)."""
        return 1 + labels * self.each + (chance * self.each).long()


def make_captions(
    concept: Concept,
    each: int,
    seed: int,
) -> list[tuple[str, caption_grammar.Scene]]:
    """`each` captions of a concept with their scenes: first its names, then random captions."""
    random = Random(f"{seed} {concept.name}")
    names = [concept.name, *concept.others]
    weighted_names = [concept.name, *names]  # the main name counts twice
    captions = [
        (text, caption_grammar.Scene())
        for name in names
        for text in (caption_grammar.usual_phrase(name), name)
    ]
    for _ in range(each):
        captions.append(caption_grammar.random_caption(random.choice(weighted_names), random))
    return captions[:each]


@dataclass(frozen=True, eq=False)
class Scenes:
    """How training pictures are rendered.

    mirrors: (K,), whether each concept may be mirrored.
    captions: what captions say of the pictures.
    vary: the strength of the other augmentations.
    """

    mirrors: Tensor
    captions: Captions
    vary: AugmentStrength

    @classmethod
    def of(cls, pictures: Pictures, each: int, vary: AugmentStrength) -> Scenes:
        """The scenes of pictograms with `each` captions per concept."""
        if not (isinstance(pictures, Pictograms) and pictures.concepts):
            reason = "This recipe shows pictures as their captions say, and these have none"
            raise UserError(f"{reason}: give data=pictograms.")
        return cls(pictures.mirrors, Captions.of(pictures.concepts, each), vary)

    def sharp(self) -> Scenes:
        """The same scenes without blurred pictures: soft ones become plain."""
        style = self.captions.style.masked_fill(self.captions.style == SOFT, PLAIN)
        return replace(self, captions=replace(self.captions, style=style))

    def to(self, device: torch.device) -> Scenes:
        """The scenes on a device."""
        return Scenes(self.mirrors.to(device), self.captions.to(device), self.vary)

    def render(self, glyphs: Tensor, labels: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Render glyphs (N, 4, 2S, 2S) in [0, 1] of these labels (N,) in random scenes.

        Returns:
            The pictures (N, 3, S, S) in [0, 1], and the indices (N,) of their captions.
        """
        places = self.captions.sample_indices(labels, draws.uniform((1,))[:, 0])
        scene, mirrors = self.captions.scenes(places), self.mirrors[labels]
        return render_scene(glyphs, *scene, mirrors, draws, self.vary), places


def render_rows(
    pictures: Pictures,
    rows: Tensor,
    seed: int,
    scenes: Scenes,
) -> tuple[Tensor, list[str]]:
    """Pictures (N, 3, S, S) in [0, 1] of these rows, and their captions.

    Another seed renders other scenes.
    """
    glyphs, labels = pictures.images_of(rows).float() / 255, pictures.labels[rows]
    images, places = scenes.render(glyphs, labels, Draws(stream(seed, "views"), len(rows)))
    return images, [scenes.captions.texts[place] for place in places.tolist()]
