"""The numbers of DeepFloyd IF and of the course, and conversions that undo each other."""

import math
from itertools import pairwise

import pytest
import torch

from expkit import grids, schedule
from expkit.errors import Refusal
from expkit.rules import DDPM

IF = schedule.cosine(1000)


@pytest.mark.parametrize(
    ("t", "value"),
    [
        (0, 0.99995872),
        (30, 0.99646582),
        (90, 0.97653932),
        (240, 0.85697679),
        (250, 0.84588799),
        (390, 0.66082243),
        (500, 0.49228517),
        (690, 0.21452302),
        (750, 0.14317865),
        (960, 0.0036896115),
        (990, 1.9671738e-4),
        (999, 2.4287669e-9),
    ],
)
def test_deepfloyds_alpha_bar(t, value):
    assert IF.alpha_bar(t) == pytest.approx(value, abs=1e-8, rel=1e-7 if value < 1e-2 else None)


def test_the_level_nearest_to_a_strength_of_noise():
    made = schedule.scaled(300)
    assert [made.nearest(float(made.sigma[t] / made.alpha[t])) for t in (0, 77, 299)] == [0, 77, 299]
    assert (made.nearest(0), made.nearest(1e9)) == (0, 299)
    assert schedule.flow(100).nearest(1e9) == 98  # at the last level there is nothing beside the noise


def test_deepfloyds_noise_levels_as_nvidia_lists_them():
    listed = {
        995: 160.414,
        920: 8.081,
        811: 3.315,
        686: 1.885,
        555: 1.207,
        418: 0.785,
        315: 0.553,
        174: 0.293,
        109: 0.186,
        12: 0.030,
        0: 0.006,
    }
    for t, sigma in listed.items():
        alpha, noise = IF.at(t)
        assert noise / alpha == pytest.approx(sigma, abs=6e-4)


@pytest.mark.parametrize(
    ("t", "s", "alpha", "c_x0", "c_xt", "low", "high"),
    [
        (990, 960, 0.0533166, 0.0575149, 0.230097, 0.971276, 0.972977),
        (690, 660, 0.84425, 0.0999532, 0.872536, 0.384581, 0.394652),
        (30, 0, 0.996507, 0.988339, 0.011661, 0.00638777, 0.0591019),
    ],
)
def test_the_courses_coefficients(t, s, alpha, c_x0, c_xt, low, high):
    one, zero = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    step = lambda x, x0, frac, z: float(DDPM("learned")(IF, x, x0, frac, t, s, z, None))  # noqa: E731
    assert IF.alpha_bar(t) / IF.alpha_bar(s) == pytest.approx(alpha, rel=1e-5)
    assert step(zero, one, zero, zero) == pytest.approx(c_x0, rel=1e-5)
    assert step(one, zero, zero, zero) == pytest.approx(c_xt, rel=1e-5)
    assert step(zero, zero, zero, one) == pytest.approx(low, rel=1e-5)
    assert step(zero, zero, one, one) == pytest.approx(high, rel=1e-5)


def test_leaks():
    assert schedule.linear(300).leak == pytest.approx(math.sqrt(0.048), abs=2e-3)
    assert schedule.scaled(300).leak < 0.01
    assert schedule.zero_terminal(schedule.linear(300)).leak == 0


@pytest.mark.parametrize("kind", schedule.KINDS)
@pytest.mark.parametrize("made", [schedule.linear(), schedule.scaled(), schedule.cosine(), schedule.flow()])
def test_what_a_perfect_network_answers_means_its_picture(kind, made):
    x0, noise, t = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4), 120
    alpha, sigma = made.at(t)
    native = schedule.target(x0, noise, torch.tensor(alpha), torch.tensor(sigma), kind)
    assert torch.allclose(made.denoised(made.noised(x0, t, noise), t, native, kind), x0, atol=1e-5)


def test_at_zero_terminal_signal_v_still_means_a_picture():
    made, x0, noise = schedule.zero_terminal(schedule.linear(300)), torch.randn(1, 1, 4, 4), torch.randn(1, 1, 4, 4)
    v = schedule.target(x0, noise, torch.tensor(0.0), torch.tensor(1.0), "v")
    assert torch.allclose(made.denoised(noise, 299, v, "v"), x0)


def test_grids():
    course = grids.strided(1000)
    assert course == tuple(range(990, -1, -30)) and len(course) == 34
    assert grids.strided(300)[:3] == (297, 288, 279) and grids.strided(300)[-1] == 0
    assert [course[i] for i in (0, 1, 3, 5, 7, 10, 20, 30)] == [990, 960, 900, 840, 780, 690, 390, 90]
    assert grids.strided_clean(1000) == (*course, schedule.CLEAN)
    assert grids.full(300) == (*range(299, -1, -1), schedule.CLEAN)


def test_repaint_walks_each_leg_as_often_as_asked_and_ends_clean():
    walk = grids.repaint(1000, jump=3, times=2)
    assert walk[:8] == (990, 960, 930, 900, 990, 960, 930, 900) and walk[-1] == 0
    ups = [(t, s) for t, s in pairwise(walk) if s > t]
    assert len(ups) == 11 and {grids.strided(1000).index(t) - grids.strided(1000).index(s) for t, s in ups} == {3}


def test_impossible_grids_and_levels_are_refused():
    with pytest.raises(Refusal, match="from 1 to 299"):
        grids.strided(300, 300)
    with pytest.raises(ValueError, match="outside this schedule"):
        IF.at(1000)
