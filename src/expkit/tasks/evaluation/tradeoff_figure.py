"""The page of task=evaluate: quality and diversity against gamma, with pictures of each gamma."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from expkit.images.figures import render_figure, wrap_for_figure

MADE, REAL = "C0", "C3"  # colours of generated and of real pictures
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
    """A set of pictures on the page.

    Attributes:
        images: some of its pictures, (n, C, H, W) in [0, 1].
        gamma: the guidance strength it was sampled with, None for real pictures.
        measured: its numbers, {name: number or {judge: number}}.
    """

    name: str
    images: Tensor
    gamma: float | None
    measured: Mapping


def tradeoff_page(rows: Sequence[Row], judge: str, about: str) -> Image.Image:
    """The page of one generated set or more, followed by the training and the test pictures.

    Curves are drawn if there are two generated sets or more.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    has_curves = len(rows) > 3
    curves, table = 3.6 if has_curves else 0, 0.72 * len(rows) + 0.5
    heights = [curves, table] if has_curves else [table]
    engine = ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08)
    figure = Figure(figsize=(12, table + curves + 0.9), layout=engine)
    figure.suptitle(f"Quality and diversity\n{wrap_for_figure(about, 11.5)}", fontsize=10)
    subfigures = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)
    *charts, below = subfigures[:, 0]
    for chart in charts:
        plot_tradeoff(chart.subplots(1, 4), rows, judge)
    add_strips(below, rows, judge)
    return render_figure(figure)


def plot_tradeoff(axes, rows: Sequence[Row], judge: str) -> None:
    """Precision against recall; Fréchet distance, accuracy and diversity against gamma.

    Each chart also shows the value of the real pictures.
    """
    samples = sorted(rows[:-2], key=lambda row: row.gamma or 0)
    train, test = rows[-2:]
    plane, *lines = axes
    style = {"color": MADE, "ms": 5, "lw": 1}
    points = [(row.measured["recall"], row.measured["precision"]) for row in samples]
    recalls, precisions = zip(*points, strict=True)
    plane.plot(recalls, precisions, "o-", **style)
    for number, (row, point) in enumerate(zip(samples, points, strict=True)):
        offset = (4, 5 - 15 * (number % 2))  # by turns above and below: neighbours are often close
        plane.annotate(f"{row.gamma:g}", point, offset, textcoords="offset points", fontsize=8)
    recall, precision = train.measured["recall"], train.measured["precision"]
    plane.plot(recall, precision, "*", color=REAL, ms=11, label=train.name)
    plane.margins(0.12)
    plane.set(xlabel="recall", ylabel="precision", title="precision and recall at each gamma")
    plane.legend(fontsize=8)
    drawings = (
        ("Fréchet distance", "frechet_distance", train),
        (wrap_for_figure(f"accuracy, by judge “{judge}”", 2.4), "accuracy", test),
        ("diversity within a class", "diversity", train),
    )
    for chart, (title, key, real) in zip(lines, drawings, strict=True):
        values = [row_value(row, key, judge) for row in samples]
        chart.plot([row.gamma for row in samples], values, "o-", **style)
        chart.axhline(row_value(real, key, judge), color=REAL, ls="--", lw=1, label=real.name)
        chart.set(xlabel="gamma", title=title)
        chart.legend(fontsize=8)
    for chart in axes:
        chart.grid(alpha=0.3)
        chart.title.set_fontsize(10)


def row_value(row: Row, key: str, judge: str) -> float | None:
    """A number of a set, this judge's where each judge has one; None where it was not measured."""
    value = row.measured.get(key)
    return value[judge] if isinstance(value, Mapping) else value


def add_strips(figure, rows: Sequence[Row], judge: str) -> None:
    """For each set, a line of numbers and a strip of pictures."""
    keys = {key for row in rows for key in row.measured}
    columns = {key: title for key, title in COLUMNS.items() if key in keys}
    cells = figure.subplots(len(rows), 2, width_ratios=[5, 5.6], squeeze=False)
    places = [0.26 + 0.76 * (index + 0.5) / len(columns) for index in range(len(columns))]
    for (line, strip), row in zip(cells, rows, strict=True):
        line.text(0, 0.5, wrap_for_figure(row.name, 1.4), va="center", fontsize=10)
        for place, key in zip(places, columns, strict=True):
            value = row_value(row, key, judge)
            text = "–" if value is None else f"{value:.3f}"
            line.text(place, 0.5, text, va="center", ha="center", fontsize=10)
        strip.imshow(side_by_side(row.images), cmap="gray", vmin=0, vmax=1)
        line.axis("off")
        strip.axis("off")
    for place, title in zip(places, columns.values(), strict=True):
        cells[0][0].text(place, 1.05, title, va="bottom", ha="center", fontsize=9, color="0.4")


def side_by_side(images: Tensor):
    """(n, C, H, W) as one array (H, n W) or (H, n W, C), with white borders."""
    wide = pad(images, (1, 1, 1, 1), value=1.0).permute(1, 2, 0, 3).flatten(2)
    return wide[0].numpy() if len(wide) == 1 else wide.permute(1, 2, 0).numpy()
