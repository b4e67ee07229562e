"""Solvers of the field: each is diffusers' scheduler of its name along a whole run, and converges at its order.

diffusers computes some updates in float32 whatever it is given; here it computes them in float64.
"""

import math
from itertools import pairwise

import pytest
import torch

from expkit.core import sampler, schedules, timesteps
from expkit.core.denoiser import EDM, Denoiser, Prediction
from expkit.core.estimate import conditional
from expkit.core.sampler import Sampler, keyed_noise, sample, seeded
from expkit.core.schedules import CLEAN, Schedule
from expkit.core.solvers import (
    DDIM,
    DDPM,
    PLMS,
    Corrected,
    DPMpp,
    Euler,
    EulerAncestral,
    Heun,
    Step,
    UniPC,
    Update,
    history_of,
    levels_of,
    no_further_calls,
    unipc_weights,
)
from expkit.errors import UserError
from expkit.models.analytic import Mixture
from tests.conftest import Toy

IF, STRAIGHT = schedules.cosine(1000), schedules.flow(1000)
GRIDS = {
    "long": (*[IF.level_at(math.exp(x)) for x in torch.linspace(4, -4, 17, dtype=torch.float64)], CLEAN),
    "few": (994.5, 931.2, 640.7, 639.1, 300.4, 77.9, 5.5, CLEAN),
    "two": (700.3, 40.1, CLEAN),
    "one": (990.6, CLEAN),
}
SHAPE = (3, 4, 4)


class Double:
    """torch, whose float32 is float64."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


@pytest.fixture
def double(monkeypatch):
    """Makes a module of diffusers compute in float64, with the noise that is given."""
    import importlib

    drawn_by_us = sampler.keyed_noise
    monkeypatch.setattr(sampler, "keyed_noise", lambda *key: drawn_by_us(*key).double())

    def prepare(name: str, noises=()):
        module, drawn = importlib.import_module(f"diffusers.schedulers.{name}"), iter(noises)
        monkeypatch.setattr(module, "torch", Double())
        if hasattr(module, "randn_tensor"):
            monkeypatch.setattr(module, "randn_tensor", lambda *a, **k: next(drawn))
        return module

    return prepare


def run(rule, net, grid) -> list[Step]:
    """The steps of a run in float64."""
    return list(sample(net, conditional("a"), grid, seeded(0, 2), rule, x=start()))


def start() -> torch.Tensor:
    return keyed_noise(seeded(0, 2), "start", 0, SHAPE).double()


def noises(grid) -> list[torch.Tensor]:
    """The noises of a run."""
    return [keyed_noise(seeded(0, 2), "step", index, SHAPE).double() for index in range(len(grid) - 1)]


def answer(net, x, t) -> torch.Tensor:
    return net.predict(x, t, ["a"] * 2).native


def ratios(schedule, grid) -> torch.Tensor:
    return torch.tensor([schedule.ratio(t) for t in grid], dtype=torch.float64)


def assert_same(steps, states, tolerance=1e-8):
    assert len(steps) == len(states)
    for step, state in zip(steps, states, strict=True):
        assert torch.allclose(step.x, state, atol=tolerance, rtol=tolerance), (step.t, step.s)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_euler_ancestral_is_diffusers(grid, double):
    module = double("scheduling_euler_ancestral_discrete", noises(grid))
    theirs, net = module.EulerAncestralDiscreteScheduler(1000), Toy(SHAPE, schedule=IF)
    theirs.sigmas = ratios(IF, grid)
    theirs.timesteps, theirs.is_scale_input_called = torch.tensor(grid[:-1]), True
    x, states = start() / IF.at(grid[0])[0], []
    for t, s in pairwise(grid):
        eps = answer(net, IF.at(t)[0] * x, t)
        x = theirs.step(eps, torch.tensor(t), x).prev_sample
        states.append(IF.at(s)[0] * x)
    assert_same(run(EulerAncestral(), net, grid), states)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_euler_ancestral_is_ddim_with_its_noise_where_variance_is_preserved(eta):
    net = Toy(SHAPE, schedule=IF)
    grid = GRIDS["few"]
    assert_same(run(EulerAncestral(eta), net, grid), [s.x for s in run(DDIM(eta), net, grid)], 1e-10)
    if eta == 0:
        net = Toy(SHAPE, schedule=STRAIGHT)
        states = [step.x for step in run(Euler(), net, (900.5, 300, 20.5, CLEAN))]
        assert_same(run(EulerAncestral(0), net, (900.5, 300, 20.5, CLEAN)), states, 1e-10)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_heun_is_diffusers(grid, double):
    theirs, net = double("scheduling_heun_discrete").HeunDiscreteScheduler(1000), Toy(SHAPE, schedule=IF)
    sigmas = ratios(IF, grid)
    theirs.sigmas = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]])
    times = torch.tensor(grid[:-1], dtype=torch.float64)
    theirs.timesteps = torch.cat([times[:1], times[1:].repeat_interleave(2)])
    theirs.prev_derivative = theirs.dt = None
    x, states = start() / IF.at(grid[0])[0], []
    for index, t in enumerate(theirs.timesteps.tolist()):
        x = theirs.step(answer(net, IF.at(t)[0] * x, t), theirs.timesteps[index], x).prev_sample
        if index % 2 or index == len(theirs.timesteps) - 1:
            states.append(IF.at(grid[len(states) + 1])[0] * x)
    assert_same(run(Heun(), net, grid), states)
    assert len(net.rows) == 2 * (2 * len(grid) - 3)  # as many calls, theirs and ours


@pytest.mark.parametrize("steps", [1, 2, 9])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_heun_along_a_flow_is_diffusers(steps, shift, double):
    module = double("scheduling_flow_match_heun_discrete")
    theirs = module.FlowMatchHeunDiscreteScheduler(1000)
    net = Toy(SHAPE, schedule=STRAIGHT)
    net.prediction_type = "flow"
    grid = timesteps.shifted(1000, steps, shift)
    sigmas = torch.tensor([STRAIGHT.at(t)[1] for t in grid], dtype=torch.float64)
    theirs.sigmas = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]])
    times = torch.tensor(grid[:-1], dtype=torch.float64)
    theirs.timesteps = torch.cat([times[:1], times[1:].repeat_interleave(2)])
    theirs.prev_derivative = theirs.dt = None
    x, states = start(), []
    for index, t in enumerate(theirs.timesteps.tolist()):
        x = theirs.step(-answer(net, x, t), theirs.timesteps[index], x).prev_sample
        if index % 2 or index == len(theirs.timesteps) - 1:
            states.append(x)
    assert_same(run(Heun(), net, grid), states)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize(
    ("rule", "options"),
    [
        (DPMpp(-20), {"solver_order": 2}),
        (DPMpp(-20, order=1), {"solver_order": 1}),
        (DPMpp(-20, order=3), {"solver_order": 3}),
        (DPMpp(-20, stochastic=True), {"algorithm_type": "sde-dpmsolver++"}),
        (DPMpp(-20, 1, True), {"algorithm_type": "sde-dpmsolver++", "solver_order": 1}),
    ],
    ids=str,
)
def test_the_dpm_solvers_are_diffusers(rule, options, grid, double):
    module = double("scheduling_dpmsolver_multistep", noises(grid))
    theirs = module.DPMSolverMultistepScheduler(
        1000, trained_betas=(1 - torch.ones(1000) * 0.99).numpy(), **options
    )
    theirs.set_timesteps(timesteps=list(range(len(grid) - 1, 0, -1)))
    theirs.sigmas, x, states = ratios(IF, grid), start(), []
    net = Toy(SHAPE, schedule=IF)
    for index, t in enumerate(grid[:-1]):
        x = theirs.step(answer(net, x, t), theirs.timesteps[index], x).prev_sample
        states.append(x)
    assert_same(run(rule, net, grid), states)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_is_diffusers(order, grid, double):
    module = double("scheduling_unipc_multistep")
    monkey_ones = lambda *a, **k: torch.ones(*a, **{"dtype": torch.float64, **k})
    module.torch.ones = monkey_ones
    theirs = module.UniPCMultistepScheduler(1000, solver_order=order, final_sigmas_type="zero")
    theirs.set_timesteps(len(grid) - 1)
    theirs.sigmas, x, states = ratios(IF, grid), start(), []
    net = Toy(SHAPE, schedule=IF)
    for index, t in enumerate(grid[:-1]):
        x = theirs.step(answer(net, x, t), theirs.timesteps[index], x).prev_sample
        states.append(x)
    assert_same(run(UniPC(order), net, grid), states)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipcs_weights_integrate_polynomials_exactly(order):
    """sum_k a_k r_k^n = −h/B(h) ∫ of exp(…) weighted powers: checked by quadrature."""
    h, places = 0.7, [-1.5, -0.4, 1.0][3 - order :]
    weights = unipc_weights(places, h)
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    for n in range(1, order + 1):
        # x_s's term of u^n/…: h ∫ exp(−h (1 − u)) u^n du, and base of the constant
        exact = float((h * (-h * (1 - u)).exp() * u**n).mean())
        found = -math.expm1(-h) * sum(w * r ** (n - 1) for w, r in zip(weights, places, strict=True))
        assert found == pytest.approx(exact, rel=0.2 if order == 1 else 1e-8)


DEVIATION, MEAN = 0.4, 0.3


def gaussian(schedule: Schedule) -> Mixture:
    return Mixture(
        torch.ones(1),
        torch.full((1, 1, 1, 1), MEAN, dtype=torch.float64),
        torch.tensor([DEVIATION], dtype=torch.float64),
        schedule,
    )


def exact(schedule: Schedule, x: torch.Tensor, t: float, s: float) -> torch.Tensor:
    """The solution of the probability-flow ODE for the Gaussian, from x at level t."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.at(t), schedule.at(s)
    spread = math.hypot(alpha_s * DEVIATION, sigma_s) / math.hypot(alpha_t * DEVIATION, sigma_t)
    return alpha_s * MEAN + spread * (x - alpha_t * MEAN)


def estimate(net: Mixture, x: torch.Tensor, t: float) -> torch.Tensor:
    return net.predict(x, t, [""]).native


def evenly(schedule: Schedule, steps: int) -> list[float]:
    """Levels with equal steps in log SNR."""
    return [schedule.level_at(math.exp(x)) for x in torch.linspace(1.5, -1.5, steps + 1).double().tolist()]


def march(rule, schedule: Schedule, steps: int) -> float:
    """The error at the end of a walk whose first states are exact, as many as the rule looks back to."""
    net, grid, x, last = (
        gaussian(schedule),
        evenly(schedule, steps),
        torch.full((1, 1, 1, 1), 1.7).double(),
        None,
    )
    first, history = x, history_of(rule)
    for index, (t, s) in enumerate(pairwise(grid)):
        if index < history:
            x = exact(schedule, first, grid[0], t)
        x0 = estimate(net, x, t)
        ask = lambda y, level: estimate(net, y, level)
        moved = rule(Update(schedule, x, x0, t, s, torch.zeros_like(x), None, last, ask, index, steps + 20))
        x_s, x_t = moved if isinstance(moved, Corrected) else (moved, x)
        if index < history:
            x_s, x_t = exact(schedule, first, grid[0], s), x
        last = Step(t, s, x_s, x0, x_t, last and last.recent(history - 1))
        x = x_s
    return float((x - exact(schedule, first, grid[0], grid[-1])).abs())


@pytest.mark.parametrize("made", [IF, STRAIGHT, schedules.edm(1000, 0.01, 80)], ids=["cosine", "flow", "edm"])
@pytest.mark.parametrize(
    ("rule", "order"),
    [(Euler(), 1), (DDIM(), 1), (EulerAncestral(0), 1), (DPMpp(order=1), 1), (Heun(), 2), (DPMpp(), 2),
     (DPMpp(order=3), 2), (DPMpp(order=3, curvature=2), 3), (UniPC(1), 1), (UniPC(2), 2), (UniPC(3), 3)],
    ids=str,
)  # fmt: skip
def test_solvers_converge_at_their_order(rule, order, made):
    coarse, fine = march(rule, made, 40), march(rule, made, 80)
    measured = math.log2(coarse / fine)
    assert measured > order - 0.15, measured
    assert measured < order + 2, measured  # UniPC's corrector gives one order more


def marginal(rule, schedule: Schedule, steps: int) -> tuple[float, float]:
    """Errors of mean and variance at the end of a stochastic walk that starts with exact ones.

    The Gaussian's denoiser is affine, so the state is a constant plus a weighted sum of all noises. Row 0 has
    none of them, row 1 that of the start alone, and row 2 + i that of step i.
    """
    net, grid, rows = gaussian(schedule), evenly(schedule, steps), steps + 2
    alpha, sigma = schedule.at(grid[0])
    x = torch.full((rows, 1, 1, 1), alpha * MEAN, dtype=torch.float64)
    x[1] += math.hypot(alpha * DEVIATION, sigma)
    last = None
    for index, (t, s) in enumerate(pairwise(grid)):
        noise = torch.zeros_like(x)
        noise[2 + index] = 1
        x0 = estimate(net, x, t)
        x_s = rule(Update(schedule, x, x0, t, s, noise, None, last, no_further_calls, index, steps + 20))
        last, x = Step(t, s, x_s, x0, x), x_s
    alpha, sigma = schedule.at(grid[-1])
    variance = float((x[1:] - x[0]).square().sum())
    return abs(float(x[0]) - alpha * MEAN), abs(variance - (alpha * DEVIATION) ** 2 - sigma**2)


@pytest.mark.parametrize("made", [IF, STRAIGHT, schedules.edm(1000, 0.01, 80)], ids=["cosine", "flow", "edm"])
@pytest.mark.parametrize(
    ("rule", "order"),
    [
        (EulerAncestral(), 1),
        (EulerAncestral(0.5), 1),
        (DPMpp(order=1, stochastic=True), 1),
        (DPMpp(stochastic=True), 2),
    ],
    ids=str,
)
def test_the_marginals_of_stochastic_solvers_converge_at_their_order(rule, order, made):
    (mean, coarse), (_, fine) = marginal(rule, made, 60), marginal(rule, made, 120)
    assert mean < 1e-12 and coarse < 0.05
    assert math.log2(coarse / fine) > order - 0.15, math.log2(coarse / fine)


def test_from_pure_noise_every_solver_goes_on():
    made = schedules.flow(1000)
    net = Toy(SHAPE, schedule=made)
    net.prediction_type = "flow"
    grid = timesteps.shifted(made, 6, 3.0)
    first = next(step.x for step in run(Euler(), net, grid))
    for rule in (EulerAncestral(0), DPMpp(), DPMpp(order=3), UniPC(), UniPC(3)):
        steps = run(rule, net, grid)
        assert torch.allclose(steps[0].x, first, atol=1e-12) and steps[-1].x.isfinite().all()
    ended = schedules.zero_terminal_snr(schedules.linear(300))
    net = Toy(SHAPE, schedule=ended)
    net.prediction_type = "v"
    steps = run(Heun(), net, (299, 200, 100, CLEAN))
    assert torch.equal(steps[0].x, run(Euler(), net, (299, 200, 100, CLEAN))[0].x)
    noisy = run(DPMpp(stochastic=True), net, (299, 200, CLEAN))[0]
    alpha, sigma = ended.at(200)
    assert torch.allclose(noisy.x, alpha * noisy.x0 + sigma * noises((299, 200))[0])


def test_rules_say_how_many_calls_they_make_and_how_far_they_look_back():
    for rule in (DDPM(), DDIM(), Euler(), EulerAncestral(), DPMpp(), UniPC()):
        assert levels_of(rule, IF, 500, 400) == levels_of(rule, IF, 500, 400, True) == (500,)
    assert levels_of(Heun(), IF, 500, 400) == (500, 400)
    assert levels_of(Heun(), IF, 500, CLEAN) == (500,)
    assert levels_of(Heun(), schedules.zero_terminal_snr(IF), 999, 900) == (999,)
    assert levels_of(Heun(), STRAIGHT, 999, 900) == (999, 900)
    assert levels_of(PLMS(), IF, 500, 400, True) == (500, 400)
    assert levels_of(PLMS(), IF, 500, 400) == levels_of(PLMS(), IF, 500, CLEAN, True) == (500,)
    assert [history_of(rule) for rule in (DDPM(), Heun(), DPMpp(), DPMpp(order=3), UniPC(3))] == [
        0,
        0,
        1,
        2,
        3,
    ]
    assert history_of(lambda update: update.x) == 1


@pytest.mark.parametrize(
    "wrong",
    [lambda: DPMpp(order=4), lambda: DPMpp(order=3, stochastic=True), lambda: UniPC(0), lambda: UniPC(4)],
)
def test_orders_that_do_not_exist_are_refused(wrong):
    with pytest.raises(UserError, match="order"):
        wrong()


def test_an_update_knows_its_place_and_its_rows():
    x = torch.randn(3, *SHAPE)
    last = Step(9, 8, x, x, x, Step(10, 9, x, x, x))
    update = Update(IF, x, 2 * x, 8, 7, 3 * x, x, last, done=4, total=10)
    part = update.of(torch.tensor([2]), lambda y, t: y)
    assert update.left == 5 and update.coefficients == (*IF.at(8), *IF.at(7))
    assert torch.equal(part.x0, 2 * x[2:]) and torch.equal(part.noise, 3 * x[2:])
    assert torch.equal(part.variance_fraction, x[2:]) and torch.equal(part.last.previous.x, x[2:])
    assert last.recent(1).previous is None and last.recent(2).previous.t == 10 and last.recent(0) is None
    with pytest.raises(RuntimeError, match="without a network"):
        update.ask(x, 8)


class Preconditioned(Denoiser):
    """F of EDM for the Gaussian, found from its exact denoiser; told c_noise."""

    shape, range, prediction_type, device = (1, 1, 1), (-1.0, 1.0), "eps", torch.device("cpu")
    schedule = IF

    def canonical_prompt(self, prompt: str) -> str:
        return prompt

    def predict(self, x, t, prompts):
        sigma, data = math.exp(4 * t), 0.5
        state = x * math.hypot(sigma, data)
        clean = MEAN + DEVIATION**2 / (DEVIATION**2 + sigma**2) * (state - MEAN)
        skip = data**2 / (sigma**2 + data**2)
        return Prediction((clean - skip * state) / (sigma * data / math.hypot(sigma, data)))


def test_a_preconditioned_network_is_a_denoiser_and_samples_its_data():
    made = schedules.edm()
    net, oracle = EDM(Preconditioned(), made), gaussian(made)
    x = torch.randn(5, 1, 1, 1, dtype=torch.float64)
    for t in (0, 12.5, 500, 999):
        state = made.noised(x, t, torch.randn_like(x))
        assert torch.allclose(estimate(net, state, t), oracle.predict(state, t, [""] * 5).native, atol=1e-9)
    assert net.prediction_type == "x0" and net.schedule is made and net.shape == (1, 1, 1)
    chosen = Sampler(lambda schedule: timesteps.karras(schedule, 160), Heun())
    grid = chosen.timesteps(made)
    assert (made.at(grid[0])[1], made.at(grid[-2])[1]) == pytest.approx((80, 0.002))
    *_, end = sample(net, conditional(""), grid, seeded(0, 6), chosen.rule)
    begun = 80 * keyed_noise(seeded(0, 6), "start", 0, (1, 1, 1))
    assert torch.allclose(end.x, exact(made, begun, grid[0], CLEAN), atol=1e-3)
    with pytest.raises(ValueError, match="alpha = 1"):
        EDM(Preconditioned(), IF)
