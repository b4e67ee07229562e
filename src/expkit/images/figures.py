"""Charts: matplotlib's figures as pictures, drawn without a display; what a person typed stands in them as it is."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache

from PIL import Image

from expkit.images import labels, text_drawing

NARROWER = 0.85  # how wide letters of `text_drawing` are, in those of matplotlib's font
POINTS = 72  # of an inch


def render_figure(figure) -> Image.Image:
    """A matplotlib Figure as a picture; each character in the first font that has it."""
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
    """The names of the fonts that matplotlib tries in turn; it knows those of packages from now on."""
    from matplotlib import font_manager

    manager, names = font_manager.fontManager, ["DejaVu Sans"]
    for path in text_drawing.font_paths():
        manager.addfont(path)
        names.append(manager.ttflist[-1].name)
    return list(dict.fromkeys(names))


def wrap_for_figure(text: str, inches: float, points: float = 10, most: int = labels.WHOLE) -> str:
    """A text in lines that are no wider than so many inches, as matplotlib draws it: $ is a dollar, and begins no formula."""
    said = text_drawing.text_for_matplotlib(labels.cut_middle(text, 0, most))
    return text_drawing.wrap_text(said, round(points), inches * POINTS * NARROWER).replace("$", r"\$")


def told_apart(
    texts: Sequence[str], inches: float, points: float = 10, most: int = labels.LONGEST
) -> list[str]:
    """Labels of one axis or legend, shortened so that those that differ still do, in lines."""
    return [wrap_for_figure(text, inches, points) for text in labels.shorten_texts(texts, most)]
