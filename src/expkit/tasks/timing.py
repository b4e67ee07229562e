"""How long a row of a network takes on this machine, as earlier runs have shown: what a run says of the time it will take.

seconds = rows · seconds a row
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from expkit.storage.weights_io import cache_folder


def timing_file() -> Path:
    return cache_folder() / "speed.json"


def known_speed(network: str) -> float | None:
    """Seconds a row of a network of this name, None where none has run here yet."""
    return _read().get(network)


def record_speed(network: str, seconds: float, rows: int) -> None:
    """Remember a run of so many rows, averaged with what was known. A cache that cannot be written is no reason to fail."""
    table, now = _read(), seconds / rows
    try:
        timing_file().parent.mkdir(parents=True, exist_ok=True)
        part = timing_file().with_name(f".speed.{os.getpid()}.part")
        part.write_text(json.dumps(table | {network: (table.get(network, now) + now) / 2}), encoding="utf-8")
        os.replace(part, timing_file())
    except OSError:
        pass


def describe_duration(network: str, rows: int) -> str:
    """A few words about the time to come."""
    each = known_speed(network)
    return f"about {_words(each * rows)}" if each else "how long it takes will be known after this run"


def _words(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def _read() -> dict[str, float]:
    try:
        table = json.loads(timing_file().read_text(encoding="utf-8"))
        return {name: float(each) for name, each in table.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
