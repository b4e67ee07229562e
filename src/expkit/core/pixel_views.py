"""Views of pictures for latent models: each step goes through the model's autoencoder.

A view acts on pixels, and a latent model's states are latents z_t = alpha z0 + sigma n. To see a
state through a view V, its clean part is decoded, viewed and encoded again, and its noise is viewed
on the grid of the latents, where V is orthogonal too, so that noise stays noise:

    V z_t = alpha E(V D(z0_hat)) + sigma V n_hat,   n_hat = (z_t − alpha z0_hat) / sigma

E is the encoder, D the decoder, z0_hat an estimate of the clean latent that uses no view.
"""

# A property may stand for what a base class has as an attribute.
# pyright: reportIncompatibleVariableOverride=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from expkit.core.batching import WeightedQuery, evaluate_each
from expkit.core.denoiser import Denoiser, Prediction
from expkit.core.estimate import Estimate, EstimateBase, Term, add, conditional
from expkit.core.reading import Reading
from expkit.core.schedules import prediction_target
from expkit.core.views import Identity, View
from expkit.errors import UserError


class Autoencoding(NamedTuple):
    """How often the autoencoder runs for one picture each time that an estimate is evaluated."""

    decodings: int
    encodings: int


@dataclass(frozen=True)
class ViewsInPixels(EstimateBase):
    """Visual anagram whose views act on the decoded pictures of a latent model.

    It is evaluated at z_t in two network calls:

    1. The canonical estimate at z_t gives z0_hat and n_hat. It is the mean of the parts without a
       view; if there are none, it is the prediction for the null prompt.
    2. Each part with a view V is evaluated at the viewed state, and gives z0_k.

    The mean of the parts' clean latents, those of viewed parts brought back as E(V⁻¹ D(z0_k)), is
    converted to the network's own parametrization. With an autoencoder that commutes with the views
    and loses nothing, the result is that of `anagram` on latents.

    The encoder and decoder are not linear, so it cannot be a part of another estimate. For a model
    whose states are pixels it is the anagram itself, with one network call.

    Attributes:
        parts: Estimates, each a sum of terms without views.
        views: The view of each part.

    Raises:
        UserError: A part is not a sum of terms, or has a view of its own.
    """

    parts: tuple[Estimate, ...]
    views: tuple[View, ...]
    advice: ClassVar[str] = "put the anagram outermost, or take view_in=latents"

    def __post_init__(self) -> None:
        if any(term.view != Identity() for term in add(*self.parts).terms):
            raise UserError(
                "A part of an anagram with view_in=pixels has views of its own, and only the "
                "anagram's own views go through the autoencoder: give each view a part of the "
                "outermost anagram, or take view_in=latents."
            )

    @cached_property
    def in_states(self) -> Estimate:
        """The same anagram with views that act on the model's states: a sum of terms."""
        pairs = zip(self.parts, self.views, strict=True)
        return (1 / len(self.parts)) * add(*[part.through(view) for part, view in pairs])

    @cached_property
    def plain_parts(self) -> tuple[Estimate, ...]:
        """The parts without a view."""
        pairs = zip(self.parts, self.views, strict=True)
        return tuple(part for part, view in pairs if view == Identity())

    @cached_property
    def viewed_parts(self) -> dict[View, tuple[Estimate, ...]]:
        """{view: the parts that are seen through it}, without the identity."""
        groups: dict[View, tuple[Estimate, ...]] = {}
        for part, view in zip(self.parts, self.views, strict=True):
            if view != Identity():
                groups[view] = (*groups.get(view, ()), part)
        return groups

    @cached_property
    def canonical(self) -> Estimate:
        """The estimate of the state as it is: the mean of the plain parts, or the null prompt."""
        if not self.plain_parts:
            return conditional("", condition=False)
        return (1 / len(self.plain_parts)) * add(*self.plain_parts)

    @property
    def terms(self) -> tuple[Term, ...]:
        return self.in_states.terms + (() if self.plain_parts else self.canonical.terms)

    @property
    def readings(self) -> tuple[Reading, ...]:
        return self.in_states.readings

    @property
    def autoencoding(self) -> Autoencoding:
        """The passes of the autoencoder for one picture at one level."""
        views = len(self.viewed_parts)
        parts = len(self.parts) - len(self.plain_parts)
        return Autoencoding(1 + parts, views + parts) if parts else Autoencoding(0, 0)

    def queries(self, pictures: Sequence[int], clock: float) -> list[WeightedQuery]:
        """The queries of both network calls, those of the canonical estimate first."""
        return [*self.canonical.queries(pictures, clock), *self._viewed_queries(pictures, clock)]

    def rows_per_call(self, pictures: Sequence[int], clock: float) -> list[int]:
        canonical = self.canonical.queries(pictures, clock)
        return [len(canonical), len(self._viewed_queries(pictures, clock))]

    def _viewed_queries(self, pictures: Sequence[int], clock: float) -> list[WeightedQuery]:
        parts = [part.through(view) for view, group in self.viewed_parts.items() for part in group]
        queries = [query for part in parts for query in part.queries(pictures, clock)]
        return list({query.key: query for query in queries}.values())

    def select(self, pictures: Sequence[int]) -> ViewsInPixels:
        return replace(self, parts=tuple(part.select(pictures) for part in self.parts))

    def with_guidance(self, gamma: float) -> ViewsInPixels:
        return replace(self, parts=tuple(part.with_guidance(gamma) for part in self.parts))

    def for_resolution(self, times: float) -> ViewsInPixels:
        return replace(self, parts=tuple(part.for_resolution(times) for part in self.parts))

    def for_denoiser(self, denoiser: Denoiser) -> EstimateBase:
        """Itself for a latent model; for any other, whose views act on pixels, a sum of terms."""
        is_latent = denoiser.shape != denoiser.image_shape
        return self if is_latent and self.viewed_parts else self.in_states

    def __call__(
        self, denoiser: Denoiser, x: Tensor, t: float, pictures: Sequence[int] | None = None
    ) -> Prediction:
        """Evaluate it with two network calls. Arguments and result: see `EstimateBase`."""
        if self.for_denoiser(denoiser) is not self:
            return self.in_states(denoiser, x, t, pictures)
        pictures = tuple(range(len(x)) if pictures is None else pictures)
        canonical = Clean.of(self.canonical(denoiser, x, t, pictures), denoiser, x, t)
        states = see_state(canonical.z0, list(self.viewed_parts), denoiser, x, t)
        groups = list(zip(self.viewed_parts.values(), states, strict=True))
        answers = evaluate_each(groups, denoiser, t, pictures)

        parts = [canonical] * len(self.plain_parts)
        for view, state, predictions in zip(self.viewed_parts, states, answers, strict=True):
            seen = [Clean.of(prediction, denoiser, state, t) for prediction in predictions]
            parts += [part.back_through(view, denoiser) for part in seen]
        z0 = torch.stack([part.z0 for part in parts]).mean(0)
        fractions = [part.fraction for part in parts if part.fraction is not None]
        fraction = torch.stack(fractions).mean(0) if fractions else None
        return Prediction(to_native(z0, denoiser, x, t), fraction)


class Clean(NamedTuple):
    """What a prediction says of the clean latent.

    Attributes:
        z0: The clean latent (B, C, H, W).
        fraction: The learned variance as a fraction (B, C, H, W), or None.
    """

    z0: Tensor
    fraction: Tensor | None

    @classmethod
    def of(cls, prediction: Prediction, denoiser: Denoiser, x: Tensor, t: float) -> Clean:
        """From the prediction for the state x at level t."""
        kind = denoiser.prediction_type
        z0 = denoiser.schedule.denoised(x, t, prediction.native, kind)
        return cls(z0, prediction.variance_fraction)

    def back_through(self, view: View, denoiser: Denoiser) -> Clean:
        """The clean latent E(V⁻¹ D(z0)) of the picture that this one is the view of."""
        picture = see_image(view.inverse_view, denoiser.decode(self.z0))
        fraction = self.fraction
        return Clean(
            denoiser.encode(picture).to(self.z0),
            None if fraction is None else view.unpermute(fraction),
        )


def see_state(
    z0: Tensor, views: Sequence[View], denoiser: Denoiser, x: Tensor, t: float
) -> list[Tensor]:  # fmt: skip
    """alpha E(V D(z0)) + sigma V n of the state x = alpha z0 + sigma n, for each view V."""
    alpha, sigma = denoiser.schedule.at(t)
    noise, images = (x - alpha * z0) / sigma, denoiser.decode(z0)
    return [
        alpha * denoiser.encode(see_image(view, images)).to(x) + sigma * view(noise)
        for view in views
    ]  # fmt: skip


def see_image(view: View, images: Tensor) -> Tensor:
    """Images (B, C, H, W) in [0, 1] through a view, which gets their values in [-1, 1]."""
    return (view(2 * images - 1) + 1) / 2


def to_native(z0: Tensor, denoiser: Denoiser, x: Tensor, t: float) -> Tensor:
    """The prediction, in the network's parametrization, that says z0 for the state x at level t."""
    alpha, sigma = denoiser.schedule.at(t)
    noise, as_number = (x - alpha * z0) / sigma, partial(torch.tensor, dtype=torch.float64)
    kind = denoiser.prediction_type
    return prediction_target(z0, noise, as_number(alpha), as_number(sigma), kind)
