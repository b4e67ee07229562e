"""How close two sets of pictures are: closed forms."""

import math

import pytest
import torch

from expkit.metrics.fidelity import (
    class_spread,
    coverage,
    entropy_bits,
    frechet_distance,
    precision_recall,
    relative_diversity,
)


def points(count: int = 60, size: int = 4) -> torch.Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(3))


def test_the_frechet_distance_of_a_set_moved_by_d_is_d_squared():
    a, d = points(), torch.tensor([1.0, -2.0, 0.0, 2.0])
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + d) == pytest.approx(9, rel=1e-6)


def test_the_frechet_distance_of_a_set_stretched_about_its_mean_is_the_variance():
    """tr(S + 9 S − 2 · 3 S) = 4 tr S"""
    a = points() - points().mean(0)
    assert frechet_distance(a, 3 * a) == pytest.approx(4 * float(a.var(0).sum()), rel=1e-6)


def test_more_points_than_go_in_at_once():
    a = points(1300, 2)
    assert frechet_distance(a, a + 1) == pytest.approx(2, rel=1e-6)
    assert precision_recall(a, a.flip(0)) == (1, 1)


def test_precision_and_recall_of_equal_and_of_far_sets():
    a = points()
    assert precision_recall(a, a) == (1, 1) and precision_recall(a, a + 1000) == (0, 0)


def test_a_set_that_drops_a_mode_has_less_recall_than_precision():
    two = torch.cat([points(40), points(40) + 100])
    one = points(80)[40:]
    precision, recall = precision_recall(two, one)
    assert precision > 0.5 >= recall > 0.25


def test_a_ball_reaches_to_the_kth_neighbour_and_no_further():
    line = torch.tensor([[0.0], [1.0], [2.0], [3.0]])  # k = 1: radii 1
    assert coverage(torch.tensor([[-1.0], [-1.01], [4.0], [1.5]]), line, k=1) == 0.75
    assert coverage(torch.tensor([[-1.01]]), line, k=2) == 1  # radii 2, 1, 1, 2


def test_diversity_is_the_spread_within_a_class_whatever_the_distance_of_classes():
    real, labels = torch.cat([points(20), points(20) + 9]), torch.arange(40) // 20
    assert relative_diversity(real + 5, labels, real, labels) == pytest.approx(1)
    assert relative_diversity(real / 2 + 100 * labels[:, None], labels, real, labels) == pytest.approx(0.5)
    assert class_spread(torch.tensor([[0.0], [3.0], [9.0], [7.0]]), torch.tensor([1, 1, 1, 2])) == {1: 6.0}
    assert math.isnan(relative_diversity(real[:1], labels[:1], real, labels))


def test_entropy_is_in_bits():
    assert (
        entropy_bits(torch.full((8,), 1 / 8)) == pytest.approx(3)
        and entropy_bits(torch.tensor([0.0, 1.0])) == 0
    )
