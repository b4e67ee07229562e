"""The chart of a search: what is sought against trial, with the best so far, and against each key."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

from expkit.images.figures import render_figure, told_apart, wrap_for_figure
from expkit.images.labels import axis_labels


def search_chart(book) -> Image.Image:
    """book: `Trials`, at least one of which has given a number. The later a trial, the darker."""
    from matplotlib.figure import Figure

    trials = [trial for trial in book.trials if trial.value is not None]
    best, values = book.aim.best(trials), [trial.value for trial in trials]
    across = min(3, 1 + len(book.keys))
    down = math.ceil((1 + len(book.keys)) / across)
    figure = Figure(figsize=(4.4 * across, 3.4 * down + 0.6), layout="constrained")
    said = (book.title, f"best: {best.told(book.keys)} (trial {best.number} of {len(book.trials)})")
    figure.suptitle("\n".join(wrap_for_figure(text, 4.4 * across - 0.5) for text in said), fontsize=10)
    first, *rest = figure.subplots(down, across, squeeze=False).flat
    numbers = [trial.number for trial in trials]
    running = [book.aim.best(trials[: place + 1]).value for place in range(len(trials))]
    first.plot(numbers, values, "o", color="C0", ms=5, label="trial")
    first.step(numbers, running, where="post", color="C3", lw=1, label="best so far")
    first.set(xlabel="trial", ylabel=wrap_for_figure(book.aim.objective, 2.8))
    first.legend(fontsize=8)
    for axes, key in zip(rest, book.keys, strict=False):
        found = [trial.cell.axes[key] for trial in trials]
        found = found if is_numeric(found) else told_apart(axis_labels(found), 3.4 / len(book.axes[key]), 8)
        axes.scatter(found, values, c=numbers, cmap="Blues", vmin=-len(values), edgecolors="C0")
        axes.plot([found[trials.index(best)]], [best.value], "*", color="C3", ms=12, label="best")
        axes.set(xlabel=wrap_for_figure(key, 3.8))
        axes.tick_params(axis="x", labelsize=10 if is_numeric(found) else 8)
    for axes in (first, *rest):
        axes.grid(alpha=0.3)
        axes.set_visible(axes in (first, *rest[: len(book.keys)]))
    return render_figure(figure)


def is_numeric(values: Sequence) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
