"""Labelled pictures held in memory as tensors, and mini-batches of them in an order drawn from (seed, epoch)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from expkit.randomness import stream
from expkit.vocabulary import DIGITS


@dataclass(frozen=True, eq=False)
class Pictures:
    """images: uint8 (N, C, H, W); labels: int64 (N,), each the place of its class in `names`; concepts: of what there are captions."""

    images: Tensor
    labels: Tensor
    names: tuple[str, ...] = DIGITS
    concepts: ClassVar[tuple] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what a network is shown."""
        return tuple(self.images.shape[1:])

    def shown(self, rows: Tensor) -> Tensor:
        """What is held of these rows, uint8."""
        return self.images[rows]

    def only(self, rows: Tensor | slice) -> Pictures:
        return Pictures(self.images[rows], self.labels[rows], self.names)

    def first(self, count: int | None) -> Pictures:
        return self.only(slice(count))

    @cached_property
    def sha256(self) -> str:
        """Of pictures and labels."""
        digest = hashlib.sha256(self.images.numpy().tobytes())
        digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()

    def facts(self) -> dict:
        """What a run's numbers say of its data."""
        return {"pictures": len(self.labels), "shape": [*self.shape], "classes": [*self.names], "sha256": self.sha256}


class Batch(NamedTuple):
    """This process's rows of a global batch: images in [0, 1] (n, C, H, W), labels (n,), and whose rows they are.

    The epoch and index of the batch name its random stream; `count` is the rows of all processes together.
    """

    images: Tensor
    labels: Tensor
    epoch: int
    index: int
    count: int


class Batches:
    """Mini-batches that can be taken up again in mid-epoch (Lightning asks for `state_dict`).

    `sampler` and `batch_sampler` are where Lightning looks for `set_epoch`. With several processes each takes every
    world-th picture of the same global batch.
    """

    batch_sampler = None

    def __init__(self, pictures: Pictures, size: int, seed: int, shuffle: bool = True, rank: int = 0, world: int = 1) -> None:
        self.pictures, self.size, self.seed, self.shuffle = pictures, size, seed, shuffle
        self.rank, self.world = rank, world
        self.epoch = self.position = self.start = 0

    def __len__(self) -> int:
        return -(-len(self.pictures.labels) // self.size)

    @property
    def sampler(self) -> Batches:
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position % len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.start = state["position"]

    def __iter__(self) -> Iterator[Batch]:
        count = len(self.pictures.labels)
        order = torch.randperm(count, generator=stream(self.seed, "order", self.epoch)) if self.shuffle else torch.arange(count)
        start, self.start = self.start, 0
        for index in range(start, len(self)):
            self.position = index + 1
            every = order[index * self.size : (index + 1) * self.size]
            rows = every[self.rank :: self.world]
            yield Batch(self.pictures.shown(rows).float() / 255, self.pictures.labels[rows], self.epoch, index, len(every))
