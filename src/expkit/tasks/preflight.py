"""What is checked in milliseconds before a run, and said in its header.

A view V must invert and keep white noise white: V⁻¹ V = 1, |V x| = |x|. What an estimate does must sum to the whole picture: asked of a
network that answers with what it is shown, it gives back x, for the same wish composed is the wish: sum_k w_k A_k V_k = 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from expkit.core.denoiser import Denoiser, DenoiserWrapper, Prediction
from expkit.core.estimate import EstimateBase, Term
from expkit.core.maps import IdentityMap, LinearMap
from expkit.core.pin import Pin
from expkit.core.sampler import Clip, Rule, count_rows
from expkit.core.schedules import CLEAN
from expkit.core.timesteps import descent, find_rises, strength
from expkit.core.views import View
from expkit.errors import UserError

MOST = 8  # of the pictures of a run, or of the values of a list: as many are tried, or said


@dataclass(frozen=True)
class Plan:
    """What a run will do. calls: the rows of each network call to come; notes: its conventions; warnings: what fails on purpose."""

    calls: list[int]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def check_run(
    denoiser: Denoiser, estimate: EstimateBase, grid: Sequence[int], count: int, pin: Pin | None = None, clip: Clip | None = None,
    rule: Rule | None = None,
) -> Plan:  # fmt: skip
    """Refuse what cannot work, make ready what its prompts need; what will happen otherwise."""
    warnings = check_composition(denoiser, estimate, grid, count, pin, clip, rule)
    return plan_run(denoiser, estimate, grid, count, pin, warnings)


def check_composition(
    denoiser: Denoiser, estimate: EstimateBase, grid: Sequence[int], count: int, pin: Pin | None = None, clip: Clip | None = None,
    rule: Rule | None = None,
) -> tuple[str, ...]:  # fmt: skip
    """Refuse what cannot work, as far as can be told before any prompt is encoded or network loaded; warnings of what fails on purpose."""
    if not denoiser.can_sample:
        raise UserError(
            "This model is a single-step denoiser: it was told no time, so it cannot go from noise to a picture in steps. "
            "It serves task=forward, task=denoise and task=generalize; to sample, give the weights of a time-conditioned UNet."
        )
    check_channels([term.map for term in estimate.terms] + ([pin.part] if pin else []), denoiser)
    warnings = tuple(
        said
        for view in dict.fromkeys(term.view for term in estimate.terms)
        if (said := check_view(view, denoiser))
    )
    if not warnings:
        check_partition(estimate, denoiser, grid, count)
    nothing = torch.zeros(1, *denoiser.shape)
    if clip:
        clip(nothing, denoiser)
    if rule and (down := next(((t, s) for t, s in pairwise(grid) if s < t), None)):
        rule(denoiser.schedule, nothing, nothing, nothing if denoiser.learned else None, *down, nothing, None)
    return warnings


def plan_run(
    denoiser: Denoiser,
    estimate: EstimateBase,
    grid: Sequence[int],
    count: int,
    pin: Pin | None = None,
    warnings: tuple[str, ...] = (),
    left=None,
) -> Plan:
    """Make ready what the prompts need, which may take long and refuses what is not known; what will happen. left: see `sample.calls`."""
    said = sorted(describe_prompts(estimate.terms))
    denoiser.prepare(said)
    notes = (
        *denoiser.taken(said),
        *describe_guidance(estimate.terms),
        *(describe_pin(pin, grid) if pin else ()),
        *describe_resampling(grid),
    )
    return Plan(count_rows(estimate, denoiser.schedule, grid, count, pin, left), notes, warnings)


def check_view(view: View, denoiser: Denoiser) -> str:
    """A view must fit the model's pictures and be orthogonal; a warning if it fails on purpose, else nothing."""
    name, (_, height, width) = "view " + ", ".join(type(part).__name__ for part in view.parts), denoiser.shape
    if height != width:
        raise UserError(f"The {name} needs square pictures; this model's are {width} × {height}.")
    if any(part.symmetric_range for part in view.parts) and sum(denoiser.range) != 0:
        low, high = denoiser.range
        raise UserError(
            f"The {name} needs pictures whose values are symmetric about zero; this model's lie in [{low:g}, {high:g}]."
        )
    try:
        flaw = orthogonality_error(view, denoiser.shape)
    except ValueError as error:
        raise UserError(f"The {name} does not fit this model: {error}.") from None
    except (TypeError, RuntimeError) as error:  # torch refuses a seed that is no number by the latter
        raise UserError(f"The {name} cannot work with what it was given, {view}: {error}.") from None
    why = next((part.not_orthogonal_because for part in view.parts if part.not_orthogonal_because), "")
    if flaw and not why:
        raise UserError(f"The {name} is not orthogonal: {flaw}. Use a view that moves whole pixels.")
    return (
        f"WARNING: the {name} fails on purpose: {why}. It {flaw or 'was not caught this time'}."
        if why
        else ""
    )


def orthogonality_error(view: View, shape: Sequence[int]) -> str:
    """What is wrong with a view, tried on three white noises: nothing where it is orthogonal."""
    noise = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    seen = view(noise)
    if not torch.allclose(view.inverse(seen), noise, atol=1e-6):
        return "does not invert"
    kept = seen.square().flatten(1).sum(1) / noise.square().flatten(1).sum(1)
    worst = float((kept - 1).abs().max())
    return f"changes the strength of the noise by up to {worst:.1%}" if worst > 1e-9 else ""


def check_channels(maps: Sequence[LinearMap], denoiser: Denoiser) -> None:
    if max((linear.channels for linear in maps), default=1) > denoiser.shape[0]:
        raise UserError(
            "This model's pictures are grey: they have one channel, and their colour component is zero, so nothing would be asked of it. "
            "Take a decomposition without colour (hybrid, triple, motion), or a model of colour pictures."
        )


class Echo(DenoiserWrapper):
    """Answers with what it is shown, whatever the prompt."""

    def predict(self, x: Tensor, t: int, prompts: Sequence[str]) -> Prediction:
        return Prediction(x)

    def beside(self, x: Tensor, pictures: Sequence[int]) -> Tensor:
        return x

    def encode(self, images: Tensor) -> Tensor:
        """States of the right shape; those of latents would need a network."""
        return (
            super().encode(images)
            if self.shape == self.image_shape
            else torch.zeros(len(images), *self.shape)
        )


def check_partition(estimate: EstimateBase, denoiser: Denoiser, grid: Sequence[int], count: int) -> None:
    """The parts of an estimate must sum to the whole picture, at every time: tried on noise, of the first pictures, at three levels."""
    rows = range(min(count, MOST))
    noise = torch.randn(len(rows), *denoiser.shape, generator=torch.Generator().manual_seed(0)).to(
        denoiser.device
    )
    for t in sorted({max(level, 0) for level in (grid[0], grid[len(grid) // 2], grid[-1])}):
        left = (estimate(Echo(denoiser), noise, t, rows).native - noise).square().mean().sqrt()
        if not left < 1e-3:
            raise UserError(
                f"The parts of this estimate do not sum to the whole picture: if all said the same, it would be off by {left:.0%} at level "
                f"{t}. The maps of a decomposition must sum to the identity and the weights of a sum to 1: x = blur(x) + (x − blur(x))."
            )


def check_stages(estimate: EstimateBase, denoiser: Denoiser, times: int) -> None:
    """Views and maps must do the same to a picture and to one `times` as large, or the second stage undoes what the first has done."""
    side = denoiser.shape[-1]
    sizes = f"at {times * side} pixels than at {side}"
    pairs = zip(estimate.terms, estimate.scaled(times).terms, strict=True)
    for small, large in {(small.view, small.map): (small, large) for small, large in pairs}.values():
        if not view_is_consistent(small.view, side, times):
            raise UserError(
                f"The view {small.view} moves other things {sizes}: say what it moves in parts of the side, not in pixels."
            )
        if not maps_agree(small, large, side, times):
            raise UserError(
                f"The map {small.map} takes other things of a picture {sizes}: its `scaled` must grow with the picture."
            )


def view_is_consistent(view: View, side: int, times: int) -> bool:
    """Whether a view moves the same things at `side` pixels and at `times` as many: all but a tenth land within two of the small pixels."""
    small, large = (
        torch.stack(torch.meshgrid(*[(torch.arange(n) + 0.5) / n] * 2, indexing="ij"))
        for n in (side, times * side)
    )
    apart = (view(small) - F.interpolate(view(large)[None], (side, side), mode="nearest")[0]).norm(
        dim=0
    ) * side
    return bool((apart > 2 + 1e-3).float().mean() < 0.1)


def maps_agree(small: Term, large: Term, side: int, times: int) -> bool:
    """Whether the maps of two terms do the same to a picture and to the same one `times` as large; their views are undone by the maps."""
    drawn = torch.randn(1, 3, side // 2, side // 2, generator=torch.Generator().manual_seed(0))
    picture, enlarged = (F.interpolate(drawn, (n, n), mode="bilinear") for n in (side, times * side))
    apart = small.map(small.view(picture)) - F.avg_pool2d(large.map(large.view(enlarged)), times)
    return bool(apart.std() < 0.1 * picture.std())


def describe_prompts(terms: Sequence[Term]) -> list[str]:
    """What they say, each thing once."""
    return list(
        dict.fromkeys(
            p for term in terms for p in ([term.prompt] if isinstance(term.prompt, str) else term.prompt)
        )
    )


def describe_guidance(terms: Sequence[Term]) -> tuple[str, ...]:
    """The strengths of guidance and their convention; nothing where there is none: gamma = 1, or one prompt and nothing to lead it from."""
    gammas = [term.gamma for term in terms if term.gamma != 1.0]
    each = [g for gamma in gammas for g in (gamma if isinstance(gamma, tuple) else (gamma,))]
    values = dict.fromkeys(str(g) if callable(g) else f"{g:g}" for g in each)
    return (
        (f"gamma {join_some(list(values))}: null + gamma (prompt − null)",)
        if set(values) - {"1"} and len(describe_prompts(terms)) > 1
        else ()
    )


def describe_pin(pin: Pin, grid: Sequence[int]) -> tuple[str, ...]:
    """What a pin holds, in everyone's words: the mask's polarity, or where SDEdit starts."""
    said = [pin.note] if pin.note else []
    if pin.part.area is not None and not pin.note:
        said.append(f"mask: white is repainted, {1 - pin.part.area:.0%} of the picture; black is kept")
    levels = pin.levels()
    if levels[0].numel() > 1:
        said.append("held until a level of its own for each pixel")
    elif pin.part == IdentityMap():
        said.append(
            "start: "
            + join_some(
                [describe_start(level, grid) for level in dict.fromkeys(levels.flatten().tolist())], "; "
            )
        )
    return tuple(said)


def describe_start(level: float, grid: Sequence[float]) -> str:
    """Where a run starts from its picture: i_start on this grid, the level t, and diffusers' strength."""
    down = descent(grid)
    if level == CLEAN:
        return f"i_start {len(down) - 1} = the picture itself, given back as it is = strength 0"
    if level not in down:
        return f"t {level:g}"
    at = down.index(level)
    return f"i_start {at} = t {level:g} = strength {strength(at, down):g}"


def describe_resampling(grid: Sequence[float]) -> tuple[str, ...]:
    """How far and how often a grid goes up again (RePaint's jump and count); nothing where it does not."""
    found = find_rises(grid)
    if not found:
        return ()
    jumps, times = (
        sorted({by for _, by in found}),
        sorted({1 + count for count in Counter(level for level, _ in found).values()}),
    )
    each = f"jump {', '.join(map(str, jumps))}, {', '.join(map(str, times))} times each stretch"
    return (f"goes up again to blend: {each}; up {len(found)} times, first from t = {found[0][0]:g}",)


def join_some(words: Sequence[str], between: str = ", ") -> str:
    return between.join(words[:MOST]) + (f"{between}… ({len(words)} in all)" if len(words) > MOST else "")


def format_header(
    what: str, denoiser: Denoiser, grid: Sequence[int], plan: Plan, count: int, extra: Sequence[str] = ()
) -> str:
    """What is about to happen, in a few lines: what and how much of it, warnings, conventions, and what the caller has to add."""
    planned = plan.calls
    rows = ", ".join(
        f"{times} × {rows}" for rows, times in sorted(Counter(planned).items(), reverse=True)[:3]
    )
    many = "" if len(set(planned)) <= 3 else ", …"
    work = (
        f"{len(planned)} network calls (calls × rows: {rows}{many}; {sum(planned)} rows)"
        if planned
        else "no network call"
    )
    first = (
        f"{what}: {count} picture{'s' * (count != 1)} of {denoiser.shape[2]} × {denoiser.shape[1]} from level {grid[0]:g} of "
        f"{len(denoiser.schedule)}, {work}"
    )
    return "\n".join([first, *plan.warnings, *[f"  {line}" for line in (*plan.notes, *extra)]])
