"""The loop: exact denoisers land where they must, noise belongs to its picture, pins hold what they say."""

import time
from itertools import pairwise

import pytest
import torch

from expkit.core import timesteps
from expkit.core.denoiser import ChunkedRows, Counting
from expkit.core.estimate import conditional, guidance_interval, guided
from expkit.core.maps import Mask
from expkit.core.pin import Pin
from expkit.core.rng import stream
from expkit.core.sampler import Seed, count_rows, keyed_noise, sample, seeded
from expkit.core.schedules import CLEAN, Schedule, flow, linear_rescaled, variance_exploding
from expkit.core.solvers import DDIM, DDPM, PLMS, DPMpp, EulerAncestral, Heun, UniPC
from expkit.core.thresholding import ClipSample, DynamicThreshold
from expkit.models.analytic import Ideal, Mixture
from tests.conftest import Toy

GRID = timesteps.strided(100)
RULES = [
    DDPM("small"), DDPM("large"), DDIM(), DDIM(1.0), DPMpp(), DPMpp(order=3), DPMpp(stochastic=True),
    EulerAncestral(), Heun(), UniPC(), UniPC(3),
]  # fmt: skip


def mixture(schedule: Schedule) -> Mixture:
    means = torch.tensor([[-1.0, 0.5], [1.0, -0.25]]).view(2, 1, 1, 2)
    return Mixture(torch.tensor([0.3, 0.7]), means, torch.tensor([0.2, 0.4]), schedule)


def last(*args, **kwargs) -> torch.Tensor:
    *_, step = sample(*args, **kwargs)
    return step.x


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_the_ideal_denoiser_lands_on_its_data(rule):
    data = torch.rand(12, 1, 6, 6, generator=torch.Generator().manual_seed(0)).round()
    net = Ideal(data, torch.arange(12) % 10, linear_rescaled(100))
    ends = last(
        net, guided([str(k % 10) for k in range(20)], 1), timesteps.strided_clean(100), seeded(5, 20), rule
    )
    distance = torch.cdist(ends.flatten(1), 2 * data.flatten(1) - 1)
    assert distance.min(1).values.max() < 1e-2
    assert (net.labels[distance.argmin(1)] == torch.arange(20) % 10).all()


@pytest.mark.parametrize("rule", [DDPM("small"), DDPM("large"), DDIM()], ids=repr)
def test_a_sampler_reproduces_the_mean_and_covariance_of_a_mixture(rule):
    net, count = mixture(linear_rescaled(1000)), 1500
    ends = (
        last(net, conditional(""), (*timesteps.all_levels(1000)[:-1:12], CLEAN), seeded(1, count), rule)
        .double()
        .flatten(1)
    )
    mean = net.proportions @ net.means
    within = (net.proportions * net.deviations**2).sum() * torch.eye(2)
    covariance = within + (net.proportions[:, None] * net.means).T @ net.means - mean[:, None] * mean
    assert torch.allclose(ends.mean(0), mean, atol=4 * (covariance.diag().max() / count) ** 0.5)
    assert torch.allclose(torch.cov(ends.T), covariance, atol=0.09)
    assert net.weights == ""  # the hash of its weights file, of which it has none


def test_one_forward_a_step_and_the_rows_that_were_planned(toy):
    pin = Pin(torch.zeros(1, 1, 8, 8), until=tuple(GRID[i] for i in (1, 3, 5, 7, 10, 20)))
    for held, count in ((None, 3), (pin, 6)):
        net = Counting(toy)
        list(sample(net, guided("a", 7), GRID, [Seed(0, 0)] * count, pin=held))
        assert net.rows == count_rows(guided("a", 7), toy.schedule, GRID, count, held)
        assert len(net.rows) == (33 if held is None else 32)


def test_an_i_start_strip_costs_the_evaluations_of_its_separate_runs(toy):
    pin = Pin(torch.zeros(1, 1, 8, 8), until=tuple(GRID[i] for i in (1, 3, 5, 7, 10, 20)))
    assert sum(count_rows(guided("a", 1), toy.schedule, GRID, 6, pin)) == 152


def test_picture_k_is_the_same_alone_and_in_a_batch(toy):
    batch, alone = last(toy, guided("a"), GRID, seeded(7, 5)), last(toy, guided("a"), GRID, [Seed(7, 3)])
    assert torch.equal(
        keyed_noise(seeded(7, 5), "step", 4, (1, 8, 8))[3], keyed_noise([Seed(7, 3)], "step", 4, (1, 8, 8))[0]
    )
    assert torch.allclose(batch[3], alone[0], atol=1e-5)


def test_streams_differ_by_everything_they_are_named_by():
    drawn = [
        torch.randn(4, generator=stream(*key))
        for key in (
            (0, 0, "step", 1),
            (0, 1, "step", 1),
            (1, 0, "step", 1),
            (0, 0, "pin", 1),
            (0, 0, "step", 2),
        )
    ]
    assert len({tuple(d.tolist()) for d in drawn}) == 5
    assert torch.equal(drawn[0], torch.randn(4, generator=stream(0, 0, "step", 1)))


def test_a_pin_until_above_the_first_level_is_no_pin_bit_for_bit(toy):
    pin = Pin(torch.ones(1, 1, 8, 8), until=GRID[0] + 1)
    assert torch.equal(
        last(toy, guided("a"), GRID, seeded(0, 2), pin=pin), last(toy, guided("a"), GRID, seeded(0, 2))
    )


@pytest.mark.parametrize("start", [1, 10, 32])
def test_a_row_pinned_until_a_level_is_the_run_that_starts_there(start, toy):
    image, seeds = torch.rand(1, 1, 8, 8), seeded(3, 2)
    pinned = last(toy, guided("a"), GRID, seeds, pin=Pin(image, until=GRID[start]))
    noised = toy.schedule.noised(image, GRID[start], keyed_noise(seeds, "pin", start, toy.shape))
    assert torch.equal(pinned, last(toy, guided("a"), GRID, seeds, begin=start, x=noised))


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_rows_of_a_strip_are_their_separate_runs(rule, toy):
    image, starts = torch.rand(1, 1, 8, 8), (1, 10, 33)
    strip = last(
        toy, guided("a"), GRID, [Seed(3, 0)] * 3, rule, Pin(image, until=tuple(GRID[i] for i in starts))
    )
    for row, start in enumerate(starts):
        noised = toy.schedule.noised(image, GRID[start], keyed_noise([Seed(3, 0)], "pin", start, toy.shape))
        alone = (
            last(toy, guided("a"), GRID, [Seed(3, 0)], rule, begin=start, x=noised) if start < 33 else noised
        )
        assert torch.allclose(strip[row], alone[0], atol=1e-5)


def test_starting_at_the_end_is_the_picture_with_the_noise_of_the_last_level(toy):
    image = torch.rand(1, 1, 8, 8)
    end = last(toy, guided("a"), GRID, seeded(0, 1), pin=Pin(image, until=GRID[-1]))
    assert torch.equal(end, toy.schedule.noised(image, 0, keyed_noise(seeded(0, 1), "pin", 33, toy.shape)))


def test_inpainting_keeps_what_is_kept_exactly_and_changes_the_rest(toy):
    image, kept = torch.rand(1, 1, 8, 8), (torch.arange(64).view(8, 8) < 32).float()
    end = last(toy, guided("a"), GRID, seeded(0, 2), pin=Pin(image, Mask(kept), at_first=False))
    assert torch.equal(end[:, :, :4], image[:, :, :4].expand(2, -1, -1, -1))
    assert (end[:, :, 4:] - image[:, :, 4:]).abs().min() > 0


def test_a_strength_for_each_pixel(toy):
    image = torch.rand(1, 1, 8, 8)
    until = torch.full((8, 8), GRID[0] + 1)
    until[:4] = CLEAN
    soft = last(toy, guided("a"), GRID, seeded(0, 1), pin=Pin(image, until=until))
    hard = last(toy, guided("a"), GRID, seeded(0, 1), pin=Pin(image, Mask((until == CLEAN).float())))
    assert torch.equal(soft, hard)


def test_going_up_again_asks_nothing_and_draws_noise_of_its_own(toy):
    net, walk = Counting(toy), timesteps.repaint(100, jump=3, times=2)
    end = last(net, guided("a"), walk, seeded(0, 1))
    ups = sum(s > t for t, s in pairwise(walk))
    assert (
        len(net.rows) == len(walk) - 1 - ups == sum(1 for _ in count_rows(guided("a"), toy.schedule, walk, 1))
    )
    assert end.isfinite().all()


@pytest.mark.parametrize("pinned", [False, True])
def test_a_step_takes_time_in_proportion_to_pictures(pinned):
    """Eight times as many pictures take about eight times as long, and 64 times as long if anything looks at them in pairs."""

    def fastest(count: int) -> float:
        until = tuple(GRID[1] if row % 2 else CLEAN for row in range(count))  # every other one is never asked
        pin = Pin(torch.zeros(1, 1, 1, 1), until=until) if pinned else None
        steps, taken = sample(Toy((1, 1, 1)), guided("a"), GRID, seeded(0, count), pin=pin), []
        for _ in range(4):
            began = time.perf_counter()
            next(steps)
            taken.append(time.perf_counter() - began)
        return min(taken[1:])

    assert fastest(16_000) < 24 * fastest(2_000)


def test_splitting_a_forward_changes_nothing(toy):
    whole = last(toy, guided("a"), GRID, seeded(0, 3))
    assert torch.allclose(last(ChunkedRows(toy, 4), guided("a"), GRID, seeded(0, 3)), whole, atol=1e-6)
    assert max(Toy().rows or [0]) <= max(toy.rows) and 4 in toy.rows


@pytest.mark.parametrize("clip", [ClipSample(), DynamicThreshold()], ids=repr)
def test_clipping_bounds_each_estimate_of_the_picture(clip, toy):
    steps = list(sample(toy, guided("a", 20), GRID, seeded(0, 2), clip=clip))
    assert max(step.x0.abs().max() for step in steps) <= 1
    assert max(step.x0.abs().max() for step in sample(toy, guided("a", 20), GRID, seeded(0, 2))) > 2


def test_rows_to_come_are_counted_at_every_level_of_a_guidance_interval(toy):
    wish = guided("a", guidance_interval(0.8, 0.2, [7, 1]))
    net = Counting(toy)
    list(sample(net, wish, GRID, seeded(0, 2)))
    assert net.rows == count_rows(wish, toy.schedule, GRID, 2) and set(net.rows) == {2, 3}


def test_noise_is_drawn_as_it_always_was():
    drawn = keyed_noise([Seed(180, 0), Seed(7, 3)], "step", 4, (1, 2, 2)).flatten()
    expected = [
        torch.randn(1, 2, 2, generator=stream(*key)) for key in ((180, 0, "step", 4), (7, 3, "step", 4))
    ]
    assert torch.equal(drawn, torch.cat(expected).flatten())
    golden = [2.0159447, 0.2130212, -0.4772606, 0.1718920, -1.3093569, 0.5373999, -1.3945088, 2.6009865]
    assert torch.allclose(drawn, torch.tensor(golden), atol=1e-6)


def test_the_loop_mutates_none_of_its_arguments(toy):
    image, x = torch.rand(1, 1, 8, 8), torch.randn(1, 1, 8, 8)
    before = image.clone(), x.clone()
    list(sample(toy, guided("a"), GRID, seeded(0, 1), pin=Pin(image, until=50), begin=2, x=x))
    assert torch.equal(image, before[0]) and torch.equal(x, before[1])


class Recorded(Toy):
    """Keeps what it was given: (state, level) of each call."""

    def predict(self, x, t, prompts):
        self.given = [*getattr(self, "given", []), (x, t)]
        return super().predict(x, t, prompts)


@pytest.mark.parametrize("grid", [GRID, timesteps.strided_clean(100)])
def test_a_solver_that_asks_twice_is_planned_so_at_the_levels_of_its_calls(grid, toy):
    wish = guided("a", guidance_interval(0.8, 0.2, [7, 1]))
    net = Counting(toy)
    list(sample(net, wish, grid, seeded(0, 2), Heun()))
    assert net.rows == count_rows(wish, toy.schedule, grid, 2, rule=Heun())
    assert len(net.rows) == 2 * 33 + (grid[-1] == CLEAN) and set(net.rows) == {2, 3}


@pytest.mark.parametrize("begin", [(0, 0), (3, 3), (0, 3)])
def test_a_solver_that_asks_twice_in_its_first_step_is_planned_so_for_rows_that_begin_later(begin, toy):
    until = tuple(GRID[index] for index in begin)
    pin = Pin(torch.rand(2, 1, 8, 8), until=until) if any(begin) else None
    net = Counting(toy)
    list(sample(net, guided("a", 7), GRID, seeded(0, 2), PLMS(), pin))
    assert net.rows == count_rows(guided("a", 7), toy.schedule, GRID, 2, pin, rule=PLMS())
    assert len(net.rows) == 33 - min(begin) + len({*begin})


def test_what_is_pinned_is_pinned_in_each_call_and_each_estimate_is_clipped():
    net, kept = Recorded(), (torch.arange(64).view(8, 8) < 32).float()
    pin = Pin(torch.rand(1, 1, 8, 8), Mask(kept))
    clipped = lambda x0, denoiser: x0.clamp(-0.1, 0.1)
    steps = list(sample(net, conditional("a"), GRID, seeded(0, 2), Heun(), pin, clipped))
    for (inner, t), (next_call, s) in list(zip(net.given[1:], net.given[2:], strict=False))[::2]:
        assert t == s and torch.equal(inner[:, :, :4], next_call[:, :, :4])  # at s, with the same noise
        assert not torch.equal(inner[:, :, 4:], next_call[:, :, 4:])
    scale_t, scale_s = (net.schedule.at(t)[0] for t in GRID[:2])
    (ratio_t, ratio_s), first = (net.schedule.ratio(t) for t in GRID[:2]), steps[0]
    x, x0 = first.x_t / scale_t, first.x0
    guess = x + (ratio_s - ratio_t) * (x - x0) / ratio_t
    inner = net.given[1][0]
    assert torch.allclose(inner[:, :, 4:], scale_s * guess[:, :, 4:], atol=1e-5)
    eps = net.predict(inner, GRID[1], ["a"] * 2).native
    asked = net.schedule.denoised(inner, GRID[1], eps, "eps").clamp(-0.1, 0.1)
    mean = ((x - x0) / ratio_t + (guess - asked) / ratio_s) / 2
    end = scale_s * (x + (ratio_s - ratio_t) * mean)
    assert torch.allclose(first.x[:, :, 4:], end[:, :, 4:], atol=1e-4)


def test_the_history_is_as_long_as_the_rule_asks_for_and_ends_where_the_walk_goes_up(toy):
    seen = []

    class Watching:
        history = 3

        def __call__(self, update):
            depth, step = 0, update.last
            while step is not None:
                depth, step = depth + 1, step.previous
            seen.append((update.done, update.left, depth))
            return update.x

    walk = (90, 80, 70, 60, 70, 50, 40, 30)
    steps = list(sample(toy, guided("a"), walk, seeded(0, 1), Watching()))
    assert seen == [(0, 5, 0), (1, 4, 1), (2, 3, 2), (3, 2, 0), (4, 1, 1), (5, 0, 2)]
    assert steps[2].previous.previous.t == 90 and steps[3].previous is None


def test_rows_with_a_shorter_history_are_given_the_history_that_they_have(toy):
    seen = []

    class Watching:
        history = 2

        def __call__(self, update):
            depth = 0 if update.last is None else 1 + (update.last.previous is not None)
            seen.append((update.t, len(update.x), depth))
            update.ask(update.x, update.t)
            return update.x

    pin = Pin(torch.zeros(1, 1, 8, 8), until=(90, 70))
    list(sample(toy, guided("a", 1), (90, 80, 70, 60, 50, 40), seeded(0, 2), Watching(), pin))
    assert seen == [
        (90, 1, 0), (80, 1, 1), (70, 1, 0), (70, 1, 2), (60, 1, 1), (60, 1, 2), (50, 2, 2),
    ]  # fmt: skip
    assert toy.rows == [1, 1, 1, 1, 2, 1, 1, 2, 1, 1, 2, 2]


def test_a_corrected_state_is_what_the_step_says_was_at_its_level(toy):
    steps = list(sample(toy, guided("a"), GRID, seeded(0, 2), UniPC()))
    assert not torch.equal(steps[0].x, steps[1].x_t)  # corrected with the estimate that was made at it
    plain = list(sample(toy, guided("a"), GRID, seeded(0, 2), DPMpp()))
    assert all(torch.equal(step.x, after.x_t) for step, after in pairwise(plain))


def test_sampling_begins_with_the_noise_that_the_schedule_has():
    x = lambda schedule, grid: (
        next(sample(Toy(schedule=schedule), guided("a"), grid, seeded(0, 1), DDIM())).x_t
    )
    noise = keyed_noise(seeded(0, 1), "start", 0, (1, 8, 8))
    assert torch.equal(x(variance_exploding(100, 80), (99, CLEAN)), 80 * noise)
    assert torch.equal(
        x(variance_exploding(100, 80), (49.5, CLEAN)), variance_exploding(100, 80).at(49.5)[1] * noise
    )
    assert torch.equal(x(flow(100), (98, CLEAN)), noise)
