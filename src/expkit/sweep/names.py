"""The folder of a sweep, and whether the sweep is finished.

Nothing heavy is imported to find this out, so a finished sweep is answered at once.

A sweep's folder is named by its command. `finished.json` in it says what was finished last and what
it was made from: the command, the YAML in all folders that Hydra searched, environment variables,
every file and folder that a text of the configurations names, and the contents of the cells. While
all of these are unchanged, the sweep would make the same again.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from expkit import __version__
from expkit.config.command_line import ELSEWHERE, CommandLine, is_hydra
from expkit.results.claims import NUMBERS, RECIPE
from expkit.storage import inputs
from expkit.storage.files import atomic_write, short_hash

# Beginnings of arguments:
ASIDE = ("hydra", "sweep.", "logger")  # do not change what is made
FURTHER = ("hydra.sweeper.trials=", "hydra.sweeper.batch=")  # decide how long a search runs
CHANGING = ("${now:", "${short_id:")  # texts that have another meaning at each run
STAMP = "finished.json"
# Folders in a cell that are not results
MIRRORS = {"tensorboard", "wandb", "checkpoints", "lightning_logs"}


def sweep_folder(line: CommandLine) -> Path:
    """The folder of a sweep: hydra.sweep.dir if the command gives it, else one in outputs/sweeps.

    Its name is made of the task or experiment, the swept keys, and a hash of the command. It does
    not depend on the values of environment variables: a folder may hold the cells of several
    commands, and shows the cells of the last command.
    """
    values = dict(argument.split("=", 1) for argument in line.overrides if "=" in argument)
    if "hydra.sweep.dir" in values:
        return Path(values["hydra.sweep.dir"])
    axes = [key for key, value in values.items() if is_sweep(value) and not key.startswith(ASIDE)]
    head_keys = [key for key in ("task", "experiment") if key in values and key not in axes]
    head = [values[key] for key in head_keys] or ["sample"]
    words = [re.sub(r"\W+", "_", word)[:40] for word in (*head, *axes)]
    decisive = sorted(filter(decides_result, line.overrides))
    digest = hash_arguments([*line.sources, *decisive])
    return Path("outputs/sweeps") / "-".join([*words[:5], digest])


def decides_result(argument: str) -> bool:
    """Whether another value of this argument would be another sweep, or another search."""
    if is_hydra(argument):
        return not argument.startswith((*ELSEWHERE, *FURTHER, "hydra.mode="))
    return not argument.startswith(ASIDE)


def is_sweep(value: str) -> bool:
    """Whether a value stands for several: it is a sweep function of Hydra, or has a comma outside
    quotes and brackets."""
    quoted_or_bracketed = r"'[^']*'|\"[^\"]*\"|\[[^][]*\]|\{[^{}]*\}"
    previous = None
    while value != previous:  # each pass removes the innermost quotes and brackets
        previous = value
        value = re.sub(quoted_or_bracketed, "", value)
    return "," in value or value.startswith(("range(", "choice(", "glob(", "interval("))


def folder_override(where: Path, line: CommandLine) -> list[str]:
    """The argument that gives Hydra the folder; none if the command gives it already."""
    if any(argument.startswith("hydra.sweep.dir=") for argument in line.overrides):
        return []
    return [f"hydra.sweep.dir={where}"]


def is_finished(where: Path, line: CommandLine) -> bool:
    """Whether all cells of this command exist and all that they were made from is unchanged."""
    if any(argument.startswith("hydra/sweeper=") for argument in line.overrides):
        return False  # another sweeper may have more to do
    if any(word in argument for argument in line.overrides for word in CHANGING):
        return False
    stamp = read_stamp(where)
    try:
        return (
            stamp["command"] == hash_arguments(line.identity_arguments)
            and stamp["code"] == __version__
            and all(os.environ.get(name) == value for name, value in stamp["environment"].items())
            and all(
                inputs.is_unchanged(state, inputs.yaml_files(Path(folder)))
                for folder, state in stamp["configuration"].items()
            )
            and all(same_files(name, state) for name, state in stamp["names"].items())
            and all(is_whole(where, name, stamp["made"][name]) for name in stamp["cells"])
        )
    except (OSError, KeyError, TypeError, AttributeError):
        return False


def same_files(name: str, was: Mapping | None) -> bool:
    """Whether a text of the configuration names the same files as before.

    Args:
        name: the text.
        was: the earlier state of these files; None if the text named no file.
    """
    files = inputs.all_files(name)
    return bool(was) == bool(files) and (not was or inputs.is_unchanged(was, files))


def input_state(
    arguments: Sequence[str],
    environment: Mapping[str, str | None],
    folders: Iterable[Path],
    names: Iterable[str],
) -> dict:
    """The present state of everything that decides what a sweep makes, recorded before it begins.

    Args:
        arguments: the arguments of the command.
        environment: {name: value} of the environment variables that the configuration reads; None
            if a variable is not set.
        folders: the folders in which Hydra searched for YAML.
        names: texts that may name files or folders.
    """
    return {
        "command": hash_arguments(arguments),
        "code": __version__,
        "environment": dict(environment),
        "configuration": {str(folder): _yaml_state(folder) for folder in folders},
        "names": {name: _named_files_state(name) for name in names},
    }


def _yaml_state(folder: Path) -> dict:
    """The state of the YAML files in a folder."""
    return inputs.file_state(inputs.yaml_files(folder))


def _named_files_state(name: str) -> dict | None:
    """The state of the files that a text names; None if it names none."""
    files = inputs.all_files(name)
    return inputs.file_state(files) if files else None


def write_stamp(where: Path, input_state: Mapping, cells: Sequence[str]) -> None:
    """Record that all cells of a command are finished.

    Args:
        where: the folder of the sweep.
        input_state: what the cells were made from, as the function `input_state` returns it.
        cells: the names of the cells.
    """
    old_cells = read_stamp(where).get("made", {})
    others = {name: state for name, state in old_cells.items() if name not in cells}
    stamp = {
        **input_state,
        "cells": [*dict.fromkeys(cells)],
        "made": others | {name: cell_files(where / "cells" / name) for name in cells},
    }
    atomic_write(where / STAMP, lambda part: part.write_text(json.dumps(stamp), encoding="utf-8"))


def read_stamp(where: Path) -> dict:
    """The record of what was finished in a sweep's folder; empty if it is missing or unreadable."""
    try:
        stamp = json.loads((where / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def cell_files(cell: Path) -> dict:
    """The names and the state of the results in a cell's folder."""
    below = inputs.relative_files(cell)
    files = [(name, path) for name, path in below if name.partition("/")[0] not in MIRRORS]
    return {"files": [name for name, _ in files], **inputs.file_state(files)}


def is_whole(where: Path, cell: str, was: Mapping) -> bool:
    """Whether a cell has all its results unchanged. Other files in its folder do not matter."""
    folder = where / "cells" / cell
    return inputs.is_unchanged(was, [(name, folder / name) for name in was["files"]])


def damaged_cells(where: Path, cells: Iterable[str]) -> list[str]:
    """The names of those cells whose results were removed or overwritten.

    A folder with neither a recipe nor numbers is not that of a run: it belongs to the user.
    """
    recorded = read_stamp(where).get("made", {})
    damaged = []
    for cell in dict.fromkeys(cells):
        folder = where / "cells" / cell
        if not any((folder / name).is_file() for name in (RECIPE, NUMBERS)):
            continue
        if cell in recorded:
            intact = is_whole(where, cell, recorded[cell])
        else:
            intact = is_complete(folder)
        if not intact:
            damaged.append(cell)
    return damaged


def is_complete(cell: Path) -> bool:
    """Whether a cell's folder has the two files that a run always leaves, with readable numbers.

    This is all that can be checked where the state of the results was not recorded.
    """
    try:
        json.loads((cell / NUMBERS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return (cell / RECIPE).is_file()


def hash_arguments(arguments: Sequence[str]) -> str:
    """A hash of the arguments of a command, of 8 hexadecimal digits."""
    return short_hash(json.dumps([*arguments]), size=4)
