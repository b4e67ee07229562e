"""Estimates: what to ask the network, and how to put its answers together.

    eps_hat(x, t) = sum_k  w_k · A_k · eps_theta(V_k x, t, c_k)            w_k weight · A_k map · V_k view · c_k prompt

A linear combination of such sums is such a sum: an estimate is data, a sum of terms, and nesting is algebra. Equal questions
(view, prompt) are asked once, a weight that comes to zero asks nothing, and everything is asked in one forward.

    guided(c)            null + gamma (c − null)                 classifier-free guidance (Ho & Salimans 2022)
    hybrid(far, near)    blur @ far + near − blur @ near         factorized diffusion (Geng et al. 2024)
    anagram(parts)       mean of part.seen(view)                 visual anagrams (Geng et al. 2024)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor

from expkit.denoiser import Denoiser, Prediction
from expkit.maps import Identity as Everything
from expkit.maps import Map, Unseen, chain
from expkit.views import Identity as AsItIs
from expkit.views import View, then

Prompt = str | tuple[str, ...]
Weight = float | tuple[float, ...] | Callable[[float], float]


class Question(NamedTuple):
    """A row of the forward. `condition` says whether it states a wish, which the null and negative prompts do not."""

    view: View
    prompt: str
    condition: bool


@dataclass(frozen=True)
class Term:
    """w · A · eps_theta(V x, t, c).

    prompt: one, or a tuple with one a picture. weights: factors, each a number, a tuple with one a picture, or a function of the
    clock, which runs from 1 at the noisiest level to 0 at clean. map: applied to the answer, which has come back through the view.
    """

    prompt: Prompt
    weights: tuple[Weight, ...] = ()
    map: Map = Everything()  # noqa: RUF009
    view: View = AsItIs()  # noqa: RUF009
    condition: bool = True

    @property
    def varies(self) -> bool:
        """Whether it says one thing of one picture and another of the next."""
        return isinstance(self.prompt, tuple) or any(isinstance(w, tuple) for w in self.weights)

    def weight(self, picture: int, clock: float) -> float:
        return math.prod(_at(w, picture) if not callable(w) else w(clock) for w in self.weights)

    def of(self, pictures: Sequence[int]) -> Term:
        weights = tuple(_chosen(w, pictures) for w in self.weights)
        return replace(self, prompt=_chosen(self.prompt, pictures), weights=weights)

    def question(self, picture: int) -> Question:
        return Question(self.view, _at(self.prompt, picture), self.condition)


def _at(value, picture: int):
    """The value of one picture: tuples have one a picture."""
    return value[picture] if isinstance(value, tuple) else value


def _chosen(value, pictures: Sequence[int]):
    return tuple(value[p] for p in pictures) if isinstance(value, tuple) else value


class Ask(NamedTuple):
    """One row to be asked: of which picture, and how its answer counts: {map: weight}."""

    picture: int
    question: Question
    shares: dict[Map, float]


@dataclass(frozen=True)
class Estimate:
    """A sum of terms. `+ − *` combine estimates, `map @ estimate` filters one, `.seen(view)` looks at it through a view."""

    terms: tuple[Term, ...]

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(self.terms + _linear(other).terms)

    def __sub__(self, other: Estimate) -> Estimate:
        return self + -1.0 * _linear(other)

    def __mul__(self, weight: Weight) -> Estimate:
        return Estimate(tuple(replace(term, weights=(weight, *term.weights)) for term in self.terms))

    __rmul__ = __mul__

    def filtered(self, outer: Map) -> Estimate:
        return Estimate(tuple(replace(term, map=chain(term.map, outer)) for term in self.terms))

    def seen(self, view: View) -> Estimate:
        """V⁻¹ ∘ self ∘ V: the same wish for the picture as the view shows it."""
        back = () if view == AsItIs() else (Unseen(view),)
        return Estimate(tuple(replace(t, view=then(view, t.view), map=chain(*_back(t.map, back))) for t in self.terms))

    def scaled(self, times: float) -> Estimate:
        """The same wish for pictures `times` as large: blurs and the like grow with them."""
        return Estimate(tuple(replace(term, map=term.map.scaled(times)) for term in self.terms))

    def of(self, pictures: Sequence[int]) -> Estimate:
        """The wish for these of the run's pictures alone, numbered anew."""
        return Estimate(tuple(term.of(pictures) for term in self.terms))

    def asks(self, pictures: Sequence[int], clock: float) -> list[Ask]:
        """The rows of one forward, each distinct question of each picture once, in the order in which the terms name them."""
        if any(term.varies for term in self.terms):
            return [ask for picture in pictures for ask in self._asks(picture, clock)]
        alike = self._asks(0, clock)
        return [ask._replace(picture=picture) for picture in pictures for ask in alike]

    def _asks(self, picture: int, clock: float) -> list[Ask]:
        shares: dict[tuple[View, str], dict[Map, list[float]]] = {}
        wishes: dict[tuple[View, str], bool] = {}
        for term in self.terms:
            view, prompt, condition = term.question(picture)
            shares.setdefault((view, prompt), {}).setdefault(term.map, []).append(term.weight(picture, clock))
            wishes[view, prompt] = wishes.get((view, prompt), False) or condition
        totals = {key: {m: w for m, ws in maps.items() if (w := math.fsum(ws))} for key, maps in shares.items()}
        return [Ask(picture, Question(*key, wishes[key]), maps) for key, maps in totals.items() if maps]

    def __call__(self, denoiser: Denoiser, x: Tensor, t: int, pictures: Sequence[int] | None = None) -> Prediction:
        """The estimate for x (B, C, H, W) at level t, in the network's native kind; one forward of the network.

        pictures: the numbers of x's rows among those that tuples of prompts and weights speak of; 0 … B − 1 if not given.
        """
        pictures = range(len(x)) if pictures is None else pictures
        asks = self.asks(pictures, (t + 1) / len(denoiser.schedule))
        if not asks:
            return Prediction(torch.zeros_like(x))
        places = {picture: row for row, picture in enumerate(pictures)}
        rows = torch.tensor([places[ask.picture] for ask in asks])
        joined = denoiser.beside(x, pictures)
        answer = denoiser.predict(_seen(joined, rows, asks), t, [ask.question.prompt for ask in asks])
        return Prediction(_combined(answer.native, rows, asks, len(x)), _variance(answer.frac, rows, asks, len(x)))


def _linear(other: object) -> Estimate:
    if isinstance(other, Estimate):
        return other
    raise TypeError(
        f"{type(other).__name__} is not a sum of terms, so it cannot stand inside another estimate: put it outermost, around the sum."
    )


def _back(inner: Map, back: tuple[Map, ...]) -> tuple[Map, ...]:
    """inner, then back; a view's return directly after another is the return from both, so that equal ones are found equal."""
    *before, last = inner.links or (Everything(),)
    if back and isinstance(last, Unseen) and isinstance(back[0], Unseen):
        view = then(back[0].view, last.view)
        return (*before, Everything() if view == AsItIs() else Unseen(view))
    return (inner, *back)


def _groups(keys: Sequence) -> dict:
    """key -> the indices at which it stands."""
    found: dict = {}
    for index, key in enumerate(keys):
        found.setdefault(key, []).append(index)
    return found


def _seen(x: Tensor, rows: Tensor, asks: list[Ask]) -> Tensor:
    """Each row as its question's view shows it."""
    asked = x[rows.to(x.device)]
    for view, at in _groups([ask.question.view for ask in asks]).items():
        if view != AsItIs():
            asked[at] = view(asked[at])
    return asked


def _combined(native: Tensor, rows: Tensor, asks: list[Ask], count: int) -> Tensor:
    """sum_k w_k A_k answer_k for each picture: answers are summed first and mapped once, which is the same and cheaper."""
    total = native.new_zeros((count, *native.shape[1:]))
    shares = [(m, k, w) for k, ask in enumerate(asks) for m, w in ask.shares.items()]
    for linear_map, at in _groups([m for m, _, _ in shares]).items():
        answers = torch.tensor([shares[i][1] for i in at], device=native.device)
        weights = torch.tensor([shares[i][2] for i in at], dtype=native.dtype, device=native.device)
        part = torch.zeros_like(total)
        part.index_add_(0, rows.to(native.device)[answers], native[answers] * weights[:, None, None, None])
        total += linear_map(part)
    return total


def _variance(frac: Tensor | None, rows: Tensor, asks: list[Ask], count: int) -> Tensor | None:
    """The learned variance's fraction: the mean over the distinct wishes, pixels moved back, no sign, no filter, no gamma."""
    if frac is None:
        return None
    wished = {ask.picture for ask in asks if ask.question.condition}
    used = [k for k, ask in enumerate(asks) if ask.question.condition or ask.picture not in wished]
    moved = torch.stack([asks[k].question.view.unmoved(frac[k]) for k in used])
    at = rows[used].to(frac.device)
    total = frac.new_zeros((count, *frac.shape[1:])).index_add_(0, at, moved)
    return total / torch.bincount(at, minlength=count).clamp(min=1)[:, None, None, None]


def asked(prompt: Prompt | int | Sequence, condition: bool = True) -> Estimate:
    """What the network says to a prompt, as it is. Numbers are prompts too; a list has one a picture."""
    words = str(prompt) if isinstance(prompt, str | int) else tuple(str(p) for p in prompt)
    return Estimate((Term(words, condition=condition),))


def guided(prompt: Prompt, gamma: Weight | Sequence[float] = 7.0, negative: Prompt = "") -> Estimate:
    """null + gamma (prompt − null): gamma = 0 is unconditional, 1 conditional; the course's default is 7.

    `negative` takes the null prompt's place (a negative prompt). Here gamma = 1 + w of Ho & Salimans.
    """
    null = asked(negative, condition=False)
    weight = gamma if callable(gamma) or isinstance(gamma, Real) else tuple(gamma)
    return null + weight * (asked(prompt) - null)


def within(first: float, last: float, gamma: float) -> Callable[[float], float]:
    """A guidance interval (Kynkäänniemi et al. 2024): gamma while the clock, 1 … 0, is in [last, first], else 1, which asks no null."""
    return lambda clock: gamma if last <= clock <= first else 1.0


def hybrid(far: Estimate, near: Estimate, blur: Map) -> Estimate:
    """The low pass of `far`, which is what is seen from afar, and the high pass of `near`, which is what is seen close by."""
    return blur @ far + near - blur @ near


def anagram(parts: dict[str, Estimate], views: dict[str, View]) -> Estimate:
    """The mean of the parts, each seen through the view of the same name."""
    seen = [part.seen(views[name]) for name, part in parts.items()]
    return (1 / len(seen)) * composed(*seen)


def composed(*parts: Estimate) -> Estimate:
    """The sum of estimates (weights are theirs)."""
    return Estimate(tuple(term for part in parts for term in part.terms))
