"""Clips: bring the values of each estimate of the clean image into the model's range.

A clip is called as `clip(x0, denoiser)`, with x0 (B, C, H, W), and returns x0 of the same shape.
Without one, the errors of strong guidance (large gamma) accumulate.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from expkit.core.denoiser import Denoiser
from expkit.errors import UserError


@dataclass(frozen=True)
class ClipSample:
    """Static thresholding: clamp the values to the model's range.

    Raises:
        UserError: The model's states are latents.
    """

    def __call__(self, x0: Tensor, denoiser: Denoiser) -> Tensor:
        _refuse_latents(denoiser)
        return x0.clamp(*denoiser.range)


@dataclass(frozen=True)
class DynamicThreshold:
    """Dynamic thresholding (Saharia et al. 2022, §2.3): x0 ← clip(x0, −s, s)/s.

    s is a quantile of |x0| over the C·H·W values of an image, clamped to [1, sample_max_value]. The
    upper bound belongs to the model (DeepFloyd IF: 1.5 in stage I, 1.0 in stage II). The formula is
    for values in [−1, 1]; values of another range are mapped there and back.

    Attributes:
        ratio: The quantile, in [0, 1].

    Raises:
        UserError: The model's states are latents.
    """

    ratio: float = 0.95

    def __call__(self, x0: Tensor, denoiser: Denoiser) -> Tensor:
        _refuse_latents(denoiser)
        low, high = denoiser.range
        middle, half = (low + high) / 2, (high - low) / 2
        normalized = (x0 - middle) / half
        limit = normalized.abs().flatten(1).quantile(self.ratio, dim=1)
        limit = limit.clamp(1, denoiser.sample_max_value)[:, None, None, None]
        return normalized.clamp(-limit, limit) / limit * half + middle


def _refuse_latents(denoiser: Denoiser) -> None:
    if denoiser.shape != denoiser.image_shape:
        raise UserError(
            "sampler.clip bounds the values of pixels, and this model's states are latents: "
            "give sampler.clip=null."
        )
