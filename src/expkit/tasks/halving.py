"""Successive halving of a run's samples while they are sampled (Jamieson & Talwalkar 2016, for arms that are pictures to be).

    after the updates k_1 < k_2 < …:    of each wish's samples, those of the ⌈n/2⌉ best running estimates of x0 go on

A picture that goes on is the one that it would have been alone: its noise is its own, and nothing of it depends on the others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from expkit.core.sampler import Step


@dataclass(eq=False)
class Halving:
    """at: after which updates; samples: of each wish; wishes: how many; least: how many of each wish are left at the least.

    score: estimates of x0 (B, C, H, W) in the model's range -> (B,), higher is better. dropped: the rows that were left out so far.
    """

    at: Sequence[int]
    samples: int
    wishes: int
    least: int
    score: Callable[[Tensor], Tensor]
    dropped: set[int] = field(default_factory=set)

    def count(self, done: int) -> int:
        """How many of each wish's samples are left after so many updates."""
        left = self.samples
        for _ in [k for k in self.at if k <= done]:
            left = max(self.least, -(-left // 2))
        return left

    def planned(self, done: int) -> Collection[int]:
        """As many rows as will be left after so many updates, the first of each wish: which, nobody knows before."""
        left = self.count(done)
        return {wish * self.samples + number for wish in range(self.wishes) for number in range(left)}

    def __call__(self, done: int, step: Step) -> Collection[int]:
        """The rows that are not gone on with after this update."""
        if done in self.at and self.count(done) < self.count(done - 1):
            score = self.score(step.x0).double().cpu()
            score[sorted(self.dropped)] = -torch.inf
            order = score.view(self.wishes, self.samples).argsort(dim=1, descending=True, stable=True)
            worst = order[:, self.count(done) :] + self.samples * torch.arange(self.wishes)[:, None]
            self.dropped |= set(worst.flatten().tolist())
        return self.dropped
