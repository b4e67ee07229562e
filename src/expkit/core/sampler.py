"""The loop: one forward of the network a step, whatever is composed.

Randomness belongs to (seed, the picture's own number, purpose, index in the whole grid): never to call order, row of a batch, device,
or level. Picture k has the same noise alone, in a batch, in a sweep and after a resume.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from expkit.core.denoiser import Denoiser, Prediction
from expkit.core.estimate import EstimateBase
from expkit.core.pin import Pin
from expkit.core.rng import stream
from expkit.core.schedules import CLEAN, Schedule
from expkit.core.solvers import DDPM, Step, renoise
from expkit.core.timesteps import rounded

Rule = Callable[..., Tensor]
Clip = Callable[[Tensor, Denoiser], Tensor]


class Seed(NamedTuple):
    """Whose noise a row has: picture number `picture` of `seed`."""

    seed: int
    picture: int


def seeded(seed: int, count: int) -> list[Seed]:
    """The seeds of pictures 0 … count − 1."""
    return [Seed(seed, picture) for picture in range(count)]


def keyed_noise(seeds: Sequence[Seed], purpose: str, index: int, shape: Sequence[int]) -> Tensor:
    """Standard normal noise (B, *shape), float32 on the CPU, one stream a row."""
    return torch.stack([torch.randn(*shape, generator=stream(*s, purpose, index)) for s in seeds])


@dataclass(frozen=True)
class Sampler:
    """A rule, the grid it walks as a function of the number of levels, and what is done to each estimate of the clean picture."""

    grid: Callable[[int], tuple[float, ...]]
    rule: Rule = DDPM()  # noqa: RUF009
    clip: Clip | None = None

    def timesteps(self, schedule: Schedule) -> tuple[float, ...]:
        """The levels that it visits of a schedule; integers, unless the schedule is continuous."""
        grid = self.grid(len(schedule))
        return grid if schedule.continuous or all(t == int(t) for t in grid) else rounded(grid, len(schedule))


def sample(
    denoiser: Denoiser,
    estimate: EstimateBase | Callable[..., Prediction],
    grid: Sequence[int],
    seeds: Sequence[Seed],
    rule: Rule = DDPM(),  # noqa: B008
    pin: Pin | None = None,
    clip: Clip | None = None,
    begin: int = 0,
    x: Tensor | None = None,
    purpose: str = "",
    drop: Callable[[int, Step], Collection[int]] | None = None,
) -> Iterator[Step]:
    """Walk the grid; yield a `Step` after every update, its x and x0 (B, C, H, W) in the model's range, on the model's device.

    purpose: set where one picture is sampled twice (a second stage), so that its noises differ.
    begin, x: start at this index of the grid from this state instead of from pure noise at the first level.
    drop: (updates made, the last of them) -> rows that are not gone on with: these keep their x, and cost nothing more.
    Rows whose picture is still pinned whole at the next level are left out of the forward, and keep their x.
    """

    def noise(of: str, index: int) -> Tensor:
        return keyed_noise(seeds, purpose + of, index, denoiser.shape).to(denoiser.device)

    schedule, every = denoiser.schedule, list(range(len(seeds)))
    x, dropped = noise("start", 0) if x is None else x, set()
    x0, last, stepped = (
        torch.zeros_like(x),
        None,
        torch.zeros(len(seeds), dtype=torch.bool),
    )  # stepped: at the update before
    for index, (t, s) in enumerate(pairwise(grid[begin:]), begin):
        if pin and (index > 0 or pin.at_first):
            x = pin(x, t, schedule, noise("pin", index))
        if s > t:
            x, last = renoise(schedule, x, t, s, noise("step", index)), None
            continue
        seen, free = x, pin.free(s, len(seeds)) if pin else every
        free = [row for row in free if row not in dropped] if dropped else free
        if free:
            rows = slice(None) if free == every else row_index(x, free)
            before, late = last and last.of(rows), ~stepped[free]
            new, clean = step_rows(
                denoiser, estimate, rule, clip, x[rows], t, s, noise("step", index)[rows], before, free, late
            )
            x, x0 = (
                (new, clean) if free == every else (x.index_copy(0, rows, new), x0.index_copy(0, rows, clean))
            )
        last = Step(t, s, x, x0, seen)
        stepped = torch.zeros_like(stepped).index_fill(0, torch.tensor(free, dtype=torch.long), True)
        yield last
        if drop:
            dropped |= {*drop(index + 1, last)}
    if pin:
        held = x if grid[-1] == CLEAN else pin(x, grid[-1], schedule, noise("pin", len(grid) - 1))
        yield Step(grid[-1], CLEAN, pin.finish(held), x0, held)


def step_rows(
    denoiser,
    estimate,
    rule: Rule,
    clip: Clip | None,
    x: Tensor,
    t: int,
    s: int,
    noise: Tensor,
    last,
    rows: list[int],
    late,
):
    """x, the state of these rows of the run, from level t to s: (x at s, x0). `late` rows make their first step: they remember none."""
    out = estimate(denoiser, x, t, rows)
    x0 = denoiser.schedule.denoised(x, t, out.native, denoiser.prediction_type)
    x0 = clip(x0, denoiser) if clip else x0
    if last and late.any():
        last = last._replace(x0=torch.where(late.to(x.device)[:, None, None, None], x0, last.x0))
    return rule(denoiser.schedule, x, x0, out.variance_fraction, t, s, noise, last), x0


def row_index(x: Tensor, rows: list[int]) -> Tensor:
    """Row numbers as an index on the device of x."""
    return torch.tensor(rows, device=x.device)


def count_rows(
    estimate: EstimateBase, schedule: Schedule, grid: Sequence[int], count: int, pin: Pin | None = None,
    left: Callable[[int], Collection[int]] | None = None,
) -> list[int]:  # fmt: skip
    """The rows of each network call that `sample` will make, without making one. left: the rows that are not dropped after k updates."""
    planned, known = [], {}
    for index, (t, s) in enumerate(pairwise(grid)):
        free, clock = tuple(pin.free(s, count) if pin else range(count)), (t + 1) / len(schedule)
        free = tuple(row for row in free if row in left(index)) if left else free
        key = free, None if estimate.is_time_invariant else clock
        if s < t and key not in known:
            known[key] = len(estimate.queries(free, clock))
        planned += [known[key]] if s < t and known[key] else []
    return planned
