"""Stable Diffusion 3 is diffusers' pipeline at every step, in what it encodes and in what it shows, with any encoder missing."""

import pytest
import torch

from expkit.core.estimate import guided
from expkit.core.solvers import Euler
from expkit.errors import UserError
from expkit.models.pretrained.base import DeviceSpec
from expkit.models.pretrained.families.sd3 import StableDiffusion3
from expkit.models.pretrained.pipeline_text import PipelineText
from expkit.storage.hub import Repository
from tests import tiny_pipelines
from tests.models.families.flow import BOUND, EXACT, check_autoencoder, follow, grid_of, in_precision
from tests.models.families.parity import CPU, PROMPTS, Told, noted, start, walked

CALL = {"num_inference_steps": 6, "height": 64, "width": 64, "output_type": "latent"}
# What of the tokens and of the pooled text comes from which encoder
TOKENS = {
    "text_encoder": (slice(0, 77), slice(0, 8)),
    "text_encoder_2": (slice(0, 77), slice(8, 24)),
    "text_encoder_3": (slice(77, None), slice(None)),
}
POOLED = {
    "text_encoder": slice(0, 8),
    "text_encoder_2": slice(8, 24),
    "text_encoder_3": slice(0, 0),
}
MISSING = [
    ("text_encoder",),
    ("text_encoder_2",),
    ("text_encoder_3",),
    ("text_encoder", "text_encoder_2"),
    ("text_encoder", "text_encoder_3"),
    ("text_encoder_2", "text_encoder_3"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_pipelines.sd3(tmp_path_factory.mktemp("sd3"))


def pipeline(folder, without=()):
    from diffusers import StableDiffusion3Pipeline

    missing = [*without, *[name.replace("text_encoder", "tokenizer") for name in without]]
    return StableDiffusion3Pipeline.from_pretrained(folder, **dict.fromkeys(missing))


def denoiser(folder, pipe, machine=CPU, size=None):
    return StableDiffusion3(Repository(str(folder)), Told(StableDiffusion3, pipe), machine, size)


@pytest.fixture
def pipe(folder):
    return pipeline(folder)


@pytest.mark.parametrize("machine", [CPU, EXACT], ids=["float32", "float64"])
@pytest.mark.parametrize("gamma", [1.0, 4.5, 7.0])
def test_it_is_diffusers_pipeline_at_every_step(gamma, machine, folder, pipe, monkeypatch):
    model, bound = (
        denoiser(folder, in_precision(pipe, machine.dtype, monkeypatch), machine),
        BOUND[machine.dtype],
    )
    steps, x = noted(pipe, monkeypatch), start(model)
    pipe(list(PROMPTS), latents=x.clone(), guidance_scale=gamma, **CALL)
    assert len(steps) == 6 and any(step.t != int(step.t) for step in steps)
    for step in steps:
        mine = guided(PROMPTS, gamma)(model, step.x, step.t - 1, [0, 1]).native
        assert (mine + step.answer).abs().max() < bound and mine.abs().max() > 0.1
    follow(walked(model, guided(PROMPTS, gamma), grid_of(pipe), Euler(), x), [step.after for step in steps])


def test_in_half_precision_the_time_keeps_its_precision_as_in_the_pipeline(folder, pipe, monkeypatch):
    steps, model = (
        noted(pipe.to(torch.bfloat16), monkeypatch),
        denoiser(folder, pipe, DeviceSpec(dtype=torch.bfloat16)),
    )
    pipe(list(PROMPTS), latents=start(model), guidance_scale=1.0, **CALL)
    for step in steps:
        assert torch.equal(model.predict(step.x, step.t - 1, PROMPTS).native, -step.answer.float()), step.t


def test_prompts_are_encoded_as_the_pipeline_encodes_them_and_each_is_heard(folder, pipe):
    with torch.no_grad():
        tokens, null, pooled, null_pooled = pipe.encode_prompt(list(PROMPTS), None, None)
        mine, mine_null = (StableDiffusion3.encode_prompts(pipe, texts) for texts in (PROMPTS, ["", ""]))
    assert torch.equal(mine["tokens"], tokens) and torch.equal(mine["pooled"], pooled)
    assert torch.equal(mine_null["tokens"], null) and torch.equal(mine_null["pooled"], null_pooled)
    assert tuple(tokens.shape) == (2, 77 + StableDiffusion3.length, 32) and tuple(pooled.shape) == (2, 24)
    model = denoiser(folder, pipe)
    x = start(model)
    said, swapped = (model.predict(x, 500, prompts).native for prompts in (PROMPTS, PROMPTS[::-1]))
    assert (said - swapped).abs().max() > 0.01


@pytest.mark.parametrize("missing", MISSING, ids=" ".join)
def test_what_a_missing_encoder_would_say_is_zero(missing, pipe, tmp_path):
    folder = tiny_pipelines.sd3(tmp_path / "less", without=missing)
    with torch.no_grad():
        tokens, _, pooled, _ = pipe.encode_prompt(list(PROMPTS), None, None)
    for name in missing:
        tokens[:, *TOKENS[name]] = 0
        pooled[:, POOLED[name]] = 0
    found = PipelineText(str(folder)).embeddings(PROMPTS)
    assert torch.equal(torch.stack([one.condition["tokens"] for one in found]), tokens) and tokens.any()
    assert torch.equal(torch.stack([one.condition["pooled"] for one in found]), pooled)


def test_without_t5_it_is_diffusers_pipeline_without_t5(tmp_path, monkeypatch):
    t5 = ("text_encoder_3",)
    folder = tiny_pipelines.sd3(tmp_path / "less", without=t5)
    pipe = in_precision(pipeline(folder, without=t5), torch.float32, monkeypatch)
    model, steps = denoiser(folder, pipe), noted(pipe, monkeypatch)
    x = start(model)
    pipe(list(PROMPTS), latents=x.clone(), guidance_scale=4.5, **CALL)
    follow(walked(model, guided(PROMPTS, 4.5), grid_of(pipe), Euler(), x), [step.after for step in steps])


def test_without_any_encoder_a_prompt_is_a_sentence(tmp_path):
    folder = tiny_pipelines.sd3(tmp_path / "none", without=tuple(TOKENS))
    with pytest.raises(UserError, match=r"no text encoder.*model\.imported=FILE"):
        StableDiffusion3.encode_prompts(pipeline(folder, without=tuple(TOKENS)), PROMPTS)


def test_pictures_are_those_that_the_pipeline_shows_and_are_encoded_by_its_autoencoder(folder, pipe):
    model = denoiser(folder, pipe)
    x, pipe.vae = start(model), pipe.vae.eval()
    pipe.set_progress_bar_config(disable=True)
    latents = pipe(list(PROMPTS), latents=x.clone(), **CALL).images
    shown = pipe(list(PROMPTS), latents=x.clone(), **{**CALL, "output_type": "pt"}).images
    check_autoencoder(model, pipe, latents, shown, 0.0609, 1.5305)


def test_sizes_that_do_not_fit_are_sentences(folder, pipe):
    assert denoiser(folder, pipe, size=128).image_shape == (3, 128, 128)
    with pytest.raises(UserError, match=r"model\.size=72 does not fit.*multiples of 16"):
        denoiser(folder, pipe, size=72)
    with pytest.raises(UserError, match=r"model\.size=144 does not fit.*at most 128"):
        denoiser(folder, pipe, size=144)
