"""The sheet of a run: a row per condition and readout, a column per sample.

With two axes or more, the conditions along the last axis stand side by side instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
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
    readouts = []
    for name, readout in readings.items():
        prompts = [readout.prompts(count)[row] for row in rows]
        readouts.append(ReadoutImages(name, readout.through(images), prompts))
    return readouts or [ReadoutImages("picture", images, [""] * len(rows))]


def stage_images(small: Tensor, readouts: Sequence[ReadoutImages]) -> list[ReadoutImages]:
    """The results of the first stage, enlarged to the size of the second's, then the second's.

    If the second has one readout only, it is labelled with its stage.
    """
    blank = [""] * len(small)
    enlarged = interpolate(small, readouts[0].images.shape[-2:], mode="nearest")
    first = ReadoutImages("stage I", enlarged, blank)
    if len(readouts) == 1:
        readouts = [readouts[0]._replace(label="stage II", prompts=blank)]
    return [first, *readouts]


class SheetRow(NamedTuple):
    """A row of a sheet: pictures (C, H, W), its label, a caption under each picture or none."""

    pictures: list[Tensor]
    label: str
    captions: list[str]


class LabelledImages(NamedTuple):
    """Pictures (1 or N, C, H, W) and their label: one for each of N results, or one for all."""

    label: str
    images: Tensor


class CellTable(NamedTuple):
    """The conditions of a run, with labels as values.

    Attributes:
        cells: {key: label} of each condition.
        axes: {key: the distinct labels}.
    """

    cells: Sequence[Mapping[str, str]]
    axes: dict[str, list[str]]


@dataclass(frozen=True, eq=False)
class SheetContent:
    """All that stands on a sheet, see `result_sheet`."""

    readouts: Sequence[ReadoutImages]
    cells: Sequence[Mapping[str, str]]
    axes: Mapping[str, Sequence[str]]
    samples: int
    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]

    @property
    def across(self) -> int:
        """How many cells stand side by side: a line of those along the last axis, or 1."""
        if not self.axes or (len(self.axes) == 1 and self.samples > 1):
            return 1
        return square_line_length(len(last_axis(self.axes)))

    @property
    def is_folded(self) -> bool:
        """Whether the last axis is broken into several lines."""
        return self.across > 1 and len(last_axis(self.axes)) > WIDEST

    @property
    def line(self) -> int:
        """The number of results in a row."""
        return square_line_length(self.samples) if self.across == 1 else self.across * self.samples


class RowRange(NamedTuple):
    """What stands in one row of each readout: the results of some cells, or a part of them.

    Attributes:
        cells: the cells.
        results: the numbers of the results.
    """

    cells: range
    results: range


def result_sheet(
    name: str,
    readouts: Sequence[ReadoutImages],
    cells: Sequence[Mapping],
    samples: int,
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    note: str = "",
) -> Image.Image:
    """The sheet of a run.

    Args:
        name: the title.
        readouts: the pictures through each readout, condition by condition.
        cells: what distinguishes the conditions, {key: value} each.
        samples: the number of pictures of each condition.
        before, after: pictures to show beside the results, {label: (1 or B, C, H, W)}, B the number
            of results. They stand once in each line if they are the same for all of it, else in
            lines of their own, above and below.
        note: a line for the foot of the sheet.
    """
    table = as_table(label_cells(cells))
    content = SheetContent(readouts, table.cells, table.axes, samples, before, after)
    heads: list[str] = []
    if columns_vary(before, after, content.line):
        rows = stacked_rows(content)
    else:
        rows = readout_rows(content)
        heads = [] if content.is_folded else sheet_heads(content)
    pictures, labels = [row.pictures for row in rows], [row.label for row in rows]
    captions = [row.captions for row in rows if row.captions]
    return picture_sheet(pictures, labels, heads, name, note, under=captions)


def readout_rows(content: SheetContent) -> list[SheetRow]:
    """Rows of results, one for each readout, with other pictures at their left and right."""
    pairs = product(row_ranges(content), content.readouts)
    return [readout_row(content, row_range, readout) for row_range, readout in pairs]


def row_ranges(content: SheetContent) -> list[RowRange]:
    """What stands in each row: the cells side by side, in lines of at most `content.line`."""
    ranges = []
    for first in range(0, len(content.cells), content.across):
        cells = range(first, min(first + content.across, len(content.cells)))
        end = cells.stop * content.samples
        for start in range(first * content.samples, end, content.line):
            ranges.append(RowRange(cells, range(start, min(start + content.line, end))))
    return ranges


def readout_row(content: SheetContent, row_range: RowRange, readout: ReadoutImages) -> SheetRow:
    """The row of one readout; pictures at the right of a short row stand in their own column."""
    cells, results = row_range.cells, row_range.results
    left = [images[results.start % len(images)] for images in content.before.values()]
    right = [images[results.start % len(images)] for images in content.after.values()]
    pictures = [*readout.images[results.start : results.stop]]
    padding = []
    if right and not content.is_folded:
        padding = [torch.ones_like(pictures[0])] * (content.line - len(pictures))
    many = len(content.readouts)
    label = row_label(readout, content.cells, cells, content.samples, many, content.axes)
    captions = []
    if content.is_folded:
        captions = [""] * len(left) + result_captions(content, results, readout) + [""] * len(right)
    return SheetRow([*left, *pictures, *padding, *right], label, captions)


def result_captions(content: SheetContent, results: range, readout: ReadoutImages) -> list[str]:
    """What distinguishes each result, under the last readout."""
    if readout is not content.readouts[-1]:
        return [""] * len(results)
    cells = [content.cells[number // content.samples] for number in results]
    return [column_caption(cell, content.axes) for cell in cells]


def sheet_heads(content: SheetContent) -> list[str]:
    """The labels of the columns of a sheet whose last axis is not broken into lines."""
    across = content.across
    samples = content.samples if across > 1 else content.line
    cells, axes = content.cells, content.axes
    return column_labels(cells, across, samples, axes, content.before, content.after)


def columns_vary(before: Mapping[str, Tensor], after: Mapping[str, Tensor], line: int) -> bool:
    """Whether the results of one line differ in the pictures beside them."""
    groups = [
        part
        for pictures in (*before.values(), *after.values())
        if len(pictures) > 1
        for part in pictures.split(line)
    ]
    return any(not torch.equal(part, part[:1].expand_as(part)) for part in groups)


def stacked_rows(content: SheetContent) -> list[SheetRow]:
    """A column for each result: pictures before it, its readouts, pictures after it.

    Long runs continue in further lines of columns.
    """
    count = len(content.readouts[0].images)
    line = square_line_length(count)
    groups = stacked_groups(content)
    rows = []
    for start in range(0, count, line):
        columns = range(start, min(start + line, count))
        for group in groups:
            pictures = [group.images[column % len(group.images)] for column in columns]
            rows.append(SheetRow(pictures, group.label, [""] * len(columns)))
        cells = [content.cells[column // content.samples] for column in columns]
        captions = [describe_cell(cell, content.axes) for cell in cells]
        rows[-1] = rows[-1]._replace(captions=captions)
    return rows


def stacked_groups(content: SheetContent) -> list[LabelledImages]:
    """The pictures of which each column has one, from top to bottom."""
    labels = [readout_label(readout.label, readout.prompts) for readout in content.readouts]
    if len(labels) == 1:
        labels = ["result"]
    images = [readout.images for readout in content.readouts]
    results = zip(labels, images, strict=True)
    groups = [*content.before.items(), *results, *content.after.items()]
    return [LabelledImages(label, pictures) for label, pictures in groups]


def readout_label(name: str, prompts: Sequence[str]) -> str:
    """The name of a readout, with its prompt if that is the same for all these pictures."""
    prompt = prompts[0] if len(set(prompts)) == 1 else ""
    return label_value(name, prompt) if prompt else name


def last_axis(axes: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """The labels of the last axis."""
    return axes[list(axes)[-1]]


def describe_cell(cell: Mapping, axes: Mapping[str, Sequence[str]]) -> str:
    """All that distinguishes a cell; its value along the last axis as in a column's caption."""
    words = [label_value(key, cell[key]) for key in axes]
    return ", ".join([*words[:-1], column_caption(cell, axes)] if axes else words)


def label_cells(cells: Sequence[Mapping]) -> list[dict[str, str]]:
    """The cells with labels in place of values; empty values stay empty."""
    labels = {key: axis_labels([cell[key] for cell in cells]) for key in cells[0]}
    return [
        {key: "" if cell[key] == "" else labels[key][index] for key in cell}
        for index, cell in enumerate(cells)
    ]


def as_table(cells: Sequence[Mapping[str, str]]) -> CellTable:
    """Cells, {key: label}, and their axes.

    Cells that do not fill a table get one axis, whose labels join all of their values.
    """
    axes = {key: list(dict.fromkeys(cell[key] for cell in cells)) for key in cells[0]}
    if prod(map(len, axes.values())) == len(cells) or len(axes) <= 1:
        return CellTable(cells, axes)
    name = " / ".join(axes)
    return as_table([{name: " / ".join(cell.values())} for cell in cells])


def column_caption(cell: Mapping, axes: Mapping[str, Sequence[str]]) -> str:
    """What distinguishes a cell along the last axis: words alone, a number with its key."""
    key = list(axes)[-1]
    value = str(cell[key])
    return label_value(key, value) if not value or NUMBER.fullmatch(value) else value


def row_label(
    readout: ReadoutImages,
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
    cell, keys = cells[here[0]], shared_keys(cells, here, axes)
    if many == 1:
        return ", ".join(label_value(key, cell[key]) for key in keys)
    prompts = readout.prompts[here.start * samples : here.stop * samples]
    label = readout_label(readout.label, prompts)
    values = [label_value(key, cell[key]) for key in keys if key != readout.label]
    return ", ".join([*values, label])


def shared_keys(
    cells: Sequence[Mapping], here: range, axes: Mapping[str, Sequence[str]]
) -> list[str]:  # fmt: skip
    """The axes along which all cells of a row are the same."""
    first, last = cells[here[0]], cells[here[-1]]
    return [key for key in axes if len(here) == 1 or first[key] == last[key]]


def label_value(key: str, value) -> str:
    """A key and its value: a number follows it directly, words follow a colon."""
    if value == "":
        return f"no {key}"
    return f"{key} {value}" if NUMBER.fullmatch(str(value)) else f"{key}: {value}"


def column_labels(
    cells: Sequence[Mapping],
    across: int,
    samples: int,
    axes: Mapping[str, Sequence[str]],
    before: Mapping,
    after: Mapping,
) -> list[str]:
    """What distinguishes the columns; "result" if only other pictures beside them need a label."""
    captions = [column_caption(cell, axes) for cell in cells[:across]] if across > 1 else []
    results = [text for caption in captions for text in (caption, *[""] * (samples - 1))]
    if not results:
        results = ["result" if before or after else ""] * samples
    labels = [*before, *results, *after]
    return labels if any(labels) else []


def readout_frames(first: ReadoutImages, second: ReadoutImages, view: View) -> list[Image.Image]:
    """Frames in which the first picture turns, or fades, from one readout to another."""
    captions = [f"{readout.label}: {readout.prompts[0]}" for readout in (first, second)]
    if view.degrees:
        return turn_frames(first.images[0], view.degrees, captions)
    return fade_frames(first.images[0], second.images[0], captions)
