"""The task behind sample, hybrid, anagram, sdedit, inpaint and trajectory: an estimate, a pin, and a way to look at the result."""

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
from expkit.results.run_folder import Result
from expkit.tasks import scoring as reading
from expkit.tasks import timing
from expkit.tasks.halving import Halving
from expkit.tasks.pins import Pinned
from expkit.tasks.preflight import (
    Echo,
    check_composition,
    check_stages,
    describe_guidance,
    describe_prompts,
    format_header,
    plan_run,
)
from expkit.tasks.result_figure import Shown, readout_frames, readout_images, result_sheet, stage_images
from expkit.tasks.scoring import Readout
from expkit.tasks.trajectory import Film, Shot


class Part(NamedTuple):
    """A run among those that are sampled in one batch: its pictures, what distinguishes its wishes, and its note."""

    rows: range
    cells: Sequence[Mapping]
    note: str


class Drawn(NamedTuple):
    """What was sampled for one run. kept: of its pictures, numbered from 0; images: those that are kept; small: the same before the second
    stage, as they are where there is none; numbers: what was measured; shots, end: what was filmed, and what became of it."""

    images: Tensor
    small: Tensor
    kept: list[int]
    pinned: Pinned
    numbers: dict
    scores: list[dict]
    shots: list[Shot]
    end: Tensor | None


class SecondStage(NamedTuple):
    """The second stage before the first has worked: how many times as large its pictures are, its grid, wish and pin, and warnings."""

    times: int
    grid: Sequence[int]
    estimate: EstimateBase
    pinned: Pinned
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Sampling:
    """Sample `estimate` from `model`.

    cells: what distinguishes the wishes of this batch, {key: value} each; every wish has `samples` pictures, numbered from 0.
    pin: (model, grid, times) -> Pinned. readings: what is to be seen in a picture; judges read it. keep: only so many of each wish's
    samples are kept, the best by the first judge. prune: after so many updates the half that it reads worst is dropped. film: what films
    the way. upscaler: (low, noise) -> the model's second stage, where it has one and `upscale` asks for it; second_gamma: how strongly
    that is guided, as much as the first where it is None.
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

    def __call__(self, result: Result) -> None:
        (write,) = self.together([Part(range(self.count), self.cells, self.note)], result.say)
        write(result)

    def together(self, parts: Sequence[Part], say: Callable[[str], None]) -> list[Callable[[Result], None]]:
        """Sample the pictures of several runs in one batch; for each run, what writes it as if it had been alone.

        All that can be refused is refused first, the cheap before the dear: prompts are encoded after it, networks loaded last.
        """
        model, seeds, sampler = Counting(self.model), self.seeds(), self.sampler
        grid = sampler.timesteps(model.schedule)
        self.check(parts, grid)
        halving = self.halving(parts) if self.prune else None
        tried = self.pin(Echo(model), grid)
        warnings = check_composition(
            model, self.estimate, grid, len(seeds), tried.pin, sampler.clip, sampler.rule
        )
        self.check_readings(parts)
        second = self.second_stage() if self.upscale else None
        planned = plan_run(
            model, self.estimate, grid, len(seeds), tried.pin, warnings, halving and halving.planned
        )
        if self.upscale:
            self.blank_stage().prepare(describe_prompts(second.estimate.terms))
        pinned = tried if model.shape == model.image_shape else self.pin(model, grid)
        extra = [self.note, *pinned.notes, timing.describe_duration(model.name, sum(planned.calls))]
        say(format_header(self.name, model, grid, planned, len(seeds), extra))
        filmed = {part.rows[self.film.picture]: [] for part in parts} if self.film else {}
        x = self.run(model, grid, seeds, pinned.pin, filmed, halving)
        images, asked = pinned.finish(model.decode(x).cpu()), usage(model) | {"device": str(model.device)}
        runs = [self.only(part, grid, pinned.pin) for part in parts]
        found = reading.score_images(
            self.readings, self.judges or {}, self.model, images, [part.rows for part in parts]
        )
        dropped = halving.dropped if halving else ()
        left = [[place for place, row in enumerate(part.rows) if row not in dropped] for part in parts]
        read = [run.judged(one, rows) for run, one, rows in zip(runs, found, left, strict=True)]
        kept = [[part.rows[row] for row in rows] for part, (rows, *_) in zip(parts, read, strict=True)]
        small = [images[rows] for rows in kept]
        if self.upscale:
            self.model.release()
            every = [row for rows in kept for row in rows]
            enlarged, asked["second_stage"] = self.larger(second, x[every], every, seeds, say)
            pinned = replace(pinned, before=second.pinned.before, after=second.pinned.after)
            shown = enlarged.split([len(rows) for rows in kept])
        else:
            shown = small
        writers = []
        for run, part, (rows, judged, scores), pictured, before in zip(
            runs, parts, read, shown, small, strict=True
        ):
            held = pinned.only(part.rows)
            numbers = asked | {"seed": run.seed} | held.numbers | judged
            writers.append(
                partial(
                    run.write,
                    Drawn(
                        pictured, before, rows, held, numbers, scores, *self.starring(part, filmed, images)
                    ),
                )
            )
        return writers

    @property
    def count(self) -> int:
        return len(self.cells) * self.samples

    @property
    def second(self) -> EstimateBase:
        """The wish of the second stage, for pictures of the first one's size."""
        return self.estimate if self.second_gamma is None else self.estimate.with_guidance(self.second_gamma)

    def starring(
        self, part: Part, filmed: Mapping[int, list[Shot]], images: Tensor
    ) -> tuple[list[Shot], Tensor | None]:
        """What was filmed of one run, and what became of it."""
        if not self.film:
            return [], None
        row = part.rows[self.film.picture]
        return filmed[row], images[row]

    def only(self, part: Part, grid: Sequence[int], pin: Pin | None = None) -> Sampling:
        """One run of the batch, as far as its pictures are read and shown; its note says what was really done."""
        readings = {name: reading.only(part.rows) for name, reading in self.readings.items()}
        seed = self.seed if isinstance(self.seed, int) else one_of([self.seed[row] for row in part.rows])
        given = pin is not None and not any(pin.only(part.rows).free(s, len(part.rows)) for s in grid[1:])
        where = f" in {'stage II' if given else 'each stage'}" * self.upscale
        stages = [self.estimate] * (not (given and self.upscale)) + [self.second] * self.upscale
        note = run_note(
            part.note,
            [one.only(part.rows) for one in stages],
            f"{count_updates(grid)} updates from noise{where}",
            seed,
        )
        return replace(self, cells=part.cells, readings=readings, seed=seed, note=note)

    def halving(self, parts: Sequence[Part]) -> Halving:
        """How samples are dropped on the way, by what the first judge reads in what they are about to become."""

        def score(x0: Tensor) -> Tensor:
            images = self.model.decode(x0).cpu()
            found = reading.score_images(
                self.readings, self.judges or {}, self.model, images, [part.rows for part in parts]
            )
            return torch.cat([reading.worst_probability(one) for one in found])

        return Halving(self.prune, self.samples, len(self.cells), self.keep or 1, score)

    def check(self, parts: Sequence[Part], grid: Sequence[int]) -> None:
        if self.upscale and not self.upscaler:
            raise UserError(
                "upscale=true needs a model with a second stage, and this one has none: try model=deepfloyd, or upscale=false."
            )
        if self.upscale:
            check_stages(self.estimate, self.model, self.blank_stage().shape[-1] // self.model.shape[-1])
        if self.keep and not (self.judges and self.readings):
            raise UserError(
                f"keep={self.keep} needs a judge who ranks the pictures, and this run has none: try judges@model.judges=clip."
            )
        if self.prune and not (self.judges and self.readings):
            raise UserError(
                f"prune={list(self.prune)} needs a judge who reads the pictures, and this run has none: leave prune out."
            )
        at = list(self.prune)
        if at and (find_rises(grid) or at != sorted({*at}) or at[-1] >= count_updates(grid)):
            raise UserError(
                f"prune={at} does not fit: it says after which updates samples are dropped, in rising order, before the last "
                f"of {count_updates(grid)}, of a sampler that never goes back to more noise."
            )
        if self.prune and self.film:
            raise UserError(
                "prune=… drops pictures on the way, and a film follows one to its end: leave one of the two out."
            )
        if self.keep and self.keep > self.samples:
            raise UserError(
                f"keep={self.keep} is more than samples={self.samples}: keep at most as many as are sampled."
            )
        fewest = min(len(part.rows) for part in parts)
        if self.film and not 0 <= self.film.picture < fewest:
            raise UserError(
                f"task.film.picture={self.film.picture} is not among the pictures of this run: they are numbered from 0 to {fewest - 1}."
            )

    def check_readings(self, parts: Sequence[Part]) -> None:
        """Refuse judges that cannot read the pictures to come, and a ranking of what none of them can read."""
        readable = reading.check_judges(
            self.readings, self.judges or {}, self.model, self.count, [part.rows for part in parts]
        )
        if (self.keep or self.prune) and not all(readable):
            raise UserError(
                "keep=… and prune=… rank by what a judge reads, and this wish cannot be read by a judge: leave them out."
            )

    def blank_stage(self) -> Denoiser:
        """The second stage with nothing beside it, as far as its files say what it is: no network is loaded."""
        return self.upscaler(torch.zeros(1, *self.model.shape), torch.zeros)

    def second_stage(self) -> SecondStage:
        """What the second stage will do; refuses now what it would refuse after the first one's work."""
        model, sampler = self.blank_stage(), self.sampler
        times, grid = model.shape[-1] // self.model.shape[-1], sampler.timesteps(model.schedule)
        estimate, pinned = self.second.scaled(times), self.pin(model, grid, times=times)
        pinned = pinned if pinned.pin and pinned.pin.part != IdentityMap() else replace(pinned, pin=None)
        warnings = check_composition(
            model, estimate, grid, self.count, pinned.pin, sampler.clip, sampler.rule
        )
        model.check_weights()
        return SecondStage(times, grid, estimate, pinned, warnings)

    def seeds(self) -> list[Seed]:
        """Sample k of every wish has picture k's noise, so that wishes are compared on equal noise."""
        seeds = [self.seed] * self.count if isinstance(self.seed, int) else self.seed
        return [Seed(seed, number % self.samples) for number, seed in enumerate(seeds)]

    def run(
        self, model: Denoiser, grid: Sequence[int], seeds: Sequence[Seed], pin: Pin | None, filmed: Mapping[int, list[Shot]],
        halving: Halving | None,
    ) -> Tensor:  # fmt: skip
        """The finished states (B, *shape); what is filmed of a picture is added to its list."""
        x = None
        steps = sample(
            model, self.estimate, grid, seeds, self.sampler.rule, pin, self.sampler.clip, drop=halving
        )
        for step in progress(steps, self.name, grid, pin):
            x = step.x
            if not filmed or step.s not in grid:
                continue
            free = set(pin.free(step.s, len(seeds)) if pin else filmed)
            for row, shots in filmed.items():
                if row in free:
                    shots.append(self.film.shot(model, step, row))
        return x

    def larger(
        self,
        second: SecondStage,
        low: Tensor,
        kept: Sequence[int],
        seeds: Sequence[Seed],
        say: Callable[[str], None],
    ) -> tuple[Tensor, dict]:
        """The kept pictures through the second stage: the same wish, its blurs scaled; what is pinned in part stays pinned."""
        seeds, grid, estimate = [seeds[row] for row in kept], second.grid, second.estimate.only(kept)
        model = Counting(self.upscaler(low, lambda shape: keyed_noise(seeds, "low", 0, shape)))
        pin = second.pinned.pin and second.pinned.pin.only(kept)
        planned = plan_run(model, estimate, grid, len(seeds), pin, second.warnings)
        say(
            format_header(
                "upscale",
                model,
                grid,
                planned,
                len(seeds),
                [timing.describe_duration(model.name, sum(planned.calls))],
            )
        )
        steps = sample(
            model, estimate, grid, seeds, self.sampler.rule, pin, self.sampler.clip, purpose="second "
        )
        *_, end = progress(steps, "upscale", grid, pin)
        return model.decode(end.x).cpu(), usage(model)

    def judged(self, found: Sequence[reading.Scores], every: list[int]) -> tuple[list[int], dict, list[dict]]:
        """The rows of `every` that are kept, all where nothing is asked to be left out; what judges read in all of these, and the scores of
        each kept one. every: the rows that were sampled to their end."""
        numbers: dict = {}
        views = (
            reading.view_scores(found, list(self.readings), self.judges)
            if self.judges and self.readings
            else []
        )
        if found:
            numbers["judged"] = reading.as_asked(found, every)
            numbers["judges_read_from"] = {name: judge.distance for name, judge in self.judges.items()}
            far = [one.through.times for one in self.readings.values() if one.far]
            numbers |= {"far_is_seen_from": far[0]} if far else {}
        numbers |= reading.mean_view_scores(views, every)
        if not self.keep:
            return every, numbers, [reading.view_scores_of(views, row) for row in every]
        score = reading.worst_probability(found)
        score[
            [row for row in range(self.count) if row not in every]
        ] = -1  # what was dropped, below every probability
        kept = reading.best_rows(score, self.samples, self.keep)
        numbers["judged_of_kept"] = reading.as_asked(found, kept)
        numbers |= reading.mean_view_scores(views, kept, "_of_kept")
        numbers["ranking"] = self.ranking(found, score, views)
        return kept, numbers, [reading.view_scores_of(views, row) for row in kept]

    def ranking(
        self, found: Sequence[reading.Scores], score: Tensor, views: Sequence[reading.ViewScores]
    ) -> list[dict]:
        """Every picture of every wish, best first: its score, the probability of each reading by each judge, alignment and concealment."""
        order = [row for row in reading.best_rows(score, self.samples, self.samples) if score[row] >= 0]
        sure = [
            {f"{one.reading}_{one.judge}": round(float(one.sure[row]), 4) for one in found} for row in order
        ]
        return [
            self.wish(row) | {"score": round(float(score[row]), 4)} | s | reading.view_scores_of(views, row)
            for row, s in zip(order, sure, strict=True)
        ]

    def wish(self, row: int) -> dict:
        return {**self.cells[row // self.samples], "sample": row % self.samples}

    def write(self, drawn: Drawn, result: Result) -> None:
        """The pictures bare, the labelled sheet, the film; what else the page of a sweep can show of them."""
        images, kept, pinned = drawn.images, drawn.kept, drawn.pinned
        files = result.bare(images)
        result.numbers |= drawn.numbers
        told = zip(files, kept, drawn.scores, strict=True)
        result.numbers["pictures"] = [
            {"file": file, **self.wish(row)} | ({"scores": s} if s else {}) for file, row, s in told
        ]
        if self.film:
            self.film.develop(result, drawn.shots, drawn.end, self.note)
        before, after = (
            {k: v[kept] if len(v) > 1 else v for k, v in group.items()}
            for group in (pinned.before, pinned.after)
        )
        original = {**before, **after}.get("original")
        if original is not None:
            result.look["original"] = result.bare(original, folder="original")
        times = images.shape[-1] // drawn.small.shape[-1]
        looks = readout_images(
            images, {name: one.scaled(times) for name, one in self.readings.items()}, kept, self.count
        )
        for look in looks:
            if self.readings and self.readings[look.label].moving:
                self.move(looks[0], look, result)
        if self.upscale:
            result.bare(drawn.small, folder="first_stage")
            looks = stage_images(drawn.small, looks)
        result.look["distance"] = any(one.far for one in self.readings.values())
        result.picture(
            result_sheet(self.name, looks, self.cells, len(kept) // len(self.cells), before, after, self.note)
        )

    def move(self, first: Shown, then: Shown, result: Result) -> None:
        """How the first picture comes to be seen as something else, and every picture seen so."""
        view = self.readings[then.label].through
        save_gif(readout_frames(first, then, view), result.folder / f"{then.label}.gif", result.recipe)
        files = result.bare(then.images, f"{then.label}_{{:03d}}", "readings")
        result.look.setdefault("readings", []).append(
            {"label": then.label, "said": then.said[0], "degrees": view.degrees, "files": files}
        )


def run_note(note: str, stages: Sequence[EstimateBase], way: str, seed: int | list[int]) -> str:
    """A note with what was really done: what all pictures are to show where that is one thing, `way`, the strength of guidance."""
    wanted = describe_prompts([term for term in stages[0].terms if term.condition])
    said = [f"“{prompt}”" if prompt else "no prompt" for prompt in wanted] if len(wanted) == 1 else []
    strengths = dict.fromkeys(guidance_strength(stage) for stage in stages)
    return " · ".join(filter(None, [note, *said, way, ", then ".join(strengths), f"seed {seed}"]))


def guidance_strength(estimate: EstimateBase) -> str:
    return next((said.partition(":")[0] for said in describe_guidance(estimate.terms)), "no guidance")


def one_of(values: list):
    """The value that they all are, or all of them."""
    return values[0] if len(set(values)) == 1 else values


def progress(steps, name: str, grid: Sequence[int], pin: Pin | None):
    """The steps, with a progress bar."""
    from tqdm import tqdm

    return tqdm(
        steps, total=count_updates(grid) + bool(pin), desc=name, unit="step", leave=False, mininterval=0.2
    )


def usage(model: Counting) -> dict:
    """What a run has asked of the network; its speed is remembered for the next one."""
    if model.rows:
        timing.record_speed(model.name, model.seconds, sum(model.rows))
    return {
        "network_calls": len(model.rows),
        "rows_per_call": model.rows[0] if len(set(model.rows)) == 1 else model.rows,
        "rows": sum(model.rows),
        "seconds_in_network": round(model.seconds, 3),
    }
