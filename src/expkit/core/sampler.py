"""The sampling loop: one forward pass of the network per step, for any composition.

Noise is a function of (seed, number of the image, purpose, index in the whole grid), never of the
call order, the row of a batch, the device or the level. So image k has the same noise alone, in a
batch, in a sweep and after a resume.
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
    """The key of a row's noise: image number `picture` of the random seed `seed`."""

    seed: int
    picture: int


def seeded(seed: int, count: int) -> list[Seed]:
    """The noise keys of images 0 … count − 1 of a random seed."""
    return [Seed(seed, picture) for picture in range(count)]


def keyed_noise(seeds: Sequence[Seed], purpose: str, index: int, shape: Sequence[int]) -> Tensor:
    """Standard normal noise, with one random stream per row.

    Args:
        seeds: Noise keys of B rows.
        purpose: What the noise is for: "start", "step" or "pin".
        index: Index in the whole grid.
        shape: (C, H, W).

    Returns:
        (B, C, H, W), float32, on the CPU.
    """
    streams = [stream(*seed, purpose, index) for seed in seeds]
    return torch.stack([torch.randn(*shape, generator=generator) for generator in streams])


@dataclass(frozen=True)
class Sampler:
    """A solver, its timesteps and a threshold for the estimates of the clean image.

    Attributes:
        grid: Number of levels of the schedule -> levels to visit; see `expkit.core.timesteps`.
        rule: The solver: one update from a level to the next; see `expkit.core.solvers`.
        clip: (x0, denoiser) -> x0, applied to each estimate of the clean image, or None; see
            `expkit.core.thresholding`.
    """

    grid: Callable[[int], tuple[float, ...]]
    rule: Rule = DDPM()  # noqa: RUF009
    clip: Clip | None = None

    def timesteps(self, schedule: Schedule) -> tuple[float, ...]:
        """The levels to visit, rounded to integers unless the schedule is continuous.

        Raises:
            UserError: There are more steps than integer levels.
        """
        grid = self.grid(len(schedule))
        if schedule.continuous or all(t == int(t) for t in grid):
            return grid
        return rounded(grid, len(schedule))


def sample(
    denoiser: Denoiser,
    estimate: EstimateBase | Callable[..., Prediction],
    grid: Sequence[float],
    seeds: Sequence[Seed],
    rule: Rule = DDPM(),  # noqa: B008
    pin: Pin | None = None,
    clip: Clip | None = None,
    begin: int = 0,
    x: Tensor | None = None,
    purpose: str = "",
    drop: Callable[[int, Step], Collection[int]] | None = None,
) -> Iterator[Step]:
    """Sample B images by walking along the grid.

    Each step from t to s does the following: replace what is pinned at t, evaluate the network,
    convert its prediction to x0, clip x0, and apply the rule. Where s > t the step adds noise
    instead, without the network (`renoise`), and yields nothing. Rows whose whole image will still
    be pinned at s are left out of the forward pass and keep their x.

    Args:
        denoiser: The network.
        estimate: What to evaluate; called as `estimate(denoiser, x, t, rows)`.
        grid: Levels to visit, from noise to clean.
        seeds: Noise keys of the B rows.
        rule: The solver.
        pin: What stays fixed, if anything.
        clip: Applied to each estimate of the clean image, if given.
        begin: Index of the grid at which to start, with the state `x`.
        x: State (B, C, H, W) at `grid[begin]`. Default: pure noise.
        purpose: Prefix of the noise keys' purpose. Set it where an image is sampled twice (in a
            second stage), so that the noises differ.
        drop: (number of steps of the grid so far, last `Step`) -> rows to stop. They keep their x
            and are no longer evaluated.

    Yields:
        A `Step` after every update, with x and x0 (B, C, H, W) in the model's range on the model's
        device; x0 is zero for rows that were never updated. With a pin, one more step at the end
        has the clean pinned part put back.
    """

    def noise(kind: str, index: int) -> Tensor:
        return keyed_noise(seeds, purpose + kind, index, denoiser.shape).to(denoiser.device)

    schedule, all_rows = denoiser.schedule, list(range(len(seeds)))
    dropped: set[int] = set()
    x = noise("start", 0) if x is None else x
    x0, last = torch.zeros_like(x), None
    was_updated = torch.zeros(len(seeds), dtype=torch.bool)  # in the previous step
    for index, (t, s) in enumerate(pairwise(grid[begin:]), begin):
        if pin and (index > 0 or pin.at_first):
            x = pin(x, t, schedule, noise("pin", index))
        if s > t:
            x, last = renoise(schedule, x, t, s, noise("step", index)), None
            continue
        x_t = x
        active = pin.rows_to_update(s, len(seeds)) if pin else all_rows
        if dropped:
            active = [row for row in active if row not in dropped]
        if active:
            rows = slice(None) if active == all_rows else row_index(x, active)
            step_noise, previous = noise("step", index)[rows], last and last.of(rows)
            late = ~was_updated[active]
            x_s, x0_s = step_rows(
                denoiser, estimate, rule, clip, x[rows], t, s, step_noise, previous, active, late
            )
            x = x_s if isinstance(rows, slice) else x.index_copy(0, rows, x_s)
            x0 = x0_s if isinstance(rows, slice) else x0.index_copy(0, rows, x0_s)
        last = Step(t, s, x, x0, x_t)
        active_index = torch.tensor(active, dtype=torch.long)
        was_updated = torch.zeros_like(was_updated).index_fill(0, active_index, True)
        yield last
        if drop:
            dropped |= {*drop(index + 1, last)}
    if pin:
        pinned = x if grid[-1] == CLEAN else pin(x, grid[-1], schedule, noise("pin", len(grid) - 1))
        yield Step(grid[-1], CLEAN, pin.finish(pinned), x0, pinned)


def step_rows(
    denoiser: Denoiser,
    estimate: EstimateBase | Callable[..., Prediction],
    rule: Rule,
    clip: Clip | None,
    x: Tensor,
    t: float,
    s: float,
    noise: Tensor,
    last: Step | None,
    rows: list[int],
    late: Tensor,
) -> tuple[Tensor, Tensor]:
    """Update some rows of a run from level t to level s.

    Args:
        denoiser: The network.
        estimate: What to evaluate.
        rule: The solver.
        clip: Applied to the estimate of the clean image, if given.
        x: State (R, C, H, W) of these rows at level t.
        t: Current level.
        s: Next level.
        noise: Standard normal (R, C, H, W).
        last: The previous `Step` of these rows, or None.
        rows: Indices of the R rows in the run.
        late: bool (R,), the rows that were not updated in the previous step. Their previous x0 is
            replaced by the current one, so that a multistep solver takes a first-order step.

    Returns:
        x at level s and the estimate x0 made at level t, both (R, C, H, W).
    """
    prediction = estimate(denoiser, x, t, rows)
    x0 = denoiser.schedule.denoised(x, t, prediction.native, denoiser.prediction_type)
    x0 = clip(x0, denoiser) if clip else x0
    if last and late.any():
        is_late = late.to(x.device)[:, None, None, None]
        last = last._replace(x0=torch.where(is_late, x0, last.x0))
    x_s = rule(denoiser.schedule, x, x0, prediction.variance_fraction, t, s, noise, last)
    return x_s, x0


def row_index(x: Tensor, rows: list[int]) -> Tensor:
    """Row numbers as an index tensor on the device of x."""
    return torch.tensor(rows, device=x.device)


def count_rows(
    estimate: EstimateBase,
    schedule: Schedule,
    grid: Sequence[float],
    count: int,
    pin: Pin | None = None,
    left: Callable[[int], Collection[int]] | None = None,
) -> list[int]:
    """The number of rows of each network call that `sample` will make; nothing is evaluated.

    Args:
        estimate: What will be evaluated.
        schedule: Noise schedule of the model.
        grid: Levels to visit.
        count: Number of images.
        pin: What stays fixed, if anything.
        left: (number of steps of the grid so far) -> rows that are not dropped.

    Returns:
        One number per network call.
    """
    rows_per_call: list[int] = []
    cache: dict[tuple[tuple[int, ...], float | None], int] = {}
    for index, (t, s) in enumerate(pairwise(grid)):
        active = tuple(pin.rows_to_update(s, count) if pin else range(count))
        clock = (t + 1) / len(schedule)
        if left:
            active = tuple(row for row in active if row in left(index))
        key = active, None if estimate.is_time_invariant else clock
        if s < t and key not in cache:
            cache[key] = len(estimate.queries(active, clock))
        if s < t and cache[key]:
            rows_per_call.append(cache[key])
    return rows_per_call
