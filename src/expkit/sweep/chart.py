"""The chart of a search: the objective over the trials, with the best so far, and over each key."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

from expkit.images.figures import distinct_labels, render_figure, wrap_for_figure
from expkit.images.labels import axis_labels


def search_chart(book) -> Image.Image:
    """Draw the objective against the trial number and against each key that is searched.

    Args:
        book: `Trials`, at least one of which has a value. Later trials are drawn darker.
    """
    from matplotlib.figure import Figure

    trials = [trial for trial in book.trials if trial.value is not None]
    best = book.aim.best(trials)
    values = [trial.value for trial in trials]
    columns = min(3, 1 + len(book.keys))
    rows = math.ceil((1 + len(book.keys)) / columns)
    figure = Figure(figsize=(4.4 * columns, 3.4 * rows + 0.6), layout="constrained")
    best_line = f"best: {best.describe(book.keys)} (trial {best.number} of {len(book.trials)})"
    title_lines = [wrap_for_figure(text, 4.4 * columns - 0.5) for text in (book.title, best_line)]
    figure.suptitle("\n".join(title_lines), fontsize=10)
    trial_axes, *key_axes = figure.subplots(rows, columns, squeeze=False).flat
    numbers = [trial.number for trial in trials]
    best_so_far = [book.aim.best(trials[: index + 1]).value for index in range(len(trials))]
    trial_axes.plot(numbers, values, "o", color="C0", ms=5, label="trial")
    trial_axes.step(numbers, best_so_far, where="post", color="C3", lw=1, label="best so far")
    trial_axes.set(xlabel="trial", ylabel=wrap_for_figure(book.aim.objective, 2.8))
    trial_axes.legend(fontsize=8)
    for axes, key in zip(key_axes, book.keys, strict=False):
        positions = [trial.cell.axes[key] for trial in trials]
        if not is_numeric(positions):
            positions = distinct_labels(axis_labels(positions), 3.4 / len(book.axes[key]), 8)
        axes.scatter(positions, values, c=numbers, cmap="Blues", vmin=-len(values), edgecolors="C0")
        best_position = positions[trials.index(best)]
        axes.plot([best_position], [best.value], "*", color="C3", ms=12, label="best")
        axes.set(xlabel=wrap_for_figure(key, 3.8))
        axes.tick_params(axis="x", labelsize=10 if is_numeric(positions) else 8)
    for axes in (trial_axes, *key_axes):
        axes.grid(alpha=0.3)
        axes.set_visible(axes in (trial_axes, *key_axes[: len(book.keys)]))
    return render_figure(figure)


def is_numeric(values: Sequence) -> bool:
    """Whether all values are numbers; bools are not."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
