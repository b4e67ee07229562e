"""Orthogonal views of a picture: ways to look at it that keep white noise white.

    view.inverse(view(image)) = image

Most are permutations of pixels, orthogonal by construction. A view says how it moves pixels; its inverse is worked out from that.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import ClassVar

import torch
from torch import Tensor


class View(ABC):
    """A frozen dataclass with equality by value, for square pictures (…, H, H)."""

    symmetric_range: ClassVar[bool] = False  # whether it needs pictures whose values lie evenly about zero

    @abstractmethod
    def __call__(self, image: Tensor) -> Tensor: ...

    @abstractmethod
    def inverse(self, image: Tensor) -> Tensor: ...

    @property
    @abstractmethod
    def opposite(self) -> View:
        """The inverse as a view."""

    @property
    def parts(self) -> tuple[View, ...]:
        """The views it is made of, one after another."""
        return (self,)

    def unmoved(self, image: Tensor) -> Tensor:
        """Pixels moved back, signs untouched: for what is not a signal, such as a variance."""
        return self.inverse(image)


@dataclass(frozen=True)
class Identity(View):
    """As it is."""

    def __call__(self, image: Tensor) -> Tensor:
        return image

    inverse = __call__

    @property
    def parts(self) -> tuple[View, ...]:
        return ()

    @property
    def opposite(self) -> View:
        return self


@dataclass(frozen=True)
class Negate(View):
    """Black for white. It flips the sign of a signal but not of a variance, and needs a range that is symmetric about zero."""

    symmetric_range: ClassVar[bool] = True

    def __call__(self, image: Tensor) -> Tensor:
        return -image

    inverse = __call__

    @property
    def opposite(self) -> View:
        return self

    def unmoved(self, image: Tensor) -> Tensor:
        return image


class Permutation(View):
    """A view that only moves pixels. `move` is given pictures or a grid of indices (…, H, H)."""

    @abstractmethod
    def move(self, image: Tensor) -> Tensor: ...

    def __call__(self, image: Tensor) -> Tensor:
        return self.move(image)

    def inverse(self, image: Tensor) -> Tensor:
        back = _back(self, image.shape[-1]).to(image.device)
        return image.flatten(-2)[..., back].view(image.shape)

    @property
    def opposite(self) -> View:
        return Opposite(self)


@lru_cache(maxsize=64)
def _back(view: Permutation, side: int) -> Tensor:
    return view.move(torch.arange(side * side).view(side, side)).flatten().argsort()


@dataclass(frozen=True)
class Opposite(View):
    """The inverse of a view that is not its own."""

    view: View

    def __call__(self, image: Tensor) -> Tensor:
        return self.view.inverse(image)

    def inverse(self, image: Tensor) -> Tensor:
        return self.view(image)

    @property
    def opposite(self) -> View:
        return self.view


class Involution(Permutation):
    """A permutation that is its own inverse."""

    def inverse(self, image: Tensor) -> Tensor:
        return self.move(image)

    @property
    def opposite(self) -> View:
        return self


@dataclass(frozen=True)
class Flip(Involution):
    """The vertical mirror: upside down, as the course's anagrams."""

    def move(self, image: Tensor) -> Tensor:
        return image.flip(-2)


@dataclass(frozen=True)
class Mirror(Involution):
    """The horizontal mirror: left for right."""

    def move(self, image: Tensor) -> Tensor:
        return image.flip(-1)


@dataclass(frozen=True)
class Rotate180(Involution):
    """Half a turn."""

    def move(self, image: Tensor) -> Tensor:
        return image.flip((-2, -1))


@dataclass(frozen=True)
class RotateCW(Permutation):
    """A quarter turn clockwise, by moving pixels and never by interpolation."""

    def move(self, image: Tensor) -> Tensor:
        return image.rot90(-1, (-2, -1))

    @property
    def opposite(self) -> View:
        return RotateCCW()


@dataclass(frozen=True)
class RotateCCW(Permutation):
    """A quarter turn counterclockwise."""

    def move(self, image: Tensor) -> Tensor:
        return image.rot90(1, (-2, -1))

    @property
    def opposite(self) -> View:
        return RotateCW()


@dataclass(frozen=True)
class Skew(Permutation):
    """Column i is rolled downwards by trunc(slope · (i − centre)) pixels."""

    slope: float = 1.5

    def move(self, image: Tensor) -> Tensor:
        side = image.shape[-1]
        columns = [image[..., i].roll(math.trunc(self.slope * (i - side // 2)), -1) for i in range(side)]
        return torch.stack(columns, -1)


@dataclass(frozen=True)
class Patches(Permutation):
    """The picture is cut into across × across patches, which are shuffled: the same shuffle at every resolution."""

    across: int = 4
    seed: int = 0

    def move(self, image: Tensor) -> Tensor:
        n, side = self.across, image.shape[-1]
        if side % n:
            raise ValueError(f"a picture of {side} pixels cannot be cut into {n} × {n} patches: give a divisor of {side}")
        order = torch.randperm(n * n, generator=torch.Generator().manual_seed(self.seed)).to(image.device)
        cut = image.reshape(*image.shape[:-2], n, side // n, n, side // n).transpose(-3, -2)
        shuffled = cut.reshape(*image.shape[:-2], n * n, side // n, side // n)[..., order, :, :]
        return shuffled.view(*image.shape[:-2], n, n, side // n, side // n).transpose(-3, -2).reshape(image.shape)


@dataclass(frozen=True)
class InnerCircle(Involution):
    """Half a turn of what lies inside a circle of radius 3/8 of the side."""

    radius: float = 0.375

    def move(self, image: Tensor) -> Tensor:
        side = image.shape[-1]
        y, x = torch.meshgrid(*[torch.arange(side, device=image.device) + 0.5 - side / 2] * 2, indexing="ij")
        return torch.where(x**2 + y**2 < (self.radius * side) ** 2, image.flip((-2, -1)), image)


@dataclass(frozen=True)
class Then(View):
    """Views one after another, the first one first."""

    items: tuple[View, ...]

    @property
    def parts(self) -> tuple[View, ...]:
        return self.items

    def __call__(self, image: Tensor) -> Tensor:
        return reduce(lambda seen, view: view(seen), self.items, image)

    def inverse(self, image: Tensor) -> Tensor:
        return reduce(lambda seen, view: view.inverse(seen), self.items[::-1], image)

    def unmoved(self, image: Tensor) -> Tensor:
        return reduce(lambda seen, view: view.unmoved(seen), self.items[::-1], image)

    @property
    def opposite(self) -> View:
        return Then(tuple(v.opposite for v in self.items[::-1]))


def then(*views: View) -> View:
    """The views one after another, written as shortly as it can be: identities go, a view and its opposite cancel."""
    parts: list[View] = []
    for part in (p for view in views for p in view.parts):
        if parts and parts[-1] == part.opposite:
            parts.pop()
        else:
            parts.append(part)
    return parts[0] if len(parts) == 1 else Then(tuple(parts)) if parts else Identity()
