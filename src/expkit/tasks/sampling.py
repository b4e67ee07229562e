"""The task behind sample, hybrid, anagram, sdedit, inpaint, upscale and trajectory.

It samples an estimate with a pin, scores the results with judges, and writes pictures and a sheet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from expkit.core.denoiser import Counting, Denoiser
from expkit.core.estimate import EstimateBase
from expkit.core.maps import IdentityMap
from expkit.core.pin import Pin
from expkit.core.sampler import Sampler, Seed, keyed_noise, sample
from expkit.core.timesteps import count_updates, find_rises
from expkit.errors import UserError
from expkit.images.animations import save_gif
from expkit.metrics.judges import Judge
from expkit.results.run_folder import RunFolder
from expkit.tasks import scoring, timing
from expkit.tasks.halving import Halving
from expkit.tasks.pins import Pinned, select_rows
from expkit.tasks.preflight import (
    Echo,
    check_composition,
    check_stages,
    describe_guidance,
    describe_prompts,
    format_header,
    plan_run,
)
from expkit.tasks.result_figure import (
    ReadoutImages,
    readout_frames,
    readout_images,
    result_sheet,
    stage_images,
)
from expkit.tasks.scoring import Readout
from expkit.tasks.trajectory import Film, Shot


class RunRows(NamedTuple):
    """One of the runs that are sampled in one batch.

    Attributes:
        rows: its pictures, as rows of the batch.
        cells: what distinguishes its conditions, {key: value} each.
        note: a line for the foot of its sheet.
    """

    rows: range
    cells: Sequence[Mapping]
    note: str


class RunOutput(NamedTuple):
    """What was sampled for one run.

    Attributes:
        images: the kept pictures (N, C, H, W) in [0, 1].
        small: the same before the second stage; equal to `images` without one.
        kept: the rows of the kept pictures, numbered from 0 in the run.
        pinned: what was pinned of the run.
        numbers: what was measured.
        scores: alignment and concealment of each kept picture.
        shots: the recorded frames.
        end: the result of the recorded picture, None without a film.
    """

    images: Tensor
    small: Tensor
    kept: list[int]
    pinned: Pinned
    numbers: dict
    scores: list[dict]
    shots: list[Shot]
    end: Tensor | None


class SecondStage(NamedTuple):
    """What the second stage will do, known before the first stage runs.

    Attributes:
        times: how many times as large its pictures are.
        grid: its levels.
        estimate: its estimate, with maps for its size.
        pinned: what is pinned in it.
        warnings: what fails on purpose.
    """

    times: int
    grid: Sequence[int]
    estimate: EstimateBase
    pinned: Pinned
    warnings: tuple[str, ...]


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
        readings: the readouts, {name: Readout}: what should be seen in a picture.
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
    readings: Mapping[str, Readout] = field(default_factory=dict)
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

        All checks come before any sampling, cheap ones first; then prompts are encoded; networks
        are loaded last.

        Returns:
            For each run, a function that writes its result as if it had been sampled alone.
        """
        model, seeds, sampler = Counting(self.model), self.seeds(), self.sampler
        grid = sampler.timesteps(model.schedule)
        self.check(parts, grid)
        halving = self.halving(parts) if self.prune else None
        pinned = self.pin(Echo(model), grid)
        warnings = check_composition(
            model, self.estimate, grid, len(seeds), pinned.pin, sampler.clip, sampler.rule
        )
        self.check_readings(parts)
        second = self.second_stage() if self.upscale else None
        rows_left = halving and halving.planned
        plan = plan_run(model, self.estimate, grid, len(seeds), pinned.pin, warnings, rows_left)
        if self.upscale:
            self.blank_stage().prepare(describe_prompts(second.estimate.terms))
        if model.shape != model.image_shape:  # `Echo` cannot encode the pictures of a latent model
            pinned = self.pin(model, grid)
        extra = [self.note, *pinned.notes, timing.describe_duration(model.name, sum(plan.calls))]
        say(format_header(self.name, model, grid, plan, len(seeds), extra))
        shots_of_row = {part.rows[self.film.picture]: [] for part in parts} if self.film else {}
        x = self.run(model, grid, seeds, pinned.pin, shots_of_row, halving)
        images = pinned.finish(model.decode(x).cpu())
        shared_numbers = usage(model) | {"device": str(model.device)}
        runs = [self.only(part, grid, pinned.pin) for part in parts]
        dropped_rows = halving.dropped if halving else ()
        outcomes, batch_rows = [], []
        for run, part, scores in zip(runs, parts, self._score(images, parts), strict=True):
            every = [number for number, row in enumerate(part.rows) if row not in dropped_rows]
            outcomes.append(run.select_and_summarise(scores, every))
            rows, *_ = outcomes[-1]
            batch_rows.append([part.rows[row] for row in rows])
        small = [images[rows] for rows in batch_rows]
        final = small
        if self.upscale:
            self.model.release()
            every = [row for rows in batch_rows for row in rows]
            large, second_usage = self.upscale_images(second, x[every], every, seeds, say)
            shared_numbers["second_stage"] = second_usage
            pinned = replace(pinned, before=second.pinned.before, after=second.pinned.after)
            final = large.split([len(rows) for rows in batch_rows])
        writers = []
        results = zip(runs, parts, outcomes, final, small, strict=True)
        for run, part, (rows, numbers, scores), pictures, before in results:
            own_pinned = pinned.only(part.rows)
            numbers = shared_numbers | {"seed": run.seed} | own_pinned.numbers | numbers
            film = self.frames_of(part, shots_of_row, images)
            output = RunOutput(pictures, before, rows, own_pinned, numbers, scores, *film)
            writers.append(partial(run.write, output))
        return writers

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

    def frames_of(
        self, part: RunRows, filmed: Mapping[int, list[Shot]], images: Tensor
    ) -> tuple[list[Shot], Tensor | None]:
        """The recorded frames of one run, and the result of the recorded picture."""
        if not self.film:
            return [], None
        row = part.rows[self.film.picture]
        return filmed[row], images[row]

    def only(self, part: RunRows, grid: Sequence[int], pin: Pin | None = None) -> Sampling:
        """This task for one run of the batch, to score and write its pictures.

        Its note says what was really done.
        """
        readings = {name: readout.only(part.rows) for name, readout in self.readings.items()}
        seed = self.seed
        if not isinstance(seed, int):
            seed = one_of([seed[row] for row in part.rows])
        is_unchanged = False  # whether the picture stays pinned, so that stage I makes no update
        if pin is not None:
            own_pin, count = pin.select(part.rows), len(part.rows)
            is_unchanged = not any(own_pin.rows_to_update(s, count) for s in grid[1:])
        stages = [] if is_unchanged and self.upscale else [self.estimate]
        where = ""
        if self.upscale:
            stages.append(self.second)
            where = " in stage II" if is_unchanged else " in each stage"
        stages = [stage.select(part.rows) for stage in stages]
        note = run_note(part.note, stages, f"{count_updates(grid)} updates from noise{where}", seed)
        return replace(self, cells=part.cells, readings=readings, seed=seed, note=note)

    def halving(self, parts: Sequence[RunRows]) -> Halving:
        """Drops samples during sampling by the first judge's scores of their estimates of x0."""

        def score(x0: Tensor) -> Tensor:
            images = self.model.decode(x0).cpu()
            return torch.cat([scoring.worst_probability(run) for run in self._score(images, parts)])

        return Halving(self.prune, self.samples, len(self.cells), self.keep or 1, score)

    def _score(self, images: Tensor, parts: Sequence[RunRows]) -> list[list[scoring.Scores]]:
        """The scores of each run by each judge and readout."""
        rows = [part.rows for part in parts]
        return scoring.score_images(self.readings, self.judges or {}, self.model, images, rows)

    def check(self, parts: Sequence[RunRows], grid: Sequence[int]) -> None:
        """Refuse options that do not fit the model or each other."""
        if self.upscale and not self.upscaler:
            raise UserError(
                "upscale=true needs a model with a second stage, and this one has none: "
                "try model=deepfloyd, or upscale=false."
            )
        if self.upscale:
            times = self.blank_stage().shape[-1] // self.model.shape[-1]
            check_stages(self.estimate, self.model, times)
        keep, prune = self.keep, list(self.prune)
        if keep and not (self.judges and self.readings):
            raise UserError(
                f"keep={keep} needs a judge who ranks the pictures, and this run has none: "
                "try judges@model.judges=clip."
            )
        if prune and not (self.judges and self.readings):
            problem = "needs a judge who reads the pictures, and this run has none"
            raise UserError(f"prune={prune} {problem}: leave prune out.")
        updates = count_updates(grid)
        if prune and (find_rises(grid) or prune != sorted({*prune}) or prune[-1] >= updates):
            raise UserError(
                f"prune={prune} does not fit: it says after which updates samples are dropped, "
                f"in rising order, before the last of {updates}, of a sampler that never goes back "
                "to more noise."
            )
        if prune and self.film:
            raise UserError(
                "prune=… drops pictures on the way, and a film follows one to its end: "
                "leave one of the two out."
            )
        if keep and keep > self.samples:
            problem = f"keep={keep} is more than samples={self.samples}"
            raise UserError(f"{problem}: keep at most as many as are sampled.")
        fewest = min(len(part.rows) for part in parts)
        if self.film and not 0 <= self.film.picture < fewest:
            raise UserError(
                f"task.film.picture={self.film.picture} is not among the pictures of this run: "
                f"they are numbered from 0 to {fewest - 1}."
            )

    def check_readings(self, parts: Sequence[RunRows]) -> None:
        """Refuse judges that cannot read the pictures, and rankings that no judge can make."""
        rows, judges = [part.rows for part in parts], self.judges or {}
        readable = scoring.check_judges(self.readings, judges, self.model, self.count, rows)
        if not (self.keep or self.prune):
            return
        if not all(readable):
            raise UserError(
                "keep=… and prune=… rank by what a judge reads, "
                "and this wish cannot be read by a judge: leave them out."
            )
        unranked = scoring.unranked_readouts(self.readings, judges, self.model, self.count, rows)
        if unranked:
            raise UserError(
                f"keep=… and prune=… rank by what the judge {next(iter(judges))} reads, and it "
                f"cannot read what is asked for in {' and '.join(unranked)}: leave them out, "
                "or give a judge that can, with judges@model.judges=clip."
            )

    def blank_stage(self) -> Denoiser:
        """The second stage with a blank input, to know its shape and schedule; loads no network."""
        return self.upscaler(torch.zeros(1, *self.model.shape), torch.zeros)

    def second_stage(self) -> SecondStage:
        """What the second stage will do; it is checked now, before the work of the first stage."""
        model, sampler = self.blank_stage(), self.sampler
        times, grid = model.shape[-1] // self.model.shape[-1], sampler.timesteps(model.schedule)
        estimate, pinned = self.second.for_resolution(times), self.pin(model, grid, times=times)
        if pinned.pin and pinned.pin.part == IdentityMap():
            pinned = replace(pinned, pin=None)
        warnings = check_composition(
            model, estimate, grid, self.count, pinned.pin, sampler.clip, sampler.rule
        )
        model.check_weights()
        return SecondStage(times, grid, estimate, pinned, warnings)

    def seeds(self) -> list[Seed]:
        """The seed of each row. Sample k has the same noise in every condition."""
        seeds = [self.seed] * self.count if isinstance(self.seed, int) else self.seed
        return [Seed(seed, number % self.samples) for number, seed in enumerate(seeds)]

    def run(
        self,
        model: Denoiser,
        grid: Sequence[int],
        seeds: Sequence[Seed],
        pin: Pin | None,
        filmed: Mapping[int, list[Shot]],
        halving: Halving | None,
    ) -> Tensor:
        """The final states (B, *shape). filmed: {row: list}, to which recorded frames are added."""
        x = None
        rule, clip = self.sampler.rule, self.sampler.clip
        steps = sample(model, self.estimate, grid, seeds, rule, pin, clip, drop=halving)
        for step in progress(steps, self.name, grid, pin):
            x = step.x
            if not filmed or step.s not in grid:
                continue
            updated_rows = set(pin.rows_to_update(step.s, len(seeds)) if pin else filmed)
            for row, shots in filmed.items():
                if row in updated_rows:
                    shots.append(self.film.shot(model, step, row))
        return x

    def upscale_images(
        self,
        second: SecondStage,
        low: Tensor,
        kept: Sequence[int],
        seeds: Sequence[Seed],
        say: Callable[[str], None],
    ) -> tuple[Tensor, dict]:
        """Run the second stage with the same estimate, its maps scaled. A pinned part stays pinned.

        Args:
            low: the kept states of the first stage, (B, *shape).
            kept: the rows of the batch that they are.
            seeds: of all rows of the batch.

        Returns:
            Pictures (B, C, H, W) in [0, 1], and the usage of the network.
        """
        seeds = [seeds[row] for row in kept]
        grid, estimate = second.grid, second.estimate.select(kept)
        model = Counting(self.upscaler(low, lambda shape: keyed_noise(seeds, "low", 0, shape)))
        pin = second.pinned.pin and second.pinned.pin.select(kept)
        plan = plan_run(model, estimate, grid, len(seeds), pin, second.warnings)
        extra = [timing.describe_duration(model.name, sum(plan.calls))]
        say(format_header("upscale", model, grid, plan, len(seeds), extra))
        rule, clip = self.sampler.rule, self.sampler.clip
        steps = sample(model, estimate, grid, seeds, rule, pin, clip, purpose="second ")
        *_, end = progress(steps, "upscale", grid, pin)
        return model.decode(end.x).cpu(), usage(model)

    def select_and_summarise(
        self, found: Sequence[scoring.Scores], every: list[int]
    ) -> tuple[list[int], dict, list[dict]]:  # fmt: skip
        """Choose the rows to keep, and summarise the scores.

        Args:
            found: the scores of this run.
            every: the rows that were sampled to their end.

        Returns:
            The kept rows (all of `every` without `keep`), numbers over `every` and over the kept
            rows, alignment and concealment of each kept row.
        """
        numbers: dict = {}
        views = []
        if self.judges and self.readings:
            views = scoring.view_scores(found, list(self.readings), self.judges)
        if found:
            numbers["judged"] = scoring.accuracy(found, every)
            distances = {name: judge.distance for name, judge in self.judges.items()}
            numbers["judges_read_from"] = distances
            far = [readout.through.times for readout in self.readings.values() if readout.far]
            if far:
                numbers["far_is_seen_from"] = far[0]
        numbers |= scoring.mean_view_scores(views, every)
        if not self.keep:
            return every, numbers, [scoring.view_scores_of(views, row) for row in every]
        score = scoring.worst_probability(found)
        dropped_rows = [row for row in range(self.count) if row not in every]
        score[dropped_rows] = -1  # below every probability
        kept_rows = scoring.best_rows(score, self.samples, self.keep)
        numbers["judged_of_kept"] = scoring.accuracy(found, kept_rows)
        numbers |= scoring.mean_view_scores(views, kept_rows, "_of_kept")
        numbers["ranking"] = self.ranking(found, score, views)
        return kept_rows, numbers, [scoring.view_scores_of(views, row) for row in kept_rows]

    def ranking(
        self, found: Sequence[scoring.Scores], score: Tensor, views: Sequence[scoring.ViewScores]
    ) -> list[dict]:
        """A table of all pictures, those of each condition best first.

        Each entry has the score, the probability of each readout by each judge, alignment and
        concealment. Dropped pictures, with a score below zero, are left out.
        """
        order = scoring.best_rows(score, self.samples, self.samples)
        table = []
        for row in [row for row in order if score[row] >= 0]:
            entry = self.describe_row(row) | {"score": round(float(score[row]), 4)}
            for scores in found:
                entry[f"{scores.reading}_{scores.judge}"] = round(float(scores.probability[row]), 4)
            table.append(entry | scoring.view_scores_of(views, row))
        return table

    def describe_row(self, row: int) -> dict:
        """What distinguishes the picture of a row: its condition, and which sample it is."""
        return {**self.cells[row // self.samples], "sample": row % self.samples}

    def write(self, output: RunOutput, result: RunFolder) -> None:
        """Write the bare pictures, the sheet, the film, and what the page of a sweep can show."""
        images, rows, pinned = output.images, output.kept, output.pinned
        files = result.save_images(images)
        result.numbers |= output.numbers
        result.numbers["pictures"] = [
            {"file": file, **self.describe_row(row)} | ({"scores": scores} if scores else {})
            for file, row, scores in zip(files, rows, output.scores, strict=True)
        ]
        if self.film:
            self.film.develop(result, output.shots, output.end, self.note)
        before, after = select_rows(pinned.before, rows), select_rows(pinned.after, rows)
        original = {**before, **after}.get("original")
        if original is not None:
            result.look["original"] = result.save_images(original, folder="original")
        times = images.shape[-1] // output.small.shape[-1]
        readings = {name: readout.scaled(times) for name, readout in self.readings.items()}
        looks = readout_images(images, readings, rows, self.count)
        for look in looks:
            if self.readings and self.readings[look.label].moving:
                self.move(looks[0], look, result)
        if self.upscale:
            result.save_images(output.small, folder="first_stage")
            looks = stage_images(output.small, looks)
        result.look["distance"] = any(readout.far for readout in self.readings.values())
        samples = len(rows) // len(self.cells)
        sheet = result_sheet(self.name, looks, self.cells, samples, before, after, self.note)
        result.picture(sheet)

    def move(self, first: ReadoutImages, then: ReadoutImages, result: RunFolder) -> None:
        """Write an animation from the first readout to another, and all pictures through that."""
        view = self.readings[then.label].through
        path = result.folder / f"{then.label}.gif"
        save_gif(readout_frames(first, then, view), path, result.recipe)
        files = result.save_images(then.images, f"{then.label}_{{:03d}}", "readings")
        result.look.setdefault("readings", []).append(
            {"label": then.label, "said": then.prompts[0], "degrees": view.degrees, "files": files}
        )


def run_note(note: str, stages: Sequence[EstimateBase], way: str, seed: int | list[int]) -> str:
    """A note on what was really done: the prompt if all share it, `way`, guidance, the seed."""
    prompts = describe_prompts([term for term in stages[0].terms if term.condition])
    prompt = ""
    if len(prompts) == 1:
        prompt = f"“{prompts[0]}”" if prompts[0] else "no prompt"
    strengths = ", then ".join(dict.fromkeys(guidance_strength(stage) for stage in stages))
    return " · ".join(filter(None, [note, prompt, way, strengths, f"seed {seed}"]))


def guidance_strength(estimate: EstimateBase) -> str:
    """The guidance strengths of an estimate, in words."""
    notes = describe_guidance(estimate.terms)
    return notes[0].partition(":")[0] if notes else "no guidance"


def one_of(values: list):
    """The value if all are equal, else the list."""
    return values[0] if len(set(values)) == 1 else values


def progress(steps, name: str, grid: Sequence[int], pin: Pin | None):
    """The steps, with a progress bar."""
    from tqdm import tqdm

    total = count_updates(grid) + bool(pin)  # with a pin, `sample` yields the finished states too
    return tqdm(steps, total=total, desc=name, unit="step", leave=False, mininterval=0.2)


def usage(model: Counting) -> dict:
    """The network calls of a run, for its numbers; its speed is remembered for later headers."""
    if model.rows:
        timing.record_speed(model.name, model.seconds, sum(model.rows))
    return {
        "network_calls": len(model.rows),
        "rows_per_call": model.rows[0] if len(set(model.rows)) == 1 else model.rows,
        "rows": sum(model.rows),
        "seconds_in_network": round(model.seconds, 3),
    }
