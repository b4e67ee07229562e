"""Our steps are the reference schedulers' steps, and deterministic ones converge at their order."""

from itertools import pairwise

import pytest
import torch

from expkit.core import schedules, timesteps
from expkit.core.estimate import conditional
from expkit.core.sampler import keyed_noise, sample, seeded
from expkit.core.schedules import CLEAN
from expkit.core.solvers import DDIM, DDPM, DPMpp, Euler, Step, Update, renoise
from expkit.core.thresholding import ClipSample, DynamicThreshold
from expkit.errors import UserError
from tests.conftest import Toy
from tests.core.test_sample import mixture

IF = schedules.cosine(1000)
SHAPE = (2, 3, 8, 8)


def drawn(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moved(rule, schedule, x, x0, variance_fraction, t, s, noise, last=None):
    """The state at level s."""
    return rule(Update(schedule, x, x0, t, s, noise, variance_fraction, last))


def reference(kind: str, levels):
    from diffusers import DDPMScheduler

    made = DDPMScheduler(
        1000, beta_schedule="squaredcos_cap_v2", variance_type=kind, clip_sample=False, thresholding=False
    )
    made.set_timesteps(timesteps=list(levels))
    return made


@pytest.mark.parametrize(
    ("ours", "theirs"), [("small", "fixed_small"), ("large", "fixed_large"), ("learned", "learned_range")]
)
@pytest.mark.parametrize(
    ("t", "s"), [*list(pairwise(timesteps.strided_clean(1000)))[::8], (30, 0), (0, CLEAN)]
)
def test_ddpm_is_diffusers(ours, theirs, t, s, monkeypatch):
    from diffusers.schedulers import scheduling_ddpm

    x, eps, v, noise = drawn(0), drawn(1), drawn(2).tanh(), drawn(3)
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *a, **k: noise)
    answer = torch.cat([eps, v], 1) if ours == "learned" else eps
    expected = reference(theirs, [level for level in timesteps.strided(1000)]).step(answer, t, x).prev_sample
    step = moved(DDPM(ours), IF, x, IF.denoised(x, t, eps, "eps"), (v + 1) / 2, t, s, noise, None)
    assert torch.allclose(step, expected, atol=2e-4, rtol=2e-4)  # theirs forms its coefficients in float32


ODD = {  # no two updates alike, and ends that are neither level 0 nor close to it
    "one call": (990,), "two": (700, 40), "falling": (999, 931, 640, 639, 300, 77, 5), "to level 0": (800, 333, 1, 0),
    "noisy end": (500, 400),
}  # fmt: skip


def doubled(theirs):
    """A scheduler of diffusers with its coefficients in float64."""
    theirs.alphas_cumprod, theirs.one = IF.alpha**2, torch.tensor(1.0, dtype=torch.float64)
    theirs.alphas = torch.cat(
        [theirs.alphas_cumprod[:1], theirs.alphas_cumprod[1:] / theirs.alphas_cumprod[:-1]]
    )
    theirs.betas = 1 - theirs.alphas
    return theirs


@pytest.mark.parametrize(
    ("ours", "theirs"), [("small", "fixed_small"), ("large", "fixed_large"), ("learned", "learned_range")]
)
@pytest.mark.parametrize("levels", ODD.values(), ids=ODD)
def test_ddpm_is_diffusers_on_any_grid_to_its_end(ours, theirs, levels, monkeypatch):
    """Each of their calls is an update of ours; the last goes to clean, with noise unless it starts at level 0."""
    from diffusers.schedulers import scheduling_ddpm

    made, x = doubled(reference(theirs, levels)), drawn(0)
    for index, (t, s) in enumerate(pairwise((*levels, CLEAN))):
        eps, v, noise = drawn(10 + index), drawn(30 + index).tanh(), drawn(50 + index)
        monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *a, z=noise, **k: z)
        expected = made.step(torch.cat([eps, v], 1) if ours == "learned" else eps, t, x).prev_sample
        x = moved(DDPM(ours), IF, x, IF.denoised(x, t, eps, "eps"), (v + 1) / 2, t, s, noise, None)
        assert torch.allclose(x, expected, atol=1e-9, rtol=1e-9), (t, s)


def test_a_last_update_to_clean_is_noiseless_from_level_0_alone():
    x, x0, noise = drawn(0), drawn(1), drawn(3)
    beta = 1 - IF.alpha_bar(30)
    assert torch.allclose(
        moved(DDPM("large"), IF, x, x0, None, 30, CLEAN, noise, None), x0 + beta**0.5 * noise
    )
    assert torch.allclose(moved(DDPM("small"), IF, x, x0, None, 30, CLEAN, noise, None), x0, atol=1e-9)
    assert torch.allclose(moved(DDPM("large"), IF, x, x0, None, 0, CLEAN, noise, None), x0)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("gaps", [(333, 333, 333), (142, 90, 11, 200, 250)], ids=str)
def test_ddim_is_diffusers_on_any_grid_to_its_end(eta, gaps):
    from diffusers import DDIMScheduler

    theirs, x, t = (
        DDIMScheduler(1000, beta_schedule="squaredcos_cap_v2", clip_sample=False, set_alpha_to_one=True),
        drawn(0),
        sum(gaps),
    )
    theirs.alphas_cumprod, theirs.final_alpha_cumprod = IF.alpha**2, torch.tensor(1.0, dtype=torch.float64)
    for index, gap in enumerate((*gaps, 333)):
        theirs.num_inference_steps = next(
            n for n in range(1, 1000) if 1000 // n == gap
        )  # they go to t − 1000 // n
        eps, noise, s = drawn(10 + index), drawn(50 + index), max(t - gap, CLEAN)
        expected = theirs.step(eps, t, x, eta=eta, variance_noise=noise).prev_sample
        x = moved(DDIM(eta), IF, x, IF.denoised(x, t, eps, "eps"), None, t, s, noise, None)
        assert torch.allclose(x, expected, atol=1e-9, rtol=1e-9), (t, s)
        t = s


@pytest.mark.parametrize(
    "levels", [(995, 931, 640, 639, 300, 77, 5), (700, 40), (990,), (800, 333, 1, 0)], ids=str
)
def test_dpmpp_is_diffusers_on_any_grid_to_its_end(levels):
    from diffusers import DPMSolverMultistepScheduler

    theirs = DPMSolverMultistepScheduler(1000, beta_schedule="squaredcos_cap_v2", lower_order_final=False)
    theirs.set_timesteps(timesteps=list(levels))
    theirs.sigmas = torch.tensor([*[IF.at(t)[1] / IF.at(t)[0] for t in levels], 0.0], dtype=torch.float64)
    x, last = drawn(0), None
    for index, (t, s) in enumerate(pairwise((*levels, CLEAN))):
        eps = drawn(10 + index)
        expected = theirs.step(eps, t, x).prev_sample
        x0 = IF.denoised(x, t, eps, "eps")
        x_s = moved(DPMpp(lowest=-20), IF, x, x0, None, t, s, torch.zeros_like(x), last)
        last, x = Step(t, s, x_s, x0, x), x_s
        assert torch.allclose(x, expected.double(), atol=1e-5, rtol=1e-5), (t, s)  # theirs is float32


@pytest.mark.parametrize("steps", [1, 7, 50])
def test_euler_is_diffusers_along_a_flow(steps):
    from diffusers import FlowMatchEulerDiscreteScheduler

    made, theirs = schedules.flow(1000, continuous=True), FlowMatchEulerDiscreteScheduler(1000)
    theirs.set_timesteps(sigmas=[1 - i / steps for i in range(steps)])
    theirs.sigmas, x = torch.tensor([1 - i / steps for i in range(steps + 1)], dtype=torch.float64), drawn(0)
    for index, (t, s) in enumerate(pairwise(timesteps.trailing(1000, steps))):
        u = drawn(10 + index)
        expected = theirs.step(
            -u, theirs.timesteps[index], x
        ).prev_sample  # theirs is the way from the picture to noise
        x = moved(Euler(), made, x, made.denoised(x, t, u, "flow"), None, t, s, torch.zeros_like(x), None)
        assert torch.allclose(x, expected.double(), atol=1e-6, rtol=1e-6)  # theirs is float32


def test_euler_is_ddim_without_noise_on_any_schedule():
    x, x0, noise = drawn(0), drawn(1), drawn(3)
    for made in (IF, schedules.flow(1000), schedules.variance_exploding(1000)):
        for t, s in ((990, 960), (30, 0), (30, CLEAN)):
            assert torch.allclose(
                moved(Euler(), made, x, x0, None, t, s, noise, None),
                moved(DDIM(), made, x, x0, None, t, s, noise, None),
                atol=1e-12,
            )


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_is_diffusers(eta):
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(1000, beta_schedule="squaredcos_cap_v2", clip_sample=False, set_alpha_to_one=True)
    theirs.set_timesteps(25)
    x, eps, noise = drawn(0), drawn(1), drawn(3)
    expected = theirs.step(eps, 480, x, eta=eta, variance_noise=noise).prev_sample
    ours = moved(DDIM(eta), IF, x, IF.denoised(x, 480, eps, "eps"), None, 480, 440, noise, None)
    assert torch.allclose(ours, expected, atol=1e-4)


def test_ddim_with_eta_one_is_ddpm_with_the_small_variance():
    x, x0, noise = drawn(0), drawn(1), drawn(3)
    assert torch.allclose(
        moved(DDIM(1.0), IF, x, x0, None, 690, 660, noise, None),
        moved(DDPM("small"), IF, x, x0, None, 690, 660, noise, None),
    )


def end(rule, steps: int) -> torch.Tensor:
    net = mixture(schedules.linear_rescaled(1000))
    grid = (*torch.linspace(900, 100, steps + 1).round().long().tolist(),)
    return [*sample(net, conditional(""), grid, seeded(3, 8), rule)][-1].x


@pytest.mark.parametrize(("rule", "order"), [(DDIM(), 1), (DPMpp(), 2)])
def test_deterministic_rules_converge_at_their_order(rule, order):
    exact = end(DPMpp(), 400)
    errors = [float((end(rule, steps) - exact).abs().mean()) for steps in (10, 40)]
    assert errors[0] / errors[1] > 4**order * 0.6


def test_a_last_step_to_clean_is_the_estimate():
    x, x0, noise = drawn(0), drawn(1), drawn(3)
    for rule in (DDPM("small"), DDPM("large"), DDIM(), DPMpp()):
        assert torch.allclose(moved(rule, IF, x, x0, None, 0, CLEAN, noise, None), x0, atol=1e-6)


def test_going_up_again_has_the_right_amounts_of_picture_and_noise():
    x0, first, second = torch.ones(1, dtype=torch.float64), drawn(0), drawn(1)
    up = renoise(IF, IF.noised(x0, 300, first), 300, 600, second)
    alpha, sigma = IF.at(600)
    kept = alpha / IF.at(300)[0]
    assert torch.allclose(
        up,
        alpha * x0 + kept * IF.at(300)[1] * first + (sigma**2 - (kept * IF.at(300)[1]) ** 2) ** 0.5 * second,
    )


def test_a_learned_variance_that_was_not_learned_is_refused():
    with pytest.raises(UserError, match="learned a variance"):
        moved(DDPM("learned"), IF, drawn(0), drawn(1), None, 690, 660, drawn(3), None)


def of_range(low: float, high: float, threshold: float) -> Toy:
    net = Toy(SHAPE[1:])
    net.range, net.sample_max_value = (low, high), threshold
    return net


@pytest.mark.parametrize("most", [1.0, 1.5])
@pytest.mark.parametrize("strength", [0.3, 1.2, 4.0])
def test_dynamic_thresholding_is_diffusers(most, strength):
    from diffusers import DDPMScheduler

    x0 = (strength * drawn(0)).float()
    theirs = DDPMScheduler(
        thresholding=True, dynamic_thresholding_ratio=0.95, sample_max_value=most
    )._threshold_sample(x0)
    ours = DynamicThreshold()(x0, of_range(-1, 1, most))
    assert torch.allclose(ours, theirs, atol=1e-6) and ours.abs().max() <= 1
    apart = DynamicThreshold()((x0 + 1) / 2, of_range(0, 1, most))  # the same pictures in another range
    assert torch.allclose(2 * apart - 1, theirs, atol=1e-5)


def test_clips_leave_what_is_within_the_range_alone_and_refuse_latents():
    inside = drawn(0).float().clamp(-1, 1)
    for clip in (ClipSample(), DynamicThreshold()):
        assert torch.allclose(clip(inside, of_range(-1, 1, 1.5)), inside)
    assert ClipSample()(3 * inside, of_range(0, 1, 1.0)).unique().min() == 0

    class Latent(Toy):
        image_shape = (3, 64, 64)

    with pytest.raises(UserError, match="latents"):
        ClipSample()(inside, Latent(SHAPE[1:]))


def test_the_diffusers_mode_is_a_whole_run_of_diffusers(monkeypatch):
    from diffusers import DDPMScheduler
    from diffusers.schedulers import scheduling_ddpm

    net, grid, seeds = (
        Toy(SHAPE[1:], variance_fraction=True, schedule=IF),
        timesteps.strided_clean(1000),
        seeded(0, 2),
    )
    net.sample_max_value = 1.5
    theirs = DDPMScheduler(
        1000, beta_schedule="squaredcos_cap_v2", variance_type="learned_range", clip_sample=False, thresholding=True,
        dynamic_thresholding_ratio=0.95, sample_max_value=1.5,
    )  # fmt: skip
    theirs.set_timesteps(timesteps=list(grid[:-1]))
    x = keyed_noise(seeds, "start", 0, net.shape)
    for index, t in enumerate(grid[:-1]):
        out = net.predict(x, t, ["a"] * 2)
        monkeypatch.setattr(
            scheduling_ddpm, "randn_tensor", lambda *a, i=index, **k: keyed_noise(seeds, "step", i, net.shape)
        )
        x = theirs.step(torch.cat([out.native, 2 * out.variance_fraction - 1], 1), t, x).prev_sample
    *_, ours = sample(net, conditional("a"), grid, seeds, DDPM("model"), clip=DynamicThreshold())
    assert len(net.rows) == 2 * 34 and torch.allclose(ours.x, x, atol=1e-3)


def test_align_your_steps_has_the_noises_that_were_published():
    published = (160.414, 8.081, 3.315, 1.885, 1.207, 0.785, 0.553, 0.293, 0.186, 0.030, 0.006)
    levels = timesteps.ays(1000)
    for t, sigma in zip(levels, published, strict=True):
        alpha_bar = IF.alpha_bar(t)
        assert ((1 - alpha_bar) / alpha_bar) ** 0.5 == pytest.approx(sigma, rel=5e-3, abs=1e-3)
    assert all(t > s for t, s in pairwise(timesteps.ays(300))) and len(timesteps.ays(300)) == 11
