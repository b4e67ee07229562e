"""Pictures in and out; the only place where [0, 255] meets a model's range.

Tensors are (C, H, W) float32 in [0, 1] here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, PngImagePlugin
from torch import Tensor

from expkit.errors import UserError
from expkit.images import masks, sources
from expkit.storage.files import atomic_write

INK, PAPER, FAINT = (30, 30, 30), (255, 255, 255), (130, 130, 130)


def load_image(name: str, shape: tuple[int, int, int], fit: str = "crop") -> Tensor:
    """A picture from a path, a URL or a shipped name, as a model of this shape (C, H, W) takes it: grey or colour, and its size.

    fit: crop keeps the middle; pad keeps the whole, on each side of it the mean colour of its edge there, for grey models black.
    """
    return as_tensor(
        fit_image(
            sources.open_rgb(name).convert("L" if shape[0] == 1 else "RGB"),
            shape,
            fit,
            Image.Resampling.LANCZOS,
        )
    )


class Mask(NamedTuple):
    """weights: (1, H, W) in [0, 1], how much of each pixel is repainted. repainted, kept: what of the file says so; coarse: how many pixels
    of the picture's side are one of the file's."""

    weights: Tensor
    repainted: str
    kept: str
    coarse: int = 1

    def __str__(self) -> str:
        soft = float(((self.weights > 0) & (self.weights < 1)).float().mean())
        part = f", {soft:.0%} of it in part" if soft >= 0.005 else ""
        coarse = f"; each pixel of the mask is {self.coarse} × {self.coarse} here" if self.coarse > 1 else ""
        return f"mask: {self.repainted} is repainted, {float(self.weights.mean()):.0%} of the picture{part}; {self.kept} is kept{coarse}"


def load_mask(
    name: str, shape: tuple[int, int, int], fit: str = "crop", of: Sequence[str] = (), times: int = 1
) -> Mask:
    """A mask for pictures of this shape: alpha says what is repainted where the file is transparent in part, else white; see `masks`.

    Its sides are the model's or a multiple; or those of the pictures that it is a mask `of`, and then it is fitted as they are. For a
    second stage, whose pictures are `times` as large as the first one's, it may be as small as it may be for the first.
    Edges that are soft stay soft; those of a mask that is shrunk become so, by the area that is white.
    """
    image, repainted, kept = masks.read_mask(sources.decode_image(name), name)
    sizes = {sources.image_size(picture) for picture in of}
    first = (shape[0], shape[1] // times, shape[2] // times)
    own = sources.is_shipped(name) or sizes == {image.size}
    if not (own or is_whole_multiple(image.size, first)):
        raise UserError(
            f"The mask {name} is {image.width} × {image.height} pixels; this model's pictures are {first[2]} × {first[1]}. "
            f"Give a mask of {first[2]} × {first[1]} or a whole multiple of it{or_of(sizes)}, white where the picture is to be repainted."
        )
    coarse = 1 if own or is_whole_multiple(image.size, shape) else times
    size = shape if coarse == 1 else first
    weights = snap_edges(as_levels(fit_image(image, size, fit, Image.Resampling.BOX)))
    if weights.min() == weights.max():
        said = {0.0: "repaints nothing: it is all black", 1.0: "keeps nothing: it is all white"}
        why = said.get(float(weights.max()), "marks no part: it is all of one grey")
        if not repainted.startswith("white"):
            why = f"marks no part of what fit={fit} leaves of it: all of that is repainted, or nothing"
        raise UserError(f"The mask {name} {why}. {repainted.capitalize()} is repainted, {kept} is kept.")
    return Mask(weights.repeat_interleave(coarse, 1).repeat_interleave(coarse, 2), repainted, kept, coarse)


def is_whole_multiple(size: tuple[int, int], shape: tuple[int, int, int]) -> bool:
    """Whether an image of this size is a picture of this shape, or that enlarged a whole number of times."""
    return not (size[0] % shape[2] or size[1] % shape[1]) and size[0] * shape[1] == size[1] * shape[2]


def snap_edges(weights: Tensor) -> Tensor:
    """What is black or white but for rounding is so."""
    return torch.where(weights < 1e-3, 0, torch.where(weights > 1 - 1e-3, 1, weights))


def or_of(sizes: set[tuple[int, int]]) -> str:
    return f", or of the picture's own {' × '.join(map(str, *sizes))}" if len(sizes) == 1 else ""


def fit_image(
    image: Image.Image, shape: tuple[int, int, int], fit: str, how: Image.Resampling
) -> Image.Image:
    """The middle of an image at (C, H, W)'s size; or, to pad, the whole of it between bands, black for grey images."""
    size = (shape[2], shape[1])
    if fit == "crop":
        return ImageOps.fit(image, size, how)
    scale = min(size[0] / image.width, size[1] / image.height)
    inner = image.resize([max(1, round(side * scale)) for side in image.size], how)
    left, top = ((size[i] - inner.size[i]) // 2 for i in (0, 1))
    page = Image.new(image.mode, size)
    if image.mode == "RGB":
        across, down = inner.width, inner.height
        page.paste(mean_colour(inner.crop((0, 0, 1, down))), (0, 0, left, size[1]))
        page.paste(mean_colour(inner.crop((across - 1, 0, across, down))), (left + across, 0, *size))
        page.paste(mean_colour(inner.crop((0, 0, across, 1))), (0, 0, size[0], top))
        page.paste(mean_colour(inner.crop((0, down - 1, across, down))), (0, top + down, *size))
    page.paste(inner, (left, top))
    return page


def mean_colour(image: Image.Image) -> tuple[int, int, int]:
    """The mean colour."""
    return image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))


def as_tensor(image: Image.Image) -> Tensor:
    """(C, H, W) in [0, 1]."""
    array = np.asarray(image, dtype=np.float32) / 255
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())


def as_levels(image: Image.Image) -> Tensor:
    """(1, H, W) of an image in mode F, as it is."""
    return torch.from_numpy(np.array(image, dtype=np.float32))[None]


def as_image(picture: Tensor) -> Image.Image:
    """(1 or 3, H, W) in [0, 1] as a PIL image, rounded to the nearest level."""
    array = (picture.detach().cpu() * 255).round().clamp(0, 255).byte().numpy()
    return Image.fromarray(array[0] if len(array) == 1 else array.transpose(1, 2, 0))


def save_png(image: Image.Image, path: Path, recipe: str, name: str = "") -> None:
    """Write a PNG in one move, with the recipe inside it as text under `expkit`, and its name in its run's folder."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt("expkit", recipe, zip=True)
    info.add_text("expkit_file", name or path.name)
    atomic_write(path, lambda part: image.save(part, format="PNG", pnginfo=info, compress_level=3))


def recipe_of(path: Path) -> str:
    """The recipe inside a PNG or an animated GIF that expkit has written."""
    with Image.open(path) as image:
        comment = image.info.get("comment", b"") if image.format == "GIF" else image.info.get("expkit", "")
    text = comment.decode("utf-8", "replace") if isinstance(comment, bytes) else str(comment)
    if not text:
        raise UserError(
            f"{path} holds no recipe: it was not written by expkit, or something has stripped its text."
        )
    return text


def name_of(path: Path) -> str:
    """What a PNG was called in the folder of its run."""
    with Image.open(path) as image:
        return str(image.info.get("expkit_file", path.name))


def enlarge_pixels(picture: Tensor, side: int) -> Image.Image:
    """Pixels kept as squares, enlarged a whole number of times to about `side` pixels."""
    image = as_image(picture).convert("RGB")
    times = max(1, round(side / image.width))
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
