"""What a network is trained for.

    L = E || F(x_t, t/T, c) − target(x0, eps) ||²,   x_t = alpha_t x0 + sigma_t eps                       (Ho et al. 2020, eq. 14)

with the class c forgotten one time in ten, so that one network answers for the null prompt too (Ho & Salimans 2022, algorithm 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from expkit.denoisers.trained import time_fraction
from expkit.schedule import Schedule, target


@dataclass(frozen=True, eq=False)
class Diffusion:
    """A kind of prediction on a schedule; pictures in [0, 1] are first put into [low, high]."""

    schedule: Schedule
    kind: str = "eps"
    low: float = 0.0
    high: float = 1.0
    drop: float = 0.1

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, random: Generator, rank: int = 0, world: int = 1) -> Tensor:
        """The loss of one batch. `random` draws for the global batch, of which this process has every world-th row."""
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
