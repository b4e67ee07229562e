"""The trials of a search: what is sought, what each gave, and what shows all of them. Beside the files that any sweep has there are

search.png   what is sought against trial and against each key that is searched
best.yaml    the best trial
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import yaml
from PIL import Image

from expkit.errors import UserError, suggest
from expkit.images.labels import format_label
from expkit.storage.files import atomic_write
from expkit.sweep import contact_sheet
from expkit.sweep.cells import Cell, is_done
from expkit.sweep.chart import is_numeric, search_chart
from expkit.sweep.report import SweepReport, read_cell, unique_values
from expkit.sweep.sweeper import print_line

BLIND = 5  # trials at random before the answers are heeded


@dataclass(frozen=True)
class SearchObjective:
    """What is sought, hydra.sweeper of the configuration. objective: a number's joined name; * is what changes between two slashes."""

    objective: str | None = None
    direction: str = "maximize"
    trials: int = 20
    seed: int = 0
    batch: int = 1

    def of(self, numbers: Mapping[str, float]) -> float:
        """The number that is sought, among those of a cell."""
        known = f"There are: {', '.join(numbers)}."
        if not self.objective:
            raise UserError(f"What is sought is not said: add 'hydra.sweeper.objective=NAME'. {known}")
        pattern = "[^/]*".join(map(re.escape, self.objective.split("*")))
        found = [name for name in numbers if re.fullmatch(pattern, name)]
        if len(found) > 1:
            raise UserError(
                f"hydra.sweeper.objective={self.objective} means several numbers: {', '.join(found)}. Say which."
            )
        if not found:
            raise UserError(
                f"No number is called {self.objective!r}.{suggest(self.objective, numbers)} {known}"
            )
        return numbers[found[0]]

    def rank(self, value: float | None) -> float:
        """The better the lower; what is not there is last."""
        return math.inf if value is None else value if self.direction == "minimize" else -value

    def best(self, trials: Sequence[Trial]) -> Trial | None:
        """The first of the best among trials that have given a number."""
        return min(
            (trial for trial in trials if trial.value is not None),
            key=lambda trial: self.rank(trial.value),
            default=None,
        )


class Trial(NamedTuple):
    """number: from 1. value: what is sought of it; None where it failed or gave no finite number."""

    number: int
    cell: Cell
    value: float | None

    def told(self, keys: Sequence[str]) -> str:
        shown = " ".join(f"{key}={format_label(self.cell.axes[key])}" for key in keys)
        return f"{shown} → {'nothing' if self.value is None else f'{self.value:.4g}'}"


class Trials(SweepReport):
    """The trials of a search so far, shown as the cells of a sweep are, and with what is sought of each."""

    def __init__(self, folder: Path, keys: Sequence[str], command: str, aim: SearchObjective) -> None:
        super().__init__(folder, [], command)
        self.keys, self.aim, self.trials = keys, aim, []

    def told(self, cell: Cell) -> float | None:
        """Keep the next trial, say what it gave, and return that."""
        there = is_done(cell.folder(self.folder))
        value = self.aim.of(read_cell(cell.folder(self.folder), "")["numbers"]) if there else None
        trial = Trial(
            len(self.trials) + 1, cell, value if value is not None and math.isfinite(value) else None
        )
        self.trials.append(trial)
        if all(known.id != cell.id for known in self.cells):
            self.cells.append(cell)
        print_line(f"trial {trial.number} of {self.aim.trials}: {trial.told(self.keys)}")
        return trial.value

    @property
    def hopeless(self) -> bool:
        """Whether none of the first trials has given anything."""
        return len(self.trials) >= BLIND and all(trial.value is None for trial in self.trials)

    @property
    def axes(self) -> dict[str, list]:
        found = {key: unique_values([cell.axes[key] for cell in self.cells]) for key in self.keys}
        return {key: sorted(values) if is_numeric(values) else values for key, values in found.items()}

    @property
    def title(self) -> str:
        return f"{self.aim.direction} {self.aim.objective} by {' and '.join(self.keys)}"

    @property
    def numbers(self) -> list[str]:
        return ["objective", "trial", *super().numbers]

    def entry(self, cell: Cell) -> dict:
        """With its number, and what is sought of it, among its numbers."""
        known, trial = super().entry(cell), next(trial for trial in self.trials if trial.cell.id == cell.id)
        sought = {} if trial.value is None else {"objective": trial.value}
        return {**known, "numbers": {**sought, "trial": trial.number, **known["numbers"]}}

    def sheets(self, entries: Sequence[dict]) -> None:
        """The best first: an interval has too many values for a row or a column each."""
        rows = contact_sheet.fold_axis(
            sorted(entries, key=lambda entry: self.aim.rank(entry["numbers"].get("objective")))
        )
        page = contact_sheet.sheet_page(
            rows,
            self.tile,
            self.title,
            self.command,
            under=[[trial_caption(entry) for entry in row] for row in rows],
        )
        atomic_write(self.folder / "sheet.png", lambda part: page.save(part, format="PNG"))

    def tile(self, entry: Mapping, side: int) -> Image.Image | None:
        """The first of its pictures, where there are too many: they tell trials apart, and a labelled page would be wide."""
        return super().tile({**entry, "pictures": entry["pictures"][: contact_sheet.SHOWN]}, side)

    def write(self) -> None:
        if not self.trials:
            return
        super().write()
        best = self.aim.best(self.trials)
        if best:
            atomic_write(self.folder / "search.png", lambda part: search_chart(self).save(part, format="PNG"))
            atomic_write(
                self.folder / "best.yaml", lambda part: part.write_text(self.told_of(best), encoding="utf-8")
            )

    def told_of(self, best: Trial) -> str:
        entry = self.entry(best.cell)
        known = {
            "objective": self.aim.objective,
            "direction": self.aim.direction,
            "value": best.value,
            "trial": best.number,
            "trials": len(self.trials),
            "values": {key: best.cell.axes[key] for key in self.keys},
            "command": Shown(entry["command"]),
            "folder": entry["folder"],
        }
        return yaml.dump(known, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=math.inf)


class Shown(str):
    """A text that stands in YAML as it is, in a block of its own, so that it can be copied."""


class Dumper(yaml.SafeDumper):
    """YAML, with texts of the class `Shown` as blocks."""


Dumper.add_representer(
    Shown, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|")
)


def trial_caption(entry: Mapping) -> str:
    values, sought = (
        ", ".join(f"{key} {format_label(value)}" for key, value in entry["axes"].items()),
        entry["numbers"].get("objective"),
    )
    return f"trial {entry['numbers']['trial']}, {values}: {'failed' if sought is None else f'{sought:.4g}'}"
