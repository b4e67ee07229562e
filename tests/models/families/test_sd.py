"""Stable Diffusion and SDXL are diffusers' pipelines at every step, and their encoders are loaded once, when they are needed."""

import json
import shutil
import weakref

import pytest
import torch

from expkit.core.estimate import guided
from expkit.core.schedules import CLEAN
from expkit.core.solvers import DDIM, DPMpp
from expkit.errors import UserError
from expkit.models.pretrained.any_pipeline import diffusers_model
from expkit.models.pretrained.base import LoadedNetwork
from expkit.models.pretrained.families.stable_diffusion import StableDiffusion
from expkit.models.pretrained.families.stable_diffusion_xl import StableDiffusionXL
from expkit.models.pretrained.pipeline_text import PipelineText
from expkit.storage.hub import Repository
from expkit.text import encoders
from expkit.text.embedding_store import Store
from expkit.text.prompt_embeddings import Embeddings
from tests import tiny_pipelines
from tests.models.families.parity import CPU, PROMPTS, agree, noted, start, walked

NAMES = ("sd", "sdxl")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: tiny_pipelines.FAMILIES[name](tmp_path_factory.mktemp("tiny") / name) for name in NAMES}


@pytest.fixture(scope="module", params=NAMES)
def folder(request, folders):
    return folders[request.param]


def pipeline(folder, scheduler="DDIMScheduler"):
    import diffusers

    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, safety_checker=None)
    config = {**pipe.scheduler.config, "clip_sample": False, "set_alpha_to_one": True}
    pipe.scheduler = getattr(diffusers, scheduler).from_config(config)
    return pipe


def embeddings(folder):
    return Embeddings(Store(), PipelineText(str(folder)))


def model_of(folder, **more):
    return diffusers_model(embeddings(folder), CPU, str(folder), **more)


@pytest.mark.parametrize("gamma", [1.0, 4.5, 7.0])
@pytest.mark.parametrize(
    ("scheduler", "rule"), [("DDIMScheduler", DDIM()), ("DPMSolverMultistepScheduler", DPMpp())]
)
def test_it_is_diffusers_pipeline_at_every_step(scheduler, rule, gamma, folder, monkeypatch):
    pipe, model = pipeline(folder, scheduler), model_of(folder)
    steps, x = noted(pipe, monkeypatch), start(model)
    pipe(list(PROMPTS), latents=x.clone(), num_inference_steps=8, guidance_scale=gamma, output_type="latent")
    estimate = guided(PROMPTS, gamma)
    for step in steps:
        mine = estimate(model, step.x, step.t, [0, 1]).native
        assert (mine - step.answer).abs().max() < 1e-4 and mine.abs().max() > 0.1
    grid = (*[int(step.t) for step in steps], CLEAN)
    agree(walked(model, estimate, grid, rule, x), [step.after for step in steps])


def test_each_prompt_is_heard_and_pictures_are_those_of_the_pipeline(folder):
    pipe, model = pipeline(folder), model_of(folder)
    x = start(model)
    said, swapped = (model.predict(x, 500, prompts).native for prompts in (PROMPTS, PROMPTS[::-1]))
    assert (said - swapped).abs().max() > 0.001
    call = {"num_inference_steps": 2, "guidance_scale": 4.5}
    shown = pipe(list(PROMPTS), latents=x.clone(), **call, output_type="pt").images
    latents = pipe(list(PROMPTS), latents=x.clone(), **call, output_type="latent").images
    assert torch.allclose(model.decode(latents), shown, atol=1e-5)
    assert model.image_shape == tuple(shown.shape[1:]) == (3, 64, 64)
    with torch.no_grad():
        expected = pipe.vae.encode(2 * shown - 1).latent_dist.mean * pipe.vae.config.scaling_factor
    assert torch.allclose(model.encode(shown), expected, atol=1e-5)


def test_sdxl_is_told_the_size_of_its_pictures(folders, monkeypatch):
    folder = folders["sdxl"]
    pipe, model = pipeline(folder), model_of(folder, size=96)
    steps, x = noted(pipe, monkeypatch), start(model)
    call = {"num_inference_steps": 4, "guidance_scale": 4.5, "output_type": "latent"}
    pipe(list(PROMPTS), latents=x.clone(), height=96, width=96, **call)
    mine = guided(PROMPTS, 4.5)(model, x, steps[0].t, [0, 1]).native
    assert model.image_shape == (3, 96, 96) and (mine - steps[0].answer).abs().max() < 1e-4
    monkeypatch.setattr(StableDiffusionXL, "image_shape", (3, 64, 64))
    other = guided(PROMPTS, 4.5)(model, x, steps[0].t, [0, 1]).native
    assert (other - mine).abs().max() > 1e-4


@pytest.mark.parametrize("zeros", [True, False])
def test_the_null_prompt_of_sdxl_is_zero_where_it_was_trained_so(zeros, folders, tmp_path):
    folder = shutil.copytree(folders["sdxl"], tmp_path / "sdxl")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"force_zeros_for_empty_prompt": zeros}))
    held = embeddings(folder)
    rows = held.conditions(["", "a dog", ""])
    pipe = pipeline(folder)
    with torch.no_grad():
        tokens, null, pooled, null_pooled = pipe.encode_prompt(["a dog"], device="cpu")
    assert zeros == (null.abs().max() == 0) == (null_pooled.abs().max() == 0)
    torch.testing.assert_close(rows["tokens"], torch.cat([null, tokens, null]), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        rows["pooled"], torch.cat([null_pooled, pooled, null_pooled]), atol=1e-6, rtol=0
    )


def test_the_short_name_shows_what_the_family_shows(folders):
    """model=stable_diffusion encodes with CLIPText, model=diffusers with the pipeline."""
    folder = folders["sd"]
    short = Embeddings(Store(), encoders.CLIPText(str(folder)))
    models = [
        diffusers_model(held, CPU, str(folder)) for held in (short, embeddings(folder))
    ]  # fmt: skip
    x = start(models[0])
    first, second = (model.predict(x, 500, ["a dog", ""]).native for model in models)
    torch.testing.assert_close(first, second, atol=1e-6, rtol=0)


def test_encoders_and_networks_are_never_in_memory_together(folder, monkeypatch):
    model, loaded, networks = model_of(folder), [], []
    load, read = PipelineText.encoder, LoadedNetwork.read

    def encoder(self, name, how):
        assert model.network.module is None and model.vae.module is None
        assert not alive(networks)
        network = load(self, name, how)
        loaded.append(weakref.ref(network))
        return network

    def network(self):
        assert not alive(loaded)
        module = read(self)
        networks.append(weakref.ref(module))
        return module

    monkeypatch.setattr(PipelineText, "encoder", encoder)
    monkeypatch.setattr(LoadedNetwork, "read", network)
    for prompt in ("a dog", "a cat"):  # the second comes while the network of the first is there
        model.prepare([prompt, ""])
        model.decode(model.predict(torch.zeros(2, *model.shape), 500, [prompt, ""]).native)
    count = len(
        [name for name in json.loads((folder / "model_index.json").read_text()) if "text_enc" in name]
    )
    assert len(loaded) == 2 * count and len(networks) == 4


def alive(references) -> list:
    return [one for one in (reference() for reference in references) if one is not None]


@pytest.fixture
def encoded(monkeypatch):
    """Every batch of texts that a pipeline encodes."""
    batches, encode = [], PipelineText.embeddings
    monkeypatch.setattr(
        PipelineText, "embeddings", lambda self, texts: batches.append(list(texts)) or encode(self, texts)
    )
    return batches


def test_a_text_is_encoded_once_ever(folder, encoded):
    assert model_of(folder).prepare(["a dog", "", "a dog"]) is None and encoded == [["a dog", ""]]
    model = model_of(folder)
    model.prepare(["", "a dog", "a cat"])
    assert encoded[1:] == [["a cat"]]
    assert set(model.condition(["a cat"])) == set(model.needs)


COMMAND = (
    "model=diffusers",
    "model.device=cpu",
    "model.dtype=float32",
    "logger=none",
    "steps=2",
    "samples=1",
)


def test_a_sweep_encodes_each_text_once(folders, expkit, encoded):
    sweep = (*COMMAND, f"model.weights={folders['sdxl']}", "prompt=a dog,a cat", "gamma=2,4")
    done = expkit("-m", "task=sample", *sweep)
    assert done.code == 0, done.err
    texts = [text for batch in encoded for text in batch]  # "" may be there from an earlier test
    assert sorted(text for text in texts if text) == ["a cat", "a dog"] and texts.count("") <= 1
    again = expkit("-m", "task=sample", *sweep, "seed=5")
    assert again.code == 0 and sum(map(len, encoded)) == len(texts), again.err


def test_a_hybrid_by_the_command_asks_for_all_prompts_at_once_and_replays(folder, expkit, encoded):
    done = expkit(*COMMAND, f"model.weights={folder}", "task=hybrid", "far=a skull", "near=waterfalls")
    assert done.code == 0, done.err
    numbers = done.numbers()
    calls = numbers["network_calls"]
    assert calls >= 2 and numbers["rows"] == 3 * calls  # far, near, and the null prompt
    assert len(encoded) == 1 and {"a skull", "waterfalls"} <= set(encoded[0])
    again = expkit(f"replay={done.folder / 'pictures' / '000.png'}")
    assert again.code == 0, again.err
    assert again.folder != done.folder and len(encoded) == 1
    assert pixels(done) == pixels(again) and len(set(pixels(done))) > 10


def pixels(done) -> bytes:
    from PIL import Image

    return Image.open(done.folder / "pictures" / "000.png").tobytes()


def changed(folder, tmp_path, part, **facts):
    """A copy of the model whose configuration of this part says something else."""
    copy = shutil.copytree(folder, tmp_path / "changed")
    path = copy / part
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    return Repository(str(copy))


def test_the_refiner_is_refused(folders, tmp_path):
    facts = {"_class_name": "StableDiffusionXLImg2ImgPipeline", "requires_aesthetics_score": True}
    repository = changed(folders["sdxl"], tmp_path, "model_index.json", **facts)
    with pytest.raises(UserError, match=r"refiner.*stable-diffusion-xl-base-1\.0"):
        StableDiffusionXL(repository, None, CPU)


def test_networks_that_need_more_than_a_latent_are_refused(folders, tmp_path):
    repository = changed(folders["sd"], tmp_path, "unet/config.json", in_channels=9)
    with pytest.raises(UserError, match="9 channels"):
        StableDiffusion(repository, None, CPU)
    shutil.rmtree(tmp_path / "changed")
    repository = changed(folders["sd"], tmp_path, "unet/config.json", time_cond_proj_dim=256)
    with pytest.raises(UserError, match="latent consistency model"):
        StableDiffusion(repository, None, CPU)


def test_embeddings_without_the_pooled_text_are_refused(folders):
    held = Embeddings(Store(), encoders.CLIPText(str(folders["sdxl"])))
    with pytest.raises(UserError, match=r"without pooled.*another text encoder"):
        diffusers_model(held, CPU, str(folders["sdxl"])).prepare(["a dog"])


def test_a_text_that_is_cut_is_told(folder, stderr):
    long = "a photo of a snowy mountain village and " * 10
    embeddings(folder).prepare([long, "a dog"])
    said = stderr()
    assert said.count("of which 77 are read; cut off: ") == 1 and "snowy mountain village and" in said
    assert "Loading" not in said and "truncated" not in said  # what the libraries would say themselves
