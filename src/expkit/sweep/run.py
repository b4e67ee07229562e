"""A sweep: every combination once, ever. What is finished is kept, what is missing or failed is run, and all of it is shown."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from expkit import schema
from expkit.errors import Refusal
from expkit.job import Composed, built, files_of
from expkit.sweep import names
from expkit.sweep.book import Book
from expkit.sweep.cells import LAUNCHED, Cell, Incomplete, check_free, claim, composed, done, fail, reason

Launch = Callable[[Sequence[Sequence[str]], int], object]  # arguments of cells, and the number of the first of them


def sweep(context, job, config, arguments: Sequence[str]) -> None:
    """Run the cells that are not there, by the launcher of the configuration; raise `Incomplete` where some are not there then."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    check_sweeper(config)
    overrides = parsed(context, arguments)
    for override in overrides:
        if override.is_interval_sweep():
            raise Refusal(f"{override.input_line} has no end of values: list some, or look for the best with hydra/sweeper=search.")
    launch = launcher(context, job, config)
    cells = composed(context, config, BasicSweeper.split_arguments(overrides, None)[0])
    complete(Path(config.hydra.sweep.dir), cells, arguments, launch)


def check_sweeper(config) -> None:
    """Refuse what the sweeper cannot be told."""
    from omegaconf import OmegaConf

    wanted = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
    schema.check({"hydra": {"sweeper": wanted}}, Composed(config).declared)


def parsed(context, arguments: Sequence[str]) -> list:
    """Hydra's own objects of these arguments."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create(config_loader=context.config_loader).parse_overrides([*arguments])


def launcher(context, job, config) -> Launch:
    """What runs the cells of some arguments: what the configuration says."""
    from hydra.core.plugins import Plugins

    name = config.hydra.runtime.choices["hydra/launcher"]
    launch = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=job, config=config).launch
    return launch if name == "rows" else lambda tellings, first: elsewhere(name, launch, config, tellings, first)


def elsewhere(name: str, launch: Launch, config, tellings: Sequence[Sequence[str]], first: int) -> None:
    """Cells in other processes, which may die, or live on when this one is interrupted. Bars of several would overwrite each other."""
    from hydra.core.utils import env_override

    threads = max(1, (os.cpu_count() or 1) // len(tellings))
    told = {"TQDM_DISABLE": "1", **({"OMP_NUM_THREADS": str(threads)} if name == "submitit_local" else {})}  # which starts all at once
    (Path(config.hydra.sweep.dir) / LAUNCHED).touch()
    try:
        with env_override({key: os.environ.get(key, value) for key, value in told.items()}):
            launch(tellings, first)
    except KeyboardInterrupt:
        if name == "submitit_slurm":
            say(f"expkit: what SLURM was given goes on there: squeue --me shows it, scancel --name={config.hydra.launcher.name} ends it.")
        raise
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Incomplete(f"hydra/launcher={name} gave up: {said} What is missing is run by the same command.") from error


def complete(folder: Path, cells: Sequence[Cell], arguments: Sequence[str], launch: Launch) -> None:
    """Run what is missing of these cells, and show all of them: while they run, and at the end, however it comes."""
    claim(folder)
    left = missing(folder, cells)
    say(f"sweep: {len(cells)} cells, {sum(done(cell.folder(folder)) for cell in cells)} of them there already, in {folder}")
    if left:
        built(left[0].job.resolved["logger"])["mirror"].check()
    with shown(Book(folder, cells, arguments)):
        if left:
            launch([cell.told for cell in left], 0)
    check(folder, cells)
    names.stamp(folder, arguments, [cell.id for cell in cells], [path for cell in cells for path in files_of(cell.job.resolved)])
    print(folder)


def missing(folder: Path, cells: Sequence[Cell]) -> list[Cell]:
    """Those that are to be run, each once; of those that cannot be composed it is written down why."""
    left = list({cell.id: cell for cell in cells if cell.job and not done(cell.folder(folder))}.values())
    check_free(folder, left)
    for cell in cells:
        if not cell.job:
            fail(cell.folder(folder), Incomplete(cell.error), cell.told)
    return left


@contextmanager
def shown(book: Book) -> Iterator[None]:
    """Cells are shown while they run, and at the end, however it comes."""
    try:
        with book.kept_up():
            yield
    except KeyboardInterrupt as interrupt:
        interrupt.args = (f"{counted(book.folder, book.cells)} cells are there. The same command goes on.",)
        raise
    finally:
        book.write()
        mirrored(book, book.cells)


def mirrored(book: Book, cells: Sequence[Cell]) -> None:
    """What was swept and measured, where the cells are shown too."""
    told = next((cell.job.resolved["logger"] for cell in cells if cell.job), None)
    if told and book.axes:
        built(told)["mirror"].sweep(book.folder, book.axes, book.numbers)


def counted(folder: Path, cells: Sequence[Cell]) -> str:
    return f"{sum(done(cell.folder(folder)) for cell in cells)} of {len(cells)}"


def check(folder: Path, cells: Sequence[Cell]) -> None:
    left = [cell for cell in cells if not done(cell.folder(folder))]
    if left:
        first = next((said for cell in left if (said := reason(cell.folder(folder)))), "it was not run")
        raise Incomplete(
            f"{counted(folder, cells)} cells are there; {len(left)} are not. The first of them: {first.splitlines()[-1]} "
            f"All are on {folder / 'sheet.png'} and in table.csv beside it; the same command runs them again."
        )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
