"""The numbers of DeepFloyd IF and of the course, and conversions that undo each other."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch

from expkit.core import schedules, timesteps
from expkit.core.sampler import Sampler
from expkit.core.solvers import DDPM, Update
from expkit.errors import UserError

IF = schedules.cosine(1000)


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
    made = schedules.linear_rescaled(300)
    assert [made.nearest(float(made.sigma[t] / made.alpha[t])) for t in (0, 77, 299)] == [0, 77, 299]
    assert (made.nearest(0), made.nearest(1e9)) == (0, 299)
    assert schedules.flow(100).nearest(1e9) == 98  # at the last level there is nothing beside the noise


@pytest.mark.parametrize("levels", [1, 2, 10, 19, 20, 21])
def test_rescaled_betas_of_few_levels_give_finite_coefficients_that_fall(levels):
    made = schedules.linear_rescaled(levels)
    assert made.preserves_variance and made.alpha.isfinite().all() and made.terminal_alpha > 0
    assert (made.alpha.diff() < 0).all()


@pytest.mark.parametrize("made", [schedules.linear(10), schedules.flow(10, continuous=True)])
def test_clean_among_many_levels_is_clean(made):
    alpha, sigma = made.of(torch.tensor([[schedules.CLEAN, 0], [9, schedules.CLEAN]]))
    wanted = [[made.at(-1), made.at(0)], [made.at(9), made.at(-1)]]
    assert torch.stack([alpha, sigma], -1).tolist() == [[list(pair) for pair in row] for row in wanted]


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
    step = lambda x, x0, variance_fraction, z: float(
        DDPM("learned")(Update(IF, x, x0, t, s, z, variance_fraction))
    )
    assert IF.alpha_bar(t) / IF.alpha_bar(s) == pytest.approx(alpha, rel=1e-5)
    assert step(zero, one, zero, zero) == pytest.approx(c_x0, rel=1e-5)
    assert step(one, zero, zero, zero) == pytest.approx(c_xt, rel=1e-5)
    assert step(zero, zero, zero, one) == pytest.approx(low, rel=1e-5)
    assert step(zero, zero, one, one) == pytest.approx(high, rel=1e-5)


def test_leaks():
    assert schedules.linear(300).terminal_alpha == pytest.approx(math.sqrt(0.048), abs=2e-3)
    assert schedules.linear_rescaled(300).terminal_alpha < 0.01
    assert schedules.zero_terminal_snr(schedules.linear(300)).terminal_alpha == 0


@pytest.mark.parametrize("kind", schedules.KINDS)
@pytest.mark.parametrize(
    "made",
    [
        schedules.linear(),
        schedules.linear_rescaled(),
        schedules.cosine(),
        schedules.flow(),
        schedules.flow(continuous=True),
    ],
)
def test_what_a_perfect_network_answers_means_its_picture(kind, made):
    x0, noise, t = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4), 120
    alpha, sigma = made.at(t)
    native = schedules.prediction_target(x0, noise, torch.tensor(alpha), torch.tensor(sigma), kind)
    assert torch.allclose(made.denoised(made.noised(x0, t, noise), t, native, kind), x0, atol=1e-5)


def test_at_zero_terminal_signal_v_still_means_a_picture():
    made, x0, noise = (
        schedules.zero_terminal_snr(schedules.linear(300)),
        torch.randn(1, 1, 4, 4),
        torch.randn(1, 1, 4, 4),
    )
    v = schedules.prediction_target(x0, noise, torch.tensor(0.0), torch.tensor(1.0), "v")
    assert torch.allclose(made.denoised(noise, 299, v, "v"), x0)


def test_grids():
    course = timesteps.strided(1000)
    assert course == tuple(range(990, -1, -30)) and len(course) == 34
    assert timesteps.strided(300)[:3] == (297, 288, 279) and timesteps.strided(300)[-1] == 0
    assert [course[i] for i in (0, 1, 3, 5, 7, 10, 20, 30)] == [990, 960, 900, 840, 780, 690, 390, 90]
    assert timesteps.strided_clean(1000) == (*course, schedules.CLEAN)
    assert timesteps.all_levels(300) == (*range(299, -1, -1), schedules.CLEAN)


@pytest.mark.parametrize("levels", [100, 300, 1000])
def test_the_longest_strided_grid_visits_no_level_twice_and_a_longer_one_is_refused(levels):
    longest = timesteps.strided(levels, round(0.99 * levels))
    assert longest == tuple(range(round(0.99 * levels), -1, -1))
    with pytest.raises(UserError, match="sampler=ddpm"):
        timesteps.strided(levels, len(longest))


def test_repaint_walks_a_small_grid_as_by_hand():
    """Six updates 5 … 0 with j = 2 and r = 2: up again once at 2 and at 0, which are the multiples of 2 below 6 − 2."""
    down = timesteps.strided(1000, 6)
    walk = [down.index(t) for t in timesteps.repaint(1000, 6, jump=2, times=2)]
    assert walk == [0, 1, 2, 3, 2, 1, 2, 3, 4, 5, 4, 3, 4, 5, 6]
    assert timesteps.repaint(1000, 6, jump=2, times=1) == timesteps.repaint(1000, 6, jump=6, times=2) == down
    assert timesteps.repaint(1000, 6, jump=5, times=2) == (*down[:6], *down[4::-1], *down[1:])


def test_repaint_is_the_published_schedule():
    """T = 250, j = 10, r = 10 (Lugmayr et al. 2022): 24 places of 9 ways up and down of 10 levels each, beside the 250 updates down."""
    walk = timesteps.repaint(1000, 250, jump=10, times=10)
    down = timesteps.strided(1000, 250)
    counted = [249 - down.index(t) for t in walk]  # as the paper counts: 249 is the first level, −1 the end
    assert (
        len(walk) - 1 == 250 + 24 * 9 * 20 == 4570
        and timesteps.count_updates(walk) == 250 + 24 * 9 * 10 == 2410
    )
    turns = [
        t for before, t, after in zip(counted, counted[1:], counted[2:], strict=False) if before > t < after
    ]
    assert turns == [t for t in range(230, -1, -10) for _ in range(9)]
    tops = [
        t for before, t, after in zip(counted, counted[1:], counted[2:], strict=False) if before < t > after
    ]
    assert tops == [t + 10 for t in turns]
    assert {abs(t - s) for t, s in pairwise(counted)} == {1} and (counted[0], counted[-1]) == (249, -1)


@pytest.mark.parametrize("wrong", [{"jump": 0}, {"times": 0}, {"jump": -1}])
def test_a_walk_that_cannot_be_is_refused(wrong):
    with pytest.raises(UserError, match="cannot go up again"):
        timesteps.repaint(1000, **wrong)


def test_where_a_grid_goes_up_and_what_it_comes_down_to():
    walk = timesteps.repaint(1000, 6, jump=2, times=2)
    assert timesteps.descent(walk) == timesteps.strided(1000, 6) and timesteps.descent(
        timesteps.all_levels(300)
    ) == timesteps.all_levels(300)
    assert (
        timesteps.find_rises(walk) == [(timesteps.strided(1000, 6)[3], 2), (timesteps.strided(1000, 6)[5], 2)]
        and timesteps.find_rises(timesteps.ays(1000)) == []
    )


@pytest.mark.parametrize("steps", [1, 7, 33, 50, 300, 1500])
def test_equal_steps_of_a_flow_are_at_its_published_times(steps):
    made = schedules.flow(1000, continuous=True)
    grid = timesteps.trailing(1000, steps)
    assert len(grid) == steps + 1 and made.at(grid[0]) == (0, 1) and grid[-1] == schedules.CLEAN
    for i, t in enumerate(grid):
        assert made.time(t) == pytest.approx(i / steps, abs=1e-15)
        assert made.at(t) == pytest.approx((i / steps, 1 - i / steps), abs=1e-15)


@pytest.mark.parametrize(
    ("levels", "steps"), [(1000, 33), (1000, 7), (300, 300), (1000, 400), (300, 33), (1000, 1)]
)
def test_equal_steps_are_those_of_diffusers_where_levels_are_integers(levels, steps):
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(levels, timestep_spacing="trailing")
    theirs.set_timesteps(steps)
    assert timesteps.rounded(timesteps.trailing(levels, steps), levels) == (
        *theirs.timesteps.tolist(),
        schedules.CLEAN,
    )
    assert Sampler(partial(timesteps.trailing, steps=steps)).timesteps(schedules.linear_rescaled(levels))[
        :-1
    ] == tuple(theirs.timesteps.tolist())


def test_too_many_steps_for_levels_that_are_integers_are_refused():
    many = Sampler(partial(timesteps.trailing, steps=1500))
    assert len(many.timesteps(schedules.flow(1000, continuous=True))) == 1501
    with pytest.raises(UserError, match="from 1 to 1000"):
        many.timesteps(schedules.flow(1000))
    with pytest.raises(UserError, match="from 1"):
        timesteps.trailing(1000, 0)


def test_a_flow_is_straight_between_its_levels():
    for straight in (schedules.flow(1000, continuous=True), schedules.flow(1000)):
        assert straight.at(499.25) == pytest.approx((1 - 0.50025, 0.50025), abs=1e-15)
        assert all(straight.at(t) == schedules.flow(1000).at(t) for t in (0, 333, 999, schedules.CLEAN))
        alpha, sigma = straight.rows(torch.tensor([499.25, 999.0], dtype=torch.float64))
        assert torch.allclose(alpha.flatten(), torch.tensor([0.49975, 0]))
        assert torch.allclose(sigma.flatten(), torch.tensor([0.50025, 1]))
        for t in (999.5, -1.5):
            with pytest.raises(ValueError, match="outside this schedule"):
                straight.at(t)


MADE = {
    "linear": schedules.linear(300),
    "cosine": IF,
    "zero terminal": schedules.zero_terminal_snr(schedules.linear(300)),
    "flow": schedules.flow(1000),
    "continuous": schedules.flow(1000, continuous=True),
    "exploding": schedules.variance_exploding(100, 3.0),
    "edm": schedules.edm(50),
    "noise alone": schedules.single_noise_level(),
    "other": schedules.Schedule(*torch.tensor([[0.9, 0.5, 0.1], [0.2, 1.0, 3.0]], dtype=torch.float64)),
}


@pytest.mark.parametrize("name", MADE)
def test_integer_levels_are_those_of_the_table_bit_for_bit(name):
    made = MADE[name]
    levels = torch.arange(len(made))
    for t in (levels, levels.double()):
        alpha, sigma = made.of(t)
        if name != "continuous":
            assert torch.equal(alpha, made.alpha) and torch.equal(sigma, made.sigma)
        assert [made.at(float(t)) for t in levels] == list(zip(alpha.tolist(), sigma.tolist(), strict=True))


@pytest.mark.parametrize("name", MADE)
def test_between_levels_the_noise_rises_without_a_jump(name):
    made = MADE[name]
    t = torch.linspace(schedules.CLEAN, len(made) - 1, 5001, dtype=torch.float64)
    alpha, sigma = made.of(t)
    angle = torch.atan2(sigma, alpha)
    assert (angle.diff() > 0).all() and angle.diff().max() < 0.05 * max(1, 100 / len(made))
    assert (angle[0], alpha[0]) == (0, 1)
    near = made.of(torch.tensor([5 - 1e-9, 5 + 1e-9]).double()) if len(made) > 5 else None
    if near:
        assert torch.allclose(torch.stack(near), torch.tensor(made.at(5)).double()[:, None], atol=1e-7)


@pytest.mark.parametrize("name", MADE)
def test_between_levels_a_schedule_keeps_what_its_levels_have(name):
    made = MADE[name]
    t = torch.linspace(schedules.CLEAN, len(made) - 1, 999, dtype=torch.float64)
    alpha, sigma = made.of(t)
    if made.preserves_variance and not made.is_straight:  # a single level of noise is both
        assert torch.allclose(alpha**2 + sigma**2, torch.ones_like(t), atol=1e-12)
    if made.is_straight:
        assert torch.allclose(alpha + sigma, torch.ones_like(t), atol=1e-12)
    if made.explodes:
        assert torch.equal(alpha, torch.ones_like(t))
    assert (name in ("exploding", "edm")) == made.explodes
    assert (name in ("flow", "continuous", "noise alone")) == made.is_straight


def test_between_levels_the_log_snr_is_linear_and_so_is_the_norm():
    for made in (IF, schedules.edm(50), MADE["other"]):
        for k, weight in ((0, 0.25), (1, 0.5)):
            expected = (1 - weight) * made.log_snr(k) + weight * made.log_snr(k + 1)
            assert made.log_snr(k + weight) == pytest.approx(expected, abs=1e-12)
    alpha, sigma = MADE["other"].at(0.5)
    assert math.hypot(alpha, sigma) == pytest.approx((math.hypot(0.9, 0.2) + math.hypot(0.5, 1)) / 2)


@pytest.mark.parametrize("name", MADE)
def test_a_level_is_found_from_its_noise(name):
    made = MADE[name]
    for t in torch.linspace(schedules.CLEAN, len(made) - 1, 777, dtype=torch.float64).tolist():
        if made.ratio(t) < 1e6:  # beyond, the ratio itself holds fewer digits
            assert made.level_at(made.ratio(t)) == pytest.approx(t, abs=1e-9)
            if t > schedules.CLEAN:
                assert made.level_at(math.exp(-made.log_snr(t))) == pytest.approx(t, abs=1e-8)
    assert made.level_at(math.inf) == len(made) - 1 and made.level_at(0) == schedules.CLEAN
    assert made.log_snr(schedules.CLEAN) == math.inf and made.ratio(schedules.CLEAN) == 0
    if not made.terminal_alpha:
        assert made.ratio(len(made) - 1) == math.inf and made.log_snr(len(made) - 1) == -math.inf


def test_edms_levels_are_those_of_the_paper():
    made = schedules.edm(18)
    assert made.explodes and made.at(17) == pytest.approx((1, 80)) and made.at(0) == pytest.approx((1, 0.002))
    eight = (80 ** (1 / 7) + 9 / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7  # eq. 5 with i = 9
    assert made.at(8)[1] == pytest.approx(eight)


def scaled_linear():
    """The schedule of Stable Diffusion, and Euler's scheduler for it with the same numbers in float64."""
    from diffusers import EulerDiscreteScheduler

    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    theirs = EulerDiscreteScheduler(1000, trained_betas=betas.numpy())
    theirs.alphas_cumprod = (1 - betas).cumprod(0)
    return schedules.from_betas(betas), theirs


@pytest.mark.parametrize("steps", [1, 2, 10, 33])
@pytest.mark.parametrize("name", ["karras", "exponential"])
def test_karras_and_exponential_spacings_are_those_of_diffusers(name, steps):
    import numpy as np

    made, theirs = scaled_linear()
    ratios = (made.sigma / made.alpha).flip(0).numpy()
    convert = theirs._convert_to_karras if name == "karras" else theirs._convert_to_exponential
    sigmas = convert(ratios, steps)
    levels = [float(theirs._sigma_to_t(sigma, np.log(ratios[::-1]))) for sigma in sigmas]
    grid = getattr(timesteps, name)(made, steps)
    assert len(grid) == steps + 1 and grid[-1] == schedules.CLEAN
    assert grid[:-1] == pytest.approx(levels, abs=1e-8)
    assert [made.ratio(t) for t in grid[:-1]] == pytest.approx(list(sigmas), abs=1e-8)
    if steps == 1:
        return  # the whole of theirs walks from level 0 then
    theirs.register_to_config(**{f"use_{name}_sigmas": True})
    theirs.set_timesteps(steps)
    assert grid[:-1] == pytest.approx(theirs.timesteps.tolist(), abs=1e-3)  # theirs in float32


def test_a_range_of_noise_can_be_given_and_an_empty_one_is_refused():
    grid = timesteps.karras(IF, 5)
    assert IF.ratio(grid[0]) == pytest.approx(80) and IF.ratio(grid[-2]) == pytest.approx(IF.ratio(0))
    for spacing in (timesteps.karras, timesteps.exponential):
        grid = spacing(schedules.flow(1000), 5, least=0.1, most=10)
        assert (grid[0], grid[4]) == pytest.approx((1000 * 10 / 11 - 1, 1000 / 11 - 1))
        for wrong in ({"least": 100}, {"most": 0}, {"steps": 0}):
            with pytest.raises(UserError, match=r"least|from 1"):
                spacing(IF, **wrong)


@pytest.mark.parametrize("shift", [1.0, 3.0, 0.5])
@pytest.mark.parametrize("steps", [1, 4, 28])
def test_shifted_steps_are_those_of_diffusers(shift, steps):
    from diffusers import FlowMatchEulerDiscreteScheduler

    theirs = FlowMatchEulerDiscreteScheduler(1000, shift=shift)
    theirs.set_timesteps(sigmas=[1 - i / steps for i in range(steps)])  # as Flux's pipeline
    grid = timesteps.shifted(schedules.flow(1000, shift=shift), steps)
    assert grid == timesteps.shifted(1000, steps, shift) and grid[-1] == schedules.CLEAN
    assert [t + 1 for t in grid[:-1]] == pytest.approx(theirs.timesteps.tolist(), abs=1e-3)  # float32
    exact = [shift * v / (1 + (shift - 1) * v) for v in (1 - i / steps for i in range(steps))]
    assert [schedules.flow(1000).at(t)[1] for t in grid[:-1]] == pytest.approx(exact, abs=1e-12)
    theirs.set_timesteps(steps)  # as Stable Diffusion 3's
    grid = timesteps.shifted(1000, steps, shift, least=shift / (1000 + shift - 1))
    assert [t + 1 for t in grid[:-1]] == pytest.approx(theirs.timesteps.tolist(), abs=1e-3)


@pytest.mark.parametrize("tokens", [256, 1024, 4096])
def test_the_shift_of_a_resolution_is_that_of_diffusers(tokens):
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    mu = calculate_shift(tokens)
    assert math.log(timesteps.resolution_shift(tokens)) == pytest.approx(mu, abs=1e-8)
    theirs = FlowMatchEulerDiscreteScheduler(1000, use_dynamic_shifting=True)
    theirs.set_timesteps(sigmas=[1 - i / 10 for i in range(10)], mu=mu)
    grid = timesteps.shifted(1000, 10, timesteps.resolution_shift(tokens))
    exact = [1000 * theirs.time_shift(mu, 1.0, 1 - i / 10) for i in range(10)]
    assert [t + 1 for t in grid[:-1]] == pytest.approx(exact, abs=1e-8)
    assert [t + 1 for t in grid[:-1]] == pytest.approx(theirs.timesteps.tolist(), abs=1e-3)  # float32


@pytest.mark.parametrize("wrong", [{"shift": -1}, {"first": 1.5}, {"least": 2}, {"steps": 0}, {"least": 0}])
def test_a_shift_that_cannot_be_is_refused(wrong):
    with pytest.raises(UserError, match="does not fit"):
        timesteps.shifted(1000, **wrong)


@pytest.mark.parametrize(("steps", "offset"), [(33, 1), (50, 0), (50, 1), (7, 1), (1, 1)])
def test_leading_steps_are_those_of_diffusers(steps, offset):
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(1000, timestep_spacing="leading", steps_offset=offset)
    theirs.set_timesteps(steps)
    assert timesteps.leading(1000, steps, offset) == (*theirs.timesteps.tolist(), schedules.CLEAN)
    assert timesteps.leading(IF, steps, offset) == timesteps.leading(1000, steps, offset)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"steps": 1001}, {"steps": 1000}, {"offset": -1}])
def test_leading_steps_that_leave_the_schedule_are_refused(wrong):
    with pytest.raises(UserError, match="does not fit"):
        timesteps.leading(1000, **wrong)


def test_the_lists_of_align_your_steps_are_those_of_diffusers():
    from diffusers.schedulers import AysSchedules

    for name, listed in (("stable_diffusion", "StableDiffusion"), ("sdxl", "StableDiffusionXL")):
        assert timesteps.ays(1000, name) == (*AysSchedules[f"{listed}Timesteps"], schedules.CLEAN)
        made, _ = scaled_linear()
        sigmas = AysSchedules[f"{listed}Sigmas"][:-1]
        assert [made.ratio(t) for t in timesteps.ays(made, name)[:-1]] == pytest.approx(sigmas, rel=0.02)
    with pytest.raises(UserError, match="deepfloyd, stable_diffusion, sdxl"):
        timesteps.ays(1000, "flux")


@pytest.mark.parametrize("name", timesteps.AYS_LEVELS)
def test_align_your_steps_in_another_number_of_steps(name):
    made, _ = scaled_linear()
    listed = timesteps.ays(made, name)
    assert timesteps.ays(made, name, steps=10) == pytest.approx(listed, abs=1e-9)
    finer = timesteps.ays(made, name, steps=20)
    assert finer[::2] == pytest.approx(listed, abs=1e-9) and len(finer) == 21
    assert made.log_snr(finer[1]) == pytest.approx((made.log_snr(finer[0]) + made.log_snr(finer[2])) / 2)
    with pytest.raises(TypeError, match="need a schedule"):
        timesteps.ays(1000, name, steps=20)


def test_grids_take_a_schedule_for_its_number_of_levels():
    made = schedules.linear_rescaled(300)
    for grid in (
        timesteps.strided,
        timesteps.strided_clean,
        timesteps.all_levels,
        timesteps.repaint,
        timesteps.ays,
    ):
        assert grid(made) == grid(300) and all(type(t) is int for t in grid(made))
    assert timesteps.count_levels(made) == timesteps.count_levels(300) == 300


def test_a_network_is_told_the_time_as_it_was_trained():
    assert (schedules.flow(300).time(299), schedules.flow(300).time(0)) == (
        1,
        1 / 300,
    )  # from the picture to noise
    assert (
        schedules.flow(300, continuous=True).time(299),
        schedules.flow(300, continuous=True).time(schedules.CLEAN),
    ) == (0, 1)


STRENGTHS = {
    "strided": timesteps.strided(1000),
    "strided_clean": timesteps.strided_clean(1000),
    "ays": timesteps.ays(1000),
    "full": timesteps.all_levels(300),
    "full of 1000": timesteps.all_levels(1000),
    "trailing": timesteps.trailing(1000),
    "trailing of 50": timesteps.trailing(1000, 50),
    "repaint": timesteps.descent(timesteps.repaint(1000)),
    "one step": timesteps.strided(1000, 1),
    "few": timesteps.strided_clean(300, 3),
    "99 steps": timesteps.strided(1000, 99),
    "100 steps": timesteps.trailing(1000, 100),
    "990 steps": timesteps.strided(1000, 990),
    "karras": timesteps.karras(IF),
    "exponential": timesteps.exponential(IF, 8),
    "shifted": timesteps.shifted(1000, 28, 3.0),
    "leading": timesteps.leading(1000, 50),
}


@pytest.mark.parametrize("name", STRENGTHS)
def test_diffusers_starts_where_i_start_does_when_it_is_given_the_strength(name):
    """img2img of diffusers with N timesteps begins at index N − min(int(N · strength), N)."""
    grid = STRENGTHS[name]
    updates = len(grid) - 1
    found = [timesteps.strength(i, grid) for i in range(updates + 1)]
    assert [updates - min(int(updates * strength), updates) for strength in found] == list(range(updates + 1))
    assert all(0 <= strength <= 1 for strength in found) and found == sorted(found, reverse=True)
    assert all(float(f"{strength:g}") == strength for strength in found)  # as the header says it
    if grid[-1] != schedules.CLEAN:  # the list as diffusers would take it: asked at its last level too
        many = len(grid)
        assert [many - min(int(many * strength), many) for strength in found[:-1]] == list(range(updates))


def test_strengths_are_said_as_short_as_they_can_be():
    grid = timesteps.strided_clean(1000)
    assert [timesteps.strength(i, grid) for i in (0, 1, 3, 10, 20, 34)] == [1.0, 0.98, 0.92, 0.71, 0.42, 0.0]
    assert timesteps.strength(43, timesteps.trailing(1000, 100)) == 0.571  # int(100 * 0.57) is 56


def test_impossible_grids_and_levels_are_refused():
    with pytest.raises(UserError, match="from 1 to 297"):
        timesteps.strided(300, 300)
    with pytest.raises(ValueError, match="outside this schedule"):
        IF.at(1000)
