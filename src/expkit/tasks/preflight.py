"""Checks before a run, which take milliseconds, and the header that describes the run.

A view V must be invertible and keep white noise white: V⁻¹ V = 1, |V x| = |x|. The parts of an
estimate must sum to the whole picture, sum_k w_k A_k V_k = 1: with a network that returns its
input, the estimate returns x, because a composition of equal prompts must equal the prompt itself.
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
from expkit.core.estimate import EstimateBase, Term, conditional
from expkit.core.maps import IdentityMap, LinearMap
from expkit.core.pin import Pin
from expkit.core.pixel_views import ViewsInPixels
from expkit.core.sampler import Clip, count_rows
from expkit.core.schedules import CLEAN
from expkit.core.solvers import DDPM, Rule, Update
from expkit.core.timesteps import descent, find_rises, strength
from expkit.core.views import View
from expkit.errors import UserError

MOST = 8  # so many pictures of a run are tested, and so many values of a list are printed


@dataclass(frozen=True)
class Plan:
    """What a run will do.

    Attributes:
        calls: the number of rows of each network call.
        notes: the conventions of the run, for the header.
        warnings: what fails on purpose.
    """

    calls: list[int]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def check_run(
    denoiser: Denoiser, estimate: EstimateBase, grid: Sequence[float], count: int,
    pin: Pin | None = None, clip: Clip | None = None, rule: Rule | None = None,
) -> Plan:  # fmt: skip
    """`check_composition`, then `plan_run`: refuse what cannot work, prepare the prompts, plan."""
    warnings = check_composition(denoiser, estimate, grid, count, pin, clip, rule)
    return plan_run(denoiser, estimate, grid, count, pin, warnings, rule=rule or DDPM())


def check_composition(
    denoiser: Denoiser, estimate: EstimateBase, grid: Sequence[float], count: int,
    pin: Pin | None = None, clip: Clip | None = None, rule: Rule | None = None,
) -> tuple[str, ...]:  # fmt: skip
    """Check all that can be checked before a prompt is encoded or a network is loaded.

    Returns:
        Warnings of views that fail on purpose.

    Raises:
        UserError: the run cannot work.
    """
    if not denoiser.can_sample:
        raise UserError(
            "This model is a single-step denoiser: it was told no time, so it cannot go from noise "
            "to a picture in steps. It serves task=forward, task=denoise and task=generalize; "
            "to sample, give the weights of a time-conditioned UNet."
        )
    check_channels([term.map for term in estimate.terms] + ([pin.part] if pin else []), denoiser)
    estimate = estimate.for_denoiser(denoiser)
    through_pixels = isinstance(estimate, ViewsInPixels)
    check = check_view_in_pixels if through_pixels else check_view
    views = dict.fromkeys(term.view for term in estimate.terms)
    warnings = tuple(filter(None, [check(view, denoiser) for view in views]))
    if not warnings:
        for whole in estimate.parts if through_pixels else (estimate,):
            check_partition(whole, denoiser, grid, count)
    zeros = torch.zeros(1, *denoiser.shape)
    if clip:
        clip(zeros, denoiser)
    update = next(((t, s) for t, s in pairwise(grid) if s < t), None)
    if rule and update:
        variance = zeros if denoiser.learns_variance else None
        ask = lambda x, t: zeros
        rule(Update(denoiser.schedule, zeros, zeros, *update, zeros, variance, ask=ask))
    return warnings


def plan_run(
    denoiser: Denoiser,
    estimate: EstimateBase,
    grid: Sequence[float],
    count: int,
    pin: Pin | None = None,
    warnings: tuple[str, ...] = (),
    left=None,
    rule: Rule = DDPM(),  # noqa: B008
) -> Plan:
    """Prepare the prompts, which may take long and refuses unknown ones; what the run will do.

    left, rule: see `sampler.count_rows`.
    """
    prompts = sorted(describe_prompts(estimate.terms))
    denoiser.prepare(prompts)
    run = (denoiser.schedule, grid, count, pin, left, rule)
    real = estimate.for_denoiser(denoiser)
    through_pixels = isinstance(real, ViewsInPixels)
    evaluations = sum(count_rows(conditional(""), *run)) if through_pixels else 0
    notes = (
        *denoiser.substitutions(prompts),
        *describe_guidance(estimate.terms),
        *describe_views_in_pixels(estimate, denoiser, evaluations),
        *(describe_pin(pin, grid) if pin else ()),
        *describe_resampling(grid),
    )
    calls = count_rows(real, *run)
    return Plan(calls, notes, (*warnings, *warn_of_views_in_latents(estimate, denoiser)))


def check_view(view: View, denoiser: Denoiser) -> str:
    """Refuse a view that does not fit the model's states or is not orthogonal.

    Returns:
        A warning for a view that is not orthogonal on purpose, else "".
    """
    return check_view_of(view, denoiser.shape, denoiser.range)


def check_view_in_pixels(view: View, denoiser: Denoiser) -> str:
    """Refuse a view that does not fit a latent model's pictures, or for which its latents have none.

    The noise of a latent is viewed on the grid of latents, where the view must do the same.

    Returns:
        A warning for a view that is not orthogonal on purpose, else "".
    """
    warning = check_view_of(view, denoiser.image_shape, (-1.0, 1.0))
    side, pixels = denoiser.shape[-1], denoiser.image_shape[-1]
    try:
        flaw = orthogonality_error(view, denoiser.shape)
        fits = view_is_consistent(view, side, pixels // side) and (not flaw or bool(warning))
    except ValueError:
        fits = False
    if not fits:
        raise UserError(
            f"The {view_name(view)} fits pictures of {pixels} pixels but not the grid of {side} × "
            f"{side} latents, where their noise is, and new noise in its place would be another "
            f"state: take a view whose pieces are whole latents, {pixels // side} pixels wide."
        )
    return warning


def view_name(view: View) -> str:
    """The view in words, for messages."""
    return "view " + ", ".join(type(part).__name__ for part in view.parts)


def check_view_of(view: View, shape: tuple[int, int, int], limits: tuple[float, float]) -> str:
    """`check_view` for images of this shape, (C, H, W), and range."""
    name = view_name(view)
    _, height, width = shape
    if height != width:
        raise UserError(f"The {name} needs square pictures; this model's are {width} × {height}.")
    if any(part.symmetric_range for part in view.parts) and sum(limits) != 0:
        low, high = limits
        raise UserError(
            f"The {name} needs pictures whose values are symmetric about zero; "
            f"this model's lie in [{low:g}, {high:g}]."
        )
    try:
        flaw = orthogonality_error(view, shape)
    except ValueError as error:
        raise UserError(f"The {name} does not fit this model: {error}.") from None
    except (TypeError, RuntimeError) as error:  # torch: RuntimeError for a seed that is no number
        problem = f"{view}: {error}"
        raise UserError(f"The {name} cannot work with what it was given, {problem}.") from None
    reasons = [part.not_orthogonal_because for part in view.parts if part.not_orthogonal_because]
    if reasons:
        flaw = flaw or "was not caught this time"
        return f"WARNING: the {name} fails on purpose: {reasons[0]}. It {flaw}."
    if flaw:
        advice = "Use a view that moves whole pixels."
        raise UserError(f"The {name} is not orthogonal: {flaw}. {advice}")
    return ""


def orthogonality_error(view: View, shape: Sequence[int]) -> str:
    """How a view fails to be orthogonal, tested on three white noises; "" if it is orthogonal."""
    noise = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    image = view(noise)
    if not torch.allclose(view.inverse(image), noise, atol=1e-6):
        return "does not invert"
    energy_ratio = image.square().flatten(1).sum(1) / noise.square().flatten(1).sum(1)
    worst = float((energy_ratio - 1).abs().max())
    return f"changes the strength of the noise by up to {worst:.1%}" if worst > 1e-9 else ""


def check_channels(maps: Sequence[LinearMap], denoiser: Denoiser) -> None:
    """Refuse maps that need more channels than the model's pictures have."""
    if max((linear.channels for linear in maps), default=1) > denoiser.shape[0]:
        raise UserError(
            "This model's pictures are grey: they have one channel, and their colour component "
            "is zero, so nothing would be asked of it. Take a decomposition without colour "
            "(hybrid, triple, motion), or a model of colour pictures."
        )


class Echo(DenoiserWrapper):
    """A denoiser whose prediction is its input, for every prompt. No network is needed."""

    def predict(self, x: Tensor, t: float, prompts: Sequence[str]) -> Prediction:
        return Prediction(x)

    def concat_condition(self, x: Tensor, pictures: Sequence[int]) -> Tensor:
        return x

    def encode(self, images: Tensor) -> Tensor:
        """States of the right shape; zeros for a latent model, whose encoder is a network."""
        if self.shape == self.image_shape:
            return super().encode(images)
        return torch.zeros(len(images), *self.shape)


def check_partition(
    estimate: EstimateBase, denoiser: Denoiser, grid: Sequence[float], count: int
) -> None:  # fmt: skip
    """Refuse an estimate whose parts do not sum to the whole picture.

    Tested with `Echo` on noise, for the first pictures of the run, at three levels of the grid.
    """
    rows = range(min(count, MOST))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(len(rows), *denoiser.shape, generator=generator).to(denoiser.device)
    for t in sorted({max(level, 0) for level in (grid[0], grid[len(grid) // 2], grid[-1])}):
        error = (estimate(Echo(denoiser), noise, t, rows).native - noise).square().mean().sqrt()
        if not error < 1e-3:
            raise UserError(
                "The parts of this estimate do not sum to the whole picture: if all said the same, "
                f"it would be off by {error:.0%} at level {t}. The maps of a decomposition must "
                "sum to the identity and the weights of a sum to 1: x = blur(x) + (x − blur(x))."
            )


def check_stages(estimate: EstimateBase, denoiser: Denoiser, times: int) -> None:
    """Refuse views and maps that act differently on a picture and on the same one `times` as large.

    With these, the second stage would undo the work of the first.
    """
    side = denoiser.shape[-1]
    sizes = f"at {times * side} pixels than at {side}"
    pairs = zip(estimate.terms, estimate.for_resolution(times).terms, strict=True)
    distinct = {(small.view, small.map): (small, large) for small, large in pairs}
    for small, large in distinct.values():
        if not view_is_consistent(small.view, side, times):
            raise UserError(
                f"The view {small.view} moves other things {sizes}: "
                "say what it moves in parts of the side, not in pixels."
            )
        if not maps_agree(small, large, side, times):
            raise UserError(
                f"The map {small.map} takes other things of a picture {sizes}: "
                "its `for_resolution` must grow with the picture."
            )


def view_is_consistent(view: View, side: int, times: int) -> bool:
    """Whether a view moves pixels to the same places at `side` pixels and at `times` as many.

    More than nine tenths of the pixels must land within two pixels of the small picture.
    """
    small, large = (  # pictures of the pixels' own coordinates, in [0, 1]
        torch.stack(torch.meshgrid(*[(torch.arange(size) + 0.5) / size] * 2, indexing="ij"))
        for size in (side, times * side)
    )
    difference = view(small) - F.interpolate(view(large)[None], (side, side), mode="nearest")[0]
    distance = difference.norm(dim=0) * side
    return bool((distance > 2 + 1e-3).float().mean() < 0.1)


def maps_agree(small: Term, large: Term, side: int, times: int) -> bool:
    """Whether the maps of two terms do the same to a picture and to the same one `times` as large.

    Each picture is first seen through its term's view, because the map includes the inverse view.
    """
    noise = torch.randn(1, 3, side // 2, side // 2, generator=torch.Generator().manual_seed(0))
    sizes = (side, times * side)
    picture, larger = (F.interpolate(noise, (size, size), mode="bilinear") for size in sizes)
    large_part = F.avg_pool2d(large.map(large.view(larger)), times)
    difference = small.map(small.view(picture)) - large_part
    return bool(difference.std() < 0.1 * picture.std())


def describe_prompts(terms: Sequence[Term]) -> list[str]:
    """The distinct prompts of the terms, in order."""
    prompts = [[term.prompt] if isinstance(term.prompt, str) else term.prompt for term in terms]
    return list(dict.fromkeys(prompt for group in prompts for prompt in group))


def describe_guidance(terms: Sequence[Term]) -> tuple[str, ...]:
    """The guidance strengths and their convention; () without guidance.

    There is none where every gamma is 1, or where there is one prompt and none to guide away from.
    """
    gammas = [term.gamma for term in terms if term.gamma != 1.0]
    groups = [gamma if isinstance(gamma, tuple) else (gamma,) for gamma in gammas]
    strengths = [gamma for group in groups for gamma in group]
    values = dict.fromkeys(str(gamma) if callable(gamma) else f"{gamma:g}" for gamma in strengths)
    if set(values) - {"1"} and len(describe_prompts(terms)) > 1:
        return (f"gamma {join_some(list(values))}: null + gamma (prompt − null)",)
    return ()


def describe_views_in_pixels(
    estimate: EstimateBase, denoiser: Denoiser, evaluations: int
) -> tuple[str, ...]:  # fmt: skip
    """What view_in=pixels costs; () for an estimate without it.

    evaluations: how often the estimate of one picture is evaluated in the run.
    """
    if not isinstance(estimate, ViewsInPixels):
        return ()
    if denoiser.shape == denoiser.image_shape:
        return ("view_in=pixels costs nothing here: this model's states are pixels",)
    decodings, encodings = estimate.autoencoding
    if not decodings:
        return ("view_in=pixels costs nothing here: no part has a view",)
    return (
        "views act on decoded pictures, view_in=pixels: two network calls where latents need one, "
        f"and the autoencoder {evaluations} × {decodings + encodings} times "
        f"({decodings} decodings and {encodings} encodings each)",
    )


def warn_of_views_in_latents(estimate: EstimateBase, denoiser: Denoiser) -> tuple[str, ...]:
    """A warning if views act on the latents of a model, which few views and autoencoders allow."""
    is_latent = denoiser.shape != denoiser.image_shape
    views = dict.fromkeys(term.view for term in estimate.terms if term.view.parts)
    if not is_latent or not views or isinstance(estimate, ViewsInPixels):
        return ()
    names = ", ".join(dict.fromkeys(view_name(view).removeprefix("view ") for view in views))
    cell = denoiser.image_shape[-1] // denoiser.shape[-1]
    return (
        f"WARNING: {names} moves latents, of {cell} × {cell} pixels each, and what is inside one "
        "stays as it is, so that the picture seen through it may look wrong. view_in=pixels moves "
        "pixels instead, at the cost of the autoencoder and another network call at each step.",
    )


def describe_pin(pin: Pin, grid: Sequence[float]) -> tuple[str, ...]:
    """What a pin keeps: the polarity of the mask, or where SDEdit starts."""
    notes = [pin.note] if pin.note else []
    if pin.part.area is not None and not pin.note:
        share = f"{1 - pin.part.area:.0%} of the picture"
        notes.append(f"mask: white is repainted, {share}; black is kept")
    levels = pin.levels()
    if levels[0].numel() > 1:
        notes.append("held until a level of its own for each pixel")
    elif pin.part == IdentityMap():
        starts = [describe_start(level, grid) for level in dict.fromkeys(levels.flatten().tolist())]
        notes.append("start: " + join_some(starts, "; "))
    return tuple(notes)


def describe_start(level: float, grid: Sequence[float]) -> str:
    """Where a run starts from its picture: i_start on this grid, level t, diffusers' strength."""
    down = descent(grid)
    if level == CLEAN:
        return f"i_start {len(down) - 1} = the picture itself, given back as it is = strength 0"
    if level not in down:
        return f"t {level:g}"
    index = down.index(level)
    return f"i_start {index} = t {level:g} = strength {strength(index, down):g}"


def describe_resampling(grid: Sequence[float]) -> tuple[str, ...]:
    """How far and how often a grid goes up again (RePaint's jump and count); () if it does not."""
    rises = find_rises(grid)
    if not rises:
        return ()
    jumps = sorted({height for _, height in rises})
    times = sorted({1 + count for count in Counter(level for level, _ in rises).values()})
    stretch = f"jump {', '.join(map(str, jumps))}, {', '.join(map(str, times))} times each stretch"
    total = f"up {len(rises)} times, first from t = {rises[0][0]:g}"
    return (f"goes up again to blend: {stretch}; {total}",)


def join_some(words: Sequence[str], between: str = ", ") -> str:
    """The first `MOST` words, joined, and how many there are if there are more."""
    rest = f"{between}… ({len(words)} in all)" if len(words) > MOST else ""
    return between.join(words[:MOST]) + rest


def format_header(
    what: str, denoiser: Denoiser, grid: Sequence[float], plan: Plan, count: int,
    extra: Sequence[str] = (),
) -> str:  # fmt: skip
    """The header of a run: task, amount of work, warnings, conventions, and the `extra` lines."""
    calls = plan.calls
    largest = sorted(Counter(calls).items(), reverse=True)[:3]
    rows = ", ".join(f"{times} × {rows}" for rows, times in largest)
    more = "" if len(set(calls)) <= 3 else ", …"
    work = "no network call"
    if calls:
        work = f"{len(calls)} network calls (calls × rows: {rows}{more}; {sum(calls)} rows)"
    size = f"{denoiser.shape[2]} × {denoiser.shape[1]}"
    first = (
        f"{what}: {count} picture{'s' * (count != 1)} of {size} from level {grid[0]:g} "
        f"of {len(denoiser.schedule)}, {work}"
    )
    return "\n".join([first, *plan.warnings, *[f"  {line}" for line in (*plan.notes, *extra)]])
