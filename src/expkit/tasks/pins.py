"""What a run keeps of a picture: all of it until a level, all outside a mask, its low frequencies.

Each pin function is called (model, grid, …, times) -> Pinned. times: how many times as large this
model's pictures are as those of the first stage; 1 for the first stage itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    """A pin, and what goes with it into the sheet, the numbers and the header.

    Attributes:
        pin: None where nothing is kept.
        before, after: pictures before and after the results on the sheet,
            {label: (1 or B, C, H, W) in [0, 1]}.
        numbers: what is added to the run's numbers.
        starts: the index on the grid at which each picture starts, or one index for all.
        notes: what is added to the header.
        source: the pinned pictures (1 or B, C, H, W) in [0, 1], where `returned` is given.
        returned: (1 or B, 1, H, W) in [0, 1], the share of each pixel of `source` that is copied
            into the result unchanged. None where the state is enough, as it is for pinned pixels.
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
        """The pin, sheet pictures and numbers of these rows of the run; no other fields."""
        before, after = select_rows(self.before, rows), select_rows(self.after, rows)
        indices = {self.starts[row] for row in rows} if len(self.starts) > 1 else set(self.starts)
        starts = [start for start in self.numbers.get("starts", []) if start["i_start"] in indices]
        numbers = {**self.numbers, "starts": starts} if starts else self.numbers
        return Pinned(self.pin and self.pin.select(rows), before, after, numbers)

    def finish(self, images: Tensor) -> Tensor:
        """Decoded pictures (B, C, H, W) in [0, 1] with the source put back as `returned` says.

        This is for what the state cannot hold to the byte.
        """
        if self.returned is None:
            return images
        assert self.source is not None  # what is returned
        mixed = self.returned * self.source + (1 - self.returned) * images
        return torch.where(self.returned == 1, self.source, mixed)


def no_pin(model: Denoiser, grid: Sequence[float], times: int = 1) -> Pinned:
    """Nothing is kept: sampling from pure noise."""
    return Pinned()


def pin_whole(
    model: Denoiser,
    grid: Sequence[float],
    image: str | Sequence[str],
    i_start: int | Sequence[int] | None,
    fit: str = "crop",
    times: int = 1,
) -> Pinned:
    """SDEdit: the whole picture is kept until the level at index `i_start` of the grid.

    A second stage (times > 1) only shows the picture on its sheet.

    Args:
        image: a path, URL or shipped name, or a list with one for each picture of the run.
        i_start: an index of `timesteps.descent(grid)`, or a list with one for each picture. A grid
            that goes up again has the same levels at these indices as one that does not. At the
            last index, or None, the picture is returned as it is.
        fit: "crop" or "pad", see `image_io.load_image`.

    Raises:
        UserError: an index is past the end of the grid.
    """
    source, down = load_images(image, model, fit), descent(grid)
    if times > 1:
        return Pinned(after={"original": source})
    last = len(down) - 1
    indices = i_start if isinstance(i_start, Sequence) else [i_start]
    starts = [last if i is None else i for i in indices]
    if late := [i for i in starts if i > last]:
        raise UserError(
            f"i_start={late[0]} is past the end of a grid of {last} updates: "
            f"give 0 (noise) to {last} (the picture)."
        )
    distinct = dict.fromkeys(starts)
    table = [{"i_start": i, "t": down[i], "strength": strength(i, down)} for i in distinct]
    pin = Pin(model.encode(source), until=tuple(CLEAN if i == last else down[i] for i in starts))
    at_end = torch.tensor([float(i == last) for i in starts])[:, None, None, None]
    exact = {"source": source, "returned": at_end} if at_end.any() else {}
    after, notes = {"original": source}, paper_notes(image)
    return Pinned(pin, {}, after, {"starts": table}, tuple(starts), notes, **exact)


def pin_around_mask(
    model: Denoiser,
    grid: Sequence[float],
    image: str | Sequence[str],
    mask: str,
    at_first: bool = False,
    fit: str = "crop",
    times: int = 1,
) -> Pinned:
    """Inpainting: the part outside the mask is kept to the end; the rest is repainted.

    Where the mask is soft, a pixel is repainted in part. A latent is repainted as much as the most
    repainted of its pixels; the kept pixels are put back after decoding.

    Args:
        image: a path, URL or shipped name, or a list with one for each picture of the run.
        mask: a file, see `image_io.load_mask` for how it is read.
        at_first: whether the part is kept at the first level of the grid too, see `Pin`.
        fit: "crop" or "pad", see `image_io.load_image`.
    """
    source = load_images(image, model, fit)
    loaded_mask = image_io.load_mask(mask, model.image_shape, fit, as_list(image), times)
    hole = loaded_mask.weights
    part = Mask(1 - adaptive_max_pool2d(hole, model.shape[1:]))
    pin = Pin(model.encode(source), part, at_first=at_first, note=str(loaded_mask))
    before = {
        "original": source,
        "mask: white is repainted": hole[None].expand_as(source[:1]),
        "to repaint": source * hole,
    }
    numbers = {"share_repainted": round(float(hole.mean()), 4), "mask_read_as": str(loaded_mask)}
    pinned = Pinned(pin, before, numbers=numbers, notes=paper_notes(image))
    if model.shape == model.image_shape:
        return pinned
    return replace(pinned, source=source, returned=1 - hole[None])


def pin_part(
    model: Denoiser,
    grid: Sequence[float],
    image: str | Sequence[str],
    of: LinearMap,
    fit: str = "crop",
    times: int = 1,
) -> Pinned:
    """A linear part of the picture is kept to the end.

    With `LowPass` it makes a hybrid from a photograph, with `Gray` it colourises.

    Args:
        image: a path, URL or shipped name, or a list with one for each picture of the run.
        of: the map that takes the part, for pictures of the first stage's size.
        fit: "crop" or "pad", see `image_io.load_image`.
    """
    source = load_images(image, model, fit)
    pin = Pin(model.encode(source), of.for_resolution(times))
    return Pinned(pin, before={"original": source}, notes=paper_notes(image))


def load_images(names: str | Sequence[str], model: Denoiser, fit: str = "crop") -> Tensor:
    """(1, C, H, W) for one name, (B, C, H, W) for a list, in [0, 1]; each file is read once."""
    names, shape = as_list(names), model.image_shape
    images = {name: image_io.load_image(name, shape, fit) for name in set(names)}
    return torch.stack([images[name] for name in names])


def paper_notes(names: str | Sequence[str]) -> tuple[str, ...]:
    """A note on each of these pictures that is partly transparent: on which colour it is laid."""
    notes = (sources.transparency_note(name) for name in dict.fromkeys(as_list(names)))
    return tuple(note for note in notes if note)


def select_rows(group: Mapping[str, Tensor], rows: Sequence[int]) -> dict[str, Tensor]:
    """Of {label: (1 or B, C, H, W)} these rows; where there is one for all, that one."""
    rows = list(rows)
    return {label: images[rows] if len(images) > 1 else images for label, images in group.items()}


def as_list(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str | Path) else list(names)
