"""Estimates: what to ask the network, and how to put its answers together.

    eps_hat(x, t) = sum_k  w_k · A_k · eps_theta(V_k x, t, c_k)            w_k weight · A_k map · V_k view · c_k prompt

A linear combination of such sums is such a sum: an estimate is data, a sum of terms, and nesting is algebra. Equal questions
(view, prompt) are asked once, a weight that comes to zero asks nothing, and everything is asked in one forward.

    guided(c)            null + gamma (c − null)                 classifier-free guidance (Ho & Salimans 2022)
    hybrid(far, near)    blur @ far + near − blur @ near         factorized diffusion (Geng et al. 2024)
    factorized(parts)    sum of map @ part, maps that sum to x   the same with three bands, colour, motion
    anagram(parts)       mean of part.seen(view)                 visual anagrams (Geng et al. 2024)
    composable(parts)    null + sum of weight (part − null)      composition (Liu et al. 2022)

What is not such a sum (`Rescaled`) is an estimate too, and stands outermost.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Real

from torch import Tensor

from expkit.core.batching import Query, WeightedQuery, evaluate
from expkit.core.denoiser import Denoiser, Prediction
from expkit.core.maps import (
    Band,
    Gray,
    IdentityMap,
    InverseView,
    LinearMap,
    LowPass,
    Motion,
    Residual,
    compose_maps,
    high_pass,
    without_motion,
)
from expkit.core.views import Identity, View, compose
from expkit.errors import UserError

Prompt = str | tuple[str, ...]
Factor = float | Callable[[float], float]
Weight = Factor | tuple[Factor, ...]


@dataclass(frozen=True)
class Term:
    """w · A · eps_theta(V x, t, c).

    prompt: one, or a tuple with one a picture. weights: factors, each a number or a function of the clock, which runs from 1 at the
    noisiest level to 0 at clean, or a tuple of them with one a picture. gamma: one more factor, the strength of guidance.
    map: applied to the answer, which has come back through the view.
    """

    prompt: Prompt
    weights: tuple[Weight, ...] = ()
    map: LinearMap = IdentityMap()  # noqa: RUF009
    view: View = Identity()  # noqa: RUF009
    condition: bool = True
    gamma: Weight = 1.0

    @property
    def factors(self) -> tuple[Weight, ...]:
        """All that its answer is multiplied by; guidance is the last of them."""
        return (*self.weights, self.gamma)

    @property
    def is_per_sample(self) -> bool:
        """Whether it says one thing of one picture and another of the next."""
        return isinstance(self.prompt, tuple) or any(isinstance(w, tuple) for w in self.factors)

    @property
    def is_time_invariant(self) -> bool:
        """Whether it weighs the same at every level."""
        return not any(callable(f) for w in self.factors for f in (w if isinstance(w, tuple) else (w,)))

    def weight(self, picture: int, clock: float) -> float:
        """The product of its factors for one picture at one time of the clock, 1 … 0."""
        factors = [_at(w, picture) for w in self.factors]
        return math.prod(f(clock) if callable(f) else f for f in factors)

    def only(self, pictures: Sequence[int]) -> Term:
        """The term for these pictures alone, in this order."""
        weights = tuple(_chosen(w, pictures) for w in self.weights)
        return replace(
            self, prompt=_chosen(self.prompt, pictures), weights=weights, gamma=_chosen(self.gamma, pictures)
        )

    def query(self, picture: int) -> Query:
        """What it asks for one picture."""
        return Query(self.view, _at(self.prompt, picture), self.condition)


def _at(value, picture: int):
    """The value of one picture: tuples have one a picture."""
    return value[picture] if isinstance(value, tuple) else value


def _chosen(value, pictures: Sequence[int]):
    return tuple(value[p] for p in pictures) if isinstance(value, tuple) else value


class EstimateBase(ABC):
    """What to ask of a denoiser for a picture: `terms` are all that it may ask, `queries` what it asks at one level; a call evaluates it.

    Only sums of terms can be added, weighted, filtered and seen through views; any other estimate refuses that.
    """

    terms: tuple[Term, ...]

    @cached_property
    def is_time_invariant(self) -> bool:
        """Whether it asks the same at every level."""
        return all(term.is_time_invariant for term in self.terms)

    @abstractmethod
    def queries(self, pictures: Sequence[int], clock: float) -> list[WeightedQuery]:
        """The rows of one forward, each distinct query of each picture once, in the order in which the terms name them."""

    @abstractmethod
    def only(self, pictures: Sequence[int]) -> EstimateBase:
        """The estimate for these of the run's pictures alone, numbered anew."""

    @abstractmethod
    def with_guidance(self, gamma: float) -> EstimateBase:
        """The same estimate with guidance of this strength wherever it has guidance."""

    @abstractmethod
    def scaled(self, times: float) -> EstimateBase:
        """The same estimate for pictures `times` as large: blurs and the like grow with them."""

    @abstractmethod
    def __call__(
        self, denoiser: Denoiser, x: Tensor, t: int, pictures: Sequence[int] | None = None
    ) -> Prediction:
        """The estimate for x (B, C, H, W) at level t, in the network's native kind; one forward of the network.

        pictures: the numbers of x's rows among those that tuples of prompts and weights speak of; 0 … B − 1 if not given.
        """

    def _no_part(self, *_) -> EstimateBase:
        return _linear(self)

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = filtered = seen = _no_part


@dataclass(frozen=True)
class Estimate(EstimateBase):
    """A sum of terms. `+ − *` combine estimates, `map @ estimate` filters one, `.seen(view)` looks at it through a view."""

    terms: tuple[Term, ...]

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(self.terms + _linear(other).terms)

    def __sub__(self, other: Estimate) -> Estimate:
        return self + -1.0 * _linear(other)

    def __mul__(self, weight: Weight) -> Estimate:
        return Estimate(tuple(replace(term, weights=(weight, *term.weights)) for term in self.terms))

    __rmul__ = __mul__

    def filtered(self, outer: LinearMap) -> Estimate:
        """outer @ self. A map that is a sum is applied summand by summand, so that what is equal cancels and what is not asked shows."""
        return Estimate(
            tuple(
                replace(
                    term,
                    map=compose_maps(term.map, part),
                    weights=term.weights if weight == 1 else (weight, *term.weights),
                )
                for weight, part in outer.summands
                for term in self.terms
            )
        )

    def seen(self, view: View) -> Estimate:
        """V⁻¹ ∘ self ∘ V: the same estimate of the picture as the view shows it."""
        back = () if view == Identity() else (InverseView(view),)
        return Estimate(
            tuple(
                replace(t, view=compose(view, t.view), map=compose_maps(*_back(t.map, back)))
                for t in self.terms
            )
        )

    def scaled(self, times: float) -> Estimate:
        larger = {linear: linear.scaled(times) for linear in {term.map for term in self.terms}}
        return Estimate(tuple(replace(term, map=larger[term.map]) for term in self.terms))

    def with_guidance(self, gamma: float) -> Estimate:
        """The same estimate with guidance of this strength wherever it has guidance; without any where gamma is 1."""
        return Estimate(
            tuple(replace(term, gamma=1.0 if term.gamma == 1.0 else gamma) for term in self.terms)
        )

    def only(self, pictures: Sequence[int]) -> Estimate:
        return Estimate(tuple(term.only(pictures) for term in self.terms))

    def queries(self, pictures: Sequence[int], clock: float) -> list[WeightedQuery]:
        if any(term.is_per_sample for term in self.terms):
            return [query for picture in pictures for query in self._queries(picture, clock)]
        alike = self._queries(0, clock)
        return [query._replace(picture=picture) for picture in pictures for query in alike]

    def _queries(self, picture: int, clock: float) -> list[WeightedQuery]:
        """Those of one picture whose weights do not come to zero; what is asked as a condition anywhere is one."""
        weights: dict[tuple[View, str], dict[LinearMap, list[float]]] = {}
        conditions: dict[tuple[View, str], bool] = {}
        for term in self.terms:
            view, prompt, condition = term.query(picture)
            of_maps = weights.setdefault((view, prompt), {})
            of_maps.setdefault(term.map, []).append(term.weight(picture, clock))
            conditions[view, prompt] = conditions.get((view, prompt), False) or condition
        found = []
        for key, of_maps in weights.items():
            sums = {linear: math.fsum(parts) for linear, parts in of_maps.items()}
            if kept := {linear: weight for linear, weight in sums.items() if weight}:
                found.append(WeightedQuery(picture, Query(*key, conditions[key]), kept))
        return found

    def __call__(
        self, denoiser: Denoiser, x: Tensor, t: int, pictures: Sequence[int] | None = None
    ) -> Prediction:
        return evaluate((self,), denoiser, x, t, pictures)[0]


@dataclass(frozen=True)
class Rescaled(EstimateBase):
    """Guidance that keeps the contrast (Lin et al. 2024, eq. 15 and 16): phi · guided · std(conditional)/std(guided) + (1 − phi) · guided.

    The standard deviations are a picture's, of answers in the network's own kind; the conditional estimate is `of` with every gamma 1,
    put together from the same answers. It is not linear, so it is no part of another estimate.
    """

    of: Estimate
    phi: float = 0.7

    def __post_init__(self) -> None:
        _linear(self.of)

    @property
    def terms(self) -> tuple[Term, ...]:
        return self.of.terms

    def queries(self, pictures: Sequence[int], clock: float) -> list[WeightedQuery]:
        return list(
            {
                ask.key: ask
                for wish in (self.of.with_guidance(1.0), self.of)
                for ask in wish.queries(pictures, clock)
            }.values()
        )

    def only(self, pictures: Sequence[int]) -> Rescaled:
        return replace(self, of=self.of.only(pictures))

    def with_guidance(self, gamma: float) -> Rescaled:
        return replace(self, of=self.of.with_guidance(gamma))

    def scaled(self, times: float) -> Rescaled:
        return replace(self, of=self.of.scaled(times))

    def __call__(
        self, denoiser: Denoiser, x: Tensor, t: int, pictures: Sequence[int] | None = None
    ) -> Prediction:
        guided, plain = evaluate((self.of, self.of.with_guidance(1.0)), denoiser, x, t, pictures)
        ratio = _deviation(plain.native) / _deviation(guided.native).clamp(min=1e-12)
        return replace(guided, native=(self.phi * ratio + 1 - self.phi) * guided.native)


def _deviation(images: Tensor) -> Tensor:
    return images.flatten(1).std(1)[:, None, None, None]


def _linear(other: object) -> Estimate:
    if isinstance(other, Estimate):
        return other
    raise UserError(
        f"{type(other).__name__} is not a sum of terms, so it cannot stand inside another estimate: put it outermost, around the sum."
    )


def _back(inner: LinearMap, back: tuple[LinearMap, ...]) -> tuple[LinearMap, ...]:
    """inner, then back; a view's return directly after another is the return from both, so that equal ones are found equal."""
    *before, last = inner.factors or (IdentityMap(),)
    if back and isinstance(last, InverseView) and isinstance(back[0], InverseView):
        view = compose(back[0].view, last.view)
        return (*before, IdentityMap() if view == Identity() else InverseView(view))
    return (inner, *back)


def conditional(prompt: Prompt | int | Sequence, condition: bool = True) -> Estimate:
    """What the network says to a prompt, as it is. Numbers are prompts too; a list has one a picture."""
    words = str(prompt) if isinstance(prompt, str | int) else tuple(str(p) for p in prompt)
    return Estimate((Term(words, condition=condition),))


def guided(prompt: Prompt, gamma: Weight | Sequence[float] = 7.0, negative: Prompt = "") -> Estimate:
    """null + gamma (prompt − null): gamma = 0 is unconditional, 1 conditional; the course's default is 7.

    `negative` takes the null prompt's place (a negative prompt). Here gamma = 1 + w of Ho & Salimans.
    """
    null = conditional(negative, condition=False)
    strength = gamma if callable(gamma) or isinstance(gamma, Real) else tuple(gamma)
    return null + Estimate(
        tuple(replace(term, gamma=strength) for term in (conditional(prompt) - null).terms)
    )


@dataclass(frozen=True)
class Interval:
    """gamma while the clock, 1 … 0, is in [last, first], else 1, which asks no null (Kynkäänniemi et al. 2024)."""

    first: float
    last: float
    gamma: float

    def __call__(self, clock: float) -> float:
        return self.gamma if self.last <= clock <= self.first else 1.0

    def __str__(self) -> str:
        return f"{self.gamma:g} (on the clock from {self.first:g} to {self.last:g}, else 1)"


def guidance_interval(first: float, last: float, gamma: float | Sequence[float]) -> Weight:
    """A guidance interval as a gamma of `guided`; a list has one a picture."""
    return (
        Interval(first, last, gamma)
        if isinstance(gamma, Real)
        else tuple(Interval(first, last, g) for g in gamma)
    )


def factorized(parts: Mapping[str, Estimate], maps: Mapping[str, LinearMap]) -> Estimate:
    """Each part has its say in what the map of the same name takes of a picture; the maps sum to the whole of it."""
    return add(*[maps[name] @ part for name, part in parts.items()])


def hybrid(far: Estimate, near: Estimate, blur: LinearMap) -> Estimate:
    """The low pass of `far`, which is what is seen from afar, and the high pass of `near`, which is what is seen close by."""
    return factorized({"far": far, "near": near}, {"far": blur, "near": Residual(blur)})


def triple_hybrid(
    far: Estimate, middle: Estimate, near: Estimate, sigma: float, ratio: float = 0.5
) -> Estimate:
    """Three bands of factorized diffusion (Geng, Park and Owens 2024), with G_s a blur of s pixels and s = ratio · sigma the finer one.

        near: x − G_s x          middle: G_s x − G_sigma G_s x          far: G_sigma G_s x

    The blurs are composed, so the far band is a blur of sqrt(1 + ratio²) · sigma pixels. The paper has 1 and 2 at 64 pixels: sigma 2 and
    ratio 0.5, and its far band a blur of √5.
    """
    coarse = LowPass(sigma)
    fine = LowPass(ratio * sigma)
    return add(coarse @ (fine @ far), Residual(coarse) @ (fine @ middle), Residual(fine) @ near)


def triple(far: Estimate, middle: Estimate, near: Estimate, sigma: float, ratio: float = 0.5) -> Estimate:
    """Three bands by independent blurs of sigma and ratio · sigma pixels, the far one a blur of sigma as that of `hybrid`.

    `triple_hybrid` has the bands of the paper; this is what it was before, for pictures that name it in their recipe.
    """
    coarse = LowPass(sigma)
    fine = ratio * sigma
    maps = {"far": coarse, "middle": Band(fine, sigma), "near": high_pass(fine)}
    return factorized({"far": far, "middle": middle, "near": near}, maps)


def colour(grey: Estimate, colour: Estimate) -> Estimate:
    """The grey picture says one thing and its colours another."""
    return factorized({"grey": grey, "colour": colour}, {"grey": Gray(), "colour": Residual(Gray())})


def motion(moving: Estimate, still: Estimate, taps: float = 7) -> Estimate:
    """What is left of the picture when it moves along the diagonal says `moving`, the rest `still`."""
    return factorized(
        {"moving": moving, "still": still}, {"moving": Motion(taps), "still": without_motion(taps)}
    )


def anagram(parts: Mapping[str, Estimate], views: Mapping[str, View]) -> Estimate:
    """The mean of the parts, each seen through the view of the same name."""
    seen = [part.seen(views[name]) for name, part in parts.items()]
    return (1 / len(seen)) * add(*seen)


def composable(
    parts: Mapping[str, Estimate], weights: Mapping[str, float], negative: Prompt = ""
) -> Estimate:
    """null + sum of w_k (part_k − null): with weights that sum to 1 a mixture of the parts, with others their conjunction."""
    rest = 1 - math.fsum(weights[name] for name in parts)
    return add(
        *[weights[name] * part for name, part in parts.items()], rest * conditional(negative, condition=False)
    )


def add(*parts: Estimate) -> Estimate:
    """The sum of estimates (weights are theirs)."""
    return Estimate(tuple(term for part in parts for term in _linear(part).terms))
