"""The sheet of a run: a row per condition and readout, a column per sample.

With two axes or more, the conditions along the last axis stand side by side instead.
"""

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


class ReadoutImages(NamedTuple):
    """The pictures as one readout shows them.

    Attributes:
        label: the name of the readout.
        images: (N, C, H, W).
        prompts: the prompt of each picture.
    """

    label: str
    images: Tensor
    prompts: Sequence[str]


def readout_images(
    images: Tensor, readings: Mapping[str, Readout], rows: Sequence[int], count: int
) -> list[ReadoutImages]:
    """The pictures through each readout; unchanged where there is no readout.

    rows: the numbers of these pictures in a run of `count` pictures.
    """
    looks = []
    for name, readout in readings.items():
        prompts = readout.prompts(count)
        looks.append(ReadoutImages(name, readout.through(images), [prompts[row] for row in rows]))
    return looks or [ReadoutImages("picture", images, [""] * len(rows))]


def stage_images(small: Tensor, looks: Sequence[ReadoutImages]) -> list[ReadoutImages]:
    """The results of the first stage, enlarged to the size of the second's, then the second's.

    If the second has one readout only, it is labelled with its stage.
    """
    blank = [""] * len(small)
    enlarged = interpolate(small, looks[0].images.shape[-2:], mode="nearest")
    first = ReadoutImages("stage I", enlarged, blank)
    if len(looks) == 1:
        looks = [looks[0]._replace(label="stage II", prompts=blank)]
    return [first, *looks]


def result_sheet(
    name: str,
    looks: Sequence[ReadoutImages],
    cells: Sequence[Mapping],
    samples: int,
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    note: str = "",
) -> Image.Image:
    """The sheet of a run.

    Args:
        name: the title.
        looks: the pictures through each readout, condition by condition.
        cells: what distinguishes the conditions, {key: value} each.
        samples: the number of pictures of each condition.
        before, after: pictures to show beside the results, {label: (1 or B, C, H, W)}, B the number
            of results. They stand once in each line if they are the same for all of it, else in
            lines of their own, above and below.
        note: a line for the foot of the sheet.
    """
    cells, axes = as_table(label_cells(cells))
    across, is_folded = cells_across(axes, samples)
    line = square_line_length(samples) if across == 1 else across * samples
    if columns_vary(before, after, line):
        return in_lines(name, looks, cells, samples, axes, before, after, note)
    rows, down, under = [], [], []
    for first in range(0, len(cells), across):
        cell_range = range(first, min(first + across, len(cells)))
        end = (cell_range[-1] + 1) * samples
        for start in range(first * samples, end, line):
            left = [images[start % len(images)] for images in before.values()]
            right = [images[start % len(images)] for images in after.values()]
            for look in looks:
                pictures = look.images[start : min(start + line, end)]
                padding = []
                if after and not is_folded:
                    padding = [torch.ones_like(pictures[0])] * (line - len(pictures))
                rows.append([*left, *pictures, *padding, *right])
                down.append(row_label(look, cells, cell_range, samples, len(looks), axes))
                captions = [""] * len(pictures)
                if is_folded and look is looks[-1]:
                    numbers = range(start, start + len(pictures))
                    captions = [column_caption(cells[row // samples], axes) for row in numbers]
                under.append([""] * len(left) + captions + [""] * len(right))
    if is_folded:
        return picture_sheet(rows, down, [], name, note, under=under)
    heads = column_labels(cells, across, samples if across > 1 else line, axes, before, after)
    return picture_sheet(rows, down, heads, name, note)


def columns_vary(before: Mapping[str, Tensor], after: Mapping[str, Tensor], line: int) -> bool:
    """Whether the results of one line differ in the pictures beside them."""
    groups = [
        part
        for pictures in (*before.values(), *after.values())
        if len(pictures) > 1
        for part in pictures.split(line)
    ]
    return any(not torch.equal(part, part[:1].expand_as(part)) for part in groups)


def in_lines(
    name: str,
    looks: Sequence[ReadoutImages],
    cells: Sequence[Mapping],
    samples: int,
    axes: Mapping[str, Sequence[str]],
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    note: str,
) -> Image.Image:
    """A sheet with a column per result: pictures before it, its readouts, pictures after it.

    Long runs continue in further lines of columns.
    """
    count = len(looks[0].images)
    line = square_line_length(count)
    results = [("result", looks[0].images)]
    if len(looks) > 1:
        results = [(line_label(look), look.images) for look in looks]
    groups = [*before.items(), *results, *after.items()]
    last = list(axes)[-1] if axes else ""
    rows, down, under = [], [], []
    for start in range(0, count, line):
        columns = range(start, min(start + line, count))
        for label, pictures in groups:
            rows.append([pictures[column % len(pictures)] for column in columns])
            down.append(label)
            under.append([""] * len(columns))
        under[-1] = [describe_cell(cells[column // samples], axes, last) for column in columns]
    return picture_sheet(rows, down, (), name, note, under=under)


def line_label(look: ReadoutImages) -> str:
    """The readout, with its prompt if that is the same for all pictures."""
    prompt = look.prompts[0]
    return label_value(look.label, prompt) if prompt and len({*look.prompts}) == 1 else look.label


def describe_cell(cell: Mapping, axes: Mapping[str, Sequence[str]], last: str) -> str:
    """All that distinguishes a cell; its value along the last axis as in a column's caption."""
    return ", ".join(
        column_caption(cell, axes) if key == last else label_value(key, cell[key]) for key in axes
    )


def label_cells(cells: Sequence[Mapping]) -> list[dict[str, str]]:
    """The cells with labels in place of values; empty values stay empty."""
    labels = {key: axis_labels([cell[key] for cell in cells]) for key in cells[0]}
    return [
        {key: "" if cell[key] == "" else labels[key][index] for key in cell}
        for index, cell in enumerate(cells)
    ]


def as_table(
    cells: Sequence[Mapping[str, str]],
) -> tuple[Sequence[Mapping[str, str]], dict[str, list[str]]]:
    """Cells, {key: label}, and their axes, {key: labels}.

    Cells that do not fill a table get one axis, whose labels join all of their values.
    """
    axes = {key: list(dict.fromkeys(cell[key] for cell in cells)) for key in cells[0]}
    if prod(map(len, axes.values())) == len(cells) or len(axes) <= 1:
        return cells, axes
    name = " / ".join(axes)
    return as_table([{name: " / ".join(cell.values())} for cell in cells])


def column_caption(cell: Mapping, axes: Mapping[str, Sequence[str]]) -> str:
    """What distinguishes a cell along the last axis: words alone, a number with its key."""
    key = list(axes)[-1]
    value = str(cell[key])
    return label_value(key, value) if not value or NUMBER.fullmatch(value) else value


def cells_across(axes: Mapping[str, Sequence[str]], samples: int) -> tuple[int, bool]:
    """How many cells stand side by side, and whether the last axis is folded into several lines."""
    if not axes or (len(axes) == 1 and samples > 1):
        return 1, False
    whole = len(axes[list(axes)[-1]])
    return square_line_length(whole), whole > WIDEST


def row_label(
    look: ReadoutImages,
    cells: Sequence[Mapping],
    here: range,
    samples: int,
    many: int,
    axes: Mapping[str, Sequence[str]],
) -> str:
    """What distinguishes a row: the values that its cells share and, of several readouts, its own.

    The readout's prompt is added if it is the same along the row.

    Args:
        here: the cells in the row.
        many: the number of readouts.
    """
    first, last = cells[here[0]], cells[here[-1]]
    keys = [key for key in axes if first[key] == last[key]] if len(here) > 1 else list(axes)
    readout = ""
    if many != 1:
        prompts = set(look.prompts[here[0] * samples : (here[-1] + 1) * samples])
        prompt = prompts.pop() if len(prompts) == 1 else ""
        readout = label_value(look.label, prompt) if prompt else look.label
    values = [label_value(key, first[key]) for key in keys if not (readout and key == look.label)]
    return ", ".join([*values, readout] if readout else values)


def label_value(key: str, value) -> str:
    """A key and its value: a number follows it directly, words follow a colon."""
    if value == "":
        return f"no {key}"
    return f"{key} {value}" if NUMBER.fullmatch(str(value)) else f"{key}: {value}"


def column_labels(cells, across: int, samples: int, axes, before, after) -> list[str]:
    """What distinguishes the columns; "result" if only other pictures beside them need a label."""
    captions = [column_caption(cell, axes) for cell in cells[:across]] if across > 1 else []
    results = [text for caption in captions for text in (caption, *[""] * (samples - 1))]
    if not results:
        results = ["result" if before or after else ""] * samples
    labels = [*before, *results, *after]
    return labels if any(labels) else []


def readout_frames(first: ReadoutImages, then: ReadoutImages, view: View) -> list[Image.Image]:
    """Frames in which the first picture turns, or fades, from one readout to another."""
    captions = [f"{look.label}: {look.prompts[0]}" for look in (first, then)]
    if view.degrees:
        return turn_frames(first.images[0], view.degrees, captions)
    return fade_frames(first.images[0], then.images[0], captions)
