"""What is drawn, painted and uploaded on the page of `expkit app`, as files in outputs/app/ named by what they show."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops

from expkit.errors import UserError
from expkit.images import sources
from expkit.storage.files import atomic_write

FOLDER = Path("outputs/app")
SIDE = 448  # pixels of what is drawn on: 16 times a digit's
MOST = 1024  # pixels of the longer side of an uploaded picture
THERE = 64  # of 255: paint thinner than this is no paint
BLANK = "a blank sheet"


def save_upload(image: Image.Image, kind: str) -> str:
    """The path of a picture that is kept."""
    shape = f"{image.mode} {image.size} ".encode()
    path = FOLDER / f"{kind}-{hashlib.blake2b(shape + image.tobytes(), digest_size=6).hexdigest()}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        atomic_write(path, lambda part: image.save(part, format="PNG"))
    return path.as_posix()


def save_sketch(sheet: Mapping | None) -> str:
    """The path of what is drawn; a blank sheet is refused."""
    image = sheet["composite"].convert("RGB") if sheet and sheet["composite"] else None
    if image is None or len(image.getcolors(2) or "many") == 1:
        raise UserError("Nothing is drawn yet: draw on the sheet, or begin with a picture, and run again.")
    return save_upload(image.convert("L") if is_grey(image) else image, "sketch")


def save_mask(sheet: Mapping | None, size: tuple[int, int]) -> str:
    """The path of a mask of this size, white where paint lies; refused where there is none, or nothing else."""
    layer = paint_thickness(sheet) if sheet and sheet["background"] else Image.new("L", size)
    white = (
        layer.point(lambda level: 255 * (level >= THERE))
        .resize(size, Image.Resampling.BOX)
        .point(lambda level: 255 * (level >= 128))
    )
    if white.getextrema()[1] == 0:
        raise UserError(
            "Nothing is painted yet: paint over the part of the picture that is to be repainted, and run again."
        )
    if white.getextrema()[0] == 255:
        raise UserError(
            "All of the picture is painted over, so nothing of it would stay: erase some of the paint, and run again."
        )
    return save_upload(white, "mask")


def paint_thickness(sheet: Mapping) -> Image.Image:
    """How thick the strokes of all layers lie, 0 to 255."""
    layers = [np.asarray(layer.convert("RGBA").getchannel("A")) for layer in sheet["layers"]]
    return Image.fromarray(np.max(layers, axis=0)) if layers else Image.new("L", sheet["background"].size)


def copy_upload(path: str) -> str:
    """The path of an uploaded picture's copy, which is no larger than it need be."""
    image = sources.open_rgb(path)
    image.thumbnail((MOST, MOST))
    return save_upload(image, "picture")


def blank_sheet(paper: str) -> Image.Image:
    return Image.new("RGB", (SIDE, SIDE), paper)


def load_canvas(name: str) -> Image.Image:
    """A picture as it is painted on: a small one enlarged a whole number of times."""
    image = sources.open_rgb(name)
    times = max(1, SIDE // max(image.size))
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def paper_of(known: Mapping) -> str:
    """The colour that is drawn on: black for models whose own sketch is grey, as digits are white on black; else white."""
    return "black" if is_grey(sources.open_rgb(known["model"]["examples"]["sketch"])) else "white"


def is_grey(image: Image.Image) -> bool:
    """Whether an RGB picture has no colours."""
    red, green, blue = image.split()
    return not any(ImageChops.difference(red, other).getbbox() for other in (green, blue))
