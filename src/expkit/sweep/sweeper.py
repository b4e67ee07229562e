"""A sweep: every combination of values is run once and never again.

Finished cells are kept, missing and failed cells are run, and the report shows all of them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import chain, count
from pathlib import Path

from expkit.config import schema
from expkit.config.command_line import CommandLine, relative_path, shell_command
from expkit.errors import UserError, warn
from expkit.runs import messages, resolvers
from expkit.runs.job import ComposedConfig, instantiate, overrides_of, sources_of
from expkit.storage import inputs
from expkit.sweep import names
from expkit.sweep.cells import (
    LAUNCHED,
    Cell,
    Incomplete,
    check_free,
    claim_sweep,
    compose_cells,
    failure_reason,
    is_done,
    record_failure,
)
from expkit.sweep.report import SweepReport

LOGGER = logging.getLogger("expkit")

# Runs cells: (the arguments of each cell, the number of the first cell)
Launch = Callable[[Sequence[Sequence[str]], int], object]


@messages.shown_on_stderr()
def run_sweep(context, job, config, arguments: Sequence[str]) -> None:
    """Run the missing cells of a sweep with the launcher of the configuration.

    Args:
        context: Hydra's context.
        job: Hydra's task function.
        config: the configuration of the sweep, with Hydra's own node.
        arguments: KEY=VALUE, some of them with several values.

    Raises:
        Incomplete: if some cells are not finished afterwards.
        UserError: if an argument cannot be swept.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    check_sweeper(config)
    overrides = parse_overrides(context, arguments)
    for override in overrides:
        if override.is_interval_sweep():
            raise UserError(
                f"{override.input_line} has no end of values: list some, "
                "or look for the best with hydra/sweeper=search."
            )
    launch = make_launcher(context, job, config)
    cells = compose_cells(context, config, BasicSweeper.split_arguments(overrides, None)[0])
    complete_cells(Path(config.hydra.sweep.dir), cells, config, launch)


def typed_command(config) -> str:
    """The shell command of a whole sweep."""
    skipped = ("hydra.run.", "hydra.sweep.", "hydra.mode=", "hydra.verbose")
    hydra_overrides, task_overrides = overrides_of(config)
    hydra_overrides = [text for text in hydra_overrides if not text.startswith(skipped)]
    return shell_command(
        ["-m", *sources_of(config, relative_path), *hydra_overrides, *task_overrides],
        ComposedConfig(config).environment,
    )


def check_sweeper(config) -> None:
    """Refuse settings of the sweeper that do not fit their declarations in the YAML."""
    from omegaconf import OmegaConf

    settings = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
    schema.check_config({"hydra": {"sweeper": settings}}, ComposedConfig(config).declared)


def parse_overrides(context, arguments: Sequence[str]) -> list:
    """These arguments as Hydra's own `Override` objects."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create(config_loader=context.config_loader)
    return parser.parse_overrides([*arguments])


def make_launcher(context, job, config) -> Launch:
    """A function that runs cells with the launcher of the configuration."""
    from hydra.core.plugins import Plugins

    name = config.hydra.runtime.choices["hydra/launcher"]
    plugins = Plugins.instance()
    launcher = plugins.instantiate_launcher(hydra_context=context, task_function=job, config=config)
    launch = launcher.launch
    if name == "rows":
        return launch
    return lambda overrides, first: launch_external(name, launch, config, overrides, first)


def launch_external(
    name: str,
    launch: Launch,
    config,
    cell_arguments: Sequence[Sequence[str]],
    first: int,
) -> None:
    """Run cells in other processes. They may die, or go on when this process is interrupted.

    Progress bars are off, since those of several processes would overwrite each other.

    Args:
        name: the name of the launcher.
        launch: the launcher's own function.
        config: the configuration of the sweep, with Hydra's own node.
        cell_arguments: the arguments of each cell.
        first: the number of the first cell.

    Raises:
        Incomplete: if the launcher fails.
    """
    from hydra.core.utils import env_override

    threads = max(1, (os.cpu_count() or 1) // len(cell_arguments))
    variables = {"TQDM_DISABLE": "1"}
    if name == "submitit_local":  # it starts all cells at once
        variables["OMP_NUM_THREADS"] = str(threads)
    (Path(config.hydra.sweep.dir) / LAUNCHED).touch()
    try:
        # Variables that are set already stay as they are
        with env_override({key: os.environ.get(key, value) for key, value in variables.items()}):
            launch(cell_arguments, first)
    except KeyboardInterrupt:
        if name == "submitit_slurm":
            warn(
                "what SLURM was given goes on there: squeue --me shows it, "
                f"scancel --name={config.hydra.launcher.name} ends it."
            )
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Incomplete(
            f"hydra/launcher={name} gave up: {reason} What is missing is run by the same command."
        ) from error


def complete_cells(folder: Path, cells: Sequence[Cell], config, launch: Launch) -> None:
    """Run the missing cells, and show all cells while they run and at the end, even if it fails.

    Args:
        folder: the folder of the sweep.
        cells: all cells of the sweep.
        config: the configuration of the sweep, with Hydra's own node.
        launch: the function that runs cells.

    Raises:
        UserError: if no cell can be composed, all for the same reason.
        Incomplete: if some cells are not finished afterwards.
    """
    errors = {cell.error for cell in cells}
    if len(errors) == 1 and not any(cell.job for cell in cells):
        # The one reason does not lie in the swept values, so there is nothing to show
        raise UserError(errors.pop())
    claim_sweep(folder)
    files = [inputs.config_names(cell.job.resolved) for cell in cells if cell.job]
    input_state = names.input_state(
        decisive_settings(config),
        resolvers.READ,
        search_folders(config),
        dict.fromkeys(chain(*files)),
    )
    missing = missing_cells(folder, cells)
    done_count = sum(is_done(cell.folder(folder)) for cell in cells)
    LOGGER.info(f"sweep: {len(cells)} cells, {done_count} of them there already, in {folder}")
    if missing:
        instantiate(missing[0].run.resolved["logger"])["mirror"].check()
    with show_cells(SweepReport(folder, cells, typed_command(config))):
        if missing:
            launch([cell.arguments for cell in missing], 0)
    check_cells(folder, cells)
    names.write_stamp(folder, input_state, [cell.id for cell in cells])
    print(folder)


def decisive_settings(config) -> list[str]:
    """The arguments that decide what a sweep makes.

    They equal `command_line.CommandLine.identity_arguments` of the typed command.
    """
    hydra_overrides, task_overrides = overrides_of(config)
    line = CommandLine({}, (*hydra_overrides, *task_overrides))
    return line.identity_arguments_with(sources_of(config))


def search_folders(config) -> list[Path]:
    """The folders in which Hydra searched for the YAML of this configuration."""
    folders = []
    for source in config.hydra.runtime.config_sources:
        if source.provider in ("hydra", "schema"):
            continue
        is_folder = source.schema in ("file", schema.EXPERIMENTS)
        folders += [Path(source.path)] if is_folder else package_folders(source.path)
    return folders


def package_folders(name: str) -> list[Path]:
    """The folders of a Python package, written hydra.conf or hydra/conf; none if it is missing."""
    try:
        spec = find_spec(name.replace("/", "."))
    except (ImportError, ValueError):
        return []
    return [Path(folder) for folder in (spec and spec.submodule_search_locations) or []]


def missing_cells(folder: Path, cells: Sequence[Cell]) -> list[Cell]:
    """The cells that must be run, without repetitions.

    Folders of damaged cells are renamed and kept. For cells that cannot be composed, the reason is
    written to their error files.
    """
    for name in names.damaged_cells(folder, [cell.id for cell in cells]):
        set_aside(folder / "cells" / name)
    unfinished = [cell for cell in cells if cell.job and not is_done(cell.folder(folder))]
    missing = list({cell.id: cell for cell in unfinished}.values())
    check_free(folder, missing)
    for cell in cells:
        if not cell.job:
            record_failure(cell.folder(folder), Incomplete(cell.error), cell.arguments)
    return missing


def set_aside(folder: Path) -> None:
    """Rename the folder of a damaged cell to the first free name of FOLDER.damaged1, 2, …"""
    candidates = (folder.with_name(f"{folder.name}.damaged{number}") for number in count(1))
    target = next(path for path in candidates if not path.exists())
    folder.rename(target)
    warn(f"{folder} is damaged: it is now {target.name}, and the cell is made again.")


@contextmanager
def show_cells(book: SweepReport) -> Iterator[None]:
    """Write the report while cells run, and at the end even if they fail or are interrupted."""
    try:
        with book.live():
            yield
    except KeyboardInterrupt as interrupt:
        done = count_finished(book.folder, book.cells)
        interrupt.args = (f"{done} cells are there. The same command goes on.",)
        raise
    finally:
        book.write()
        log_sweep(book, book.cells)


def log_sweep(book: SweepReport, cells: Sequence[Cell]) -> None:
    """Pass the swept keys and the names of the numbers to the logger of the cells."""
    logger = next((cell.job.resolved["logger"] for cell in cells if cell.job), None)
    if logger and book.axes:
        instantiate(logger)["mirror"].sweep(book.folder, book.axes, book.numbers)


def count_finished(folder: Path, cells: Sequence[Cell]) -> str:
    """How many cells are finished, as text: "3 of 6"."""
    return f"{sum(is_done(cell.folder(folder)) for cell in cells)} of {len(cells)}"


def check_cells(folder: Path, cells: Sequence[Cell]) -> None:
    """Check that all cells are finished.

    Raises:
        Incomplete: if some are not; its text says why the first of them failed.
    """
    unfinished = [cell for cell in cells if not is_done(cell.folder(folder))]
    if unfinished:
        reasons = (failure_reason(cell.folder(folder)) for cell in unfinished)
        reason = next(filter(None, reasons), "it was not run.")
        raise Incomplete(
            f"{count_finished(folder, cells)} cells are there; {len(unfinished)} are not. "
            f"The first of them: {reason.splitlines()[-1]} "
            f"All are on {folder / 'sheet.png'} and in table.csv beside it; "
            "the same command runs them again."
        )
