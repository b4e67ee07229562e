"""The equation, with torch and the standard library alone: what to ask a denoiser, how to step, what must stay.

    eps_hat(x, t) = sum_k  w_k · A_k · eps_theta(V_k x, t, c_k)            w_k weight · A_k linear map · V_k view · c_k prompt

A `Denoiser` answers, an `Estimate` says what to ask, a solver steps along timesteps, and a `Pin` holds what must stay; `sample` is the
one loop. What is listed here is what most uses need; views, maps, schedules, solvers and timesteps have more in their modules.
"""

from expkit.core.denoiser import Denoiser, Prediction
from expkit.core.estimate import (
    Estimate,
    Rescaled,
    anagram,
    composable,
    conditional,
    factorized,
    guidance_interval,
    guided,
    hybrid,
)
from expkit.core.maps import Gray, LowPass, Mask, Residual
from expkit.core.pin import Pin
from expkit.core.sampler import Sampler, sample, seeded
from expkit.core.schedules import Schedule, cosine, flow, linear
from expkit.core.solvers import DDIM, DDPM, DPMpp, Euler, Step
from expkit.core.thresholding import DynamicThreshold
from expkit.core.timesteps import strided, trailing
from expkit.core.views import Flip, Jigsaw, Rotate180

__all__ = [
    "DDIM", "DDPM", "DPMpp", "Denoiser", "DynamicThreshold", "Estimate", "Euler", "Flip", "Gray", "Jigsaw", "LowPass", "Mask", "Pin",
    "Prediction", "Rescaled", "Residual", "Rotate180", "Sampler", "Schedule", "Step", "anagram", "composable", "conditional", "cosine",
    "factorized", "flow", "guidance_interval", "guided", "hybrid", "linear", "sample", "seeded", "strided", "trailing",
]  # fmt: skip
