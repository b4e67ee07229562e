"""What must stay, as tasks speak of it: a picture for a time, the black of a mask, the low frequencies of a photograph.

Each is called (model, grid, …, times) -> Pinned; times says how many times as large as the first stage's this model's pictures are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from expkit import pictures
from expkit.denoiser import Denoiser
from expkit.errors import Refusal
from expkit.grids import descent, strength
from expkit.maps import Map, Mask
from expkit.pin import Pin


@dataclass(frozen=True)
class Pinned:
    """A pin; the pictures that go with it on the sheet, {label: (1 or B, C, H, W) in [0, 1]}; what the numbers hold."""

    pin: Pin | None = None
    before: Mapping[str, Tensor] = field(default_factory=dict)
    after: Mapping[str, Tensor] = field(default_factory=dict)
    numbers: Mapping = field(default_factory=dict)

    def only(self, rows: Sequence[int]) -> Pinned:
        """What is pinned of these of the run's pictures, as far as it is shown and told."""
        before, after = ({k: v[list(rows)] if len(v) > 1 else v for k, v in shown.items()} for shown in (self.before, self.after))
        pin = self.pin and self.pin.only(rows)
        starts = [start for start in self.numbers.get("starts", []) if start["t"] in pin.levels()]
        return Pinned(pin, before, after, self.numbers | {"starts": starts} if starts else self.numbers)


def nothing(model: Denoiser, grid: Sequence[int], times: int = 1) -> Pinned:
    """Nothing must stay."""
    return Pinned()


def whole(
    model: Denoiser, grid: Sequence[int], image: str | Sequence[str], i_start: int | Sequence[int] | None, fit: str = "crop", times: int = 1
) -> Pinned:
    """SDEdit: the whole picture, until the level at index i_start of the grid, None for its end. With lists, one a picture.

    The index is that of `grids.descent`: where a grid goes up again, i_start means the same levels as where it does not.
    """
    source, down = images(image, model, fit), descent(grid)
    last = len(down) - 1
    starts = list(i_start) if isinstance(i_start, Sequence) else [last if i_start is None else i_start]
    if late := [i for i in starts if i > last]:
        raise Refusal(f"i_start={late[0]} is past the end of a grid of {last} updates: give 0 (noise) to {last} (the picture).")
    pin = Pin(model.encode(source), until=tuple(down[i] for i in starts))
    table = [{"i_start": i, "t": down[i], "strength": strength(i, down)} for i in dict.fromkeys(starts)]
    return Pinned(pin, after={"original": source}, numbers={"starts": table})


def around_mask(
    model: Denoiser,
    grid: Sequence[int],
    image: str | Sequence[str],
    mask: str,
    at_first: bool = False,
    fit: str = "crop",
    times: int = 1,
) -> Pinned:
    """Inpainting: what is black in the mask stays, for all time; white is repainted."""
    source = images(image, model, fit)
    hole, hidden = (pictures.load_mask(mask, shape, fit, listed(image)) for shape in (model.pictured, model.shape))
    pin = Pin(model.encode(source), Mask(1 - hidden), at_first=at_first)
    share = float(hole.mean())
    before = {"original": source, "mask: white is repainted": hole[None].expand_as(source[:1]), "to repaint": source * hole}
    return Pinned(pin, before, numbers={"share_repainted": round(share, 4)})


def part(model: Denoiser, grid: Sequence[int], image: str | Sequence[str], of: Map, fit: str = "crop", times: int = 1) -> Pinned:
    """A part of the picture, for all time: its low frequencies (a hybrid from a photograph), its grey (colourising)."""
    source = images(image, model, fit)
    return Pinned(Pin(model.encode(source), of.scaled(times)), before={"original": source})


def images(names: str | Sequence[str], model: Denoiser, fit: str = "crop") -> Tensor:
    """(1, C, H, W) of one name, (B, C, H, W) of a list with one a picture; each file is read once."""
    loaded = {name: pictures.load(name, model.pictured, fit) for name in set(listed(names))}
    return torch.stack([loaded[name] for name in listed(names)])


def listed(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str | Path) else list(names)
