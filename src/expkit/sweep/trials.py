"""The trials of a search: the objective, the value of each trial, and the report on all trials.

A search has two files more than a sweep:

search.png   the objective over the trials and over each searched key
best.yaml    the best trial
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import yaml
from PIL import Image

from expkit.errors import UserError, suggest
from expkit.images.labels import format_label
from expkit.storage.files import atomic_write
from expkit.sweep import contact_sheet
from expkit.sweep.cells import Cell, is_done
from expkit.sweep.chart import is_numeric, search_chart
from expkit.sweep.report import SweepReport, read_cell, unique_values

LOGGER = logging.getLogger("expkit")
BLIND = 5  # random trials before Optuna uses the values


@dataclass(frozen=True)
class SearchObjective:
    """What a search looks for: the node hydra.sweeper of the configuration.

    Attributes:
        objective: the name of a number as in table.csv; * stands for any text without a slash.
        direction: "maximize" or "minimize".
        trials: how many trials the search has in all.
        seed: the seed of the proposals.
        batch: how many trials are proposed at a time.
    """

    objective: str | None = None
    direction: Literal["maximize", "minimize"] = "maximize"
    trials: int = 20
    seed: int = 0
    batch: int = 1

    def of(self, numbers: Mapping[str, float]) -> float:
        """The value of the objective among the numbers of a cell.

        Raises:
            UserError: if `objective` is missing, or names no number or several.
        """
        available = f"There are: {', '.join(numbers)}."
        if not self.objective:
            message = "What is sought is not said: add 'hydra.sweeper.objective=NAME'."
            raise UserError(f"{message} {available}")
        pattern = "[^/]*".join(map(re.escape, self.objective.split("*")))
        names = [name for name in numbers if re.fullmatch(pattern, name)]
        if len(names) > 1:
            raise UserError(
                f"hydra.sweeper.objective={self.objective} means several numbers: "
                f"{', '.join(names)}. Say which."
            )
        if not names:
            suggestion = suggest(self.objective, numbers)
            raise UserError(f"No number is called {self.objective!r}.{suggestion} {available}")
        return numbers[names[0]]

    def rank(self, value: float | None) -> float:
        """A sort key: the lower, the better. A missing value comes last."""
        if value is None:
            return math.inf
        return value if self.direction == "minimize" else -value

    def best(self, trials: Sequence[Trial]) -> Trial | None:
        """The first of the best trials with a value; None if no trial has a value."""
        return min(
            (trial for trial in trials if trial.value is not None),
            key=lambda trial: self.rank(trial.value),
            default=None,
        )


class Trial(NamedTuple):
    """One trial of a search.

    Attributes:
        number: the number of the trial, from 1.
        cell: the cell that was run.
        value: the objective; None if the cell failed or the objective is not finite.
    """

    number: int
    cell: Cell
    value: float | None

    def describe(self, keys: Sequence[str]) -> str:
        """The values of these keys and the objective, as text."""
        values = " ".join(f"{key}={format_label(self.cell.axes[key])}" for key in keys)
        return f"{values} → {'nothing' if self.value is None else f'{self.value:.4g}'}"


class Trials(SweepReport):
    """The report on the trials of a search so far. It adds the objective to that of a sweep.

    Args:
        folder: the folder of the search.
        keys: the searched keys.
        command: the shell command of the search.
        aim: the objective.
    """

    def __init__(
        self,
        folder: Path,
        keys: Sequence[str],
        command: str,
        aim: SearchObjective,
    ) -> None:
        super().__init__(folder, [], command)
        self.keys, self.aim, self.trials = keys, aim, []

    def add_trial(self, cell: Cell) -> float | None:
        """Add the next trial, log its value, and return it; None if it has none."""
        folder = cell.folder(self.folder)
        value = self.aim.of(read_cell(folder, "")["numbers"]) if is_done(folder) else None
        if value is not None and not math.isfinite(value):
            value = None
        trial = Trial(len(self.trials) + 1, cell, value)
        self.trials.append(trial)
        if all(earlier.id != cell.id for earlier in self.cells):
            self.cells.append(cell)
        LOGGER.info(f"trial {trial.number} of {self.aim.trials}: {trial.describe(self.keys)}")
        return trial.value

    @property
    def hopeless(self) -> bool:
        """Whether at least `BLIND` trials have been run and none has a value."""
        return len(self.trials) >= BLIND and all(trial.value is None for trial in self.trials)

    @property
    def axes(self) -> dict[str, list]:
        """{key: values tried so far} of the searched keys; numbers in ascending order."""
        axes = {}
        for key in self.keys:
            values = unique_values([cell.axes[key] for cell in self.cells])
            axes[key] = sorted(values) if is_numeric(values) else values
        return axes

    @property
    def title(self) -> str:
        """The objective and the searched keys."""
        return f"{self.aim.direction} {self.aim.objective} by {' and '.join(self.keys)}"

    @property
    def numbers(self) -> list[str]:
        """The names of all numbers, with the objective and the number of the trial in front."""
        return ["objective", "trial", *super().numbers]

    def entry(self, cell: Cell) -> dict:
        """The entry of a cell, with the objective and the trial's number among its numbers."""
        entry = super().entry(cell)
        trial = next(trial for trial in self.trials if trial.cell.id == cell.id)
        objective = {} if trial.value is None else {"objective": trial.value}
        return {**entry, "numbers": {**objective, "trial": trial.number, **entry["numbers"]}}

    def sheets(self, entries: Sequence[dict]) -> None:
        """Write the contact sheet, with the best trial first.

        An interval has too many values for a row or a column for each.
        """
        rank = lambda entry: self.aim.rank(entry["numbers"].get("objective"))
        rows = contact_sheet.fold_axis(sorted(entries, key=rank))
        captions = [[trial_caption(entry) for entry in row] for row in rows]
        page = contact_sheet.sheet_page(rows, self.tile, self.title, self.command, under=captions)
        atomic_write(self.folder / "sheet.png", lambda part: page.save(part, format="PNG"))

    def tile(self, entry: Mapping, side: int) -> Image.Image | None:
        """The picture of a trial on the contact sheet: a montage of its first pictures.

        They suffice to tell trials apart, and the labelled sheet of a trial would be wide.
        """
        pictures = entry["pictures"][: contact_sheet.MAX_TILE_PICTURES]
        return super().tile({**entry, "pictures": pictures}, side)

    def write(self) -> None:
        """Write the whole report, if there is a trial."""
        if not self.trials:
            return
        super().write()
        best = self.aim.best(self.trials)
        if best:
            chart_path = self.folder / "search.png"
            atomic_write(chart_path, lambda part: search_chart(self).save(part, format="PNG"))
            yaml_path = self.folder / "best.yaml"
            text = self.describe_best(best)
            atomic_write(yaml_path, lambda part: part.write_text(text, encoding="utf-8"))

    def describe_best(self, best: Trial) -> str:
        """The text of best.yaml."""
        entry = self.entry(best.cell)
        fields = {
            "objective": self.aim.objective,
            "direction": self.aim.direction,
            "value": best.value,
            "trial": best.number,
            "trials": len(self.trials),
            "values": {key: best.cell.axes[key] for key in self.keys},
            "command": LiteralText(entry["command"]),
            "folder": entry["folder"],
        }
        return yaml.dump(fields, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=math.inf)


class LiteralText(str):
    """A text that is written to YAML as a literal block, so that it can be copied unchanged."""


class Dumper(yaml.SafeDumper):
    """Writes YAML, with texts of the class `LiteralText` as literal blocks."""


Dumper.add_representer(
    LiteralText,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|"),
)


def trial_caption(entry: Mapping) -> str:
    """The number, the values and the objective of a trial, as text under its picture."""
    values = ", ".join(f"{key} {format_label(value)}" for key, value in entry["axes"].items())
    objective = entry["numbers"].get("objective")
    result = "failed" if objective is None else f"{objective:.4g}"
    return f"trial {entry['numbers']['trial']}, {values}: {result}"
