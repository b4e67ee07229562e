"""One forward of the network: which rows it is asked, and how its answers are put together.

    native = sum over maps A of A( sum_k w_k answer_k )

Equal queries of one picture are one row. The plan of a forward is made once for equal estimates, pictures and weights, and serves every
step.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache, reduce
from typing import NamedTuple

import torch
from torch import Tensor

from expkit.core.denoiser import Denoiser, Prediction
from expkit.core.maps import LinearMap
from expkit.core.views import Identity, View


class Query(NamedTuple):
    """What a row of the forward asks. condition: whether it is a condition; the null and the negative prompt are none."""

    view: View
    prompt: str
    condition: bool


class WeightedQuery(NamedTuple):
    """A query of one picture, and how its answer counts: {map: weight}."""

    picture: int
    query: Query
    weights: dict[LinearMap, float]

    @property
    def key(self) -> tuple[int, View, str]:
        """Queries with equal keys are one row."""
        return self.picture, self.query.view, self.query.prompt


def evaluate(
    estimates: tuple, denoiser: Denoiser, x: Tensor, t: float, pictures: Sequence[int] | None = None
) -> list[Prediction]:
    """Evaluate several estimates for x (B, C, H, W) at level t in one forward.

    Args:
        estimates: of `expkit.core.estimate`; a query that several of them make is asked once.
        pictures: the numbers of x's rows among those that tuples of prompts and weights speak of; 0 … B − 1 if not given.

    Returns:
        The prediction of each estimate, native (B, C, H, W).
    """
    pictures = tuple(range(len(x)) if pictures is None else pictures)
    invariant = all(estimate.is_time_invariant for estimate in estimates)
    clock = None if invariant else (t + 1) / len(denoiser.schedule)
    plan = _plan(estimates, pictures, clock, x.device)
    if not plan.prompts:
        return [Prediction(torch.zeros_like(x))] * len(estimates)
    answer = denoiser.predict(plan.rows_of(denoiser.beside(x, pictures)), t, plan.prompts)
    return [recombination.apply(answer, len(x)) for recombination in plan.recombinations]


class RowWeights(NamedTuple):
    """Some rows of an answer, how much each counts (N, 1, 1, 1), and to which picture's row it is added."""

    rows: Tensor | slice
    weights: Tensor
    targets: Tensor

    def sum(self, answer: Tensor, count: int) -> Tensor:
        """The weighted sums (count, C, H, W) of the rows of an answer (R, C, H, W)."""
        parts = answer[self.rows] * self.weights.to(answer.dtype)
        return answer.new_zeros((count, *answer.shape[1:])).index_add_(0, self.targets, parts)


class Recombination(NamedTuple):
    """How the answers of a forward become one estimate: they are summed first and mapped once, which is the same and cheaper.

    maps: what of the answers each map is given. variance: what each view is given of the learned variance's fraction, which is the mean
    over the distinct conditions of a picture (over all its queries if it has none), pixels moved back, with neither sign, filter nor gamma.
    """

    maps: list[tuple[LinearMap, RowWeights]]
    variance: list[tuple[View, RowWeights]]

    def apply(self, answer: Prediction, count: int) -> Prediction:
        """The estimate of `count` pictures from the answer to all rows."""
        native = reduce(torch.add, (linear(rows.sum(answer.native, count)) for linear, rows in self.maps))
        if answer.variance_fraction is None:
            return Prediction(native)
        fractions = (
            view.unpermute(rows.sum(answer.variance_fraction, count)) for view, rows in self.variance
        )
        return Prediction(native, reduce(torch.add, fractions))


class ForwardPlan(NamedTuple):
    """One forward: the prompt of each row, its source among the rows of x, the rows that a view shows, and what becomes of the answers."""

    prompts: list[str]
    sources: Tensor
    views: list[tuple[View, Tensor]]
    recombinations: list[Recombination]

    def rows_of(self, x: Tensor) -> Tensor:
        """The rows that the network is shown, each through its query's view."""
        rows = x[self.sources]
        for view, places in self.views:
            rows[places] = view(rows[places])
        return rows


@lru_cache(maxsize=32)
def _plan(
    estimates: tuple, pictures: tuple[int, ...], clock: float | None, device: torch.device
) -> ForwardPlan:
    queries = [estimate.queries(pictures, clock) for estimate in estimates]
    distinct = {query.key: query.query for some in queries for query in some}
    rows = {key: row for row, key in enumerate(distinct)}
    targets = {picture: row for row, picture in enumerate(pictures)}
    views = _groups([query.view for query in distinct.values()])
    return ForwardPlan(
        [query.prompt for query in distinct.values()],
        torch.tensor([targets[picture] for picture, _, _ in distinct], dtype=torch.long, device=device),
        [(view, torch.tensor(places, device=device)) for view, places in views.items() if view != Identity()],
        [_recombination(some, rows, targets, device) for some in queries],
    )


def _recombination(
    queries: list[WeightedQuery], rows: Mapping, targets: Mapping, device: torch.device
) -> Recombination:
    conditioned = {query.picture for query in queries if query.query.condition}
    averaged = [query for query in queries if query.query.condition or query.picture not in conditioned]
    counts = {picture: len(at) for picture, at in _groups([query.picture for query in averaged]).items()}
    mapped = [(linear, query, weight) for query in queries for linear, weight in query.weights.items()]
    variance = [(query.query.view, query, 1 / counts[query.picture]) for query in averaged]
    return Recombination(
        _row_weights(mapped, rows, targets, device), _row_weights(variance, rows, targets, device)
    )


def _row_weights(weighted: list[tuple], rows: Mapping, targets: Mapping, device: torch.device) -> list[tuple]:
    """(map or view, query, weight) as (map or view, RowWeights), each map or view once."""
    found = []
    for operator, places in _groups([operator for operator, _, _ in weighted]).items():
        queries, weights = [weighted[i][1] for i in places], [weighted[i][2] for i in places]
        used = [rows[query.key] for query in queries]
        all_in_order = used == list(range(len(rows)))
        row_weights = RowWeights(
            slice(None) if all_in_order else torch.tensor(used, device=device),
            torch.tensor(weights, device=device)[:, None, None, None],
            torch.tensor([targets[query.picture] for query in queries], device=device),
        )
        found.append((operator, row_weights))
    return found


def _groups(keys: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    """The places at which each key stands."""
    found: dict = {}
    for index, value in enumerate(keys):
        found.setdefault(value, []).append(index)
    return found
