"""The launcher hydra/launcher=rows: run the cells of a sweep in this process, with one model.

The model stays loaded from cell to cell. Cells that differ only in values that can vary within a
batch (`BATCH_KEYS`) share one batch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from expkit.errors import warn
from expkit.runs import interrupts
from expkit.runs.job import run_job, run_together
from expkit.sweep.cells import COMPOSED, Cell, atomic_folder, record_failure, run_info

LOGGER = logging.getLogger("expkit")
# What costs time to change, the most expensive first: cells are ordered so that it changes least
DEAR = ("model", "judges", "task", "sampler", "estimate")
ROWS = 96  # of one forward pass, if neither the sweep nor the model sets a limit


def launch_cells(config, cell_arguments: Sequence[Sequence[str]]) -> list:
    """Run the cells of these arguments, and record for each cell that fails why it failed.

    Args:
        config: the configuration of the sweep, with Hydra's own node.
        cell_arguments: the arguments of each cell, which `compose_cells` has composed before.

    Returns:
        Always an empty list, in place of the job results that other launchers return to Hydra.
    """
    sweep = Path(config.hydra.sweep.dir)
    stops_on_error = config.sweep.on_error == "stop"
    for group in group_cells([COMPOSED[tuple(arguments)] for arguments in cell_arguments]):
        for batch in split_batches(group, config.sweep.rows):
            if not run_batch(batch, sweep) and stops_on_error:
                warn("a cell failed and sweep.on_error=stop: the cells after it are left out.")
                return []
    return []


def group_cells(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Group cells that can share a batch; groups of one model are neighbours in any typed order."""
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.group, []).append(cell)

    def change_order(group: list[Cell]) -> list[list[str]]:
        arguments = group[0].group
        return [[text for text in arguments if text.startswith(name)] for name in DEAR]

    return sorted(groups.values(), key=change_order)


def split_batches(group: Sequence[Cell], rows: int | None) -> Iterator[list[Cell]]:
    """Split a group into batches that fill one forward pass; single cells if the task has no batch.

    Args:
        group: cells that can share a batch.
        rows: the largest number of rows in one forward pass; None for the limit of the model.
    """
    first = group[0].run
    max_rows = rows or first.resolved["model"].get("max_rows") or ROWS
    estimate = first.resolved["task"].get("estimate") or {}
    step = max(1, max_rows // (first.count * estimate_rows(estimate))) if first.batches else 1
    for start in range(0, len(group), step):
        yield list(group[start : start + step])


def estimate_rows(estimate) -> int:
    """About how many rows one image of an estimate needs: one per prompt, one for the null."""
    return 1 + sum(1 for _ in find_prompts(estimate)) if estimate else 1


def find_prompts(node) -> Iterator[str]:
    """Yield "prompt" for each key of that name in a configuration node and the nodes inside it."""
    for key, value in node.items():
        if key == "prompt":
            yield key
        elif isinstance(value, dict):
            yield from find_prompts(value)


def run_batch(batch: Sequence[Cell], sweep: Path) -> bool:
    """Run these cells in one batch.

    If the batch fails, run the cells that were not written in two halves, so that only those cells
    fail that fail alone.

    Returns:
        Whether no cell failed.
    """
    remaining = dict(enumerate(batch))

    @contextmanager
    def cell_folder(index: int):
        with atomic_folder(batch[index].folder(sweep)) as part:
            yield part
        del remaining[index]

    try:
        if len(batch) > 1:
            run_together(
                [cell.run for cell in batch],
                LOGGER.info,
                cell_folder,
                [run_info(sweep, cell.run) for cell in batch],
            )
        else:
            with cell_folder(0) as part:
                run_job(batch[0].run, part, about=run_info(sweep, batch[0].run))
        return True
    except Exception as error:
        interrupts.raise_if_interrupted(error)
        cells = list(remaining.values())
        if len(batch) == 1:
            record_failure(batch[0].folder(sweep), error, batch[0].arguments)
            return False
        half = max(1, len(cells) // 2)
        # A list, so that the second half runs even if the first has failed
        return all([run_batch(part, sweep) for part in (cells[:half], cells[half:]) if part])
