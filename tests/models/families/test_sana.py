"""Sana is diffusers' pipeline at every step, in what it encodes and in what it shows."""

import shutil

import pytest
import torch

from expkit.core.estimate import guided
from expkit.core.schedules import CLEAN
from expkit.core.solvers import DDIM, DPMpp
from expkit.models.pretrained.families.sana import Sana
from expkit.storage.hub import Repository
from tests import tiny_pipelines
from tests.models.families.parity import (
    CPU,
    PROMPTS,
    Told,
    agree,
    check_answers,
    check_own_sampler,
    noted,
    start,
    walked,
)

CALL = {"use_resolution_binning": False, "height": 256, "width": 256, "output_type": "latent"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_pipelines.sana(tmp_path_factory.mktemp("sana"))


@pytest.fixture
def pipe(folder):
    from diffusers import SanaPipeline

    return SanaPipeline.from_pretrained(folder)


@pytest.fixture
def model(folder, pipe):
    return Sana(Repository(str(folder)), Told(Sana, pipe), CPU)


@pytest.fixture
def euler(folder, pipe, tmp_path):
    """The model and the pipeline with the scheduler that tells the network any time."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    shutil.copytree(folder, tmp_path / "euler")
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe.scheduler.save_pretrained(tmp_path / "euler" / "scheduler")
    return Sana(Repository(str(tmp_path / "euler")), Told(Sana, pipe), CPU), pipe


def levels(pipe):
    """The levels of the steps that a pipeline has made: u = (t + 1) / 1000."""
    return (*[1000 * float(sigma) - 1 for sigma in pipe.scheduler.sigmas[:-1]], CLEAN)


def compare(model, pipe, gamma, rule, monkeypatch):
    steps, x, estimate = noted(pipe, monkeypatch), start(model), guided(PROMPTS, gamma)
    pipe(list(PROMPTS), latents=x.clone(), num_inference_steps=8, guidance_scale=gamma, **CALL)
    grid = levels(pipe)
    check_answers(model, estimate, steps, grid[:-1], sign=-1)
    agree(walked(model, estimate, grid, rule, x), [step.after for step in steps])
    return estimate, steps, x


@pytest.mark.parametrize("gamma", [1.0, 4.5, 7.0])
def test_it_is_diffusers_pipeline_at_every_step(gamma, folder, model, pipe, monkeypatch):
    check_own_sampler(folder, model, *compare(model, pipe, gamma, DPMpp(lowest=-20.0), monkeypatch))


@pytest.mark.parametrize("gamma", [1.0, 4.5])
def test_with_another_scheduler_too_which_tells_fractions(gamma, euler, monkeypatch):
    model, pipe = euler
    compare(model, pipe, gamma, DDIM(), monkeypatch)
    assert any(t != int(t) for t in levels(pipe))


def test_prompts_have_the_instruction_before_them_and_the_null_prompt_has_none(model, pipe, monkeypatch):
    given, encode = [], pipe.encode_prompt
    monkeypatch.setattr(pipe, "encode_prompt", lambda *a, **k: given.append(encode(*a, **k)) or given[-1])
    pipe([PROMPTS[0]], num_inference_steps=1, **CALL)
    tokens, mask, null, null_mask = given.pop()
    with torch.no_grad():
        mine, mine_null = (Sana.encode_prompts(pipe, [text]) for text in (PROMPTS[0], ""))
    assert torch.equal(mine["tokens"], tokens) and torch.equal(mine["mask"], mask)
    assert torch.equal(mine_null["tokens"], null) and torch.equal(mine_null["mask"], null_mask)
    assert tokens.shape[1] == 300 and mask.sum() > 10 * null_mask.sum()
    x = start(model)
    said, swapped = (model.predict(x, 500, prompts).native for prompts in (PROMPTS, PROMPTS[::-1]))
    assert (said - swapped).abs().max() > 1e-3


def test_pictures_are_those_that_the_pipeline_shows_and_are_encoded_by_its_autoencoder(model, pipe):
    x = start(model)
    call = {**CALL, "num_inference_steps": 2}
    shown = pipe(list(PROMPTS), latents=x.clone(), **{**call, "output_type": "pt"}).images
    latents = pipe(list(PROMPTS), latents=x.clone(), **call).images
    assert torch.allclose(model.decode(latents), shown, atol=1e-5)
    assert model.image_shape == tuple(shown.shape[1:]) == (3, 256, 256) and model.factor == 32
    with torch.no_grad():
        expected = pipe.vae.encode(2 * shown - 1).latent * pipe.vae.config.scaling_factor
    assert torch.allclose(model.encode(shown), expected, atol=1e-5)


def test_times_are_scaled_as_the_network_asks(model, monkeypatch):
    told, x = [], start(model)
    network = lambda x, timestep, **named: told.append(timestep) or torch.ones_like(x)
    monkeypatch.setattr(model, "network", network)
    answer = model.predict(x, 499.7, PROMPTS).native
    monkeypatch.setitem(model.config, "timestep_scale", 0.001)
    model.predict(x, 499.7, PROMPTS)
    assert [one.tolist() for one in told] == [[500, 500], [0.5, 0.5]] and torch.equal(
        answer, -torch.ones_like(x)
    )
