"""Which training a checkpoint belongs to, which one a run goes on from, and whose weights it begins with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from expkit.config.addresses import current_address
from expkit.errors import UserError
from expkit.models import trained
from expkit.models.pretrained.base import DeviceSpec, Network
from expkit.models.pretrained.pictogram_unet import model_repository
from expkit.storage import weights_io
from expkit.training.settings import (
    REFUSED,
    describe_differences,
    of_old,
    of_optimizer,
    on_resume,
    setting_differences,
)

AVERAGED = "whether weights are averaged (trainer.ema)"  # all that a checkpoint without settings says of it


@dataclass(frozen=True, eq=False)
class Training:
    """What a command trains, for checkpoints to agree with. settings: see `expkit.training.settings`.

    optimizer: the options of its optimizer, which checkpoints without settings are compared by. steps: of one epoch.
    """

    settings: Mapping
    optimizer: Mapping
    steps: int
    epochs: int


class Checkpoint(NamedTuple):
    """A checkpoint as far as a decision needs it. done: its steps. settings: of its training. complete: whether they are all there."""

    path: Path
    done: int
    settings: Mapping
    complete: bool

    def apart(self, training: Training) -> dict[str, tuple]:
        """What it says otherwise than a command: {key: (its value, the command's)}."""
        if self.complete:
            return setting_differences(self.settings, training.settings)
        averaged = {AVERAGED: training.settings.get("trainer.ema") is not None}
        return setting_differences(
            self.settings, {**training.settings, **of_optimizer(training.optimizer), **averaged}
        )


def find_checkpoint(
    resume: str | None, folder: Path, training: Training, say: Callable[[str], None]
) -> Path | None:
    """The checkpoint that a training goes on from, and what is to be said of it.

    `resume` names a file, or is "auto" for the newest of the unfinished runs beside `folder` that agrees in all settings, or None. Raises
    UserError where a named checkpoint cannot be gone on from as the command says.
    """
    if not resume:
        return None
    found = (
        newest_checkpoint(folder, training, say)
        if resume == "auto"
        else check_agreement(read_checkpoint(resume), resume, training)
    )
    if found is None:
        return None
    say(f"  resuming from {found.path}, {found.done} of {training.steps * training.epochs} steps done")
    for key, values in found.apart(training).items():
        say(f"  from here on, {describe_differences({key: values})}: the command is obeyed")
    if unsaid := dict.fromkeys(
        ".".join(key.split(".")[:2]) for key in training.settings if key not in found.settings
    ):
        say(
            f"  the checkpoint, of an earlier version, does not say all of {', '.join(unsaid)}: the command's are taken"
        )
    return found.path


def check_agreement(found: Checkpoint, resume: str, training: Training) -> Checkpoint:
    """The checkpoint, if the command may go on from it; else a UserError that names the values of both."""
    apart = {key: values for key, values in found.apart(training).items() if on_resume(key) == REFUSED}
    if apart:
        raise UserError(
            f"resume={resume} would go on as another training: {describe_differences(apart)}. "
            "Give what the checkpoint says; or leave resume out and train anew, from a run's weights with begin=."
        )
    if found.done >= training.steps * training.epochs:
        raise UserError(
            f"resume={resume} has {epochs_done(found, training)} behind it, and trainer.epochs={training.epochs} asks for no more: "
            "nothing is left to train. Give more epochs, or an earlier checkpoint."
        )
    return found


def newest_checkpoint(folder: Path, training: Training, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint of an unfinished run beside `folder` that agrees in everything and has steps left; says where there is none."""
    unfinished = [
        path
        for path in folder.parent.glob("*/checkpoints/*.ckpt")
        if not (path.parents[1] / "numbers.json").exists()
    ]
    known = [
        found
        for path in sorted(unfinished, key=modified_time, reverse=True)
        if (found := checkpoint_if_readable(path))
    ]
    left = [found for found in known if found.done < training.steps * training.epochs]
    agreed = next((found for found in left if not found.apart(training)), None)
    if agreed is None and known:
        apart = known[0].apart(training)
        why = (
            f"is another training: {describe_differences(apart)}"
            if apart
            else f"has all its {known[0].done} steps behind it"
        )
        say(
            f"  resume=auto: the newest unfinished run, {known[0].path}, {why}. This one starts anew; resume=PATH asks for a run by name"
        )
    elif agreed is None:
        say(f"  resume=auto: there is no unfinished run in {folder.parent}, so this one starts anew")
    return agreed


def modified_time(path: Path) -> float:
    """When a file was written; 0 where it is gone by now."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0


def checkpoint_if_readable(path: Path) -> Checkpoint | None:
    try:
        return read_checkpoint(str(path))
    except UserError:
        return None


def read_checkpoint(resume: str) -> Checkpoint:
    """What a checkpoint says of its training. Raises UserError where it is no checkpoint of a training of expkit's."""
    path, wanted = (
        Path(resume).expanduser(),
        "Expected a .ckpt file in a run's folder checkpoints, or resume=auto for the newest",
    )
    if path.is_dir():
        inside = sorted([*path.glob("*.ckpt"), *path.glob("checkpoints/*.ckpt")], key=modified_time)
        instead = f" The newest in it is resume={inside[-1]}" if inside else ""
        raise UserError(f"resume={resume} is a folder. {wanted}.{instead}")
    if not path.is_file():
        raise UserError(f"There is no checkpoint {resume}. {wanted}.")
    if path.suffix == ".safetensors":
        raise UserError(
            f"resume={resume} has weights, and not where their training stood: begin={resume} starts a training from them."
        )
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # torch raises many kinds for a file that was cut off
        raise UserError(f"The checkpoint {resume} is damaged, or of another program. {wanted}.") from None
    try:
        if not isinstance(found, dict):
            raise TypeError
        history, group = found["history"], found["optimizer_states"][0]["param_groups"][0]
        known = history.get("settings") or {
            **of_old(history["origin"], group),
            AVERAGED: "averaging_state" in found,
        }
        settings = {
            key: current_address(value) if key.endswith("_target_") else value for key, value in known.items()
        }
        return Checkpoint(path, int(found["global_step"]), settings, "settings" in history)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError):
        raise UserError(f"The checkpoint {resume} is not of a training of expkit's. {wanted}.") from None


def epochs_done(found: Checkpoint, training: Training) -> str:
    count = found.done / training.steps
    return f"{count:.3g} epoch{'s' * (count != 1)} ({found.done} steps)"


def init_from(network: nn.Module, weights: str) -> None:
    """Give `network` the weights of another training of the same network: those of a run's model.safetensors or model/, or some that ship.

    A network that can begin as one of half the size takes the weights of such a one, too. What is learnt from there is another training's:
    its rate, averages and count of steps begin anew. Raises UserError where there are no weights, or where they are of a network of other
    parts or sizes.
    """
    theirs, ours = load_tensors(weights), network.state_dict()
    theirs = network.enlarged(theirs) if hasattr(network, "enlarged") else theirs
    if other := [
        name
        for name in {**ours, **theirs}
        if name not in ours or name not in theirs or ours[name].shape != theirs[name].shape
    ]:
        shape = lambda tensors: tuple(tensors[other[0]].shape) if other[0] in tensors else "nothing"
        raise UserError(
            f"The weights begin={weights} are of another network: {len(other)} of its tensors differ, the first is {other[0]}, "
            f"{shape(theirs)} there and {shape(ours)} here. Give the trainer.network, classes and data.size that they were trained with."
        )
    network.load_state_dict(theirs)


def load_tensors(weights: str) -> dict[str, Tensor]:
    """What a network's state_dict was, of a file that task=train has written or of a folder in diffusers' format."""
    ships = (weights_io.WEIGHTS / f"{weights}.json").is_file()
    if ships or Path(weights).suffix == ".safetensors":
        found, _ = weights_io.read_weights(
            *(weights_io.shipped_weights(weights) if ships else (Path(weights), None)), trained.MADE_BY
        )
        return {
            name.removeprefix("network."): values
            for name, values in found.items()
            if not name.startswith("schedule.")
        }
    folder = replace(
        model_repository(weights),
        key="begin",
        holds="unet/, scheduler/",
        instead="weights that ship, begin=pictograms",
    )
    return Network(folder, "unet", folder.config("unet")["_class_name"], DeviceSpec()).read().state_dict()
