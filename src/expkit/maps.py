"""Linear maps of pictures: what of a picture an estimate or a pin has a say in.

    A(a·x + b·y) = a·A(x) + b·A(y)

A map applies to (…, C, H, W). `blur @ estimate` filters an estimate, `a @ b` is a after b.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from expkit.views import View


class Map(ABC):
    @abstractmethod
    def __call__(self, image: Tensor) -> Tensor: ...

    @property
    def links(self) -> tuple[Map, ...]:
        """The maps it is made of, the first one first."""
        return (self,)

    def scaled(self, times: float) -> Map:
        """The same map for pictures `times` as large."""
        return self

    def __matmul__(self, other):
        return other.filtered(self)

    def filtered(self, outer: Map) -> Map:
        """outer @ self"""
        return chain(self, outer)


@dataclass(frozen=True)
class Identity(Map):
    """All of it."""

    @property
    def links(self) -> tuple[Map, ...]:
        return ()

    def __call__(self, image: Tensor) -> Tensor:
        return image


@dataclass(frozen=True)
class Chain(Map):
    """Maps one after another, the first one first."""

    items: tuple[Map, ...]

    @property
    def links(self) -> tuple[Map, ...]:
        return self.items

    def __call__(self, image: Tensor) -> Tensor:
        for link in self.items:
            image = link(image)
        return image

    def scaled(self, times: float) -> Map:
        return Chain(tuple(link.scaled(times) for link in self.items))


def chain(*items: Map) -> Map:
    """The maps one after another, written as shortly as it can be."""
    links = tuple(link for item in items for link in item.links)
    return links[0] if len(links) == 1 else Chain(links) if links else Identity()


@dataclass(frozen=True)
class Unseen(Map):
    """What comes back out of a view: its inverse, as a map of signals."""

    view: View

    def __call__(self, image: Tensor) -> Tensor:
        return self.view.inverse(image)


@dataclass(frozen=True)
class LowPass(Map):
    """Gaussian blur of `sigma` pixels, kernel of 4 sigma either side, edges reflected. The course: sigma 2 at 64 pixels."""

    sigma: float

    def __call__(self, image: Tensor) -> Tensor:
        if not self.sigma:
            return image
        return _blur(self.sigma, image.shape[-2]).to(image) @ image @ _blur(self.sigma, image.shape[-1]).to(image).T

    def scaled(self, times: float) -> Map:
        return LowPass(self.sigma * times)


@dataclass(frozen=True)
class HighPass(Map):
    """What a Gaussian blur takes away: x − blur(x)."""

    sigma: float

    def __call__(self, image: Tensor) -> Tensor:
        return image - LowPass(self.sigma)(image)

    def scaled(self, times: float) -> Map:
        return HighPass(self.sigma * times)


@dataclass(frozen=True, eq=False)
class Mask(Map):
    """The part of a picture where `mask`, (H, W) or (…, 1, H, W) of values in [0, 1], is 1."""

    mask: Tensor

    def __call__(self, image: Tensor) -> Tensor:
        return self.mask.to(image) * image


@dataclass(frozen=True)
class Gray(Map):
    """The mean of the colours, in every channel. Of one channel it is the identity."""

    def __call__(self, image: Tensor) -> Tensor:
        return image.mean(-3, keepdim=True).expand_as(image)


@dataclass(frozen=True)
class Colour(Map):
    """What grey leaves out: x − gray(x)."""

    def __call__(self, image: Tensor) -> Tensor:
        return image - Gray()(image)


@lru_cache(maxsize=16)
def _blur(sigma: float, side: int) -> Tensor:
    """The blur of a line of `side` pixels as a matrix (side, side), reflected as often as the kernel needs."""
    reach = max(1, round(4 * sigma))
    offsets = torch.arange(-reach, reach + 1)
    kernel = F.normalize(torch.exp(-(offsets.double() ** 2) / (2 * sigma**2)), p=1, dim=0)
    period = max(1, 2 * side - 2)
    places = (torch.arange(side)[:, None] + offsets) % period
    places = torch.where(places < side, places, period - places)
    return torch.zeros(side, side, dtype=torch.float64).scatter_add_(1, places, kernel.expand(side, -1)).float()
