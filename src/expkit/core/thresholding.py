"""Clips: what is done to each estimate of the clean picture, whose values cannot lie outside the model's range.

A clip is called `clip(x0, denoiser)`, x0 (B, C, H, W) in the model's range. Errors of large gamma pile up where there is none.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from expkit.core.denoiser import Denoiser
from expkit.errors import UserError


@dataclass(frozen=True)
class ClipSample:
    """Cut off at both ends of the range."""

    def __call__(self, x0: Tensor, denoiser: Denoiser) -> Tensor:
        _refuse_latents(denoiser)
        return x0.clamp(*denoiser.range)


@dataclass(frozen=True)
class DynamicThreshold:
    """x0 ← clip(x0, −s, s)/s, with s the `ratio` quantile of |x0| over a picture's C·H·W values, clamped to [1, most].

    For values in [−1, 1]; those of another range go there and back (Saharia et al. 2022, §2.3). `most` is the model's own
    `sample_max_value` (DeepFloyd IF: 1.5 in stage I, 1.0 in stage II).
    """

    ratio: float = 0.95

    def __call__(self, x0: Tensor, denoiser: Denoiser) -> Tensor:
        _refuse_latents(denoiser)
        low, high = denoiser.range
        middle, half = (low + high) / 2, (high - low) / 2
        even = (x0 - middle) / half
        most = (
            even.abs()
            .flatten(1)
            .quantile(self.ratio, dim=1)
            .clamp(1, denoiser.sample_max_value)[:, None, None, None]
        )
        return even.clamp(-most, most) / most * half + middle


def _refuse_latents(denoiser: Denoiser) -> None:
    if denoiser.shape != denoiser.image_shape:
        raise UserError(
            "sampler.clip bounds the values of pixels, and this model's states are latents: give sampler.clip=null."
        )
