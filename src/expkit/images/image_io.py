"""Load and save images and masks; convert between PIL images in [0, 255] and tensors in [0, 1].

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
    """A picture as a tensor of a model's shape (C, H, W), in [0, 1].

    Args:
        name: a path, a URL or the name of a shipped picture.
        shape: (C, H, W); C = 1 converts to grey.
        fit: "crop" keeps the middle. "pad" keeps the whole picture and fills each border with the
            mean colour of the picture's edge at that side; for grey models, with black.
    """
    image = sources.open_rgb(name).convert("L" if shape[0] == 1 else "RGB")
    return as_tensor(fit_image(image, shape, fit, Image.Resampling.LANCZOS))


class LoadedMask(NamedTuple):
    """An inpainting mask and how its file was read.

    weights: (1, H, W) in [0, 1], how much of each pixel is repainted.
    repainted, kept: the descriptions of the file's repainted and unchanged parts.
    coarse: how many pixels of the picture's side one pixel of the file covers.
    """

    weights: Tensor
    repainted: str
    kept: str
    coarse: int = 1

    def __str__(self) -> str:
        soft = float(((self.weights > 0) & (self.weights < 1)).float().mean())
        part = f", {soft:.0%} of it in part" if soft >= 0.005 else ""
        coarse = ""
        if self.coarse > 1:
            coarse = f"; each pixel of the mask is {self.coarse} × {self.coarse} here"
        return (
            f"mask: {self.repainted} is repainted, {float(self.weights.mean()):.0%} of the picture"
            f"{part}; {self.kept} is kept{coarse}"
        )


def load_mask(
    name: str,
    shape: tuple[int, int, int],
    fit: str = "crop",
    of: Sequence[str] = (),
    times: int = 1,
) -> LoadedMask:
    """An inpainting mask for pictures of this shape (C, H, W).

    If the file is partly transparent, its alpha channel is the mask; otherwise white is repainted.
    See `masks`. Soft edges stay soft. Shrinking a mask makes its edges soft (area averages).

    Args:
        name: a path, a URL or the name of a shipped mask. Unless it is shipped, its size must be
            the model's or a whole multiple of it, or that of the pictures in `of`.
        shape: (C, H, W) of the pictures.
        fit: as in `load_image`; a mask with the size of its pictures is fitted as they are.
        of: the names of the pictures that this is a mask of.
        times: for a second stage, the factor by which its pictures are larger than those of the
            first stage. Its mask may be as small as a mask for the first stage.

    Raises:
        UserError: The size does not fit, or all of the mask has one level.
    """
    image, repainted_text, kept_text = masks.read_mask(sources.decode_image(name), name)
    sizes = {sources.image_size(picture) for picture in of}
    first_shape = (shape[0], shape[1] // times, shape[2] // times)
    any_size = sources.is_shipped(name) or sizes == {image.size}
    if not (any_size or is_whole_multiple(image.size, first_shape)):
        size_text = f"{first_shape[2]} × {first_shape[1]}"
        raise UserError(
            f"The mask {name} is {image.width} × {image.height} pixels; "
            f"this model's pictures are {size_text}. "
            f"Give a mask of {size_text} or a whole multiple of it{or_of(sizes)}, "
            "white where the picture is to be repainted."
        )
    coarse = 1 if any_size or is_whole_multiple(image.size, shape) else times
    fitted_shape = shape if coarse == 1 else first_shape
    weights = snap_edges(as_levels(fit_image(image, fitted_shape, fit, Image.Resampling.BOX)))
    if weights.min() == weights.max():
        reasons = {0.0: "repaints nothing: it is all black", 1.0: "keeps nothing: it is all white"}
        reason = reasons.get(float(weights.max()), "marks no part: it is all of one grey")
        if not repainted_text.startswith("white"):
            all_or_nothing = "all of that is repainted, or nothing"
            reason = f"marks no part of what fit={fit} leaves of it: {all_or_nothing}"
        meaning = f"{repainted_text.capitalize()} is repainted, {kept_text} is kept."
        raise UserError(f"The mask {name} {reason}. {meaning}")
    weights = weights.repeat_interleave(coarse, 1).repeat_interleave(coarse, 2)
    return LoadedMask(weights, repainted_text, kept_text, coarse)


def is_whole_multiple(size: tuple[int, int], shape: tuple[int, int, int]) -> bool:
    """Whether a size (width, height) is that of shape (C, H, W), times a whole number."""
    divisible = not (size[0] % shape[2] or size[1] % shape[1])
    return divisible and size[0] * shape[1] == size[1] * shape[2]


def snap_edges(weights: Tensor) -> Tensor:
    """Weights that differ from 0 or 1 only by rounding, set to 0 or 1."""
    return torch.where(weights < 1e-3, 0, torch.where(weights > 1 - 1e-3, 1, weights))


def or_of(sizes: set[tuple[int, int]]) -> str:
    """The words that offer the picture's own size, if there is exactly one."""
    return f", or of the picture's own {' × '.join(map(str, *sizes))}" if len(sizes) == 1 else ""


def fit_image(
    image: Image.Image, shape: tuple[int, int, int], fit: str, how: Image.Resampling
) -> Image.Image:
    """An image at the size of (C, H, W): its middle, or to pad, all of it between borders.

    Borders have the mean colour of the adjacent edge; for grey images they are black.
    """
    size = (shape[2], shape[1])
    if fit == "crop":
        return ImageOps.fit(image, size, how)
    inner = contain_image(image, size, how)
    left, top = ((size[i] - inner.size[i]) // 2 for i in (0, 1))
    page = Image.new(image.mode, size)
    if image.mode == "RGB":
        width, height = inner.size
        right, bottom = left + width, top + height
        page.paste(mean_colour(inner.crop((0, 0, 1, height))), (0, 0, left, size[1]))
        page.paste(mean_colour(inner.crop((width - 1, 0, width, height))), (right, 0, *size))
        page.paste(mean_colour(inner.crop((0, 0, width, 1))), (0, 0, size[0], top))
        page.paste(mean_colour(inner.crop((0, height - 1, width, height))), (0, bottom, *size))
    page.paste(inner, (left, top))
    return page


def contain_image(
    image: Image.Image, size: tuple[int, int], how: Image.Resampling = Image.Resampling.LANCZOS
) -> Image.Image:
    """The picture resized, with its aspect ratio, to the largest size that fits into `size`.

    Not PIL's ImageOps.contain, which fails for a strip such as 3000 × 2 into 160 × 160: it asks for
    a height of 0. Of 400,000 other pairs of sizes, 18 differ by a pixel.
    """
    scale = min(size[0] / image.width, size[1] / image.height)
    width = max(1, round(image.width * scale))
    height = max(1, round(image.height * scale))
    return image.resize((width, height), how)


def mean_colour(image: Image.Image) -> tuple[int, int, int]:
    """The mean colour of an RGB image."""
    colour = image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    assert isinstance(colour, tuple) and len(colour) == 3  # it is an RGB image
    return colour


def as_tensor(image: Image.Image) -> Tensor:
    """A PIL image with 8-bit levels as (C, H, W) in [0, 1]."""
    array = np.asarray(image, dtype=np.float32) / 255
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())


def as_levels(image: Image.Image) -> Tensor:
    """A PIL image of mode F as (1, H, W), values unchanged."""
    return torch.from_numpy(np.array(image, dtype=np.float32))[None]


def as_image(picture: Tensor) -> Image.Image:
    """(1 or 3, H, W) in [0, 1] as a PIL image, rounded to the nearest 8-bit level."""
    array = (picture.detach().cpu() * 255).round().clamp(0, 255).byte().numpy()
    return Image.fromarray(array[0] if len(array) == 1 else array.transpose(1, 2, 0))


def save_png(image: Image.Image, path: Path, recipe: str, name: str = "") -> None:
    """Write a PNG atomically, with two text entries.

    `expkit` is the recipe. `expkit_file` is the file's name in its run's folder.
    """
    info = PngImagePlugin.PngInfo()
    info.add_itxt("expkit", recipe, zip=True)
    info.add_text("expkit_file", name or path.name)
    options = {"format": "PNG", "pnginfo": info, "compress_level": 3}
    atomic_write(path, lambda temporary: image.save(temporary, **options))


def recipe_of(path: Path) -> str:
    """The recipe inside a PNG or an animated GIF that expkit has written."""
    with Image.open(path) as image:
        is_gif = image.format == "GIF"
        comment = image.info.get("comment", b"") if is_gif else image.info.get("expkit", "")
    text = comment.decode("utf-8", "replace") if isinstance(comment, bytes) else str(comment)
    if not text:
        reason = "it was not written by expkit, or something has stripped its text"
        raise UserError(f"{path} holds no recipe: {reason}.")
    return text


def name_of(path: Path) -> str:
    """The name that a PNG had in the folder of its run."""
    with Image.open(path) as image:
        return str(image.info.get("expkit_file", path.name))


def enlarge_pixels(picture: Tensor, side: int) -> Image.Image:
    """The picture enlarged by a whole factor to about `side` pixels, so that pixels stay square."""
    image = as_image(picture).convert("RGB")
    times = max(1, round(side / image.width))
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
