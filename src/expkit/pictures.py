"""Pictures in and out; the only place where [0, 255] meets a model's range.

Tensors are (C, H, W) float32 in [0, 1] here; `to_range` and `from_range` go to a model's range and back.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFile, ImageFont, ImageOps, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from expkit.errors import Refusal

MOST_PIXELS = 100_000_000
ASSETS = Path(__file__).parent / "assets"
INK, PAPER, FAINT = (30, 30, 30), (255, 255, 255), (130, 130, 130)


def to_range(image: Tensor, limits: tuple[float, float]) -> Tensor:
    return limits[0] + (limits[1] - limits[0]) * image


def from_range(image: Tensor, limits: tuple[float, float]) -> Tensor:
    """A model's values as [0, 1], cut off at both ends."""
    return ((image - limits[0]) / (limits[1] - limits[0])).clamp(0, 1)


def find(name: str) -> Path:
    """A picture's file: a path, or the name of one that ships with expkit."""
    path, ours = Path(name).expanduser(), ASSETS / f"{name}.png"
    if path.is_file() or not ours.is_file():
        return path
    return ours


def load(name: str, shape: tuple[int, int, int]) -> Tensor:
    """A picture as a model of this shape (C, H, W) takes it: turned by EXIF, centre-cropped to a square, resized, grey or colour."""
    image = ImageOps.fit(_opened(name), (shape[2], shape[1]), Image.Resampling.LANCZOS)
    image = image.convert("L" if shape[0] == 1 else "RGB")
    return as_tensor(image)


def load_mask(name: str, shape: tuple[int, int, int]) -> Tensor:
    """A mask (1, H, W) of 0 and 1, 1 where white, which is where it is repainted. Its sides must be the model's or a multiple."""
    image = _opened(name).convert("L")
    height, width = shape[1:]
    if image.width % width or image.height % height or image.width * height != image.height * width:
        raise Refusal(
            f"The mask {name} is {image.width} × {image.height} pixels; this model's pictures are {width} × {height}. "
            f"Give a mask of {width} × {height} or a whole multiple of it, white where the picture is to be repainted."
        )
    mask = (as_tensor(image.resize((width, height), Image.Resampling.BOX)) >= 0.5).float()
    if mask.min() == mask.max():
        what = "repaints nothing: it is all black" if mask.max() == 0 else "keeps nothing: it is all white"
        raise Refusal(f"The mask {name} {what}. White is repainted, black is kept.")
    return mask


def _opened(name: str) -> Image.Image:
    path = find(name)
    ours = ", ".join(sorted(p.stem for p in ASSETS.glob("*.png")))
    if not path.exists():
        raise Refusal(f"There is no picture {name!r}. Give a file's path, or one of the pictures that ship with expkit: {ours}.")
    Image.MAX_IMAGE_PIXELS = None  # the limit is ours, below, and is checked before anything is decoded
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        image = Image.open(path)
        if image.width * image.height > MOST_PIXELS:
            raise Refusal(f"The picture {name} is {image.width} × {image.height} pixels, more than 100 megapixels: make it smaller.")
        image = ImageOps.exif_transpose(image)
        flat = image.convert("RGBA")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise Refusal(f"The picture {name} cannot be read ({error}). Expected a PNG, JPEG, WebP, GIF or BMP file.") from None
    return Image.alpha_composite(Image.new("RGBA", flat.size, "white"), flat).convert("RGB")


def as_tensor(image: Image.Image) -> Tensor:
    """(C, H, W) in [0, 1]."""
    array = np.asarray(image, dtype=np.float32) / 255
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())


def as_image(picture: Tensor) -> Image.Image:
    """(1 or 3, H, W) in [0, 1] as a PIL image, rounded to the nearest level."""
    array = (picture.detach().cpu() * 255).round().clamp(0, 255).byte().numpy()
    return Image.fromarray(array[0] if len(array) == 1 else array.transpose(1, 2, 0))


def save(image: Image.Image, path: Path, recipe: str) -> None:
    """Write a PNG in one move, with the recipe inside it as text under `expkit`."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt("expkit", recipe, zip=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    image.save(part, format="PNG", pnginfo=info)
    os.replace(part, path)


def recipe_of(path: Path) -> str:
    """The recipe inside a PNG that expkit has written."""
    text = Image.open(path).text.get("expkit")
    if text is None:
        raise Refusal(f"{path} holds no recipe: it was not written by expkit, or something has stripped its text.")
    return str(text)


def font(size: int) -> ImageFont.ImageFont:
    return ImageFont.load_default(size)


def enlarged(picture: Tensor, side: int) -> Image.Image:
    """Pixels kept as squares, enlarged a whole number of times to about `side` pixels."""
    image = as_image(picture).convert("RGB")
    times = max(1, round(side / image.width))
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def sheet(
    rows: Sequence[Sequence[Tensor]], down: Sequence[str] = (), across: Sequence[str] = (), title: str = "", note: str = "", side: int = 0
) -> Image.Image:
    """Rows of pictures of one size, with a label before each row, above each column, a title over all and a note under it."""
    widest = max(len(row) for row in rows)
    side = side or max(56, min(168, 1900 // widest, 1500 // len(rows)))
    tiles = [[enlarged(picture, side) for picture in row] for row in rows]
    width, height = tiles[0][0].size
    small, large = font(max(13, min(18, width // 7))), font(22)
    gap, margin = max(4, width // 24), 16
    left = margin + max([round(small.getlength(text)) for text in down] + [0]) + (10 if down else 0)
    across = [wrapped(text, small, width) for text in across]
    line = small.size + 4
    head = max([text.count("\n") + 1 for text in across] + [0]) * line + (6 if across else 0)
    total_width = max(left + widest * (width + gap) - gap + margin, 520 if title or note else 0)
    words, foot = wrapped(title, large, total_width - 2 * margin), wrapped(note, small, total_width - 2 * margin)
    top = margin + (words.count("\n") + 1) * (large.size + 6) * bool(title) + head
    bottom = margin + (foot.count("\n") + 1) * line * bool(note)
    page = Image.new("RGB", (total_width, top + len(rows) * (height + gap) - gap + bottom), PAPER)
    draw = ImageDraw.Draw(page)
    draw.multiline_text((margin, margin - 4), words, INK, large, spacing=6)
    for column, text in enumerate(across):
        draw.multiline_text((left + column * (width + gap) + width / 2, top - 6), text, INK, small, anchor="md", align="center", spacing=2)
    for number, row in enumerate(tiles):
        y = top + number * (height + gap)
        if down:
            draw.text((left - 10, y + height / 2), down[number], INK, small, anchor="rm")
        for column, tile in enumerate(row):
            page.paste(tile, (left + column * (width + gap), y))
    draw.multiline_text((margin, page.height - bottom + 6), foot, FAINT, small, spacing=2)
    return page


def wrapped(text: str, face: ImageFont.ImageFont, width: float) -> str:
    """The text in lines no wider than `width` pixels, broken at spaces."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if face.getlength(longer) <= width or not lines[-1] else [*lines, word]
    return "\n".join(lines)
