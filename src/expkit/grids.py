"""Grids: the levels a sampler visits, as tuples of integers that fall towards clean.

Each is a function of the schedule's number of levels, so that one configuration serves every model. An update goes from one level
to the next; a grid that ends at level 0 ends as the course does, one that ends at `CLEAN` makes a last noiseless update.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from expkit.errors import Refusal
from expkit.schedule import CLEAN

ALIGNED = (995, 920, 811, 686, 555, 418, 315, 174, 109, 12, 0)


def strided(levels: int, steps: int = 33) -> tuple[int, ...]:
    """The course's: 990, 960, …, 0 of 1000 levels, scaled to any number of them. 34 levels, 33 updates."""
    if not 1 <= steps < levels:
        raise Refusal(f"steps={steps} does not fit this model of {levels} levels: give a whole number from 1 to {levels - 1}.")
    return tuple(round((990 - 990 * i / steps) * levels / 1000) for i in range(steps + 1))


def strided_clean(levels: int, steps: int = 33) -> tuple[int, ...]:
    """The same list as diffusers walks it: 34 calls, the last update noiseless, from level 0 to clean."""
    return (*strided(levels, steps), CLEAN)


def full(levels: int) -> tuple[int, ...]:
    """Every level, T − 1, …, 0, clean: ancestral sampling as the network was trained."""
    return (*range(levels - 1, -1, -1), CLEAN)


def repaint(levels: int, steps: int = 33, jump: int = 3, times: int = 3) -> tuple[int, ...]:
    """The strided grid, each `jump` of its steps walked `times` times, going up again between (Lugmayr et al. 2022, §4.2)."""
    down = strided(levels, steps)
    walk = [down[0]]
    for start in range(0, steps, jump):
        leg = down[start + 1 : start + jump + 1]
        for again in range(times):
            walk += ([down[start]] if again else []) + list(leg)
    return tuple(walk)


def updates(grid: Sequence[int]) -> int:
    """How many steps towards clean a grid has: going up again is none."""
    return sum(s < t for t, s in pairwise(grid))


def level(t: float, levels: int) -> int:
    """Level t of 1000 in a schedule of any number of levels."""
    if not 0 <= t < 1000:
        raise Refusal(f"t={t} is not a level: levels are counted in thousandths of the schedule, from 0 (almost clean) to 999 (noise).")
    return min(round(t * levels / 1000), levels - 1)


def listed(t: float | Sequence[float], levels: int) -> list[int]:
    """One level of 1000, or several, in a schedule of any number of levels."""
    return [level(each, levels) for each in (t if isinstance(t, Sequence) else [t])]


def ays(levels: int) -> tuple[int, ...]:
    """Align Your Steps (Sabour et al. 2024), the levels found for DeepFloyd IF, scaled to any number of them: 11 levels, 10 updates."""
    return tuple(min(round(level * levels / 1000), levels - 1) for level in ALIGNED)
