"""How well a model knows the noise in pictures, on one schedule whatever its own: the number on which recipes are compared.

    mean |eps_hat − eps|²,   x_t = alpha_t x + sigma_t eps,   x in [0, 1], t of the course's schedule: what the course's recipes minimise

A model of another schedule or range is shown the picture in its own range, at its level whose sigma_t / alpha_t comes closest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from expkit.core.denoiser import Denoiser
from expkit.core.estimate import conditional
from expkit.core.rng import stream
from expkit.core.schedules import linear

EVERY = 30  # of the pictures, and of the levels of each: ten of the course's three hundred


def eps_error(model: Denoiser, images: Tensor, prompts: Sequence[str], every: int = EVERY) -> float:
    """The mean over pictures (N, C, H, W) in [0, 1], told what they show, each at every `every`-th of the course's levels."""
    course, (low, high), errors = linear(), model.range, []
    for t in range(len(course)):
        rows = list(range(t % every, len(images), every))
        if not rows:
            continue
        level = model.schedule.nearest(float(course.sigma[t] / course.alpha[t]) * (high - low))
        alpha, sigma = model.schedule.at(level)
        noise = torch.randn(len(rows), *model.shape, generator=stream("eps error", t)).to(model.device)
        x = alpha * model.encode(images[rows]).to(model.device) + sigma * noise
        said = conditional([prompts[row] for row in rows])(model, x, level)
        eps = (x - alpha * model.schedule.denoised(x, level, said.native, model.prediction_type)) / sigma
        errors.append((eps - noise).square().flatten(1).mean(1))
    return float(torch.cat(errors).mean())
