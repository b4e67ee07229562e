"""How to look at the pictures of a run: what is to be read in them, and the sheet that shows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from expkit import pictures
from expkit.denoiser import Denoiser
from expkit.judges import shrunk


@dataclass(frozen=True)
class Reading:
    """What a picture should show (`prompt`, or a list with one a picture) when it is looked at `through` something."""

    prompt: str | int | Sequence[str | int]
    through: Callable[[Tensor], Tensor]

    def prompts(self, count: int) -> list[str]:
        return [str(self.prompt)] * count if isinstance(self.prompt, str | int) else [str(p) for p in self.prompt]

    def asked(self, model: Denoiser, count: int) -> list[str]:
        """The prompts in the model's own words."""
        return [model.understand(p) for p in self.prompts(count)]


@dataclass(frozen=True)
class FromAfar:
    """A picture as it looks from afar: shrunk by `times`, and shown at its old size again."""

    times: int = 4

    def __call__(self, images: Tensor) -> Tensor:
        return shrunk(images, self.times)


def figure(
    name: str,
    images: Tensor,
    cells: Sequence[Mapping],
    samples: int,
    readings: Mapping[str, Reading],
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    note: str = "",
) -> Image.Image:
    """A row a wish and a reading, a column a sample; with two axes or more the last one runs across."""
    axes = {key: list(dict.fromkeys(str(cell[key]) for cell in cells)) for key in cells[0]}
    across = len(axes[list(axes)[-1]]) if len(axes) > 1 or (len(axes) == 1 and samples == 1) else 1
    rows, down = [], []
    for first in range(0, len(cells), across):
        here = list(range(first * samples, (first + across) * samples))
        for label, reading in readings.items():
            extra = [[shown[here[0] % len(shown)] for shown in group.values()] for group in (before, after)]
            rows.append([*extra[0], *reading.through(images[here]), *extra[1]])
            down.append(row_label(label, reading, cells, first, across, samples, len(readings), axes))
    return pictures.sheet(rows, down, columns(cells, across, samples, axes, before, after), name, note)


def row_label(label: str, reading: Reading, cells, first: int, across: int, samples: int, many: int, axes) -> str:
    """The reading and its prompt if there are several or the prompt is the same along the row; else what distinguishes the row."""
    keys = list(axes)[:-1] if across > 1 else list(axes)
    prompts = set(reading.prompts(len(cells) * samples)[first * samples : (first + across) * samples])
    said = f"{label} {prompts.pop()}".strip() if many > 1 and len(prompts) == 1 else label if many > 1 else ""
    cell = ", ".join(f"{key} {cells[first][key]}" for key in keys if not (said and key == label))
    return ": ".join(part for part in (cell, said) if part)


def columns(cells, across: int, samples: int, axes, before, after) -> list[str]:
    key = list(axes)[-1] if across > 1 else None
    named = [f"{key} {cells[i][key]}" if key and k == 0 else "" for i in range(across) for k in range(samples)]
    return [*before, *named, *after] if any([*before, *named, *after]) else []
