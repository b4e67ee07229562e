"""Pins: a component of the image that is fixed during sampling.

At every level t ≥ `until`, the component `part` of x is replaced by that of the image, noised to t:

    x ← part(noised(image, t)) + x − part(x)

SDEdit (Meng et al. 2022) pins the whole image down to a level; inpainting pins a part of it to the
end. Where a mask is soft, two independent noises are averaged, so x has less noise than its level
implies: at least 1/sqrt(2) of it.
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
    """Replaces `part` of x by that of `image` while the level is `until` or above.

    Attributes:
        image: Clean states (1 or B, C, H, W) in the model's range.
        part: Linear map that selects the pinned component.
        until: Lowest level at which the component is pinned: one level, a tuple with one per image,
            or one per pixel as (H, W) or (B, 1, H, W). `CLEAN` pins it to the end.
        at_first: Whether it is also pinned at the first level of the grid. The inpainting of CS180
            project 5 starts from noise that is not pinned.
        note: Description for the header of a run; "" for the general one.
    """

    image: Tensor
    part: LinearMap = IdentityMap()  # noqa: RUF009
    until: float | tuple[float, ...] | Tensor = CLEAN
    at_first: bool = True
    note: str = ""

    def levels(self) -> Tensor:
        """`until` as float64 (1 or B, 1, 1, 1) or (1 or B, 1, H, W)."""
        levels = torch.as_tensor(self.until, dtype=torch.float64)
        if levels.ndim > 1:
            return levels.view(-1, 1, *levels.shape[-2:])
        return levels.view(-1, 1, 1, 1)

    def select(self, pictures: Sequence[int]) -> Pin:
        """The pin for these images of the run, in this order."""
        rows, levels = list(pictures), self.levels()
        image = self.image[rows] if len(self.image) > 1 else self.image
        return replace(self, image=image, until=levels[rows] if len(levels) > 1 else levels)

    def __call__(self, x: Tensor, t: float, schedule: Schedule, noise: Tensor) -> Tensor:
        """Replace the pinned component of x.

        Args:
            x: State (B, C, H, W) at level t.
            t: Level of the schedule.
            schedule: Noise schedule of the model.
            noise: Standard normal (B, C, H, W), from a random stream of the pin's own.

        Returns:
            (B, C, H, W), equal to x where nothing is pinned at this level.
        """
        noised = schedule.noised(self.image.to(x), t, noise)
        is_pinned = (self.levels() <= t).to(x.device)
        return torch.where(is_pinned, self.part(noised) + (x - self.part(x)), x)

    def finish(self, x: Tensor) -> Tensor:
        """Replace what is pinned to the end in the final state x (B, C, H, W) by the clean image.

        This applies where `until` is `CLEAN`: to inpainting, but not to SDEdit.
        """
        is_pinned = (self.levels() <= CLEAN).to(x.device)
        return torch.where(is_pinned, self.part(self.image.to(x)) + (x - self.part(x)), x)

    def rows_to_update(self, s: float, count: int) -> list[int]:
        """Indices of the rows, out of `count`, whose update to level s has to be computed.

        A row is left out if its whole image will be pinned at level s.
        """
        if self.part != IdentityMap():
            return list(range(count))
        levels = self.levels()
        is_pinned = (levels <= s).expand(count, *levels.shape[1:]).flatten(1).all(1)
        return [row for row in range(count) if not is_pinned[row]]
