"""Grids: the levels a sampler visits, as tuples of numbers that fall towards clean.

Each is a function of the schedule's number of levels, so that one configuration serves every model. An update goes from one level
to the next; a grid that ends at level 0 ends as the course does, one that ends at `CLEAN` makes a last noiseless update.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from expkit.core.schedules import CLEAN
from expkit.errors import UserError

ALIGNED = (995, 920, 811, 686, 555, 418, 315, 174, 109, 12, 0)


def strided(levels: int, steps: int = 33) -> tuple[int, ...]:
    """The course's: 990, 960, …, 0 of 1000 levels, scaled to any number of them. 34 levels, 33 updates."""
    if not 1 <= steps < levels:
        raise UserError(
            f"steps={steps} does not fit this model of {levels} levels: give a whole number from 1 to {levels - 1}."
        )
    return tuple(round((990 - 990 * i / steps) * levels / 1000) for i in range(steps + 1))


def strided_clean(levels: int, steps: int = 33) -> tuple[int, ...]:
    """The same list as diffusers walks it: 34 calls, the last update noiseless, from level 0 to clean."""
    return (*strided(levels, steps), CLEAN)


def full(levels: int) -> tuple[int, ...]:
    """Every level, T − 1, …, 0, clean: ancestral sampling as the network was trained."""
    return (*range(levels - 1, -1, -1), CLEAN)


def trailing(levels: int, steps: int = 33) -> tuple[float, ...]:
    """T (1 − i/N) − 1 for i = 0 … N = `steps`: equal steps from pure noise, level T − 1, to clean; N updates, N network calls.

    On a flow these are the times 0, 1/N, …, (N − 1)/N. They need not be integers: see `rounded`. diffusers calls it
    timestep_spacing="trailing" (Lin et al. 2024, §3.3).
    """
    if steps < 1:
        raise UserError(f"steps={steps} does not fit: give a whole number from 1.")
    exact = [levels * (steps - i) / steps - 1 for i in range(steps)]
    return (*[int(t) if t == int(t) else t for t in exact], CLEAN)


def rounded(grid: Sequence[float], levels: int) -> tuple[int, ...]:
    """The grid for a schedule whose levels are integers."""
    whole = tuple(round(t + 1) - 1 for t in grid)
    if any(t == s for t, s in pairwise(whole)):
        raise UserError(
            f"steps={len(grid) - 1} does not fit this model of {levels} levels: give a whole number from 1 to {levels}."
        )
    return whole


def repaint(levels: int, steps: int = 33, jump: int = 3, times: int = 3) -> tuple[int, ...]:
    """RePaint's walk along the strided grid (Lugmayr et al. 2022, §4.2 and the jump schedule of their appendix).

    With the T = `steps` updates counted down from T − 1, so that update t starts at the grid's level T − 1 − t: wherever the walk comes to
    a t that is a multiple of `jump` (j) below T − j, it goes up again by j levels, one at a time, and down to t; `times` (r) − 1 times
    there, and nowhere where T ≤ j. T = 250, j = 10, r = 10 is their schedule: 4570 transitions, of which 2410 are network calls.
    """
    if jump < 1 or times < 1:
        raise UserError(
            f"A walk of {steps} steps cannot go up again with jump={jump}, times={times}: give whole numbers from 1."
        )
    walk: list[int] = []
    for t in range(steps - 1, -2, -1):
        walk.append(t)
        if t in range(0, steps - jump, jump):
            walk += (times - 1) * [*range(t + 1, t + jump + 1), *range(t + jump - 1, t - 1, -1)]
    down = strided(levels, steps)
    return tuple(down[steps - 1 - t] for t in walk)


def count_updates(grid: Sequence[float]) -> int:
    """How many steps towards clean a grid has: going up again is none."""
    return sum(s < t for t, s in pairwise(grid))


def descent(grid: Sequence[float]) -> tuple[float, ...]:
    """The levels of a grid without its ways up again and what is walked twice: i_start counts them, whatever the walk."""
    down = [grid[0]]
    for t in grid:
        if t < down[-1]:
            down.append(t)
    return tuple(down)


def find_rises(grid: Sequence[float]) -> list[tuple[float, int]]:
    """Each way up again: (the level that it starts at, by how many levels of the grid)."""
    found: list[tuple[float, int]] = []
    climbing = False
    for t, s in pairwise(grid):
        if s > t:
            found = [*found[:-1], (found[-1][0], found[-1][1] + 1)] if climbing else [*found, (t, 1)]
        climbing = s > t
    return found


def strength(index: int, grid: Sequence[float]) -> float:
    """The strength at which img2img of diffusers starts where this index of a falling grid is, in as few decimals as say it.

    Given N timesteps and a strength, it starts at timestep N − min(int(N · strength), N). N is the number of updates: 34 for
    `strided_clean`, and 33 for `strided`, whose last level is not asked at. To diffusers that list would be 34 timesteps: where a grid
    does not end at `CLEAN` the number serves N + 1 as well. 1 is pure noise, 0 the picture itself.
    """
    steps = len(grid) - 1
    if index in (0, steps):
        return float(index == 0)
    counts = (steps, steps + (grid[-1] != CLEAN))
    for unit in (10**decimals for decimals in range(2, 16)):
        least = math.ceil(max((n - index) / n for n in counts) * unit)
        for tried in (least / unit, (least + 1) / unit):
            if all(n - index <= n * tried < n - index + 1 - 1e-9 for n in counts):  # and not by rounding
                return tried
    raise ValueError(f"no strength starts at index {index} of {steps} updates")


def scaled_level(t: float, levels: int) -> int:
    """Level t of 1000 in a schedule of any number of levels."""
    if not 0 <= t < 1000:
        raise UserError(
            f"t={t} is not a level: levels are counted in thousandths of the schedule, from 0 (almost clean) to 999 (noise)."
        )
    return min(round(t * levels / 1000), levels - 1)


def scaled_levels(t: float | Sequence[float], levels: int) -> list[int]:
    """One level of 1000, or several, in a schedule of any number of levels."""
    return [scaled_level(each, levels) for each in (t if isinstance(t, Sequence) else [t])]


def ays(levels: int) -> tuple[int, ...]:
    """Align Your Steps (Sabour et al. 2024), the levels found for DeepFloyd IF, scaled to any number of them: 11 levels, 10 updates."""
    return tuple(min(round(level * levels / 1000), levels - 1) for level in ALIGNED)
