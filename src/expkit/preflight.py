"""What is checked in milliseconds before a run, and said in its header."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from expkit.denoiser import Denoiser
from expkit.errors import Refusal
from expkit.estimate import Estimate
from expkit.pin import Pin
from expkit.sample import calls
from expkit.views import View


def check(denoiser: Denoiser, estimate: Estimate, grid: Sequence[int], count: int, pin: Pin | None = None) -> list[int]:
    """Refuse what cannot work; the rows of each network call to come."""
    denoiser.prepare(sorted({p for term in estimate.terms for p in ([term.prompt] if isinstance(term.prompt, str) else term.prompt)}))
    for view in {term.view for term in estimate.terms}:
        check_view(view, denoiser)
    return calls(estimate, denoiser.schedule, grid, count, pin)


def check_view(view: View, denoiser: Denoiser) -> None:
    """A view must fit the model's pictures, invert exactly, and keep white noise white: the sum of squares is kept."""
    name, (_, height, width) = type(view).__name__, denoiser.shape
    if height != width:
        raise Refusal(f"The view {name} needs square pictures; this model's are {width} × {height}.")
    if any(part.symmetric_range for part in view.parts) and sum(denoiser.range) != 0:
        low, high = denoiser.range
        raise Refusal(f"The view {name} needs pictures whose values are symmetric about zero; this model's lie in [{low:g}, {high:g}].")
    noise = torch.randn(denoiser.shape, generator=torch.Generator().manual_seed(0))
    try:
        seen = view(noise)
    except ValueError as error:
        raise Refusal(f"The view {name} does not fit this model: {error}.") from None
    if not torch.allclose(view.inverse(seen), noise, atol=1e-5) or not torch.isclose(seen.square().sum(), noise.square().sum(), rtol=1e-4):
        raise Refusal(
            f"The view {name} is not orthogonal: it does not invert, or it changes the noise. Use a view that moves whole pixels."
        )


def header(what: str, denoiser: Denoiser, grid: Sequence[int], planned: Sequence[int], count: int) -> str:
    """What is about to happen, in a few words."""
    rows = ", ".join(f"{times} × {rows}" for rows, times in sorted(Counter(planned).items(), reverse=True)[:3])
    many = "" if len(set(planned)) <= 3 else ", …"
    return (
        f"{what}: {count} picture{'s' * (count != 1)} of {denoiser.shape[2]} × {denoiser.shape[1]} from level {grid[0]} of "
        f"{len(denoiser.schedule)}, {len(planned)} network calls (calls × rows: {rows}{many}; {sum(planned)} rows)"
    )
