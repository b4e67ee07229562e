"""Grids of timesteps: the levels that a sampler visits, as tuples of numbers.

Levels decrease towards clean; only `repaint` also goes up. Each grid is a function of the
schedule's number of levels, so that one configuration serves every model. An update goes from one
level to the next. A grid may end at level 0, as in CS180 project 5 (UC Berkeley), or at `CLEAN`,
with a last noiseless update.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from expkit.core.schedules import CLEAN
from expkit.errors import UserError

# Align Your Steps (Sabour et al. 2024), for DeepFloyd IF with 1000 levels
AYS_LEVELS = (995, 920, 811, 686, 555, 418, 315, 174, 109, 12, 0)


def strided(levels: int, steps: int = 33) -> tuple[int, ...]:
    """Strided timesteps of CS180 project 5: 990, 960, …, 0 of 1000 levels, scaled to `levels`.

    Args:
        levels: Number of levels T of the schedule.
        steps: Number of updates; the grid has steps + 1 levels (by default 33 updates, 34 levels).

    Raises:
        UserError: steps is not in 1 … 0.99 T: with more updates, levels would repeat.
    """
    first = min(round(0.99 * levels), levels - 1)
    if not 1 <= steps <= first:
        raise UserError(
            f"steps={steps} does not fit this model of {levels} levels: "
            f"give a whole number from 1 to {first}, or sampler=ddpm, which walks every level."
        )
    exact = [(990 - 990 * i / steps) * levels / 1000 for i in range(steps + 1)]
    return tuple(min(round(t), first) for t in exact)


def strided_clean(levels: int, steps: int = 33) -> tuple[int, ...]:
    """`strided` plus a last noiseless update from level 0 to clean, as in diffusers.

    By default there are 34 updates and 34 network calls.
    """
    return (*strided(levels, steps), CLEAN)


def all_levels(levels: int) -> tuple[int, ...]:
    """Every level T − 1, …, 0, then clean: ancestral sampling as the network was trained."""
    return (*range(levels - 1, -1, -1), CLEAN)


def trailing(levels: int, steps: int = 33) -> tuple[float, ...]:
    """Equal steps from pure noise (level T − 1) to clean: T (1 − i/N) − 1 for i = 0 … N = `steps`.

    There are N updates and N network calls. For flow matching these are the times 0, 1/N, …,
    (N − 1)/N. The levels need not be integers: see `rounded`. diffusers calls this
    timestep_spacing="trailing" (Lin et al. 2024, §3.3).

    Raises:
        UserError: steps is less than 1.
    """
    if steps < 1:
        raise UserError(f"steps={steps} does not fit: give a whole number from 1.")
    exact = [levels * (steps - i) / steps - 1 for i in range(steps)]
    return (*[int(t) if t == int(t) else t for t in exact], CLEAN)


def rounded(grid: Sequence[float], levels: int) -> tuple[int, ...]:
    """A grid rounded to integer levels.

    Args:
        grid: Levels as real numbers.
        levels: Number of levels of the schedule.

    Raises:
        UserError: Two successive levels are rounded to the same integer: there are too many steps.
    """
    integers = tuple(round(t + 1) - 1 for t in grid)
    if any(t == s for t, s in pairwise(integers)):
        raise UserError(
            f"steps={len(grid) - 1} does not fit this model of {levels} levels: "
            f"give a whole number from 1 to {levels}."
        )
    return integers


def repaint(levels: int, steps: int = 33, jump: int = 3, times: int = 3) -> tuple[int, ...]:
    """Resampling schedule of RePaint on the strided grid.

    See Lugmayr et al. 2022, §4.2 and the jump schedule of their appendix. Here T = `steps`,
    j = `jump` and r = `times`. The T updates are counted down from T − 1, so that update t starts
    at entry T − 1 − t of the grid. Where the walk reaches a t that is a multiple of j below T − j,
    it goes up by j levels, one at a time, and down to t again, r − 1 times. If T ≤ j it never goes
    up. The paper has T = 250, j = 10, r = 10: 4570 transitions, of which 2410 are network calls.

    Args:
        levels: Number of levels of the schedule.
        steps: Number of updates of the strided grid.
        jump: Number of levels of the grid by which the walk goes up.
        times: How often each of these stretches is walked downwards.

    Raises:
        UserError: jump or times is less than 1, or steps does not fit (see `strided`).
    """
    if jump < 1 or times < 1:
        raise UserError(
            f"A walk of {steps} steps cannot go up again with jump={jump}, times={times}: "
            "give whole numbers from 1."
        )
    walk: list[int] = []
    for t in range(steps - 1, -2, -1):
        walk.append(t)
        if t in range(0, steps - jump, jump):
            walk += (times - 1) * [*range(t + 1, t + jump + 1), *range(t + jump - 1, t - 1, -1)]
    down = strided(levels, steps)
    return tuple(down[steps - 1 - t] for t in walk)


def count_updates(grid: Sequence[float]) -> int:
    """The number of updates of a grid: steps towards clean, without steps that add noise."""
    return sum(s < t for t, s in pairwise(grid))


def descent(grid: Sequence[float]) -> tuple[float, ...]:
    """The levels of a grid in decreasing order, without rises and repetitions.

    `i_start` is an index into these levels, so it means the same with and without resampling.
    """
    down = [grid[0]]
    for t in grid:
        if t < down[-1]:
            down.append(t)
    return tuple(down)


def find_rises(grid: Sequence[float]) -> list[tuple[float, int]]:
    """The rises of a grid: (level at which a rise starts, number of levels it goes up)."""
    rises: list[tuple[float, int]] = []
    climbing = False
    for t, s in pairwise(grid):
        if s > t and climbing:
            start, height = rises[-1]
            rises[-1] = (start, height + 1)
        elif s > t:
            rises.append((t, 1))
        climbing = s > t
    return rises


def strength(index: int, grid: Sequence[float]) -> float:
    """The `strength` with which img2img of diffusers starts at this index of a grid.

    With N timesteps, diffusers starts at timestep number N − min(int(N · strength), N). N is the
    number of updates: 34 for `strided_clean`, and 33 for `strided`, whose last level is not
    evaluated. diffusers would count 34 timesteps for `strided`, so for a grid that does not end at
    `CLEAN` the result is valid for N + 1 as well.

    Args:
        index: Index into `grid`.
        grid: Decreasing levels.

    Returns:
        A number from 1 (pure noise) to 0 (the image itself), with two decimals, or more if needed.

    Raises:
        ValueError: No strength starts there.
    """
    steps = len(grid) - 1
    if index in (0, steps):
        return float(index == 0)
    counts = (steps,) if grid[-1] == CLEAN else (steps, steps + 1)
    for unit in (10**decimals for decimals in range(2, 16)):
        least = math.ceil(max((n - index) / n for n in counts) * unit)
        for candidate in (least / unit, (least + 1) / unit):
            # The margin rejects candidates that fit only because of rounding.
            if all(n - index <= n * candidate < n - index + 1 - 1e-9 for n in counts):
                return candidate
    raise ValueError(f"no strength starts at index {index} of {steps} updates")


def scaled_level(t: float, levels: int) -> int:
    """Level t of 1000, converted to a schedule of `levels` levels.

    Raises:
        UserError: t is not in [0, 1000).
    """
    if not 0 <= t < 1000:
        raise UserError(
            f"t={t} is not a level: levels are counted in thousandths of the schedule, "
            "from 0 (almost clean) to 999 (noise)."
        )
    return min(round(t * levels / 1000), levels - 1)


def scaled_levels(t: float | Sequence[float], levels: int) -> list[int]:
    """One or several levels of 1000, each converted by `scaled_level`."""
    return [scaled_level(level, levels) for level in (t if isinstance(t, Sequence) else [t])]


def ays(levels: int) -> tuple[int, ...]:
    """Align Your Steps (Sabour et al. 2024): the levels for DeepFloyd IF, scaled to `levels`.

    There are 11 levels and 10 updates.
    """
    return tuple(min(round(level * levels / 1000), levels - 1) for level in AYS_LEVELS)
