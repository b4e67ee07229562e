"""Labelled pictures held in memory as tensors, and mini-batches of them in an order drawn from (seed, epoch)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from expkit.core.rng import stream
from expkit.text.class_names import DIGITS

LEFT_OUT = {  # kinds of what a folder of pictures holds and is no part of the data: as they are said of one, and of several
    "no picture": ("that is no picture", "that are no pictures"),
    "unreadable": ("that cannot be read", "that cannot be read"),
    "broken link": ("broken link", "broken links"),
    "hidden": ("hidden", "hidden"),
    "closed folder": ("folder that cannot be opened", "folders that cannot be opened"),
    "repeated link": ("link to what is counted already", "links to what is counted already"),
    "beside the parts": (
        "beside the parts to train and to test on",
        "beside the parts to train and to test on",
    ),
    "also in the test part": (
        "to train on that is among the test pictures too",
        "to train on that are among the test pictures too",
    ),
}


@dataclass(frozen=True)
class Remarks:
    """What a person should know of a folder of pictures.

    left_out: kind -> names of files; equal: names of pictures that are in two classes; notes: whole sentences.
    """

    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)
    equal: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def text(self) -> str:
        """One line, with counts and the first names; "" where there is nothing to say."""
        said = [
            f"{len(names):,} {LEFT_OUT[kind][len(names) > 1]} ({first_names(names)})"
            for kind, names in self.left_out.items()
        ]
        out = [f"left out: {', '.join(said)}"] if said else []
        equal = (
            [f"{len(self.equal):,} are equal to one of another class ({first_names(self.equal)})"]
            if self.equal
            else []
        )
        return "; ".join([*out, *equal, *self.notes])

    def facts(self) -> dict:
        """For numbers.json: how many there are of each kind, and their first names."""
        out = {kind: summarize_names(names) for kind, names in self.left_out.items()}
        return ({"left_out": out} if out else {}) | (
            {"equal_to_another_class": summarize_names(self.equal)} if self.equal else {}
        )


def summarize_names(names: Sequence[str]) -> dict:
    return {"count": len(names), "first": [*names[:10]]}


def first_names(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + ", …" * (len(names) > most)


@dataclass(frozen=True, eq=False)
class Pictures:
    """images: uint8 (N, C, H, W); labels: int64 (N,), each the place of its class in `names`; concepts: of what there are captions.

    remarks: what was left out where they were read.
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...] = DIGITS
    remarks: Remarks = field(default=Remarks(), kw_only=True)
    concepts: ClassVar[tuple] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what a network is shown."""
        return tuple(self.images.shape[1:])

    def shown(self, rows: Tensor) -> Tensor:
        """What is held of these rows, uint8."""
        return self.images[rows]

    def only(self, rows: Tensor | slice) -> Pictures:
        return replace(self, images=self.images[rows], labels=self.labels[rows])

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
        found = {
            "pictures": len(self.labels),
            "shape": [*self.shape],
            "classes": [*self.names],
            "sha256": self.sha256,
        }
        return found | self.remarks.facts()


class Batch(NamedTuple):
    """This process's rows of a global batch: images in [0, 1] (n, C, H, W), labels (n,), and whose rows they are.

    The epoch and index of the batch name its random stream; `count` is the rows of all processes together. `weight` is what the mean
    loss of its rows counts among the batches of its optimizer step, 1 on average where these are equally large; `ends_step` says whether
    it is the last of them.
    """

    images: Tensor
    labels: Tensor
    epoch: int
    index: int
    count: int
    weight: float = 1.0
    ends_step: bool = True


class Batches:
    """Mini-batches that can be taken up again in mid-epoch (Lightning asks for `state_dict`).

    `sampler` and `batch_sampler` are where Lightning looks for `set_epoch`. With several processes each takes every
    world-th picture of the same global batch. limit: the first so many batches of each epoch only. accumulate: batches of one
    optimizer step.
    """

    batch_sampler = None

    def __init__(
        self, pictures: Pictures, size: int, seed: int, shuffle: bool = True, rank: int = 0, world: int = 1, limit: int | None = None,
        accumulate: int = 1,
    ) -> None:  # fmt: skip
        self.pictures, self.size, self.seed, self.shuffle = pictures, size, seed, shuffle
        self.rank, self.world, self.limit, self.accumulate = rank, world, limit, accumulate
        self.epoch = self.position = self.start = 0

    def __len__(self) -> int:
        every = count_batches(len(self.pictures.labels), self.size)
        return every if self.limit is None else min(every, self.limit)

    @property
    def steps(self) -> int:
        """Optimizer steps of an epoch."""
        return count_batches(len(self), self.accumulate)

    def rows(self, first: int, end: int) -> int:
        """The pictures of the batches from `first` up to but not including `end`, those of all processes."""
        count = len(self.pictures.labels)
        return min(count, min(end, len(self)) * self.size) - min(count, first * self.size)

    def weight(self, index: int) -> float:
        """What a batch's mean loss is multiplied by, so that the mean over the step's batches is that over its pictures.

        Lightning divides by `accumulate`, in an epoch's last step too, which may have fewer batches.
        """
        first = index - index % self.accumulate
        return self.accumulate * self.rows(index, index + 1) / self.rows(first, first + self.accumulate)

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
        order = (
            torch.randperm(count, generator=stream(self.seed, "order", self.epoch))
            if self.shuffle
            else torch.arange(count)
        )
        start, self.start = self.start, 0
        for index in range(start, len(self)):
            self.position = index + 1
            every = order[index * self.size : (index + 1) * self.size]
            rows, ends_step = (
                every[self.rank :: self.world],
                (index + 1) % self.accumulate == 0 or index + 1 == len(self),
            )
            images, labels = self.pictures.shown(rows).float() / 255, self.pictures.labels[rows]
            yield Batch(images, labels, self.epoch, index, len(every), self.weight(index), ends_step)


def count_batches(items: int, size: int) -> int:
    """How many batches of `size` it takes, the last of which may have fewer."""
    return -(-items // size)
