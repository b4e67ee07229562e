"""Labelled pictures in memory as tensors, and mini-batches in an order drawn from (seed, epoch)."""

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

# Kinds of files and folders that are no part of the data: the words for one of them and for several
LEFT_OUT = {
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
    """Remarks for the user about a folder of pictures.

    left_out: kind -> names of files. equal: names of pictures that are in two classes.
    notes: whole sentences.
    """

    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)
    equal: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def text(self) -> str:
        """All remarks in one line, with counts and the first names; "" if there are none."""
        kinds = [
            f"{len(names):,} {LEFT_OUT[kind][len(names) > 1]} ({first_names(names)})"
            for kind, names in self.left_out.items()
        ]
        parts = [f"left out: {', '.join(kinds)}"] if kinds else []
        if self.equal:
            names = first_names(self.equal)
            parts.append(f"{len(self.equal):,} are equal to one of another class ({names})")
        return "; ".join([*parts, *self.notes])

    def facts(self) -> dict:
        """The counts and the first names of each kind, for numbers.json."""
        facts = {}
        counts = {kind: summarize_names(names) for kind, names in self.left_out.items()}
        if counts:
            facts["left_out"] = counts
        if self.equal:
            facts["equal_to_another_class"] = summarize_names(self.equal)
        return facts


def summarize_names(names: Sequence[str]) -> dict:
    """The number of names, and the first ten."""
    return {"count": len(names), "first": [*names[:10]]}


def first_names(names: Sequence[str], most: int = 3) -> str:
    """The first names in one line."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


@dataclass(frozen=True, eq=False)
class Pictures:
    """Labelled pictures in memory.

    images: uint8 (N, C, H, W).
    labels: int64 (N,), each the index of its class in `names`.
    names: of the classes.
    remarks: what was left out when the pictures were read.
    concepts: what captions exist for; none here.
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...] = DIGITS
    remarks: Remarks = field(default=Remarks(), kw_only=True)
    concepts: ClassVar[tuple] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a network's input."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def images_of(self, rows: Tensor) -> Tensor:
        """The stored images of these rows, uint8."""
        return self.images[rows]

    def select(self, rows: Tensor | slice) -> Pictures:
        """The pictures of these rows: indices, a mask or a slice."""
        return replace(self, images=self.images[rows], labels=self.labels[rows])

    def first(self, count: int | None) -> Pictures:
        """The first `count` pictures; None: all."""
        return self.select(slice(count))

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of images and labels, in hexadecimal."""
        digest = hashlib.sha256(self.images.numpy().tobytes())
        digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()

    def facts(self) -> dict:
        """A description of the data for a run's numbers.json."""
        facts = {
            "pictures": len(self.labels),
            "shape": [*self.shape],
            "classes": [*self.names],
            "sha256": self.sha256,
        }
        return facts | self.remarks.facts()


class Batch(NamedTuple):
    """This process's rows of a global batch.

    images: (n, C, H, W) in [0, 1]. labels: (n,).
    epoch, index: they name the random stream of the batch.
    count: the number of rows of all processes together.
    weight: the factor of the mean loss of its rows among the batches of one optimizer step; it is 1
        on average if these are equally large.
    ends_step: whether it is the last batch of its optimizer step.
    """

    images: Tensor
    labels: Tensor
    epoch: int
    index: int
    count: int
    weight: float = 1.0
    ends_step: bool = True


class Batches:
    """Mini-batches that can be resumed in mid-epoch; Lightning calls `state_dict` for that.

    Lightning looks for `set_epoch` at `sampler` and `batch_sampler`. With several processes, each
    takes every world-th picture of the same global batch.

    Args:
        pictures: what the batches consist of.
        size: pictures of a global batch.
        seed: of the order.
        shuffle: whether each epoch has an order of its own, rather than that of `pictures`.
        rank: of this process.
        world: number of processes.
        limit: only the first so many batches of each epoch are used; None: all.
        accumulate: batches of one optimizer step.
    """

    batch_sampler = None

    def __init__(
        self, pictures: Pictures, size: int, seed: int, shuffle: bool = True, rank: int = 0,
        world: int = 1, limit: int | None = None, accumulate: int = 1,
    ) -> None:  # fmt: skip
        self.pictures, self.size, self.seed, self.shuffle = pictures, size, seed, shuffle
        self.rank, self.world, self.limit, self.accumulate = rank, world, limit, accumulate
        self.epoch = self.position = self.start = 0

    def __len__(self) -> int:
        count = count_batches(len(self.pictures.labels), self.size)
        return count if self.limit is None else min(count, self.limit)

    @property
    def steps(self) -> int:
        """Optimizer steps of an epoch."""
        return count_batches(len(self), self.accumulate)

    def rows(self, first: int, end: int) -> int:
        """The number of pictures, of all processes, in the batches from `first` to `end` − 1."""
        count = len(self.pictures.labels)
        return min(count, min(end, len(self)) * self.size) - min(count, first * self.size)

    def weight(self, index: int) -> float:
        """The factor of a batch's mean loss that makes the step's mean a mean over its pictures.

        Lightning divides by `accumulate`, even in the last step of an epoch, which may have fewer
        batches.
        """
        first = index - index % self.accumulate
        step_rows = self.rows(first, first + self.accumulate)
        return self.accumulate * self.rows(index, index + 1) / step_rows

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
        if self.shuffle:
            order = torch.randperm(count, generator=stream(self.seed, "order", self.epoch))
        else:
            order = torch.arange(count)
        start, self.start = self.start, 0
        for index in range(start, len(self)):
            self.position = index + 1
            batch_rows = order[index * self.size : (index + 1) * self.size]
            rows = batch_rows[self.rank :: self.world]
            ends_step = (index + 1) % self.accumulate == 0 or index + 1 == len(self)
            images, labels = self.pictures.images_of(rows).float() / 255, self.pictures.labels[rows]
            weight = self.weight(index)
            yield Batch(images, labels, self.epoch, index, len(batch_rows), weight, ends_step)


def count_batches(items: int, size: int) -> int:
    """The number of batches of `size` for so many items; the last one may be smaller."""
    return -(-items // size)
