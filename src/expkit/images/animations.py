"""Pictures that move: an anagram that turns, one reading that fades into another, a picture as it comes out of the noise.

Frames are PIL images of one size; `save_gif` writes them as a GIF, which browsers, slides and file viewers all play.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, cos, hypot, pi
from pathlib import Path

from PIL import Image
from torch import Tensor

from expkit.images import text_drawing
from expkit.images.image_io import INK, PAPER, enlarge_pixels
from expkit.images.labels import WHOLE, shorten_texts
from expkit.storage.files import atomic_write


def save_gif(
    frames: Sequence[Image.Image],
    path: Path,
    recipe: str,
    seconds_per_frame: float = 0.06,
    seconds_at_end: float = 1.2,
) -> None:
    """Write RGB frames as a GIF that loops and rests on its last frame, in one move, with the recipe inside it as a comment.

    Each frame has 256 colours of its own and is not dithered: grey levels and enlarged pixels stay as they are.
    """
    small = {
        id(frame): frame.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE) for frame in frames
    }
    first, *others = [small[id(frame)] for frame in frames]
    times = [round(1000 * seconds_per_frame)] * len(others) + [round(1000 * seconds_at_end)]
    atomic_write(
        path,
        lambda part: first.save(
            part, "GIF", save_all=True, append_images=others, duration=times, loop=0, comment=recipe.encode()
        ),
    )


def turn_frames(
    picture: Tensor,
    degrees: float = 180,
    captions: Sequence[str] = ("", ""),
    side: int = 336,
    steps: int = 24,
    hold: int = 15,
) -> list[Image.Image]:
    """A picture (C, H, W) that turns clockwise by `degrees` and back, resting at both ends, its two readings as captions below."""
    tile = enlarge_pixels(picture, side)
    margin = ceil((hypot(*tile.size) - tile.width) / 2)
    page = center_on_paper(tile, (tile.width + 2 * margin, tile.height + 2 * margin))

    def at(part: float) -> Image.Image:
        return page.rotate(-degrees * part, Image.Resampling.BICUBIC, fillcolor=PAPER)

    return there_and_back(at, captions, steps, hold)


def fade_frames(
    first: Tensor,
    second: Tensor,
    captions: Sequence[str] = ("", ""),
    side: int = 336,
    steps: int = 16,
    hold: int = 15,
) -> list[Image.Image]:
    """A reading (C, H, W) that fades into another and back, resting at both ends: for views that are no turns."""
    tiles = [enlarge_pixels(picture, side) for picture in (first, second)]
    return there_and_back(lambda part: Image.blend(*tiles, part), captions, steps, hold)


def there_and_back(
    at: Callable[[float], Image.Image], captions: Sequence[str], steps: int, hold: int
) -> list[Image.Image]:
    """at(0), resting; to at(1), resting twice as long; back to at(0), on which `save_gif` rests before it begins again."""
    eased = [(1 - cos(pi * step / steps)) / 2 for step in range(1, steps)]
    parts = [0.0] * hold + eased + [1.0] * (2 * hold) + eased[::-1] + [0.0]
    captions = shorten_texts(captions, WHOLE)
    height = max(add_caption(at(0), caption).height for caption in captions)
    made = {part: add_caption(at(part), captions[part > 0.5], height) for part in set(parts)}
    return [made[part] for part in parts]


def add_caption(image: Image.Image, caption: str, height: int = 0) -> Image.Image:
    """An image with words under it, at least `height` pixels high in all."""
    words = text_drawing.wrap_text(caption, 18, image.width - 16)
    lines = words.count("\n") + 1 if caption else 0
    page = center_on_paper(
        image, (image.width, max(height, image.height + lines * 24 + 16 * bool(caption))), top=0
    )
    text_drawing.draw_text(page, (image.width / 2, image.height + 8), words, 18, INK, "ma", spacing=6)
    return page


def center_on_paper(image: Image.Image, size: tuple[int, int], top: int | None = None) -> Image.Image:
    """An image on paper of this size, in its middle or at its top."""
    page = Image.new("RGB", size, PAPER)
    page.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2 if top is None else top))
    return page
