"""What the parts of `Sampling` pass to each other about one run of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from expkit.tasks.scoring import Readout


class RunRows(NamedTuple):
    """One of the runs that are sampled in one batch.

    Attributes:
        rows: its pictures, as rows of the batch.
        cells: what distinguishes its conditions, {key: value} each.
        note: a line for the foot of its sheet.
    """

    rows: range
    cells: Sequence[Mapping]
    note: str


@dataclass(frozen=True, eq=False)
class Run:
    """One run of a batch, described as if it had been sampled alone.

    Its pictures are numbered condition by condition: condition · samples + sample.

    Attributes:
        rows: its pictures, as rows of the batch.
        cells: what distinguishes its conditions, {key: value} each.
        samples: the number of pictures of each condition.
        readings: its readouts, {name: Readout}.
        distance: how many times as far a picture is seen from afar.
        seed: one for all pictures, or one for each.
        note: what was really done, for the foot of its sheet.
    """

    rows: range
    cells: Sequence[Mapping]
    samples: int
    readings: Mapping[str, Readout]
    distance: float
    seed: int | list[int]
    note: str

    @property
    def count(self) -> int:
        """The number of pictures."""
        return len(self.cells) * self.samples

    def describe_picture(self, number: int) -> dict:
        """What distinguishes a picture of the run: its condition, and which sample it is."""
        return {**self.cells[number // self.samples], "sample": number % self.samples}


class Selection(NamedTuple):
    """The pictures of a run that are kept, and the summary of its scores.

    Attributes:
        kept: the numbers of the kept pictures in the run.
        numbers: the summary, for numbers.json.
        scores: alignment and concealment of each kept picture.
    """

    kept: list[int]
    numbers: dict
    scores: list[dict]

    def batch_rows(self, run: Run) -> list[int]:
        """The rows of the batch that are kept."""
        return [run.rows[number] for number in self.kept]
