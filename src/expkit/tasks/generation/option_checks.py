"""Refuse options of a run that do not fit its model, its judges or each other."""

from __future__ import annotations

from collections.abc import Sequence

from expkit.core.timesteps import count_updates, find_rises
from expkit.errors import UserError
from expkit.tasks.generation.upscaling import Upscaler
from expkit.tasks.scoring import BatchScorer
from expkit.tasks.trajectory import Film


def require_upscaler(upscaler: Upscaler | None) -> Upscaler:
    """The upscaler of a model; refuses a model without a second stage."""
    if not upscaler:
        raise UserError(
            "upscale=true needs a model with a second stage, and this one has none: "
            "try model=deepfloyd, or upscale=false."
        )
    return upscaler


def check_ranking_possible(keep: int | None, prune: Sequence[int], has_judges: bool) -> None:
    """Refuse to keep or drop pictures where no judge reads them."""
    if keep and not has_judges:
        raise UserError(
            f"keep={keep} needs a judge who ranks the pictures, and this run has none: "
            "try judges@model.judges=clip."
        )
    if prune and not has_judges:
        problem = "needs a judge who reads the pictures, and this run has none"
        raise UserError(f"prune={list(prune)} {problem}: leave prune out.")


def check_prune(prune: Sequence[int], grid: Sequence[float], film: Film | None) -> None:
    """Refuse numbers of updates after which nothing can be dropped."""
    prune, updates = list(prune), count_updates(grid)
    if prune and (find_rises(grid) or prune != sorted({*prune}) or prune[-1] >= updates):
        raise UserError(
            f"prune={prune} does not fit: it says after which updates samples are dropped, "
            f"in rising order, before the last of {updates}, of a sampler that never goes back "
            "to more noise."
        )
    if prune and film:
        problem = "prune=… drops pictures on the way, and a film follows one to its end"
        raise UserError(f"{problem}: leave one of the two out.")


def check_keep(keep: int | None, samples: int) -> None:
    """Refuse to keep more samples than there are."""
    if keep and keep > samples:
        problem = f"keep={keep} is more than samples={samples}"
        raise UserError(f"{problem}: keep at most as many as are sampled.")


def check_film(film: Film | None, count: int) -> None:
    """Refuse to record a picture that is not among the `count` of a run."""
    if film and not 0 <= film.picture < count:
        raise UserError(
            f"task.film.picture={film.picture} is not among the pictures of this run: "
            f"they are numbered from 0 to {count - 1}."
        )


def check_rankable(scorer: BatchScorer) -> None:
    """Refuse to rank where the first judge cannot read all that is asked for."""
    if not scorer.can_score_each_run():
        raise UserError(
            "keep=… and prune=… rank by what a judge reads, "
            "and this wish cannot be read by a judge: leave them out."
        )
    unranked = scorer.unranked_readouts()
    if unranked:
        raise UserError(
            f"keep=… and prune=… rank by what the judge {next(iter(scorer.judges))} reads, and it "
            f"cannot read what is asked for in {' and '.join(unranked)}: leave them out, "
            "or give a judge that can, with judges@model.judges=clip."
        )
