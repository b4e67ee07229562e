"""Which training a checkpoint belongs to, and which one a run goes on from."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import nn

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
