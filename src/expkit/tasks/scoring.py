"""Readouts, and what judges read in the pictures of a batch through them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from expkit.core.denoiser import Denoiser
from expkit.core.maps import Distance, LinearMap
from expkit.core.reading import Reading
from expkit.core.views import Identity, View
from expkit.metrics.judges import Judge, downsample_and_restore


class Lens(Protocol):
    """What one looks through: pictures (N, C, H, W) in [0, 1] -> the pictures as they are seen."""

    def __call__(self, image: Tensor, /) -> Tensor: ...

    def for_resolution(self, times: float, /) -> Lens:
        """The same for pictures with sides `times` as long."""
        ...


@dataclass(frozen=True)
class Readout:
    """What a picture should show when it is looked at through a view or from afar.

    Args:
        prompt: what it should show; a list has one for each picture of the run.
        through: a view, a linear map, or `Lenses`, or `Downsampled`.
        moving: whether to write an animation from the first readout to this one; then `through` is
            a view.
        far: whether it is seen from a distance.
    """

    prompt: str | int | Sequence[str | int]
    through: Lens
    moving: bool = False
    far: bool = False

    def only(self, rows: Sequence[int]) -> Readout:
        """The readout for these pictures of the run."""
        if isinstance(self.prompt, str | int):
            return self
        return replace(self, prompt=[self.prompt[row] for row in rows])

    def scaled(self, times: float) -> Readout:
        """The readout for pictures `times` as large: from afar, they are shrunk by as much more."""
        return self if times == 1 else replace(self, through=self.through.for_resolution(times))

    def prompts(self, count: int) -> list[str]:
        """The prompt of each of `count` pictures."""
        if isinstance(self.prompt, str | int):
            return [str(self.prompt)] * count
        return [str(prompt) for prompt in self.prompt]


@dataclass(frozen=True)
class Lenses:
    """Views and maps through which a picture is seen, in the order of application."""

    items: tuple[Lens, ...] = ()

    def __call__(self, image: Tensor) -> Tensor:
        for lens in self.items:
            image = lens(image)
        return image

    def for_resolution(self, times: float) -> Lenses:
        return Lenses(tuple(lens.for_resolution(times) for lens in self.items))


@dataclass(frozen=True)
class Downsampled:
    """A picture as it looks from afar: seen through a view, shrunk, and enlarged to its old size.

    Args:
        times: by how much its sides are shrunk.
        view: applied first.
    """

    times: float = 4
    view: Lens = Identity()  # noqa: RUF009

    def __call__(self, image: Tensor) -> Tensor:
        return downsample_and_restore(self.view(image), self.times)

    def for_resolution(self, times: float) -> Downsampled:
        return Downsampled(self.times * times, self.view.for_resolution(times))


@dataclass(frozen=True)
class AboutGrey(View):
    """A view for pictures in [0, 1]: it acts on their difference from a medium grey.

    In the network's range, that grey is zero: the negative of white is black.
    """

    view: View

    @property
    def degrees(self) -> float:
        return self.view.degrees

    def __call__(self, image: Tensor) -> Tensor:
        return 0.5 + self.view(image - 0.5)

    def inverse(self, image: Tensor) -> Tensor:
        return 0.5 + self.view.inverse(image - 0.5)


MIDDLE_DISTANCE = 2.0  # times as far, where far is about 4


def readouts_of(readings: Sequence[Reading], distance: float) -> dict[str, Readout]:
    """The readouts of an estimate: {names of the part, or "picture": readout}.

    Close by comes before afar, and the picture as it is before what is seen through a lens.

    Args:
        readings: those of the estimate.
        distance: how many times as far a picture is seen from afar.
    """
    ordered = sorted(readings, key=lambda one: (one.distance, bool(one.lenses)))
    readouts: dict[str, Readout] = {}
    seen = Counter[str]()
    for number, reading in enumerate(ordered):
        name = " ".join(reading.names) or "picture"
        seen[name] += 1
        label = name if seen[name] == 1 else f"{name} {seen[name]}"
        readouts[label] = readout_of(reading, distance, is_first=number == 0)
    return readouts


def readout_of(reading: Reading, distance: float, is_first: bool) -> Readout:
    """The readout of one reading.

    An animation leads from the first readout of an estimate to others through one view alone.
    """
    lenses = tuple(unit_range_lens(lens) for lens in reading.lenses)
    through = lenses[0] if len(lenses) == 1 else Lenses(lenses)
    if reading.distance is not Distance.NEAR:
        times = distance if reading.distance is Distance.FAR else MIDDLE_DISTANCE
        return Readout(reading.prompt, Downsampled(times, through), far=True)
    return Readout(reading.prompt, through, moving=isinstance(through, View) and not is_first)


def unit_range_lens(lens: View | LinearMap) -> View | LinearMap:
    """The same lens for pictures in [0, 1]. Permutations, and maps that keep a grey, stay."""
    if not isinstance(lens, View):
        return lens
    changes_values = [part.symmetric_range or part.not_orthogonal_because for part in lens.parts]
    return AboutGrey(lens) if any(changes_values) else lens


class Scores(NamedTuple):
    """What one judge reads through one readout, for the N pictures of a run.

    Attributes:
        reading: the name of the readout.
        judge: the name of the judge.
        answers: the likeliest answer for each picture.
        right_answers: the right answer for each picture.
        probability: (N,), the probability of the right answer.
        likelier: (N,), how many answers are likelier than the right one.
        answer_count: how many answers the judge chooses from.
        scores: (N, R), how well the picture fits the prompt of each of the R readouts that this
            judge can read, in their order.
    """

    reading: str
    judge: str
    answers: list[str]
    right_answers: list[str]
    probability: Tensor
    likelier: Tensor
    answer_count: int
    scores: Tensor


class RunQuestions(NamedTuple):
    """What the judges are asked about the N pictures of one run.

    Attributes:
        rows: its pictures, as rows of the batch.
        prompts: the distinct prompts of its readouts.
        right_answers: {readout: {judge: the right answer for each of the N pictures}}. Left out are
            readouts that ask for nothing or for several things at once; of a readout, the judges
            that have no such answer.
    """

    rows: range
    prompts: list[str]
    right_answers: dict[str, dict[str, list[str]]]

    def answers_for(self, judge: str) -> list[list[str]]:
        """The right answers of each readout that this judge can read."""
        readouts = self.right_answers.values()
        return [answers[judge] for answers in readouts if judge in answers]


class AnswerTable(NamedTuple):
    """What one judge reads in N pictures: its A answers, and (N, A) probabilities and scores."""

    answers: tuple[str, ...]
    probabilities: Tensor
    scores: Tensor


@dataclass(frozen=True, eq=False)
class BatchScorer:
    """Scores pictures (B, C, H, W) in [0, 1] of several runs -> the `Scores` of each run.

    A judge chooses among the prompts of one run; runs with the same answers are read together.

    Args:
        readings: the readouts, {name: Readout}.
        judges: {name: Judge}.
        model: the model that sampled the pictures; it knows the canonical prompts.
        runs: the rows of each run.
    """

    readings: Mapping[str, Readout]
    judges: Mapping[str, Judge]
    model: Denoiser
    runs: Sequence[range]

    @cached_property
    def questions(self) -> list[RunQuestions]:
        """What the judges are asked in each run."""
        return [self.ask_run(rows) for rows in self.runs]

    def ask_run(self, rows: range) -> RunQuestions:
        """What the judges are asked about the pictures in these rows of the batch."""
        requested = {}
        for name, readout in self.readings.items():
            prompts = readout.only(rows).prompts(len(rows))
            texts = [self.model.canonical_prompt(prompt) for prompt in prompts]
            if all(texts):
                requested[name] = texts
        distinct = dict.fromkeys(text for texts in requested.values() for text in texts)
        right_answers = {name: self.right_answers(texts) for name, texts in requested.items()}
        return RunQuestions(rows, list(distinct), right_answers)

    def right_answers(self, texts: Sequence[str]) -> dict[str, list[str]]:
        """{judge: its answer for each text}, of the judges that have one for all of them."""
        answers = {}
        for name, judge in self.judges.items():
            answers[name] = [judge.answer_for(text) for text in texts]
        return {name: right for name, right in answers.items() if None not in right}

    def check_judges(self) -> None:
        """Refuse judges that cannot read this model's pictures: each of them reads a black one."""
        black = torch.zeros(1, *self.model.image_shape)
        images = {name: readout.through(black) for name, readout in self.readings.items()}
        prompts = {}
        for run in reversed(self.questions):  # of equal keys the first run's prompts are kept
            for name, answers in run.right_answers.items():
                prompts |= {(name, judge): run.prompts for judge in answers}
        for (name, judge), run_prompts in prompts.items():
            self.judges[judge].probabilities(images[name], run_prompts)

    def can_score_each_run(self) -> bool:
        """Whether in each run there is a readout that any judge can score."""
        return all(any(run.right_answers.values()) for run in self.questions)

    def unranked_readouts(self) -> list[str]:
        """The readouts, of any run, that ask for something that the first judge cannot read."""
        first = next(iter(self.judges))
        readouts = [item for run in self.questions for item in run.right_answers.items()]
        return list(dict.fromkeys(name for name, answers in readouts if first not in answers))

    def score_images(self, images: Tensor) -> list[list[Scores]]:
        """The scores of each run, readout by readout, of each by each judge that can read it."""
        tables = {}
        for name, readout in self.readings.items():
            asked = [run for run in self.questions if run.right_answers.get(name)]
            views = readout.through(images)
            for judge in self.judges:
                tables[name, judge] = read_runs(self.judges[judge], views, asked)
        return [score_run(run, tables) for run in self.questions]


def read_runs(
    judge: Judge, images: Tensor, runs: Sequence[RunQuestions]
) -> dict[range, AnswerTable]:  # fmt: skip
    """What a judge reads in these runs: {rows of the run: its table}.

    Runs with the same answers are read in one call. images: (B, C, H, W), of the whole batch.
    """
    groups: dict[tuple[str, ...], list[RunQuestions]] = {}
    for run in runs:
        groups.setdefault(tuple(judge.answers(run.prompts)), []).append(run)
    tables = {}
    for answers, group in groups.items():
        rows = [row for run in group for row in run.rows]
        read = judge.evaluate(images[rows], group[0].prompts)
        sizes = [len(run.rows) for run in group]
        parts = zip(group, read.probabilities.split(sizes), read.scores.split(sizes), strict=True)
        for run, probabilities, scores in parts:
            tables[run.rows] = AnswerTable(answers, probabilities, scores)
    return tables


def score_run(
    run: RunQuestions, tables: Mapping[tuple[str, str], Mapping[range, AnswerTable]]
) -> list[Scores]:
    """The scores of one run. tables: {(readout, judge): {rows of a run: table}}."""
    return [
        score_readout(run, reading, judge, tables[reading, judge][run.rows])
        for reading, right_answers in run.right_answers.items()
        for judge in right_answers
    ]


def score_readout(run: RunQuestions, reading: str, judge: str, table: AnswerTable) -> Scores:
    """The scores of the N pictures of a run through one readout, by one judge."""
    right = run.right_answers[reading][judge]
    probability = table.probabilities.gather(1, answer_columns(table, [right]))[:, 0]
    scores = table.scores.gather(1, answer_columns(table, run.answers_for(judge)))
    likelier = (table.probabilities > probability[:, None]).sum(1)
    likeliest = [table.answers[column] for column in table.probabilities.argmax(1)]
    count = len(table.answers)
    return Scores(reading, judge, likeliest, right, probability, likelier, count, scores)


def answer_columns(table: AnswerTable, readouts: Sequence[list[str]]) -> Tensor:
    """(N, R): the columns of the table that hold the N answers of each of R readouts."""
    columns = {answer: column for column, answer in enumerate(table.answers)}
    index = [[columns[answer] for answer in answers] for answers in readouts]
    return torch.tensor(index, device=table.scores.device).T
