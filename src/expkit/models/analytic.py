"""Exact denoisers: no network. For known data the best possible answer is a formula, an oracle for everything built upon it.

E[x0 | x_t] = sum_i softmax_i( −|x − alpha d_i|² / (2 sigma²) ) d_i        for data d_1 … d_N              (Karras et al. 2022, eq. 57)
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
    """The exact denoiser of a finite set of pictures; a prompt keeps those of its label, "" keeps all.

    images: (N, C, H, W) in [0, 1]; labels: (N,) digits. Answers x0, for pictures in [-1, 1].
    """

    prediction_type, range = "x0", (-1.0, 1.0)

    def __init__(self, images: Tensor, labels: Tensor, schedule: Schedule, device: str = "cpu") -> None:
        self.shape, self.schedule, self.device = tuple(images.shape[1:]), schedule, torch.device(device)
        self.data = (2 * images - 1).flatten(1).to(self.device)
        self.labels = labels.to(self.device)
        self.classes = tuple(map(str, labels.unique().tolist()))

    def canonical_prompt(self, prompt: str) -> str:
        known = parse_digit(prompt)
        if known and int(known) not in self.labels:
            raise UserError(
                f"The ideal denoiser has no picture of {known}: its data holds {sorted(set(self.labels.tolist()))}."
            )
        return known

    def predict(self, x: Tensor, t: int, prompts: Sequence[str]) -> Prediction:
        alpha, sigma = self.schedule.at(t)
        distance = (
            torch.cdist(
                x.flatten(1).to(self.data), alpha * self.data, compute_mode="donot_use_mm_for_euclid_dist"
            )
            ** 2
        )
        known = [self.canonical_prompt(p) for p in prompts]
        wanted = torch.stack(
            [self.labels == int(p) if p else torch.ones_like(self.labels, dtype=torch.bool) for p in known]
        )
        logits = (-distance / (2 * sigma**2)).masked_fill(~wanted, -math.inf)
        return Prediction((logits.softmax(1) @ self.data).view(x.shape))


class Mixture(Denoiser):
    """The exact denoiser of a Gaussian mixture, each component isotropic: weights (K,), means (K, C, H, W), deviations (K,).

    E[x0 | x_t] = sum_k p(k | x_t) (m_k + alpha d_k² / (alpha² d_k² + sigma²) (x_t − alpha m_k)). It takes any prompt and heeds none.
    """

    prediction_type, range = "x0", (-1.0, 1.0)

    def __init__(self, weights: Tensor, means: Tensor, deviations: Tensor, schedule: Schedule) -> None:
        self.weights, self.means, self.deviations = (
            weights.double(),
            means.double().flatten(1),
            deviations.double(),
        )
        self.shape, self.schedule, self.device = tuple(means.shape[1:]), schedule, torch.device("cpu")

    def canonical_prompt(self, prompt: str) -> str:
        return prompt

    def predict(self, x: Tensor, t: int, prompts: Sequence[str]) -> Prediction:
        alpha, sigma = self.schedule.at(t)
        away = x.double().flatten(1)[:, None] - alpha * self.means
        variance = alpha**2 * self.deviations**2 + sigma**2
        logits = (
            self.weights.log() - away.pow(2).sum(-1) / (2 * variance) - away.shape[-1] / 2 * variance.log()
        )
        components = self.means + (alpha * self.deviations**2 / variance)[:, None] * away
        return Prediction((logits.softmax(1)[..., None] * components).sum(1).view(x.shape).to(x))
