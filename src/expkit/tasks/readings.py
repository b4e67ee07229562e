"""What judges read in the pictures of a run, how many are as asked, and which are the best of their wish.

score = min over readings of p(asked | what is seen), with p among everything that the judge may answer: a picture is as good as
its worst reading.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from expkit.denoiser import Denoiser
from expkit.judges import Judging, shrunk
from expkit.views import Identity, View


@dataclass(frozen=True)
class Reading:
    """What a picture should show (`prompt`, or a list with one a picture) when it is looked at `through` something.

    moving: whether there is an animation of how the first picture comes to be seen so; `through` is a view then. far: whether it is
    seen from a distance.
    """

    prompt: str | int | Sequence[str | int]
    through: Callable[[Tensor], Tensor]
    moving: bool = False
    far: bool = False

    def only(self, rows: Sequence[int]) -> Reading:
        """The reading of these of the run's pictures."""
        return self if isinstance(self.prompt, str | int) else replace(self, prompt=[self.prompt[row] for row in rows])

    def prompts(self, count: int) -> list[str]:
        return [str(self.prompt)] * count if isinstance(self.prompt, str | int) else [str(p) for p in self.prompt]


@dataclass(frozen=True)
class FromAfar:
    """A picture as it looks from afar, through a view: shrunk by `times`, and shown at its old size again."""

    times: int = 4
    view: View = Identity()  # noqa: RUF009

    def __call__(self, images: Tensor) -> Tensor:
        return shrunk(self.view(images), self.times)


class Seen(NamedTuple):
    """What one judge read through one reading: the likeliest answers, what was asked, and the probability (N,) of that."""

    reading: str
    judge: str
    read: list[str]
    asked: list[str]
    sure: Tensor


def seen(
    readings: Mapping[str, Reading], judges: Mapping[str, Judging], model: Denoiser, images: Tensor, runs: Sequence[range] | None = None
) -> list[list[Seen]]:
    """Everything that the judges read in each of the runs whose pictures these are, all of them one where they are not said.

    A judge answers with what is asked in a run; runs in which it may answer the same are read at once. Of a run, readings that ask for
    nothing, or for several things at once, are left out.
    """
    runs = runs or [range(len(images))]
    prompts = {name: [model.understand(p) for p in reading.prompts(len(images))] for name, reading in readings.items()}
    asked = [{name: said for name, all_ in prompts.items() if all(said := [all_[row] for row in run])} for run in runs]
    every = [list(dict.fromkeys(p for said in one.values() for p in said)) for one in asked]
    found = {}
    for name, reading in readings.items():
        shown, here = reading.through(images), [number for number, one in enumerate(asked) if name in one]
        for j, judge in judges.items():
            found |= {(number, name, j): read for number, read in _read(judge, shown, runs, every, here)}
    return [
        [_seen(name, j, *found[number, name, j], said) for name, said in one.items() for j in judges] for number, one in enumerate(asked)
    ]


def _read(judge: Judging, shown: Tensor, runs: Sequence[range], every: Sequence[list[str]], here: Sequence[int]):
    """(run, (its answers, their probabilities (N, A))) of the runs that are to be read."""
    alike: dict[tuple[str, ...], list[int]] = {}
    for number in here:
        alike.setdefault(tuple(judge.answers(every[number])), []).append(number)
    for answers, numbers in alike.items():
        table = judge.probabilities(shown[[row for number in numbers for row in runs[number]]], every[numbers[0]])
        yield from zip(numbers, ((answers, part) for part in table.split([len(runs[number]) for number in numbers])), strict=True)


def _seen(name: str, judge: str, answers: Sequence[str], table: Tensor, asked: list[str]) -> Seen:
    places = torch.tensor([answers.index(prompt) for prompt in asked])
    return Seen(name, judge, [answers[i] for i in table.argmax(1)], asked, table[torch.arange(len(asked)), places])


def as_asked(found: Sequence[Seen], rows: Sequence[int], most: int = 64) -> dict:
    """{reading: {judge: the share of these rows that is read as asked}}, with what was read where there are few."""
    table: dict = {}
    for one in found:
        right = [one.read[row] == one.asked[row] for row in rows]
        table.setdefault(one.reading, {})[one.judge] = sum(right) / len(right)
        if len(rows) <= most:
            table[one.reading][f"read_by_{one.judge}"] = " ".join(one.read[row] for row in rows)
    return table | all_as_asked(found, rows) if len(table) > 1 else table


def all_as_asked(found: Sequence[Seen], rows: Sequence[int]) -> dict:
    """{"all readings": {judge: the share of rows of which every reading is as asked}}"""
    judges = dict.fromkeys(one.judge for one in found)
    every = {judge: [one for one in found if one.judge == judge] for judge in judges}
    return {
        "all readings": {j: sum(all(o.read[r] == o.asked[r] for o in ones) for r in rows) / len(rows) for j, ones in every.items()}
    }


def scores(found: Sequence[Seen]) -> Tensor:
    """(N,): the probability of the worst reading by the first judge."""
    return torch.stack([one.sure for one in found if one.judge == found[0].judge]).amin(0)


def best(score: Tensor, samples: int, keep: int) -> list[int]:
    """The rows of the `keep` best of each wish's `samples`, best first."""
    order = score.view(-1, samples).argsort(dim=1, descending=True, stable=True)[:, :keep]
    return (order + samples * torch.arange(len(order))[:, None]).flatten().tolist()
