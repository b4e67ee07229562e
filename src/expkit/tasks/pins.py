"""What must stay, as tasks speak of it: a picture for a time, the black of a mask, the low frequencies of a photograph.

Each is called (model, grid, …, times) -> Pinned; times says how many times as large as the first stage's this model's pictures are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from expkit.core.denoiser import Denoiser
from expkit.core.maps import LinearMap, Mask
from expkit.core.pin import Pin
from expkit.core.schedules import CLEAN
from expkit.core.timesteps import descent, strength
from expkit.errors import UserError
from expkit.images import image_io, sources


@dataclass(frozen=True)
class Pinned:
    """A pin; the pictures that go with it on the sheet, {label: (1 or B, C, H, W) in [0, 1]}; what the numbers hold.

    starts: where on the grid each picture starts, or all of them. notes: what the header says besides. returned: (1 or B, 1, H, W) in
    [0, 1], how much of each pixel of `source` is in the result as it is; None where the state says all, as it does of pinned pixels.
    """

    pin: Pin | None = None
    before: Mapping[str, Tensor] = field(default_factory=dict)
    after: Mapping[str, Tensor] = field(default_factory=dict)
    numbers: Mapping = field(default_factory=dict)
    starts: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    source: Tensor | None = None
    returned: Tensor | None = None

    def only(self, rows: Sequence[int]) -> Pinned:
        """What is pinned of these of the run's pictures, as far as it is shown and told."""
        before, after = (
            {k: v[list(rows)] if len(v) > 1 else v for k, v in shown.items()}
            for shown in (self.before, self.after)
        )
        here = {self.starts[row] for row in rows} if len(self.starts) > 1 else set(self.starts)
        starts = [start for start in self.numbers.get("starts", []) if start["i_start"] in here]
        return Pinned(
            self.pin and self.pin.only(rows),
            before,
            after,
            self.numbers | {"starts": starts} if starts else self.numbers,
        )

    def finish(self, images: Tensor) -> Tensor:
        """Finished pictures (B, C, H, W) in [0, 1] with that part of the source in them that the state cannot hold to the byte."""
        if self.returned is None:
            return images
        return torch.where(
            self.returned == 1, self.source, self.returned * self.source + (1 - self.returned) * images
        )


def no_pin(model: Denoiser, grid: Sequence[int], times: int = 1) -> Pinned:
    """Nothing must stay."""
    return Pinned()


def pin_whole(
    model: Denoiser,
    grid: Sequence[int],
    image: str | Sequence[str],
    i_start: int | Sequence[int] | None,
    fit: str = "crop",
    times: int = 1,
) -> Pinned:
    """SDEdit: the whole picture, until the level at index i_start of the grid. With lists, one a picture.

    The index is that of `grids.descent`: where a grid goes up again, i_start means the same levels as where it does not. At the grid's end
    (its last index, or None) the picture is given back as it is. A second stage only shows it.
    """
    source, down = load_images(image, model, fit), descent(grid)
    if times > 1:
        return Pinned(after={"original": source})
    last = len(down) - 1
    starts = [last if i is None else i for i in (i_start if isinstance(i_start, Sequence) else [i_start])]
    if late := [i for i in starts if i > last]:
        raise UserError(
            f"i_start={late[0]} is past the end of a grid of {last} updates: give 0 (noise) to {last} (the picture)."
        )
    table = [{"i_start": i, "t": down[i], "strength": strength(i, down)} for i in dict.fromkeys(starts)]
    pin = Pin(model.encode(source), until=tuple(CLEAN if i == last else down[i] for i in starts))
    ended = torch.tensor([float(i == last) for i in starts])[:, None, None, None]
    returned = {"source": source, "returned": ended} if ended.any() else {}
    return Pinned(
        pin, {}, {"original": source}, {"starts": table}, tuple(starts), paper_notes(image), **returned
    )


def around_mask(
    model: Denoiser,
    grid: Sequence[int],
    image: str | Sequence[str],
    mask: str,
    at_first: bool = False,
    fit: str = "crop",
    times: int = 1,
) -> Pinned:
    """Inpainting: what the mask keeps stays, for all time; the rest is repainted, in part where the mask is soft. See `pictures.load_mask`.

    A latent is repainted as much as the most repainted of its pixels; what is kept of the pixels is put back when they are decoded.
    """
    source, read = (
        load_images(image, model, fit),
        image_io.load_mask(mask, model.image_shape, fit, as_list(image), times),
    )
    hole = read.weights
    pin = Pin(
        model.encode(source),
        Mask(1 - adaptive_max_pool2d(hole, model.shape[1:])),
        at_first=at_first,
        note=str(read),
    )
    before = {
        "original": source,
        "mask: white is repainted": hole[None].expand_as(source[:1]),
        "to repaint": source * hole,
    }
    numbers = {"share_repainted": round(float(hole.mean()), 4), "mask_read_as": str(read)}
    returned = {"source": source, "returned": 1 - hole[None]} if model.shape != model.image_shape else {}
    return Pinned(pin, before, numbers=numbers, notes=paper_notes(image), **returned)


def pin_part(
    model: Denoiser,
    grid: Sequence[int],
    image: str | Sequence[str],
    of: LinearMap,
    fit: str = "crop",
    times: int = 1,
) -> Pinned:
    """A part of the picture, for all time: its low frequencies (a hybrid from a photograph), its grey (colourising)."""
    source = load_images(image, model, fit)
    return Pinned(
        Pin(model.encode(source), of.scaled(times)), before={"original": source}, notes=paper_notes(image)
    )


def load_images(names: str | Sequence[str], model: Denoiser, fit: str = "crop") -> Tensor:
    """(1, C, H, W) of one name, (B, C, H, W) of a list with one a picture; each file is read once."""
    loaded = {name: image_io.load_image(name, model.image_shape, fit) for name in set(as_list(names))}
    return torch.stack([loaded[name] for name in as_list(names)])


def paper_notes(names: str | Sequence[str]) -> tuple[str, ...]:
    """What is said of those of these pictures that are transparent in part, each once."""
    return tuple(said for name in dict.fromkeys(as_list(names)) if (said := sources.transparency_note(name)))


def as_list(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str | Path) else list(names)
