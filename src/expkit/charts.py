"""Charts: matplotlib's figures as pictures, drawn without a display."""

from __future__ import annotations

import io

from PIL import Image


def drawn(figure) -> Image.Image:
    """A matplotlib Figure as a picture."""
    page = io.BytesIO()
    figure.savefig(page, dpi=110)
    return Image.open(page)
