"""Core: diffusion estimates and sampling, built on torch and the standard library alone.

    eps_hat(x, t) = sum_k  w_k · A_k · eps_theta(V_k x, t, c_k)

w_k is a weight, A_k a linear map, V_k a view and c_k a prompt. A `Denoiser` is the network, an
`Estimate` is this sum, a solver makes one update from a timestep to the next, and a `Pin` keeps a
part of the image fixed. `sample` is the only sampling loop.

The names below cover the common uses, and all that a `_target_` names in expkit's configuration;
the modules for views, maps, schedules, solvers and timesteps have more.
"""

from expkit.core.denoiser import Denoiser, Prediction
from expkit.core.estimate import (
    Estimate,
    Rescaled,
    anagram,
    colour,
    composable,
    conditional,
    factorized,
    guidance_interval,
    guided,
    hybrid,
    motion,
    triple,
    triple_hybrid,
)
from expkit.core.maps import Complement, Gray, LowPass, Mask
from expkit.core.pin import Pin
from expkit.core.sampler import Sampler, sample, seeded
from expkit.core.schedules import (
    Schedule,
    cosine,
    flow,
    linear,
    linear_rescaled,
    single_noise_level,
    variance_exploding,
    zero_terminal_snr,
)
from expkit.core.solvers import DDIM, DDPM, DPMpp, Euler, Step
from expkit.core.thresholding import DynamicThreshold
from expkit.core.timesteps import all_levels, ays, repaint, strided, strided_clean, trailing
from expkit.core.views import (
    Blur,
    Flip,
    Identity,
    InnerCircle,
    Jigsaw,
    Mirror,
    Negate,
    Patches,
    Rotate180,
    RotateCCW,
    RotateCW,
    RotateInterpolated,
    Skew,
    SquareHinge,
    VisualAnagramsJigsaw,
    WhiteBalance,
)

__all__ = [
    "DDIM",
    "DDPM",
    "Blur",
    "Complement",
    "DPMpp",
    "Denoiser",
    "DynamicThreshold",
    "Estimate",
    "Euler",
    "Flip",
    "Gray",
    "Identity",
    "InnerCircle",
    "Jigsaw",
    "LowPass",
    "Mask",
    "Mirror",
    "Negate",
    "Patches",
    "Pin",
    "Prediction",
    "Rescaled",
    "Rotate180",
    "RotateCCW",
    "RotateCW",
    "RotateInterpolated",
    "Sampler",
    "Schedule",
    "Skew",
    "SquareHinge",
    "Step",
    "VisualAnagramsJigsaw",
    "WhiteBalance",
    "all_levels",
    "anagram",
    "ays",
    "colour",
    "composable",
    "conditional",
    "cosine",
    "factorized",
    "flow",
    "guidance_interval",
    "guided",
    "hybrid",
    "linear",
    "linear_rescaled",
    "motion",
    "repaint",
    "sample",
    "seeded",
    "single_noise_level",
    "strided",
    "strided_clean",
    "trailing",
    "triple",
    "triple_hybrid",
    "variance_exploding",
    "zero_terminal_snr",
]
