"""A note on what a run has really done, for the foot of its sheet."""

from __future__ import annotations

from collections.abc import Sequence

from expkit.core.estimate import EstimateBase
from expkit.tasks.preflight import describe_guidance, describe_prompts


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
