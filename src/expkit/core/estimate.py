"""Estimates: which queries the network evaluates, and how its outputs are combined.

    eps_hat(x, t) = sum_k  w_k · A_k · eps_theta(V_k x, t, c_k)

w_k is a weight, A_k a linear map, V_k a view and c_k a prompt.

A linear combination of such sums is again such a sum. So an estimate is data, a sum of terms, and
estimates nest by algebra. Equal queries (view, prompt) are evaluated once, queries whose weight
sums to zero are left out, and all queries share one forward pass.

- `guided(c)`: null + gamma (c − null), classifier-free guidance (Ho & Salimans 2022)
- `hybrid(far, near)`: blur @ far + near − blur @ near, factorized diffusion (Geng et al. 2024)
- `factorized(parts)`: sum of map @ part with maps that sum to the identity, the same with three
  bands, with colour, or with motion
- `anagram(parts)`: mean of part.through(view), visual anagrams (Geng et al. 2024)
- `composable(parts)`: null + sum of weight (part − null), composition (Liu et al. 2022)

`Rescaled` and `pixel_views.ViewsInPixels` are estimates that are not such sums. They can only be
the outermost one.
"""

# A property may stand for what a base class has as an attribute.
# pyright: reportIncompatibleVariableOverride=false

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Real
from typing import ClassVar, overload

from torch import Tensor

from expkit.core.batching import Query, WeightedQuery, evaluate
from expkit.core.denoiser import Denoiser, Prediction
from expkit.core.maps import (
    Band,
    Complement,
    Gray,
    IdentityMap,
    InverseView,
    LinearMap,
    LowPass,
    Motion,
    compose_maps,
    high_pass,
    without_motion,
)
from expkit.core.reading import Reading
from expkit.core.views import Identity, View, compose
from expkit.errors import UserError

Prompt = str | tuple[str, ...]
Factor = float | Callable[[float], float]
Weight = Factor | tuple[Factor, ...]


@dataclass(frozen=True)
class Term:
    """One summand w · A · eps_theta(V x, t, c) of an estimate.

    A factor is a number, or a function of the clock: the normalized time (t + 1) / T, which is 1 at
    the noisiest level and 0 at the clean image.

    Attributes:
        prompt: One prompt, or a tuple with one per image of the run.
        weights: Factors of w, or tuples of factors with one per image.
        map: Linear map A, applied to the output after it has come back through the view.
        view: View V, applied to x.
        condition: Whether the prompt is a condition, rather than the null or a negative prompt.
        gamma: One more factor of w, the guidance strength; or a tuple with one per image.
    """

    prompt: Prompt
    weights: tuple[Weight, ...] = ()
    map: LinearMap = IdentityMap()  # noqa: RUF009
    view: View = Identity()  # noqa: RUF009
    condition: bool = True
    gamma: Weight = 1.0

    @property
    def factors(self) -> tuple[Weight, ...]:
        """All factors of w; the guidance strength is the last."""
        return (*self.weights, self.gamma)

    @property
    def is_per_sample(self) -> bool:
        """Whether the prompt or a weight differs between the images of a run."""
        return any(isinstance(value, tuple) for value in (self.prompt, *self.factors))

    @property
    def is_time_invariant(self) -> bool:
        """Whether the weight is the same at every level."""
        return not any(_varies(weight) for weight in self.factors)

    def weight(self, picture: int, clock: float) -> float:
        """w for image number `picture` of the run at `clock`, from 1 (noisiest) to 0 (clean)."""
        factors = [_value_for(weight, picture) for weight in self.factors]
        return math.prod(factor(clock) if callable(factor) else factor for factor in factors)

    def select(self, pictures: Sequence[int]) -> Term:
        """The term for these images of the run, in this order and renumbered from 0."""
        return replace(
            self,
            prompt=_select_images(self.prompt, pictures),
            weights=tuple(_select_images(weight, pictures) for weight in self.weights),
            gamma=_select_images(self.gamma, pictures),
        )

    def query(self, picture: int) -> Query:
        """The query for image number `picture` of the run."""
        return Query(self.view, _value_for(self.prompt, picture), self.condition)


def _varies(weight: Weight) -> bool:
    """Whether the weight of any image is a function of the clock."""
    if callable(weight):
        return True
    return isinstance(weight, tuple) and any(callable(factor) for factor in weight)


@overload
def _value_for(value: Prompt, picture: int) -> str: ...
@overload
def _value_for(value: Weight, picture: int) -> Factor: ...
def _value_for(value: Prompt | Weight, picture: int) -> str | Factor:
    """The value for one image: a tuple has one entry per image."""
    if callable(value):
        return value
    return value[picture] if isinstance(value, tuple) else value


@overload
def _select_images(value: Prompt, pictures: Sequence[int]) -> Prompt: ...
@overload
def _select_images(value: Weight, pictures: Sequence[int]) -> Weight: ...
def _select_images(value: Prompt | Weight, pictures: Sequence[int]) -> object:
    if callable(value):
        return value
    return tuple(value[k] for k in pictures) if isinstance(value, tuple) else value


class EstimateBase(ABC):
    """What to evaluate for each image, as a function of the level.

    Only sums of terms (`Estimate`) can be added, weighted, filtered and seen through views. Any
    other estimate raises UserError for these operations.

    Attributes:
        terms: All terms that may be evaluated at some level; `queries` gives those of one level.
        readings: What becomes visible in the images, and how one looks at them to see it.
        advice: What to do where it cannot be part of another estimate, for error messages.
    """

    terms: tuple[Term, ...]
    readings: tuple[Reading, ...]
    advice: ClassVar[str] = "put it outermost, around the sum"

    @cached_property
    def is_time_invariant(self) -> bool:
        """Whether queries and weights are the same at every level."""
        return all(term.is_time_invariant for term in self.terms)

    @abstractmethod
    def queries(self, pictures: Sequence[int], clock: float) -> list[WeightedQuery]:
        """The distinct queries of each image for one forward pass, in the order of the terms.

        Args:
            pictures: Indices of images in the run.
            clock: (t + 1) / T, from 1 at the noisiest level to 0 at the clean image.
        """

    def rows_per_call(self, pictures: Sequence[int], clock: float) -> list[int]:
        """The number of rows of each network call of one evaluation; arguments as in `queries`."""
        return [len(self.queries(pictures, clock))]

    def for_denoiser(self, denoiser: Denoiser) -> EstimateBase:
        """The estimate that is really evaluated with a denoiser: this one, or an equal one."""
        return self

    @abstractmethod
    def select(self, pictures: Sequence[int]) -> EstimateBase:
        """The estimate for these images of the run, renumbered from 0."""

    @abstractmethod
    def with_guidance(self, gamma: float) -> EstimateBase:
        """The same estimate with guidance strength `gamma` in every term that has guidance."""

    @abstractmethod
    def for_resolution(self, times: float) -> EstimateBase:
        """The same estimate for images with sides `times` as long: blurs and the like grow."""

    @abstractmethod
    def __call__(
        self, denoiser: Denoiser, x: Tensor, t: float, pictures: Sequence[int] | None = None
    ) -> Prediction:
        """Evaluate the estimate, with one forward pass of the network if it is a sum of terms.

        Args:
            denoiser: The network.
            x: State (B, C, H, W) at level t.
            t: Level of the denoiser's schedule.
            pictures: Index in the run of the image in each row of x; it selects from prompts and
                weights that are tuples. Default: 0 … B − 1.

        Returns:
            The prediction (B, C, H, W) in the network's own parametrization.
        """

    def _refuse(self, *_: object) -> EstimateBase:
        return _as_sum_of_terms(self)

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _refuse
    filtered = through = named = _refuse


@dataclass(frozen=True)
class Estimate(EstimateBase):
    """A sum of terms.

    Estimates are combined by `+`, `−` and `*`; `map @ estimate` filters one, and
    `estimate.through(view)` evaluates one through a view.
    """

    terms: tuple[Term, ...]
    readings: tuple[Reading, ...] = field(default=(), compare=False)

    def __add__(self, other: Estimate) -> Estimate:
        return add(self, other)

    def __sub__(self, other: Estimate) -> Estimate:
        return self + -1.0 * _as_sum_of_terms(other)

    def __radd__(self, other: int) -> Estimate:
        """`sum` of estimates starts with 0; nothing else stands before an estimate."""
        return self if other == 0 else self + _as_sum_of_terms(other)

    def __rsub__(self, other: object) -> Estimate:
        return _as_sum_of_terms(other) - self

    def __mul__(self, weight: Weight) -> Estimate:
        """The estimate times a weight; a negative one leads away from what it makes visible."""
        terms = (replace(term, weights=(weight, *term.weights)) for term in self.terms)
        is_negative = isinstance(weight, Real) and weight < 0
        return Estimate(tuple(terms), () if is_negative else self.readings)

    __rmul__ = __mul__

    def filtered(self, outer: LinearMap) -> Estimate:
        """outer @ self: the map applied to the estimate.

        A map that is a sum is expanded into its summands. Then equal terms cancel, and it is
        visible which queries are not needed.
        """
        terms: list[Term] = []
        for weight, part in outer.summands:
            for term in self.terms:
                weights = term.weights if weight == 1 else (weight, *term.weights)
                terms.append(replace(term, map=compose_maps(term.map, part), weights=weights))
        return Estimate(tuple(terms), tuple(one.filtered(outer) for one in self.readings))

    def through(self, view: View) -> Estimate:
        """V⁻¹ ∘ self ∘ V: the estimate evaluated on the image as seen through the view."""
        inverse = () if view == Identity() else (InverseView(view),)
        terms: list[Term] = []
        for term in self.terms:
            maps = _append_inverse(term.map, inverse)
            terms.append(replace(term, view=compose(view, term.view), map=compose_maps(*maps)))
        return Estimate(tuple(terms), tuple(one.through(view) for one in self.readings))

    def named(self, name: str) -> Estimate:
        """The same estimate as the part `name` of a larger one: its readings are named so."""
        return replace(self, readings=tuple(one.named(name) for one in self.readings))

    def for_resolution(self, times: float) -> Estimate:
        distinct = {term.map for term in self.terms}
        maps = {linear_map: linear_map.for_resolution(times) for linear_map in distinct}
        terms = (replace(term, map=maps[term.map]) for term in self.terms)
        return Estimate(tuple(terms), tuple(one.for_resolution(times) for one in self.readings))

    def with_guidance(self, gamma: float) -> Estimate:
        """The same estimate with strength `gamma` in every term that has guidance, gamma ≠ 1."""
        terms = (replace(term, gamma=1.0 if term.gamma == 1.0 else gamma) for term in self.terms)
        return Estimate(tuple(terms), self.readings)

    def select(self, pictures: Sequence[int]) -> Estimate:
        terms = (term.select(pictures) for term in self.terms)
        return Estimate(tuple(terms), tuple(one.select(pictures) for one in self.readings))

    def queries(self, pictures: Sequence[int], clock: float) -> list[WeightedQuery]:
        if any(term.is_per_sample for term in self.terms):
            return [query for picture in pictures for query in self._image_queries(picture, clock)]
        shared = self._image_queries(0, clock)
        return [query._replace(picture=picture) for picture in pictures for query in shared]

    def _image_queries(self, picture: int, clock: float) -> list[WeightedQuery]:
        """The queries of one image whose weights do not sum to zero.

        A query is conditional if it is so in any of its terms.
        """
        weights: dict[tuple[View, str], dict[LinearMap, list[float]]] = {}
        conditions: dict[tuple[View, str], bool] = {}
        for term in self.terms:
            view, prompt, condition = term.query(picture)
            weights_per_map = weights.setdefault((view, prompt), {})
            weights_per_map.setdefault(term.map, []).append(term.weight(picture, clock))
            conditions[view, prompt] = conditions.get((view, prompt), False) or condition
        queries: list[WeightedQuery] = []
        for key, weights_per_map in weights.items():
            sums = {linear_map: math.fsum(parts) for linear_map, parts in weights_per_map.items()}
            nonzero = {linear_map: weight for linear_map, weight in sums.items() if weight}
            if nonzero:
                queries.append(WeightedQuery(picture, Query(*key, conditions[key]), nonzero))
        return queries

    def __call__(
        self, denoiser: Denoiser, x: Tensor, t: float, pictures: Sequence[int] | None = None
    ) -> Prediction:
        return evaluate((self,), denoiser, x, t, pictures)[0]


@dataclass(frozen=True)
class Rescaled(EstimateBase):
    """Rescaled guidance, which preserves contrast (Lin et al. 2024, eq. 15 and 16).

        phi · guided · std(conditional) / std(guided) + (1 − phi) · guided

    `guided` is the estimate `of`; `conditional` is the same estimate with every guidance strength
    1, recombined from the same outputs. Standard deviations are taken over the C·H·W values of each
    image, in the network's own parametrization. This is not linear, so it cannot be part of another
    estimate.

    Attributes:
        of: The guided estimate, a sum of terms.
        phi: Share of the rescaled prediction, from 0 (no rescaling) to 1.

    Raises:
        UserError: `of` is not a sum of terms.
    """

    of: Estimate
    phi: float = 0.7

    def __post_init__(self) -> None:
        _as_sum_of_terms(self.of)

    @property
    def terms(self) -> tuple[Term, ...]:
        return self.of.terms

    @property
    def readings(self) -> tuple[Reading, ...]:
        return self.of.readings

    def queries(self, pictures: Sequence[int], clock: float) -> list[WeightedQuery]:
        both = (self.of.with_guidance(1.0), self.of)
        queries = [query for estimate in both for query in estimate.queries(pictures, clock)]
        return list({query.key: query for query in queries}.values())

    def select(self, pictures: Sequence[int]) -> Rescaled:
        return replace(self, of=self.of.select(pictures))

    def with_guidance(self, gamma: float) -> Rescaled:
        return replace(self, of=self.of.with_guidance(gamma))

    def for_resolution(self, times: float) -> Rescaled:
        return replace(self, of=self.of.for_resolution(times))

    def __call__(
        self, denoiser: Denoiser, x: Tensor, t: float, pictures: Sequence[int] | None = None
    ) -> Prediction:
        estimates = (self.of, self.of.with_guidance(1.0))
        guided, conditional = evaluate(estimates, denoiser, x, t, pictures)
        ratio = _std_per_image(conditional.native) / _std_per_image(guided.native).clamp(min=1e-12)
        return replace(guided, native=(self.phi * ratio + 1 - self.phi) * guided.native)


def _std_per_image(images: Tensor) -> Tensor:
    return images.flatten(1).std(1)[:, None, None, None]


def _as_sum_of_terms(other: object) -> Estimate:
    if isinstance(other, Estimate):
        return other
    raise UserError(
        f"{type(other).__name__} is not a sum of terms, so it cannot stand inside another "
        f"estimate: {getattr(other, 'advice', EstimateBase.advice)}."
    )


def _append_inverse(inner: LinearMap, inverse: tuple[LinearMap, ...]) -> tuple[LinearMap, ...]:
    """`inner` and then `inverse`, which is () or one `InverseView`.

    Two successive inverse views are merged into the inverse of both views, so that equal
    maps compare equal.
    """
    *before, last = inner.factors or (IdentityMap(),)
    if inverse and isinstance(last, InverseView) and isinstance(inverse[0], InverseView):
        view = compose(inverse[0].view, last.view)
        return (*before, IdentityMap() if view == Identity() else InverseView(view))
    return (inner, *inverse)


def conditional(prompt: str | int | Sequence[str | int], condition: bool = True) -> Estimate:
    """The network's own prediction for a prompt, without guidance.

    Args:
        prompt: A text or a number, or a list with one of them per image.
        condition: Whether the prompt is a condition, rather than the null or a negative prompt.
    """
    words = str(prompt) if isinstance(prompt, str | int) else tuple(str(part) for part in prompt)
    readings = (Reading(words),) if condition else ()
    return Estimate((Term(words, condition=condition),), readings)


def guided(
    prompt: str | Sequence[str],
    gamma: Factor | Sequence[Factor] = 7.0,
    negative: str | Sequence[str] = "",
) -> Estimate:
    """Classifier-free guidance (Ho & Salimans 2022): null + gamma (prompt − null).

    Args:
        prompt: One prompt, or one per image.
        gamma: Guidance strength: a number, a function of the clock, or a sequence with one per
            image. 0 is unconditional and 1 conditional; gamma = 1 + w in the notation of Ho &
            Salimans. The default 7 is that of CS180 project 5.
        negative: Negative prompt, which replaces the null prompt.
    """
    null = conditional(negative, condition=False)
    if callable(gamma) or not isinstance(gamma, Sequence):
        strength: Weight = gamma
    else:
        strength = tuple(gamma)
    difference = conditional(prompt) - null
    terms = tuple(replace(term, gamma=strength) for term in difference.terms)
    return null + replace(difference, terms=terms)


@dataclass(frozen=True)
class Interval:
    """A guidance strength that is limited to an interval of the clock (Kynkäänniemi et al. 2024).

    It is gamma while last ≤ clock ≤ first, and 1 otherwise, where the null prompt is not evaluated.

    Attributes:
        first: Start of the interval on the clock, which runs from 1 (noisiest) to 0 (clean).
        last: End of the interval, the smaller number.
        gamma: Guidance strength inside the interval.
    """

    first: float
    last: float
    gamma: float

    def __call__(self, clock: float) -> float:
        return self.gamma if self.last <= clock <= self.first else 1.0

    def __str__(self) -> str:
        return f"{self.gamma:g} (on the clock from {self.first:g} to {self.last:g}, else 1)"


def guidance_interval(first: float, last: float, gamma: float | Sequence[float]) -> Weight:
    """A guidance interval, to be given as `gamma` of `guided`.

    Args:
        first: Start of the interval on the clock, which runs from 1 (noisiest) to 0 (clean).
        last: End of the interval, the smaller number.
        gamma: Guidance strength inside the interval, or a sequence with one per image.

    Returns:
        An `Interval`, or a tuple with one per image.
    """
    if isinstance(gamma, Sequence):
        return tuple(Interval(first, last, strength) for strength in gamma)
    return Interval(first, last, gamma)


def factorized(parts: Mapping[str, Estimate], maps: Mapping[str, LinearMap]) -> Estimate:
    """Factorized diffusion (Geng, Park and Owens 2024): the sum of map @ part.

    Args:
        parts: {name: the estimate of one component of the image}.
        maps: {name: the linear map that extracts this component}; the maps sum to the identity.
    """
    return add(*[maps[name] @ part.named(name) for name, part in parts.items()])


def hybrid(far: Estimate, near: Estimate, blur: LinearMap) -> Estimate:
    """Hybrid image: low pass of one estimate plus high pass of the other.

    Args:
        far: Its low pass is what is seen from far away.
        near: Its high pass is what is seen from close up.
        blur: The low pass; the high pass is x − blur(x).
    """
    return factorized({"far": far, "near": near}, {"far": blur, "near": Complement(blur)})


def triple_hybrid(
    far: Estimate, middle: Estimate, near: Estimate, sigma: float, ratio: float = 0.5
) -> Estimate:
    """Triple hybrid of factorized diffusion (Geng, Park and Owens 2024), with composed blurs.

        near: x − G_s x          middle: G_s x − G_sigma G_s x          far: G_sigma G_s x

    G_s is a Gaussian blur of s pixels, and s = ratio · sigma is the finer one. The far band is a
    blur of sqrt(1 + ratio²) · sigma pixels. The paper has blurs of 1 and 2 at 64 pixels: sigma 2
    and ratio 0.5, with a far band that is a blur of √5.

    Args:
        far: Estimate of the low band.
        middle: Estimate of the middle band.
        near: Estimate of the high band.
        sigma: Standard deviation of the coarse blur, in pixels.
        ratio: Standard deviation of the fine blur as a fraction of sigma.
    """
    coarse = LowPass(sigma)
    fine = LowPass(ratio * sigma)
    return add(
        coarse @ (fine @ far.named("far")),
        Complement(coarse) @ (fine @ middle.named("middle")),
        Complement(fine) @ near.named("near"),
    )


def triple(
    far: Estimate,
    middle: Estimate,
    near: Estimate,
    sigma: float,
    ratio: float = 0.5,
) -> Estimate:
    """Three bands by independent blurs of sigma and ratio · sigma pixels.

    The far band is a blur of sigma pixels, as in `hybrid`. The bands of the paper are in
    `triple_hybrid`; this is the earlier version, for saved images whose recipe names it.

    Args:
        far: Estimate of the low band.
        middle: Estimate of the middle band.
        near: Estimate of the high band.
        sigma: Standard deviation of the coarse blur, in pixels.
        ratio: Standard deviation of the fine blur as a fraction of sigma.
    """
    coarse = LowPass(sigma)
    fine = ratio * sigma
    maps = {"far": coarse, "middle": Band(fine, sigma), "near": high_pass(fine)}
    return factorized({"far": far, "middle": middle, "near": near}, maps)


def colour(grey: Estimate, colour: Estimate) -> Estimate:
    """Colour hybrid: `grey` gives the mean of the channels, `colour` the differences from it."""
    maps = {"grey": Gray(), "colour": Complement(Gray())}
    return factorized({"grey": grey, "colour": colour}, maps)


def motion(moving: Estimate, still: Estimate, taps: float = 7) -> Estimate:
    """Motion hybrid: `moving` is seen when the image moves along its diagonal, `still` is the rest.

    Args:
        moving: Estimate of what a motion blur leaves.
        still: Estimate of what a motion blur removes.
        taps: Length of the motion blur in pixels along the diagonal; see `Motion`.
    """
    maps = {"moving": Motion(taps), "still": without_motion(taps)}
    return factorized({"moving": moving, "still": still}, maps)


@overload
def anagram(parts: Mapping[str, Estimate], views: Mapping[str, View]) -> Estimate: ...
@overload
def anagram(
    parts: Mapping[str, Estimate], views: Mapping[str, View], view_in: str
) -> EstimateBase: ...  # fmt: skip
def anagram(
    parts: Mapping[str, Estimate], views: Mapping[str, View], view_in: str = "latents"
) -> EstimateBase:
    """Visual anagram (Geng et al. 2024): the mean of the parts, each seen through its view.

    Args:
        parts: {name: the estimate that is seen through a view}.
        views: {name: that view}.
        view_in: What the views of a latent model act on: its "latents", with one network call, or
            the "pixels" of decoded latents, see `pixel_views.ViewsInPixels`.

    Raises:
        ValueError: view_in is neither.
    """
    if view_in not in ("latents", "pixels"):
        raise ValueError(f"view_in is latents or pixels, not {view_in!r}")
    if view_in == "pixels":
        from expkit.core.pixel_views import ViewsInPixels  # which imports this module

        named = tuple(part.named(name) for name, part in parts.items())
        return ViewsInPixels(named, tuple(views[name] for name in parts))
    transformed = [part.named(name).through(views[name]) for name, part in parts.items()]
    return (1 / len(transformed)) * add(*transformed)


def composable(
    parts: Mapping[str, Estimate], weights: Mapping[str, float], negative: Prompt = ""
) -> Estimate:
    """Composable diffusion (Liu et al. 2022): null + sum of weight (part − null).

    Weights that sum to 1 give a mixture of the parts, other weights their conjunction.

    Args:
        parts: {name: estimate}.
        weights: {name: weight}.
        negative: Negative prompt, which replaces the null prompt.
    """
    null_weight = 1 - math.fsum(weights[name] for name in parts)
    null = conditional(negative, condition=False)
    weighted = [weights[name] * part.named(name) for name, part in parts.items()]
    return add(*weighted, null_weight * null)


def add(*parts: Estimate) -> Estimate:
    """The sum of estimates.

    Raises:
        UserError: A part is not a sum of terms.
    """
    sums = [_as_sum_of_terms(part) for part in parts]
    terms = tuple(term for part in sums for term in part.terms)
    return Estimate(terms, tuple(reading for part in sums for reading in part.readings))
