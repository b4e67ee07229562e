"""Successive halving of a run's samples during sampling (Jamieson & Talwalkar 2016).

    after each of the updates k_1 < k_2 < …, a condition with n samples continues with the ⌈n/2⌉
    whose running estimates of x0 score best

The arms of the bandit are unfinished pictures. A sample that continues ends as the same picture as
without halving: its noise is its own, and nothing of it depends on the other samples.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from expkit.core.sampler import Step


@dataclass(eq=False)
class Halving:
    """The `drop` of `sampler.sample`: drops the worse half of each condition's samples.

    Rows are numbered condition by condition: condition · samples + sample.

    Args:
        at: the numbers of updates after which samples are dropped, rising.
        samples: of each condition, at the start.
        conditions: the number of conditions.
        least: how many samples of each condition remain at least.
        score: estimates of x0 (B, C, H, W) in the model's range -> (B,), higher is better.
        dropped: the rows dropped so far.
    """

    at: Sequence[int]
    samples: int
    conditions: int
    least: int
    score: Callable[[Tensor], Tensor]
    dropped: set[int] = field(default_factory=set)

    def count(self, done: int) -> int:
        """How many samples of each condition remain after `done` updates."""
        remaining = self.samples
        for _ in [k for k in self.at if k <= done]:
            remaining = max(self.least, -(-remaining // 2))
        return remaining

    def planned(self, done: int) -> Collection[int]:
        """As many rows as remain after `done` updates: the first of each condition, as a stand-in.

        Which rows really remain is not known before sampling.
        """
        remaining = self.count(done)
        starts = [condition * self.samples for condition in range(self.conditions)]
        return {start + number for start in starts for number in range(remaining)}

    def __call__(self, done: int, step: Step) -> Collection[int]:
        """The rows that do not continue after this update, the last of `done`."""
        if done in self.at and self.count(done) < self.count(done - 1):
            score = self.score(step.x0).double().cpu()
            score[sorted(self.dropped)] = -torch.inf
            score = score.view(self.conditions, self.samples)
            order = score.argsort(dim=1, descending=True, stable=True)
            starts = self.samples * torch.arange(self.conditions)[:, None]
            worst = order[:, self.count(done) :] + starts
            self.dropped |= set(worst.flatten().tolist())
        return self.dropped
