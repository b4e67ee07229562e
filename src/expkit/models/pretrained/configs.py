"""What the configurations of a model in diffusers' format mean: its noise schedule, what its network answers, the size of its pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from expkit.core import schedules
from expkit.core.schedules import Schedule
from expkit.errors import UserError

KINDS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}


def schedule_of(config: dict) -> Schedule:
    """The schedule of a scheduler's configuration, in float64."""
    levels = config.get("num_train_timesteps", 1000)
    match "trained" if config.get("trained_betas") is not None else config.get("beta_schedule"):
        case "trained":
            found = schedules.from_betas(torch.tensor(config["trained_betas"], dtype=torch.float64))
        case "linear":
            found = schedules.linear(levels, config["beta_start"], config["beta_end"])
        case "scaled_linear":  # on a line are their roots
            first, last = config["beta_start"] ** 0.5, config["beta_end"] ** 0.5
            found = schedules.from_betas(torch.linspace(first, last, levels, dtype=torch.float64) ** 2)
        case "squaredcos_cap_v2":
            found = schedules.cosine(levels)
        case other:
            raise unknown_config(config, f"its noise schedule is {other or 'not one of betas'}")
    return schedules.zero_terminal_snr(found) if config.get("rescale_betas_zero_snr") else found


def kind_of(config: dict) -> str:
    """What the network answers: eps, v or x0."""
    said = config.get("prediction_type", "epsilon")
    if said not in KINDS or config.get("use_flow_sigmas"):
        raise unknown_config(config, f"its network answers {said!r}")
    return KINDS[said]


def unknown_config(config: dict, why: str) -> UserError:
    return UserError(
        f"The scheduler {config.get('_class_name', 'of this model')} is not one that expkit knows: {why}. It knows betas that are linear, "
        "scaled_linear, squaredcos_cap_v2 or trained, and networks that answer epsilon, v_prediction or sample; not flow matching."
    )


def size_of(config: dict, size: int | None) -> tuple[int, int]:
    """(H, W) of the state: `size` if given, else what the network was trained on."""
    sides = size or config.get("sample_size")
    if sides is None:
        raise UserError(
            "This model's configuration does not say how large its pictures are: give model.size=PIXELS."
        )
    return (sides, sides) if isinstance(sides, int) else tuple(sides)


def check_class(config: dict, wanted: Sequence[str], name: str, channels: int | None = None) -> None:
    """Refuse a network of another class, or for another number of channels, than the one that is asked."""
    said, inner = config.get("_class_name"), config.get("in_channels")
    if said not in wanted:
        raise UserError(f"{name} holds a {said}, and this model asks a {wanted[0]}. {OTHERS}")
    if channels and inner != channels:
        raise UserError(
            f"{name} holds a network for {inner} channels, and this model's has {channels}. {OTHERS}"
        )


OTHERS = (
    "model=deepfloyd takes stage I of DeepFloyd IF (3 channels) and its stage II (6), model=stable_diffusion a latent model (4), "
    "model=ddpm an unconditional one."
)
