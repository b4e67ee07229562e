"""Noise schedules: the amounts of signal and of noise at each level.

    x_t = alpha_t · x0 + sigma_t · eps                                 (Ho et al. 2020, eq. 4)

Every real number t from `CLEAN` (−1), the clean image, to T − 1 is a level. A schedule is a table
of its integer levels 0 … T − 1; between them it is interpolated, see `Schedule`.

- Variance-preserving schedules: alpha = sqrt(alpha_bar), sigma = sqrt(1 − alpha_bar).
- Flow matching: alpha = 1 − u, sigma = u.
- Variance-exploding schedules: alpha = 1.

Coefficients are computed in float64.
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

    Between two neighbouring integer levels, the logarithm of the signal-to-noise ratio,
    log(alpha/sigma), is linear in t, as in k-diffusion and diffusers. It is infinite at `CLEAN` and
    at a level of pure noise; next to these, alpha and sigma are linear in t, up to a common factor.
    On a straight path (flow matching) they are linear in t everywhere. In each case the ratio
    sigma/alpha rises continuously with t.

    The common factor keeps what the integer levels have in common: alpha = 1 if variance explodes,
    otherwise sqrt(alpha² + sigma²), which is linear in t, and 1 if variance is preserved.

    Attributes:
        alpha: float64 (T,), coefficient of the clean image.
        sigma: float64 (T,), coefficient of the noise.
        continuous: Whether the network's time input is that of flow matching, from 0 at noise to 1
            at the clean image, trained at every real time. alpha and sigma are then linear in t.
        shift: How far the model's authors shift sampling times towards noise, see
            `timesteps.shifted`; 1 is not at all.
    """

    alpha: Tensor
    sigma: Tensor
    continuous: bool = False
    shift: float = 1.0

    def __len__(self) -> int:
        return len(self.alpha)

    def at(self, t: float) -> tuple[float, float]:
        """(alpha, sigma) at one level, as Python floats; (1, 0) at `CLEAN`.

        Raises:
            ValueError: t is not from `CLEAN` to T − 1.
        """
        if not CLEAN <= t <= len(self) - 1:
            raise ValueError(
                f"level {t} is outside this schedule: its levels are 0 … {len(self) - 1}, "
                f"and {CLEAN} for clean"
            )
        if t == CLEAN:
            return 1.0, 0.0
        is_row = t == int(t) and not self.continuous
        alpha, sigma = self.of(
            torch.tensor(int(t)) if is_row else torch.tensor(float(t), dtype=torch.float64)
        )
        return float(alpha), float(sigma)

    def of(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at many levels.

        Args:
            t: Levels from `CLEAN` to T − 1, of any shape: integers or float64.

        Returns:
            alpha and sigma, float64, of the shape of t.
        """
        if self.continuous:
            u = (t.double() + 1) / len(self)
            return 1 - (1 - self.terminal_alpha) * u, float(self.sigma[-1]) * u
        if t.is_floating_point():
            return self._between(t.double())
        is_clean = t == CLEAN  # as an index it would be the last, the noisiest level
        alpha = self.alpha.to(t.device)[t].masked_fill(is_clean, 1.0)
        sigma = self.sigma.to(t.device)[t].masked_fill(is_clean, 0.0)
        return alpha, sigma

    def _between(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at real levels t, float64; exactly the table's at integers."""
        below = t.floor().long().clamp(max=len(self) - 1)
        above = (below + 1).clamp(max=len(self) - 1)
        weight = t - below
        (alpha_0, sigma_0), (alpha_1, sigma_1) = self.of(below), self.of(above)
        alpha, sigma = alpha_0.lerp(alpha_1, weight), sigma_0.lerp(sigma_1, weight)
        if self.is_straight:
            return alpha, sigma
        log_ratio = (sigma_0 / alpha_0).log().lerp((sigma_1 / alpha_1).log(), weight)
        ratio = torch.where(log_ratio.isfinite(), log_ratio.exp(), sigma / alpha)
        if self.explodes:
            alpha, sigma = torch.ones_like(ratio), ratio
        else:
            norm = alpha_0.hypot(sigma_0).lerp(alpha_1.hypot(sigma_1), weight)
            angle = ratio.atan()
            alpha, sigma = norm * angle.cos(), norm * angle.sin()
        is_row = weight == 0
        return torch.where(is_row, alpha_0, alpha), torch.where(is_row, sigma_0, sigma)

    def ratio(self, t: float) -> float:
        """The noise-to-signal ratio sigma/alpha at level t; 0 at `CLEAN`, infinite at pure noise.

        This is the "sigma" of Karras et al. 2022, k-diffusion and most schedulers of diffusers.
        """
        alpha, sigma = self.at(t)
        return sigma / alpha if alpha else math.inf

    def log_snr(self, t: float) -> float:
        """lambda = log(alpha/sigma) at level t: inf at `CLEAN`, −inf at pure noise."""
        ratio = self.ratio(t)
        return -math.log(ratio) if ratio else math.inf

    def level_at(self, ratio: float) -> float:
        """The real level with this noise-to-signal ratio sigma/alpha; the inverse of `ratio`.

        For a given log SNR lambda, the ratio is exp(−lambda).

        Args:
            ratio: 0 or more, may be infinite. Ratios beyond that of the last level give T − 1.
        """
        if not ratio > 0:
            return float(CLEAN)
        if ratio >= self.ratio(len(self) - 1):
            return float(len(self) - 1)
        if self.continuous:
            alpha, sigma = self.at(len(self) - 1)
            return len(self) * ratio / (sigma + ratio * (1 - alpha)) - 1
        index = int(torch.searchsorted(self.sigma / self.alpha, ratio, right=True))
        (alpha_0, sigma_0), (alpha_1, sigma_1) = self.at(index - 1), self.at(index)
        if self.is_straight or not sigma_0 or not alpha_1:
            past = ratio * alpha_0 - sigma_0
            return index - 1 + past / (past + sigma_1 - ratio * alpha_1)
        low, high = math.log(sigma_0 / alpha_0), math.log(sigma_1 / alpha_1)
        return index - 1 + (math.log(ratio) - low) / (high - low)

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

    @cached_property
    def is_straight(self) -> bool:
        """Whether alpha + sigma = 1 at every level: straight paths, as in flow matching."""
        return bool(((self.alpha + self.sigma - 1).abs() < 1e-9).all())

    @cached_property
    def explodes(self) -> bool:
        """Whether alpha = 1 at every level: noise is added to the whole image."""
        return bool((self.alpha == 1).all())

    def nearest(self, ratio: float) -> int:
        """The integer level whose noise-to-signal ratio sigma / alpha is closest to `ratio`."""
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


def flow(levels: int = 1000, continuous: bool = False, shift: float = 1.0) -> Schedule:
    """Flow matching on straight lines: alpha = 1 − u, sigma = u with u = (t + 1) / levels.

    Args:
        levels: T.
        continuous: Whether the network is trained at every time in [0, 1), with the time of the
            paper, 1 − u, as its input (Lipman et al. 2023). Otherwise it is trained at integer
            levels, with u as its time input.
        shift: The shift of its sampling times, see `timesteps.shifted`.
    """
    u = (torch.arange(levels, dtype=torch.float64) + 1) / levels
    return Schedule(1 - u, u, continuous, shift)


def variance_exploding(levels: int = 100, most: float = 1.0) -> Schedule:
    """Additive noise: alpha = 1, sigma = most (t + 1) / levels; for single-step denoisers."""
    return Schedule(
        torch.ones(levels, dtype=torch.float64),
        most * (torch.arange(levels, dtype=torch.float64) + 1) / levels,
    )


def edm(
    levels: int = 1000, least: float = 0.002, most: float = 80.0, rho: float = 7.0
) -> Schedule:  # fmt: skip
    """Variance-exploding schedule with the noise levels of EDM (Karras et al. 2022, eq. 5).

        sigma_t = (least^(1/rho) + t/(T − 1) (most^(1/rho) − least^(1/rho)))^rho

    Args:
        levels: T, 2 or more.
        least: sigma of level 0, for data of standard deviation 0.5.
        most: sigma of level T − 1.
        rho: How much shorter the steps between low noise levels are.
    """
    steps = torch.linspace(least ** (1 / rho), most ** (1 / rho), levels, dtype=torch.float64)
    return Schedule(torch.ones(levels, dtype=torch.float64), steps**rho)


def single_noise_level() -> Schedule:
    """A single level of pure noise: alpha = 0, sigma = 1."""
    return Schedule(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
