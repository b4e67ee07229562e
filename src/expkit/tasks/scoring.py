"""What judges read in the pictures of a run, how many are as asked, and which are the best of their wish.

score = min over readings of p(asked | what is seen), with p among everything that the judge may answer: a picture is as good as
its worst reading.

Alignment and concealment are those of visual anagrams (Geng, Park and Owens 2024, section 4), with a reading for a view: S_ij says how well
what is seen in reading i fits what reading j asks. CLIP's S is its cosine and tau its own temperature, as in the paper; a classifier's S is
log p(what j asks | what is seen in i), p among all its answers, and tau 1, so that a softmax compares the p of the prompts asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from expkit.core.denoiser import Denoiser
from expkit.core.views import Identity, View
from expkit.metrics.judges import Judge, JudgeScores, downsample_and_restore
from expkit.metrics.similarity import alignment, concealment

MANY = 20  # answers of a judge: of more, it is also said whether the right one is among its first five


@dataclass(frozen=True)
class Readout:
    """What a picture should show (`prompt`, or a list with one a picture) when it is looked at `through` something.

    moving: whether there is an animation of how the first picture comes to be seen so; `through` is a view then. far: whether it is
    seen from a distance; `through` is a FromAfar then.
    """

    prompt: str | int | Sequence[str | int]
    through: Callable[[Tensor], Tensor]
    moving: bool = False
    far: bool = False

    def only(self, rows: Sequence[int]) -> Readout:
        """The reading of these of the run's pictures."""
        return (
            self
            if isinstance(self.prompt, str | int)
            else replace(self, prompt=[self.prompt[row] for row in rows])
        )

    def scaled(self, times: int) -> Readout:
        """The reading of pictures so many times as large: from as far, they are shrunk by as much more."""
        return (
            replace(self, through=replace(self.through, times=times * self.through.times))
            if self.far
            else self
        )

    def prompts(self, count: int) -> list[str]:
        return (
            [str(self.prompt)] * count
            if isinstance(self.prompt, str | int)
            else [str(p) for p in self.prompt]
        )


@dataclass(frozen=True)
class Downsampled:
    """A picture as it looks from afar, through a view: shrunk by `times`, and shown at its old size again."""

    times: float = 4
    view: View = Identity()  # noqa: RUF009

    def __call__(self, images: Tensor) -> Tensor:
        return downsample_and_restore(self.view(images), self.times)


class Scores(NamedTuple):
    """What one judge read through one reading: the likeliest answers, what was asked, its probability (N,), and how many are likelier.

    answers: how many it chose among. scores: how well what is seen fits what each reading asks that it can read, (N, readings).
    """

    reading: str
    judge: str
    read: list[str]
    asked: list[str]
    sure: Tensor
    likelier: Tensor
    answers: int
    scores: Tensor


class ViewScores(NamedTuple):
    """What one judge makes of all readings of each picture: None where a picture is left out, empty where all are.

    left_out: {"alignment" or "concealment": why it is left out}.
    """

    judge: str
    alignment: list[float | None]
    concealment: list[float | None]
    left_out: dict[str, str]


def score_images(
    readings: Mapping[str, Readout],
    judges: Mapping[str, Judge],
    model: Denoiser,
    images: Tensor,
    runs: Sequence[range] | None = None,
) -> list[list[Scores]]:
    """Everything that the judges read in each of the runs whose pictures these are, all of them one where they are not said.

    A judge answers with what is asked in a run; runs in which it may answer the same are read at once. Of a run, readings that ask for
    nothing, for several things at once, or for what a judge has no answer for, are left out.
    """
    runs = runs or [range(len(images))]
    every, read = find_questions(readings, judges, model, len(images), runs)
    found = {}
    for name, reading in readings.items():
        shown, here = (
            reading.through(images),
            [number for number, one in enumerate(read) if any(name == known for known, _ in one)],
        )
        for j, judge in judges.items():
            found |= {(number, name, j): seen for number, seen in _read(judge, shown, runs, every, here)}
    return [
        [
            _seen(
                name,
                j,
                *found[number, name, j],
                meant,
                [prompts for (_, judge), prompts in one.items() if judge == j],
            )
            for (name, j), meant in one.items()
        ]
        for number, one in enumerate(read)
    ]


def find_questions(
    readings: Mapping[str, Readout],
    judges: Mapping[str, Judge],
    model: Denoiser,
    count: int,
    runs: Sequence[range],
) -> tuple[list[list[str]], list[dict[tuple[str, str], list[str]]]]:
    """Of each of the runs among `count` pictures, all that is asked for; and {(reading, judge): the answers that are asked}."""
    prompts = {
        name: [model.canonical_prompt(p) for p in reading.prompts(count)]
        for name, reading in readings.items()
    }
    asked = [
        {name: said for name, all_ in prompts.items() if all(said := [all_[row] for row in run])}
        for run in runs
    ]
    every = [list(dict.fromkeys(p for said in one.values() for p in said)) for one in asked]
    return every, [
        {
            (name, j): meant
            for name, said in one.items()
            for j, judge in judges.items()
            if None not in (meant := [judge.meant(prompt) for prompt in said])
        }
        for one in asked
    ]


def check_judges(
    readings: Mapping[str, Readout],
    judges: Mapping[str, Judge],
    model: Denoiser,
    count: int,
    runs: Sequence[range],
) -> list[bool]:
    """Whether each run can be read at all; refuses judges that cannot read this model's pictures: they are shown a black one."""
    every, read = find_questions(readings, judges, model, count, runs)
    shown = {name: reading.through(torch.zeros(1, *model.image_shape)) for name, reading in readings.items()}
    asked = {both: number for number, one in reversed([*enumerate(read)]) for both in one}
    for (name, j), number in asked.items():
        judges[j].probabilities(shown[name], every[number])
    return [bool(one) for one in read]


def _read(
    judge: Judge, shown: Tensor, runs: Sequence[range], every: Sequence[list[str]], here: Sequence[int]
):
    """(run, (its answers, what it says of them)) of the runs that are to be read."""
    alike: dict[tuple[str, ...], list[int]] = {}
    for number in here:
        alike.setdefault(tuple(judge.answers(every[number])), []).append(number)
    for answers, numbers in alike.items():
        rows = [len(runs[number]) for number in numbers]
        tables = judge.evaluate(shown[[row for number in numbers for row in runs[number]]], every[numbers[0]])
        parts = zip(*[table.split(rows) for table in tables], strict=True)
        yield from zip(numbers, ((answers, JudgeScores(*part)) for part in parts), strict=True)


def _seen(
    name: str,
    judge: str,
    answers: Sequence[str],
    table: JudgeScores,
    asked: list[str],
    by_all: Sequence[list[str]],
) -> Scores:
    number = {answer: place for place, answer in enumerate(answers)}
    places = torch.tensor(
        [[number[prompt] for prompt in prompts] for prompts in (asked, *by_all)], device=table.scores.device
    ).T
    sure, scores = table.probabilities.gather(1, places[:, :1])[:, 0], table.scores.gather(1, places[:, 1:])
    likelier = (table.probabilities > sure[:, None]).sum(1)
    return Scores(
        name,
        judge,
        [answers[i] for i in table.probabilities.argmax(1)],
        asked,
        sure,
        likelier,
        len(answers),
        scores,
    )


def view_scores(
    found: Sequence[Scores], readings: Sequence[str], judges: Mapping[str, Judge]
) -> list[ViewScores]:
    """Alignment and concealment of each picture of a run, by each judge. readings: the names of all that the run has."""
    return [
        _view_scores([one for one in found if one.judge == name], readings, name, judge)
        for name, judge in judges.items()
    ]


def _view_scores(found: Sequence[Scores], readings: Sequence[str], name: str, judge: Judge) -> ViewScores:
    if unread := [reading for reading in readings if reading not in [one.reading for one in found]]:
        why = f"{', '.join(unread)} asks for nothing that this judge can read"
        return ViewScores(name, [], [], {"alignment": why, "concealment": why})
    scores = torch.stack([one.scores for one in found], 1).double()
    alike = [len(set(prompts)) < len(readings) for prompts in zip(*[one.asked for one in found], strict=True)]
    aligned, hidden, left_out = (
        alignment(scores).tolist(),
        concealment(scores, judge.temperature).tolist(),
        {},
    )
    if len(readings) == 1:
        hidden, left_out = [], {"concealment": "there is one reading, from which no other is to be hidden"}
    elif any(alike):
        hidden = [None if same else value for same, value in zip(alike, hidden, strict=True)]
        left_out = {"concealment": f"two readings ask for the same, in {sum(alike)} of {len(alike)} pictures"}
    return ViewScores(name, aligned, hidden, left_out)


def mean_view_scores(scores: Sequence[ViewScores], rows: Sequence[int], of: str = "") -> dict:
    """{"alignment": {judge: the mean over these rows}, "concealment": the same}; what is left out, and why, under …_left_out."""
    table: dict = {}
    for one in scores:
        for name, values in (("alignment", one.alignment), ("concealment", one.concealment)):
            counted = [values[row] for row in rows if values and values[row] is not None]
            if counted:
                table.setdefault(name + of, {})[one.judge] = round(sum(counted) / len(counted), 6)
            if name in one.left_out:
                table.setdefault(f"{name}_left_out", {})[one.judge] = one.left_out[name]
    return table


def view_scores_of(scores: Sequence[ViewScores], row: int) -> dict:
    """{"alignment": {judge: that of one picture}, "concealment": the same}"""
    return {
        name: told for name, told in mean_view_scores(scores, [row]).items() if not name.endswith("_left_out")
    }


def as_asked(found: Sequence[Scores], rows: Sequence[int], most: int = 64) -> dict:
    """{reading: {judge: the share of these rows that is read as asked}}, with what was read where there are few.

    Of judges with many answers also {"judge, in its first five": the share}. "all readings" is of the rows that are right in each.
    """
    table: dict = {}
    for one in found:
        reading = table.setdefault(one.reading, {})
        for within, said in first_so_many(one):
            reading[said] = sum(is_right(one, row, within) for row in rows) / len(rows)
        if len(rows) <= most:
            reading[f"read_by_{one.judge}"] = (", " if one.answers > MANY else " ").join(
                one.read[row] for row in rows
            )
    return table | all_as_asked(found, rows) if len(table) > 1 else table


def all_as_asked(found: Sequence[Scores], rows: Sequence[int]) -> dict:
    """{"all readings": {judge: the share of rows of which every reading is as asked}}"""
    every: dict[str, list[tuple[Scores, int]]] = {}
    for one in found:
        for within, said in first_so_many(one):
            every.setdefault(said, []).append((one, within))
    return {
        "all readings": {
            said: sum(all(is_right(o, r, w) for o, w in ones) for r in rows) / len(rows)
            for said, ones in every.items()
        }
    }


def first_so_many(one: Scores) -> list[tuple[int, str]]:
    """How many answers are looked at, and what that is called."""
    return [(1, one.judge), (5, f"{one.judge}, in its first five")][: 1 + (one.answers > MANY)]


def is_right(one: Scores, row: int, within: int) -> bool:
    """Whether what was asked is among the likeliest so many answers."""
    return bool(one.likelier[row] < within)


def worst_probability(found: Sequence[Scores]) -> Tensor:
    """(N,): the probability of the worst reading by the first judge."""
    return torch.stack([one.sure for one in found if one.judge == found[0].judge]).amin(0)


def best_rows(score: Tensor, samples: int, keep: int) -> list[int]:
    """The rows of the `keep` best of each wish's `samples`, best first."""
    order = score.view(-1, samples).argsort(dim=1, descending=True, stable=True)[:, :keep]
    return (order + samples * torch.arange(len(order))[:, None]).flatten().tolist()
