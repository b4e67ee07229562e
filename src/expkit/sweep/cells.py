"""The cells of a sweep. Each cell is one run in a folder named by a hash of what it makes.

A cell's folder is written atomically: it is complete, or it does not exist.

SWEEP/cells/3fa9c21b04d1/            a finished run
SWEEP/cells/3fa9c21b04d1.error.txt   why it failed the last time
"""

from __future__ import annotations

import errno
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
from expkit.config.command_line import shell_command, without_hydra
from expkit.errors import UserError
from expkit.results.claims import NO_SPACE, NUMBERS, list_names, matching_names, unwritable_error
from expkit.results.run_folder import RunInfo
from expkit.runs import interrupts
from expkit.runs.job import BATCH_KEYS, ComposedConfig, Job, config_hash, run_job
from expkit.storage.files import atomic_write, short_hash
from expkit.sweep.names import ASIDE, STAMP

CLAIMED = ".expkit.sweep"  # an empty file that marks a folder as that of a sweep
# The files, or patterns of files, that a sweep writes into its folder beside the cells
SWEEP_FILES = (
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
LAUNCHED = "cells/.launched"  # its time: when the sweep was last started in other processes


@dataclass(frozen=True, eq=False)
class Cell:
    """One cell of a sweep: one combination of the swept values, which is one run.

    Attributes:
        arguments: the arguments of the cell, as the sweeper makes them.
        axes: {key: value} of these arguments.
        id: the hash that names its folder.
        job: the run; None if the arguments cannot be composed.
        error: why the arguments cannot be composed, or "".
        group: the arguments that cannot vary within a batch. Cells of one group can share a batch.
        command: the shell command that makes this cell alone.
    """

    arguments: tuple[str, ...]
    axes: dict
    id: str
    job: Job | None = None
    error: str = ""
    group: tuple[str, ...] = ()
    command: str = ""

    @property
    def run(self) -> Job:
        """`job`, of a cell whose arguments can be composed."""
        assert self.job is not None, self.error
        return self.job

    def folder(self, sweep: Path) -> Path:
        return sweep / "cells" / self.id


# {arguments: cell} of the sweep that runs now: Hydra passes arguments to the launcher, not cells
COMPOSED: dict[tuple[str, ...], Cell] = {}


def compose_cells(context, config, cell_arguments: Sequence[Sequence[str]]) -> list[Cell]:
    """Compose the cells of these arguments, one sequence of arguments per cell.

    Hydra composes once for all cells that differ only in the values of `BATCH_KEYS`.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create(config_loader=context.config_loader)
    override_cache: dict = {}
    config_cache: dict[tuple[str, ...], ComposedConfig] = {}
    COMPOSED.clear()

    def parse(argument: str):
        if argument not in override_cache:
            override_cache[argument] = parser.parse_override(argument)
        return override_cache[argument]

    def compose(arguments: tuple[str, ...]) -> ComposedConfig:
        if arguments not in config_cache:
            cell_config = context.config_loader.load_sweep_config(config, list(arguments))
            config_cache[arguments] = ComposedConfig(cell_config)
        return config_cache[arguments]

    sweep_config = ComposedConfig(config)
    COMPOSED.update(
        {
            tuple(arguments): make_cell(
                tuple(arguments), [parse(argument) for argument in arguments], compose, sweep_config
            )
            for arguments in cell_arguments
        }
    )
    return list(COMPOSED.values())


def make_cell(arguments: tuple[str, ...], overrides, base, whole: ComposedConfig) -> Cell:
    """Make one cell.

    Args:
        arguments: the arguments of the cell.
        overrides: the same arguments, parsed by Hydra.
        base: a function that composes a tuple of arguments to a `ComposedConfig`.
        whole: the configuration of the sweep. The command of a cell that cannot be composed is
            made from it.
    """
    axes = {override.get_key_element(): plain_value(override.value()) for override in overrides}
    batch_overrides = [
        override
        for override in overrides
        if override.get_key_element() in BATCH_KEYS and override.type.name == "CHANGE"
    ]
    group = tuple(override.input_line for override in overrides if override not in batch_overrides)
    try:
        batch_values = {each.get_key_element(): each.value() for each in batch_overrides}
        job = Job(base(group), without_hydra(arguments), batch_values)
        cell_id = config_hash(job.resolved, job.inputs)
        command = shell_command(job.arguments, job.composed.environment)
        return Cell(arguments, axes, cell_id, job, group=group, command=command)
    except Exception as error:
        cause = error.__cause__ or error
        message = error_message(error, arguments) or error_message(cause, arguments)
        if message is None:
            raise
        cell_id = short_hash(repr(arguments))
        command = shell_command([*whole.origin, *without_hydra(arguments)], whole.environment)
        return Cell(arguments, axes, cell_id, error=message, command=command)


def plain_value(value):
    """A value as it is shown: text, number, bool, list or None; any other value as text."""
    is_plain = value is None or isinstance(value, str | int | float | bool | list)
    return value if is_plain else str(value)


def run_info(sweep: Path, job: Job) -> RunInfo:
    """What loggers show of a cell: the arguments that decide its result, and the sweep's name."""
    arguments = [argument for argument in job.overrides if not argument.startswith(ASIDE)]
    return RunInfo(
        " ".join(arguments) or "as it is",
        sweep.name,
        dict(value_of(argument) for argument in arguments if "=" in argument),
    )


@cache
def value_of(argument: str) -> tuple[str, object]:
    """The key and the value of an argument, as Hydra parses it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    override = OverridesParser.create().parse_override(argument)
    return override.get_key_element(), plain_value(override.value())


def is_done(folder: Path) -> bool:
    """Whether a cell's folder holds a finished run."""
    return (folder / NUMBERS).is_file()


def failure_reason(folder: Path) -> str:
    """Why a cell failed the last time; "" if it did not fail."""
    try:
        return error_path(folder).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def error_path(folder: Path) -> Path:
    """The path of the file that says why a cell failed."""
    return folder.with_name(f"{folder.name}.error.txt")


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Write into a hidden sibling folder and rename it to `folder` on success.

    If another process finished first, its result is kept. Success removes the cell's error file.

    Yields:
        The hidden folder.

    Raises:
        OSError: if `folder` exists, is not empty and holds no finished run.
    """
    part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.part")
    part.mkdir(parents=True)
    try:
        yield part
        try:
            os.rename(part, folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not is_done(folder):
                raise
        error_path(folder).unlink(missing_ok=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)  # safe: the name is unique to this process


def record_failure(folder: Path, error: BaseException, arguments: Sequence[str]) -> str:
    """Write why a cell failed into its error file, and return that text.

    The text is one message, or the whole traceback if the error is a defect of expkit.
    """
    text = error_message(error, arguments) or "".join(traceback.format_exception(error))
    folder.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(error_path(folder), lambda part: part.write_text(text, encoding="utf-8"))
    return text


def run_cell(job: Job, folder: Path) -> None:
    """Run one cell alone, as the processes of other launchers do, and record its error if it fails.

    A finished cell is not run again.
    """
    try:
        if not is_done(folder) and not is_stopped(job, folder.parents[1]):
            with atomic_folder(folder) as part:
                run_job(job, part, about=run_info(folder.parents[1], job))
    except Exception as error:
        interrupts.raise_if_interrupted(error)
        record_failure(folder, error, job.overrides)
    finally:
        with suppress(OSError):
            folder.rmdir()  # Hydra made this folder; it is still empty if the cell was not written


def is_stopped(job: Job, sweep: Path) -> bool:
    """Whether sweep.on_error=stop and a cell has failed since the sweep was launched."""
    if job.resolved["sweep"]["on_error"] != "stop":
        return False
    launch_time = (sweep / LAUNCHED).stat().st_mtime_ns
    return any(path.stat().st_mtime_ns > launch_time for path in sweep.glob("cells/*.error.txt"))


def claim_sweep(sweep: Path) -> None:
    """Make the folder of a sweep, which several processes may share.

    Raises:
        UserError: if the folder cannot be written, or if it is not the folder of a sweep and holds
            files that a sweep would overwrite.
    """
    try:
        # Sweeps of older versions left no mark, but finished cells show that a sweep was here
        is_own = (sweep / CLAIMED).exists() or any(sweep.glob(f"cells/*/{NUMBERS}"))
        names = matching_names(sweep, SWEEP_FILES) if sweep.is_dir() else []
        if names and not is_own:
            raise UserError(
                f"The folder {sweep} already holds {list_names(names)}, "
                f"which a sweep would overwrite. Give another one {ELSEWHERE}"
            )
        (sweep / "cells").mkdir(parents=True, exist_ok=True)
        (sweep / CLAIMED).touch()
    except OSError as error:
        if error.errno in NO_SPACE:
            raise
        raise unwritable_error(sweep, error, "hydra.sweep.dir") from None


def check_free(sweep: Path, cells: Sequence[Cell]) -> None:
    """Check that nothing but finished runs and empty folders has the name of one of these cells.

    Raises:
        UserError: if something else has such a name.
    """
    for cell in cells:
        folder = cell.folder(sweep)
        if not os.path.lexists(folder) or is_done(folder):
            continue
        if not (folder.is_dir() and not any(folder.iterdir())):
            raise UserError(
                f"{folder} is no finished run, and a cell of this sweep needs its name. "
                f"Remove it, or give a folder {ELSEWHERE}"
            )


class Incomplete(UserError):
    """Some cells of a sweep are not finished."""
