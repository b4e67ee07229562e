"""sampler=own: solver and levels of a model's own pipeline are diffusers' own."""

import json

import diffusers
import pytest
import torch

from expkit.core.denoiser import Denoiser, Prediction
from expkit.core.estimate import conditional
from expkit.core.sampler import sample, seeded
from expkit.core.solvers import DDPM, DPMpp, EulerAncestral
from expkit.core.thresholding import ClipSample, DynamicThreshold
from expkit.errors import UserError
from expkit.models.pretrained.configs import prediction_type_of, schedule_of
from expkit.models.pretrained.own_sampler import own_sampler

SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
LEADING = {**SCALED, "timestep_spacing": "leading", "steps_offset": 1}
DPM = "DPMSolverMultistepScheduler"
FLOW_DPM = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
DETERMINISTIC = [
    ("DDIMScheduler", {**LEADING, "set_alpha_to_one": False, "clip_sample": False}),
    ("DDIMScheduler", {**SCALED, "timestep_spacing": "trailing", "clip_sample": False}),
    ("EulerDiscreteScheduler", LEADING),
    ("EulerDiscreteScheduler", {**SCALED, "use_karras_sigmas": True}),
    ("HeunDiscreteScheduler", {**SCALED, "timestep_spacing": "trailing"}),
    (DPM, SCALED),
    (DPM, {**LEADING, "solver_order": 3}),
    (DPM, {**SCALED, "solver_order": 1, "use_exponential_sigmas": True}),
    (DPM, FLOW_DPM),
    ("PNDMScheduler", {**LEADING, "skip_prk_steps": True, "set_alpha_to_one": False}),
    ("UniPCMultistepScheduler", {**SCALED, "final_sigmas_type": "zero"}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    ("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}),
]


def saved(folder, name, settings):
    """A repository whose scheduler has these settings."""
    scheduler = getattr(diffusers, name)(**settings)
    scheduler.save_pretrained(folder / "scheduler")
    return scheduler, json.loads((folder / "scheduler" / "scheduler_config.json").read_text())


def answer(x):
    """A network that looks at the state alone."""
    return torch.tanh(0.7 * x) + 0.3 * x.roll(1, -1)


class Network(Denoiser):
    """`answer`, in the parametrization of a scheduler: flow of diffusers is noise − x0."""

    shape, range, device = (3, 4, 4), (-1.0, 1.0), torch.device("cpu")

    def __init__(self, config):
        self.schedule, self.prediction_type = schedule_of(config), prediction_type_of(config)

    def canonical_prompt(self, prompt):
        return prompt

    def predict(self, x, t, prompts):
        return Prediction(-answer(x) if self.prediction_type == "flow" else answer(x))


def walked_by(scheduler, x, steps):
    """The last state of diffusers' loop, from the state x at the first level."""
    scheduler.set_timesteps(steps)
    if "Euler" in type(scheduler).__name__ or "Heun" in type(scheduler).__name__:
        is_flow = not hasattr(scheduler, "init_noise_sigma")
        x = x if is_flow else x * (1 + scheduler.sigmas[0].double() ** 2) ** 0.5  # its state is x/alpha
    for t in scheduler.timesteps:
        given = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(answer(given), t, x, return_dict=False)[0]
    return x


@pytest.mark.parametrize(("name", "settings"), DETERMINISTIC)
@pytest.mark.parametrize("steps", [4, 20])
def test_a_whole_run_is_diffusers(name, settings, steps, tmp_path):
    scheduler, config = saved(tmp_path, name, settings)
    model, own = Network(config), own_sampler(str(tmp_path), steps)
    x = torch.randn(2, *model.shape, generator=torch.Generator().manual_seed(0)).double()
    theirs = walked_by(scheduler, x, steps)
    grid = own.timesteps(model.schedule)
    *_, last = sample(model, conditional(""), grid, seeded(0, 2), own.rule, clip=own.clip, x=x)
    assert torch.allclose(last.x, theirs.double(), atol=2e-4, rtol=2e-4), (last.x - theirs).abs().max()


@pytest.mark.parametrize(
    ("name", "settings", "rule", "clip"),
    [
        ("DDPMScheduler", {"variance_type": "fixed_large"}, DDPM("large"), ClipSample()),
        (
            "DDPMScheduler",
            {"variance_type": "learned_range", "thresholding": True, "dynamic_thresholding_ratio": 0.9},
            DDPM("learned"),
            DynamicThreshold(0.9),
        ),
        ("EulerAncestralDiscreteScheduler", SCALED, EulerAncestral(), None),
        (DPM, {**SCALED, "algorithm_type": "sde-dpmsolver++"}, DPMpp(-torch.inf, 2, True), None),
    ],
)
def test_solvers_with_noise_are_chosen_by_their_settings(name, settings, rule, clip, tmp_path):
    saved(tmp_path, name, settings)
    own = own_sampler(str(tmp_path), 5)
    assert (own.rule, own.clip) == (rule, clip)


def test_every_level_of_a_schedulers_timesteps_is_visited(tmp_path):
    scheduler, config = saved(tmp_path, "DDPMScheduler", {"timestep_spacing": "trailing"})
    scheduler.set_timesteps(7)
    grid = own_sampler(str(tmp_path), 7).timesteps(schedule_of(config))
    assert grid == (*scheduler.timesteps.tolist(), -1)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("LMSDiscreteScheduler", {}, "LMSDiscreteScheduler, which expkit does not have"),
        (
            DPM,
            {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
            "does not know the algorithm 'dpmsolver'",
        ),
    ],
)
def test_what_is_not_known_is_a_sentence(name, settings, said, tmp_path):
    saved(tmp_path, name, settings)
    with pytest.raises(UserError, match=said):
        own_sampler(str(tmp_path), 5)


@pytest.mark.parametrize("weights", [None, "digits", "pictograms"])
def test_a_model_that_is_no_pipeline_has_no_scheduler_of_its_own(weights):
    with pytest.raises(UserError, match=r"this model has none: name one with model=diffusers"):
        own_sampler(weights, 5)


def test_more_steps_than_levels_are_refused_rather_than_all_the_same(tmp_path):
    settings = {**LEADING, "skip_prk_steps": True, "set_alpha_to_one": False}
    _, config = saved(tmp_path, "PNDMScheduler", settings)
    with pytest.raises(UserError, match=r"steps=2000 does not fit.*at most 1000"):
        own_sampler(str(tmp_path), 2000).grid(schedule_of(config))
