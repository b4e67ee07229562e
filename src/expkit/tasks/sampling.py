"""The task behind sample, hybrid, anagram, sdedit, inpaint and trajectory: an estimate, a pin, and a way to look at the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from expkit import speed
from expkit.animations import animation
from expkit.denoiser import Counting, Denoiser
from expkit.errors import Refusal
from expkit.estimate import Wish
from expkit.judges import Judging
from expkit.maps import Identity
from expkit.pin import Pin
from expkit.preflight import check, check_stages, header
from expkit.result import Result
from expkit.sample import Sampler, Seed, noises, sample
from expkit.tasks import readings as reading
from expkit.tasks.film import Film, Shot
from expkit.tasks.looks import figure, moved, shown
from expkit.tasks.pins import Pinned
from expkit.tasks.readings import Reading


@dataclass(frozen=True, eq=False)
class Sampling:
    """Sample `estimate` from `model`.

    cells: what distinguishes the wishes of this batch, {key: value} each; every wish has `samples` pictures, numbered from 0.
    pin: (model, grid, times) -> Pinned. readings: what is to be seen in a picture; judges read it. keep: only so many of each wish's
    samples are kept, the best by the first judge. film: what films the way. upscaler: (low, noise) -> the model's second stage, where it
    has one and `upscale` asks for it.
    """

    name: str
    model: Denoiser
    sampler: Sampler
    estimate: Wish
    pin: Callable[..., Pinned]
    seed: int | Sequence[int]
    samples: int
    readings: Mapping[str, Reading] = field(default_factory=dict)
    cells: Sequence[Mapping] = ({},)
    judges: Mapping[str, Judging] | None = None
    keep: int | None = None
    film: Film | None = None
    upscale: bool = False
    upscaler: Callable[[Tensor, Callable], Denoiser] | None = None
    note: str = ""

    def __call__(self, result: Result) -> None:
        self.check()
        model, seeds = Counting(self.model), self.seeds()
        grid = self.sampler.grid(len(model.schedule))
        pinned = self.pin(model, grid)
        plan = check(model, self.estimate, grid, len(seeds), pinned.pin, self.sampler.clip)
        result.say(header(self.name, model, grid, plan, len(seeds), [self.note, speed.said(model.name, sum(plan.calls))]))
        x, shots = self.run(model, grid, seeds, pinned.pin)
        images = model.decode(x).cpu()
        result.numbers |= spent(model) | {"device": str(model.device), "seed": self.seed} | pinned.numbers
        kept = self.judged(images, result)
        if shots:
            self.film.develop(result, shots, images[self.film.picture], self.note)
        if self.upscale:
            self.model.release()
            pinned, images = self.larger(x[kept], kept, seeds, result)
        else:
            images = images[kept]
        self.show(result, images, kept, pinned)

    def check(self) -> None:
        if self.upscale and not self.upscaler:
            raise Refusal("upscale=true needs a model with a second stage, and this one has none: try model=deepfloyd, or upscale=false.")
        if self.keep and not (self.judges and self.readings):
            raise Refusal(f"keep={self.keep} needs a judge who ranks the pictures, and this run has none: try judges@model.judges=clip.")
        if self.keep and self.keep > self.samples:
            raise Refusal(f"keep={self.keep} is more than samples={self.samples}: keep at most as many as are sampled.")

    def seeds(self) -> list[Seed]:
        """Sample k of every wish has picture k's noise, so that wishes are compared on equal noise."""
        count = len(self.cells) * self.samples
        seeds = [self.seed] * count if isinstance(self.seed, int) else self.seed
        return [Seed(seed, number % self.samples) for number, seed in enumerate(seeds)]

    def run(self, model: Denoiser, grid: Sequence[int], seeds: Sequence[Seed], pin: Pin | None) -> tuple[Tensor, list[Shot]]:
        """The finished states (B, *shape), and what was filmed."""
        x, shots = None, []
        for step in watched(sample(model, self.estimate, grid, seeds, self.sampler.rule, pin, self.sampler.clip), self.name, grid, pin):
            x = step.x
            if self.film and step.s in grid and (not pin or self.film.picture in pin.free(step.s, len(seeds))):
                shots.append(self.film.shot(model, step))
        return x, shots

    def larger(self, low: Tensor, kept: Sequence[int], seeds: Sequence[Seed], result: Result) -> tuple[Pinned, Tensor]:
        """The kept pictures through the second stage: the same wish, its blurs scaled; what is pinned in part stays pinned."""
        seeds = [seeds[row] for row in kept]
        model = Counting(self.upscaler(low, lambda shape: noises(seeds, "low", 0, shape)))
        times = model.shape[-1] // low.shape[-1]
        grid, estimate = self.sampler.grid(len(model.schedule)), self.estimate.only(kept).scaled(times)
        pinned = self.pin(model, grid, times=times)
        pin = pinned.pin.only(kept) if pinned.pin and pinned.pin.part != Identity() else None
        check_stages(self.estimate, self.model, times)
        plan = check(model, estimate, grid, len(seeds), pin, self.sampler.clip)
        result.say(header("upscale", model, grid, plan, len(seeds), [speed.said(model.name, sum(plan.calls))]))
        steps = sample(model, estimate, grid, seeds, self.sampler.rule, pin, self.sampler.clip, purpose="second ")
        *_, end = watched(steps, "upscale", grid, pin)
        result.numbers["second_stage"] = spent(model)
        return pinned, model.decode(end.x).cpu()

    def judged(self, images: Tensor, result: Result) -> list[int]:
        """Write what the judges read; the rows that are kept, all of them where nothing is asked to be left out."""
        every = list(range(len(images)))
        found = reading.seen(self.readings, self.judges, self.model, images) if self.judges else []
        if found:
            result.numbers["judged"] = reading.as_asked(found, every)
            result.numbers["accuracy_of_judges_from_afar"] = {name: judge.accuracy_from_afar for name, judge in self.judges.items()}
        if not self.keep:
            return every
        if not found:
            raise Refusal("keep=… ranks pictures by how well they are read, and this wish cannot be read by a judge: leave keep out.")
        score = reading.scores(found)
        kept = reading.best(score, self.samples, self.keep)
        result.numbers["judged_of_kept"] = reading.as_asked(found, kept)
        result.numbers["ranking"] = self.ranking(found, score)
        return kept

    def ranking(self, found: Sequence[reading.Seen], score: Tensor) -> list[dict]:
        """Every picture of every wish, best first: its score, and the probability of each reading by each judge."""
        order = reading.best(score, self.samples, self.samples)
        sure = [{f"{one.reading}_{one.judge}": round(float(one.sure[row]), 4) for one in found} for row in order]
        return [self.wish(row) | {"score": round(float(score[row]), 4)} | s for row, s in zip(order, sure, strict=True)]

    def wish(self, row: int) -> dict:
        return {**self.cells[row // self.samples], "sample": row % self.samples}

    def show(self, result: Result, images: Tensor, kept: Sequence[int], pinned: Pinned) -> None:
        """The pictures bare, and the labelled sheet."""
        files = result.bare(images)
        result.numbers["pictures"] = [{"file": file, **self.wish(row)} for file, row in zip(files, kept, strict=True)]
        looks = shown(images, self.readings, kept, len(self.cells) * self.samples)
        for look in looks:
            if self.readings and self.readings[look.label].moving:
                animation(moved(looks[0], look, self.readings[look.label].through), result.folder / f"{look.label}.gif", result.recipe)
        result.picture(figure(self.name, looks, self.cells, self.keep or self.samples, pinned.before, pinned.after, self.note))


def watched(steps, name: str, grid: Sequence[int], pin: Pin | None):
    """The steps, with a progress bar."""
    from tqdm import tqdm

    return tqdm(steps, total=len(grid) - 1 + bool(pin), desc=name, unit="step", leave=False, mininterval=0.2)


def spent(model: Counting) -> dict:
    """What a run has asked of the network; its speed is remembered for the next one."""
    if model.rows:
        speed.learn(model.name, model.seconds, sum(model.rows))
    return {
        "network_calls": len(model.rows),
        "rows_per_call": model.rows[0] if len(set(model.rows)) == 1 else model.rows,
        "rows": sum(model.rows),
        "seconds_in_network": round(model.seconds, 3),
    }
