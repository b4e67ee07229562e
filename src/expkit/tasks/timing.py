"""The work and speed of networks: progress bars, usage, and how long a run will take.

seconds = rows · seconds per row, as measured in earlier runs on this machine
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from expkit.core.denoiser import Counting
from expkit.core.pin import Pin
from expkit.core.solvers import Step
from expkit.core.timesteps import count_updates
from expkit.storage.files import atomic_write
from expkit.storage.weights_io import cache_folder


def timing_file() -> Path:
    return cache_folder() / "speed.json"


def known_speed(network: str) -> float | None:
    """Seconds per row of the network of this name; None where it has not run on this machine."""
    return _read_table().get(network)


def record_speed(network: str, seconds: float, rows: int) -> None:
    """Store the mean of the stored seconds per row and this run's; write errors are ignored."""
    table = _read_table()
    speed = seconds / rows
    table[network] = (table.get(network, speed) + speed) / 2
    text = json.dumps(table)
    try:
        timing_file().parent.mkdir(parents=True, exist_ok=True)
        atomic_write(timing_file(), lambda part: part.write_text(text, encoding="utf-8"))
    except OSError:
        pass


def describe_duration(network: str, rows: int) -> str:
    """How long so many rows will take, for a header."""
    speed = known_speed(network)
    return (
        f"about {_format_seconds(speed * rows)}"
        if speed
        else "how long it takes will be known after this run"
    )


def progress(
    steps: Iterable[Step], name: str, grid: Sequence[float], pin: Pin | None
) -> Iterable[Step]:  # fmt: skip
    """The steps, with a progress bar."""
    from tqdm import tqdm

    total = count_updates(grid) + bool(pin)  # with a pin, `sample` yields the finished states too
    return tqdm(steps, total=total, desc=name, unit="step", leave=False, mininterval=0.2)


def usage(model: Counting) -> dict:
    """The network calls of a run, for its numbers; its speed is remembered for later headers."""
    if model.rows:
        record_speed(model.name, model.seconds, sum(model.rows))
    return {
        "network_calls": len(model.rows),
        "rows_per_call": model.rows[0] if len(set(model.rows)) == 1 else model.rows,
        "rows": sum(model.rows),
        "seconds_in_network": round(model.seconds, 3),
    }


def _format_seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _read_table() -> dict[str, float]:
    """{network: seconds per row}; empty where the file is missing or damaged."""
    try:
        table = json.loads(timing_file().read_text(encoding="utf-8"))
        return {name: float(speed) for name, speed in table.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
