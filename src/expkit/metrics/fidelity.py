"""How close one set of pictures is to another: by features (N, F), what a judge sees in a picture before it answers.

    frechet    |m_a − m_b|² + tr(S_a + S_b − 2 (S_a S_b)^½),  means m, covariances S                  (Heusel et al. 2017, eq. 6)
    precision  share of the made in the manifold of the real,
    recall     share of the real in the manifold of the made                                   (Kynkäänniemi et al. 2019, eq. 1)
    spread     mean distance of two pictures of one class

A manifold is the balls about each of its points that reach to its k-th neighbour. Fréchet distances fall as sets grow: compare those of
equal counts only.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

K = 3  # neighbours: Kynkäänniemi et al. 2019, §3
MOST_ROWS = 500
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"  # as torch-fidelity names it


class PrecomputedFeatures(nn.Module):
    """Features as they are given, for torchmetrics, which asks a network for them."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(real: Tensor, made: Tensor) -> float:
    """The Fréchet distance of two Gaussians with these means and covariances, in float64; two points each at the least."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    return _distance(
        FrechetInceptionDistance(PrecomputedFeatures(real.shape[1])), real.double(), made.double()
    )


def inception_at_hand() -> Path | None:
    """Inception's weights of torch-fidelity, where torch keeps them, if both are on this machine."""
    from torchmetrics.utilities.imports import _TORCH_FIDELITY_AVAILABLE

    path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION
    return path if _TORCH_FIDELITY_AVAILABLE and path.is_file() else None


def inception_frechet(real: Tensor, made: Tensor, weights: Path) -> float:
    """FID: the Fréchet distance in Inception's 2,048 features. Pictures uint8 (N, 1 or 3, H, W), which it enlarges to 299 × 299."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(2048, feature_extractor_weights_path=str(weights))
    return _distance(metric, real.expand(-1, 3, -1, -1), made.expand(-1, 3, -1, -1))


def _distance(metric, real: Tensor, made: Tensor) -> float:
    for given, is_real in ((real, True), (made, False)):
        for part in given.split(MOST_ROWS):
            metric.update(part, real=is_real)
    return max(0.0, float(metric.compute()))  # rounding may leave it a little below zero


def precision_recall(real: Tensor, made: Tensor, k: int = K) -> tuple[float, float]:
    """Precision and recall of (N, F) and (M, F), both of more than k points."""
    return coverage(made, real, k), coverage(real, made, k)


def coverage(points: Tensor, manifold: Tensor, k: int = K) -> float:
    """The share of points (N, F) that lie in a ball about a point of the manifold (M, F), of the distance to its k-th neighbour there."""
    radii = torch.cat(
        [near.kthvalue(k + 1).values for near in pairwise_distances(manifold, manifold)]
    )  # the first is the point itself
    return (
        torch.cat([(near <= radii).any(1) for near in pairwise_distances(points, manifold)])
        .double()
        .mean()
        .item()
    )


def pairwise_distances(a: Tensor, b: Tensor) -> Iterator[Tensor]:
    """|a_i − b_j|, some rows at a time, exact for equal points."""
    for part in a.double().split(MOST_ROWS):
        yield torch.cdist(part, b.double(), compute_mode="donot_use_mm_for_euclid_dist")


def class_spread(features: Tensor, labels: Tensor) -> dict[int, float]:
    """{class: the mean distance of two of its pictures}; classes of fewer than two are left out."""
    groups = {int(label): features[labels == label].double() for label in labels.unique()}
    return {label: torch.pdist(group).mean().item() for label, group in groups.items() if len(group) > 1}


def relative_diversity(made: Tensor, made_labels: Tensor, real: Tensor, real_labels: Tensor) -> float:
    """The spread within the classes of what was made over that of what is real, a mean over the classes of both: 1 is as diverse."""
    a, b = class_spread(made, made_labels), class_spread(real, real_labels)
    ratios = [a[label] / b[label] for label in a if label in b]
    return sum(ratios) / len(ratios) if ratios else float("nan")


def entropy_bits(shares: Tensor) -> float:
    """Of shares (C,) that sum to one, in bits: log2 C where all are equal, 0 where there is one."""
    return torch.special.entr(shares.double()).sum().item() / torch.log(torch.tensor(2.0)).item()
