"""The task behind sample, hybrid, anagram, sdedit, inpaint, upscale and trajectory.

It composes three parts, which are in `scoring` and in the package `generation`:

- `BatchSampler`: a `Stage` with B seeds -> `SampledBatch`, (B, C, H, W); one loop over the steps.
  `Upscaling` makes the kept ones several times as large: states (K, *shape) -> `UpscaledRows`.
- `BatchScorer` and `RunScorer`: the pictures of each run -> `Scores` -> `Selection`.
- `RunWriter`: the `RunOutput` of each run -> the files of a `RunFolder`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from expkit.core.denoiser import Counting, Denoiser
from expkit.core.estimate import EstimateBase
from expkit.core.pin import Pin
from expkit.core.sampler import Sampler, Seed
from expkit.core.timesteps import count_updates
from expkit.metrics.judges import Judge
from expkit.results.run_folder import RunFolder
from expkit.tasks.generation import option_checks
from expkit.tasks.generation.batch_sampler import BatchSampler, SampledBatch
from expkit.tasks.generation.run_note import run_note
from expkit.tasks.generation.run_output import collect_output
from expkit.tasks.generation.run_scorer import RunScorer, worst_probability
from expkit.tasks.generation.run_writer import RunWriter
from expkit.tasks.generation.runs import Run, RunRows, Selection
from expkit.tasks.generation.stages import Stage
from expkit.tasks.generation.upscaling import UpscaledRows, Upscaling
from expkit.tasks.halving import Halving
from expkit.tasks.pins import Pinned
from expkit.tasks.preflight import Echo, describe_prompts
from expkit.tasks.scoring import BatchScorer, Readout, readouts_of
from expkit.tasks.trajectory import Film


class BatchPlan(NamedTuple):
    """The checked stages of a batch, before any sampling.

    Attributes:
        first: the first stage.
        second: the second stage, with a blank input; None without one.
        halving: drops samples in the first stage; None: none are dropped.
    """

    first: Stage
    second: Stage | None
    halving: Halving | None


@dataclass(frozen=True, eq=False)
class Sampling:
    """Sample `estimate` from `model`.

    A batch has several conditions, such as the cells of a sweep. Its rows are numbered condition by
    condition: condition · samples + sample.

    Args:
        name: of the task, for the header and the sheet.
        pin: (model, grid, times=1) -> Pinned, what is kept of a picture; see `tasks.pins`.
        seed: one for all, or one for each row.
        samples: the number of pictures of each condition. Sample k of every condition has the same
            noise.
        readings: the readouts, {name: Readout}: what should be seen in a picture; None for what the
            estimate makes visible.
        distance: how many times as far a picture is seen from afar.
        cells: what distinguishes the conditions of the batch, {key: value} each.
        judges: {name: Judge}, which score the readouts; the first one ranks.
        keep: how many samples of each condition to keep, the best by the first judge; None for all.
        prune: after each of these numbers of updates, the half that the first judge scores worst is
            dropped.
        film: records the way from noise to picture.
        upscale: whether to run the model's second stage.
        upscaler: (low, noise) -> the second stage as a denoiser. low: states of the first stage,
            (B, *shape); noise: shape -> standard normal noise. None: the model has no second stage.
        second_gamma: the guidance strength of the second stage; None for that of the first.
        note: a line for the header and the foot of the sheet.
    """

    name: str
    model: Denoiser
    sampler: Sampler
    estimate: EstimateBase
    pin: Callable[..., Pinned]
    seed: int | Sequence[int]
    samples: int
    readings: Mapping[str, Readout] | None = None
    distance: float = 4
    cells: Sequence[Mapping] = ({},)
    judges: Mapping[str, Judge] | None = None
    keep: int | None = None
    prune: Sequence[int] = ()
    film: Film | None = None
    upscale: bool = False
    upscaler: Callable[[Tensor, Callable], Denoiser] | None = None
    second_gamma: float | None = None
    note: str = ""

    def __call__(self, result: RunFolder) -> None:
        rows = RunRows(range(self.count), self.cells, self.note)
        (write,) = self.sample_batch([rows], result.say)
        write(result)

    def sample_batch(
        self, parts: Sequence[RunRows], say: Callable[[str], None]
    ) -> list[Callable[[RunFolder], None]]:  # fmt: skip
        """Sample the pictures of several runs in one batch.

        Returns:
            For each run, a function that writes its result as if it had been sampled alone.
        """
        rows = [part.rows for part in parts]
        scorer = BatchScorer(self.readouts, self.judges or {}, self.model, rows)
        plan = self.plan_batch(parts, scorer, say)
        films = {part.rows[self.film.picture]: self.film for part in parts} if self.film else {}
        batch = BatchSampler(plan.first, plan.halving, films).sample()
        runs = [self.describe_run(part, plan.first.grid, plan.first.pinned.pin) for part in parts]
        selections = self.select(runs, scorer, batch)
        pairs = [*zip(runs, selections, strict=True)]
        kept_rows = [row for run, selection in pairs for row in selection.batch_rows(run)]
        upscaled = self.upscale_rows(plan.second, batch, kept_rows, say)
        return [
            RunWriter(self.name, run, collect_output(run, selection, batch, upscaled))
            for run, selection in pairs
        ]

    def plan_batch(
        self, parts: Sequence[RunRows], scorer: BatchScorer, say: Callable[[str], None]
    ) -> BatchPlan:
        """Check everything, cheap checks first; then encode the prompts and print the header.

        Networks are loaded last.
        """
        grid = self.sampler.timesteps(self.model.schedule)
        self.check_options(parts, grid)
        first = self.first_stage(grid)
        scorer.check_judges()
        if self.keep or self.prune:
            option_checks.check_rankable(scorer)
        second = self.upscaling.stage() if self.upscale else None
        halving = self.halving(scorer) if self.prune else None
        work = first.plan(halving and halving.planned)
        if second:
            second.model.prepare(describe_prompts(second.estimate.terms))
        if first.model.shape != first.model.image_shape:
            first = replace(first, pinned=self.pin(first.model, grid))
        say(first.header(work, [self.note, *first.pinned.notes]))
        return BatchPlan(first, second, halving)

    def check_options(self, parts: Sequence[RunRows], grid: Sequence[float]) -> None:
        """Refuse options that do not fit the model or each other."""
        if self.upscale:
            self.upscaling.check_consistency(self.estimate)
        has_judges = bool(self.judges and self.readouts)
        option_checks.check_ranking_possible(self.keep, self.prune, has_judges)
        option_checks.check_prune(self.prune, grid, self.film)
        option_checks.check_keep(self.keep, self.samples)
        option_checks.check_film(self.film, min(len(part.rows) for part in parts))

    def first_stage(self, grid: Sequence[float]) -> Stage:
        """The first stage, checked.

        The pin of a latent model is a stand-in: `Echo` cannot encode its pictures.
        """
        model = Counting(self.model)
        pinned, sampler, estimate = self.pin(Echo(model), grid), self.sampler, self.estimate
        return Stage(self.name, model, sampler, grid, estimate, pinned, self.seeds()).check()

    @cached_property
    def upscaling(self) -> Upscaling:
        """The second stage of the model; refuses a model that has none."""
        upscaler = option_checks.require_upscaler(self.upscaler)
        seeds = self.seeds()
        return Upscaling(self.model, upscaler, self.sampler, self.second, self.pin, seeds)

    def halving(self, scorer: BatchScorer) -> Halving:
        """Drops samples during sampling by the first judge's scores of their estimates of x0."""

        def score(x0: Tensor) -> Tensor:
            runs = scorer.score_images(self.model.decode(x0).cpu())
            return torch.cat([worst_probability(scores) for scores in runs])

        return Halving(self.prune, self.samples, len(self.cells), self.keep or 1, score)

    def select(
        self, runs: Sequence[Run], scorer: BatchScorer, batch: SampledBatch
    ) -> list[Selection]:  # fmt: skip
        """Score the pictures of each run and choose those to keep."""
        selections = []
        for run, scores in zip(runs, scorer.score_images(batch.images), strict=True):
            finished = [n for n, row in enumerate(run.rows) if row not in batch.dropped]
            selector = RunScorer(run, scorer.judges, scores, finished, self.keep)
            selections.append(selector.select())
        return selections

    def upscale_rows(
        self, second: Stage | None, batch: SampledBatch, rows: list[int], say: Callable[[str], None]
    ) -> UpscaledRows | None:
        """These rows of the batch after the second stage; None without one."""
        if not second:
            return None
        self.model.release()
        return self.upscaling.upscale(second, batch.states[rows], rows, say)

    def describe_run(self, part: RunRows, grid: Sequence[float], pin: Pin | None = None) -> Run:
        """One run of the batch, as if it were alone; its note says what was really done."""
        readings = {name: readout.only(part.rows) for name, readout in self.readouts.items()}
        seed = self.seed
        if not isinstance(seed, int):
            seed = one_of([seed[row] for row in part.rows])
        is_unchanged = pin is not None and stays_pinned(pin, grid, part.rows)
        stages = [] if is_unchanged and self.upscale else [self.estimate]
        where = ""
        if self.upscale:
            stages.append(self.second)
            where = " in stage II" if is_unchanged else " in each stage"
        stages = [stage.select(part.rows) for stage in stages]
        note = run_note(part.note, stages, f"{count_updates(grid)} updates from noise{where}", seed)
        return Run(part.rows, part.cells, self.samples, readings, self.distance, seed, note)

    @cached_property
    def readouts(self) -> Mapping[str, Readout]:
        """What should be seen in a picture, and how."""
        if self.readings is not None:
            return self.readings
        return readouts_of(self.estimate.readings, self.distance)

    @property
    def count(self) -> int:
        """The number of pictures."""
        return len(self.cells) * self.samples

    @property
    def second(self) -> EstimateBase:
        """The estimate of the second stage, before its maps are scaled to its size."""
        if self.second_gamma is None:
            return self.estimate
        return self.estimate.with_guidance(self.second_gamma)

    def seeds(self) -> list[Seed]:
        """The seed of each row. Sample k has the same noise in every condition."""
        seeds = [self.seed] * self.count if isinstance(self.seed, int) else self.seed
        return [Seed(seed, number % self.samples) for number, seed in enumerate(seeds)]


def stays_pinned(pin: Pin, grid: Sequence[float], rows: Sequence[int]) -> bool:
    """Whether these pictures stay pinned whole to the end, so that no update changes them."""
    own_pin, count = pin.select(rows), len(rows)
    return not any(own_pin.rows_to_update(s, count) for s in grid[1:])


def one_of(values: list):
    """The value if all are equal, else the list."""
    return values[0] if len(set(values)) == 1 else values
