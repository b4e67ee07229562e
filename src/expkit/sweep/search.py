"""A search: cells that are proposed one after another by what the earlier ones gave. Optuna proposes; trials are cells like any others.

    search.png   what is sought against trial and against each key that is searched
    best.yaml    the best trial

The same proposals follow from the same seed and the same answers, so a search that is run again reads its finished trials and goes on.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import yaml
from PIL import Image

from expkit import command
from expkit.charts import drawn
from expkit.errors import Refusal, nearest
from expkit.files import in_one_move
from expkit.sheets import fitting, laid
from expkit.sweep import contact
from expkit.sweep.book import Book, finished, unique
from expkit.sweep.cells import COMPOSED, Cell, composed, done
from expkit.sweep.run import check, launcher, missing, parsed, say, shown

BLIND = 5  # trials at random before the answers are heeded


@dataclass(frozen=True)
class Aim:
    """What is sought, hydra.sweeper of the configuration. objective: a number's joined name; * is what changes between two slashes."""

    objective: str | None = None
    direction: str = "maximize"
    trials: int = 20
    seed: int = 0
    batch: int = 1

    def check(self) -> None:
        for key, least in (("trials", 1), ("batch", 1), ("seed", 0)):
            value = getattr(self, key)
            if type(value) is not int or value < least:
                raise Refusal(f"hydra.sweeper.{key}={value} does not fit: it is a whole number of {least} or more.")
        if self.direction not in ("maximize", "minimize"):
            raise Refusal(f"hydra.sweeper.direction={self.direction} does not fit: it is maximize or minimize.")

    def of(self, numbers: Mapping[str, float]) -> float:
        """The number that is sought, among those of a cell."""
        known = f"There are: {', '.join(numbers)}."
        if not self.objective:
            raise Refusal(f"What is sought is not said: add 'hydra.sweeper.objective=NAME'. {known}")
        pattern = "[^/]*".join(map(re.escape, self.objective.split("*")))
        found = [name for name in numbers if re.fullmatch(pattern, name)]
        if len(found) > 1:
            raise Refusal(f"hydra.sweeper.objective={self.objective} means several numbers: {', '.join(found)}. Say which.")
        if not found:
            raise Refusal(f"No number is called {self.objective!r}.{nearest(self.objective, numbers)} {known}")
        return numbers[found[0]]

    def best(self, trials: Sequence[Trial]) -> Trial | None:
        """The first of the best among trials that have given a number."""
        sign = 1 if self.direction == "minimize" else -1
        return min((trial for trial in trials if trial.value is not None), key=lambda trial: sign * trial.value, default=None)


class Trial(NamedTuple):
    """number: from 1. value: what is sought of it; None where it failed or gave no finite number."""

    number: int
    cell: Cell
    value: float | None

    def told(self, keys: Sequence[str]) -> str:
        shown = " ".join(f"{key}={self.cell.axes[key]}" for key in keys)
        return f"{shown} → {'nothing' if self.value is None else f'{self.value:.4g}'}"


def search(context, job, config, arguments: Sequence[str], aim: Aim) -> None:
    """Run as many trials as are wanted, say which is best, and raise `Incomplete` where some have failed."""
    optuna = imported()
    aim.check()
    overrides = parsed(context, arguments)
    space = {override.get_key_element(): proposals(override, optuna) for override in overrides if override.is_sweep_override()}
    if not space:
        raise Refusal("There is nothing to search: give a key several values, as in 'gamma=interval(1,10)' or gamma=1,3,7.")
    folder, launch = Path(config.hydra.sweep.dir), launcher(context, job, config)
    study = optuna.create_study(direction=aim.direction, sampler=optuna.samplers.TPESampler(seed=aim.seed, n_startup_trials=BLIND))
    book = Trials(folder, list(space), [*config.hydra.overrides.hydra, *arguments], aim)
    with shown(book):
        while len(book.trials) < aim.trials:
            asked = [study.ask({key: of for key, (of, _) in space.items()}) for _ in range(min(aim.batch, aim.trials - len(book.trials)))]
            cells = run(folder, config, context, [telling(overrides, space, trial.params) for trial in asked], launch, len(book.trials))
            for trial, cell in zip(asked, cells, strict=True):
                value = book.told(cell)
                study.tell(trial, value, optuna.trial.TrialState.FAIL if value is None else None)
            failed = not all(done(cell.folder(folder)) for cell in cells)
            if failed and (config.sweep.on_error == "stop" or book.hopeless):
                break
    said(book)


def imported():
    try:
        import optuna
    except ModuleNotFoundError:
        raise Refusal("hydra/sweeper=search needs Optuna, which is not installed: pip install 'expkit[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def proposals(override, optuna) -> tuple[object, Callable[[object], str]]:
    """What an argument allows: a distribution of Optuna's, and how a draw from it is typed. A range is drawn by place: it has an order."""
    distributions = optuna.distributions
    try:
        if override.is_interval_sweep():
            return interval(override, distributions)
        texts = [*override.sweep_string_iterator()]
        if override.is_range_sweep():
            return distributions.IntDistribution(0, len(texts) - 1), lambda place: texts[place]
        return distributions.CategoricalDistribution(texts), str
    except ValueError as error:
        raise Refusal(f"{override.input_line} cannot be searched: {error}") from None


def interval(override, distributions) -> tuple[object, Callable[[object], str]]:
    """Whole numbers where both ends are or the key is one, else numbers to a thousandth of the interval; tag(log, …) is even in ratio."""
    swept, log = override.value(), "log" in override.value().tags
    whole = command.NUMBERS.get(override.key_or_group, ("",))[0] == "a whole number"
    if whole or isinstance(swept.start, int):
        return distributions.IntDistribution(math.ceil(swept.start), math.floor(swept.end), log=log), str
    of = distributions.FloatDistribution(swept.start, swept.end, log=log)
    places = 3 - math.floor(math.log10((swept.end - swept.start) or 1))
    return of, (lambda value: f"{value:.4g}") if log else lambda value: str(round(value, places))


def telling(overrides: Sequence, space: Mapping, drawn: Mapping) -> list[str]:
    """The arguments of a trial."""
    keys = {override.get_key_element(): override for override in overrides}
    values = {key: space[key][1](drawn[key]) if key in space else override.get_value_element_as_str() for key, override in keys.items()}
    return [f"{key}={value}" for key, value in values.items()]


def run(folder: Path, config, context, tellings: Sequence[Sequence[str]], launch, first: int) -> list[Cell]:
    """The cells of these arguments, run where they are not there already."""
    composed(context, config, tellings)
    cells = [COMPOSED[tuple(told)] for told in tellings]
    left = missing(folder, cells)
    if left:
        launch([cell.told for cell in left], first)
    return cells


def said(book: Trials) -> None:
    best = book.aim.best(book.trials)
    if best:
        print(f"best: {best.told(book.keys)} (trial {best.number})")
        print(book.entry(best.cell)["command"])
    check(book.folder, book.cells)
    if not best:
        raise Refusal(f"No trial gave a finite number for {book.aim.objective!r}: the numbers of all are in {book.folder / 'table.csv'}")
    print(book.folder)


class Trials(Book):
    """The trials of a search so far, shown as the cells of a sweep are, and with what is sought of each."""

    def __init__(self, folder: Path, keys: Sequence[str], arguments: Sequence[str], aim: Aim) -> None:
        super().__init__(folder, [], arguments)
        self.keys, self.aim, self.trials = keys, aim, []

    def told(self, cell: Cell) -> float | None:
        """Keep the next trial, say what it gave, and return that."""
        there = done(cell.folder(self.folder))
        value = self.aim.of(finished(cell.folder(self.folder), "")["numbers"]) if there else None
        trial = Trial(len(self.trials) + 1, cell, value if value is not None and math.isfinite(value) else None)
        self.trials.append(trial)
        if cell.id not in [known.id for known in self.cells]:
            self.cells.append(cell)
        say(f"trial {trial.number} of {self.aim.trials}: {trial.told(self.keys)}")
        return trial.value

    @property
    def hopeless(self) -> bool:
        """Whether none of the first trials has given anything."""
        return len(self.trials) >= BLIND and all(trial.value is None for trial in self.trials)

    @property
    def axes(self) -> dict[str, list]:
        found = {key: unique([cell.axes[key] for cell in self.cells]) for key in self.keys}
        return {key: sorted(values) if numeric(values) else values for key, values in found.items()}

    @property
    def title(self) -> str:
        return f"{self.aim.direction} {self.aim.objective} by {' and '.join(self.keys)}"

    @property
    def command(self) -> str:
        told = [argument for argument in self.arguments if not argument.startswith(("hydra.sweep.", "hydra.mode="))]
        return " ".join(["python -m expkit -m", *map(shlex.quote, told)])

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
        sign = 1 if self.aim.direction == "minimize" else -1
        ranked = sorted(entries, key=lambda entry: sign * entry["numbers"].get("objective", sign * math.inf))
        rows = contact.folded(ranked)
        tiles = [[contact.tile(entry, self.tile, fitting(rows, 48)) for entry in row] for row in rows]
        size = max((image.size for row in tiles for image, real in row if real), default=(168, 168))
        images = [[contact.centred(image if real else contact.hole(image, size), size) for image, real in row] for row in tiles]
        page = contact.limited(laid(images, title=self.title, note=self.command, under=[[label(entry) for entry in row] for row in rows]))
        in_one_move(self.folder / "sheet.png", lambda part: page.save(part, format="PNG"))

    def tile(self, entry: Mapping, side: int) -> Image.Image | None:
        """The first of its pictures, where there are too many: they tell trials apart, and a labelled page would be wide."""
        return super().tile({**entry, "pictures": entry["pictures"][: contact.SHOWN]}, side)

    def write(self) -> None:
        if not self.trials:
            return
        super().write()
        best = self.aim.best(self.trials)
        if best:
            in_one_move(self.folder / "search.png", lambda part: chart(self).save(part, format="PNG"))
            in_one_move(self.folder / "best.yaml", lambda part: part.write_text(self.told_of(best), encoding="utf-8"))

    def told_of(self, best: Trial) -> str:
        entry = self.entry(best.cell)
        known = {
            "objective": self.aim.objective,
            "direction": self.aim.direction,
            "value": best.value,
            "trial": best.number,
            "trials": len(self.trials),
            "values": {key: best.cell.axes[key] for key in self.keys},
            "command": entry["command"],
            "folder": entry["folder"],
        }
        return yaml.safe_dump(known, sort_keys=False, allow_unicode=True)


def label(entry: Mapping) -> str:
    values, sought = ", ".join(f"{key} {value}" for key, value in entry["axes"].items()), entry["numbers"].get("objective")
    return f"trial {entry['numbers']['trial']}, {values}: {'failed' if sought is None else f'{sought:.4g}'}"


def chart(book: Trials):
    """What is sought against trial, with the best so far, and against each key; the later, the darker."""
    from matplotlib.figure import Figure

    trials = [trial for trial in book.trials if trial.value is not None]
    best, values = book.aim.best(trials), [trial.value for trial in trials]
    across = min(3, 1 + len(book.keys))
    down = math.ceil((1 + len(book.keys)) / across)
    figure = Figure(figsize=(4.4 * across, 3.4 * down + 0.6), layout="constrained")
    figure.suptitle(f"{book.title}\nbest: {best.told(book.keys)} (trial {best.number} of {len(book.trials)})", fontsize=10)
    first, *rest = figure.subplots(down, across, squeeze=False).flat
    numbers = [trial.number for trial in trials]
    running = [book.aim.best(trials[: place + 1]).value for place in range(len(trials))]
    first.plot(numbers, values, "o", color="C0", ms=5, label="trial")
    first.step(numbers, running, where="post", color="C3", lw=1, label="best so far")
    first.set(xlabel="trial", ylabel=book.aim.objective)
    first.legend(fontsize=8)
    for axes, key in zip(rest, book.keys, strict=False):
        found = [trial.cell.axes[key] for trial in trials]
        axes.scatter(
            found if numeric(found) else list(map(str, found)), values, c=numbers, cmap="Blues", vmin=-len(values), edgecolors="C0"
        )
        place = best.cell.axes[key] if numeric(found) else str(best.cell.axes[key])
        axes.plot([place], [best.value], "*", color="C3", ms=12, label="best")
        axes.set(xlabel=key)
    for axes in (first, *rest):
        axes.grid(alpha=0.3)
        axes.set_visible(axes in (first, *rest[: len(book.keys)]))
    return drawn(figure)


def numeric(values: Sequence) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
