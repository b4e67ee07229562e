"""Grids of timesteps: the levels that a sampler visits, as tuples of real numbers.

Levels decrease towards clean; only `repaint` also goes up. Each grid is a function of the schedule,
so that one configuration serves every model; most need only its number of levels, and take that
number as well. An update goes from one level to the next. A grid may end at level 0, as in CS180
project 5 (UC Berkeley), or at `CLEAN`, with a last noiseless update.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from expkit.core.schedules import CLEAN, Schedule
from expkit.errors import UserError

Levels = Schedule | int  # a schedule, or its number of levels

# Align Your Steps (Sabour et al. 2024): levels of 1000, as the authors and diffusers list them
AYS_LEVELS = {
    "deepfloyd": (995, 920, 811, 686, 555, 418, 315, 174, 109, 12, 0),
    "stable_diffusion": (999, 850, 736, 645, 545, 455, 343, 233, 124, 24, CLEAN),
    "sdxl": (999, 845, 730, 587, 443, 310, 193, 116, 53, 13, CLEAN),
}
MOST_NOISE = 80.0  # sigma/alpha at which EDM starts (Karras et al. 2022): nothing is visible in it


def count_levels(levels: Levels) -> int:
    """T, the number of levels of a schedule, or the number itself."""
    return levels if isinstance(levels, int) else len(levels)


def strided(levels: Levels, steps: int = 33) -> tuple[int, ...]:
    """Strided timesteps of CS180 project 5: 990, 960, …, 0 of 1000 levels, scaled to `levels`.

    Args:
        levels: Schedule, or its number of levels T.
        steps: Number of updates; the grid has steps + 1 levels (by default 33 updates, 34 levels).

    Raises:
        UserError: steps is not in 1 … 0.99 T: with more updates, levels would repeat.
    """
    levels = count_levels(levels)
    first = min(round(0.99 * levels), levels - 1)
    if not 1 <= steps <= first:
        raise UserError(
            f"steps={steps} does not fit this model of {levels} levels: "
            f"give a whole number from 1 to {first}, or sampler=ddpm, which walks every level."
        )
    exact = [(990 - 990 * i / steps) * levels / 1000 for i in range(steps + 1)]
    return tuple(min(round(t), first) for t in exact)


def strided_clean(levels: Levels, steps: int = 33) -> tuple[int, ...]:
    """`strided` plus a last noiseless update from level 0 to clean, as in diffusers.

    By default there are 34 updates and 34 network calls.
    """
    return (*strided(levels, steps), CLEAN)


def all_levels(levels: Levels) -> tuple[int, ...]:
    """Every level T − 1, …, 0, then clean: ancestral sampling as the network was trained."""
    return (*range(count_levels(levels) - 1, -1, -1), CLEAN)


def trailing(levels: Levels, steps: int = 33) -> tuple[float, ...]:
    """Equal steps from pure noise (level T − 1) to clean: T (1 − i/N) − 1 for i = 0 … N = `steps`.

    There are N updates and N network calls. For flow matching these are the times 0, 1/N, …,
    (N − 1)/N. They are rounded to integers if a schedule is given that is not continuous: see
    `rounded`. diffusers calls this timestep_spacing="trailing" (Lin et al. 2024, §3.3).

    Raises:
        UserError: steps is less than 1, or there are more steps than integer levels.
    """
    count = count_levels(levels)
    check_steps(steps)
    exact = [count * (steps - i) / steps - 1 for i in range(steps)]
    grid = (*[int(t) if t == int(t) else t for t in exact], CLEAN)
    is_rounded = isinstance(levels, Schedule) and not levels.continuous
    return rounded(grid, count) if is_rounded else grid


def leading(levels: Levels, steps: int = 33, offset: int = 1) -> tuple[int, ...]:
    """Integer levels `offset` + (T // N) i for i = N − 1 … 0, N = `steps`, then clean.

    There are N network calls. diffusers calls this timestep_spacing="leading"; Stable Diffusion 1,
    2 and XL have it with steps_offset=1. It never reaches the noisiest level.

    Args:
        levels: Schedule, or its number of levels T.
        steps: Number of updates.
        offset: Lowest level.

    Raises:
        UserError: steps or offset does not fit.
    """
    count = count_levels(levels)
    check_steps(steps)
    if steps > count or not 0 <= offset <= count - 1 - (count // steps) * (steps - 1):
        raise UserError(
            f"steps={steps} with offset={offset} does not fit this model of {count} levels: "
            f"give fewer steps, or offset=0."
        )
    return (*[offset + count // steps * i for i in range(steps - 1, -1, -1)], CLEAN)


def karras(
    schedule: Schedule,
    steps: int = 33,
    rho: float = 7.0,
    least: float | None = None,
    most: float | None = None,
) -> tuple[float, ...]:
    """Karras spacing: equal steps in (sigma/alpha)^(1/rho), then clean (Karras et al. 2022, eq. 5).

        ratio_i = (most^(1/rho) + i/(N − 1) (least^(1/rho) − most^(1/rho)))^rho,  i = 0 … N − 1

    There are N = `steps` network calls. diffusers calls this use_karras_sigmas.

    Args:
        schedule: The noise schedule.
        steps: Number of updates.
        rho: How much shorter the steps between low noise levels are; 1: equal steps.
        least: sigma/alpha of the last noisy level; by default that of level 0.
        most: sigma/alpha of the first level; by default that of level T − 1, but at most 80.

    Raises:
        UserError: steps is less than 1, or the range is empty.
    """
    least, most = noise_range(schedule, steps, least, most)
    ends = most ** (1 / rho), least ** (1 / rho)
    return levels_of_ratios(schedule, [root**rho for root in evenly(*ends, steps)])


def exponential(
    schedule: Schedule, steps: int = 33, least: float | None = None, most: float | None = None
) -> tuple[float, ...]:
    """Exponential spacing: equal steps in log(sigma/alpha), then clean.

    There are `steps` network calls. diffusers calls this use_exponential_sigmas. Arguments and
    errors are those of `karras`.
    """
    least, most = noise_range(schedule, steps, least, most)
    logs = evenly(math.log(most), math.log(least), steps)
    return levels_of_ratios(schedule, [math.exp(x) for x in logs])


def shifted(
    levels: Levels,
    steps: int = 33,
    shift: float | None = None,
    first: float = 1.0,
    least: float | None = None,
) -> tuple[float, ...]:
    """Equal steps in the time u of flow matching, shifted towards noise, then clean.

        u_i = shift v_i / (1 + (shift − 1) v_i),  v_i from `first` to `least`;  t = T u − 1

    There are N = `steps` network calls. Images of n times as many pixels are visible in noise that
    is sqrt(n) times as strong; the shift makes up for it (Esser et al. 2024, eq. 23).
    `resolution_shift` is the shift of Flux, which depends on the size.

    Args:
        levels: Schedule, or its number of levels T.
        steps: Number of updates.
        shift: 1 is no shift; by default the schedule's own `shift`, or 1 for a number of levels.
        first: v of the first level, up to 1, pure noise.
        least: v of the last noisy level; by default `first`/N, as Flux's pipeline has it. The
            scheduler FlowMatchEulerDiscreteScheduler itself has shift/(T + shift − 1).

    Raises:
        UserError: A value does not fit.
    """
    count = count_levels(levels)
    check_steps(steps)
    factor = shift or (levels.shift if isinstance(levels, Schedule) else 1.0)
    least = first / steps if least is None else least
    if not (0 < least <= first <= 1 and factor > 0):
        raise UserError(
            f"shift={factor:g} from first={first:g} to least={least:g} does not fit: "
            "give 0 < least <= first <= 1 and a shift above 0."
        )
    times = [factor * v / (1 + (factor - 1) * v) for v in evenly(first, least, steps)]
    return (*[count * u - 1 for u in times], CLEAN)


def resolution_shift(
    tokens: int, fewest: int = 256, most: int = 4096, base: float = 0.5, highest: float = 1.15
) -> float:
    """The shift for an image of so many tokens, exp(mu) with mu linear in them (Flux, SD 3.5).

    Args:
        tokens: Number of patches of the latent: (H/2) (W/2) for Flux.
        fewest: base_image_seq_len of the scheduler's configuration.
        most: max_image_seq_len.
        base: base_shift, mu at `fewest` tokens.
        highest: max_shift, mu at `most` tokens.

    Returns:
        A shift for `shifted` and `Schedule.shift`.
    """
    return math.exp(base + (highest - base) * (tokens - fewest) / (most - fewest))


def check_steps(steps: int) -> None:
    """Require at least one step.

    Raises:
        UserError: steps is less than 1.
    """
    if steps < 1:
        raise UserError(f"steps={steps} does not fit: give a whole number from 1.")


def evenly(first: float, last: float, count: int) -> list[float]:
    """`count` numbers in equal steps from `first` to `last`; `first` alone if count is 1."""
    weights = [i / max(1, count - 1) for i in range(count)]
    return [first * (1 - weight) + last * weight for weight in weights]


def noise_range(
    schedule: Schedule, steps: int, least: float | None, most: float | None
) -> tuple[float, float]:  # fmt: skip
    """The lowest and the highest ratio sigma/alpha of a grid.

    Raises:
        UserError: steps is less than 1, or the range is empty.
    """
    check_steps(steps)
    lowest, highest = schedule.ratio(0), schedule.ratio(len(schedule) - 1)
    low = lowest if least is None else least
    high = min(highest, MOST_NOISE) if most is None else min(most, highest)
    if not 0 < low <= high < math.inf:
        raise UserError(
            f"least={low:g} and most={high:g} are no range of noise: give sigma/alpha "
            f"with 0 < least <= most; this model's levels have {lowest:.3g} to {highest:.3g}."
        )
    return low, high


def levels_of_ratios(schedule: Schedule, ratios: Sequence[float]) -> tuple[float, ...]:
    """The grid through the levels with these ratios sigma/alpha, then clean."""
    return (*[schedule.level_at(ratio) for ratio in ratios], CLEAN)


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


def repaint(levels: Levels, steps: int = 33, jump: int = 3, times: int = 3) -> tuple[int, ...]:
    """Resampling schedule of RePaint on the strided grid.

    See Lugmayr et al. 2022, §4.2 and the jump schedule of their appendix. Here T = `steps`,
    j = `jump` and r = `times`. The T updates are counted down from T − 1, so that update t starts
    at entry T − 1 − t of the grid. Where the walk reaches a t that is a multiple of j below T − j,
    it goes up by j levels, one at a time, and down to t again, r − 1 times. If T ≤ j it never goes
    up. The paper has T = 250, j = 10, r = 10: 4570 transitions, of which 2410 are network calls.

    Args:
        levels: Schedule, or its number of levels.
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


def ays(
    levels: Levels,
    model: Literal["deepfloyd", "stable_diffusion", "sdxl"] = "deepfloyd",
    steps: int | None = None,
) -> tuple[float, ...]:
    """Align Your Steps (Sabour et al. 2024): levels optimized for a model, scaled to the schedule.

    There are 11 levels and 10 updates. Those for DeepFloyd IF end at level 0, the others at clean.

    Args:
        levels: Schedule, or its number of levels.
        model: Which list to take; "stable_diffusion" is version 1.5.
        steps: Another number of updates: log(sigma/alpha) is interpolated linearly in the number of
            the update, as the authors advise. This needs a schedule.

    Raises:
        UserError: There is no such list, or steps is less than 1.
    """
    if model not in AYS_LEVELS:
        raise UserError(f"There is no list of levels for {model}: take {', '.join(AYS_LEVELS)}.")
    count = count_levels(levels)
    scaled = [min(round(level * count / 1000), count - 1) for level in AYS_LEVELS[model]]
    listed, end = tuple(scaled), scaled[-1]
    if AYS_LEVELS[model][-1] == CLEAN:
        listed, end = (*scaled[:-1], CLEAN), CLEAN
    if steps is None:
        return listed
    check_steps(steps)
    if not isinstance(levels, Schedule):
        raise TypeError("other numbers of steps need a schedule, not its number of levels")
    logs = [math.log(min(levels.ratio(max(t, 0)), 1000)) for t in listed]
    places = evenly(0, len(listed) - 1, steps + 1)[:-1]
    return (*[levels.level_at(math.exp(interpolate(place, logs))) for place in places], end)


def interpolate(place: float, values: Sequence[float]) -> float:
    """Linear interpolation of values at the places 0, 1, …"""
    below = min(int(place), len(values) - 2)
    return values[below] + (place - below) * (values[below + 1] - values[below])
