"""A sweep: every combination once, ever. What is finished is kept, what is missing or failed is run, and all of it is shown."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from expkit.job import files_of
from expkit.sweep import names
from expkit.sweep.book import Book
from expkit.sweep.cells import Cell, Incomplete, clear, composed, done, fail, reason


def sweep(context, job, config, arguments: Sequence[str]) -> None:
    """Run the cells that are not there, by the launcher of the configuration; raise `Incomplete` where some are not there then."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.plugins import Plugins

    parsed = OverridesParser.create(config_loader=context.config_loader).parse_overrides([*arguments])
    cells = composed(context, config, BasicSweeper.split_arguments(parsed, None)[0])
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=job, config=config)
    complete(Path(config.hydra.sweep.dir), cells, arguments, launcher.launch)


def complete(folder: Path, cells: Sequence[Cell], arguments: Sequence[str], launch) -> None:
    """Run what is missing of these cells, and show all of them: while they run, and at the end, however it comes."""
    (folder / "cells").mkdir(parents=True, exist_ok=True)
    clear(folder)
    for cell in cells:
        if not cell.job:
            fail(cell.folder(folder), Incomplete(cell.error), cell.told)
    missing = list({cell.id: cell for cell in cells if cell.job and not done(cell.folder(folder))}.values())
    say(f"sweep: {len(cells)} cells, {len(cells) - len(missing)} of them there already, in {folder}")
    book = Book(folder, cells, arguments)
    try:
        with book.kept_up():
            if missing:
                launch([cell.told for cell in missing], 0)
    except KeyboardInterrupt:
        say(f"expkit: interrupted; {counted(folder, cells)} cells are there. The same command goes on.")
        raise
    finally:
        book.write()
    check(folder, cells)
    names.stamp(folder, arguments, [cell.id for cell in cells], [path for cell in cells for path in files_of(cell.job.resolved)])
    print(folder)


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
