"""The sampling loop: one forward pass of the network per call of a solver, for any composition.

Noise is a function of (seed, number of the image, purpose, index in the whole grid), never of the
call order, the row of a batch, the device or the level. So image k has the same noise alone, in a
batch, in a sweep and after a resume.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from expkit.core.denoiser import Denoiser, Prediction
from expkit.core.estimate import EstimateBase
from expkit.core.pin import Pin
from expkit.core.rng import stream
from expkit.core.schedules import CLEAN, Schedule
from expkit.core.solvers import (
    DDPM,
    Corrected,
    Rule,
    Step,
    Update,
    history_of,
    levels_of,
    renoise,
)
from expkit.core.timesteps import count_updates

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
        grid: Schedule -> levels to visit; see `expkit.core.timesteps`.
        rule: The solver: one update from a level to the next; see `expkit.core.solvers`.
        clip: (x0, denoiser) -> x0, applied to each estimate of the clean image, or None; see
            `expkit.core.thresholding`.
    """

    grid: Callable[[Schedule], tuple[float, ...]]
    rule: Rule = DDPM()  # noqa: RUF009
    clip: Clip | None = None

    def timesteps(self, schedule: Schedule) -> tuple[float, ...]:
        """The levels to visit, real numbers.

        Raises:
            UserError: The grid does not fit the schedule, as when it has more steps than levels.
        """
        return self.grid(schedule)


class Estimated(NamedTuple):
    """The estimate of the clean image (R, C, H, W), and the learned variance as a fraction."""

    x0: Tensor
    variance_fraction: Tensor | None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The composed estimate for some rows of a run; each call is one network call.

    Attributes:
        denoiser: The network.
        estimate: What to evaluate.
        clip: Applied to each estimate of the clean image, if given.
        pin: What stays fixed, if anything.
        pin_noise: The noise (B, C, H, W) of the pin at the next level of the grid.
        rows: Indices of the R rows in the run.
    """

    denoiser: Denoiser
    estimate: EstimateBase | Callable[..., Prediction]
    clip: Clip | None
    pin: Pin | None
    pin_noise: Callable[[], Tensor]
    rows: Sequence[int]

    def __call__(self, x: Tensor, t: float) -> Estimated:
        """Evaluate the state x (R, C, H, W) at level t."""
        denoiser = self.denoiser
        prediction = self.estimate(denoiser, x, t, self.rows)
        x0 = denoiser.schedule.denoised(x, t, prediction.native, denoiser.prediction_type)
        x0 = self.clip(x0, denoiser) if self.clip else x0
        return Estimated(x0, prediction.variance_fraction)

    def ask(self, x: Tensor, t: float) -> Tensor:
        """The estimate of the clean image for a state and level of the rule's own.

        What is pinned at t is replaced first, with the noise of the grid's next level.
        """
        if self.pin:
            noise = self.pin_noise()[row_index(x, self.rows)]
            x = self.pin.select(self.rows)(x, t, self.denoiser.schedule, noise)
        return self(x, t).x0

    def select(self, positions: Sequence[int]) -> Evaluation:
        """The same for the rows at these positions of `rows`."""
        return replace(self, rows=[self.rows[position] for position in positions])


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
    convert its prediction to x0, clip x0, and apply the rule, which may call the network again.
    Where s > t the step adds noise instead, without the network (`renoise`), and yields nothing.
    Rows whose whole image will still be pinned at s are left out of the forward pass and keep their
    x. A multistep rule begins anew, with first order, for rows that were left out of the previous
    step, and for all rows after noise was added.

    Args:
        denoiser: The network.
        estimate: What to evaluate; called as `estimate(denoiser, x, t, rows)`.
        grid: Levels to visit, from noise to clean.
        seeds: Noise keys of the B rows.
        rule: The solver.
        pin: What stays fixed, if anything.
        clip: Applied to each estimate of the clean image, if given.
        begin: Index of the grid at which to start, with the state `x`.
        x: State (B, C, H, W) at `grid[begin]`. Default: pure noise; where alpha = 1 at every level,
            it has the standard deviation sigma.
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
    if x is None:
        x = noise("start", 0)
        x = schedule.at(grid[begin])[1] * x if schedule.explodes else x
    x0, last = torch.zeros_like(x), None
    ages = [0] * len(seeds)  # in how many steps before this one each row was updated without a gap
    history, total, done = history_of(rule), count_updates(grid), count_updates(grid[: begin + 1])
    for index, (t, s) in enumerate(pairwise(grid[begin:]), begin):
        if pin and (index > 0 or pin.at_first):
            x = pin(x, t, schedule, noise("pin", index))
        if s > t:
            x, last = renoise(schedule, x, t, s, noise("step", index)), None
            ages = [0] * len(seeds)
            continue
        x_t = x
        active = pin.rows_to_update(s, len(seeds)) if pin else all_rows
        if dropped:
            active = [row for row in active if row not in dropped]
        if active:
            rows = slice(None) if active == all_rows else row_index(x, active)
            next_pin_noise = partial(noise, "pin", index + 1)
            evaluation = Evaluation(denoiser, estimate, clip, pin, next_pin_noise, active)
            x0_rows, fraction = evaluation(x[rows], t)
            previous = last.of(rows) if last and history else None
            update = Update(
                schedule, x[rows], x0_rows, t, s, noise("step", index)[rows], fraction, previous,
                evaluation.ask, done, total,
            )  # fmt: skip
            moved = apply_rule(rule, update, [ages[row] for row in active], evaluation)
            x_t, x0 = put_rows(x, rows, moved.x_t), put_rows(x0, rows, x0_rows)
            x = put_rows(x, rows, moved.x)
        last = Step(t, s, x, x0, x_t, last and last.recent(history - 1))
        done, updated = done + 1, set(active)
        ages = [age + 1 if row in updated else 0 for row, age in enumerate(ages)]
        yield last
        if drop:
            dropped |= {*drop(index + 1, last)}
    if pin:
        pinned = x if grid[-1] == CLEAN else pin(x, grid[-1], schedule, noise("pin", len(grid) - 1))
        yield Step(grid[-1], CLEAN, pin.finish(pinned), x0, pinned)


def apply_rule(
    rule: Rule, update: Update, ages: Sequence[int], evaluation: Evaluation
) -> Corrected:  # fmt: skip
    """Apply a rule to R rows; rows that have fewer previous steps than others apart from them.

    Args:
        rule: The solver.
        update: The update of all R rows.
        ages: For each row, the number of its previous steps without a gap.
        evaluation: The composed estimate for these rows.

    Returns:
        The states (R, C, H, W) at level s and, as the rule corrected them, at level t.
    """
    depths = [min(age, history_of(rule)) for age in ages]
    distinct = sorted(set(depths))
    if len(distinct) == 1:
        return as_corrected(rule(with_history(update, distinct[0])), update.x)
    x = x_t = update.x
    for depth in distinct:
        positions = [position for position, own in enumerate(depths) if own == depth]
        rows = row_index(update.x, positions)
        part = update.of(rows, evaluation.select(positions).ask)
        moved = as_corrected(rule(with_history(part, depth)), part.x)
        x, x_t = x.index_copy(0, rows, moved.x), x_t.index_copy(0, rows, moved.x_t)
    return Corrected(x, x_t)


def with_history(update: Update, depth: int) -> Update:
    """The update with only the last `depth` of its previous steps."""
    return replace(update, last=update.last and update.last.recent(depth))


def as_corrected(moved: Tensor | Corrected, x_t: Tensor) -> Corrected:
    """What a rule returned; x_t is the state at t if the rule does not correct it."""
    return moved if isinstance(moved, Corrected) else Corrected(moved, x_t)


def put_rows(x: Tensor, rows: Tensor | slice, new: Tensor) -> Tensor:
    """x (B, C, H, W) with these rows replaced; a slice means all of them."""
    return new if isinstance(rows, slice) else x.index_copy(0, rows, new)


def row_index(x: Tensor, rows: Sequence[int]) -> Tensor:
    """Row numbers as an index tensor on the device of x."""
    return torch.tensor(list(rows), device=x.device)


def count_rows(
    estimate: EstimateBase,
    schedule: Schedule,
    grid: Sequence[float],
    count: int,
    pin: Pin | None = None,
    left: Callable[[int], Collection[int]] | None = None,
    rule: Rule = DDPM(),  # noqa: B008
) -> list[int]:
    """The number of rows of each network call that `sample` will make; nothing is evaluated.

    Args:
        estimate: What will be evaluated.
        schedule: Noise schedule of the model.
        grid: Levels to visit.
        count: Number of images.
        pin: What stays fixed, if anything.
        left: (number of steps of the grid so far) -> rows that are not dropped.
        rule: The solver, which may call the network several times in an update.

    Returns:
        One number per network call.
    """
    rows_per_call: list[int] = []
    cache: dict[tuple[tuple[int, ...], float | None], list[int]] = {}

    def add_call(rows: tuple[int, ...], level: float) -> None:
        clock = (level + 1) / len(schedule)
        key = rows, None if estimate.is_time_invariant else clock
        if key not in cache:
            cache[key] = [count for count in estimate.rows_per_call(rows, clock) if count]
        rows_per_call.extend(cache[key])

    before: set[int] = set()  # the rows of the previous update
    for index, (t, s) in enumerate(pairwise(grid)):
        if s >= t:
            before = set()
            continue
        active = tuple(pin.rows_to_update(s, count) if pin else range(count))
        if left:
            active = tuple(row for row in active if row in left(index))
        add_call(active, t)
        first = tuple(row for row in active if row not in before)
        others = tuple(row for row in active if row in before)
        # a solver that looks back updates rows by themselves that have nothing to look back at
        groups = [(first, True), (others, False)] if history_of(rule) else [(active, not others)]
        for rows, is_first in groups:
            for level in levels_of(rule, schedule, t, s, is_first)[1:]:
                add_call(rows, level)
        before = set(active)
    return rows_per_call
