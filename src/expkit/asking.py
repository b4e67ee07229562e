"""One forward of the network: which rows are asked, and how their answers are put together.

    native = sum over maps A of A( sum_k w_k answer_k ),    an equal question of one picture asked once

What is asked is worked out once for equal wishes, pictures and weights, and serves every step.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache, reduce
from typing import NamedTuple

import torch
from torch import Tensor

from expkit.denoiser import Denoiser, Prediction
from expkit.maps import Map
from expkit.views import Identity, View


class Question(NamedTuple):
    """A row of the forward. `condition` says whether it states a wish, which the null and negative prompts do not."""

    view: View
    prompt: str
    condition: bool


class Ask(NamedTuple):
    """One row to be asked: of which picture, and how its answer counts: {map: weight}."""

    picture: int
    question: Question
    shares: dict[Map, float]

    @property
    def key(self) -> tuple[int, View, str]:
        """What is asked: two asks with equal keys are one row."""
        return self.picture, self.question.view, self.question.prompt


def answered(wishes: tuple, denoiser: Denoiser, x: Tensor, t: int, pictures: Sequence[int] | None = None) -> list[Prediction]:
    """Several estimates (of `expkit.estimate`) for x at level t from one forward, in which what several of them ask is asked once."""
    pictures = tuple(range(len(x)) if pictures is None else pictures)
    clock = None if all(wish.steady for wish in wishes) else (t + 1) / len(denoiser.schedule)
    forward = _forward(wishes, pictures, clock, x.device)
    if not forward.prompts:
        return [Prediction(torch.zeros_like(x))] * len(wishes)
    answer = denoiser.predict(forward.shown(denoiser.beside(x, pictures)), t, forward.prompts)
    return [put.together(answer, len(x)) for put in forward.puts]


class Share(NamedTuple):
    """Some rows of an answer, how much each counts (N, 1, 1, 1), and in which picture's row."""

    rows: Tensor | slice
    weights: Tensor
    places: Tensor

    def of(self, answer: Tensor, count: int) -> Tensor:
        parts = answer[self.rows] * self.weights.to(answer.dtype)
        return answer.new_zeros((count, *answer.shape[1:])).index_add_(0, self.places, parts)


class Put(NamedTuple):
    """How the answers of a forward become one estimate: answers are summed first and mapped once, which is the same and cheaper.

    maps: what of them each map is given. fracs: what each view is given for the learned variance's fraction, the mean over the distinct
    conditions (or over all questions of a picture that has none), pixels moved back, no sign, no filter, no gamma.
    """

    maps: list[tuple[Map, Share]]
    fracs: list[tuple[View, Share]]

    def together(self, answer: Prediction, count: int) -> Prediction:
        native = reduce(torch.add, (linear(share.of(answer.native, count)) for linear, share in self.maps))
        if answer.frac is None:
            return Prediction(native)
        return Prediction(native, reduce(torch.add, (view.unmoved(share.of(answer.frac, count)) for view, share in self.fracs)))


class Forward(NamedTuple):
    """One forward: what is asked, from which row of x, through which views, and how the answers are put together."""

    prompts: list[str]
    places: Tensor
    views: list[tuple[View, Tensor]]
    puts: list[Put]

    def shown(self, x: Tensor) -> Tensor:
        """Each row as its question's view shows it."""
        asked = x[self.places]
        for view, at in self.views:
            asked[at] = view(asked[at])
        return asked


@lru_cache(maxsize=32)
def _forward(wishes: tuple, pictures: tuple[int, ...], clock: float | None, device: torch.device) -> Forward:
    asks = [wish.asks(pictures, clock) for wish in wishes]
    questions = {ask.key: ask.question for some in asks for ask in some}
    rows, places = {asked: row for row, asked in enumerate(questions)}, {picture: place for place, picture in enumerate(pictures)}
    views = _groups([question.view for question in questions.values()])
    return Forward(
        [question.prompt for question in questions.values()],
        torch.tensor([places[picture] for picture, _, _ in questions], dtype=torch.long, device=device),
        [(view, torch.tensor(at, device=device)) for view, at in views.items() if view != Identity()],
        [_put(some, rows, places, device) for some in asks],
    )


def _put(asks: list[Ask], rows: Mapping, places: Mapping, device: torch.device) -> Put:
    conditioned = {ask.picture for ask in asks if ask.question.condition}
    heard = [ask for ask in asks if ask.question.condition or ask.picture not in conditioned]
    many = {picture: len(at) for picture, at in _groups([ask.picture for ask in heard]).items()}
    shares = [(linear, ask, weight) for ask in asks for linear, weight in ask.shares.items()]
    fracs = [(ask.question.view, ask, 1 / many[ask.picture]) for ask in heard]
    return Put(_shared(shares, rows, places, device), _shared(fracs, rows, places, device))


def _shared(given: list[tuple], rows: Mapping, places: Mapping, device: torch.device) -> list[tuple]:
    """(what, ask, weight) as (what, Share), each `what` once."""
    shared = []
    for what, at in _groups([what for what, _, _ in given]).items():
        asks, weights = [given[i][1] for i in at], [given[i][2] for i in at]
        taken = [rows[ask.key] for ask in asks]
        every = taken == list(range(len(rows)))
        share = Share(
            slice(None) if every else torch.tensor(taken, device=device),
            torch.tensor(weights, device=device)[:, None, None, None],
            torch.tensor([places[ask.picture] for ask in asks], device=device),
        )
        shared.append((what, share))
    return shared


def _groups(keys: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    """key -> the indices at which it stands."""
    found: dict = {}
    for index, value in enumerate(keys):
        found.setdefault(value, []).append(index)
    return found
