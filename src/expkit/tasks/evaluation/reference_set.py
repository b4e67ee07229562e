"""Pictures of a data set to compare with, drawn at random but the same in every run.

The first pictures of a set are seldom like the rest: MNIST's first 5,000 test pictures are in
tidier handwriting than its last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from expkit.core.denoiser import Denoiser
from expkit.core.rng import stream
from expkit.errors import UserError, warn

if TYPE_CHECKING:
    from expkit.data.labelled_pictures import Pictures
    from expkit.training.train import TrainingData


def open_set(data: TrainingData, model: Denoiser, train: bool) -> Pictures:
    """The whole training or test set; refuses pictures whose shape is not the model's."""
    pictures = data.pictures(train=train)
    shape = pictures.images.shape[1:]
    if shape != model.image_shape:
        raise UserError(
            f"The pictures of data are {describe_shape(shape)}, "
            f"and this model's are {describe_shape(model.image_shape)}: "
            "give the data that the model was trained on, with data=…, or another model."
        )
    if pictures.remarks.text:
        warn(pictures.remarks.text)
    return pictures


def describe_shape(shape: Sequence[int]) -> str:
    """A shape (C, H, W) in words."""
    channels, height, width = shape
    return f"{width} × {height} in {'grey' if channels == 1 else 'colour'}"


def draw_pictures(pictures: Pictures, count: int, name: str) -> Pictures:
    """`count` random pictures; `name` names the set."""
    if count > len(pictures.labels):
        raise UserError(
            f"samples={count} is more than the {len(pictures.labels)} {name} there are "
            "to compare with: give fewer."
        )
    return pictures.select(shuffle_rows(pictures, name)[:count])


def of_each(pictures: Pictures, each: int, classes: Sequence[int], name: str) -> Pictures:
    """`each` random pictures of every class; the classes take turns."""
    order = shuffle_rows(pictures, name)
    rows = [order[pictures.labels[order] == label] for label in classes]
    least = min(map(len, rows))
    if each > least:
        raise UserError(
            f"samples={each * len(classes)} is more than there are {name} to compare with: "
            f"of one class there are {least}. Give {least * len(classes)} at the most."
        )
    return pictures.select(torch.stack([class_rows[:each] for class_rows in rows], 1).flatten())


def shuffle_rows(pictures: Pictures, name: str) -> Tensor:
    """All rows in a random order that depends on `name` alone."""
    return torch.randperm(len(pictures.labels), generator=stream("held out", name))
