"""A search: cells that are proposed one after another by what the earlier ones gave. Optuna proposes; trials are cells like any others.

The same proposals follow from the same seed and the same answers, so a search that is run again reads its finished trials and goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from expkit.config import schema
from expkit.errors import UserError
from expkit.sweep.cells import COMPOSED, Cell, claim_sweep, compose_cells, is_done
from expkit.sweep.sweeper import (
    check_cells,
    check_sweeper,
    make_launcher,
    missing_cells,
    parse_overrides,
    show_cells,
    typed_command,
)
from expkit.sweep.trials import BLIND, SearchObjective, Trials


def run_search(context, job, config, arguments: Sequence[str], aim: SearchObjective) -> None:
    """Run as many trials as are wanted, say which is best, and raise `Incomplete` where some have failed."""
    check_sweeper(config)
    optuna = import_optuna()
    overrides = parse_overrides(context, arguments)
    space = {
        override.get_key_element(): parse_proposal(override, optuna)
        for override in overrides
        if override.is_sweep_override()
    }
    if not space:
        raise UserError(
            "There is nothing to search: give a key several values, as in 'gamma=interval(1,10)' or gamma=1,3,7."
        )
    folder, launch = Path(config.hydra.sweep.dir), make_launcher(context, job, config)
    study = optuna.create_study(
        direction=aim.direction, sampler=optuna.samplers.TPESampler(seed=aim.seed, n_startup_trials=BLIND)
    )
    book = Trials(folder, list(space), typed_command(config), aim)
    claim_sweep(folder)
    with show_cells(book):
        while len(book.trials) < aim.trials:
            asked = [
                study.ask({key: of for key, (of, _) in space.items()})
                for _ in range(min(aim.batch, aim.trials - len(book.trials)))
            ]
            cells = run_trials(
                folder,
                config,
                context,
                [trial_arguments(overrides, space, trial.params) for trial in asked],
                launch,
                len(book.trials),
            )
            book.command = typed_command(config)  # with the variables that they have asked for
            for trial, cell in zip(asked, cells, strict=True):
                value = book.told(cell)
                study.tell(trial, value, optuna.trial.TrialState.FAIL if value is None else None)
            failed = not all(is_done(cell.folder(folder)) for cell in cells)
            if failed and (config.sweep.on_error == "stop" or book.hopeless):
                break
    search_summary(book)


def import_optuna():
    try:
        import optuna
    except ModuleNotFoundError:
        raise UserError(
            "hydra/sweeper=search needs Optuna, which is not installed: pip install 'expkit[search]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def parse_proposal(override, optuna) -> tuple[object, Callable[[object], str]]:
    """What an argument allows: a distribution of Optuna's, and how a draw from it is typed. A range is drawn by place: it has an order."""
    distributions = optuna.distributions
    try:
        if override.is_interval_sweep():
            return parse_interval(override, distributions)
        texts = [*override.sweep_string_iterator()]
        if override.is_range_sweep():
            return distributions.IntDistribution(0, len(texts) - 1), lambda place: texts[place]
        return distributions.CategoricalDistribution(texts), str
    except ValueError as error:
        raise UserError(f"{override.input_line} cannot be searched: {error}") from None


def parse_interval(override, distributions) -> tuple[object, Callable[[object], str]]:
    """Whole numbers where both ends are or the key is one, else numbers to a thousandth of the interval; tag(log, …) is even in ratio."""
    swept, log = override.value(), "log" in override.value().tags
    declared = schema.top_level_keys().get(override.key_or_group)
    whole = bool(declared) and any(kind.name == "int" for kind in declared.kinds)
    if whole or isinstance(swept.start, int):
        return distributions.IntDistribution(math.ceil(swept.start), math.floor(swept.end), log=log), str
    of = distributions.FloatDistribution(swept.start, swept.end, log=log)
    places = 3 - math.floor(math.log10((swept.end - swept.start) or 1))
    return of, (lambda value: f"{value:.4g}") if log else lambda value: str(round(value, places))


def trial_arguments(overrides: Sequence, space: Mapping, drawn: Mapping) -> list[str]:
    """The arguments of a trial."""
    keys = {override.get_key_element(): override for override in overrides}
    values = {
        key: space[key][1](drawn[key]) if key in space else override.get_value_element_as_str()
        for key, override in keys.items()
    }
    return [f"{key}={value}" for key, value in values.items()]


def run_trials(
    folder: Path, config, context, tellings: Sequence[Sequence[str]], launch, first: int
) -> list[Cell]:
    """The cells of these arguments, run where they are not there already."""
    compose_cells(context, config, tellings)
    cells = [COMPOSED[tuple(told)] for told in tellings]
    left = missing_cells(folder, cells)
    if left:
        launch([cell.told for cell in left], first)
    return cells


def search_summary(book: Trials) -> None:
    best = book.aim.best(book.trials)
    if best:
        print(f"best: {best.told(book.keys)} (trial {best.number})")
        print(book.entry(best.cell)["command"])
    check_cells(book.folder, book.cells)
    if not best:
        raise UserError(
            f"No trial gave a finite number for {book.aim.objective!r}: the numbers of all are in {book.folder / 'table.csv'}"
        )
    print(book.folder)
