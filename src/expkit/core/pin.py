"""Pins: what must stay.

At every level t at or above `until`, `part` of x is replaced by that part of the picture, noised to t:

    x ← part(noised(image, t)) + x − part(x)

SDEdit (Meng et al. 2022) pins the whole picture for a time; inpainting pins part of it for all time. Where a mask is soft, `part` takes a
share of a pixel: two noises are averaged there, so x has less noise than its level says, at the least 1/sqrt(2) of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from expkit.core.maps import IdentityMap, LinearMap
from expkit.core.schedules import CLEAN, Schedule


@dataclass(frozen=True, eq=False)
class Pin:
    """Holds `part` of `image`, (1 or B, C, H, W) in the model's range, while the level is at or above `until`.

    until: a level; a tuple of levels, one a picture; or a picture of levels, (H, W) or (B, 1, H, W). `CLEAN` is to the end.
    at_first: whether it also holds at the grid's first level. The course's inpainting starts from noise that is not pinned.
    note: what a header says of it; "" for what can be said of any.
    """

    image: Tensor
    part: LinearMap = IdentityMap()  # noqa: RUF009
    until: float | tuple[float, ...] | Tensor = CLEAN
    at_first: bool = True
    note: str = ""

    def levels(self) -> Tensor:
        """`until` as (1 or B, 1, 1, 1) or (1 or B, 1, H, W)."""
        levels = torch.as_tensor(self.until, dtype=torch.float64)
        return levels.view(-1, 1, *levels.shape[-2:]) if levels.ndim > 1 else levels.view(-1, 1, 1, 1)

    def only(self, pictures: Sequence[int]) -> Pin:
        """The pin for these of the run's pictures alone."""
        rows, levels = list(pictures), self.levels()
        image = self.image[rows] if len(self.image) > 1 else self.image
        return replace(self, image=image, until=levels[rows] if len(levels) > 1 else levels)

    def __call__(self, x: Tensor, t: float, schedule: Schedule, noise: Tensor) -> Tensor:
        """x (B, C, H, W) at level t with the pinned part put back; noise (B, C, H, W), standard normal, of the pin's own stream."""
        known = schedule.noised(self.image.to(x), t, noise)
        return torch.where((self.levels() <= t).to(x.device), self.part(known) + (x - self.part(x)), x)

    def finish(self, x: Tensor) -> Tensor:
        """The clean composite of what is pinned to the end: inpainting, never SDEdit."""
        return torch.where(
            (self.levels() <= CLEAN).to(x.device), self.part(self.image.to(x)) + (x - self.part(x)), x
        )

    def free(self, s: int, count: int) -> list[int]:
        """The rows, of `count`, whose update to level s is worth making: not those that will be pinned whole there."""
        if self.part != IdentityMap():
            return list(range(count))
        held = (self.levels() <= s).expand(count, *self.levels().shape[1:]).flatten(1).all(1)
        return (~held).nonzero().flatten().tolist()
