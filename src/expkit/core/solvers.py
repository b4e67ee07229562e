"""Solvers (rules): one update of the sampler, from level t to level s.

Every rule is called with one `Update`, which holds all that a rule may need, and returns the state
(B, C, H, W) at level s; or `Corrected`, if it also corrects the state at level t.

A rule may have two more members:

- `history`: how many previous steps it uses, in `Update.last` and the `previous` steps of that;
  without it one step is kept
- `levels(schedule, t, s, is_first)`: the levels at which the network is called in an update, of
  which t is the first; without it the network is called once, at t
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from expkit.core.schedules import CLEAN, Schedule
from expkit.errors import UserError

Ask = Callable[[Tensor, float], Tensor]


class Step(NamedTuple):
    """The result of one update from level t to level s.

    Attributes:
        t: Level at which the network was evaluated.
        s: Level of `x`.
        x: State (B, C, H, W) at level s.
        x0: Estimate of the clean image (B, C, H, W), made at level t.
        x_t: State (B, C, H, W) at level t, with the pinned part replaced, as corrected by the rule.
        previous: The step before, or None. The chain is as long as the rule's `history`.
    """

    t: float
    s: float
    x: Tensor
    x0: Tensor
    x_t: Tensor
    previous: Step | None = None

    def of(self, rows: Tensor | slice) -> Step:
        """The same step, and those before it, for some rows only."""
        previous = self.previous and self.previous.of(rows)
        return Step(self.t, self.s, self.x[rows], self.x0[rows], self.x_t[rows], previous)

    def recent(self, count: int) -> Step | None:
        """The same chain of steps, cut after the last `count`; None if there are none."""
        if count < 1:
            return None
        return self._replace(previous=self.previous and self.previous.recent(count - 1))


class Corrected(NamedTuple):
    """What a rule returns that also corrects the state at level t.

    Attributes:
        x: State (B, C, H, W) at level s.
        x_t: State (B, C, H, W) at level t, corrected.
    """

    x: Tensor
    x_t: Tensor


def no_further_calls(x: Tensor, t: float) -> Tensor:
    """The `ask` of an update outside the sampling loop, where there is no network."""
    raise RuntimeError("this update was made without a network that a rule could call again")


@dataclass(frozen=True, eq=False)
class Update:
    """What a rule knows of one update.

    Attributes:
        schedule: Noise schedule of the model.
        x: State (B, C, H, W) at level t.
        x0: Estimate of the clean image (B, C, H, W) at level t.
        t: Current level.
        s: Next level, below t.
        noise: Standard normal (B, C, H, W).
        variance_fraction: Learned variance (B, C, H, W) as a fraction between two log variances;
            None if the model learned none.
        last: The previous `Step` of these rows, or None.
        ask: (state (B, C, H, W), its level) -> estimate of the clean image. Makes one more network
            call for the whole composed estimate, with pin and threshold applied.
        done: How many updates of the grid come before this one.
        total: How many updates the grid has.
    """

    schedule: Schedule
    x: Tensor
    x0: Tensor
    t: float
    s: float
    noise: Tensor
    variance_fraction: Tensor | None = None
    last: Step | None = None
    ask: Ask = no_further_calls
    done: int = 0
    total: int = 1

    @property
    def left(self) -> int:
        """How many updates of the grid follow."""
        return self.total - self.done - 1

    def of(self, rows: Tensor | slice, ask: Ask) -> Update:
        """The same update of some rows only, whose network calls `ask` makes."""
        fraction, last = self.variance_fraction, self.last
        return replace(
            self,
            x=self.x[rows],
            x0=self.x0[rows],
            noise=self.noise[rows],
            variance_fraction=None if fraction is None else fraction[rows],
            last=None if last is None else last.of(rows),
            ask=ask,
        )

    @property
    def coefficients(self) -> tuple[float, float, float, float]:
        """alpha_t, sigma_t, alpha_s, sigma_s."""
        return (*self.schedule.at(self.t), *self.schedule.at(self.s))


Rule = Callable[[Update], Tensor | Corrected]


def history_of(rule: Rule) -> int:
    """How many previous steps a rule uses: its `history`, by default 1."""
    return getattr(rule, "history", 1)


def levels_of(
    rule: Rule, schedule: Schedule, t: float, s: float, is_first: bool = False
) -> tuple[float, ...]:
    """The levels of the network calls of one update: the rule's `levels`, by default t alone.

    Args:
        rule: The solver.
        schedule: Noise schedule of the model.
        t: Current level.
        s: Next level.
        is_first: Whether no update comes before this one, or noise was added since.
    """
    levels = getattr(rule, "levels", None)
    return levels(schedule, t, s, is_first) if levels else (t,)


@dataclass(frozen=True)
class DDPM:
    """Ancestral sampling on any grid (Ho et al. 2020, eq. 6 and 7; strided as in CS180 project 5).

        beta_t = 1 − ab_t/ab_s
        mean = sqrt(ab_s) beta_t/(1 − ab_t) x0 + sqrt(1 − beta_t) (1 − ab_s)/(1 − ab_t) x

    ab is alpha_bar. Noise of the variance below is added to the mean unless the update starts at
    level 0, wherever it ends: a grid that goes to clean from a noisier level adds noise there, as
    diffusers does.

    Attributes:
        variance: Variance of the noise.
            "small": (1 − ab_s)/(1 − ab_t) beta_t.
            "large": beta_t.
            "learned": between the two, as a fraction of their logarithms (Nichol & Dhariwal 2021,
            eq. 15).
            "model": "learned" if the model learned a variance, else "small".

    Raises:
        UserError: The schedule does not preserve variance, or variance is "learned" and the model
            learned none.
    """

    variance: Literal["small", "large", "learned", "model"] = "model"
    history: ClassVar[int] = 0

    def __call__(self, update: Update) -> Tensor:
        schedule = update.schedule
        check_preserving(schedule)
        ab_t, ab_s = schedule.alpha_bar(update.t), schedule.alpha_bar(update.s)
        beta = 1 - ab_t / ab_s
        x0_weight = math.sqrt(ab_s) * beta / (1 - ab_t)
        x_weight = math.sqrt(1 - beta) * (1 - ab_s) / (1 - ab_t)
        mean = x0_weight * update.x0 + x_weight * update.x
        if update.t == 0:
            return mean
        small = (1 - ab_s) / (1 - ab_t) * beta
        return mean + self.sigma(beta, small, update.variance_fraction) * update.noise

    def sigma(self, large: float, small: float, variance_fraction: Tensor | None) -> float | Tensor:
        """The standard deviation of the noise of one update.

        Args:
            large: The large variance, beta_t.
            small: The small variance; at least 1e-20 is used.
            variance_fraction: (B, C, H, W) or None; 0 is the small and 1 the large variance.

        Returns:
            A number, or (B, C, H, W) if the variance is learned.
        """
        small = max(small, 1e-20)
        kind = self.variance
        if kind == "model":
            kind = "small" if variance_fraction is None else "learned"
        if kind == "learned":
            if variance_fraction is None:
                raise UserError(
                    "sampler.rule.variance=learned needs a model that learned a variance: "
                    "try small, large or model."
                )
            log_large, log_small = math.log(large), math.log(small)
            log_variance = variance_fraction * log_large + (1 - variance_fraction) * log_small
            return torch.exp(0.5 * log_variance)
        return math.sqrt(large if kind == "large" else small)


def check_preserving(schedule: Schedule) -> None:
    """Require a variance-preserving schedule.

    Raises:
        UserError: The schedule does not preserve variance.
    """
    if not schedule.preserves_variance:
        raise UserError(
            "Ancestral sampling needs a schedule that preserves variance, and this model's does "
            "not. Try sampler=euler."
        )


@dataclass(frozen=True)
class DDIM:
    """DDIM (Song et al. 2021, eq. 12 and 16).

    For flow matching on straight lines, alpha = 1 − u and sigma = u, eta = 0 is the Euler step
    along x0 − noise: see `Euler`.

    Attributes:
        eta: Amount of noise: 0 is deterministic, 1 is DDPM with the small variance.
    """

    eta: float = 0.0
    history: ClassVar[int] = 0

    def __call__(self, update: Update) -> Tensor:
        alpha_t, sigma_t, alpha_s, sigma_s = update.coefficients
        x0, noise = update.x0, update.noise
        eps = (update.x - alpha_t * x0) / sigma_t
        sigma = self.eta * sigma_s / sigma_t * math.sqrt(max(0.0, 1 - (alpha_t / alpha_s) ** 2))
        return alpha_s * x0 + math.sqrt(max(0.0, sigma_s**2 - sigma**2)) * eps + sigma * noise


@dataclass(frozen=True)
class Euler:
    """Euler step along a flow: x + (alpha_s − alpha_t) u with u = x0 − noise (Lipman et al. 2023).

    On any schedule it equals DDIM with eta = 0. It is written as a small change of x, so that
    rounding errors of hundreds of small steps do not add up.
    """

    history: ClassVar[int] = 0

    def __call__(self, update: Update) -> Tensor:
        alpha_t, sigma_t, alpha_s, sigma_s = update.coefficients
        x, ratio = update.x, sigma_s / sigma_t
        return x + ((alpha_s - alpha_t * ratio) * update.x0 - (1 - ratio) * x)


@dataclass(frozen=True)
class EulerAncestral:
    """Euler ancestral, of k-diffusion: an Euler step to less noise than s has, plus new noise.

        x_s = alpha_s x0 + sqrt(sigma_s² − up²) eps + up · noise
        up = eta sigma_s sqrt(1 − (ratio_s/ratio_t)²),  ratio = sigma/alpha

    The marginals are right on any schedule. If variance is preserved it equals DDIM with this eta.
    diffusers has eta = 1.

    Attributes:
        eta: Amount of noise: 0 is `Euler`.
    """

    eta: float = 1.0
    history: ClassVar[int] = 0

    def __call__(self, update: Update) -> Tensor:
        alpha_t, sigma_t, alpha_s, sigma_s = update.coefficients
        eps = (update.x - alpha_t * update.x0) / sigma_t
        kept = sigma_s * alpha_t / (alpha_s * sigma_t)
        up = min(1.0, self.eta * math.sqrt(max(0.0, 1 - kept**2))) * sigma_s
        down = math.sqrt(max(0.0, sigma_s**2 - up**2))
        return alpha_s * update.x0 + down * eps + up * update.noise


@dataclass(frozen=True)
class Heun:
    """Heun's method: second order, deterministic, two network calls (Karras et al. 2022, alg. 1).

    The state is divided by `scale`, so that the path is dx/du = (x − x0)/u for the time u. An Euler
    step to s is followed by a step with the mean of the slopes at both ends:

        flow matching: scale = 1, u = sigma;   otherwise: scale = alpha, u = sigma/alpha

    An update to `CLEAN`, or from pure noise where u is infinite, is an Euler step with one call.
    """

    history: ClassVar[int] = 0

    def levels(self, schedule: Schedule, t: float, s: float, is_first: bool = False) -> tuple[float, ...]:
        """t and s, or t alone where an Euler step is made."""
        is_first_order = s == CLEAN or math.isinf(self.coordinates(schedule, t)[1])
        return (t,) if is_first_order else (t, s)

    def coordinates(self, schedule: Schedule, t: float) -> tuple[float, float]:
        """Scale of the state and time at level t."""
        alpha, sigma = schedule.at(t)
        return (1.0, sigma) if schedule.is_straight else (alpha, schedule.ratio(t))

    def __call__(self, update: Update) -> Tensor:
        schedule, t, s = update.schedule, update.t, update.s
        if len(self.levels(schedule, t, s)) == 1:
            return Euler()(update)
        (scale_t, time_t), (scale_s, time_s) = (self.coordinates(schedule, u) for u in (t, s))
        x, step = update.x / scale_t, time_s - time_t
        slope = (x - update.x0) / time_t
        guess = x + step * slope
        slope_s = (guess - update.ask(scale_s * guess, s)) / time_s
        return scale_s * (x + step * (slope + slope_s) / 2)


@dataclass(frozen=True)
class DPMpp:
    """DPM-Solver++: multistep, one network call (Lu et al. 2022, algorithm 2; 3M as in diffusers).

    A step without a previous one is of first order, and a step to `CLEAN` is the estimate itself.
    With lambda = log(alpha/sigma), h = lambda_s − lambda_t, and differences D1 and D2 of the last
    estimates, order 3 is

        x_s = sigma_s/sigma_t x − alpha_s [φ1 x0 − (φ1/h + 1) D1 + c ((φ1 + h)/h² − 1/2) D2]

    with φ1 = exp(−h) − 1. The SDE adds noise of variance sigma_s² (1 − exp(−2h)).

    With c = 1, as in the authors' code, k-diffusion and diffusers, 3M converges with order 2, as 2M
    does, and smaller errors: D2 is half of the second derivative. c = 2 has order 3.

    Attributes:
        lowest: Lower bound of lambda.
        order: 1, 2 (2M) or 3 (3M).
        stochastic: Whether it solves the SDE instead of the ODE (2M SDE); to order 2 at most.
        curvature: c.

    Raises:
        UserError: There is no solver of this order.
    """

    lowest: float = -5.1
    order: int = 2
    stochastic: bool = False
    curvature: float = 1.0

    def __post_init__(self) -> None:
        most = 2 if self.stochastic else 3
        if self.order not in range(1, most + 1):
            raise UserError(
                f"sampler.rule.order={self.order} does not fit: DPM-Solver++ "
                f"{'with noise ' if self.stochastic else ''}has the orders 1 to {most}."
            )

    @property
    def history(self) -> int:
        """How many previous estimates it uses."""
        return self.order - 1

    def __call__(self, update: Update) -> Tensor:
        if update.s == CLEAN:
            return update.x0
        schedule, x, x0 = update.schedule, update.x, update.x0
        alpha_t, sigma_t, alpha_s, sigma_s = update.coefficients
        if not alpha_t:  # from pure noise, where h is infinite
            noise = update.noise if self.stochastic else x / sigma_t
            return alpha_s * x0 + sigma_s * noise
        h = self.level(schedule, update.s) - self.level(schedule, update.t)
        third = self.third_order(update, h)
        if third is not None:
            return third
        last = update.last
        if last is not None and self.order > 1 and h > 0:
            ratio = (self.level(schedule, update.t) - self.level(schedule, last.t)) / h
            x0 = x0 + (x0 - last.x0) / (2 * ratio) if ratio > 0 else x0
        if not self.stochastic:
            return sigma_s / sigma_t * x - alpha_s * math.expm1(-h) * x0
        kept = -math.expm1(-2 * h)
        mean = sigma_s / sigma_t * math.exp(-h) * x + alpha_s * kept * x0
        return mean + sigma_s * math.sqrt(max(0.0, kept)) * update.noise

    def third_order(self, update: Update, h: float) -> Tensor | None:
        """The state at level s; None where order 2 is to be used.

        As in diffusers, that is the last update but one of a grid with fewer than 15 updates.
        """
        last = update.last
        is_near_end = update.left == 1 and update.total < 15
        if self.order < 3 or last is None or last.previous is None or is_near_end or h <= 0:
            return None
        x0, before = update.x0, last.previous
        now, one, two = (self.level(update.schedule, u) for u in (update.t, last.t, before.t))
        r0, r1 = (now - one) / h, (one - two) / h
        if not (r0 > 0 and r1 > 0):
            return None
        slope_0, slope_1 = (x0 - last.x0) / r0, (last.x0 - before.x0) / r1
        bend = (slope_0 - slope_1) / (r0 + r1)
        slope = slope_0 + r0 * bend
        _, sigma_t, alpha_s, sigma_s = update.coefficients
        phi = math.expm1(-h)
        curve = self.curvature * ((phi + h) / h**2 - 0.5)
        estimate = phi * x0 - (phi / h + 1) * slope + curve * bend
        return sigma_s / sigma_t * update.x - alpha_s * estimate

    def level(self, schedule: Schedule, t: float) -> float:
        """lambda = log(alpha / sigma) at a level, at least `lowest`."""
        alpha, sigma = schedule.at(t)
        return max(math.log(alpha) - math.log(sigma), self.lowest) if alpha else self.lowest


@dataclass(frozen=True)
class PLMS:
    """Pseudo linear multistep (Liu et al. 2022, PNDM, eq. 12): DDIM steps with a mean of predictions.

        x_s = alpha_s x0 + sigma_s e,  x0 = (x − sigma_t e)/alpha_t

    e is the Adams-Bashforth mean of the last four predictions of the noise. The first step is
    Heun's, with a second network call at s; the next ones use as many predictions as there are.
    """

    history: ClassVar[int] = 3
    MEANS: ClassVar[tuple[tuple[float, ...], ...]] = (
        (1.0,),
        (3 / 2, -1 / 2),
        (23 / 12, -16 / 12, 5 / 12),
        (55 / 24, -59 / 24, 37 / 24, -9 / 24),
    )

    def levels(self, schedule: Schedule, t: float, s: float, is_first: bool = False) -> tuple[float, ...]:
        """t alone; in the first step s, too."""
        return (t, s) if is_first and s != CLEAN else (t,)

    def __call__(self, update: Update) -> Tensor:
        predictions = [self.noise(update.schedule, update.x, update.x0, update.t)]
        step = update.last
        while step is not None:
            predictions.append(self.noise(update.schedule, step.x_t, step.x0, step.t))
            step = step.previous
        weights = self.MEANS[len(predictions) - 1]
        mean = sum((w * e for w, e in zip(weights, predictions, strict=True)), torch.zeros_like(update.x))
        moved = self.move(update, mean)
        if len(predictions) > 1 or update.s == CLEAN:
            return moved
        end = self.noise(update.schedule, moved, update.ask(moved, update.s), update.s)
        return self.move(update, (mean + end) / 2)

    def noise(self, schedule: Schedule, x: Tensor, x0: Tensor, t: float) -> Tensor:
        """The noise in the state x at level t that goes with the estimate x0."""
        alpha, sigma = schedule.at(t)
        return (x - alpha * x0) / sigma

    def move(self, update: Update, noise: Tensor) -> Tensor:
        """The state at level s, if this is the noise in the state at level t."""
        alpha_t, sigma_t, alpha_s, sigma_s = update.coefficients
        return alpha_s / alpha_t * (update.x - sigma_t * noise) + sigma_s * noise


@dataclass(frozen=True)
class UniPC:
    """UniPC with B(h) = exp(−h) − 1, "bh2": predictor and corrector (Zhao et al. 2023, alg. 5-8).

    Both are multistep, and the corrector uses the estimate that the next step makes anyway, so
    there is one network call a step. Both integrate the polynomial through the last estimates:

        x_s = sigma_s/sigma_t x − alpha_s B(h) [x0 + sum_k a_k (x0_k − x0)/r_k]

    with r_k = (lambda_k − lambda_t)/h; a_k solves sum_k a_k r_k^(n−1) = n! φ_(n+1)(−h) (−h)/B(h).
    The corrector, with the estimate at s itself, has r = 1 for it.

    The order rises from 1 as steps are made, and falls to 1 again at the end of the grid.

    Attributes:
        order: 1, 2 or 3.

    Raises:
        UserError: There is no solver of this order.
    """

    order: int = 2

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise UserError(f"sampler.rule.order={self.order}: UniPC has the orders 1 to 3.")

    @property
    def history(self) -> int:
        """How many previous steps it uses: the corrector goes one further back."""
        return self.order

    def __call__(self, update: Update) -> Corrected:
        steps = self.finite_steps(update)
        x_t = update.x
        if steps:  # the order of the corrector is that of the last predictor
            order = min(self.order, len(steps), update.left + 2)
            x_t = self.integrate(update, steps[0].x_t, steps[:order], update.t, update.x0)
        order = min(self.order, len(steps) + 1, update.left + 1) if update.s != CLEAN else 1
        now = Step(update.t, update.s, x_t, update.x0, x_t)
        return Corrected(self.integrate(update, x_t, [now, *steps][:order], update.s), x_t)

    def finite_steps(self, update: Update) -> list[Step]:
        """The previous steps, newest first, as far back as lambda is finite."""
        steps: list[Step] = []
        step = update.last
        while step is not None and math.isfinite(update.schedule.log_snr(step.t)):
            steps.append(step)
            step = step.previous
        return steps

    def integrate(
        self,
        update: Update,
        x: Tensor,
        steps: Sequence[Step],
        end: float,
        x0_end: Tensor | None = None,
    ) -> Tensor:
        """The state at level `end`, from the state x at the level of `steps[0]`.

        Args:
            update: For its schedule.
            x: State (B, C, H, W).
            steps: Steps with the estimates of the clean image, newest first.
            end: Level of the result.
            x0_end: The estimate at `end`, for the corrector.
        """
        start, *others = steps
        (_, sigma_t), (alpha_s, sigma_s) = (update.schedule.at(u) for u in (start.t, end))
        lambda_t = update.schedule.log_snr(start.t)
        h = update.schedule.log_snr(end) - lambda_t
        base = math.expm1(-h)
        result = sigma_s / sigma_t * x - alpha_s * base * start.x0
        ratios = [(update.schedule.log_snr(step.t) - lambda_t) / h for step in others]
        slopes = [(s.x0 - start.x0) / r for s, r in zip(others, ratios, strict=True)]
        if x0_end is not None:
            ratios, slopes = [*ratios, 1.0], [*slopes, x0_end - start.x0]
        for weight, slope in zip(unipc_weights(ratios, h), slopes, strict=True):
            result = result - alpha_s * base * weight * slope
        return result


def unipc_weights(ratios: Sequence[float], h: float) -> list[float]:
    """The weights a_k of UniPC's differences; a single one is 1/2, as in the paper's code.

    Args:
        ratios: r_k of K differences.
        h: Step in lambda.
    """
    if len(ratios) <= 1:
        return [0.5] * len(ratios)
    base = math.expm1(-h)
    targets: list[float] = []
    phi, factorial = base / -h - 1, 1
    for n in range(1, len(ratios) + 1):
        targets.append(phi * factorial / base)
        factorial *= n + 1
        phi = phi / -h - 1 / factorial
    powers = [[ratio**n for ratio in ratios] for n in range(len(ratios))]
    matrix = torch.tensor(powers, dtype=torch.float64)
    weights = matrix.inverse() @ torch.tensor(targets, dtype=torch.float64)
    return [float(weight) for weight in weights]


def renoise(schedule: Schedule, x: Tensor, t: float, s: float, noise: Tensor) -> Tensor:
    """Add noise to go from level t up to the noisier level s (RePaint, Lugmayr et al. 2022, eq. 1).

        x_s = (alpha_s/alpha_t) x + sqrt(sigma_s² − (alpha_s/alpha_t · sigma_t)²) noise

    Args:
        schedule: Noise schedule of the model.
        x: State (B, C, H, W) at level t.
        t: Current level.
        s: Next level, s > t.
        noise: Standard normal (B, C, H, W).

    Returns:
        State (B, C, H, W) at level s.
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.at(t), schedule.at(s)
    ratio = alpha_s / alpha_t
    return ratio * x + math.sqrt(max(0.0, sigma_s**2 - (ratio * sigma_t) ** 2)) * noise
