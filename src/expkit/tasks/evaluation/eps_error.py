"""The error of a model's noise estimate on one fixed schedule, to compare models of any kind.

    mean |eps_hat − eps|²,   x_t = alpha_t x + sigma_t eps,   x in [0, 1]

t is a level of the schedule of CS180 project 5, so this is what the recipes of the course minimise.
A model with another schedule or range gets the picture in its own range, at its level whose
sigma_t / alpha_t is closest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from expkit.core.denoiser import Denoiser
from expkit.core.estimate import conditional
from expkit.core.rng import stream
from expkit.core.schedules import linear

EVERY = 30  # every 30th picture at each level: each picture at ten of the course's 300 levels


def eps_error(model: Denoiser, images: Tensor, prompts: Sequence[str], every: int = EVERY) -> float:
    """The mean squared error of eps, with one prompt per picture.

    Args:
        images: (N, C, H, W) in [0, 1]. Each is tested at every `every`-th level of the course's
            schedule, picture k at those with t mod every = k mod every.
    """
    course, errors = linear(), []
    low, high = model.range
    for t in range(len(course)):
        rows = list(range(t % every, len(images), every))
        if not rows:
            continue
        level = model.schedule.nearest(float(course.sigma[t] / course.alpha[t]) * (high - low))
        alpha, sigma = model.schedule.at(level)
        generator = stream("eps error", t)
        noise = torch.randn(len(rows), *model.shape, generator=generator).to(model.device)
        x = alpha * model.encode(images[rows]).to(model.device) + sigma * noise
        native = conditional([prompts[row] for row in rows])(model, x, level).native
        eps = (x - alpha * model.schedule.denoised(x, level, native, model.prediction_type)) / sigma
        errors.append((eps - noise).square().flatten(1).mean(1))
    return float(torch.cat(errors).mean())
