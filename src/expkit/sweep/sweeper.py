"""A sweep: every combination once, ever. What is finished is kept, what is missing or failed is run, and all of it is shown."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import chain, count
from pathlib import Path

from expkit.config import schema
from expkit.config.command_line import CommandLine, relative_path, shell_command
from expkit.errors import UserError
from expkit.runs import resolvers
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

Launch = Callable[
    [Sequence[Sequence[str]], int], object
]  # arguments of cells, and the number of the first of them


def run_sweep(context, job, config, arguments: Sequence[str]) -> None:
    """Run the cells that are not there, by the launcher of the configuration; raise `Incomplete` where some are not there then."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    check_sweeper(config)
    overrides = parse_overrides(context, arguments)
    for override in overrides:
        if override.is_interval_sweep():
            raise UserError(
                f"{override.input_line} has no end of values: list some, or look for the best with hydra/sweeper=search."
            )
    launch = make_launcher(context, job, config)
    cells = compose_cells(context, config, BasicSweeper.split_arguments(overrides, None)[0])
    complete_cells(Path(config.hydra.sweep.dir), cells, config, launch)


def typed_command(config) -> str:
    """The command of a whole sweep, as a shell takes it."""
    hydra, told = overrides_of(config)
    kept = [
        argument
        for argument in hydra
        if not argument.startswith(("hydra.run.", "hydra.sweep.", "hydra.mode=", "hydra.verbose"))
    ]
    return shell_command(
        ["-m", *sources_of(config, relative_path), *kept, *told], ComposedConfig(config).environment
    )


def check_sweeper(config) -> None:
    """Refuse what the sweeper cannot be told."""
    from omegaconf import OmegaConf

    wanted = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
    schema.check_config({"hydra": {"sweeper": wanted}}, ComposedConfig(config).declared)


def parse_overrides(context, arguments: Sequence[str]) -> list:
    """Hydra's own objects of these arguments."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create(config_loader=context.config_loader).parse_overrides([*arguments])


def make_launcher(context, job, config) -> Launch:
    """What runs the cells of some arguments: what the configuration says."""
    from hydra.core.plugins import Plugins

    name = config.hydra.runtime.choices["hydra/launcher"]
    launch = (
        Plugins.instance()
        .instantiate_launcher(hydra_context=context, task_function=job, config=config)
        .launch
    )
    return (
        launch
        if name == "rows"
        else lambda tellings, first: launch_external(name, launch, config, tellings, first)
    )


def launch_external(name: str, launch: Launch, config, tellings: Sequence[Sequence[str]], first: int) -> None:
    """Cells in other processes, which may die, or live on when this one is interrupted. Bars of several would overwrite each other."""
    from hydra.core.utils import env_override

    threads = max(1, (os.cpu_count() or 1) // len(tellings))
    told = {
        "TQDM_DISABLE": "1",
        **({"OMP_NUM_THREADS": str(threads)} if name == "submitit_local" else {}),
    }  # which starts all at once
    (Path(config.hydra.sweep.dir) / LAUNCHED).touch()
    try:
        with env_override({key: os.environ.get(key, value) for key, value in told.items()}):
            launch(tellings, first)
    except KeyboardInterrupt:
        if name == "submitit_slurm":
            print_line(
                f"expkit: what SLURM was given goes on there: squeue --me shows it, scancel --name={config.hydra.launcher.name} ends it."
            )
        raise
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Incomplete(
            f"hydra/launcher={name} gave up: {said} What is missing is run by the same command."
        ) from error


def complete_cells(folder: Path, cells: Sequence[Cell], config, launch: Launch) -> None:
    """Run what is missing of these cells, and show all of them: while they run, and at the end, however it comes."""
    if len(errors := {cell.error for cell in cells}) == 1 and not any(cell.job for cell in cells):
        raise UserError(
            errors.pop()
        )  # for one reason, which is none of what is swept: there is nothing to show
    claim_sweep(folder)
    read = [inputs.config_names(cell.job.resolved) for cell in cells if cell.job]
    made_from = names.made_from(
        decisive_settings(config), resolvers.READ, search_folders(config), dict.fromkeys(chain(*read))
    )
    left = missing_cells(folder, cells)
    print_line(
        f"sweep: {len(cells)} cells, {sum(is_done(cell.folder(folder)) for cell in cells)} of them there already, in {folder}"
    )
    if left:
        instantiate(left[0].job.resolved["logger"])["mirror"].check()
    with show_cells(SweepReport(folder, cells, typed_command(config))):
        if left:
            launch([cell.told for cell in left], 0)
    check_cells(folder, cells)
    names.write_stamp(folder, made_from, [cell.id for cell in cells])
    print(folder)


def decisive_settings(config) -> list[str]:
    """What decides what a sweep makes, as `arguments.CommandLine.asked` knows it of the typed command."""
    hydra, told = overrides_of(config)
    return CommandLine({}, (*hydra, *told)).asked_of(sources_of(config))


def search_folders(config) -> list[Path]:
    """The folders that its YAML was sought in."""
    found = [
        (source.schema, source.path)
        for source in config.hydra.runtime.config_sources
        if source.provider not in ("hydra", "schema")
    ]
    return [
        place
        for schema, path in found
        for place in ([Path(path)] if schema == "file" else package_folders(path))
    ]


def package_folders(name: str) -> list[Path]:
    """The folders of a Python package, written hydra.conf or hydra/conf; none where there is no such package."""
    try:
        found = find_spec(name.replace("/", "."))
    except (ImportError, ValueError):
        return []
    return [Path(place) for place in (found and found.submodule_search_locations) or []]


def missing_cells(folder: Path, cells: Sequence[Cell]) -> list[Cell]:
    """Those that are to be run, each once; of those that cannot be composed it is written down why.

    What is left of cells that were damaged stays beside them under another name.
    """
    for name in names.damaged_cells(folder, [cell.id for cell in cells]):
        set_aside(folder / "cells" / name)
    left = list({cell.id: cell for cell in cells if cell.job and not is_done(cell.folder(folder))}.values())
    check_free(folder, left)
    for cell in cells:
        if not cell.job:
            record_failure(cell.folder(folder), Incomplete(cell.error), cell.told)
    return left


def set_aside(folder: Path) -> None:
    other = next(
        name for n in count(1) if not (name := folder.with_name(f"{folder.name}.damaged{n}")).exists()
    )
    folder.rename(other)
    print_line(f"expkit: {folder} is damaged: it is now {other.name}, and the cell is made again.")


@contextmanager
def show_cells(book: SweepReport) -> Iterator[None]:
    """Cells are shown while they run, and at the end, however it comes."""
    try:
        with book.kept_up():
            yield
    except KeyboardInterrupt as interrupt:
        interrupt.args = (
            f"{count_failures(book.folder, book.cells)} cells are there. The same command goes on.",
        )
        raise
    finally:
        book.write()
        log_sweep(book, book.cells)


def log_sweep(book: SweepReport, cells: Sequence[Cell]) -> None:
    """What was swept and measured, where the cells are shown too."""
    told = next((cell.job.resolved["logger"] for cell in cells if cell.job), None)
    if told and book.axes:
        instantiate(told)["mirror"].sweep(book.folder, book.axes, book.numbers)


def count_failures(folder: Path, cells: Sequence[Cell]) -> str:
    return f"{sum(is_done(cell.folder(folder)) for cell in cells)} of {len(cells)}"


def check_cells(folder: Path, cells: Sequence[Cell]) -> None:
    left = [cell for cell in cells if not is_done(cell.folder(folder))]
    if left:
        first = next(
            (said for cell in left if (said := failure_reason(cell.folder(folder)))), "it was not run"
        )
        raise Incomplete(
            f"{count_failures(folder, cells)} cells are there; {len(left)} are not. The first of them: {first.splitlines()[-1]} "
            f"All are on {folder / 'sheet.png'} and in table.csv beside it; the same command runs them again."
        )


def print_line(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
