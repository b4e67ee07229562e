"""Collect from the batch what is written of one run."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from expkit.tasks.generation.batch_sampler import Recording, SampledBatch
from expkit.tasks.generation.runs import Run, Selection
from expkit.tasks.generation.upscaling import UpscaledRows
from expkit.tasks.pins import Pinned


class RunOutput(NamedTuple):
    """All that is written of a run.

    Attributes:
        images: the kept pictures (N, C, H, W) in [0, 1].
        first_stage: the same before the second stage; None without one.
        kept: the numbers of the kept pictures in the run.
        pinned: what was pinned of the run.
        numbers: what was measured.
        scores: alignment and concealment of each kept picture.
        recordings: of its recorded pictures: one if there is a film, else none.
    """

    images: Tensor
    first_stage: Tensor | None
    kept: list[int]
    pinned: Pinned
    numbers: dict
    scores: list[dict]
    recordings: list[Recording]


def collect_output(
    run: Run, selection: Selection, batch: SampledBatch, upscaled: UpscaledRows | None
) -> RunOutput:
    """All that is written of a run. upscaled: None without a second stage."""
    rows, numbers, pinned = selection.batch_rows(run), batch.numbers, batch.pinned
    images, first_stage = batch.images[rows], None
    if upscaled:
        images, first_stage = upscaled.images_of(rows), images
        numbers = numbers | {"second_stage": upscaled.numbers}
        before, after = upscaled.pinned.before, upscaled.pinned.after
        pinned = replace(pinned, before=before, after=after)
    pinned = pinned.only(run.rows)
    numbers = {**numbers, "seed": run.seed, **pinned.numbers, **selection.numbers}
    recordings = [batch.recordings[row] for row in run.rows if row in batch.recordings]
    kept, scores = selection.kept, selection.scores
    return RunOutput(images, first_stage, kept, pinned, numbers, scores, recordings)
