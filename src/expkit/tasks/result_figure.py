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

from expkit.core.views import View
from expkit.images.animations import fade_frames, turn_frames
from expkit.images.labels import axis_labels
from expkit.images.sheets import WIDEST, picture_sheet, square_line_length
from expkit.tasks.scoring import Readout

NUMBER = re.compile(r"-?[\d.]+(e[-+]?\d+)?")


class Shown(NamedTuple):
    """One reading of the pictures: how they look through it, (N, C, H, W), and what was asked of each."""

    label: str
    images: Tensor
    said: Sequence[str]


def readout_images(
    images: Tensor, readings: Mapping[str, Readout], rows: Sequence[int], count: int
) -> list[Shown]:
    """The pictures, rows of a run of `count`, as each reading shows them; as they are where there is no reading."""
    prompts = {name: reading.prompts(count) for name, reading in readings.items()}
    looks = [
        Shown(name, r.through(images), [prompts[name][row] for row in rows]) for name, r in readings.items()
    ]
    return looks or [Shown("picture", images, [""] * len(rows))]


def stage_images(small: Tensor, looks: Sequence[Shown]) -> list[Shown]:
    """What the first stage made, as large as what the second made of it, and the looks of that; a lone look is named after its stage."""
    blank = [""] * len(small)
    first = Shown("stage I", interpolate(small, looks[0].images.shape[-2:], mode="nearest"), blank)
    return [first, *looks] if len(looks) > 1 else [first, looks[0]._replace(label="stage II", said=blank)]


def result_sheet(
    name: str,
    looks: Sequence[Shown],
    cells: Sequence[Mapping],
    samples: int,
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    note: str = "",
) -> Image.Image:
    """The sheet of a run. before, after: pictures to stand beside the looks, {label: (1 or B, C, H, W)}, B as many as there are pictures.

    They stand once in each line where they are the same for all of it, else in lines of their own, above and below.
    """
    cells, axes = as_table(label_cells(cells))
    across, folded = cells_across(axes, samples)
    line = square_line_length(samples) if across == 1 else across * samples
    if columns_vary(before, after, line):
        return in_lines(name, looks, cells, samples, axes, before, after, note)
    rows, down, under = [], [], []
    for first in range(0, len(cells), across):
        here = range(first, min(first + across, len(cells)))
        end = (here[-1] + 1) * samples
        for start in range(first * samples, end, line):
            extra = [
                [picture[start % len(picture)] for picture in group.values()] for group in (before, after)
            ]
            for look in looks:
                pictures = look.images[start : min(start + line, end)]
                missing = (
                    [torch.ones_like(pictures[0])] * (line - len(pictures)) if after and not folded else []
                )
                rows.append([*extra[0], *pictures, *missing, *extra[1]])
                down.append(row_label(look, cells, here, samples, len(looks), axes))
                own = [
                    column_caption(cells[row // samples], axes)
                    for row in range(start, start + len(pictures))
                    if folded
                ]
                under.append(
                    [""] * len(extra[0]) + [text * (look is looks[-1]) for text in own] + [""] * len(extra[1])
                )
    heads = (
        [] if folded else column_labels(cells, across, samples if across > 1 else line, axes, before, after)
    )
    return picture_sheet(rows, down, heads, name, note, under=under if folded else ())


def columns_vary(before: Mapping[str, Tensor], after: Mapping[str, Tensor], line: int) -> bool:
    """Whether the pictures of one line differ in what stands beside them."""
    groups = [
        part
        for pictures in (*before.values(), *after.values())
        if len(pictures) > 1
        for part in pictures.split(line)
    ]
    return any(not torch.equal(part, part[:1].expand_as(part)) for part in groups)


def in_lines(
    name: str,
    looks: Sequence[Shown],
    cells: Sequence[Mapping],
    samples: int,
    axes: Mapping[str, Sequence[str]],
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    note: str,
) -> Image.Image:
    """A column a picture: what stood before it, its looks, what stands after it; one line of columns after another."""
    count = len(looks[0].images)
    line = square_line_length(count)
    named = [
        label_value(look.label, look.said[0]) if look.said[0] and len({*look.said}) == 1 else look.label
        for look in looks
    ]
    results = zip(named if len(looks) > 1 else ["result"], [look.images for look in looks], strict=True)
    ways = [*before.items(), *results, *after.items()]
    key = list(axes)[-1] if axes else ""
    rows, down, under = [], [], []
    for start in range(0, count, line):
        here = range(start, min(start + line, count))
        for way, pictures in ways:
            rows.append([pictures[row % len(pictures)] for row in here])
            down.append(way)
            under.append([""] * len(here))
        under[-1] = [describe_cell(cells[row // samples], axes, key) for row in here]
    return picture_sheet(rows, down, (), name, note, under=under)


def describe_cell(cell: Mapping, axes: Mapping[str, Sequence[str]], last: str) -> str:
    """All that distinguishes a cell; its last value as it stands over a column."""
    return ", ".join(
        column_caption(cell, axes) if key == last else label_value(key, cell[key]) for key in axes
    )


def label_cells(cells: Sequence[Mapping]) -> list[dict[str, str]]:
    """The cells with the labels of their values; what is empty stays so."""
    named = {key: axis_labels([cell[key] for cell in cells]) for key in cells[0]}
    return [
        {key: "" if cell[key] == "" else named[key][place] for key in cell}
        for place, cell in enumerate(cells)
    ]


def as_table(cells: Sequence[Mapping[str, str]]) -> tuple[Sequence[Mapping[str, str]], dict[str, list[str]]]:
    """Cells, {key: label}, and their axes, {key: labels}; those that do not fill a table are told apart by all of their values at once."""
    axes = {key: list(dict.fromkeys(cell[key] for cell in cells)) for key in cells[0]}
    if prod(map(len, axes.values())) == len(cells):
        return cells, axes
    name = " / ".join(axes)
    return as_table([{name: " / ".join(cell.values())} for cell in cells]) if len(axes) > 1 else (cells, axes)


def column_caption(cell: Mapping, axes: Mapping[str, Sequence[str]]) -> str:
    """What distinguishes a cell along the last axis: words speak for themselves, a number stands beside its key."""
    key = list(axes)[-1]
    value = str(cell[key])
    return label_value(key, value) if not value or NUMBER.fullmatch(value) else value


def cells_across(axes: Mapping[str, Sequence[str]], samples: int) -> tuple[int, bool]:
    """How many cells stand side by side, and whether that is a part of an axis only."""
    if not axes or (len(axes) == 1 and samples > 1):
        return 1, False
    whole = len(axes[list(axes)[-1]])
    return square_line_length(whole), whole > WIDEST


def row_label(
    look: Shown,
    cells: Sequence[Mapping],
    here: range,
    samples: int,
    many: int,
    axes: Mapping[str, Sequence[str]],
) -> str:
    """The reading and its prompt if there are several or the prompt is the same along the row; else what distinguishes the row."""
    keys = (
        [key for key in axes if cells[here[0]][key] == cells[here[-1]][key]] if len(here) > 1 else list(axes)
    )
    prompts = set(look.said[here[0] * samples : (here[-1] + 1) * samples])
    one = prompts.pop() if len(prompts) == 1 else ""
    said = "" if many == 1 else label_value(look.label, one) if one else look.label
    cell = [label_value(key, cells[here[0]][key]) for key in keys if not (said and key == look.label)]
    return ", ".join([*cell, said] if said else cell)


def label_value(key: str, value) -> str:
    """A key and its value: a number stands beside it, words after a colon."""
    if value == "":
        return f"no {key}"
    return f"{key} {value}" if NUMBER.fullmatch(str(value)) else f"{key}: {value}"


def column_labels(cells, across: int, samples: int, axes, before, after) -> list[str]:
    """What distinguishes the columns; results are called that where something else stands beside them."""
    first = [column_caption(cell, axes) for cell in cells[:across]] if across > 1 else []
    named = [text for head in first for text in (head, *[""] * (samples - 1))] or [
        "result" * bool(before or after)
    ] * samples
    return [*before, *named, *after] if any([*before, *named, *after]) else []


def readout_frames(first: Shown, then: Shown, view: View) -> list[Image.Image]:
    """Frames of the first picture as it is turned, or fades, from one reading to another."""
    captions = [f"{look.label}: {look.said[0]}" for look in (first, then)]
    if view.degrees:
        return turn_frames(first.images[0], view.degrees, captions)
    return fade_frames(first.images[0], then.images[0], captions)
