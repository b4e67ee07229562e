"""Cells in this process: one resident model, and one batch of all cells that differ only in what can be a row of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from expkit.errors import warn
from expkit.runs import interrupts
from expkit.runs.job import run_job, run_together
from expkit.sweep.cells import COMPOSED, Cell, atomic_folder, record_failure, run_info
from expkit.sweep.sweeper import print_line

DEAR = (
    "model",
    "judges",
    "task",
    "sampler",
    "estimate",
)  # what it costs to change, the dearest first: that varies slowest
ROWS = 96  # of a forward, where neither the sweep nor the model says how many


def launch_cells(config, tellings: Sequence[Sequence[str]]) -> list:
    """Run the cells of these arguments, and write down why those fail that do."""
    sweep, stop = Path(config.hydra.sweep.dir), config.sweep.on_error == "stop"
    for group in group_cells([COMPOSED[tuple(told)] for told in tellings]):
        for batch in split_batches(group, config.sweep.rows):
            if not run_batch(batch, sweep) and stop:
                warn("a cell failed and sweep.on_error=stop: the cells after it are left out.")
                return []
    return []


def group_cells(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells that can share batches, those of one model one after another, whatever order they were typed in."""
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.group, []).append(cell)
    return sorted(
        groups.values(),
        key=lambda group: [[a for a in group[0].group if a.startswith(dear)] for dear in DEAR],
    )


def split_batches(group: Sequence[Cell], rows: int | None) -> Iterator[list[Cell]]:
    """As many cells at a time as fill one forward of the network; one at a time where the task takes no batch."""
    first = group[0].job
    most = rows or first.resolved["model"].get("max_rows") or ROWS
    known = first.resolved["task"].get("estimate") or {}
    step = max(1, most // (first.count * estimate_rows(known))) if first.batches else 1
    for start in range(0, len(group), step):
        yield list(group[start : start + step])


def estimate_rows(estimate) -> int:
    """How many rows a picture of this estimate asks, roughly: one for each prompt in it, and one for the null."""
    return 1 + sum(1 for key in find_prompts(estimate)) if estimate else 1


def find_prompts(node) -> Iterator[str]:
    for key, value in node.items():
        if key == "prompt":
            yield key
        elif isinstance(value, dict):
            yield from find_prompts(value)


def run_batch(batch: Sequence[Cell], sweep: Path) -> bool:
    """Run these cells in one batch; where that fails, by halves, so that only those fail that must. Whether none did."""
    unwritten = dict(enumerate(batch))

    @contextmanager
    def place(number: int):
        with atomic_folder(batch[number].folder(sweep)) as part:
            yield part
        del unwritten[number]

    try:
        if len(batch) > 1:
            run_together(
                [cell.job for cell in batch], print_line, place, [run_info(sweep, cell.job) for cell in batch]
            )
        else:
            with place(0) as part:
                run_job(batch[0].job, part, about=run_info(sweep, batch[0].job))
        return True
    except Exception as error:
        interrupts.raise_if_interrupted(error)
        rest = list(unwritten.values())
        if len(batch) == 1:
            record_failure(batch[0].folder(sweep), error, batch[0].told)
            return False
        half = max(1, len(rest) // 2)
        return all([run_batch(part, sweep) for part in (rest[:half], rest[half:]) if part])
