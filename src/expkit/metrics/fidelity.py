"""Measures of how close one set of images is to another, by the features (N, F) of a judge.

    frechet    |m_a − m_b|² + tr(S_a + S_b − 2 (S_a S_b)^½)          (Heusel et al. 2017, eq. 6)
               m: means, S: covariances
    precision  share of the generated images in the manifold of the real ones
    recall     share of the real images in the manifold of the generated ones
                                                              (Kynkäänniemi et al. 2019, eq. 1)
    spread     mean distance between two images of one class

The features are what a judge computes before its answers. A manifold is the union of balls, one
around each point of a set; its radius is the distance to the k-th nearest neighbour in the set.
Fréchet distances become smaller as the sets grow: compare only sets of equal size.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

K = 3  # nearest neighbours (Kynkäänniemi et al. 2019, §3)
MOST_ROWS = 500  # of images or features, in one pass through a network or a metric
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"  # the name that torch-fidelity uses


class PrecomputedFeatures(nn.Module):
    """Return the features unchanged: torchmetrics expects a network that computes them."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(real: Tensor, made: Tensor) -> float:
    """The Fréchet distance between Gaussians fitted to two sets of features, in float64.

    Args:
        real, made: features (N, F) and (M, F) of the real and the generated images; at least two
            rows each.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(PrecomputedFeatures(real.shape[1]))
    return _compute_frechet(metric, real.double(), made.double())


def inception_at_hand() -> Path | None:
    """The Inception weights in torch's cache; None unless they and torch-fidelity are here."""
    from torchmetrics.utilities.imports import _TORCH_FIDELITY_AVAILABLE

    path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION
    return path if _TORCH_FIDELITY_AVAILABLE and path.is_file() else None


def inception_frechet(real: Tensor, made: Tensor, weights: Path) -> float:
    """FID: the Fréchet distance of Inception's 2,048 features.

    Args:
        real, made: images uint8 (N, 1 or 3, H, W), which torchmetrics resizes to 299 × 299.
        weights: the file of Inception's weights.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(2048, feature_extractor_weights_path=str(weights))
    return _compute_frechet(metric, real.expand(-1, 3, -1, -1), made.expand(-1, 3, -1, -1))


def _compute_frechet(metric, real: Tensor, generated: Tensor) -> float:
    for samples, is_real in ((real, True), (generated, False)):
        for chunk in samples.split(MOST_ROWS):
            metric.update(chunk, real=is_real)
    return max(0.0, float(metric.compute()))  # rounding may make it slightly negative


def precision_recall(real: Tensor, made: Tensor, k: int = K) -> tuple[float, float]:
    """Precision and recall of features (N, F) and (M, F), both of more than k rows."""
    return coverage(made, real, k), coverage(real, made, k)


def coverage(points: Tensor, manifold: Tensor, k: int = K) -> float:
    """The share of `points` (N, F) that lie in the manifold of the points `manifold` (M, F)."""
    # k + 1, because the nearest neighbour of a point is the point itself
    radii = [chunk.kthvalue(k + 1).values for chunk in pairwise_distances(manifold, manifold)]
    radii = torch.cat(radii)
    is_inside = [(chunk <= radii).any(1) for chunk in pairwise_distances(points, manifold)]
    return torch.cat(is_inside).double().mean().item()


def pairwise_distances(a: Tensor, b: Tensor) -> Iterator[Tensor]:
    """|a_i − b_j| in chunks of the rows of `a`; exactly 0 for equal points."""
    for chunk in a.double().split(MOST_ROWS):
        yield torch.cdist(chunk, b.double(), compute_mode="donot_use_mm_for_euclid_dist")


def class_spread(features: Tensor, labels: Tensor) -> dict[int, float]:
    """{class: mean distance between two of its images}, for classes of at least two images."""
    groups = {int(label): features[labels == label].double() for label in labels.unique()}
    groups = {label: group for label, group in groups.items() if len(group) > 1}
    return {label: torch.pdist(group).mean().item() for label, group in groups.items()}


def relative_diversity(
    made: Tensor,
    made_labels: Tensor,
    real: Tensor,
    real_labels: Tensor,
) -> float:
    """The spread within classes of the generated images, divided by that of the real images.

    It is the mean of the ratio over the classes that both have; 1 means equally diverse.
    """
    spread = class_spread(made, made_labels)
    real_spread = class_spread(real, real_labels)
    ratios = [spread[label] / real_spread[label] for label in spread if label in real_spread]
    return sum(ratios) / len(ratios) if ratios else float("nan")


def entropy_bits(shares: Tensor) -> float:
    """The entropy, in bits, of shares (C,) that sum to one.

    It is log2 C if all shares are equal, and 0 if one of them is 1.
    """
    return torch.special.entr(shares.double()).sum().item() / torch.log(torch.tensor(2.0)).item()
