"""Which training a checkpoint belongs to, which one a run goes on from, and whose weights it begins with."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from expkit import store
from expkit.denoisers import trained
from expkit.denoisers.pretrained.network import Machine, Network
from expkit.denoisers.pretrained.worded import home
from expkit.errors import Refusal
from expkit.training.data import Pictures


def origin(network: nn.Module, images: Pictures, batch_size: int, seed: int) -> dict:
    """What a checkpoint must agree with a run in, to be gone on from."""
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    return {
        "network": hashlib.sha256(repr(shapes).encode()).hexdigest()[:12],
        "pictures": images.sha256[:12],
        "batch size": batch_size,
        "seed": seed,
    }


def find(resume: str | None, folder: Path, origin: dict) -> Path | None:
    """The checkpoint that `resume` names: a file of a run of the same origin, which is refused where it is not; with "auto" the newest
    of the unfinished runs beside `folder`, or None."""
    if not resume:
        return None
    if resume != "auto":
        if (found := origin_of(Path(resume))) is None:
            raise Refusal(
                f"The checkpoint {resume} is missing or damaged, or not expkit's. Expected a .ckpt file of a run's folder checkpoints, "
                "or resume=auto for the newest."
            )
        if other := [name for name in origin if found.get(name) != origin[name]]:
            raise Refusal(
                f"The checkpoint {resume} is of another training: its {' and '.join(other)} differ from this command's "
                f"({', '.join(f'{found.get(name)}, not {origin[name]}' for name in other)}). Give the command that it was made with."
            )
        return Path(resume)
    unfinished = [p for p in folder.parent.glob("*/checkpoints/*.ckpt") if not (p.parents[1] / "numbers.json").exists()]
    newest = sorted(unfinished, key=lambda p: p.stat().st_mtime, reverse=True)
    return next((p for p in newest if origin_of(p) == origin), None)


def origin_of(path: Path) -> dict | None:
    """What a checkpoint says of its run; None where the file cannot be gone on from."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)["history"]["origin"]
    except Exception:  # torch raises many kinds for a file that was cut off
        return None


def begin(network: nn.Module, weights: str) -> None:
    """Give `network` the weights of another training of the same network: those of a run's model.safetensors or model/, or some that ship.

    What is learnt from there is another training's: its rate, averages and count of steps begin anew. Raises Refusal where there are no
    weights, or where they are of a network of other parts or sizes.
    """
    theirs, ours = tensors(weights), network.state_dict()
    if other := [name for name in {**ours, **theirs} if name not in ours or name not in theirs or ours[name].shape != theirs[name].shape]:
        shape = lambda tensors: tuple(tensors[other[0]].shape) if other[0] in tensors else "nothing"  # noqa: E731
        raise Refusal(
            f"The weights begin={weights} are of another network: {len(other)} of its tensors differ, the first is {other[0]}, "
            f"{shape(theirs)} there and {shape(ours)} here. Give the trainer.network, classes and data.size that they were trained with."
        )
    network.load_state_dict(theirs)


def tensors(weights: str) -> dict[str, Tensor]:
    """What a network's state_dict was, of a file that task=train has written or of a folder in diffusers' format."""
    ships = (store.WEIGHTS / f"{weights}.json").is_file()
    if ships or Path(weights).suffix == ".safetensors":
        found, _ = store.read(*(store.shipped(weights) if ships else (Path(weights), None)), trained.MADE_BY)
        return {name.removeprefix("network."): values for name, values in found.items() if not name.startswith("schedule.")}
    folder = replace(home(weights), key="begin", holds="unet/, scheduler/", instead="weights that ship, begin=pictograms")
    return Network(folder, "unet", "UNet2DConditionModel", Machine()).read().state_dict()
