"""Masks: what part of a picture a file marks to be repainted, as weights in [0, 1], and how the file was read.

    transparent in part      1 − alpha: what is erased is repainted, as image editors mean it
    only white is drawn      alpha: white strokes on a transparent layer are repainted, as they would be on black
    no part transparent      the grey level: white is repainted, black is kept, what is between in part

A colour picture that is nowhere transparent is refused. A scan or a JPEG of a mask is noisy, tinted or neither quite black nor quite
white: where most of its pixels are close to two levels, these are taken for black and white.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from expkit.errors import UserError

SNAP = 8 / 255  # what is as close to black or white is black or white: JPEG's noise
WHITE = 250  # of 255: strokes of this level and above are white
TINT, COLOUR = (
    16,
    64,
)  # of 255, between a pixel's largest and smallest channel: paper's tint is above the one, and below the other
APART, CLOSE = 128, 16  # of 255: two levels that may be a scan's black and white, and the noise around them
STRAY = 1e-3  # of a file: as little as that may be transparent by mistake, at a few stray pixels, and marks no part
SMALL = 512  # pixels of a side: colours are looked at where noise is averaged away


class Weights(NamedTuple):
    """A mask of its file's own size. image: mode F, 0 is kept and 1 repainted; repainted, kept: what a header calls the two."""

    image: Image.Image
    repainted: str
    kept: str


def read_mask(image: Image.Image, name: str) -> Weights:
    """The weights of a decoded file with levels of 8 bits."""
    alpha = alpha_of(image)
    if alpha.max() == 0:
        raise UserError(
            f"The mask {name} is wholly transparent, so it marks no part. Erase only the part that is to be repainted."
        )
    if alpha.min() < alpha.max() and 1 - alpha.mean() >= STRAY:
        colours = np.asarray(image.convert("RGBA"))[..., :3]
        drawn = bool((colours[alpha >= 0.5 * alpha.max()] >= WHITE).all())
        if drawn:
            return Weights(mask_preview(alpha), "what is drawn in white on transparent ground", "the rest")
        return Weights(mask_preview(1 - alpha), "what is transparent in it", "the rest")
    colours = image.convert("RGBA").convert("RGB")
    tinted, coloured = colour_shares(colours)
    grey = np.asarray(colours.convert("L"), dtype=np.float64)
    levels = two_levels(grey)
    if coloured > 0.01 or (tinted > 0.01 and levels is None):
        raise UserError(
            f"The mask {name} is a picture in colour, not a mask: {max(tinted, coloured):.0%} of it is coloured, and nothing is "
            "transparent. Give one in black and white, white where the picture is to be repainted; or a picture that is transparent there."
        )
    if levels and (tinted > 0.01 or is_noisy(grey, levels)):
        dark, light = levels
        said = (
            ""
            if dark < CLOSE and light > 255 - CLOSE
            else f" (level {light:.0f} is taken for white, {dark:.0f} for black)"
        )
        spread = ((grey - dark) / (light - dark)).clip(0, 1)
        return Weights(mask_preview(spread, CLOSE / (light - dark)), f"white{said}", "black")
    return Weights(mask_preview(grey / 255), "white", "black")


def alpha_of(image: Image.Image) -> np.ndarray:
    """(H, W) in [0, 1], 1 all over where nothing is transparent."""
    if not image.has_transparency_data:
        return np.ones(image.size[::-1])
    return snap_levels(np.asarray(image.convert("RGBA").getchannel("A"), dtype=np.float64) / 255)


def snap_levels(weights: np.ndarray, near: float = SNAP) -> np.ndarray:
    return np.where(weights <= near, 0.0, np.where(weights >= 1 - near, 1.0, weights))


def mask_preview(weights: np.ndarray, near: float = SNAP) -> Image.Image:
    return Image.fromarray(snap_levels(weights, near).astype(np.float32))


def colour_shares(image: Image.Image) -> tuple[float, float]:
    """How much of an RGB picture is tinted, and how much is of a colour that no paper has."""
    channels = np.asarray(image.reduce(max(1, -(-max(image.size) // SMALL))), dtype=np.int16)
    spread = channels.max(2) - channels.min(2)
    return float((spread > TINT).mean()), float((spread > COLOUR).mean())


def two_levels(grey: np.ndarray) -> tuple[float, float] | None:
    """The two levels, far apart, that nine tenths of the pixels are close to; None where there are no such two."""
    middle = (grey.min() + grey.max()) / 2
    dark, light = grey[grey <= middle], grey[grey > middle]
    if not light.size or np.median(light) - np.median(dark) < APART:
        return None
    levels = float(np.median(dark)), float(np.median(light))
    close = np.minimum(abs(grey - levels[0]), abs(grey - levels[1])) <= CLOSE
    return levels if close.mean() >= 0.9 else None


def is_noisy(grey: np.ndarray, levels: tuple[float, float]) -> bool:
    """Whether most pixels are only near one of two levels, as a camera or a scanner leaves them; what is drawn is at them."""
    return bool(np.isin(grey, levels).mean() < 0.5)
