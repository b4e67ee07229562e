"""Accuracy of a run: the share of its pictures that judges read as asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from expkit.tasks.scoring import Scores

MANY = 20  # for judges with more answers than this, the top-5 accuracy is reported too


class TopK(NamedTuple):
    """Top-k accuracy by one judge. label: its key in the numbers."""

    label: str
    k: int


def accuracy(scores: Sequence[Scores], rows: Sequence[int], most: int = 64) -> dict:
    """Accuracy over these rows: {readout: {judge: the share of rows that it reads as asked}}.

    For judges with many answers there is also {"JUDGE, in its first five": top-5 accuracy}. With at
    most `most` rows there is also what was read: {"read_by_JUDGE": …}. With several readouts,
    "all readings" has the share of rows that are right in each.
    """
    table: dict = {}
    for one in scores:
        shares = table.setdefault(one.reading, {})
        for top in top_k_of(one):
            shares[top.label] = sum(right_rows(one, rows, top.k)) / len(rows)
        if len(rows) <= most:
            shares[f"read_by_{one.judge}"] = describe_answers(one, rows)
    if len(table) > 1:
        table["all readings"] = joint_accuracy(scores, rows)
    return table


def joint_accuracy(scores: Sequence[Scores], rows: Sequence[int]) -> dict[str, float]:
    """{judge: the share of rows of which every readout is read as asked}."""
    right: dict[str, list[list[bool]]] = {}
    for one in scores:
        for top in top_k_of(one):
            right.setdefault(top.label, []).append(right_rows(one, rows, top.k))
    shares = {}
    for label, readouts in right.items():
        shares[label] = sum(map(all, zip(*readouts, strict=True))) / len(rows)
    return shares


def top_k_of(one: Scores) -> list[TopK]:
    """Top-1 accuracy, and top-5 accuracy where the judge has many answers."""
    top_k = [TopK(one.judge, 1)]
    if one.answer_count > MANY:
        top_k.append(TopK(f"{one.judge}, in its first five", 5))
    return top_k


def right_rows(one: Scores, rows: Sequence[int], k: int) -> list[bool]:
    """Whether the right answer of each of these rows is among the k likeliest."""
    return [bool(one.likelier[row] < k) for row in rows]


def describe_answers(one: Scores, rows: Sequence[int]) -> str:
    """The likeliest answers for these rows, in words."""
    separator = ", " if one.answer_count > MANY else " "
    return separator.join(one.answers[row] for row in rows)
