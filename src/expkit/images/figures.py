"""Figures: matplotlib figures as images, drawn without a display; users' text appears literally."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache

from PIL import Image

from expkit.images import labels, text_drawing

NARROWER = 0.85  # width of a letter in `text_drawing`, relative to matplotlib's font
POINTS = 72  # points per inch


def render_figure(figure) -> Image.Image:
    """A matplotlib Figure as an image; each character is drawn with the first font that has it."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_fontfamily(font_families())
    for axes in figure.findobj(lambda artist: hasattr(artist, "tick_params")):
        axes.tick_params(labelfontfamily=font_families())
    page = io.BytesIO()
    figure.savefig(page, dpi=110)
    return Image.open(page)


@cache
def font_families() -> list[str]:
    """The font families that matplotlib tries in order; registers `font_paths` with matplotlib."""
    from matplotlib import font_manager

    manager = font_manager.fontManager
    names = ["DejaVu Sans"]
    for path in text_drawing.font_paths():
        manager.addfont(path)
        names.append(manager.ttflist[-1].name)
    return list(dict.fromkeys(names))


def wrap_for_figure(
    text: str, inches: float, points: float = 10, most: int = labels.MAX_WRAPPED_LABEL
) -> str:
    """The text, cut to `most` characters, in lines at most `inches` wide in a matplotlib figure.

    $ is escaped, so that it is a dollar sign and starts no formula.
    """
    text = text_drawing.text_for_matplotlib(labels.cut_middle(text, 0, most))
    width = inches * POINTS * NARROWER
    return text_drawing.wrap_text(text, round(points), width).replace("$", r"\$")


def distinct_labels(
    texts: Sequence[str], inches: float, points: float = 10, most: int = labels.MAX_LABEL
) -> list[str]:
    """Labels of an axis or legend, wrapped, and shortened so that different ones stay different."""
    return [wrap_for_figure(text, inches, points) for text in labels.shorten_texts(texts, most)]
