"""Animations: an anagram that rotates, one image that fades into another, a denoising trajectory.

Frames are PIL images of one size. `save_gif` writes them as a GIF, which browsers, slide programs
and file viewers all play.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, cos, hypot, pi
from pathlib import Path

from PIL import Image
from torch import Tensor

from expkit.images import text_drawing
from expkit.images.image_io import INK, PAPER, enlarge_pixels
from expkit.images.labels import MAX_WRAPPED_LABEL, shorten_texts
from expkit.storage.files import atomic_write


def save_gif(
    frames: Sequence[Image.Image],
    path: Path,
    recipe: str,
    seconds_per_frame: float = 0.06,
    seconds_at_end: float = 1.2,
) -> None:
    """Write RGB frames atomically as a GIF that loops and pauses on its last frame.

    The recipe is stored as the GIF's comment. Each frame has its own palette of 256 colours and is
    not dithered, so that grey levels and enlarged pixels stay unchanged.
    """
    median_cut, no_dither = Image.Quantize.MEDIANCUT, Image.Dither.NONE
    distinct = {id(frame): frame for frame in frames}  # held frames are one image, repeated
    for key, frame in distinct.items():
        distinct[key] = frame.quantize(256, median_cut, dither=no_dither)
    first, *others = [distinct[id(frame)] for frame in frames]
    durations = [round(1000 * seconds_per_frame)] * len(others) + [round(1000 * seconds_at_end)]
    options = {
        "save_all": True,
        "append_images": others,
        "duration": durations,
        "loop": 0,
        "comment": recipe.encode(),
    }
    atomic_write(path, lambda temporary: first.save(temporary, "GIF", **options))


def turn_frames(
    picture: Tensor,
    degrees: float = 180,
    captions: Sequence[str] = ("", ""),
    side: int = 336,
    steps: int = 24,
    hold: int = 15,
) -> list[Image.Image]:
    """Frames of a picture (C, H, W) that rotates clockwise by `degrees` and back.

    It pauses for `hold` frames at both ends. The captions below name what it shows at either end.
    """
    tile = enlarge_pixels(picture, side)
    margin = ceil((hypot(*tile.size) - tile.width) / 2)
    page = center_on_paper(tile, (tile.width + 2 * margin, tile.height + 2 * margin))

    def rotated(fraction: float) -> Image.Image:
        return page.rotate(-degrees * fraction, Image.Resampling.BICUBIC, fillcolor=PAPER)

    return there_and_back(rotated, captions, steps, hold)


def fade_frames(
    first: Tensor,
    second: Tensor,
    captions: Sequence[str] = ("", ""),
    side: int = 336,
    steps: int = 16,
    hold: int = 15,
) -> list[Image.Image]:
    """Frames of a picture (C, H, W) that fades into a second one and back, pausing at both ends.

    For views that are not rotations.
    """
    start, end = (enlarge_pixels(picture, side) for picture in (first, second))
    return there_and_back(lambda fraction: Image.blend(start, end, fraction), captions, steps, hold)


def there_and_back(
    at: Callable[[float], Image.Image], captions: Sequence[str], steps: int, hold: int
) -> list[Image.Image]:
    """Frames from at(0) to at(1) and back to at(0), with cosine easing and a caption below each.

    at(0) is held for `hold` frames, at(1) for twice as many. The last frame is at(0) once, because
    `save_gif` pauses on it before the loop restarts.
    """
    easing = [(1 - cos(pi * step / steps)) / 2 for step in range(1, steps)]
    fractions = [0.0] * hold + easing + [1.0] * (2 * hold) + easing[::-1] + [0.0]
    captions = shorten_texts(captions, MAX_WRAPPED_LABEL)
    height = max(add_caption(at(0), caption).height for caption in captions)
    frames = {}
    for fraction in set(fractions):
        frames[fraction] = add_caption(at(fraction), captions[fraction > 0.5], height)
    return [frames[fraction] for fraction in fractions]


def add_caption(image: Image.Image, caption: str, height: int = 0) -> Image.Image:
    """The image with a caption below it, at least `height` pixels high in total."""
    text = text_drawing.wrap_text(caption, 18, image.width - 16)
    caption_height = (text.count("\n") + 1) * 24 + 16 if caption else 0
    page = center_on_paper(image, (image.width, max(height, image.height + caption_height)), top=0)
    place = (image.width / 2, image.height + 8)
    text_drawing.draw_text(page, place, text, 18, INK, "ma", spacing=6)
    return page


def center_on_paper(
    image: Image.Image,
    size: tuple[int, int],
    top: int | None = None,
) -> Image.Image:
    """The image on a blank page of this size: centred, or `top` pixels below the top edge."""
    page = Image.new("RGB", size, PAPER)
    left = (size[0] - image.width) // 2
    if top is None:
        top = (size[1] - image.height) // 2
    page.paste(image, (left, top))
    return page
