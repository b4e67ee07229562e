"""The first stage of a batch: one loop over the steps, for the pictures of all runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from expkit.core.sampler import Step
from expkit.tasks import timing
from expkit.tasks.generation.stages import Stage
from expkit.tasks.halving import Halving
from expkit.tasks.pins import Pinned
from expkit.tasks.trajectory import Film, Shot


class Recording(NamedTuple):
    """The recorded frames of one picture, and its result (C, H, W) in [0, 1]."""

    film: Film
    shots: list[Shot]
    end: Tensor


class SampledBatch(NamedTuple):
    """The B pictures of a batch.

    Attributes:
        states: final states (B, *shape) in the model's range.
        images: pictures (B, C, H, W) in [0, 1].
        dropped: the rows that were not sampled to their end.
        recordings: {row: Recording} of the recorded rows.
        pinned: what was pinned, of all rows.
        numbers: the usage of the network, for numbers.json.
    """

    states: Tensor
    images: Tensor
    dropped: set[int]
    recordings: dict[int, Recording]
    pinned: Pinned
    numbers: dict


@dataclass(frozen=True, eq=False)
class BatchSampler:
    """Samples B pictures: Stage with B seeds -> SampledBatch.

    Args:
        stage: the first stage.
        halving: drops samples on the way; None: none are dropped.
        films: {row: the film that records it}.
    """

    stage: Stage
    halving: Halving | None = None
    films: Mapping[int, Film] = field(default_factory=dict)

    def sample(self) -> SampledBatch:
        """Run the loop, decode the final states and put back what is pinned to the byte."""
        model, pinned, states = self.stage.model, self.stage.pinned, torch.empty(0)
        shots: dict[int, list[Shot]] = {row: [] for row in self.films}
        for step in self.stage.steps(drop=self.halving):
            states = step.x
            self.record(step, shots)
        images = pinned.finish(model.decode(states).cpu())
        dropped = self.halving.dropped if self.halving else set()
        recordings = {row: Recording(self.films[row], shots[row], images[row]) for row in shots}
        numbers = timing.usage(model) | {"device": str(model.device)}
        return SampledBatch(states, images, dropped, recordings, pinned, numbers)

    def record(self, step: Step, shots: Mapping[int, list[Shot]]) -> None:
        """Add a frame of each recorded row that this step has updated."""
        if not shots or step.s not in self.stage.grid:
            return
        pin, count = self.stage.pinned.pin, len(self.stage.seeds)
        updated_rows = set(pin.rows_to_update(step.s, count)) if pin else set(shots)
        for row in updated_rows.intersection(shots):
            shots[row].append(self.films[row].shot(self.stage.model, step, row))
