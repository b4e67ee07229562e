"""sampler=own: the solver and the levels of the model's own pipeline, from its scheduler_config.json.

The levels are those of diffusers' scheduler itself, so every spacing that it knows is known here;
the solver is the one of `expkit.core.solvers` that computes the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from expkit.core.sampler import Clip, Sampler
from expkit.core.schedules import CLEAN, Schedule
from expkit.core.solvers import DDIM, DDPM, PLMS, DPMpp, Euler, EulerAncestral, Heun, Rule, UniPC
from expkit.core.thresholding import ClipSample, DynamicThreshold
from expkit.core.timesteps import shifted
from expkit.errors import UserError
from expkit.models.pretrained.light_import import only_what_networks_need
from expkit.models.pretrained.pictogram_unet import SHIPPED
from expkit.storage import weights_io
from expkit.storage.hub import Repository

VARIANCES = {
    "fixed_small": "small",
    "fixed_small_log": "small",
    "fixed_large": "large",
    "fixed_large_log": "large",
    "learned_range": "learned",
}


# The schedulers of diffusers whose solver expkit has: configuration -> solver
SOLVERS: dict[str, Callable[[Mapping[str, Any]], Rule]] = {
    "DDPMScheduler": lambda config: DDPM(ddpm_variance(config)),
    "DDIMScheduler": lambda _: DDIM(),
    "EulerDiscreteScheduler": lambda _: Euler(),
    "EulerAncestralDiscreteScheduler": lambda _: EulerAncestral(),
    "HeunDiscreteScheduler": lambda _: Heun(),
    "DPMSolverMultistepScheduler": lambda config: dpm_solver(config),
    "UniPCMultistepScheduler": lambda config: UniPC(config.get("solver_order", 2)),
    "FlowMatchEulerDiscreteScheduler": lambda _: Euler(),
    "FlowMatchHeunDiscreteScheduler": lambda _: Heun(),
    "PNDMScheduler": lambda config: linear_multistep(config),
}


def own_sampler(weights: str | None, steps: int) -> Sampler:
    """The sampler that the pipeline of a model has.

    Args:
        weights: the model's folder, or an id of huggingface.co.
        steps: its `num_inference_steps`.

    Raises:
        UserError: the model has no scheduler that expkit knows.
    """
    if not weights or (weights_io.WEIGHTS / f"{weights}.json").is_file() or weights == SHIPPED:
        raise UserError(
            "sampler=own reads the scheduler of a pretrained pipeline, and this model has none: name one "
            "with model=diffusers model.weights=…, or give another sampler, such as sampler=strided."
        )
    config = Repository(weights).config("scheduler")
    name = config.get("_class_name", "")
    if name not in SOLVERS:
        raise UserError(
            f"The pipeline of {weights} samples with a {name or 'scheduler without a name'}, which "
            f"expkit does not have. It has {', '.join(SOLVERS)}: try sampler=dpmpp or sampler=unipc."
        )
    grid = partial(own_levels, config=config, steps=steps)
    return Sampler(grid, SOLVERS[name](config), own_clip(config))


def own_levels(schedule: Schedule, config: Mapping[str, Any], steps: int) -> tuple[float, ...]:
    """The levels that diffusers' scheduler visits.

    Args:
        schedule: the model's noise schedule.
        config: the scheduler's configuration.
        steps: its `num_inference_steps`.

    Raises:
        UserError: the scheduler refuses this number of steps.
    """
    if config.get("use_dynamic_shifting"):  # the shift depends on the size of the images
        return shifted(schedule, steps)
    scheduler = scheduler_of(config)
    try:
        scheduler.set_timesteps(steps)
    except ValueError as error:
        raise UserError(f"steps={steps} does not fit the scheduler of this model: {error}") from None
    if not hasattr(scheduler, "sigmas"):
        levels = (*unrepeated(scheduler.timesteps.tolist()), *last_level(config))
        return check_levels(levels, schedule, steps)
    is_flow = schedule.is_straight
    ratios = [ratio_of(sigma, is_flow) for sigma in scheduler.sigmas.double().tolist()]
    levels = unrepeated([nearly_whole(schedule.level_at(ratio)) for ratio in ratios])
    return check_levels(levels, schedule, steps)


def check_levels(levels: tuple[float, ...], schedule: Schedule, steps: int) -> tuple[float, ...]:
    """The levels; raises UserError if a scheduler has made many steps the same, as of too many."""
    if len(levels) < steps:
        raise UserError(
            f"steps={steps} does not fit the scheduler of this model: it has only {len(levels)} "
            f"different levels for so many. Give at most {len(schedule)}, or another sampler=…"
        )
    return levels


def scheduler_of(config: Mapping[str, Any]):
    """diffusers' scheduler with this configuration."""
    with only_what_networks_need():
        import diffusers

        return getattr(diffusers, config["_class_name"]).from_config(dict(config))


def ratio_of(sigma: float, is_flow: bool) -> float:
    """sigma/alpha from what diffusers calls sigma: that ratio, or for flow matching sigma itself."""
    if not is_flow:
        return sigma
    return sigma / (1 - sigma) if sigma < 1 else float("inf")


def nearly_whole(level: float) -> float:
    """A level, as an integer where only rounding parts it from one."""
    whole = round(level)
    return whole if abs(level - whole) < 1e-4 else level


def unrepeated(levels: list[float]) -> tuple[float, ...]:
    """The levels without repetitions, which schedulers of second order make."""
    return tuple(dict.fromkeys(levels))


def last_level(config: Mapping[str, Any]) -> tuple[float, ...]:
    """Where the last update of a scheduler without sigmas ends: clean, or the lowest level."""
    return (CLEAN,) if config.get("set_alpha_to_one", True) else (0,)


def ddpm_variance(config: Mapping[str, Any]) -> Any:
    """The variance of a DDPMScheduler by the name that `DDPM` has for it."""
    name = config.get("variance_type", "fixed_small")
    if name not in VARIANCES:
        raise UserError(f"sampler=own does not know the variance_type {name!r} of this model's scheduler.")
    return VARIANCES[name]


def dpm_solver(config: Mapping[str, Any]) -> DPMpp:
    """The solver of a DPMSolverMultistepScheduler."""
    algorithm = config.get("algorithm_type", "dpmsolver++")
    if not algorithm.endswith("dpmsolver++"):
        raise UserError(
            f"sampler=own does not know the algorithm {algorithm!r} of this model's scheduler: "
            "try sampler=dpmpp."
        )
    is_stochastic = algorithm.startswith("sde")
    lowest = config.get("lambda_min_clipped", -math.inf)
    return DPMpp(lowest, config.get("solver_order", 2), is_stochastic)


def linear_multistep(config: Mapping[str, Any]) -> PLMS:
    """The solver of a PNDMScheduler, as Stable Diffusion 1 and 2 have it."""
    if not config.get("skip_prk_steps"):
        raise UserError(
            "sampler=own knows a PNDMScheduler with skip_prk_steps alone, and this model's begins with "
            "Runge-Kutta steps: try sampler=dpmpp."
        )
    return PLMS()


def own_clip(config: Mapping[str, Any]) -> Clip | None:
    """What the scheduler does to each estimate of the clean image, if anything."""
    if config.get("thresholding"):
        return DynamicThreshold(config.get("dynamic_thresholding_ratio", 0.995))
    clips = config["_class_name"] in ("DDPMScheduler", "DDIMScheduler")
    return ClipSample() if clips and config.get("clip_sample", True) else None
