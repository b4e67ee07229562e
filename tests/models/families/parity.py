"""What tests of families share: pipelines of diffusers whose every step is noted."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from expkit.core.sampler import sample, seeded
from expkit.models.pretrained.base import DeviceSpec
from expkit.models.pretrained.own_sampler import own_sampler

CPU, EXACT = DeviceSpec(), DeviceSpec(dtype=torch.float64)
SEEDS = seeded(3, 2)
PROMPTS = ("a photo of a dog", "a rocket ship")


class Told:
    """Embeddings of prompts as `expkit.text.Embeddings` gives them, by a family's `encode_prompts`."""

    def __init__(self, family, pipeline) -> None:
        self.family, self.pipeline = family, pipeline

    def canonical_prompt(self, prompt: str) -> str:
        return prompt

    def conditions(self, texts) -> dict[str, Tensor]:
        with torch.no_grad():
            encoded = [self.family.encode_prompts(self.pipeline, [text]) for text in texts]
        return {name: torch.cat([one[name] for one in encoded]) for name in encoded[0]}


class Asked(NamedTuple):
    """One step of a pipeline: the state, the guided answer that its scheduler was given, and the next state."""

    t: float
    x: Tensor
    answer: Tensor
    after: Tensor


def noted(pipe, monkeypatch) -> list[Asked]:
    """The steps that a pipeline will make, in a list that fills while it runs."""
    steps, step = [], pipe.scheduler.step

    def watched(answer, t, x, *given, **named):
        out = step(answer, t, x, *given, **named)
        after = out[0] if isinstance(out, tuple) else out.prev_sample
        steps.append(Asked(float(t), x.clone(), answer.clone(), after.clone()))
        return out

    monkeypatch.setattr(pipe.scheduler, "step", watched)
    pipe.set_progress_bar_config(disable=True)
    return steps


def start(model) -> Tensor:
    """The noise that both sides begin with, in the precision of the model."""
    noise = torch.randn(len(SEEDS), *model.shape, generator=torch.Generator().manual_seed(5))
    return noise.to(model.network.machine.dtype)


def walked(model, estimate, grid, rule, x) -> list[Tensor]:
    """Our states along a grid, one after each step."""
    return [step.x for step in sample(model, estimate, grid, SEEDS, rule, x=x)]


def agree(mine: list[Tensor], theirs: list[Tensor]) -> None:
    """Within 1e-4 at every step, where states are large within 1e-5 of the largest; they move much more than that."""
    apart = max(float((a - b).abs().max()) for a, b in zip(mine, theirs, strict=True))
    size = max(float(x.abs().max()) for x in theirs)
    print(f"apart {apart:.1e}, of states up to {size:.1f}")
    bound = 1e-5 * max(10.0, size)
    assert apart < bound
    assert max(float((a - b).abs().max()) for a, b in pairwise(theirs)) > 100 * bound


def check_answers(model, estimate, steps: list[Asked], levels, sign: float = 1.0) -> None:
    """At each state of a pipeline, ours answers what its scheduler was given: within 1e-4, in float64 within 1e-8."""
    for t, step in zip(levels, steps, strict=True):
        x, theirs = step.x[: len(SEEDS)], sign * step.answer[: len(SEEDS)]
        mine = estimate(model, x, t, range(len(SEEDS))).native
        assert mine.dtype == theirs.dtype == x.dtype
        assert (mine - theirs).abs().max() < (1e-8 if mine.dtype == torch.float64 else 1e-4)
        assert mine.abs().max() > 0.1 and (mine - x).abs().max() > 0.1


def check_own_sampler(folder, model, estimate, steps: list[Asked], x) -> None:
    """sampler=own with this model walks as its pipeline did from x."""
    own = own_sampler(str(folder), len(steps))
    grid = own.timesteps(model.schedule)
    mine = [step.x for step in sample(model, estimate, grid, SEEDS, own.rule, clip=own.clip, x=x)]
    agree(mine, [step.after[: len(SEEDS)] for step in steps])
