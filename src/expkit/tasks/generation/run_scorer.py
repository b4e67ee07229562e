"""Choose the pictures of a run to keep, and summarise its scores.

    score = min over readouts of p(prompt | picture through the readout)

p is a probability among all answers of the judge: a picture is as good as its worst readout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from expkit.metrics.judges import Judge
from expkit.tasks.generation.accuracy import accuracy
from expkit.tasks.generation.runs import Run, Selection
from expkit.tasks.generation.view_scores import (
    ViewScores,
    mean_view_scores,
    view_scores,
    view_scores_of,
)
from expkit.tasks.scoring import Scores


@dataclass(frozen=True, eq=False)
class RunScorer:
    """Selects pictures of one run: its scores -> Selection.

    Args:
        run: the run, of N pictures.
        judges: {name: Judge}; the first one ranks.
        scores: by each judge through each readout, for all N pictures.
        finished: the pictures that were sampled to their end.
        keep: how many samples of each condition to keep; None for all that are finished.
    """

    run: Run
    judges: Mapping[str, Judge]
    scores: Sequence[Scores]
    finished: list[int]
    keep: int | None = None

    @cached_property
    def views(self) -> list[ViewScores]:
        """Alignment and concealment by each judge; an empty list without judges or readouts."""
        if not self.run.readings:
            return []
        return view_scores(self.scores, list(self.run.readings), self.judges)

    def select(self) -> Selection:
        """The kept pictures, with numbers over the finished and over the kept ones."""
        kept, numbers = self.finished, self.summarise_finished()
        if self.keep:
            score = self.ranking_score()
            kept = best_rows(score, self.run.samples, self.keep)
            numbers |= self.summarise_kept(kept) | {"ranking": self.ranking(score)}
        return Selection(kept, numbers, [view_scores_of(self.views, row) for row in kept])

    def summarise_finished(self) -> dict:
        """Accuracy, alignment and concealment of the finished pictures, and how they were read."""
        numbers: dict = {}
        if self.scores:
            numbers["judged"] = accuracy(self.scores, self.finished)
            distances = {name: judge.distance for name, judge in self.judges.items()}
            numbers["judges_read_from"] = distances
            if any(readout.far for readout in self.run.readings.values()):
                numbers["far_is_seen_from"] = self.run.distance
        return numbers | mean_view_scores(self.views, self.finished)

    def summarise_kept(self, kept: Sequence[int]) -> dict:
        """Accuracy, alignment and concealment of the kept pictures."""
        means = mean_view_scores(self.views, kept, "_of_kept")
        return {"judged_of_kept": accuracy(self.scores, kept)} | means

    def ranking_score(self) -> Tensor:
        """(N,): the score of each picture; -1, below every probability, where it is dropped."""
        score = worst_probability(self.scores)
        score[[row for row in range(self.run.count) if row not in self.finished]] = -1
        return score

    def ranking(self, score: Tensor) -> list[dict]:
        """A table of the finished pictures, those of each condition best first.

        Each entry has the score, the probability of each readout by each judge, alignment and
        concealment.
        """
        order = best_rows(score, self.run.samples, self.run.samples)
        return [self.ranking_entry(row, score) for row in order if score[row] >= 0]

    def ranking_entry(self, row: int, score: Tensor) -> dict:
        """The line of one picture in the ranking."""
        entry = self.run.describe_picture(row) | {"score": round(float(score[row]), 4)}
        for one in self.scores:
            entry[f"{one.reading}_{one.judge}"] = round(float(one.probability[row]), 4)
        return entry | view_scores_of(self.views, row)


def worst_probability(scores: Sequence[Scores]) -> Tensor:
    """(N,): the probability of the right answer in the worst readout, by the first judge.

    scores: of one run; its first judge reads all readouts, see `BatchScorer.unranked_readouts`.
    """
    first = scores[0].judge
    return torch.stack([one.probability for one in scores if one.judge == first]).amin(0)


def best_rows(score: Tensor, samples: int, keep: int) -> list[int]:
    """The rows of the `keep` best of the `samples` of each condition, best first. score: (N,)."""
    order = score.view(-1, samples).argsort(dim=1, descending=True, stable=True)[:, :keep]
    return (order + samples * torch.arange(len(order))[:, None]).flatten().tolist()
