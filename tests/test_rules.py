"""Our steps are the reference schedulers' steps, and deterministic ones converge at their order."""

from itertools import pairwise

import pytest
import torch

from expkit import grids, schedule
from expkit.errors import Refusal
from expkit.estimate import asked
from expkit.rules import DDIM, DDPM, DPMpp, renoise
from expkit.sample import sample, seeded
from expkit.schedule import CLEAN
from tests.test_sample import mixture

IF = schedule.cosine(1000)
SHAPE = (2, 3, 8, 8)


def drawn(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reference(kind: str, levels):
    from diffusers import DDPMScheduler

    made = DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2", variance_type=kind, clip_sample=False, thresholding=False)
    made.set_timesteps(timesteps=list(levels))
    return made


@pytest.mark.parametrize(("ours", "theirs"), [("small", "fixed_small"), ("large", "fixed_large"), ("learned", "learned_range")])
@pytest.mark.parametrize(("t", "s"), [*list(pairwise(grids.strided_clean(1000)))[::8], (30, 0), (0, CLEAN)])
def test_ddpm_is_diffusers(ours, theirs, t, s, monkeypatch):
    from diffusers.schedulers import scheduling_ddpm

    x, eps, v, noise = drawn(0), drawn(1), drawn(2).tanh(), drawn(3)
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *a, **k: noise)
    answer = torch.cat([eps, v], 1) if ours == "learned" else eps
    expected = reference(theirs, [level for level in grids.strided(1000)]).step(answer, t, x).prev_sample
    step = DDPM(ours)(IF, x, IF.denoised(x, t, eps, "eps"), (v + 1) / 2, t, s, noise, None)
    assert torch.allclose(step, expected, atol=2e-4, rtol=2e-4)  # theirs forms its coefficients in float32


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_is_diffusers(eta):
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(1000, beta_schedule="squaredcos_cap_v2", clip_sample=False, set_alpha_to_one=True)
    theirs.set_timesteps(25)
    x, eps, noise = drawn(0), drawn(1), drawn(3)
    expected = theirs.step(eps, 480, x, eta=eta, variance_noise=noise).prev_sample
    ours = DDIM(eta)(IF, x, IF.denoised(x, 480, eps, "eps"), None, 480, 440, noise, None)
    assert torch.allclose(ours, expected, atol=1e-4)


def test_ddim_with_eta_one_is_ddpm_with_the_small_variance():
    x, x0, noise = drawn(0), drawn(1), drawn(3)
    assert torch.allclose(DDIM(1.0)(IF, x, x0, None, 690, 660, noise, None), DDPM("small")(IF, x, x0, None, 690, 660, noise, None))


def end(rule, steps: int) -> torch.Tensor:
    net = mixture(schedule.scaled(1000))
    grid = (*torch.linspace(900, 100, steps + 1).round().long().tolist(),)
    return [*sample(net, asked(""), grid, seeded(3, 8), rule)][-1].x


@pytest.mark.parametrize(("rule", "order"), [(DDIM(), 1), (DPMpp(), 2)])
def test_deterministic_rules_converge_at_their_order(rule, order):
    exact = end(DPMpp(), 400)
    errors = [float((end(rule, steps) - exact).abs().mean()) for steps in (10, 40)]
    assert errors[0] / errors[1] > 4**order * 0.6


def test_a_last_step_to_clean_is_the_estimate():
    x, x0, noise = drawn(0), drawn(1), drawn(3)
    for rule in (DDPM("small"), DDPM("large"), DDIM(), DPMpp()):
        assert torch.allclose(rule(IF, x, x0, None, 0, CLEAN, noise, None), x0, atol=1e-6)


def test_going_up_again_has_the_right_amounts_of_picture_and_noise():
    x0, first, second = torch.ones(1, dtype=torch.float64), drawn(0), drawn(1)
    up = renoise(IF, IF.noised(x0, 300, first), 300, 600, second)
    alpha, sigma = IF.at(600)
    kept = alpha / IF.at(300)[0]
    assert torch.allclose(up, alpha * x0 + kept * IF.at(300)[1] * first + (sigma**2 - (kept * IF.at(300)[1]) ** 2) ** 0.5 * second)


def test_a_learned_variance_that_was_not_learned_is_refused():
    with pytest.raises(Refusal, match="learned a variance"):
        DDPM("learned")(IF, drawn(0), drawn(1), None, 690, 660, drawn(3), None)
