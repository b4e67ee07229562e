"""The cells of a sweep: one run each, in a folder named by a hash of what it makes, which is there whole or not at all.

SWEEP/cells/3fa9c21b04d1/            a finished run
SWEEP/cells/3fa9c21b04d1.error.txt   why it failed, the last time
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import traceback
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from expkit.config.checks import error_message
from expkit.config.command_line import shell_command
from expkit.errors import UserError
from expkit.results.claims import NO_SPACE, list_names, matching_names, unwritable_error
from expkit.results.run_folder import RunInfo
from expkit.runs import interrupts
from expkit.runs.job import BATCH_KEYS, ComposedConfig, Job, config_hash, run_job
from expkit.storage.files import atomic_write
from expkit.sweep.names import ASIDE, STAMP

WRITTEN = "numbers.json"  # the last file of a run
CLAIMED = ".expkit.sweep"  # says that a sweep has made what lies in its folder
SHOWN = (
    "sheet.png",
    "sheet_[0-9]*.png",
    "table.csv",
    "table.parquet",
    "index.html",
    "tensorboard",
    "search.png",
    "best.yaml",
    STAMP,
)
ELSEWHERE = "with hydra.sweep.dir=FOLDER."
LAUNCHED = "cells/.launched"  # its time is when the sweep was last given to other processes


@dataclass(frozen=True, eq=False)
class Cell:
    """told: its arguments. axes: {key: value} of what is told. job: None where it cannot be composed, and `error` says why.

    command: what makes it alone, as a shell takes it.
    """

    told: tuple[str, ...]
    axes: dict
    id: str
    job: Job | None = None
    error: str = ""
    group: tuple[str, ...] = ()
    command: str = ""

    def folder(self, sweep: Path) -> Path:
        return sweep / "cells" / self.id


COMPOSED: dict[
    tuple[str, ...], Cell
] = {}  # of the sweep that is running: its launcher is told arguments, not cells


def compose_cells(context, config, tellings: Sequence[Sequence[str]]) -> list[Cell]:
    """The cells of these arguments. Hydra composes once for all cells that differ in the values of `BATCH_KEYS` only."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser, known, bases = OverridesParser.create(config_loader=context.config_loader), {}, {}
    COMPOSED.clear()

    def parsed(argument: str):
        if argument not in known:
            known[argument] = parser.parse_override(argument)
        return known[argument]

    def base(rest: tuple[str, ...]) -> ComposedConfig:
        if rest not in bases:
            bases[rest] = ComposedConfig(context.config_loader.load_sweep_config(config, list(rest)))
        return bases[rest]

    whole = ComposedConfig(config)
    COMPOSED.update(
        {
            tuple(told): make_cell(tuple(told), [parsed(argument) for argument in told], base, whole)
            for told in tellings
        }
    )
    return list(COMPOSED.values())


def make_cell(told: tuple[str, ...], overrides, base, whole: ComposedConfig) -> Cell:
    """whole: the sweep's configuration, from which it is told how to make a cell that cannot be composed."""
    axes = {override.get_key_element(): plain_value(override.value()) for override in overrides}
    rows = [
        override
        for override in overrides
        if override.get_key_element() in BATCH_KEYS and override.type.name == "CHANGE"
    ]
    rest = tuple(override.input_line for override in overrides if override not in rows)
    try:
        job = Job(
            base(rest),
            own_arguments(told),
            {override.get_key_element(): override.value() for override in rows},
        )
        return Cell(
            told,
            axes,
            config_hash(job.resolved, job.inputs),
            job,
            "",
            rest,
            shell_command(job.arguments, job.composed.environment),
        )
    except Exception as error:
        said = error_message(error, list(told)) or error_message(error.__cause__ or error, list(told))
        if said is None:
            raise
        command = shell_command([*whole.origin, *own_arguments(told)], whole.environment)
        return Cell(
            told,
            axes,
            hashlib.blake2b(repr(told).encode(), digest_size=6).hexdigest(),
            None,
            said,
            (),
            command,
        )


def plain_value(value):
    """A value as it is shown: a word, a number, a list; None for null."""
    return value if value is None or isinstance(value, str | int | float | bool | list) else str(value)


def own_arguments(told: Sequence[str]) -> list[str]:
    """The arguments of the command that is this cell alone."""
    return [argument for argument in told if not argument.startswith("hydra")]


def run_info(sweep: Path, job: Job) -> RunInfo:
    """What mirrors call a cell: the arguments that say what it makes, and the sweep's folder."""
    told = [argument for argument in job.told if not argument.startswith(ASIDE)]
    return RunInfo(
        " ".join(told) or "as it is",
        sweep.name,
        dict(value_of(argument) for argument in told if "=" in argument),
    )


@cache
def value_of(argument: str) -> tuple[str, object]:
    """The key and the value of an argument, as Hydra reads it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    override = OverridesParser.create().parse_override(argument)
    return override.get_key_element(), plain_value(override.value())


def is_done(folder: Path) -> bool:
    return (folder / WRITTEN).is_file()


def failure_reason(folder: Path) -> str:
    """Why a cell failed the last time; nothing where it did not."""
    try:
        return read_errors(folder).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def read_errors(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.error.txt")


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder beside it, which takes its name in one move when all is written. Who comes second finds it there, and is content."""
    part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.part")
    part.mkdir(parents=True)
    try:
        yield part
        try:
            os.rename(part, folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not is_done(folder):
                raise
        read_errors(folder).unlink(missing_ok=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)  # its name is known to this process alone


def record_failure(folder: Path, error: BaseException, told: Sequence[str]) -> str:
    """Write down why a cell failed: a sentence, or where it is a defect of ours, all that Python says."""
    said = error_message(error, list(told)) or "".join(traceback.format_exception(error))
    folder.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(read_errors(folder), lambda part: part.write_text(said, encoding="utf-8"))
    return said


def run_cell(job: Job, folder: Path) -> None:
    """One cell by itself, as other launchers' processes run it; what is there already is not made again."""
    try:
        if not is_done(folder) and not is_stopped(job, folder.parents[1]):
            with atomic_folder(folder) as part:
                run_job(job, part, about=run_info(folder.parents[1], job))
    except Exception as error:
        interrupts.raise_if_interrupted(error)
        record_failure(folder, error, job.told)
    finally:
        with suppress(OSError):
            folder.rmdir()  # which Hydra has made, and is empty still where the cell is not there


def is_stopped(job: Job, sweep: Path) -> bool:
    """Whether a cell has failed since the sweep was launched, and that is the end of it."""
    if job.resolved["sweep"]["on_error"] != "stop":
        return False
    launched = (sweep / LAUNCHED).stat().st_mtime_ns
    return any(path.stat().st_mtime_ns > launched for path in sweep.glob("cells/*.error.txt"))


def claim_sweep(sweep: Path) -> None:
    """Make the folder of a sweep, which several processes may share. Refuse one that holds what no sweep has written there."""
    try:
        mine = (sweep / CLAIMED).exists() or any(
            sweep.glob(f"cells/*/{WRITTEN}")
        )  # as sweeps were before they left a mark
        there = matching_names(sweep, SHOWN) if sweep.is_dir() else []
        if there and not mine:
            raise UserError(
                f"The folder {sweep} already holds {list_names(there)}, which a sweep would overwrite. Give another one {ELSEWHERE}"
            )
        (sweep / "cells").mkdir(parents=True, exist_ok=True)
        (sweep / CLAIMED).touch()
    except OSError as error:
        if error.errno in NO_SPACE:
            raise
        raise unwritable_error(sweep, error, "hydra.sweep.dir") from None


def check_free(sweep: Path, cells: Sequence[Cell]) -> None:
    """Refuse where something else has the name of a cell that is to be made."""
    for cell in cells:
        folder = cell.folder(sweep)
        if (
            os.path.lexists(folder)
            and not is_done(folder)
            and not (folder.is_dir() and not any(folder.iterdir()))
        ):
            raise UserError(
                f"{folder} is no finished run, and a cell of this sweep needs its name. Remove it, or give a folder {ELSEWHERE}"
            )


class Incomplete(UserError):
    """Not all cells of a sweep are there."""
