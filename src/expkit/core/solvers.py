"""Rules: one update of the sampler, from level t to level s.

A rule is called `rule(schedule, x, x0, frac, t, s, noise, last)`: x and the estimate x0 (B, C, H, W), the learned variance's fraction
or None, the levels, standard normal noise, and the step before or None. It returns x at level s.
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
    """What an update leaves: it went from level t, where the network saw `seen`, to level s.

    x is the state at s, x0 the estimate of the clean picture made at t.
    """

    t: float
    s: float
    x: Tensor
    x0: Tensor
    seen: Tensor

    def of(self, rows) -> Step:
        """The step of some rows alone."""
        return Step(self.t, self.s, self.x[rows], self.x0[rows], self.seen[rows])


@dataclass(frozen=True)
class DDPM:
    """Ancestral sampling on any grid (Ho et al. 2020, eq. 6 and 7; strided as the course writes it).

    beta_t = 1 − ab_t/ab_s;  mean = sqrt(ab_s) beta_t/(1 − ab_t) x0 + sqrt(1 − beta_t)(1 − ab_s)/(1 − ab_t) x.

    variance: "small" (1 − ab_s)/(1 − ab_t) beta_t; "large" beta_t; "learned" between the two, as a fraction of their logarithms
    (Nichol & Dhariwal 2021, eq. 15); "model" learned where the model learned one, else small. Noise of this variance is added unless
    the update starts at level 0, wherever it ends: a grid that goes to clean from a noisier level adds some there, as diffusers does.
    """

    variance: Literal["small", "large", "learned", "model"] = "model"

    def __call__(
        self,
        schedule: Schedule,
        x: Tensor,
        x0: Tensor,
        variance_fraction: Tensor | None,
        t: float,
        s: float,
        noise: Tensor,
        last,
    ) -> Tensor:
        check_preserving(schedule)
        ab_t, ab_s = schedule.alpha_bar(t), schedule.alpha_bar(s)
        beta = 1 - ab_t / ab_s
        mean = math.sqrt(ab_s) * beta / (1 - ab_t) * x0 + math.sqrt(1 - beta) * (1 - ab_s) / (1 - ab_t) * x
        return (
            mean
            if t == 0
            else mean + self.sigma(beta, (1 - ab_s) / (1 - ab_t) * beta, variance_fraction) * noise
        )

    def sigma(self, large: float, small: float, variance_fraction: Tensor | None) -> float | Tensor:
        """The standard deviation of the noise of one update, between those of the large and the small variance."""
        small = max(small, 1e-20)
        kind = (
            ("small" if variance_fraction is None else "learned")
            if self.variance == "model"
            else self.variance
        )
        if kind == "learned":
            if variance_fraction is None:
                raise UserError(
                    "sampler.rule.variance=learned needs a model that learned a variance: try small, large or model."
                )
            return torch.exp(
                0.5 * (variance_fraction * math.log(large) + (1 - variance_fraction) * math.log(small))
            )
        return math.sqrt(large if kind == "large" else small)


def check_preserving(schedule: Schedule) -> None:
    """Refuse a schedule that does not preserve variance: UserError."""
    if not schedule.preserves_variance:
        raise UserError(
            "Ancestral sampling needs a schedule that preserves variance, and this model's does not. Try sampler=euler."
        )


@dataclass(frozen=True)
class DDIM:
    """eta = 0 is deterministic, eta = 1 is DDPM with the small variance (Song et al. 2021, eq. 12 and 16).

    On straight lines from noise to picture, alpha = 1 − u and sigma = u, eta = 0 is Euler's step along x0 − noise: see `Euler`.
    """

    eta: float = 0.0

    def __call__(
        self,
        schedule: Schedule,
        x: Tensor,
        x0: Tensor,
        variance_fraction: Tensor | None,
        t: float,
        s: float,
        noise: Tensor,
        last,
    ) -> Tensor:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.at(t), schedule.at(s)
        eps = (x - alpha_t * x0) / sigma_t
        sigma = self.eta * sigma_s / sigma_t * math.sqrt(max(0.0, 1 - (alpha_t / alpha_s) ** 2))
        return alpha_s * x0 + math.sqrt(max(0.0, sigma_s**2 - sigma**2)) * eps + sigma * noise


@dataclass(frozen=True)
class Euler:
    """Euler's step along a flow, x + (alpha_s − alpha_t) u with u = x0 − noise (Lipman et al. 2023).

    On any schedule it is DDIM with eta = 0, put as a small change of x, so that the rounding of hundreds of small steps does not add up.
    """

    def __call__(
        self,
        schedule: Schedule,
        x: Tensor,
        x0: Tensor,
        variance_fraction: Tensor | None,
        t: float,
        s: float,
        noise: Tensor,
        last,
    ) -> Tensor:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.at(t), schedule.at(s)
        kept = sigma_s / sigma_t
        return x + ((alpha_s - alpha_t * kept) * x0 - (1 - kept) * x)


@dataclass(frozen=True)
class DPMpp:
    """DPM-Solver++ 2M: second order, deterministic (Lu et al. 2022, algorithm 2). lambda = log(alpha/sigma), not below −5.1."""

    lowest: float = -5.1

    def __call__(
        self,
        schedule: Schedule,
        x: Tensor,
        x0: Tensor,
        variance_fraction: Tensor | None,
        t: float,
        s: float,
        noise: Tensor,
        last,
    ) -> Tensor:
        if s == CLEAN:
            return x0
        (_, sigma_t), (alpha_s, sigma_s) = schedule.at(t), schedule.at(s)
        h = self.level(schedule, s) - self.level(schedule, t)
        if last is not None and h > 0:
            ratio = (self.level(schedule, t) - self.level(schedule, last.t)) / h
            x0 = x0 + (x0 - last.x0) / (2 * ratio) if ratio > 0 else x0
        return sigma_s / sigma_t * x - alpha_s * math.expm1(-h) * x0

    def level(self, schedule: Schedule, t: float) -> float:
        """lambda = log(alpha / sigma) of a level, not below `lowest`."""
        alpha, sigma = schedule.at(t)
        return max(math.log(alpha) - math.log(sigma), self.lowest) if alpha else self.lowest


def renoise(schedule: Schedule, x: Tensor, t: float, s: float, noise: Tensor) -> Tensor:
    """Up again, from level t to the noisier s: x_s = (alpha_s/alpha_t) x + noise for what is missing (RePaint, eq. 1)."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.at(t), schedule.at(s)
    kept = alpha_s / alpha_t
    return kept * x + math.sqrt(max(0.0, sigma_s**2 - (kept * sigma_t) ** 2)) * noise
