"""Flux dev and schnell are diffusers' pipeline at every step, in what they encode and in what they show."""

import json
import shutil

import pytest
import torch

from expkit.core.denoiser import Counting
from expkit.core.estimate import guided
from expkit.core.solvers import Euler
from expkit.errors import UserError
from expkit.models.pretrained.any_pipeline import diffusers_model
from expkit.models.pretrained.base import DeviceSpec
from expkit.models.pretrained.families import family_of
from expkit.models.pretrained.families.flux import Flux
from expkit.models.pretrained.pipeline_text import PipelineText
from expkit.storage.hub import Repository
from tests import tiny_pipelines
from tests.models.families.flow import BOUND, EXACT, check_autoencoder, follow, grid_of, in_precision
from tests.models.families.parity import CPU, PROMPTS, Told, noted, start, walked

CALL = {"num_inference_steps": 6, "height": 64, "width": 64, "output_type": "latent"}
NEGATIVE = ("", "a photo of a cat")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tiny models: dev, and schnell, whose guidance is not embedded."""
    folder = tmp_path_factory.mktemp("flux")
    return {
        "dev": tiny_pipelines.flux(folder / "dev"),
        "schnell": tiny_pipelines.flux(folder / "schnell", guidance_embeds=False),
    }


def pipeline(folder):
    from diffusers import FluxPipeline

    return FluxPipeline.from_pretrained(folder)


def denoiser(folder, pipe, machine=CPU, size=None):
    return Flux(Repository(str(folder)), Told(Flux, pipe), machine, size)


@pytest.fixture
def folder(folders):
    return folders["dev"]


@pytest.fixture
def pipe(folder):
    return pipeline(folder)


def packed(pipe, x):
    return pipe._pack_latents(x, *x.shape)


def unpacked(pipe, x):
    return pipe._unpack_latents(x, 64, 64, 8)


@pytest.mark.parametrize("machine", [CPU, EXACT], ids=["float32", "float64"])
@pytest.mark.parametrize("kind", ["dev", "schnell"])
@pytest.mark.parametrize("gamma", [1.0, 4.5])
def test_it_is_diffusers_pipeline_at_every_step(gamma, kind, machine, folders, monkeypatch):
    pipe = in_precision(pipeline(folders[kind]), machine.dtype, monkeypatch)
    model, bound = denoiser(folders[kind], pipe, machine), BOUND[machine.dtype]
    steps, x = noted(pipe, monkeypatch), start(model)
    pipe(list(PROMPTS), negative_prompt=list(NEGATIVE), latents=packed(pipe, x), true_cfg_scale=gamma, **CALL)
    assert len(steps) == 6 and any(step.t != int(step.t) for step in steps)
    estimate = guided(PROMPTS, gamma, NEGATIVE)
    for step in steps:
        mine = estimate(model, unpacked(pipe, step.x), step.t - 1, [0, 1]).native
        assert (mine + unpacked(pipe, step.answer)).abs().max() < bound and mine.abs().max() > 0.1
    counting = Counting(model)
    mine = walked(counting, estimate, grid_of(pipe), Euler(), x)
    follow(mine, [unpacked(pipe, step.after) for step in steps])
    assert counting.rows == [2 if gamma == 1 else 4] * 6  # without guidance no null prompt is asked


def test_in_half_precision_the_time_is_rounded_as_the_pipeline_rounds_it(folder, monkeypatch):
    pipe = pipeline(folder).to(torch.bfloat16)
    steps, model = noted(pipe, monkeypatch), denoiser(folder, pipe, DeviceSpec(dtype=torch.bfloat16))
    pipe(list(PROMPTS), latents=packed(pipe, start(model)), **CALL)
    for step in steps:
        mine = model.predict(unpacked(pipe, step.x), step.t - 1, PROMPTS).native
        assert torch.equal(mine, -unpacked(pipe, step.answer).float()), step.t


def test_embedded_guidance_is_an_input_of_dev_alone(folders, pipe, monkeypatch):
    steps = noted(pipe, monkeypatch)
    given = {"machine": CPU, "weights": str(folders["dev"]), "guidance": 1.5}
    model = diffusers_model(Told(Flux, pipe), **given)
    x = start(denoiser(folders["dev"], pipe))
    pipe(list(PROMPTS), latents=packed(pipe, x), guidance_scale=1.5, **CALL)
    mine = walked(model, guided(PROMPTS, 1.0), grid_of(pipe), Euler(), x)
    follow(mine, [unpacked(pipe, step.after) for step in steps])
    other = denoiser(folders["dev"], pipe).predict(x, 500, PROMPTS).native
    assert (model.predict(x, 500, PROMPTS).native - other).abs().max() > 1e-3
    with pytest.raises(
        UserError, match=r"model\.guidance=1\.5 does not fit.*schnell has no guidance.*gamma="
    ):
        diffusers_model(Told(Flux, pipe), **{**given, "weights": str(folders["schnell"])})


def test_prompts_are_encoded_as_the_pipeline_encodes_them_and_each_is_heard(folder, pipe):
    with torch.no_grad():
        tokens, pooled, _ = pipe.encode_prompt(list(PROMPTS))
        mine = Flux.encode_prompts(pipe, PROMPTS)
    assert torch.equal(mine["tokens"], tokens) and torch.equal(mine["pooled"], pooled)
    assert tuple(tokens.shape) == (2, Flux.length, 32) and tuple(pooled.shape) == (2, 32)
    model = denoiser(folder, pipe)
    x = start(model)
    said, swapped = (model.predict(x, 500, prompts).native for prompts in (PROMPTS, PROMPTS[::-1]))
    assert (said - swapped).abs().max() > 0.01


def test_pictures_are_those_that_the_pipeline_shows_and_are_encoded_by_its_autoencoder(folder, pipe):
    model = denoiser(folder, pipe)
    x = start(model)
    pipe.set_progress_bar_config(disable=True)
    latents = pipe(list(PROMPTS), latents=packed(pipe, x), **CALL).images
    shown = pipe(list(PROMPTS), latents=packed(pipe, x), **{**CALL, "output_type": "pt"}).images
    check_autoencoder(model, pipe, unpacked(pipe, latents), shown, 0.1159, 0.3611)


def test_a_size_that_is_not_of_whole_patches_is_a_sentence(folder, pipe):
    assert denoiser(folder, pipe, size=48).image_shape == (3, 48, 48)
    with pytest.raises(UserError, match=r"model\.size=72 does not fit.*multiples of 16"):
        denoiser(folder, pipe, size=72)


def test_a_missing_encoder_and_other_pipelines_of_flux_are_sentences(folder, tmp_path):
    less = shutil.copytree(folder, tmp_path / "less")
    index = json.loads((less / "model_index.json").read_text()) | {"text_encoder_2": [None, None]}
    (less / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"has no text_encoder_2, and a FluxPipeline"):
        PipelineText(str(less)).embeddings(["a dog"])
    for kind in ("FluxKontextPipeline", "FluxFillPipeline", "FluxControlPipeline"):
        (tmp_path / "model_index.json").write_text(f'{{"_class_name": "{kind}"}}')
        with pytest.raises(UserError, match=rf"is a {kind}.*FluxPipeline"):
            family_of(Repository(str(tmp_path)))
