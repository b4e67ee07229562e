"""Linear maps of pictures: what of a picture an estimate or a pin has a say in.

    A(a·x + b·y) = a·A(x) + b·A(y)

A map applies to (…, C, H, W). `blur @ estimate` filters an estimate, `a @ b` is a after b. Parts of a decomposition sum to all of it:

    low_pass + high_pass = low_pass + band + high_pass = gray + colour = motion + still = x           (Geng et al. 2024, factorized)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from expkit.core.views import View
from expkit.errors import UserError


class LinearMap(ABC):
    """A frozen dataclass with equality by value.

    channels: the fewest channels of which it tells anything. area: the share of the picture that it takes, where it takes some pixels
    and leaves others; else None.
    """

    channels: ClassVar[int] = 1
    area: ClassVar[float | None] = None

    @abstractmethod
    def __call__(self, image: Tensor) -> Tensor: ...

    @property
    def summands(self) -> tuple[tuple[float, LinearMap], ...]:
        """(w, A) whose sum w·A is this map; a difference of maps says so here, and equal summands of an estimate cancel."""
        return ((1.0, self),)

    @property
    def factors(self) -> tuple[LinearMap, ...]:
        """The maps it is made of, the first one first."""
        return (self,)

    def scaled(self, times: float) -> LinearMap:
        """The same map for pictures `times` as large."""
        return self

    def __matmul__(self, other):
        return other.filtered(self)

    def filtered(self, outer: LinearMap) -> LinearMap:
        """outer @ self"""
        return compose_maps(self, outer)


@dataclass(frozen=True)
class IdentityMap(LinearMap):
    """All of it."""

    @property
    def factors(self) -> tuple[LinearMap, ...]:
        return ()

    def __call__(self, image: Tensor) -> Tensor:
        return image


@dataclass(frozen=True)
class Chain(LinearMap):
    """Maps one after another, the first one first."""

    items: tuple[LinearMap, ...]

    @property
    def channels(self) -> int:
        return max(link.channels for link in self.items)

    @property
    def factors(self) -> tuple[LinearMap, ...]:
        return self.items

    def __call__(self, image: Tensor) -> Tensor:
        for link in self.items:
            image = link(image)
        return image

    def scaled(self, times: float) -> LinearMap:
        return Chain(tuple(link.scaled(times) for link in self.items))


def compose_maps(*items: LinearMap) -> LinearMap:
    """The maps one after another, written as shortly as it can be."""
    links = tuple(link for item in items for link in item.factors)
    return links[0] if len(links) == 1 else Chain(links) if links else IdentityMap()


@dataclass(frozen=True)
class InverseView(LinearMap):
    """What comes back out of a view: its inverse, as a map of signals."""

    view: View

    def __call__(self, image: Tensor) -> Tensor:
        return self.view.inverse(image)


@dataclass(frozen=True)
class LowPass(LinearMap):
    """Gaussian blur of `sigma` pixels, kernel of 4 sigma either side, edges reflected. The course: sigma 2 at 64 pixels."""

    sigma: float

    def __post_init__(self) -> None:
        if not isinstance(self.sigma, Real):
            raise UserError(
                f"A blur has one sigma, and was given {self.sigma}: give one, or one run for each with -m sigma=1,2."
            )
        if not 0 <= self.sigma < math.inf:
            raise UserError(
                f"A blur's sigma is a number of pixels, 0 or more, and was given as {self.sigma}: 0 leaves a picture as it is."
            )

    def __call__(self, image: Tensor) -> Tensor:
        if not self.sigma:
            return image
        return (
            _blur(self.sigma, image.shape[-2]).to(image)
            @ image
            @ _blur(self.sigma, image.shape[-1]).to(image).T
        )

    def scaled(self, times: float) -> LinearMap:
        return LowPass(self.sigma * times)


@dataclass(frozen=True)
class Band(LinearMap):
    """What a blur of `fine` pixels keeps and an independent one of `coarse` pixels takes away. At 64 pixels: 1 and 2.

    The middle band of factorized diffusion is another one: its blurs are composed (`expkit.core.estimate.triple_hybrid`).
    """

    fine: float
    coarse: float

    @property
    def summands(self) -> tuple[tuple[float, LinearMap], ...]:
        return ((1.0, LowPass(self.fine)), (-1.0, LowPass(self.coarse)))

    def __call__(self, image: Tensor) -> Tensor:
        return LowPass(self.fine)(image) - LowPass(self.coarse)(image)

    def scaled(self, times: float) -> LinearMap:
        return Band(self.fine * times, self.coarse * times)


@dataclass(frozen=True)
class Residual(LinearMap):
    """What a map leaves: x − A(x)."""

    map: LinearMap

    @property
    def channels(self) -> int:
        return self.map.channels

    @property
    def summands(self) -> tuple[tuple[float, LinearMap], ...]:
        return ((1.0, IdentityMap()), *((-weight, part) for weight, part in self.map.summands))

    def __call__(self, image: Tensor) -> Tensor:
        return image - self.map(image)

    def scaled(self, times: float) -> LinearMap:
        return Residual(self.map.scaled(times))


def high_pass(sigma: float) -> LinearMap:
    """What a Gaussian blur takes away."""
    return Residual(LowPass(sigma))


@dataclass(frozen=True)
class Motion(LinearMap):
    """A blur along the diagonal from the top left to the bottom right, the mean of `taps` pixels: how a picture looks that moves.

    Factorized diffusion (Geng, Park and Owens 2024) has the same seven pixels at 64, and beyond the edges zeros, so that its borders grow
    dark; here a picture goes on mirrored, and a flat one stays flat. They are equal where taps // 2 pixels or more lie before the edge.
    When it is scaled, taps need not be whole or odd: the outermost two then count for the part of a pixel that is left. At 256 pixels
    these are 28 taps, 27 whole ones and two halves; the authors' are 29.
    """

    taps: float = 7

    def __call__(self, image: Tensor) -> Tensor:
        reach = math.ceil((self.taps - 1) / 2)
        padded, (height, width) = F.pad(image, [reach] * 4, mode="reflect"), image.shape[-2:]
        weights = [min(1.0, (self.taps + 1) / 2 - abs(k)) / self.taps for k in range(-reach, reach + 1)]
        return sum(w * padded[..., k : k + height, k : k + width] for k, w in enumerate(weights))

    def scaled(self, times: float) -> LinearMap:
        return Motion(self.taps * times)


def without_motion(taps: float = 7) -> LinearMap:
    """What a blur by motion takes away."""
    return Residual(Motion(taps))


@dataclass(frozen=True, eq=False)
class Mask(LinearMap):
    """The part of a picture where `mask`, (H, W) or (…, 1, H, W) of values in [0, 1], is 1."""

    mask: Tensor

    @property
    def area(self) -> float:
        return float(self.mask.mean())

    def __call__(self, image: Tensor) -> Tensor:
        return self.mask.to(image) * image

    def scaled(self, times: float) -> LinearMap:
        larger = F.interpolate(
            self.mask.reshape(1, -1, *self.mask.shape[-2:]), scale_factor=times, mode="nearest"
        )
        return Mask(larger.view(*self.mask.shape[:-2], *larger.shape[-2:]))


@dataclass(frozen=True)
class Gray(LinearMap):
    """The mean of the colours, in every channel. Of one channel it is the identity."""

    channels: ClassVar[int] = 2

    def __call__(self, image: Tensor) -> Tensor:
        return image.mean(-3, keepdim=True).expand_as(image)


def without_grey() -> LinearMap:
    """What grey leaves out."""
    return Residual(Gray())


@dataclass(frozen=True)
class Scale(LinearMap):
    """A number times the picture."""

    factor: float

    @property
    def summands(self) -> tuple[tuple[float, LinearMap], ...]:
        return ((self.factor, IdentityMap()),)

    def __call__(self, image: Tensor) -> Tensor:
        return self.factor * image


@lru_cache(maxsize=16)
def _blur(sigma: float, side: int) -> Tensor:
    """The blur of a line of `side` pixels as a matrix (side, side), reflected as often as the kernel needs."""
    reach = max(1, round(4 * sigma))
    offsets = torch.arange(-reach, reach + 1)
    kernel = F.normalize(torch.exp(-(offsets.double() ** 2) / (2 * sigma**2)), p=1, dim=0)
    period = max(1, 2 * side - 2)
    places = (torch.arange(side)[:, None] + offsets) % period
    places = torch.where(places < side, places, period - places)
    return (
        torch.zeros(side, side, dtype=torch.float64).scatter_add_(1, places, kernel.expand(side, -1)).float()
    )
