"""Drawings, masks and uploads from the page of `expkit app`, as files in outputs/app.

The name of a file contains a hash of its pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops

from expkit.errors import UserError
from expkit.images import sources
from expkit.storage.files import atomic_write, short_hash

FOLDER = Path("outputs/app")
SIDE = 448  # pixels of the sides of the canvas: 16 times those of a digit
MAX_SIDE = 1024  # pixels of the longer side of an uploaded picture at most
MIN_ALPHA = 64  # alpha, of 255: fainter strokes do not count as paint
BLANK = "a blank sheet"


def save_upload(image: Image.Image, kind: str) -> str:
    """Save a picture, unless its file exists already, and return the path of the file.

    Args:
        image: the picture.
        kind: the beginning of the file's name.
    """
    shape = f"{image.mode} {image.size} ".encode()
    path = FOLDER / f"{kind}-{short_hash(shape + image.tobytes())}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        atomic_write(path, lambda part: image.save(part, format="PNG"))
    return path.as_posix()


def save_sketch(sheet: Mapping | None) -> str:
    """Save a drawing, in grey if it has no colours, and return its path.

    Args:
        sheet: the value of a `gr.ImageEditor`: its background, layers and composite.

    Raises:
        UserError: if the sheet is empty or has one colour.
    """
    image = sheet["composite"].convert("RGB") if sheet and sheet["composite"] else None
    # getcolors returns None if there are more than two colours
    if image is None or len(image.getcolors(2) or ()) == 1:
        remedy = "draw on the sheet, or begin with a picture, and run again."
        raise UserError(f"Nothing is drawn yet: {remedy}")
    return save_upload(image.convert("L") if is_grey(image) else image, "sketch")


def save_mask(sheet: Mapping | None, size: tuple[int, int]) -> str:
    """Save a mask that is white where the user has painted, and return its path.

    Args:
        sheet: the value of a `gr.ImageEditor`.
        size: (width, height) of the mask in pixels.

    Raises:
        UserError: if nothing or the whole picture is painted.
    """
    if sheet and sheet["background"]:
        layer = paint_thickness(sheet)
    else:
        layer = Image.new("L", size)
    mask = layer.point([255 * (level >= MIN_ALPHA) for level in range(256)])
    mask = mask.resize(size, Image.Resampling.BOX)
    mask = mask.point([255 * (level >= 128) for level in range(256)])
    if mask.getextrema()[1] == 0:
        raise UserError(
            "Nothing is painted yet: paint over the part of the picture "
            "that is to be repainted, and run again."
        )
    if mask.getextrema()[0] == 255:
        raise UserError(
            "All of the picture is painted over, so nothing of it would stay: "
            "erase some of the paint, and run again."
        )
    return save_upload(mask, "mask")


def paint_thickness(sheet: Mapping) -> Image.Image:
    """The largest alpha of the strokes in all layers at each pixel, 0 to 255, as a grey picture."""
    alphas = [np.asarray(layer.convert("RGBA").getchannel("A")) for layer in sheet["layers"]]
    if not alphas:
        return Image.new("L", sheet["background"].size)
    return Image.fromarray(np.max(alphas, axis=0))


def copy_upload(path: str) -> str:
    """Copy an uploaded picture, made smaller if needed, and return the path of the copy."""
    image = sources.open_rgb(path)
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    return save_upload(image, "picture")


def blank_sheet(paper: str) -> Image.Image:
    """An empty canvas of this colour."""
    return Image.new("RGB", (SIDE, SIDE), paper)


def load_canvas(name: str) -> Image.Image:
    """A picture as the canvas to paint on; a small one is enlarged by a whole number."""
    image = sources.open_rgb(name)
    factor = max(1, SIDE // max(image.size))
    enlarged_size = (image.width * factor, image.height * factor)
    return image.resize(enlarged_size, Image.Resampling.NEAREST)


def paper_of(known: Mapping) -> str:
    """The colour of the paper to draw on.

    It is black if the model's own example of a sketch is grey, as digits are white on black; else
    it is white.

    Args:
        known: the resolved configuration.
    """
    example = sources.open_rgb(known["model"]["examples"]["sketch"])
    return "black" if is_grey(example) else "white"


def is_grey(image: Image.Image) -> bool:
    """Whether an RGB picture has no colours, only greys."""
    red, green, blue = image.split()
    return not any(ImageChops.difference(red, other).getbbox() for other in (green, blue))
