"""What judges read in the pictures of a run: how many are right, which are the best per condition.

    score = min over readouts of p(prompt | picture through the readout)

p is a probability among all answers of the judge: a picture is as good as its worst readout.

Alignment and concealment are those of visual anagrams (Geng, Park and Owens 2024, section 4), with
a readout for a view: S_ij says how well the picture through readout i fits the prompt of readout j.
For CLIP, S is the cosine and tau is CLIP's own temperature, as in the paper. For a classifier,
S_ij = log p(prompt j | readout i) with p among all its answers, and tau = 1, so that a softmax
compares the probabilities of the readouts' prompts.
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

MANY = 20  # for judges with more answers than this, the top-5 accuracy is reported too


@dataclass(frozen=True)
class Readout:
    """What a picture should show when it is looked at through a view or from afar.

    Args:
        prompt: what it should show; a list has one for each picture of the run.
        through: pictures (N, C, H, W) in [0, 1] -> the pictures as they are seen.
        moving: whether to write an animation from the first readout to this one; then `through` is
            a view.
        far: whether it is seen from a distance; `through` is a `Downsampled` then.
    """

    prompt: str | int | Sequence[str | int]
    through: Callable[[Tensor], Tensor]
    moving: bool = False
    far: bool = False

    def only(self, rows: Sequence[int]) -> Readout:
        """The readout for these pictures of the run."""
        if isinstance(self.prompt, str | int):
            return self
        return replace(self, prompt=[self.prompt[row] for row in rows])

    def scaled(self, times: int) -> Readout:
        """The readout for pictures `times` as large: from afar, they are shrunk by as much more."""
        if not self.far:
            return self
        return replace(self, through=replace(self.through, times=times * self.through.times))

    def prompts(self, count: int) -> list[str]:
        """The prompt of each of `count` pictures."""
        if isinstance(self.prompt, str | int):
            return [str(self.prompt)] * count
        return [str(prompt) for prompt in self.prompt]


@dataclass(frozen=True)
class Downsampled:
    """A picture as it looks from afar: seen through a view, shrunk, and enlarged to its old size.

    Args:
        times: by how much its sides are shrunk.
        view: applied first.
    """

    times: float = 4
    view: View = Identity()  # noqa: RUF009

    def __call__(self, images: Tensor) -> Tensor:
        return downsample_and_restore(self.view(images), self.times)


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


class ViewScores(NamedTuple):
    """Alignment and concealment of each picture of a run, by one judge.

    Attributes:
        alignment, concealment: None where a picture is left out, an empty list where all are.
        left_out: {"alignment" or "concealment": why pictures are left out}.
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
    """The scores of each run, by each judge through each readout.

    A judge chooses among the prompts of one run; runs with the same answers are read together. Left
    out of a run are readouts that ask for nothing or for several things at once, and those that ask
    a judge for something that is none of its answers.

    Args:
        images: (N, C, H, W) in [0, 1], the pictures of all runs.
        runs: the rows of each run; None for one run of all pictures.
    """
    runs = runs or [range(len(images))]
    prompts, questions = find_questions(readings, judges, model, len(images), runs)
    tables = {}
    for name, readout in readings.items():
        views = readout.through(images)
        numbers = []
        for number, run_questions in enumerate(questions):
            if name in [other for other, _ in run_questions]:
                numbers.append(number)
        for judge_name, judge in judges.items():
            for number, table in _judge_runs(judge, views, runs, prompts, numbers):
                tables[number, name, judge_name] = table
    scores = []
    for number, run_questions in enumerate(questions):
        run_scores = []
        for (name, judge_name), right in run_questions.items():
            items = run_questions.items()
            readable = [answers for (_, other), answers in items if other == judge_name]
            table = tables[number, name, judge_name]
            run_scores.append(_readout_scores(name, judge_name, *table, right, readable))
        scores.append(run_scores)
    return scores


def find_questions(
    readings: Mapping[str, Readout],
    judges: Mapping[str, Judge],
    model: Denoiser,
    count: int,
    runs: Sequence[range],
) -> tuple[list[list[str]], list[dict[tuple[str, str], list[str]]]]:
    """What the judges are asked in each of the runs among `count` pictures.

    Returns:
        For each run, the distinct prompts of its readouts; for each run, {(readout, judge): the
        right answer for each of its pictures}.
    """
    run_prompts, questions = [], []
    for texts in _requested_texts(readings, model, count, runs):
        distinct = dict.fromkeys(text for run_texts in texts.values() for text in run_texts)
        run_prompts.append(list(distinct))
        answers = {}
        for name, run_texts in texts.items():
            for judge_name, judge in judges.items():
                right = [judge.answer_for(text) for text in run_texts]
                if None not in right:
                    answers[name, judge_name] = right
        questions.append(answers)
    return run_prompts, questions


def _requested_texts(
    readings: Mapping[str, Readout], model: Denoiser, count: int, runs: Sequence[range]
) -> list[dict[str, list[str]]]:
    """For each run, the canonical prompts of the readouts that ask for something."""
    prompts = {
        name: [model.canonical_prompt(prompt) for prompt in readout.prompts(count)]
        for name, readout in readings.items()
    }
    tables = []
    for run in runs:
        texts = {name: [batch_texts[row] for row in run] for name, batch_texts in prompts.items()}
        tables.append({name: run_texts for name, run_texts in texts.items() if all(run_texts)})
    return tables


def unranked_readouts(
    readings: Mapping[str, Readout],
    judges: Mapping[str, Judge],
    model: Denoiser,
    count: int,
    runs: Sequence[range],
) -> list[str]:
    """The readouts, of any run, that ask for something that the first judge cannot read."""
    first = next(iter(judges.values()))
    names: list[str] = []
    for texts in _requested_texts(readings, model, count, runs):
        answers = {name: [first.answer_for(text) for text in texts[name]] for name in texts}
        names += [name for name in texts if None in answers[name]]
    return list(dict.fromkeys(names))


def check_judges(
    readings: Mapping[str, Readout],
    judges: Mapping[str, Judge],
    model: Denoiser,
    count: int,
    runs: Sequence[range],
) -> list[bool]:
    """Whether any judge can score each run; refuses judges that cannot read this model's pictures.

    To find out, each judge reads a black picture.
    """
    prompts, questions = find_questions(readings, judges, model, count, runs)
    black = torch.zeros(1, *model.image_shape)
    images = {name: readout.through(black) for name, readout in readings.items()}
    pairs = reversed([*enumerate(questions)])  # reversed: of equal keys the first run's is kept
    first_runs = {pair: number for number, run_questions in pairs for pair in run_questions}
    for (name, judge_name), number in first_runs.items():
        judges[judge_name].probabilities(images[name], prompts[number])
    return [bool(run_questions) for run_questions in questions]


def _judge_runs(
    judge: Judge,
    images: Tensor,
    runs: Sequence[range],
    prompts: Sequence[list[str]],
    numbers: Sequence[int],
):
    """Yield (number, (answers of the judge, its JudgeScores)) for the runs with these numbers."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for number in numbers:
        groups.setdefault(tuple(judge.answers(prompts[number])), []).append(number)
    for answers, group in groups.items():
        rows = [row for number in group for row in runs[number]]
        tables = judge.evaluate(images[rows], prompts[group[0]])
        counts = [len(runs[number]) for number in group]
        for number, *part in zip(group, *[table.split(counts) for table in tables], strict=True):
            yield number, (answers, JudgeScores(*part))


def _readout_scores(
    name: str,
    judge: str,
    answers: Sequence[str],
    table: JudgeScores,
    right: list[str],
    readable: Sequence[list[str]],
) -> Scores:
    """The scores of one readout. right: its answers; readable: those of each readable readout."""
    columns = {answer: column for column, answer in enumerate(answers)}
    index = torch.tensor(
        [[columns[answer] for answer in readout_answers] for readout_answers in (right, *readable)],
        device=table.scores.device,
    ).T
    probability = table.probabilities.gather(1, index[:, :1])[:, 0]
    scores = table.scores.gather(1, index[:, 1:])
    likelier = (table.probabilities > probability[:, None]).sum(1)
    likeliest = [answers[column] for column in table.probabilities.argmax(1)]
    return Scores(name, judge, likeliest, right, probability, likelier, len(answers), scores)


def view_scores(
    found: Sequence[Scores], readings: Sequence[str], judges: Mapping[str, Judge]
) -> list[ViewScores]:
    """Alignment and concealment of each picture of a run, by each judge.

    readings: the names of all readouts of the run.
    """
    results = []
    for name, judge in judges.items():
        readouts = [scores for scores in found if scores.judge == name]
        results.append(_judge_view_scores(readouts, readings, name, judge))
    return results


def _judge_view_scores(
    readouts: Sequence[Scores], readings: Sequence[str], name: str, judge: Judge
) -> ViewScores:
    """The view scores by one judge, from its scores of each readout."""
    readable = [readout.reading for readout in readouts]
    if unreadable := [reading for reading in readings if reading not in readable]:
        reason = f"{', '.join(unreadable)} asks for nothing that this judge can read"
        return ViewScores(name, [], [], {"alignment": reason, "concealment": reason})
    scores = torch.stack([readout.scores for readout in readouts], 1).double()
    prompts = zip(*[readout.right_answers for readout in readouts], strict=True)
    alike = [len(set(picture_prompts)) < len(readings) for picture_prompts in prompts]
    alignments = alignment(scores).tolist()
    concealments = concealment(scores, judge.temperature).tolist()
    left_out = {}
    if len(readings) == 1:
        concealments = []
        left_out["concealment"] = "there is one reading, from which no other is to be hidden"
    elif any(alike):
        pairs = zip(alike, concealments, strict=True)
        concealments = [None if same else value for same, value in pairs]
        pictures = f"{sum(alike)} of {len(alike)} pictures"
        left_out["concealment"] = f"two readings ask for the same, in {pictures}"
    return ViewScores(name, alignments, concealments, left_out)


def mean_view_scores(scores: Sequence[ViewScores], rows: Sequence[int], of: str = "") -> dict:
    """The mean alignment and concealment over these rows, for the numbers of a run.

    Returns:
        {"alignment": {judge: mean}, "concealment": {judge: mean}}, `of` is appended to these keys;
        under "…_left_out" why a judge's value is missing or covers fewer pictures.
    """
    table: dict = {}
    for judge_scores in scores:
        columns = {"alignment": judge_scores.alignment, "concealment": judge_scores.concealment}
        for name, column in columns.items():
            values = [column[row] for row in rows if column and column[row] is not None]
            if values:
                mean = sum(values) / len(values)
                table.setdefault(name + of, {})[judge_scores.judge] = round(mean, 6)
            if name in judge_scores.left_out:
                reason = judge_scores.left_out[name]
                table.setdefault(f"{name}_left_out", {})[judge_scores.judge] = reason
    return table


def view_scores_of(scores: Sequence[ViewScores], row: int) -> dict:
    """{"alignment": {judge: value}, "concealment": {judge: value}} of one picture."""
    table = mean_view_scores(scores, [row])
    return {name: values for name, values in table.items() if not name.endswith("_left_out")}


def accuracy(found: Sequence[Scores], rows: Sequence[int], most: int = 64) -> dict:
    """Accuracy over these rows: {readout: {judge: the share of rows that it reads as asked}}.

    For judges with many answers there is also {"JUDGE, in its first five": top-5 accuracy}. With at
    most `most` rows there is also what was read: {"read_by_JUDGE": …}. With several readouts,
    "all readings" has the share of rows that are right in each.
    """
    table: dict = {}
    for scores in found:
        shares = table.setdefault(scores.reading, {})
        for within, label in top_k_labels(scores):
            shares[label] = sum(is_right(scores, row, within) for row in rows) / len(rows)
        if len(rows) <= most:
            separator = ", " if scores.answer_count > MANY else " "
            shares[f"read_by_{scores.judge}"] = separator.join(scores.answers[row] for row in rows)
    return table | joint_accuracy(found, rows) if len(table) > 1 else table


def joint_accuracy(found: Sequence[Scores], rows: Sequence[int]) -> dict:
    """{"all readings": {judge: the share of rows of which every readout is read as asked}}."""
    by_label: dict[str, list[tuple[Scores, int]]] = {}
    for scores in found:
        for within, label in top_k_labels(scores):
            by_label.setdefault(label, []).append((scores, within))
    shares = {}
    for label, pairs in by_label.items():
        right = [all(is_right(scores, row, within) for scores, within in pairs) for row in rows]
        shares[label] = sum(right) / len(rows)
    return {"all readings": shares}


def top_k_labels(one: Scores) -> list[tuple[int, str]]:
    """[(1 or 5, label)]: top-1 accuracy, and top-5 accuracy where the judge has many answers."""
    labels = [(1, one.judge)]
    if one.answer_count > MANY:
        labels.append((5, f"{one.judge}, in its first five"))
    return labels


def is_right(one: Scores, row: int, within: int) -> bool:
    """Whether the right answer is among the `within` likeliest."""
    return bool(one.likelier[row] < within)


def worst_probability(found: Sequence[Scores]) -> Tensor:
    """(N,): the probability of the right answer in the worst readout, by the first judge.

    found: the scores of one run; its first judge reads all readouts, see `unranked_readouts`.
    """
    first = found[0].judge
    return torch.stack([scores.probability for scores in found if scores.judge == first]).amin(0)


def best_rows(score: Tensor, samples: int, keep: int) -> list[int]:
    """The rows of the `keep` best of the `samples` of each condition, best first. score: (N,)."""
    order = score.view(-1, samples).argsort(dim=1, descending=True, stable=True)[:, :keep]
    return (order + samples * torch.arange(len(order))[:, None]).flatten().tolist()
