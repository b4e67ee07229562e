"""Exact denoisers without a network: the posterior mean of known data in closed form.

They are the best possible prediction, and so a reference for everything that is built on one.
For data d_1 … d_N (Karras et al. 2022, eq. 57):

    E[x0 | x_t] = sum_i softmax_i( −|x − alpha d_i|² / (2 sigma²) ) d_i
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from expkit.core.denoiser import Denoiser, Prediction
from expkit.core.schedules import Schedule
from expkit.errors import UserError
from expkit.text.class_names import parse_digit


class Ideal(Denoiser):
    """The exact denoiser of a finite set of images; it predicts x0, in [-1, 1].

    A prompt restricts the set to the images with that label; the null prompt "" uses all.

    Args:
        images: (N, C, H, W) in [0, 1].
        labels: (N,) digits.
        schedule: the noise schedule.
        device: where the data and the computation are.
    """

    prediction_type, range = "x0", (-1.0, 1.0)

    def __init__(
        self, images: Tensor, labels: Tensor, schedule: Schedule, device: str = "cpu"
    ) -> None:  # fmt: skip
        _, channels, height, width = images.shape
        self.shape, self.schedule = (channels, height, width), schedule
        self.device = torch.device(device)
        self.data = (2 * images - 1).flatten(1).to(self.device)
        self.labels = labels.to(self.device)
        self.class_prompts = tuple(map(str, labels.unique().tolist()))

    def canonical_prompt(self, prompt: str) -> str:
        digit = parse_digit(prompt)
        if digit and int(digit) not in self.labels:
            raise UserError(
                f"The ideal denoiser has no picture of {digit}: "
                f"its data holds {sorted(set(self.labels.tolist()))}."
            )
        return digit

    def predict(self, x: Tensor, t: float, prompts: Sequence[str]) -> Prediction:
        alpha, sigma = self.schedule.at(t)
        rows, mode = x.flatten(1).to(self.data), "donot_use_mm_for_euclid_dist"
        squared_distance = torch.cdist(rows, alpha * self.data, compute_mode=mode) ** 2
        digits = [self.canonical_prompt(prompt) for prompt in prompts]
        every_image = torch.ones_like(self.labels, dtype=torch.bool)
        matches = torch.stack(
            [self.labels == int(digit) if digit else every_image for digit in digits]
        )  # (R, N)
        logits = (-squared_distance / (2 * sigma**2)).masked_fill(~matches, -math.inf)
        return Prediction((logits.softmax(1) @ self.data).view(x.shape))


class Mixture(Denoiser):
    """The exact denoiser of a mixture of isotropic Gaussians; it predicts x0, whatever the prompt.

    E[x0 | x_t] = sum_k p(k | x_t) (m_k + alpha d_k² / (alpha² d_k² + sigma²) (x_t − alpha m_k))

    Args:
        weights: (K,) of the components.
        means: m, (K, C, H, W).
        deviations: d, the standard deviations (K,).
        schedule: the noise schedule.
    """

    prediction_type, range = "x0", (-1.0, 1.0)

    def __init__(
        self, weights: Tensor, means: Tensor, deviations: Tensor, schedule: Schedule
    ) -> None:  # fmt: skip
        self.proportions = weights.double()
        self.means = means.double().flatten(1)
        self.deviations = deviations.double()
        _, channels, height, width = means.shape
        self.shape, self.schedule = (channels, height, width), schedule
        self.device = torch.device("cpu")

    def canonical_prompt(self, prompt: str) -> str:
        return prompt

    def predict(self, x: Tensor, t: float, prompts: Sequence[str]) -> Prediction:
        alpha, sigma = self.schedule.at(t)
        offsets = x.double().flatten(1)[:, None] - alpha * self.means  # (R, K, C·H·W)
        variance = alpha**2 * self.deviations**2 + sigma**2  # (K,)
        exponent = offsets.pow(2).sum(-1) / (2 * variance)
        logits = self.proportions.log() - exponent - offsets.shape[-1] / 2 * variance.log()
        components = self.means + (alpha * self.deviations**2 / variance)[:, None] * offsets
        return Prediction((logits.softmax(1)[..., None] * components).sum(1).view(x.shape).to(x))
