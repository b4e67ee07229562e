"""Noise schedules: how much picture and how much noise there is at a level.

    x_t = alpha_t · x0 + sigma_t · eps                                                                   (Ho et al. 2020, eq. 4)

Level t is an integer, 0 … T − 1, counted from 0; `CLEAN` (−1) is the picture itself. Variance-preserving schedules have
alpha = sqrt(alpha_bar), sigma = sqrt(1 − alpha_bar); a flow has alpha = 1 − u, sigma = u; where noise is only added, alpha = 1.
The levels of a continuous schedule are all real numbers from `CLEAN` to T − 1. Coefficients are formed in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

CLEAN = -1
KINDS = ("eps", "v", "x0", "flow")


@dataclass(frozen=True, eq=False)
class Schedule:
    """(alpha_t, sigma_t) for t = 0 … T − 1, both float64 of shape (T,).

    continuous: whether there is a level at every real number between `CLEAN` and T − 1. alpha and sigma are straight lines then, and the
    network is told the time of flow matching, which runs from 0 at noise to 1 at the picture.
    """

    alpha: Tensor
    sigma: Tensor
    continuous: bool = False

    def __len__(self) -> int:
        return len(self.alpha)

    def at(self, t: float) -> tuple[float, float]:
        """alpha and sigma at one level, as Python floats; `CLEAN` gives (1, 0)."""
        if not CLEAN <= t <= len(self) - 1 or not (self.continuous or t == int(t)):
            raise ValueError(
                f"level {t} is outside this schedule: its levels are 0 … {len(self) - 1}, and {CLEAN} for clean"
            )
        if t == CLEAN:
            return 1.0, 0.0
        alpha, sigma = self.of(
            torch.tensor(float(t), dtype=torch.float64) if self.continuous else torch.tensor(int(t))
        )
        return float(alpha), float(sigma)

    def of(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at many levels, float64 of the shape of t: integers, or float64 where the schedule is continuous."""
        if not self.continuous:
            return self.alpha.to(t.device)[t], self.sigma.to(t.device)[t]
        u = (t.double() + 1) / len(self)
        return 1 - (1 - self.terminal_alpha) * u, float(self.sigma[-1]) * u

    def alpha_bar(self, t: float) -> float:
        """alpha_t², as DDPM writes it."""
        return self.at(t)[0] ** 2

    def rows(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma for one level a row: t (N,) -> two float32 (N, 1, 1, 1)."""
        alpha, sigma = self.of(t)
        return alpha.float().view(-1, 1, 1, 1), sigma.float().view(-1, 1, 1, 1)

    def time(self, t: float | Tensor) -> float | Tensor:
        """Level t as a network is told it: (t + 1)/T, which is 0 at the picture and 1 at noise.

        Of a continuous schedule 1 − (t + 1)/T, which is 0 at noise and 1 at the picture (Lipman et al. 2023).
        """
        fraction = (t + 1) / len(self)
        return 1 - fraction if self.continuous else fraction

    def noised(self, x0: Tensor, t: float, noise: Tensor) -> Tensor:
        """The picture at level t: alpha_t x0 + sigma_t noise."""
        alpha, sigma = self.at(t)
        return alpha * x0 + sigma * noise

    def denoised(self, x: Tensor, t: float, native: Tensor, kind: str) -> Tensor:
        """The estimate of x0 that a network's answer of this kind means (v: Salimans & Ho 2022; flow: Lipman et al. 2023)."""
        alpha, sigma = self.at(t)
        match kind:
            case "x0":
                return native
            case "eps":
                return (x - sigma * native) / alpha
            case "v":  # v = alpha eps − sigma x0
                return (alpha * x - sigma * native) / (alpha**2 + sigma**2)
            case "flow":  # u = x0 − noise
                return (x + sigma * native) / (alpha + sigma)
        raise ValueError(f"unknown kind of prediction {kind!r}: expected one of {', '.join(KINDS)}")

    @cached_property
    def preserves_variance(self) -> bool:
        """Whether alpha² + sigma² = 1 at every level, as ancestral sampling needs it."""
        return bool(((self.alpha**2 + self.sigma**2 - 1).abs() < 1e-6).all())

    def nearest(self, ratio: float) -> int:
        """The level at which sigma / alpha, the noise beside a picture of full strength, comes closest to `ratio`."""
        return int((self.sigma / self.alpha - ratio).abs().nan_to_num(torch.inf).argmin())

    @property
    def terminal_alpha(self) -> float:
        """How much of the picture survives at the last level, where sampling starts from pure noise: alpha_{T−1}."""
        return float(self.alpha[-1])


def prediction_target(x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor, kind: str) -> Tensor:
    """What a network of this kind is trained to answer; the inverse of `Schedule.denoised`."""
    match kind:
        case "x0":
            return x0
        case "eps":
            return noise
        case "v":
            return alpha * noise - sigma * x0
        case "flow":
            return x0 - noise
    raise ValueError(f"unknown kind of prediction {kind!r}: expected one of {', '.join(KINDS)}")


def variance_preserving(alpha_bar: Tensor) -> Schedule:
    """The schedule with these alpha_bar (T,): alpha = sqrt(alpha_bar), sigma = sqrt(1 − alpha_bar)."""
    alpha_bar = alpha_bar.double()
    return Schedule(alpha_bar.sqrt(), (1 - alpha_bar).sqrt())


def from_betas(betas: Tensor) -> Schedule:
    """The schedule with these betas (T,): alpha_bar_t is the product of 1 − beta up to t (Ho et al. 2020, eq. 4)."""
    return variance_preserving((1 - betas.double()).cumprod(0))


def linear(levels: int = 300, first: float = 1e-4, last: float = 0.02) -> Schedule:
    """The course's: betas on a line. With 300 levels 22 % of the picture survives the last one."""
    return from_betas(torch.linspace(first, last, levels, dtype=torch.float64))


def linear_rescaled(levels: int = 300) -> Schedule:
    """The same line for any number of levels: betas times 1000 / levels, so that nothing of the picture survives."""
    return linear(levels, 0.1 / levels, 20 / levels)


def cosine(levels: int = 1000, shift: float = 1.0) -> Schedule:
    """squaredcos_cap_v2 (Nichol & Dhariwal 2021, eq. 17), betas capped at 0.999. DeepFloyd IF uses it with 1000 levels.

    shift: alpha/sigma is so much of that at every level. Pictures of twice the side show through noise that is twice as strong, so 0.5 is
    for them what 1 is for the small ones (Hoogeboom et al. 2023, §3.1).
    """
    u = torch.arange(levels + 1, dtype=torch.float64) / levels
    alpha_bar = (((u + 0.008) / 1.008) * (math.pi / 2)).cos() ** 2
    found = from_betas((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999))
    ratio = (shift * found.alpha / found.sigma) ** 2
    return found if shift == 1 else variance_preserving(ratio / (1 + ratio))


def zero_terminal_snr(schedule: Schedule) -> Schedule:
    """The schedule shifted and scaled so that the last level is pure noise (Lin et al. 2024, algorithm 1)."""
    first, last = schedule.alpha[0], schedule.alpha[-1]
    return variance_preserving(((schedule.alpha - last) * first / (first - last)) ** 2)


def flow(levels: int = 1000, continuous: bool = False) -> Schedule:
    """Straight lines from noise to picture: alpha = 1 − u, sigma = u, u = (t + 1) / levels; the published time is 1 − u.

    continuous: whether it is trained at every time in [0, 1), and told the published time (Lipman et al. 2023). Otherwise it is trained
    at integer levels and told u.
    """
    u = (torch.arange(levels, dtype=torch.float64) + 1) / levels
    return Schedule(1 - u, u, continuous)


def variance_exploding(levels: int = 100, most: float = 1.0) -> Schedule:
    """Noise on top of a whole picture, as single-step denoisers see it: alpha = 1, sigma = most (t + 1) / levels."""
    return Schedule(
        torch.ones(levels, dtype=torch.float64),
        most * (torch.arange(levels, dtype=torch.float64) + 1) / levels,
    )


def single_noise_level() -> Schedule:
    """One level, at which nothing is left of the picture: alpha = 0, sigma = 1."""
    return Schedule(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
