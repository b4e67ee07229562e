"""Digits to test with where MNIST is not at hand: 64 of each, drawn by the model of digits that ships, as a data set on disk.

digits.png has a row a digit: `prompt=D samples=64 seed=D gamma=2`, each pixel as it was sampled. Both judges read all of them as asked.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

EACH, TO_TRAIN_ON = 64, 48
AS_EMNIST = (
    "data=emnist",
    "data.split=mnist",
)  # what a command of another process adds: it takes this set for EMNIST's of digits


def digits(train: bool) -> tuple[Tensor, Tensor]:
    """uint8 (N, 28, 28) and labels (N,), digits taking turns: 480 to train on, 160 others to test on."""
    sheet = torch.from_numpy(np.array(Image.open(Path(__file__).with_name("digits.png"))))
    rows = sheet.view(10, 28, EACH, 28).permute(2, 0, 1, 3)
    part = rows[:TO_TRAIN_ON] if train else rows[TO_TRAIN_ON:]
    return part.flatten(0, 1).contiguous(), torch.arange(10).repeat(len(part))


def idx(path: Path, array: Tensor) -> None:
    """A file in MNIST's format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.byte().numpy().tobytes()
    )


def write(folder: Path) -> Path:
    """A folder as EXPKIT_DATA names one, which has the digits as MNIST and as EMNIST's split `mnist`, whose pictures lie on their side."""
    for train, name, other in ((True, "train", "train"), (False, "t10k", "test")):
        images, labels = digits(train)
        mnist, emnist = folder / "mnist" / "MNIST" / "raw", folder / "emnist" / "EMNIST" / "raw"
        idx(mnist / f"{name}-images-idx3-ubyte", images)
        idx(mnist / f"{name}-labels-idx1-ubyte", labels)
        idx(emnist / f"emnist-mnist-{other}-images-idx3-ubyte", images.mT)
        idx(emnist / f"emnist-mnist-{other}-labels-idx1-ubyte", labels)
    return folder
