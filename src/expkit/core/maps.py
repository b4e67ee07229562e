"""Linear maps of images: the component of an image that an estimate or a pin determines.

    A(a·x + b·y) = a·A(x) + b·A(y)

A map applies to (…, C, H, W). `blur @ estimate` filters an estimate; `a @ b` applies b, then a. The
maps of a decomposition sum to the identity (factorized diffusion, Geng et al. 2024):

    low_pass + high_pass = low_pass + band + high_pass = gray + colour = motion + still = identity
"""

# A property may stand for what a base class has as an attribute.
# pyright: reportIncompatibleVariableOverride=false

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from numbers import Real
from typing import ClassVar, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from expkit.core.views import View
from expkit.errors import UserError

Filtered = TypeVar("Filtered", covariant=True)


class Filterable(Protocol[Filtered]):
    """What a linear map can be applied to by `@`: another map, or an estimate."""

    def filtered(self, outer: LinearMap, /) -> Filtered:
        """outer @ self."""
        ...


class Distance(IntEnum):
    """From where one looks at an image: fine detail vanishes with the distance."""

    NEAR = 0
    MIDDLE = 1
    FAR = 2


class LinearMap(ABC):
    """A linear map of images (…, C, H, W) to images of the same shape.

    Subclasses are frozen dataclasses. They compare by value, except where noted.

    Attributes:
        channels: The smallest number of channels for which the map makes a distinction.
        area: For a map that selects pixels, the fraction of the image that it selects; else None.
        distances: The nearest and the farthest distance from which the component that the map
            selects is what one sees.
    """

    channels: ClassVar[int] = 1
    area: ClassVar[float | None] = None
    distances: ClassVar[tuple[Distance, Distance]] = (Distance.NEAR, Distance.FAR)

    @abstractmethod
    def __call__(self, image: Tensor) -> Tensor:
        """The map applied to an image (…, C, H, W)."""

    @property
    def summands(self) -> tuple[tuple[float, LinearMap], ...]:
        """Pairs (w, A) such that this map is the sum of w·A.

        A difference of maps is split here, so that equal summands of an estimate cancel.
        """
        return ((1.0, self),)

    @property
    def factors(self) -> tuple[LinearMap, ...]:
        """The maps that it is composed of, in the order of application."""
        return (self,)

    @property
    def lens(self) -> LinearMap:
        """The map through which one looks at the image to see the component that it selects.

        It is the identity where the component is seen in the image itself, close by or from afar.
        """
        return IdentityMap()

    def for_resolution(self, times: float) -> LinearMap:
        """The same map for images with sides `times` as long."""
        return self

    def __matmul__(self, other: Filterable[Filtered]) -> Filtered:
        return other.filtered(self)

    def filtered(self, outer: LinearMap) -> LinearMap:
        """outer @ self: this map, then `outer`."""
        return compose_maps(self, outer)


@dataclass(frozen=True)
class IdentityMap(LinearMap):
    """The identity."""

    @property
    def factors(self) -> tuple[LinearMap, ...]:
        return ()

    def __call__(self, image: Tensor) -> Tensor:
        return image


@dataclass(frozen=True)
class Chain(LinearMap):
    """A composition of maps, in the order of application."""

    items: tuple[LinearMap, ...]

    @property
    def channels(self) -> int:
        return max(item.channels for item in self.items)

    @property
    def factors(self) -> tuple[LinearMap, ...]:
        return self.items

    def __call__(self, image: Tensor) -> Tensor:
        for item in self.items:
            image = item(image)
        return image

    def for_resolution(self, times: float) -> LinearMap:
        return Chain(tuple(item.for_resolution(times) for item in self.items))


def compose_maps(*items: LinearMap) -> LinearMap:
    """The composition of the maps, in the order of application and in its shortest form."""
    factors = tuple(factor for item in items for factor in item.factors)
    if not factors:
        return IdentityMap()
    return factors[0] if len(factors) == 1 else Chain(factors)


@dataclass(frozen=True)
class InverseView(LinearMap):
    """The inverse of a view as a linear map."""

    view: View

    def __call__(self, image: Tensor) -> Tensor:
        return self.view.inverse(image)


@dataclass(frozen=True)
class LowPass(LinearMap):
    """Gaussian blur.

    The kernel reaches 4 sigma to either side, and edges are reflected. CS180 project 5 (UC
    Berkeley) has sigma 2 at 64 pixels.

    Attributes:
        sigma: Standard deviation in pixels, 0 or more; 0 is the identity.

    Raises:
        UserError: sigma is not a finite number, or is negative.
    """

    distances: ClassVar[tuple[Distance, Distance]] = (Distance.FAR, Distance.FAR)

    sigma: float

    def __post_init__(self) -> None:
        if not isinstance(self.sigma, Real):
            raise UserError(
                f"A blur has one sigma, and was given {self.sigma}: give one, or one run for each "
                "with -m sigma=1,2."
            )
        if not 0 <= self.sigma < math.inf:
            raise UserError(
                f"A blur's sigma is a number of pixels, 0 or more, and was given as {self.sigma}: "
                "0 leaves a picture as it is."
            )

    def __call__(self, image: Tensor) -> Tensor:
        if not self.sigma:
            return image
        vertical = _blur_matrix(self.sigma, image.shape[-2]).to(image)
        horizontal = _blur_matrix(self.sigma, image.shape[-1]).to(image)
        return vertical @ image @ horizontal.T

    def for_resolution(self, times: float) -> LinearMap:
        return LowPass(self.sigma * times)


@dataclass(frozen=True)
class Band(LinearMap):
    """Band pass: the difference of two independent Gaussian blurs.

    The middle band of factorized diffusion is different: its blurs are composed (see
    `expkit.core.estimate.triple_hybrid`).

    Attributes:
        fine: Standard deviation of the finer blur in pixels; 1 at 64 pixels.
        coarse: Standard deviation of the coarser blur in pixels; 2 at 64 pixels.
    """

    distances: ClassVar[tuple[Distance, Distance]] = (Distance.MIDDLE, Distance.MIDDLE)

    fine: float
    coarse: float

    @property
    def summands(self) -> tuple[tuple[float, LinearMap], ...]:
        return ((1.0, LowPass(self.fine)), (-1.0, LowPass(self.coarse)))

    def __call__(self, image: Tensor) -> Tensor:
        return LowPass(self.fine)(image) - LowPass(self.coarse)(image)

    def for_resolution(self, times: float) -> LinearMap:
        return Band(self.fine * times, self.coarse * times)


@dataclass(frozen=True)
class Complement(LinearMap):
    """What a map removes: x − A(x)."""

    map: LinearMap

    @property
    def channels(self) -> int:
        return self.map.channels

    @property
    def distances(self) -> tuple[Distance, Distance]:
        """Without what is seen from afar, the image is to be seen from closer."""
        nearest, _ = self.map.distances
        return (Distance.NEAR, Distance.MIDDLE if nearest is Distance.FAR else Distance.FAR)

    @property
    def summands(self) -> tuple[tuple[float, LinearMap], ...]:
        return ((1.0, IdentityMap()), *((-weight, part) for weight, part in self.map.summands))

    def __call__(self, image: Tensor) -> Tensor:
        return image - self.map(image)

    def for_resolution(self, times: float) -> LinearMap:
        return Complement(self.map.for_resolution(times))


def high_pass(sigma: float) -> LinearMap:
    """High pass: what a Gaussian blur of `sigma` pixels removes."""
    return Complement(LowPass(sigma))


@dataclass(frozen=True)
class Motion(LinearMap):
    """Motion blur: the mean of `taps` pixels along the diagonal from top left to bottom right.

    Factorized diffusion (Geng, Park and Owens 2024) also has seven pixels at 64, but zeros beyond
    the edges, which darkens its borders. Here edges are reflected, so a constant image stays
    constant. The two agree at a distance of taps // 2 pixels or more from the edge.

    Attributes:
        taps: Length of the blur in pixels along the diagonal. Scaled blurs may have a length that
            is not whole or odd: the two outermost pixels then have the fraction that is left as
            their weight. At 256 pixels there are 28 taps, 27 whole ones and two halves; the authors
            have 29.
    """

    taps: float = 7

    @property
    def lens(self) -> LinearMap:
        return self

    def __call__(self, image: Tensor) -> Tensor:
        reach = math.ceil((self.taps - 1) / 2)
        offsets = range(-reach, reach + 1)
        weights = [min(1.0, (self.taps + 1) / 2 - abs(k)) / self.taps for k in offsets]
        padded = F.pad(image, [reach] * 4, mode="reflect")
        h, w = image.shape[-2:]
        total = torch.zeros_like(image)
        for k, weight in enumerate(weights):
            total = total + weight * padded[..., k : k + h, k : k + w]
        return total

    def for_resolution(self, times: float) -> LinearMap:
        return Motion(self.taps * times)


def without_motion(taps: float = 7) -> LinearMap:
    """What a motion blur removes: the complement of `Motion`."""
    return Complement(Motion(taps))


@dataclass(frozen=True, eq=False)
class Mask(LinearMap):
    """Multiplication by a mask. Masks compare by identity, not by value.

    Attributes:
        mask: (H, W) or (…, 1, H, W), in [0, 1]; 1 selects a pixel.
    """

    mask: Tensor

    @property
    def area(self) -> float:
        return float(self.mask.mean())

    def __call__(self, image: Tensor) -> Tensor:
        return self.mask.to(image) * image

    def for_resolution(self, times: float) -> LinearMap:
        flat = self.mask.reshape(1, -1, *self.mask.shape[-2:])
        larger = F.interpolate(flat, scale_factor=times, mode="nearest")
        return Mask(larger.view(*self.mask.shape[:-2], *larger.shape[-2:]))


@dataclass(frozen=True)
class Gray(LinearMap):
    """The mean of the channels, in every channel. With one channel it is the identity."""

    channels: ClassVar[int] = 2

    @property
    def lens(self) -> LinearMap:
        return self

    def __call__(self, image: Tensor) -> Tensor:
        return image.mean(-3, keepdim=True).expand_as(image)


@dataclass(frozen=True)
class Scale(LinearMap):
    """Multiplication by a number."""

    factor: float

    @property
    def summands(self) -> tuple[tuple[float, LinearMap], ...]:
        return ((self.factor, IdentityMap()),)

    def __call__(self, image: Tensor) -> Tensor:
        return self.factor * image


@lru_cache(maxsize=16)
def _blur_matrix(sigma: float, side: int) -> Tensor:
    """The blur of a line of `side` pixels as a matrix (side, side).

    Edges are reflected without repeating the edge pixel, as often as the kernel's reach needs it.
    """
    reach = max(1, round(4 * sigma))
    offsets = torch.arange(-reach, reach + 1)
    kernel = F.normalize(torch.exp(-(offsets.double() ** 2) / (2 * sigma**2)), p=1, dim=0)
    period = max(1, 2 * side - 2)
    columns = (torch.arange(side)[:, None] + offsets) % period
    columns = torch.where(columns < side, columns, period - columns)
    zeros = torch.zeros(side, side, dtype=torch.float64)
    return zeros.scatter_add_(1, columns, kernel.expand(side, -1)).float()
