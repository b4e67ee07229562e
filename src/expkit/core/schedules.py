"""Noise schedules: the amounts of signal and of noise at each level.

    x_t = alpha_t · x0 + sigma_t · eps                                 (Ho et al. 2020, eq. 4)

Level t is an integer from 0 to T − 1; `CLEAN` (−1) is the clean image.

- Variance-preserving schedules: alpha = sqrt(alpha_bar), sigma = sqrt(1 − alpha_bar).
- Flow matching: alpha = 1 − u, sigma = u.
- Variance-exploding schedules: alpha = 1.

In a continuous schedule every real number from `CLEAN` to T − 1 is a level. Coefficients are
computed in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import torch
from torch import Tensor

CLEAN = -1
KINDS = ("eps", "v", "x0", "flow")


@dataclass(frozen=True, eq=False)
class Schedule:
    """A noise schedule of T levels; `len(schedule)` is T.

    Attributes:
        alpha: float64 (T,), coefficient of the clean image.
        sigma: float64 (T,), coefficient of the noise.
        continuous: Whether every real number from `CLEAN` to T − 1 is a level. alpha and sigma are
            then linear in t, and the network's time input is that of flow matching, from 0 at noise
            to 1 at the clean image.
    """

    alpha: Tensor
    sigma: Tensor
    continuous: bool = False

    def __len__(self) -> int:
        return len(self.alpha)

    def at(self, t: float) -> tuple[float, float]:
        """(alpha, sigma) at one level, as Python floats; (1, 0) at `CLEAN`.

        Raises:
            ValueError: t is not a level of this schedule.
        """
        if not CLEAN <= t <= len(self) - 1 or not (self.continuous or t == int(t)):
            raise ValueError(
                f"level {t} is outside this schedule: its levels are 0 … {len(self) - 1}, "
                f"and {CLEAN} for clean"
            )
        if t == CLEAN:
            return 1.0, 0.0
        alpha, sigma = self.of(
            torch.tensor(float(t), dtype=torch.float64) if self.continuous else torch.tensor(int(t))
        )
        return float(alpha), float(sigma)

    def of(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at many levels.

        Args:
            t: Levels from `CLEAN`, of any shape: integers, or float64 if the schedule is
                continuous.

        Returns:
            alpha and sigma, float64, of the shape of t.
        """
        if not self.continuous:
            is_clean = t == CLEAN  # as an index it would be the last, the noisiest level
            alpha = self.alpha.to(t.device)[t].masked_fill(is_clean, 1.0)
            sigma = self.sigma.to(t.device)[t].masked_fill(is_clean, 0.0)
            return alpha, sigma
        u = (t.double() + 1) / len(self)
        return 1 - (1 - self.terminal_alpha) * u, float(self.sigma[-1]) * u

    def alpha_bar(self, t: float) -> float:
        """alpha_bar_t = alpha_t², in the notation of DDPM."""
        return self.at(t)[0] ** 2

    def rows(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma for one level per row: t (N,) -> two float32 (N, 1, 1, 1)."""
        alpha, sigma = self.of(t)
        return alpha.float().view(-1, 1, 1, 1), sigma.float().view(-1, 1, 1, 1)

    @overload
    def time(self, t: float) -> float: ...
    @overload
    def time(self, t: Tensor) -> Tensor: ...
    def time(self, t: float | Tensor) -> float | Tensor:
        """The network's time input at level t: (t + 1)/T, from 0 at the clean image to 1 at noise.

        For a continuous schedule it is 1 − (t + 1)/T, from 0 at noise to 1 at the clean image
        (Lipman et al. 2023).
        """
        fraction = (t + 1) / len(self)
        return 1 - fraction if self.continuous else fraction

    def noised(self, x0: Tensor, t: float, noise: Tensor) -> Tensor:
        """Forward process: the state x_t = alpha_t x0 + sigma_t noise at level t."""
        alpha, sigma = self.at(t)
        return alpha * x0 + sigma * noise

    def denoised(self, x: Tensor, t: float, native: Tensor, kind: str) -> Tensor:
        """The estimate of x0 that follows from a network's prediction.

        Args:
            x: State (B, C, H, W) at level t.
            t: Level.
            native: Prediction (B, C, H, W).
            kind: Its parametrization: "x0", "eps", "v" = alpha eps − sigma x0 (Salimans & Ho 2022)
                or "flow" = x0 − noise (Lipman et al. 2023).

        Raises:
            ValueError: Unknown kind, or t is not a level.
        """
        alpha, sigma = self.at(t)
        match kind:
            case "x0":
                return native
            case "eps":
                return (x - sigma * native) / alpha
            case "v":
                return (alpha * x - sigma * native) / (alpha**2 + sigma**2)
            case "flow":
                return (x + sigma * native) / (alpha + sigma)
            case _:
                raise _unknown_kind(kind)

    @cached_property
    def preserves_variance(self) -> bool:
        """Whether alpha² + sigma² = 1 at every level, which ancestral sampling requires."""
        return bool(((self.alpha**2 + self.sigma**2 - 1).abs() < 1e-6).all())

    def nearest(self, ratio: float) -> int:
        """The level whose noise-to-signal ratio sigma / alpha is closest to `ratio`."""
        return int((self.sigma / self.alpha - ratio).abs().nan_to_num(torch.inf).argmin())

    @property
    def terminal_alpha(self) -> float:
        """alpha_{T−1}: the signal left at the last level, where sampling starts from pure noise."""
        return float(self.alpha[-1])


def prediction_target(x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor, kind: str) -> Tensor:
    """The training target of a network; the inverse of `Schedule.denoised`.

    Args:
        x0: Clean images (B, C, H, W).
        noise: Standard normal (B, C, H, W).
        alpha: Coefficient of x0, broadcastable to (B, C, H, W).
        sigma: Coefficient of the noise, likewise.
        kind: Parametrization: "x0", "eps", "v" or "flow".

    Raises:
        ValueError: Unknown kind.
    """
    match kind:
        case "x0":
            return x0
        case "eps":
            return noise
        case "v":
            return alpha * noise - sigma * x0
        case "flow":
            return x0 - noise
        case _:
            raise _unknown_kind(kind)


def _unknown_kind(kind: str) -> ValueError:
    return ValueError(f"unknown kind of prediction {kind!r}: expected one of {', '.join(KINDS)}")


def variance_preserving(alpha_bar: Tensor) -> Schedule:
    """Schedule with alpha = sqrt(alpha_bar), sigma = sqrt(1 − alpha_bar) for alpha_bar (T,)."""
    alpha_bar = alpha_bar.double()
    return Schedule(alpha_bar.sqrt(), (1 - alpha_bar).sqrt())


def from_betas(betas: Tensor) -> Schedule:
    """Schedule of DDPM (Ho et al. 2020, eq. 4): alpha_bar_t is the product of 1 − beta up to t.

    Args:
        betas: (T,), the variances of the noise that each level adds.
    """
    return variance_preserving((1 - betas.double()).cumprod(0))


def linear(levels: int = 300, first: float = 1e-4, last: float = 0.02) -> Schedule:
    """Linear betas, as in CS180 project 5 (UC Berkeley).

    With 300 levels, alpha is 0.22 at the last level: 22 % of the image is left.

    Args:
        levels: T.
        first: beta of the first level.
        last: beta of the last level.
    """
    return from_betas(torch.linspace(first, last, levels, dtype=torch.float64))


def linear_rescaled(levels: int = 300) -> Schedule:
    """Linear betas times 1000 / levels, so that almost no signal is left at the last level.

    betas are capped at 0.999, which concerns schedules of 20 levels or fewer.
    """
    betas = torch.linspace(0.1 / levels, 20 / levels, levels, dtype=torch.float64)
    return from_betas(betas.clamp(max=0.999))


def cosine(levels: int = 1000, shift: float = 1.0) -> Schedule:
    """Cosine schedule (Nichol & Dhariwal 2021, eq. 17); squaredcos_cap_v2 in diffusers.

    betas are capped at 0.999. DeepFloyd IF uses it with 1000 levels.

    Args:
        levels: T.
        shift: Factor on alpha/sigma at every level. Images of twice the side remain visible in
            noise that is twice as strong, so 0.5 is for them what 1 is for the small images
            (Hoogeboom et al. 2023, §3.1).
    """
    u = torch.arange(levels + 1, dtype=torch.float64) / levels
    alpha_bar = (((u + 0.008) / 1.008) * (math.pi / 2)).cos() ** 2
    schedule = from_betas((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999))
    snr = (shift * schedule.alpha / schedule.sigma) ** 2
    return schedule if shift == 1 else variance_preserving(snr / (1 + snr))


def zero_terminal_snr(schedule: Schedule) -> Schedule:
    """Rescale a schedule so that its last level is pure noise (Lin et al. 2024, algorithm 1)."""
    first, last = schedule.alpha[0], schedule.alpha[-1]
    return variance_preserving(((schedule.alpha - last) * first / (first - last)) ** 2)


def flow(levels: int = 1000, continuous: bool = False) -> Schedule:
    """Flow matching on straight lines: alpha = 1 − u, sigma = u with u = (t + 1) / levels.

    Args:
        levels: T.
        continuous: Whether the network is trained at every time in [0, 1), with the time of the
            paper, 1 − u, as its input (Lipman et al. 2023). Otherwise it is trained at integer
            levels, with u as its time input.
    """
    u = (torch.arange(levels, dtype=torch.float64) + 1) / levels
    return Schedule(1 - u, u, continuous)


def variance_exploding(levels: int = 100, most: float = 1.0) -> Schedule:
    """Additive noise: alpha = 1, sigma = most (t + 1) / levels; for single-step denoisers."""
    return Schedule(
        torch.ones(levels, dtype=torch.float64),
        most * (torch.arange(levels, dtype=torch.float64) + 1) / levels,
    )


def single_noise_level() -> Schedule:
    """A single level of pure noise: alpha = 0, sigma = 1."""
    return Schedule(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
