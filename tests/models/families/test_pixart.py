"""PixArt-Σ and PixArt-α are diffusers' pipelines at every step, in what they encode and in what they show."""

import json

import pytest
import torch

from expkit.core.estimate import guided
from expkit.core.schedules import CLEAN
from expkit.core.solvers import DDIM, DPMpp
from expkit.models.pretrained.families.pixart import PixArtAlpha, PixArtSigma
from expkit.storage.hub import Repository
from tests import tiny_pipelines
from tests.models.families.parity import (
    CPU,
    EXACT,
    PROMPTS,
    Told,
    agree,
    check_answers,
    check_own_sampler,
    noted,
    start,
    walked,
)

CALL = {"use_resolution_binning": False, "clean_caption": False, "output_type": "latent"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_pipelines.pixart(tmp_path_factory.mktemp("pixart"))


@pytest.fixture
def pipe(folder):
    from diffusers import PixArtSigmaPipeline

    return PixArtSigmaPipeline.from_pretrained(folder)


@pytest.fixture
def model(folder, pipe):
    return PixArtSigma(Repository(str(folder)), Told(PixArtSigma, pipe), CPU)


@pytest.mark.parametrize("gamma", [1.0, 4.5, 7.0])
@pytest.mark.parametrize(("scheduler", "rule"), [("own", DPMpp()), ("DDIMScheduler", DDIM())])
def test_it_is_diffusers_pipeline_at_every_step(scheduler, rule, gamma, folder, model, pipe, monkeypatch):
    import diffusers

    if scheduler != "own":
        config = {**pipe.scheduler.config, "clip_sample": False, "timestep_spacing": "leading"}
        pipe.scheduler = getattr(diffusers, scheduler).from_config(config)
    steps, x = noted(pipe, monkeypatch), start(model)
    pipe(list(PROMPTS), latents=x.clone(), num_inference_steps=8, guidance_scale=gamma, **CALL)
    estimate, grid = guided(PROMPTS, gamma), (*[int(step.t) for step in steps], CLEAN)
    check_answers(model, estimate, steps, grid[:-1])
    agree(walked(model, estimate, grid, rule, x), [step.after for step in steps])
    if scheduler == "own":
        check_own_sampler(folder, model, estimate, steps, x)


@pytest.mark.parametrize("gamma", [1.0, 4.5, 7.0])
def test_in_float64_it_answers_the_same_number_for_number(gamma, folder, pipe, monkeypatch):
    model = PixArtSigma(Repository(str(folder)), Told(PixArtSigma, pipe.to(torch.float64)), EXACT)
    steps = noted(pipe, monkeypatch)
    pipe(list(PROMPTS), latents=start(model), num_inference_steps=5, guidance_scale=gamma, **CALL)
    check_answers(model, guided(PROMPTS, gamma), steps, [step.t for step in steps])


def test_prompts_are_encoded_as_the_pipeline_encodes_them_and_each_is_heard(model, pipe):
    with torch.no_grad():
        tokens, mask, null, null_mask = pipe.encode_prompt(list(PROMPTS))
        mine = PixArtSigma.encode_prompts(pipe, PROMPTS)
        mine_null = PixArtSigma.encode_prompts(pipe, ["", ""])
    assert torch.equal(mine["tokens"], tokens) and torch.equal(mine["mask"], mask)
    assert torch.equal(mine_null["tokens"], null) and torch.equal(mine_null["mask"], null_mask)
    assert tuple(tokens.shape) == (2, PixArtSigma.length, 32) and mask.sum() > 2 * null_mask.sum()
    x = start(model)
    said, swapped = (model.predict(x, 500, prompts).native for prompts in (PROMPTS, PROMPTS[::-1]))
    assert (said - swapped).abs().max() > 0.01


def test_the_learned_variance_is_dropped(model):
    answer = model.predict(start(model), 10, PROMPTS)
    assert answer.native.shape[1] == 4 and answer.variance_fraction is None and not model.learns_variance


def test_pictures_are_those_that_the_pipeline_shows_and_are_encoded_by_its_autoencoder(model, pipe):
    x = start(model)
    call = {**CALL, "output_type": "pt", "num_inference_steps": 2}
    shown = pipe(list(PROMPTS), latents=x.clone(), **call).images
    latents = pipe(list(PROMPTS), latents=x.clone(), **{**call, "output_type": "latent"}).images
    assert torch.allclose(model.decode(latents), shown, atol=1e-5)
    assert model.image_shape == tuple(shown.shape[1:]) == (3, 64, 64)
    with torch.no_grad():
        expected = pipe.vae.encode(2 * shown - 1).latent_dist.mean * pipe.vae.config.scaling_factor
    assert torch.allclose(model.encode(shown), expected, atol=1e-5)


def test_alpha_is_told_the_size_and_reads_shorter_texts(tmp_path, pipe, monkeypatch):
    from diffusers import PixArtAlphaPipeline

    wide = {
        "attention_head_dim": 24,
        "cross_attention_dim": 48,
    }  # told a size, it must be a multiple of three
    shape = {"sample_size": 128, "patch_size": 16, "use_additional_conditions": True}
    transformer = tiny_pipelines.pixart_transformer(**wide, **shape)
    parts = {name: getattr(pipe, name) for name in ("tokenizer", "text_encoder", "vae", "scheduler")}
    alpha = PixArtAlphaPipeline(transformer=transformer, **parts)
    alpha.save_pretrained(tmp_path)
    model = PixArtAlpha(Repository(str(tmp_path)), Told(PixArtAlpha, alpha), CPU)
    assert PixArtAlpha.length == PixArtAlpha.encode_prompts(alpha, [""])["tokens"].shape[1] == 120
    steps, x = noted(alpha, monkeypatch), start(model)
    alpha(list(PROMPTS), latents=x.clone(), num_inference_steps=3, guidance_scale=4.5, **CALL)
    check_answers(model, guided(PROMPTS, 4.5), steps, [step.t for step in steps])
    small = PixArtAlpha(Repository(str(tmp_path)), Told(PixArtAlpha, alpha), CPU, size=512)
    assert small.size_condition(1)["resolution"].tolist() == [[512, 512]]
    told = small.predict(x[:, :, :64, :64], 500, PROMPTS).native
    monkeypatch.setattr(small, "size_condition", model.size_condition)  # the wrong size
    assert (told - small.predict(x[:, :, :64, :64], 500, PROMPTS).native).abs().max() > 1e-3


def test_a_configuration_with_the_older_name_of_the_class_is_read(folder, model, tmp_path, pipe):
    import shutil

    shutil.copytree(folder, tmp_path / "older")
    path = tmp_path / "older" / "transformer" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "_class_name": "Transformer2DModel"}))
    older, x = PixArtSigma(Repository(str(tmp_path / "older")), Told(PixArtSigma, pipe), CPU), start(model)
    older.check_weights()
    assert torch.equal(older.predict(x, 500, PROMPTS).native, model.predict(x, 500, PROMPTS).native)
