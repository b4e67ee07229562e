"""A search: cells that Optuna proposes one after another, by the values of the earlier ones.

The trials are cells like any others. The same seed and the same values give the same proposals, so
a search that is run again reads its finished trials and goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from expkit.config import schema
from expkit.errors import UserError
from expkit.runs import messages
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


@messages.shown_on_stderr()
def run_search(context, job, config, arguments: Sequence[str], aim: SearchObjective) -> None:
    """Run the trials of a search and print the best.

    Args:
        context: Hydra's context.
        job: Hydra's task function.
        config: the configuration of the search, with Hydra's own node.
        arguments: KEY=VALUE; those with several values are searched.
        aim: the objective, and how many trials are run.

    Raises:
        Incomplete: if some trials have failed.
        UserError: if there is nothing to search, or no trial has a finite value.
    """
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
            "There is nothing to search: give a key several values, "
            "as in 'gamma=interval(1,10)' or gamma=1,3,7."
        )
    folder = Path(config.hydra.sweep.dir)
    launch = make_launcher(context, job, config)
    sampler = optuna.samplers.TPESampler(seed=aim.seed, n_startup_trials=BLIND)
    study = optuna.create_study(direction=aim.direction, sampler=sampler)
    distributions = {key: distribution for key, (distribution, _) in space.items()}
    book = Trials(folder, list(space), typed_command(config), aim)
    claim_sweep(folder)
    with show_cells(book):
        while len(book.trials) < aim.trials:
            first = len(book.trials)
            batch_size = min(aim.batch, aim.trials - first)
            proposals = [study.ask(dict(distributions)) for _ in range(batch_size)]
            arguments_of_cells = [
                trial_arguments(overrides, space, proposal.params) for proposal in proposals
            ]
            cells = run_trials(folder, config, context, arguments_of_cells, launch, first)
            # The same command, with the environment variables that composing the cells has read
            book.command = typed_command(config)
            for proposal, cell in zip(proposals, cells, strict=True):
                value = book.add_trial(cell)
                state = optuna.trial.TrialState.FAIL if value is None else None
                study.tell(proposal, value, state)
            failed = not all(is_done(cell.folder(folder)) for cell in cells)
            if failed and (config.sweep.on_error == "stop" or book.hopeless):
                break
    search_summary(book)


def import_optuna():
    """The module optuna, with its log limited to warnings."""
    try:
        import optuna
    except ModuleNotFoundError:
        remedy = "which is not installed: pip install 'expkit[search]'"
        raise UserError(f"hydra/sweeper=search needs Optuna, {remedy}") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def parse_proposal(override, optuna) -> tuple[Any, Callable[[Any], str]]:
    """The search space of one argument.

    Returns:
        A distribution of Optuna, and a function that writes a value drawn from it as it is typed.
        For a range the index is drawn, since a range is ordered.

    Raises:
        UserError: if Optuna refuses the space.
    """
    distributions = optuna.distributions
    try:
        if override.is_interval_sweep():
            return parse_interval(override, distributions)
        texts = [*override.sweep_string_iterator()]
        if override.is_range_sweep():
            return distributions.IntDistribution(0, len(texts) - 1), lambda index: texts[index]
        return distributions.CategoricalDistribution(texts), str
    except ValueError as error:
        raise UserError(f"{override.input_line} cannot be searched: {error}") from None


def parse_interval(override, distributions) -> tuple[Any, Callable[[Any], str]]:
    """The search space of interval(A,B), as `parse_proposal` returns it.

    It is whole numbers for int(interval(A,B)) and for keys that take whole numbers; else numbers
    rounded to about a thousandth of the interval. tag(log, …) is uniform in the logarithm; its
    numbers have four significant digits.
    """
    interval = override.value()
    log = "log" in interval.tags
    declared = schema.top_level_keys().get(override.key_or_group)
    is_int_key = bool(declared) and any(kind.name == "int" for kind in declared.kinds)
    if is_int_key or isinstance(interval.start, int):
        low, high = math.ceil(interval.start), math.floor(interval.end)
        return distributions.IntDistribution(low, high, log=log), str
    distribution = distributions.FloatDistribution(interval.start, interval.end, log=log)
    digits = 3 - math.floor(math.log10((interval.end - interval.start) or 1))
    if log:
        return distribution, lambda value: f"{value:.4g}"
    return distribution, lambda value: str(round(value, digits))


def trial_arguments(overrides: Sequence, space: Mapping, drawn: Mapping) -> list[str]:
    """The arguments of a trial.

    Args:
        overrides: the arguments of the search, parsed by Hydra.
        space: {key: what `parse_proposal` returns} of the searched keys.
        drawn: {key: value} that Optuna proposes.
    """
    keys = {override.get_key_element(): override for override in overrides}
    values = {
        key: space[key][1](drawn[key]) if key in space else override.get_value_element_as_str()
        for key, override in keys.items()
    }
    return [f"{key}={value}" for key, value in values.items()]


def run_trials(
    folder: Path,
    config,
    context,
    cell_arguments: Sequence[Sequence[str]],
    launch,
    first: int,
) -> list[Cell]:
    """The cells of these arguments, after those have been run that were not finished.

    Args:
        folder: the folder of the search.
        config: the configuration of the search, with Hydra's own node.
        context: Hydra's context.
        cell_arguments: the arguments of each cell.
        launch: the function that runs cells.
        first: the number of the first cell.
    """
    compose_cells(context, config, cell_arguments)
    cells = [COMPOSED[tuple(arguments)] for arguments in cell_arguments]
    missing = missing_cells(folder, cells)
    if missing:
        launch([cell.arguments for cell in missing], first)
    return cells


def search_summary(book: Trials) -> None:
    """Print the best trial, its command and the folder.

    Raises:
        Incomplete: if some trials have failed.
        UserError: if no trial has a finite value.
    """
    best = book.aim.best(book.trials)
    if best:
        print(f"best: {best.describe(book.keys)} (trial {best.number})")
        print(book.entry(best.cell)["command"])
    check_cells(book.folder, book.cells)
    if not best:
        raise UserError(
            f"No trial gave a finite number for {book.aim.objective!r}: "
            f"the numbers of all are in {book.folder / 'table.csv'}"
        )
    print(book.folder)
