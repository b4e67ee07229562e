"""The page of task=evaluate: quality against diversity, each against gamma, and a few pictures of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from expkit.images.figures import render_figure, wrap_for_figure

MADE, REAL = "C0", "C3"
COLUMNS = {
    "accuracy": "accuracy",
    "entropy_in_bits": "entropy,\nbits",
    "frechet_distance": "Fréchet\ndistance",
    "precision": "precision",
    "recall": "recall",
    "diversity": "diversity",
    "inception_frechet_distance": "Inception\nFID",
}


class Row(NamedTuple):
    """A set: its name, some of its pictures (n, C, H, W) in [0, 1], its gamma where it was sampled with one, and what was measured."""

    name: str
    images: Tensor
    gamma: float | None
    measured: Mapping


def tradeoff_page(rows: Sequence[Row], judge: str, about: str) -> Image.Image:
    """Two rows or more of sets that were made, and last the training and the test pictures."""
    from matplotlib.figure import Figure

    swept, table = len(rows) > 3, 0.72 * len(rows) + 0.5
    figure = Figure(figsize=(12, table + 3.6 * swept + 0.9), layout="constrained")
    figure.suptitle(f"Quality and diversity\n{wrap_for_figure(about, 11.5)}", fontsize=10)
    figure.get_layout_engine().set(h_pad=0.08, w_pad=0.08)
    *charts, below = figure.subfigures(1 + swept, 1, height_ratios=[3.6, table][-1 - swept :], squeeze=False)[
        :, 0
    ]
    for chart in charts:
        plot_curves(chart.subplots(1, 4), rows, judge)
    add_strips(below, rows, judge)
    return render_figure(figure)


def plot_curves(axes, rows: Sequence[Row], judge: str) -> None:
    """Precision against recall; Fréchet distance, accuracy and diversity against gamma, with the real pictures' own."""
    *made, train, test = sorted(rows[:-2], key=lambda row: row.gamma) + list(rows[-2:])
    plane, *lines = axes
    plane.plot(
        [row.measured["recall"] for row in made],
        [row.measured["precision"] for row in made],
        "o-",
        color=MADE,
        ms=5,
        lw=1,
    )
    for number, row in enumerate(made):  # labels above and below by turns: neighbours are often close
        place, beside = (row.measured["recall"], row.measured["precision"]), (4, 5 - 15 * (number % 2))
        plane.annotate(f"{row.gamma:g}", place, beside, textcoords="offset points", fontsize=8)
    plane.plot(
        train.measured["recall"], train.measured["precision"], "*", color=REAL, ms=11, label=train.name
    )
    plane.margins(0.12)
    plane.set(xlabel="recall", ylabel="precision", title="precision and recall at each gamma")
    plane.legend(fontsize=8)
    drawings = (
        ("Fréchet distance", "frechet_distance", train),
        (wrap_for_figure(f"accuracy, by judge “{judge}”", 2.4), "accuracy", test),
        ("diversity within a class", "diversity", train),
    )
    for chart, (title, key, real) in zip(lines, drawings, strict=True):
        chart.plot(
            [row.gamma for row in made],
            [row_value(row, key, judge) for row in made],
            "o-",
            color=MADE,
            ms=5,
            lw=1,
        )
        chart.axhline(row_value(real, key, judge), color=REAL, ls="--", lw=1, label=real.name)
        chart.set(xlabel="gamma", title=title)
        chart.legend(fontsize=8)
    for chart in axes:
        chart.grid(alpha=0.3)
        chart.title.set_fontsize(10)


def row_value(row: Row, key: str, judge: str) -> float | None:
    found = row.measured.get(key)
    return found[judge] if isinstance(found, Mapping) else found


def add_strips(figure, rows: Sequence[Row], judge: str) -> None:
    """A line of numbers and a strip of pictures a set."""
    columns = {key: title for key, title in COLUMNS.items() if any(key in row.measured for row in rows)}
    cells = figure.subplots(len(rows), 2, width_ratios=[5, 5.6], squeeze=False)
    places = [0.26 + 0.76 * (k + 0.5) / len(columns) for k in range(len(columns))]
    for (line, strip), row in zip(cells, rows, strict=True):
        line.text(0, 0.5, wrap_for_figure(row.name, 1.4), va="center", fontsize=10)
        for place, key in zip(places, columns, strict=True):
            found = row_value(row, key, judge)
            line.text(
                place, 0.5, "–" if found is None else f"{found:.3f}", va="center", ha="center", fontsize=10
            )
        strip.imshow(side_by_side(row.images), cmap="gray", vmin=0, vmax=1)
        line.axis("off"), strip.axis("off")
    for place, title in zip(places, columns.values(), strict=True):
        cells[0][0].text(place, 1.05, title, va="bottom", ha="center", fontsize=9, color="0.4")


def side_by_side(images: Tensor):
    """(n, C, H, W) as one array (H, n W) or (H, n W, C), white between."""
    wide = pad(images, (1, 1, 1, 1), value=1.0).permute(1, 2, 0, 3).flatten(2)
    return wide[0].numpy() if len(wide) == 1 else wide.permute(1, 2, 0).numpy()
