"""Our steps are the reference schedulers' steps, and deterministic ones converge at their order."""

from itertools import pairwise

import pytest
import torch

from expkit import grids, schedule
from expkit.clips import DynamicThreshold, Static
from expkit.errors import Refusal
from expkit.estimate import asked
from expkit.rules import DDIM, DDPM, DPMpp, renoise
from expkit.sample import noises, sample, seeded
from expkit.schedule import CLEAN
from tests.conftest import Toy
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


def of_range(low: float, high: float, threshold: float) -> Toy:
    net = Toy(SHAPE[1:])
    net.range, net.threshold = (low, high), threshold
    return net


@pytest.mark.parametrize("most", [1.0, 1.5])
@pytest.mark.parametrize("strength", [0.3, 1.2, 4.0])
def test_dynamic_thresholding_is_diffusers(most, strength):
    from diffusers import DDPMScheduler

    x0 = (strength * drawn(0)).float()
    theirs = DDPMScheduler(thresholding=True, dynamic_thresholding_ratio=0.95, sample_max_value=most)._threshold_sample(x0)
    ours = DynamicThreshold()(x0, of_range(-1, 1, most))
    assert torch.allclose(ours, theirs, atol=1e-6) and ours.abs().max() <= 1
    apart = DynamicThreshold()((x0 + 1) / 2, of_range(0, 1, most))  # the same pictures in another range
    assert torch.allclose(2 * apart - 1, theirs, atol=1e-5)


def test_clips_leave_what_is_within_the_range_alone_and_refuse_latents():
    inside = drawn(0).float().clamp(-1, 1)
    for clip in (Static(), DynamicThreshold()):
        assert torch.allclose(clip(inside, of_range(-1, 1, 1.5)), inside)
    assert Static()(3 * inside, of_range(0, 1, 1.0)).unique().min() == 0

    class Latent(Toy):
        pictured = (3, 64, 64)

    with pytest.raises(Refusal, match="latents"):
        Static()(inside, Latent(SHAPE[1:]))


def test_the_diffusers_mode_is_a_whole_run_of_diffusers(monkeypatch):
    from diffusers import DDPMScheduler
    from diffusers.schedulers import scheduling_ddpm

    net, grid, seeds = Toy(SHAPE[1:], frac=True, schedule=IF), grids.strided_clean(1000), seeded(0, 2)
    net.threshold = 1.5
    theirs = DDPMScheduler(
        1000, beta_schedule="squaredcos_cap_v2", variance_type="learned_range", clip_sample=False, thresholding=True,
        dynamic_thresholding_ratio=0.95, sample_max_value=1.5,
    )  # fmt: skip
    theirs.set_timesteps(timesteps=list(grid[:-1]))
    x = noises(seeds, "start", 0, net.shape)
    for index, t in enumerate(grid[:-1]):
        out = net.predict(x, t, ["a"] * 2)
        monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *a, i=index, **k: noises(seeds, "step", i, net.shape))
        x = theirs.step(torch.cat([out.native, 2 * out.frac - 1], 1), t, x).prev_sample
    *_, ours = sample(net, asked("a"), grid, seeds, DDPM("model"), clip=DynamicThreshold())
    assert len(net.rows) == 2 * 34 and torch.allclose(ours.x, x, atol=1e-3)


def test_align_your_steps_has_the_noises_that_were_published():
    published = (160.414, 8.081, 3.315, 1.885, 1.207, 0.785, 0.553, 0.293, 0.186, 0.030, 0.006)
    levels = grids.ays(1000)
    for t, sigma in zip(levels, published, strict=True):
        alpha_bar = IF.alpha_bar(t)
        assert ((1 - alpha_bar) / alpha_bar) ** 0.5 == pytest.approx(sigma, rel=5e-3, abs=1e-3)
    assert all(t > s for t, s in pairwise(grids.ays(300))) and len(grids.ays(300)) == 11
