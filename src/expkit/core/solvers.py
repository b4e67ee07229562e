"""Solvers (rules): one update of the sampler, from level t to level s.

Every rule is called as `rule(schedule, x, x0, variance_fraction, t, s, noise, last)` and returns x
at level s, (B, C, H, W). Its arguments:

- `schedule`: the noise schedule of the model
- `x`: state (B, C, H, W) at level t
- `x0`: estimate of the clean image (B, C, H, W) at level t
- `variance_fraction`: learned variance (B, C, H, W) as a fraction between two log variances; None
  if the model learned none
- `t`, `s`: current and next level
- `noise`: standard normal (B, C, H, W)
- `last`: the previous `Step` of these rows, or None
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from expkit.core.schedules import CLEAN, Schedule
from expkit.errors import UserError


class Step(NamedTuple):
    """The result of one update from level t to level s.

    Attributes:
        t: Level at which the network was evaluated.
        s: Level of `x`.
        x: State (B, C, H, W) at level s.
        x0: Estimate of the clean image (B, C, H, W), made at level t.
        x_t: State (B, C, H, W) at level t, with the pinned part replaced.
    """

    t: float
    s: float
    x: Tensor
    x0: Tensor
    x_t: Tensor

    def of(self, rows: Tensor | slice) -> Step:
        """The same step for some rows only."""
        return Step(self.t, self.s, self.x[rows], self.x0[rows], self.x_t[rows])


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

    def __call__(
        self, schedule: Schedule, x: Tensor, x0: Tensor, variance_fraction: Tensor | None,
        t: float, s: float, noise: Tensor, last: Step | None,
    ) -> Tensor:  # fmt: skip
        check_preserving(schedule)
        ab_t, ab_s = schedule.alpha_bar(t), schedule.alpha_bar(s)
        beta = 1 - ab_t / ab_s
        x0_weight = math.sqrt(ab_s) * beta / (1 - ab_t)
        x_weight = math.sqrt(1 - beta) * (1 - ab_s) / (1 - ab_t)
        mean = x0_weight * x0 + x_weight * x
        if t == 0:
            return mean
        small = (1 - ab_s) / (1 - ab_t) * beta
        return mean + self.sigma(beta, small, variance_fraction) * noise

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

    def __call__(
        self, schedule: Schedule, x: Tensor, x0: Tensor, variance_fraction: Tensor | None,
        t: float, s: float, noise: Tensor, last: Step | None,
    ) -> Tensor:  # fmt: skip
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.at(t), schedule.at(s)
        eps = (x - alpha_t * x0) / sigma_t
        sigma = self.eta * sigma_s / sigma_t * math.sqrt(max(0.0, 1 - (alpha_t / alpha_s) ** 2))
        return alpha_s * x0 + math.sqrt(max(0.0, sigma_s**2 - sigma**2)) * eps + sigma * noise


@dataclass(frozen=True)
class Euler:
    """Euler step along a flow: x + (alpha_s − alpha_t) u with u = x0 − noise (Lipman et al. 2023).

    On any schedule it equals DDIM with eta = 0. It is written as a small change of x, so that
    rounding errors of hundreds of small steps do not add up.
    """

    def __call__(
        self, schedule: Schedule, x: Tensor, x0: Tensor, variance_fraction: Tensor | None,
        t: float, s: float, noise: Tensor, last: Step | None,
    ) -> Tensor:  # fmt: skip
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.at(t), schedule.at(s)
        ratio = sigma_s / sigma_t
        return x + ((alpha_s - alpha_t * ratio) * x0 - (1 - ratio) * x)


@dataclass(frozen=True)
class DPMpp:
    """DPM-Solver++ 2M: second order, deterministic (Lu et al. 2022, algorithm 2).

    A step without a previous one is of first order.

    Attributes:
        lowest: Lower bound of lambda = log(alpha/sigma).
    """

    lowest: float = -5.1

    def __call__(
        self, schedule: Schedule, x: Tensor, x0: Tensor, variance_fraction: Tensor | None,
        t: float, s: float, noise: Tensor, last: Step | None,
    ) -> Tensor:  # fmt: skip
        if s == CLEAN:
            return x0
        (_, sigma_t), (alpha_s, sigma_s) = schedule.at(t), schedule.at(s)
        h = self.level(schedule, s) - self.level(schedule, t)
        if last is not None and h > 0:
            ratio = (self.level(schedule, t) - self.level(schedule, last.t)) / h
            x0 = x0 + (x0 - last.x0) / (2 * ratio) if ratio > 0 else x0
        return sigma_s / sigma_t * x - alpha_s * math.expm1(-h) * x0

    def level(self, schedule: Schedule, t: float) -> float:
        """lambda = log(alpha / sigma) at a level, at least `lowest`."""
        alpha, sigma = schedule.at(t)
        return max(math.log(alpha) - math.log(sigma), self.lowest) if alpha else self.lowest


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
