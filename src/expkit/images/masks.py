"""Masks: the part of a picture to be repainted, read from a file as weights in [0, 1].

    partly transparent, and only white drawn    alpha: white strokes on a transparent layer are
                                                repainted, as they would be on black
    partly transparent otherwise                1 − alpha: the erased part is repainted, the
                                                convention of image editors
    not transparent                             the grey level: white is repainted, black is kept,
                                                levels between are repainted in part

A colour picture without transparency is refused. A scan or a JPEG of a mask is noisy, tinted, or
neither quite black nor quite white: if most of its pixels are close to two levels, these are read
as black and white.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from expkit.errors import UserError

SNAP = 8 / 255  # weights this close to 0 or 1 are set to 0 or 1: JPEG noise
WHITE = 250  # of 255: strokes of this level and above are white
# Of 255, largest minus smallest channel of a pixel: tinted paper lies between these two.
TINT, COLOUR = 16, 64
# Of 255: the smallest distance of a scan's black and white levels; the noise around each of them.
APART, CLOSE = 128, 16
# Fraction of a file: transparency below it, a few stray pixels, is a mistake and marks no part.
STRAY = 1e-3
SMALL = 512  # pixels of a side: colours are measured on a reduced image, where noise averages out


class DecodedMask(NamedTuple):
    """A mask at the size of its file.

    image: mode F, 0 is kept and 1 is repainted. repainted, kept: descriptions of the two parts.
    """

    image: Image.Image
    repainted: str
    kept: str


def read_mask(image: Image.Image, name: str) -> DecodedMask:
    """The weights of a decoded 8-bit image.

    Raises:
        UserError: The image is wholly transparent, or in colour and not transparent.
    """
    alpha = alpha_of(image)
    if alpha.max() == 0:
        raise UserError(
            f"The mask {name} is wholly transparent, so it marks no part. "
            "Erase only the part that is to be repainted."
        )
    if alpha.min() < alpha.max() and 1 - alpha.mean() >= STRAY:
        pixels = np.asarray(image.convert("RGBA"))[..., :3]
        white_strokes = bool((pixels[alpha >= 0.5 * alpha.max()] >= WHITE).all())
        if white_strokes:
            description = "what is drawn in white on transparent ground"
            return DecodedMask(weights_image(alpha), description, "the rest")
        return DecodedMask(weights_image(1 - alpha), "what is transparent in it", "the rest")
    colours = image.convert("RGBA").convert("RGB")
    tinted_share, coloured_share = colour_shares(colours)
    grey = np.asarray(colours.convert("L"), dtype=np.float64)
    levels = two_levels(grey)
    if coloured_share > 0.01 or (tinted_share > 0.01 and levels is None):
        raise UserError(
            f"The mask {name} is a picture in colour, not a mask: "
            f"{max(tinted_share, coloured_share):.0%} of it is coloured, "
            "and nothing is transparent. "
            "Give one in black and white, white where the picture is to be repainted; "
            "or a picture that is transparent there."
        )
    if levels and (tinted_share > 0.01 or is_noisy(grey, levels)):
        dark, light = levels
        note = ""
        if dark >= CLOSE or light <= 255 - CLOSE:
            note = f" (level {light:.0f} is taken for white, {dark:.0f} for black)"
        weights = ((grey - dark) / (light - dark)).clip(0, 1)
        return DecodedMask(weights_image(weights, CLOSE / (light - dark)), f"white{note}", "black")
    return DecodedMask(weights_image(grey / 255), "white", "black")


def alpha_of(image: Image.Image) -> np.ndarray:
    """The alpha channel, (H, W) in [0, 1]; 1 everywhere if the image has no transparency."""
    if not image.has_transparency_data:
        return np.ones(image.size[::-1])
    return snap_levels(np.asarray(image.convert("RGBA").getchannel("A"), dtype=np.float64) / 255)


def snap_levels(weights: np.ndarray, near: float = SNAP) -> np.ndarray:
    """Weights with those within `near` of 0 or 1 set to 0 or 1."""
    return np.where(weights <= near, 0.0, np.where(weights >= 1 - near, 1.0, weights))


def weights_image(weights: np.ndarray, near: float = SNAP) -> Image.Image:
    """Snapped weights as an image of mode F."""
    return Image.fromarray(snap_levels(weights, near).astype(np.float32))


def colour_shares(image: Image.Image) -> tuple[float, float]:
    """The fractions of an RGB picture that are tinted, and that are too colourful to be paper."""
    channels = np.asarray(image.reduce(max(1, -(-max(image.size) // SMALL))), dtype=np.int16)
    spread = channels.max(2) - channels.min(2)
    return float((spread > TINT).mean()), float((spread > COLOUR).mean())


def two_levels(grey: np.ndarray) -> tuple[float, float] | None:
    """Two distant levels, dark and light, that nine tenths of the pixels are close to, or None."""
    middle = (grey.min() + grey.max()) / 2
    dark, light = grey[grey <= middle], grey[grey > middle]
    if not light.size or np.median(light) - np.median(dark) < APART:
        return None
    levels = float(np.median(dark)), float(np.median(light))
    close = np.minimum(abs(grey - levels[0]), abs(grey - levels[1])) <= CLOSE
    return levels if close.mean() >= 0.9 else None


def is_noisy(grey: np.ndarray, levels: tuple[float, float]) -> bool:
    """Whether most pixels are not exactly at one of two levels.

    Those of a scan or a photo are only near them; those of a drawing are at them.
    """
    return bool(np.isin(grey, levels).mean() < 0.5)
