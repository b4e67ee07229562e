"""Core: diffusion estimates and sampling, built on torch and the standard library alone.

    eps_hat(x, t) = sum_k  w_k · A_k · eps_theta(V_k x, t, c_k)

w_k is a weight, A_k a linear map, V_k a view and c_k a prompt. A `Denoiser` is the network, an
`Estimate` is this sum, a solver makes one update from a timestep to the next, and a `Pin` keeps a
part of the image fixed. `sample` is the only sampling loop.

The names below cover the common uses; the modules for views, maps, schedules, solvers and timesteps
have more.
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
from expkit.core.maps import Complement, Gray, LowPass, Mask
from expkit.core.pin import Pin
from expkit.core.sampler import Sampler, sample, seeded
from expkit.core.schedules import Schedule, cosine, flow, linear
from expkit.core.solvers import DDIM, DDPM, DPMpp, Euler, Step
from expkit.core.thresholding import DynamicThreshold
from expkit.core.timesteps import strided, trailing
from expkit.core.views import Flip, Jigsaw, Rotate180

__all__ = [
    "DDIM", "DDPM", "Complement", "DPMpp", "Denoiser", "DynamicThreshold", "Estimate", "Euler",
    "Flip", "Gray", "Jigsaw", "LowPass", "Mask", "Pin", "Prediction", "Rescaled", "Rotate180",
    "Sampler", "Schedule", "Step", "anagram", "composable", "conditional", "cosine", "factorized",
    "flow", "guidance_interval", "guided", "hybrid", "linear", "sample", "seeded", "strided",
    "trailing",
]  # fmt: skip
