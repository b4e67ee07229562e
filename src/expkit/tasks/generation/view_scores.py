"""Alignment and concealment of visual anagrams (Geng, Park and Owens 2024, section 4).

A readout takes the place of a view: S_ij says how well the picture through readout i fits the
prompt of readout j. For CLIP, S is the cosine and tau is CLIP's own temperature, as in the paper.
For a classifier, S_ij = log p(prompt j | readout i) with p among all its answers, and tau = 1, so
that a softmax compares the probabilities of the readouts' prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

import torch

from expkit.metrics.judges import Judge
from expkit.metrics.similarity import alignment, concealment
from expkit.tasks.scoring import Scores


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

    def values(self, name: str, rows: Sequence[int]) -> list[float]:
        """The alignment or concealment of these rows, without those that are left out."""
        column = {"alignment": self.alignment, "concealment": self.concealment}[name]
        values = [column[row] for row in rows] if column else []
        return [value for value in values if value is not None]


def view_scores(
    scores: Sequence[Scores], readings: Sequence[str], judges: Mapping[str, Judge]
) -> list[ViewScores]:
    """Alignment and concealment of each picture of a run, by each judge.

    readings: the names of all readouts of the run.
    """
    results = []
    for name, judge in judges.items():
        readouts = [one for one in scores if one.judge == name]
        results.append(judge_view_scores(name, judge, readouts, readings))
    return results


def judge_view_scores(
    name: str, judge: Judge, readouts: Sequence[Scores], readings: Sequence[str]
) -> ViewScores:
    """The view scores by one judge, from its scores of each readout."""
    readable = [readout.reading for readout in readouts]
    unreadable = [reading for reading in readings if reading not in readable]
    if unreadable:
        reason = f"{', '.join(unreadable)} asks for nothing that this judge can read"
        return ViewScores(name, [], [], {"alignment": reason, "concealment": reason})
    matrix = torch.stack([readout.scores for readout in readouts], 1).double()  # (N, R, R)
    alignments = alignment(matrix).tolist()
    if len(readings) == 1:
        reason = "there is one reading, from which no other is to be hidden"
        return ViewScores(name, alignments, [], {"concealment": reason})
    concealments = concealment(matrix, judge.temperature).tolist()
    alike = asks_alike(readouts)
    if not any(alike):
        return ViewScores(name, alignments, concealments, {})
    pairs = zip(alike, concealments, strict=True)
    concealments = [None if is_alike else value for is_alike, value in pairs]
    reason = f"two readings ask for the same, in {sum(alike)} of {len(alike)} pictures"
    return ViewScores(name, alignments, concealments, {"concealment": reason})


def asks_alike(readouts: Sequence[Scores]) -> list[bool]:
    """For each picture, whether two readouts ask for the same."""
    prompts = zip(*[readout.right_answers for readout in readouts], strict=True)
    return [len(set(picture_prompts)) < len(readouts) for picture_prompts in prompts]


def mean_view_scores(scores: Sequence[ViewScores], rows: Sequence[int], of: str = "") -> dict:
    """The mean alignment and concealment over these rows, for the numbers of a run.

    Returns:
        {"alignment": {judge: mean}, "concealment": {judge: mean}}, `of` is appended to these keys;
        under "…_left_out" why a judge's value is missing or covers fewer pictures.
    """
    table: dict = {}
    for one, name in product(scores, ("alignment", "concealment")):
        values = one.values(name, rows)
        if values:
            table.setdefault(name + of, {})[one.judge] = round(sum(values) / len(values), 6)
        if name in one.left_out:
            table.setdefault(f"{name}_left_out", {})[one.judge] = one.left_out[name]
    return table


def view_scores_of(scores: Sequence[ViewScores], row: int) -> dict:
    """{"alignment": {judge: value}, "concealment": {judge: value}} of one picture."""
    table = mean_view_scores(scores, [row])
    return {name: values for name, values in table.items() if not name.endswith("_left_out")}
