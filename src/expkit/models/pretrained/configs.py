"""Read the configurations of a model in diffusers' format.

They give its noise schedule, its prediction type and the size of its images.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from expkit.core import schedules
from expkit.core.schedules import Schedule
from expkit.errors import UserError

KINDS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}


def schedule_of(config: dict) -> Schedule:
    """The noise schedule of a scheduler's configuration, in float64.

    Raises:
        UserError: expkit does not support this schedule, or its configuration lacks a number.
    """
    try:
        return named_schedule(config)
    except KeyError as missing:
        raise unknown_config(config, f"its configuration has no {missing}") from None


def named_schedule(config: dict) -> Schedule:
    """`schedule_of`; raises KeyError for a number that the configuration lacks."""
    levels = config.get("num_train_timesteps", 1000)
    if is_flow(config):
        return schedules.flow(levels)
    is_trained = config.get("trained_betas") is not None
    match "trained" if is_trained else config.get("beta_schedule"):
        case "trained":
            betas = torch.tensor(config["trained_betas"], dtype=torch.float64)
            schedule = schedules.from_betas(betas)
        case "linear":
            schedule = schedules.linear(levels, config["beta_start"], config["beta_end"])
        case "scaled_linear":  # the square roots of the betas are linear
            first, last = config["beta_start"] ** 0.5, config["beta_end"] ** 0.5
            roots = torch.linspace(first, last, levels, dtype=torch.float64)
            schedule = schedules.from_betas(roots**2)
        case "squaredcos_cap_v2":
            schedule = schedules.cosine(levels)
        case other:
            raise unknown_config(config, f"its noise schedule is {other or 'not one of betas'}")
    if config.get("rescale_betas_zero_snr"):
        return schedules.zero_terminal_snr(schedule)
    return schedule


def is_flow(config: dict) -> bool:
    """Whether the scheduler's configuration is one of flow matching.

    FlowMatchEulerDiscreteScheduler and its kin are; multistep schedulers that serve both say so.
    """
    return (
        config.get("_class_name", "").startswith("FlowMatch")
        or config.get("prediction_type") == "flow_prediction"
        or bool(config.get("use_flow_sigmas"))
    )


def prediction_type_of(config: dict) -> str:
    """The prediction type of a scheduler's configuration: eps, v, x0 or flow."""
    if is_flow(config):
        return "flow"
    name = config.get("prediction_type", "epsilon")
    if name not in KINDS:
        raise unknown_config(config, f"its network answers {name!r}")
    return KINDS[name]


def unknown_config(config: dict, why: str) -> UserError:
    """The error for a scheduler that expkit does not support."""
    return UserError(
        f"The scheduler {config.get('_class_name', 'of this model')} is not one that expkit knows: "
        f"{why}. It knows flow matching, betas that are linear, scaled_linear, squaredcos_cap_v2 or "
        "trained, and networks that answer epsilon, v_prediction, sample or flow_prediction."
    )


def size_of(config: dict, size: int | None) -> tuple[int, int]:
    """(H, W) of the state: `size` if given, else the size that the network was trained on."""
    sides = size or config.get("sample_size")
    if sides is None:
        raise UserError(
            "This model's configuration does not say how large its pictures are: "
            "give model.size=PIXELS."
        )  # fmt: skip
    return (sides, sides) if isinstance(sides, int) else tuple(sides)


def check_class(
    config: dict, wanted: Sequence[str], name: str, channels: int | None = None
) -> None:  # fmt: skip
    """Raise UserError unless the network has one of these classes and this many input channels.

    Args:
        config: the network's configuration.
        wanted: names of the classes that are supported.
        name: the repository, for the error message.
        channels: the required number of input channels; None: any.
    """
    class_name, in_channels = config.get("_class_name"), config.get("in_channels")
    if class_name not in wanted:
        raise UserError(f"{name} holds a {class_name}, and this model asks a {wanted[0]}. {OTHERS}")
    if channels and in_channels != channels:
        raise UserError(
            f"{name} holds a network for {in_channels} channels, "
            f"and this model's has {channels}. {OTHERS}"
        )  # fmt: skip


OTHERS = (
    "model=deepfloyd takes stage I of DeepFloyd IF (3 channels) and its stage II (6), "
    "model=stable_diffusion a latent model (4), model=ddpm an unconditional one; model=diffusers "
    "any of these and other families, by what model_index.json says."
)
