"""The sheet of a run: a row a wish and a reading, a column a sample; with two axes or more the last one runs across."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from expkit.animations import fade_frames, turn_frames
from expkit.sheets import WIDEST, sheet, square
from expkit.tasks.readings import Reading
from expkit.views import View

NUMBER = re.compile(r"-?[\d.]+(e[-+]?\d+)?")


class Shown(NamedTuple):
    """One reading of the pictures: how they look through it, (N, C, H, W), and what was asked of each."""

    label: str
    images: Tensor
    said: Sequence[str]


def shown(images: Tensor, readings: Mapping[str, Reading], rows: Sequence[int], count: int) -> list[Shown]:
    """The pictures, rows of a run of `count`, as each reading shows them; as they are where there is no reading."""
    prompts = {name: reading.prompts(count) for name, reading in readings.items()}
    looks = [Shown(name, r.through(images), [prompts[name][row] for row in rows]) for name, r in readings.items()]
    return looks or [Shown("picture", images, [""] * len(rows))]


def staged(small: Tensor, looks: Sequence[Shown]) -> list[Shown]:
    """What the first stage made, as large as what the second made of it, and the looks of that; a lone look is named after its stage."""
    blank = [""] * len(small)
    first = Shown("stage I", interpolate(small, looks[0].images.shape[-2:], mode="nearest"), blank)
    return [first, *looks] if len(looks) > 1 else [first, looks[0]._replace(label="stage II", said=blank)]


def figure(
    name: str,
    looks: Sequence[Shown],
    cells: Sequence[Mapping],
    samples: int,
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    note: str = "",
) -> Image.Image:
    cells, axes = table(cells)
    across, folded = width(axes, samples)
    line = square(samples) if across == 1 else across * samples
    rows, down, under = [], [], []
    for first in range(0, len(cells), across):
        here = range(first, min(first + across, len(cells)))
        end = (here[-1] + 1) * samples
        for start in range(first * samples, end, line):
            extra = [[picture[start % len(picture)] for picture in group.values()] for group in (before, after)]
            for look in looks:
                pictures = look.images[start : min(start + line, end)]
                missing = [torch.ones_like(pictures[0])] * (line - len(pictures)) if after and not folded else []
                rows.append([*extra[0], *pictures, *missing, *extra[1]])
                down.append(row_label(look, cells, here, samples, len(looks), axes))
                own = [caption(cells[row // samples], axes) for row in range(start, start + len(pictures)) if folded]
                under.append([""] * len(extra[0]) + [text * (look is looks[-1]) for text in own] + [""] * len(extra[1]))
    heads = [] if folded else columns(cells, across, samples if across > 1 else line, axes, before, after)
    return sheet(rows, down, heads, name, note, under=under if folded else ())


def table(cells: Sequence[Mapping]) -> tuple[Sequence[Mapping], dict[str, list[str]]]:
    """Cells and their axes, {key: values}; those that do not fill a table are told apart by all of their values at once."""
    axes = {key: list(dict.fromkeys(str(cell[key]) for cell in cells)) for key in cells[0]}
    if prod(map(len, axes.values())) == len(cells):
        return cells, axes
    name = " / ".join(axes)
    return table([{name: " / ".join(map(str, cell.values()))} for cell in cells]) if len(axes) > 1 else (cells, axes)


def caption(cell: Mapping, axes: Mapping[str, Sequence[str]]) -> str:
    """What distinguishes a cell along the last axis: words speak for themselves, a number stands beside its key."""
    key = list(axes)[-1]
    value = str(cell[key])
    return labelled(key, value) if not value or NUMBER.fullmatch(value) else value


def width(axes: Mapping[str, Sequence[str]], samples: int) -> tuple[int, bool]:
    """How many cells stand side by side, and whether that is a part of an axis only."""
    if not axes or (len(axes) == 1 and samples > 1):
        return 1, False
    whole = len(axes[list(axes)[-1]])
    return square(whole), whole > WIDEST


def row_label(look: Shown, cells: Sequence[Mapping], here: range, samples: int, many: int, axes: Mapping[str, Sequence[str]]) -> str:
    """The reading and its prompt if there are several or the prompt is the same along the row; else what distinguishes the row."""
    keys = [key for key in axes if cells[here[0]][key] == cells[here[-1]][key]] if len(here) > 1 else list(axes)
    prompts = set(look.said[here[0] * samples : (here[-1] + 1) * samples])
    one = prompts.pop() if len(prompts) == 1 else ""
    said = "" if many == 1 else labelled(look.label, one) if one else look.label
    cell = [labelled(key, cells[here[0]][key]) for key in keys if not (said and key == look.label)]
    return ", ".join([*cell, said] if said else cell)


def labelled(key: str, value) -> str:
    """A key and its value: a number stands beside it, words after a colon."""
    if value == "":
        return f"no {key}"
    return f"{key} {value}" if NUMBER.fullmatch(str(value)) else f"{key}: {value}"


def columns(cells, across: int, samples: int, axes, before, after) -> list[str]:
    """What distinguishes the columns; results are called that where something else stands beside them."""
    first = [caption(cell, axes) for cell in cells[:across]] if across > 1 else []
    named = [text for head in first for text in (head, *[""] * (samples - 1))] or ["result" * bool(before or after)] * samples
    return [*before, *named, *after] if any([*before, *named, *after]) else []


def moved(first: Shown, then: Shown, view: View) -> list[Image.Image]:
    """Frames of the first picture as it is turned, or fades, from one reading to another."""
    captions = [f"{look.label}: {look.said[0]}" for look in (first, then)]
    if view.degrees:
        return turn_frames(first.images[0], view.degrees, captions)
    return fade_frames(first.images[0], then.images[0], captions)
