"""Where a sweep lies, and whether it is finished: asked before anything is imported, so that a finished one is answered at once.

A sweep's folder is named by its command. `finished.json` in it says what was finished last, and what that was made from: the command,
the YAML of all folders that Hydra sought in, environment variables, every file and folder that a text of the configurations names, and
what the cells hold. Where all of that is as it was, so is what would be made.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from expkit import __version__
from expkit.config.command_line import ELSEWHERE, CommandLine, is_hydra
from expkit.storage import inputs
from expkit.storage.files import atomic_write

ASIDE = ("hydra", "sweep.", "logger")  # arguments that have no say in what is made,
SOUGHT = ("hydra/sweeper=", "hydra.sweeper.")  # but these have in what is looked for,
FURTHER = ("hydra.sweeper.trials=", "hydra.sweeper.batch=")  # and these in how long and how fast
CHANGING = ("${now:", "${short_id:")  # what means something else each time
STAMP = "finished.json"
MIRRORS = {"tensorboard", "wandb", "checkpoints", "lightning_logs"}  # folders in a cell that are not results


def sweep_folder(line: CommandLine) -> Path:
    """hydra.sweep.dir where it is given, else a name of the task, what is swept, and a hash of the command.

    What an environment variable stands for is not in the name: a folder may hold the cells of several commands, and shows the last one's.
    """
    told = dict(argument.split("=", 1) for argument in line.overrides if "=" in argument)
    if "hydra.sweep.dir" in told:
        return Path(told["hydra.sweep.dir"])
    swept = [key for key, value in told.items() if is_sweep(value) and not key.startswith(ASIDE)]
    head = [told[key] for key in ("task", "experiment") if key in told and key not in swept] or ["sample"]
    words = [re.sub(r"\W+", "_", word)[:40] for word in (*head, *swept)]
    return Path("outputs/sweeps") / "-".join(
        [*words[:5], short_hash([*line.sources, *sorted(filter(decides_result, line.overrides))])]
    )


def decides_result(argument: str) -> bool:
    """Whether another value of it would be another sweep, or another search."""
    if is_hydra(argument):
        return not argument.startswith((*ELSEWHERE, *FURTHER, "hydra.mode="))
    return not argument.startswith(ASIDE)


def is_sweep(value: str) -> bool:
    """Whether a value stands for several: commas outside quotes and brackets, or a function of Hydra's."""
    while value != (value := re.sub(r"'[^']*'|\"[^\"]*\"|\[[^][]*\]|\{[^{}]*\}", "", value)):
        pass
    return "," in value or value.startswith(("range(", "choice(", "glob(", "interval("))


def folder_override(where: Path, line: CommandLine) -> list[str]:
    """The argument that tells Hydra, if it is not there already."""
    return (
        []
        if any(argument.startswith("hydra.sweep.dir=") for argument in line.overrides)
        else [f"hydra.sweep.dir={where}"]
    )


def is_finished(where: Path, line: CommandLine) -> bool:
    """Whether all cells of this command are there, and all that they were made from is as it was."""
    if any(argument.startswith("hydra/sweeper=") for argument in line.overrides):
        return False  # another sweeper may know of more to do
    if any(word in argument for argument in line.overrides for word in CHANGING):
        return False
    known = read_stamp(where)
    try:
        return (
            known["command"] == short_hash(line.asked)
            and known["code"] == __version__
            and all(os.environ.get(name) == value for name, value in known["environment"].items())
            and all(
                inputs.is_unchanged(was, inputs.yaml_files(Path(place)))
                for place, was in known["configuration"].items()
            )
            and all(same_files(name, was) for name, was in known["names"].items())
            and all(is_whole(where, name, known["made"][name]) for name in known["cells"])
        )
    except (OSError, KeyError, TypeError, AttributeError):
        return False


def same_files(name: str, was: Mapping | None) -> bool:
    """Whether a text of the configuration names the same files as it did, or none as it did."""
    found = inputs.all_files(name)
    return bool(was) == bool(found) and (not was or inputs.is_unchanged(was, found))


def made_from(
    asked: Sequence[str], environment: Mapping[str, str | None], folders: Iterable[Path], names: Iterable[str]
) -> dict:
    """What decides what is made, as it is at this moment: asked before a sweep begins.

    asked: the arguments. folders: where YAML was sought. names: texts that may be files or folders.
    """
    return {
        "command": short_hash(asked),
        "code": __version__,
        "environment": dict(environment),
        "configuration": {str(place): inputs.file_state(inputs.yaml_files(place)) for place in folders},
        "names": {
            name: inputs.file_state(found) if (found := inputs.all_files(name)) else None for name in names
        },
    }


def write_stamp(where: Path, made_from: Mapping, cells: Sequence[str]) -> None:
    """Say that all cells of a command are there, these by name, and what they were made from."""
    made = {name: was for name, was in read_stamp(where).get("made", {}).items() if name not in cells}
    known = {
        **made_from,
        "cells": [*dict.fromkeys(cells)],
        "made": made | {name: cell_files(where / "cells" / name) for name in cells},
    }
    atomic_write(where / STAMP, lambda part: part.write_text(json.dumps(known), encoding="utf-8"))


def read_stamp(where: Path) -> dict:
    """What is said in a sweep's folder of what was finished there; nothing where there is nothing that can be read."""
    try:
        known = json.loads((where / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def cell_files(cell: Path) -> dict:
    """The results in a cell's folder, and how they are."""
    found = [(name, path) for name, path in inputs.files_below(cell) if name.partition("/")[0] not in MIRRORS]
    return {"files": [name for name, _ in found], **inputs.file_state(found)}


def is_whole(where: Path, cell: str, was: Mapping) -> bool:
    """Whether a cell holds all that it held. What somebody has put beside that is no matter."""
    place = where / "cells" / cell
    return inputs.is_unchanged(was, [(name, place / name) for name in was["files"]])


def damaged_cells(where: Path, cells: Iterable[str]) -> list[str]:
    """Those of these cells whose folders do not hold what was made: something was removed, or written over.

    A folder that holds neither a recipe nor numbers is no run's: it is somebody's own.
    """
    made = read_stamp(where).get("made", {})
    ours = [where / "cells" / cell for cell in dict.fromkeys(cells)]
    there = [
        cell.name for cell in ours if any((cell / name).is_file() for name in ("recipe.yaml", "numbers.json"))
    ]
    return [
        cell
        for cell in there
        if not (is_whole(where, cell, made[cell]) if cell in made else is_complete(where / "cells" / cell))
    ]


def is_complete(cell: Path) -> bool:
    """Whether a cell's folder is as a run leaves it, as far as can be told where it was not written down."""
    try:
        json.loads((cell / "numbers.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return (cell / "recipe.yaml").is_file()


def short_hash(words: Sequence[str]) -> str:
    return hashlib.blake2b(json.dumps([*words]).encode(), digest_size=4).hexdigest()
