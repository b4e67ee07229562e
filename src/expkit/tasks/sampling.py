"""The task behind sample, hybrid, anagram, sdedit and inpaint: an estimate, a pin, and a way to look at the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from expkit import pictures
from expkit.denoiser import Counting, Denoiser
from expkit.estimate import Wish
from expkit.pin import Pin
from expkit.preflight import check, header
from expkit.result import Result
from expkit.sample import Sampler, Seed, sample
from expkit.tasks.looks import Reading, figure

Judge = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Pinned:
    """A pin, and the pictures that go with it on the sheet: {label: (1 or B, C, H, W) in [0, 1]}, before and after the results."""

    pin: Pin | None = None
    before: Mapping[str, Tensor] = field(default_factory=dict)
    after: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Sampling:
    """Sample `estimate` from `model`.

    cells: what distinguishes the wishes of this batch, {key: value} each; every wish has `samples` pictures, numbered from 0.
    pin: (model, grid) -> Pinned. readings: what is to be seen in a picture. judges: {name: images (N, C, H, W) in [0, 1] -> (N, K)}.
    """

    name: str
    model: Denoiser
    sampler: Sampler
    estimate: Wish
    readings: Mapping[str, Reading]
    pin: Callable[[Denoiser, Sequence[int]], Pinned]
    seed: int | Sequence[int]
    samples: int
    cells: Sequence[Mapping] = ({},)
    judges: Mapping[str, Judge] | None = None
    note: str = ""

    def __call__(self, result: Result) -> None:
        model, seeds = Counting(self.model), self.seeds()
        grid = self.sampler.grid(len(model.schedule))
        pinned = self.pin(model, grid)
        plan = check(model, self.estimate, grid, len(seeds), pinned.pin, self.sampler.clip)
        result.say(header(self.name, model, grid, plan, len(seeds)))
        images = model.decode(self.run(model, grid, seeds, pinned.pin)).cpu()
        result.numbers |= {
            "network_calls": len(model.rows),
            "rows_per_call": model.rows[0] if len(set(model.rows)) == 1 else model.rows,
            "rows": sum(model.rows),
            "seconds_in_network": round(model.seconds, 3),
            "device": str(model.device),
            "seed": self.seed,
        }
        if self.judges:
            result.numbers["judged"] = self.judged(images)
        files = result.bare(images)
        wishes = [dict(cell) | {"sample": k} for cell in self.cells for k in range(self.samples)]
        result.numbers["pictures"] = [{"file": file, **wish} for file, wish in zip(files, wishes, strict=True)]
        result.picture(figure(self.name, images, self.cells, self.samples, self.readings, pinned.before, pinned.after, self.note))

    def seeds(self) -> list[Seed]:
        """Sample k of every wish has picture k's noise, so that wishes are compared on equal noise."""
        count = len(self.cells) * self.samples
        seeds = [self.seed] * count if isinstance(self.seed, int) else self.seed
        return [Seed(seed, number % self.samples) for number, seed in enumerate(seeds)]

    def run(self, model: Denoiser, grid: Sequence[int], seeds: Sequence[Seed], pin: Pin | None) -> Tensor:
        from tqdm import tqdm

        steps = sample(model, self.estimate, grid, seeds, self.sampler.rule, pin, self.sampler.clip)
        x = None
        for step in tqdm(steps, total=len(grid) - 1 + bool(pin), desc=self.name, unit="step", leave=False, mininterval=0.2):
            x = step.x
        return x

    def judged(self, images: Tensor) -> dict:
        """How many pictures are read as asked: {reading: {judge: fraction}}, and what each judge read where there are few."""
        table: dict = {}
        for name, reading in self.readings.items():
            asked = reading.asked(self.model, len(images))
            if all(asked):
                seen = reading.through(images)
                read = {judge: [str(int(d)) for d in ask(seen).argmax(1)] for judge, ask in self.judges.items()}
                table[name] = {j: sum(r == a for r, a in zip(rs, asked, strict=True)) / len(asked) for j, rs in read.items()}
                table[name] |= {f"read_by_{judge}": " ".join(rs) for judge, rs in read.items() if len(rs) <= 64}
        return table


def no_pin(model: Denoiser, grid: Sequence[int]) -> Pinned:
    """Nothing must stay."""
    return Pinned()


def from_picture(model: Denoiser, grid: Sequence[int], image: str | Sequence[str], i_start: int | Sequence[int]) -> Pinned:
    """SDEdit: the whole picture, until the level at index i_start of the grid. With lists, one a picture."""
    source = images(image, model)
    starts = [i_start] if isinstance(i_start, int) else list(i_start)
    pin = Pin(model.encode(source), until=tuple(grid[i] for i in starts))
    return Pinned(pin, after={"original": source})


def around_mask(model: Denoiser, grid: Sequence[int], image: str | Sequence[str], mask: str, at_first: bool = False) -> Pinned:
    """Inpainting: what is black in the mask stays, for all time; white is repainted."""
    from expkit.maps import Mask

    source, hole = images(image, model), pictures.load_mask(mask, model.pictured)
    pin = Pin(model.encode(source), Mask(1 - pictures.load_mask(mask, model.shape)), at_first=at_first)
    return Pinned(pin, before={"original": source, "mask": hole[None].expand_as(source[:1]), "to repaint": source * hole})


def images(names: str | Sequence[str], model: Denoiser) -> Tensor:
    """(1, C, H, W) of one name, (B, C, H, W) of a list with one a picture; each file is read once."""
    names = [names] if isinstance(names, str | Path) else list(names)
    loaded = {name: pictures.load(name, model.pictured) for name in set(names)}
    return torch.stack([loaded[name] for name in names])
