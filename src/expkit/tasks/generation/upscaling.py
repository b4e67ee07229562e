"""The second stage of a batch: the kept pictures, several times as large."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from expkit.core.denoiser import Counting, Denoiser
from expkit.core.estimate import EstimateBase
from expkit.core.maps import IdentityMap
from expkit.core.sampler import Sampler, Seed, keyed_noise
from expkit.tasks import timing
from expkit.tasks.generation.stages import Stage
from expkit.tasks.pins import Pinned
from expkit.tasks.preflight import check_stages

Upscaler = Callable[[Tensor, Callable], Denoiser]  # (low, noise) -> the second stage


class UpscaledRows(NamedTuple):
    """What the second stage made of some rows of the batch.

    Attributes:
        rows: the rows, in the order of the pictures.
        images: pictures (len(rows), C, H, W) in [0, 1].
        pinned: what was pinned in the second stage, of all rows of the batch.
        numbers: the usage of the network, for numbers.json.
    """

    rows: Sequence[int]
    images: Tensor
    pinned: Pinned
    numbers: dict

    def images_of(self, rows: Sequence[int]) -> Tensor:
        """The pictures of these rows of the batch."""
        return self.images[[self.rows.index(row) for row in rows]]


@dataclass(frozen=True, eq=False)
class Upscaling:
    """Runs a model's second stage: states (K, *shape) of the first stage -> UpscaledRows.

    Args:
        model: the first stage.
        upscaler: (low, noise) -> the second stage as a denoiser, see `Sampling`.
        sampler: solver, timesteps and threshold, as in the first stage.
        estimate: with the guidance of the second stage and maps for the size of the first.
        pin: (model, grid, times) -> Pinned, see `tasks.pins`.
        seeds: of all rows of the batch.
    """

    model: Denoiser
    upscaler: Upscaler
    sampler: Sampler
    estimate: EstimateBase
    pin: Callable[..., Pinned]
    seeds: Sequence[Seed]

    def blank_model(self) -> Denoiser:
        """The second stage with a blank input, to know its shape and schedule; loads no network."""
        return self.upscaler(torch.zeros(1, *self.model.shape), torch.zeros)

    def check_consistency(self, estimate: EstimateBase) -> None:
        """Refuse an estimate of the first stage whose work this stage would undo."""
        check_stages(estimate, self.model, self.times(self.blank_model()))

    def times(self, model: Denoiser) -> int:
        """How many times as large the pictures of the second stage are."""
        return model.shape[-1] // self.model.shape[-1]

    def stage(self) -> Stage:
        """The second stage of all rows, with a blank input; checked before the first stage works.

        The same estimate is sampled, its maps scaled. A part that is pinned stays pinned.
        """
        model = self.blank_model()
        times, grid = self.times(model), self.sampler.timesteps(model.schedule)
        estimate, pinned = self.estimate.for_resolution(times), self.pin(model, grid, times=times)
        if pinned.pin and pinned.pin.part == IdentityMap():
            pinned = replace(pinned, pin=None)
        counting, sampler = Counting(model), self.sampler
        stage = Stage("upscale", counting, sampler, grid, estimate, pinned, self.seeds).check()
        model.check_weights()
        return stage

    def upscale(
        self, stage: Stage, low: Tensor, rows: Sequence[int], say: Callable[[str], None]
    ) -> UpscaledRows:
        """Run the second stage. low: the final states of these rows, (len(rows), *shape)."""
        selected = stage.select(rows)
        noise = lambda shape: keyed_noise(selected.seeds, "low", 0, shape)
        model = Counting(self.upscaler(low, noise))
        selected = replace(selected, model=model)
        say(selected.header(selected.plan()))
        *_, end = selected.steps(purpose="second ")
        images = model.decode(end.x).cpu()
        return UpscaledRows(rows, images, stage.pinned, timing.usage(model))
