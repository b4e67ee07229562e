"""Where a sweep lies, and whether it is finished: asked before anything is imported, so that a finished one is answered at once.

A sweep's folder is named by its command. `finished.json` in it says what was finished by which configuration, from which files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from expkit import __version__, command
from expkit.files import in_one_move

ASIDE = ("hydra", "sweep.", "logger")  # arguments that have no say in what is made,
SOUGHT = ("hydra/sweeper=", "hydra.sweeper.")  # but these have in what is looked for,
FURTHER = ("hydra.sweeper.trials=", "hydra.sweeper.batch=")  # and these in how long and how fast
STAMP = "finished.json"


def folder(arguments: Sequence[str]) -> Path:
    """hydra.sweep.dir where it is given, else a name of the task, what is swept, and a hash of the command."""
    told = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    if "hydra.sweep.dir" in told:
        return Path(told["hydra.sweep.dir"])
    swept = [key for key, value in told.items() if sweeps(value) and not key.startswith(ASIDE)]
    head = [told[key] for key in ("task", "experiment") if key in told and key not in swept] or ["sample"]
    words = [re.sub(r"\W+", "_", word) for word in (*head, *swept)]
    return Path("outputs/sweeps") / "-".join([*words[:5], hashed(sorted(filter(counts, arguments)))])


def counts(argument: str) -> bool:
    """Whether another value of it would be another sweep, or another search."""
    return not argument.startswith(FURTHER if argument.startswith(SOUGHT) else ASIDE)


def sweeps(value: str) -> bool:
    """Whether a value stands for several: commas outside quotes and brackets, or a function of Hydra's."""
    while value != (value := re.sub(r"'[^']*'|\"[^\"]*\"|\[[^][]*\]|\{[^{}]*\}", "", value)):
        pass
    return "," in value or value.startswith(("range(", "choice(", "glob(", "interval("))


def placed(where: Path, arguments: Sequence[str]) -> list[str]:
    """The argument that tells Hydra, if it is not there already."""
    return [] if any(argument.startswith("hydra.sweep.dir=") for argument in arguments) else [f"hydra.sweep.dir={where}"]


def finished(where: Path, arguments: Sequence[str]) -> bool:
    """Whether all cells of this command are there, made by the configuration and from the files of today."""
    if any(argument.startswith("hydra/sweeper=") for argument in arguments):
        return False  # another sweeper may know of more to do
    try:
        known = json.loads((where / STAMP).read_text(encoding="utf-8"))
        same = known["command"] == asked(arguments) and known["code"] == code() and known["files"] == told(known["files"])
        return same and all((where / "cells" / name / "numbers.json").is_file() for name in known["cells"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def stamp(where: Path, arguments: Sequence[str], cells: Sequence[str], files: Sequence[Path]) -> None:
    """Say that all cells of this command are there."""
    known = {"command": asked(arguments), "code": code(), "files": told(map(str, files)), "cells": [*dict.fromkeys(cells)]}
    in_one_move(where / STAMP, lambda part: part.write_text(json.dumps(known), encoding="utf-8"))


def asked(arguments: Sequence[str]) -> str:
    """A hash of what is asked for, wherever and by whatever it is run."""
    return hashed([argument for argument in arguments if not argument.startswith("hydra")])


def told(files) -> dict[str, list[int]]:
    """{path: size and time of change}"""
    found = {path: Path(path).stat() for path in files if Path(path).is_file()}
    return {path: [stat.st_size, stat.st_mtime_ns] for path, stat in found.items()}


def code() -> str:
    """The version, and the names, sizes and times of the files that configurations are composed from."""
    found = [(str(path), path.stat()) for path in sorted(command.configuration().rglob("*.yaml"))]
    return hashed([__version__, *[f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in found]])


def hashed(words: Sequence[str]) -> str:
    return hashlib.blake2b(json.dumps([*words]).encode(), digest_size=4).hexdigest()
