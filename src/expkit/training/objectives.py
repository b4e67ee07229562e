"""What a network is trained for.

    Diffusion   L = E || F(x_t, t/T, c) − target(x0, eps) ||²,   x_t = alpha_t x0 + sigma_t eps           (Ho et al. 2020, eq. 14)
    Reading     L = E [ −log softmax(f(a(x)))_c ],               a the picture moved, seen from afar, in another light

with the class c forgotten one time in ten, so that one network answers for the null prompt too (Ho & Salimans 2022, algorithm 1).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from math import radians
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor, nn

from expkit import judges, pictures
from expkit.denoisers import trained
from expkit.denoisers.trained import time_fraction
from expkit.estimate import guided
from expkit.grids import strided
from expkit.sample import Seed, sample
from expkit.schedule import Schedule, target
from expkit.sheets import sheet


class Objective(ABC):
    """A loss, and how the network that it trains is kept."""

    @abstractmethod
    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, random: Generator, rank: int = 0, world: int = 1) -> Tensor:
        """The loss of one batch, images (N, C, H, W) in [0, 1] and labels (N,).

        `random` draws for the global batch, of which this process has every world-th row.
        """

    @abstractmethod
    def save(self, network: nn.Module, path: Path) -> None:
        """Write the network as a file that says what it is, in one move."""

    @abstractmethod
    def picture(self, network: nn.Module, seed: int) -> Image.Image | None:
        """What the network can do by now, or None where there is nothing to look at. The network is left as it is."""

    @abstractmethod
    def facts(self, network: nn.Module) -> dict:
        """Numbers of the recipe that belong to a run's results."""


@dataclass(frozen=True, eq=False)
class Diffusion(Objective):
    """A kind of prediction on a schedule; pictures in [0, 1] are first put into [low, high]."""

    schedule: Schedule
    kind: str = "eps"
    low: float = 0.0
    high: float = 1.0
    drop: float = 0.1

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, random: Generator, rank: int = 0, world: int = 1) -> Tensor:
        count = len(images) * world
        t = torch.randint(len(self.schedule), (count,), generator=random)[rank::world]
        noise = torch.randn((count, *images.shape[1:]), generator=random)[rank::world]
        kept = (torch.rand((count, 1), generator=random) >= self.drop)[rank::world]
        t, noise, kept = t.to(images.device), noise.to(images.device), kept.to(images.device)
        x0 = self.low + (self.high - self.low) * images
        alpha, sigma = self.schedule.rows(t)
        x = (alpha * x0 + sigma * noise).contiguous(memory_format=torch.channels_last)
        u = time_fraction(t, len(self.schedule)).float()[:, None]
        label = F.one_hot(labels, network.classes) * kept if network.classes else None
        return F.mse_loss(network(x, u, label if label is None else label.float()), target(x0, noise, alpha, sigma, self.kind))

    def made(self, network: nn.Module) -> trained.Facts:
        last = network.leave[-1]
        return trained.Facts(last.in_channels, network.timed, network.classes, last.out_channels, 28, self.kind, self.low, self.high)

    def save(self, network: nn.Module, path: Path) -> None:
        trained.save(path, network, self.schedule, self.made(network))

    def picture(self, network: nn.Module, seed: int) -> Image.Image | None:
        """Four samples of each digit, gamma 5, on the course's grid."""
        if not network.classes:
            return None
        model = trained.TrainedUNet(deepcopy(network), self.schedule, self.made(network), str(next(network.parameters()).device))
        digits = [str(digit) for digit in range(network.classes)]
        seeds = [Seed(seed, k) for _ in digits for k in range(4)]
        estimate = guided([digit for digit in digits for _ in range(4)], 5.0)
        *_, end = sample(model, estimate, strided(len(self.schedule)), seeds)
        return sheet(pictures.from_range(end.x, model.range).cpu().split(4), digits, title="samples, gamma 5")

    def facts(self, network: nn.Module) -> dict:
        return {"leak": self.schedule.leak}


@dataclass(frozen=True, eq=False)
class Reading(Objective):
    """The cross-entropy of a digit's name, read as a hand, a distance and a light may change the picture.

    shift: pixels each way. turn: degrees each way. zoom: smallest and largest. far: how often a picture is seen from afar.
    gain, offset: of the light, 1 ± gain and 0 ± offset. noise: the largest standard deviation.
    """

    shift: float = 2.0
    turn: float = 12.0
    zoom: tuple[float, float] = (0.85, 1.15)
    far: float = 0.5
    gain: float = 0.25
    offset: float = 0.05
    noise: float = 0.1

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, random: Generator, rank: int = 0, world: int = 1) -> Tensor:
        seen = self.varied(images, random, rank, world).contiguous(memory_format=torch.channels_last)
        return F.cross_entropy(network(seen), labels)

    def varied(self, images: Tensor, random: Generator, rank: int = 0, world: int = 1) -> Tensor:
        """images (N, 1, H, W) in [0, 1], each changed in its own way, in [0, 1]."""
        count = len(images) * world
        chance = torch.rand((count, 10), generator=random)[rank::world].to(images.device)
        grain = torch.randn((count, *images.shape[1:]), generator=random)[rank::world].to(images.device)
        far = from_afar(moved(images, chance[:, :4], self.shift, self.turn, self.zoom), chance[:, 4:7], self.far)
        return lit(far, chance[:, 7:], self.gain, self.offset, self.noise * grain)

    def picture(self, network: nn.Module, seed: int) -> Image.Image | None:
        return None

    def save(self, network: nn.Module, path: Path) -> None:
        judges.save(path, network)

    def facts(self, network: nn.Module) -> dict:
        return {"parameters": sum(p.numel() for p in network.parameters())}


def moved(images: Tensor, chance: Tensor, shift: float, turn: float, zoom: tuple[float, float]) -> Tensor:
    """Turned, zoomed and shifted about the middle, bilinearly, black coming in. chance (N, 4) in [0, 1): angle, zoom, shifts."""
    angle = radians(turn) * (2 * chance[:, 0] - 1)
    factor = zoom[0] + (zoom[1] - zoom[0]) * chance[:, 1]
    cos, sin = angle.cos() / factor, angle.sin() / factor
    across, down = (2 * shift / images.shape[-1] * (2 * chance[:, 2:] - 1)).unbind(1)
    where = torch.stack([torch.stack([cos, -sin, across], 1), torch.stack([sin, cos, down], 1)], 1)
    return F.grid_sample(images, F.affine_grid(where, list(images.shape), align_corners=False), align_corners=False)


def from_afar(images: Tensor, chance: Tensor, far: float) -> Tensor:
    """M x Mᵀ a row, with M a shrinking to a half … a quarter (far/2 of the rows), a blur (far/2) or the identity.

    chance (N, 3) in [0, 1): which of the three, how far, how blurred (sigma 0.5 to 2.5 pixels).
    """
    side = images.shape[-1]
    which = chance[:, 0, None, None]
    shrinks = shrinkings(side).to(images)
    shrink = shrinks[(chance[:, 1] * len(shrinks)).long()]
    blur = blurs(0.5 + 2 * chance[:, 2], side)
    none = torch.eye(side).to(images)
    m = torch.where(which < far / 2, shrink, torch.where(which < far, blur, none))[:, None]
    return m @ images @ m.mT


@cache
def shrinkings(side: int) -> Tensor:
    """judges.shrunk by each whole size from a quarter to a half as matrices that act on columns, (K, side, side)."""
    columns = torch.eye(side)[:, None, :, None].expand(side, 1, side, side)
    sizes = range(round(side / 4), round(side / 2) + 1)
    return torch.stack([judges.shrunk(columns, side / size)[:, 0, :, 0].T for size in sizes])


def blurs(sigma: Tensor, side: int) -> Tensor:
    """Gaussian blurs of standard deviations sigma (N,) as matrices that act on columns, (N, side, side); rows sum to one."""
    place = torch.arange(side, device=sigma.device, dtype=sigma.dtype)
    return (-((place[:, None] - place) ** 2) / (2 * sigma[:, None, None] ** 2)).softmax(-1)


def lit(images: Tensor, chance: Tensor, gain: float, offset: float, noise: Tensor) -> Tensor:
    """In another light, with noise, cut off at black and white. chance (N, 3) in [0, 1): gain, offset, how much of the noise."""
    light = (2 * chance - 1)[..., None, None, None]
    return ((1 + gain * light[:, 0]) * images + offset * light[:, 1] + chance[:, 2, None, None, None] * noise).clamp(0, 1)
