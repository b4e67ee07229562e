"""Which training a checkpoint belongs to, where a run resumes, and which weights it starts from."""

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
from expkit.models.pretrained.base import DeviceSpec, LoadedNetwork
from expkit.models.pretrained.pictogram_unet import model_repository
from expkit.results.claims import NUMBERS
from expkit.storage import weights_io
from expkit.training.settings import (
    REFUSED,
    describe_differences,
    of_old,
    of_optimizer,
    on_resume,
    setting_differences,
)

# All that a checkpoint without settings tells about weight averaging: whether it was on.
AVERAGED = "whether weights are averaged (trainer.ema)"


@dataclass(frozen=True, eq=False)
class Training:
    """The training that a command describes; a checkpoint to resume from must agree with it.

    settings: see `expkit.training.settings`. optimizer: the options of the optimizer, with which
    checkpoints without settings are compared. steps: optimizer steps of one epoch.
    """

    settings: Mapping
    optimizer: Mapping
    steps: int
    epochs: int


class Checkpoint(NamedTuple):
    """The part of a checkpoint that decides whether a training can resume from it.

    done: optimizer steps so far. settings: those of its training. complete: whether `settings` has
    all of them, which checkpoints of earlier versions lack.
    """

    path: Path
    done: int
    settings: Mapping
    complete: bool

    def differences(self, training: Training) -> dict[str, tuple]:
        """The settings that differ: {key: (value in the checkpoint, value in the command)}."""
        if self.complete:
            return setting_differences(self.settings, training.settings)
        averages_weights = training.settings.get("trainer.ema") is not None
        optimizer_settings = of_optimizer(training.optimizer)
        command_settings = {**training.settings, **optimizer_settings, AVERAGED: averages_weights}
        return setting_differences(self.settings, command_settings)


def find_checkpoint(
    resume: str | None, folder: Path, training: Training, say: Callable[[str], None]
) -> Path | None:
    """Find the checkpoint to resume from, and report through `say` what the user should know of it.

    Args:
        resume: a file; "auto" for the newest unfinished run beside `folder` that agrees in all
            settings; or None.

    Raises:
        UserError: the training cannot resume from the named file with the settings of the command.
    """
    if not resume:
        return None
    if resume == "auto":
        checkpoint = newest_checkpoint(folder, training, say)
    else:
        checkpoint = check_resumable(read_checkpoint(resume), resume, training)
    if checkpoint is None:
        return None
    total_steps = training.steps * training.epochs
    say(f"  resuming from {checkpoint.path}, {checkpoint.done} of {total_steps} steps done")
    for key, values in checkpoint.differences(training).items():
        say(f"  from here on, {describe_differences({key: values})}: the command is obeyed")
    missing_keys = [key for key in training.settings if key not in checkpoint.settings]
    missing_groups = dict.fromkeys(".".join(key.split(".")[:2]) for key in missing_keys)
    if missing_groups:
        say(
            "  the checkpoint, of an earlier version, does not say all of "
            f"{', '.join(missing_groups)}: the command's are taken"
        )
    return checkpoint.path


def check_resumable(found: Checkpoint, resume: str, training: Training) -> Checkpoint:
    """Return the checkpoint if the command may resume from it.

    Raises:
        UserError: a setting differs that must not change (the text names both values), or no steps
            are left to train.
    """
    differences = found.differences(training)
    conflicts = {key: both for key, both in differences.items() if on_resume(key) == REFUSED}
    if conflicts:
        raise UserError(
            f"resume={resume} would go on as another training: {describe_differences(conflicts)}. "
            "Give what the checkpoint says; or leave resume out and train anew, from a run's "
            "weights with begin=."
        )
    if found.done >= training.steps * training.epochs:
        raise UserError(
            f"resume={resume} has {epochs_done(found, training)} behind it, and "
            f"trainer.epochs={training.epochs} asks for no more: nothing is left to train. "
            "Give more epochs, or an earlier checkpoint."
        )
    return found


def newest_checkpoint(
    folder: Path,
    training: Training,
    say: Callable[[str], None],
) -> Checkpoint | None:
    """The newest checkpoint of an unfinished run beside `folder` that the command can continue.

    It agrees in all settings and has steps left. If there is none, `say` reports why.
    """
    runs = folder.parent
    paths = runs.glob("*/checkpoints/*.ckpt")
    paths = [path for path in paths if not (path.parents[1] / NUMBERS).exists()]
    checkpoints = map(checkpoint_if_readable, sorted(paths, key=modified_time, reverse=True))
    readable = [checkpoint for checkpoint in checkpoints if checkpoint is not None]
    for checkpoint in readable:
        has_steps_left = checkpoint.done < training.steps * training.epochs
        if has_steps_left and not checkpoint.differences(training):
            return checkpoint
    if not readable:
        say(f"  resume=auto: there is no unfinished run in {runs}, so this one starts anew")
        return None
    newest = readable[0]
    differences = newest.differences(training)
    if differences:
        reason = f"is another training: {describe_differences(differences)}"
    else:
        reason = f"has all its {newest.done} steps behind it"
    say(
        f"  resume=auto: the newest unfinished run, {newest.path}, {reason}. "
        "This one starts anew; resume=PATH asks for a run by name"
    )
    return None


def modified_time(path: Path) -> float:
    """The time of a file's last change; 0 if the file no longer exists."""
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
    """Read what a checkpoint file tells about its training.

    Raises:
        UserError: the file is missing, damaged, or no checkpoint of a training by expkit.
    """
    path = Path(resume).expanduser()
    expected = "Expected a .ckpt file in a run's folder checkpoints, or resume=auto for the newest"
    if path.is_dir():
        files = sorted([*path.glob("*.ckpt"), *path.glob("checkpoints/*.ckpt")], key=modified_time)
        hint = f" The newest in it is resume={files[-1]}" if files else ""
        raise UserError(f"resume={resume} is a folder. {expected}.{hint}")
    if not path.is_file():
        raise UserError(f"There is no checkpoint {resume}. {expected}.")
    if path.suffix == ".safetensors":
        raise UserError(
            f"resume={resume} has weights, and not where their training stood: "
            f"begin={resume} starts a training from them."
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # torch raises many kinds for a file that was cut off
        message = f"The checkpoint {resume} is damaged, or of another program. {expected}."
        raise UserError(message) from None
    try:
        if not isinstance(content, dict):
            raise TypeError
        history = content["history"]
        optimizer_options = content["optimizer_states"][0]["param_groups"][0]
        stored_settings = history.get("settings") or {
            **of_old(history["origin"], optimizer_options),
            AVERAGED: "averaging_state" in content,
        }
        settings = {
            key: current_address(value) if key.endswith("_target_") else value
            for key, value in stored_settings.items()
        }
        return Checkpoint(path, int(content["global_step"]), settings, "settings" in history)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError):
        message = f"The checkpoint {resume} is not of a training of expkit's. {expected}."
        raise UserError(message) from None


def epochs_done(found: Checkpoint, training: Training) -> str:
    count = found.done / training.steps
    return f"{count:.3g} epoch{'' if count == 1 else 's'} ({found.done} steps)"


def init_from(network: nn.Module, weights: str) -> None:
    """Initialize `network` with the weights of another training of the same network.

    A network with a method `state_for_double_size` also accepts the weights of such a network of
    half its size.
    Only the weights are copied: the learning rate, averages and step count start anew.

    Args:
        weights: model.safetensors or model/ of a run, or the name of weights that ship with expkit.

    Raises:
        UserError: there are no such weights, or their tensors differ from the network's in name or
            shape.
    """
    source = initial_tensors(weights)
    target = network.state_dict()
    state_for_double_size = getattr(network, "state_for_double_size", None)
    if state_for_double_size is not None:
        source = state_for_double_size(source)
    mismatches = [
        name
        for name in {**target, **source}
        if name not in target or name not in source or target[name].shape != source[name].shape
    ]
    if mismatches:
        first = mismatches[0]
        shape = lambda tensors: tuple(tensors[first].shape) if first in tensors else "nothing"
        raise UserError(
            f"The weights begin={weights} are of another network: {len(mismatches)} of its tensors "
            f"differ, the first is {first}, {shape(source)} there and {shape(target)} here. "
            "Give the trainer.network, classes and data.size that they were trained with."
        )
    network.load_state_dict(source)


def initial_tensors(weights: str) -> dict[str, Tensor]:
    """The state_dict in a file that task=train has written, or in a folder of diffusers' format."""
    is_shipped = (weights_io.WEIGHTS / f"{weights}.json").is_file()
    if is_shipped or Path(weights).suffix == ".safetensors":
        path, sha256 = weights_io.shipped_weights(weights) if is_shipped else (Path(weights), None)
        tensors, _ = weights_io.read_weights(path, sha256, trained.MADE_BY)
        return {
            name.removeprefix("network."): tensor
            for name, tensor in tensors.items()
            if not name.startswith("schedule.")
        }
    repository = replace(
        model_repository(weights),
        key="begin",
        holds="unet/, scheduler/",
        instead="weights that ship, begin=pictograms",
    )
    class_name = repository.config("unet")["_class_name"]
    return LoadedNetwork(repository, "unet", class_name, DeviceSpec()).read().state_dict()
