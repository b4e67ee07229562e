"""One forward pass of the network: which rows it evaluates, and how its outputs are recombined.

    native = sum over maps A of A( sum_k w_k output_k )

Equal queries of one image share one row. Forward plans are cached: equal estimates, images and
weights reuse one plan in every step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache, reduce
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
from torch import Tensor

from expkit.core.denoiser import Denoiser, Prediction
from expkit.core.maps import LinearMap
from expkit.core.views import Identity, View

if TYPE_CHECKING:
    from expkit.core.estimate import EstimateBase

Key = TypeVar("Key", bound=Hashable)
Operator = TypeVar("Operator", LinearMap, View)


class Query(NamedTuple):
    """The input of one row of a forward pass: an image seen through a view, and a prompt.

    Attributes:
        view: Applied to x before the network.
        prompt: The prompt; "" is the null prompt.
        condition: Whether the prompt is a condition. The null prompt and negative prompts are not.
    """

    view: View
    prompt: str
    condition: bool


class WeightedQuery(NamedTuple):
    """A query of one image and the weights of the network's output.

    Attributes:
        picture: Index of the image in the run.
        query: What the network evaluates.
        weights: {linear map: weight}; the output contributes sum of weight · map(output).
    """

    picture: int
    query: Query
    weights: dict[LinearMap, float]

    @property
    def key(self) -> tuple[int, View, str]:
        """Image, view and prompt. Queries with equal keys share one row."""
        return self.picture, self.query.view, self.query.prompt


def evaluate(
    estimates: tuple[EstimateBase, ...],
    denoiser: Denoiser,
    x: Tensor,
    t: float,
    pictures: Sequence[int] | None = None,
) -> list[Prediction]:
    """Evaluate several estimates in one forward pass of the network.

    Args:
        estimates: `Estimate`s of `expkit.core.estimate`. A query that several of them share is
            evaluated once.
        denoiser: The network.
        x: State (B, C, H, W) at level t.
        t: Level of the denoiser's schedule.
        pictures: Index in the run of the image in each row of x; it selects from prompts and
            weights that are tuples with one entry per image. Default: 0 … B − 1.

    Returns:
        One prediction (B, C, H, W) per estimate, in the network's own parametrization. If no query
        has a non-zero weight, the predictions are zero and the network is not called.
    """
    pictures = tuple(range(len(x)) if pictures is None else pictures)
    plan = _make_plan(estimates, pictures, _clock(estimates, denoiser, t), x.device)
    if not plan.prompts:
        return [Prediction(torch.zeros_like(x))] * len(estimates)
    inputs = plan.rows_of(denoiser.concat_condition(x, pictures))
    answer = denoiser.predict(inputs, t, plan.prompts)
    return [recombination.apply(answer, len(x)) for recombination in plan.recombinations]


def evaluate_each(
    groups: Sequence[tuple[tuple[EstimateBase, ...], Tensor]],
    denoiser: Denoiser,
    t: float,
    pictures: Sequence[int],
) -> list[list[Prediction]]:
    """Evaluate several groups of estimates, each at a state of its own, in one forward pass.

    Args:
        groups: (estimates, their state (B, C, H, W) at level t). A query that estimates of one
            group share is evaluated once.
        denoiser: The network.
        t: Level of the denoiser's schedule.
        pictures: Index in the run of the image in each row of the states.

    Returns:
        For each group one prediction per estimate, as `evaluate` gives them.
    """
    plans = [
        _make_plan(estimates, tuple(pictures), _clock(estimates, denoiser, t), x.device)
        for estimates, x in groups
    ]
    states = [denoiser.concat_condition(x, pictures) for _, x in groups]
    inputs = [plan.rows_of(state) for plan, state in zip(plans, states, strict=True)]
    prompts = [prompt for plan in plans for prompt in plan.prompts]
    answer = denoiser.predict(torch.cat(inputs), t, prompts)
    sizes = [len(plan.prompts) for plan in plans]
    answers = [
        answer.of(slice(end - size, end))
        for size, end in zip(sizes, accumulate(sizes), strict=True)
    ]  # fmt: skip
    return [
        [recombination.apply(own, len(pictures)) for recombination in plan.recombinations]
        for plan, own in zip(plans, answers, strict=True)
    ]


def _clock(estimates: Sequence[EstimateBase], denoiser: Denoiser, t: float) -> float:
    """(t + 1) / T; 1 where weights are the same at every level, so that one plan serves all."""
    invariant = all(estimate.is_time_invariant for estimate in estimates)
    return 1.0 if invariant else (t + 1) / len(denoiser.schedule)


class RowWeights(NamedTuple):
    """A weighted sum over rows of the network's output, one sum per image.

    Attributes:
        rows: Indices (N,) of the rows that are used, or a slice.
        weights: Their weights (N, 1, 1, 1).
        targets: For each of them the index (N,) of the sum to which it is added.
    """

    rows: Tensor | slice
    weights: Tensor
    targets: Tensor

    def sum(self, answer: Tensor, count: int) -> Tensor:
        """The `count` weighted sums (count, C, H, W) of an output `answer` (R, C, H, W)."""
        parts = answer[self.rows] * self.weights.to(answer.dtype)
        return answer.new_zeros((count, *answer.shape[1:])).index_add_(0, self.targets, parts)


class Recombination(NamedTuple):
    """How the rows of one output become one estimate.

    The rows of each map are summed before the map is applied. Maps are linear, so the result is the
    same as with the map applied to each row, and it is cheaper.

    Attributes:
        maps: For each linear map, the weighted rows to which it is applied.
        variance: For each view, the rows of the learned variance's fraction that come back through
            it. The result is the mean over the distinct conditional queries of an image, or over
            all of its queries if none is conditional. Only pixel positions are moved back: no sign,
            filter or guidance is applied.
    """

    maps: list[tuple[LinearMap, RowWeights]]
    variance: list[tuple[View, RowWeights]]

    def apply(self, answer: Prediction, count: int) -> Prediction:
        """The estimate (count, C, H, W) from the network's output `answer` for all rows."""
        fraction = answer.variance_fraction
        if not self.maps:  # all of its terms cancel, while those of another estimate do not
            zeros = answer.native.new_zeros((count, *answer.native.shape[1:]))
            return Prediction(zeros, None if fraction is None else zeros)
        filtered = (linear_map(rows.sum(answer.native, count)) for linear_map, rows in self.maps)
        native = reduce(torch.add, filtered)
        if fraction is None:
            return Prediction(native)
        fractions = (view.unpermute(rows.sum(fraction, count)) for view, rows in self.variance)
        return Prediction(native, reduce(torch.add, fractions))


class ForwardPlan(NamedTuple):
    """One forward pass with R rows.

    Attributes:
        prompts: The prompt of each row.
        sources: For each row the index (R,) of its image in x.
        views: (view, indices of the rows that it is applied to); the identity is left out.
        recombinations: One per estimate.
    """

    prompts: list[str]
    sources: Tensor
    views: list[tuple[View, Tensor]]
    recombinations: list[Recombination]

    def rows_of(self, x: Tensor) -> Tensor:
        """The network's input (R, C, H, W) for x (B, C, H, W), each row seen through its view."""
        rows = x[self.sources]
        for view, indices in self.views:
            rows[indices] = view(rows[indices])
        return rows


@lru_cache(maxsize=32)
def _make_plan(
    estimates: tuple[EstimateBase, ...],
    pictures: tuple[int, ...],
    clock: float,
    device: torch.device,
) -> ForwardPlan:
    queries_per_estimate = [estimate.queries(pictures, clock) for estimate in estimates]
    distinct = {query.key: query.query for queries in queries_per_estimate for query in queries}
    rows = {key: row for row, key in enumerate(distinct)}
    targets = {picture: row for row, picture in enumerate(pictures)}
    sources = [targets[picture] for picture, _, _ in distinct]
    rows_per_view = _indices_by_key([query.view for query in distinct.values()])
    rows_per_view.pop(Identity(), None)
    return ForwardPlan(
        [query.prompt for query in distinct.values()],
        torch.tensor(sources, dtype=torch.long, device=device),
        [(view, torch.tensor(indices, device=device)) for view, indices in rows_per_view.items()],
        [_make_recombination(queries, rows, targets, device) for queries in queries_per_estimate],
    )


def _make_recombination(
    queries: list[WeightedQuery],
    rows: Mapping[tuple[int, View, str], int],
    targets: Mapping[int, int],
    device: torch.device,
) -> Recombination:
    conditional = {item.picture for item in queries if item.query.condition}
    averaged = [item for item in queries if item.query.condition or item.picture not in conditional]
    counts = Counter(item.picture for item in averaged)
    native = [(linear, item, weight) for item in queries for linear, weight in item.weights.items()]
    variance = [(item.query.view, item, 1 / counts[item.picture]) for item in averaged]
    return Recombination(
        _group_row_weights(native, rows, targets, device),
        _group_row_weights(variance, rows, targets, device),
    )


def _group_row_weights(
    weighted: list[tuple[Operator, WeightedQuery, float]],
    rows: Mapping[tuple[int, View, str], int],
    targets: Mapping[int, int],
    device: torch.device,
) -> list[tuple[Operator, RowWeights]]:
    """Group (map or view, query, weight) into (map or view, RowWeights), each map or view once."""
    groups: list[tuple[Operator, RowWeights]] = []
    for operator, indices in _indices_by_key([operator for operator, _, _ in weighted]).items():
        members = [weighted[i] for i in indices]
        row_indices = [rows[query.key] for _, query, _ in members]
        is_every_row = row_indices == list(range(len(rows)))
        row_weights = RowWeights(
            slice(None) if is_every_row else torch.tensor(row_indices, device=device),
            torch.tensor([weight for _, _, weight in members], device=device)[:, None, None, None],
            torch.tensor([targets[query.picture] for _, query, _ in members], device=device),
        )
        groups.append((operator, row_weights))
    return groups


def _indices_by_key(keys: Sequence[Key]) -> dict[Key, list[int]]:
    """{key: the indices at which it occurs}."""
    indices: dict[Key, list[int]] = {}
    for index, key in enumerate(keys):
        indices.setdefault(key, []).append(index)
    return indices
