"""Pretrained models are diffusers' own pipelines at every step, load only what they need when they need it, and fail in sentences."""

import json
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from PIL import Image

from expkit.core import timesteps
from expkit.core.denoiser import Counting
from expkit.core.estimate import anagram, guided, hybrid
from expkit.core.maps import LowPass
from expkit.core.sampler import keyed_noise, sample, seeded
from expkit.core.schedules import CLEAN
from expkit.core.solvers import DDIM, DDPM
from expkit.core.views import Identity, Rotate180
from expkit.errors import UserError
from expkit.models.pretrained import base, deepfloyd
from expkit.models.pretrained.configs import prediction_type_of, schedule_of
from expkit.models.pretrained.families.ddpm import unconditional_ddpm
from expkit.models.pretrained.families.stable_diffusion import stable_diffusion
from expkit.storage.hub import Repository
from tests import tiny_diffusers as tiny

CPU = base.DeviceSpec()
EXACT = base.DeviceSpec(dtype=torch.float64)
SEEDS = seeded(3, 2)
PROMPTS = ("a snowy village", "a rocket ship")
GRID = timesteps.strided_clean(1000, 11)
CALLS, TIMES = len(GRID) - 1, list(GRID[:-1])


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """The folder that holds every tiny model, made once."""
    folder = tmp_path_factory.mktemp("models")
    tiny.first(folder / "if" / "stage_1")
    tiny.second(folder / "if" / "stage_2")
    tiny.unconditional(folder / "ddpm", variance_type="fixed_small", clip_sample=True)
    return folder


@pytest.fixture
def stage_one(models):
    return deepfloyd.deepfloyd(tiny.Words(), EXACT, str(models / "if"))


@pytest.fixture(params=[EXACT, CPU], ids=["float64", "float32"])
def machine(request) -> base.DeviceSpec:
    """Both sides in float64, where equal is equal on every processor; and in float32, as they run, where they are only nearly so."""
    return request.param


def clipped(x0, denoiser):
    return x0.clamp(-1, 1)


def stage_two(models, machine=CPU):
    low = (torch.rand(2, 3, tiny.SIDE, tiny.SIDE) * 2 - 1).to(machine.dtype)
    noise = keyed_noise(SEEDS, "low", 0, (3, 2 * tiny.SIDE, 2 * tiny.SIDE))
    model = deepfloyd.deepfloyd_upscaler(low, lambda shape: noise, tiny.Words(), machine, str(models / "if"))
    return model, low, noise


def give(monkeypatch, *modules):
    """diffusers draws these noises, in this order, in these modules: give(…)(noise, noise, …)."""

    def these(*drawn):
        left = iter(drawn)
        for module in modules:
            monkeypatch.setattr(module, "randn_tensor", lambda *a, **k: next(left).clone())

    return these


def ours(model, estimate, grid=GRID, rule=DDPM(), clip=None, x=None):  # noqa: B008
    return [step.x for step in sample(model, estimate, grid, SEEDS, rule, clip=clip, x=x)]


def drawn(model, count, purpose="step"):
    return [keyed_noise(SEEDS, purpose, index, model.shape) for index in range(count)]


def begun(model, machine):
    """The pure noise that both sides begin with."""
    return drawn(model, 1, "start")[0].to(machine.dtype)


def precise(pipe, model, machine):
    """A pipeline of diffusers' in the machine's precision: in float64 with our coefficients, for its schedulers form theirs in float32."""
    pipe.to(machine.dtype)
    pipe.set_progress_bar_config(disable=True)
    if machine.dtype == torch.float64:
        pipe.scheduler.alphas_cumprod = model.schedule.alpha**2
    return pipe


def agree(name, mine, theirs, added=0.0):
    """Equal at every step but for rounding: within 5,000 roundings of the largest number among the states, and what theirs `added`."""
    apart = [float((a - b).abs().max()) for a, b in zip(mine, theirs, strict=True)]
    size, dtype = max(float(x.abs().max()) for x in theirs), theirs[-1].dtype
    print(
        f"{name:<46} {dtype} largest {max(apart):.1e} of {size:4.0f}   " + " ".join(f"{d:.0e}" for d in apart)
    )
    bound = 5000 * torch.finfo(dtype).eps * size + added
    assert mine[-1].dtype == dtype and max(apart) < bound and len(apart) > 3
    assert (
        max(float((a - b).abs().max()) for a, b in pairwise(mine)) > 100 * bound
    )  # there was something to get wrong


def if_pipeline(kind, folder):
    import diffusers

    missing = {
        "text_encoder": None,
        "tokenizer": None,
        "safety_checker": None,
        "feature_extractor": None,
        "watermarker": None,
    }
    return getattr(diffusers, kind).from_pretrained(folder, **missing, requires_safety_checker=False)


def told(prompts=PROMPTS, dtype=torch.float32):
    words = tiny.Words()
    return {
        "prompt_embeds": words.rows(prompts).to(dtype),
        "negative_prompt_embeds": words.rows([""] * len(prompts)).to(dtype),
    }


@pytest.mark.parametrize("gamma", [1.0, 1.5, 7.0])
def test_stage_one_is_diffusers_pipeline_at_every_step(gamma, models, machine, monkeypatch):
    from diffusers.pipelines.deepfloyd_if import pipeline_if
    from diffusers.schedulers import scheduling_ddpm

    model, theirs = deepfloyd.deepfloyd(tiny.Words(), machine, str(models / "if")), []
    start = begun(model, machine)
    give(monkeypatch, pipeline_if, scheduling_ddpm)(start, *drawn(model, CALLS))
    pipe = precise(if_pipeline("IFPipeline", models / "if" / "stage_1"), model, machine)
    record = lambda i, t, x: theirs.append(x.clone())
    pipe(
        **told(dtype=machine.dtype), timesteps=TIMES, guidance_scale=gamma, output_type="pt", callback=record
    )
    agree(
        f"DeepFloyd stage I, gamma {gamma}",
        ours(model, guided(PROMPTS, gamma), clip=tiny.thresholded, x=start),
        theirs,
    )


@pytest.mark.parametrize("gamma", [1.5, 7.0])
def test_stage_two_is_diffusers_pipeline_at_every_step(gamma, models, machine, monkeypatch):
    from diffusers.pipelines.deepfloyd_if import pipeline_if_superresolution
    from diffusers.schedulers import scheduling_ddpm

    model, low, noise = stage_two(models, machine)
    start, theirs = begun(model, machine), []
    give(monkeypatch, pipeline_if_superresolution, scheduling_ddpm)(start, noise, *drawn(model, CALLS))
    pipe = precise(if_pipeline("IFSuperResolutionPipeline", models / "if" / "stage_2"), model, machine)
    if machine.dtype == torch.float64:
        pipe.image_noising_scheduler.alphas_cumprod = pipe.scheduler.alphas_cumprod  # both are cosine
    record = lambda i, t, x: theirs.append(x.clone())
    settings = {
        "timesteps": TIMES,
        "guidance_scale": gamma,
        "noise_level": 250,
        "output_type": "pt",
        "callback": record,
    }
    pipe(**told(dtype=machine.dtype), image=low, **settings)
    agree(
        f"DeepFloyd stage II, gamma {gamma}",
        ours(model, guided(PROMPTS, gamma), clip=tiny.thresholded, x=start),
        theirs,
    )


def test_with_diffusers_own_embeddings_a_prompt_gives_what_its_pipeline_gives(machine, tmp_path, monkeypatch):
    from diffusers import IFPipeline
    from diffusers.pipelines.deepfloyd_if import pipeline_if
    from diffusers.schedulers import scheduling_ddpm
    from transformers import T5EncoderModel, T5Tokenizer

    folder = tiny.told(tmp_path)
    parts = {"safety_checker": None, "feature_extractor": None, "watermarker": None}
    parts |= {"text_encoder": T5EncoderModel.from_pretrained(folder / "text_encoder")}
    parts |= {"tokenizer": T5Tokenizer.from_pretrained(folder / "tokenizer")}
    words, theirs = tiny.Words(), []
    model = deepfloyd.deepfloyd(words, machine, str(folder))
    pipe = precise(IFPipeline.from_pretrained(folder, **parts, requires_safety_checker=False), model, machine)
    words.known = known = {
        p: pipe.encode_prompt(p, do_classifier_free_guidance=False)[0][0] for p in (*PROMPTS, "")
    }
    start = begun(model, machine)
    give(monkeypatch, pipeline_if, scheduling_ddpm)(start, *drawn(model, CALLS))
    record = lambda i, t, x: theirs.append(x.clone())
    pipe(
        list(PROMPTS),
        timesteps=TIMES,
        guidance_scale=7.0,
        output_type="pt",
        callback=record,
        clean_caption=False,
    )
    assert not torch.equal(known[PROMPTS[0]], known[PROMPTS[1]]) and known[""].shape == (77, tiny.WIDTH)
    agree(
        "DeepFloyd stage I, from text, gamma 7.0",
        ours(model, guided(PROMPTS, 7.0), clip=tiny.thresholded, x=start),
        theirs,
    )


def test_gamma_zero_is_unconditional_where_diffusers_takes_it_for_one(stage_one):
    nothing = ours(stage_one, guided(PROMPTS, 0.0), clip=tiny.thresholded)[-1]
    assert torch.allclose(nothing, ours(stage_one, guided("", 1.0), clip=tiny.thresholded)[-1], atol=1e-5)
    assert (nothing - ours(stage_one, guided(PROMPTS, 1.0), clip=tiny.thresholded)[-1]).abs().max() > 0.01


DDPMS = {
    "small, clipped": ({"variance_type": "fixed_small", "clip_sample": True}, DDPM("small"), clipped),
    "small": ({"variance_type": "fixed_small", "clip_sample": False}, DDPM("small"), None),
    "large, clipped": ({"variance_type": "fixed_large", "clip_sample": True}, DDPM("large"), clipped),
    "v": ({"prediction_type": "v_prediction", "clip_sample": True}, DDPM(), clipped),
    "x0": ({"prediction_type": "sample", "clip_sample": False}, DDPM(), None),
    "learned": (
        {"variance_type": "learned_range", "clip_sample": True, "beta_schedule": "squaredcos_cap_v2"},
        DDPM(),
        clipped,
    ),
}


@pytest.mark.parametrize("case", DDPMS)
def test_an_unconditional_model_is_diffusers_pipeline_at_every_step(case, machine, tmp_path, monkeypatch):
    from diffusers import DDPMPipeline
    from diffusers.pipelines.ddpm import pipeline_ddpm
    from diffusers.schedulers import scheduling_ddpm

    facts, rule, clip = DDPMS[case]
    folder = tiny.unconditional(tmp_path / "model", out_channels=6 if case == "learned" else 3, **facts)
    model, theirs = unconditional_ddpm(str(folder), machine), []
    pipe, start = precise(DDPMPipeline.from_pretrained(folder), model, machine), begun(model, machine)
    give(monkeypatch, pipeline_ddpm, scheduling_ddpm)(start, *drawn(model, 20))
    step = pipe.scheduler.step
    monkeypatch.setattr(pipe.scheduler, "step", lambda *a, **k: kept(theirs, step(*a, **k)))
    pipe(batch_size=2, num_inference_steps=20, output_type="pt")
    grid = (*range(950, -1, -50), CLEAN)
    agree(
        f"DDPM, {case}",
        ours(model, guided("", 7), grid, rule, clip, start),
        [out.prev_sample for out in theirs],
    )


def kept(kept_in, what):
    kept_in.append(what)
    return what


def latent_scheduler(kind, prediction):
    import diffusers

    facts = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "steps_offset": 1,
    }
    last = {"set_alpha_to_one": False} if kind == "DDIMScheduler" else {"timestep_spacing": "leading"}
    return getattr(diffusers, kind)(**facts, **last, prediction_type=prediction)


@pytest.mark.parametrize(
    ("kind", "rule", "end"), [("DDIMScheduler", DDIM(), 0), ("DDPMScheduler", DDPM(), CLEAN)]
)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_stable_diffusion_is_diffusers_pipeline_at_every_step(
    kind, rule, end, prediction, machine, tmp_path, monkeypatch
):
    from diffusers import StableDiffusionPipeline
    from diffusers.schedulers import scheduling_ddpm

    folder = tiny.stable_diffusion(tmp_path / "model", latent_scheduler(kind, prediction))
    model, theirs = stable_diffusion(tiny.Words(), machine, str(folder)), []
    missing = {"text_encoder": None, "tokenizer": None, "safety_checker": None, "feature_extractor": None}
    pipe = precise(
        StableDiffusionPipeline.from_pretrained(folder, **missing, requires_safety_checker=False),
        model,
        machine,
    )
    if kind == "DDIMScheduler" and machine.dtype == torch.float64:
        pipe.scheduler.final_alpha_cumprod = pipe.scheduler.alphas_cumprod[0]
    give(monkeypatch, scheduling_ddpm)(*drawn(model, 10))
    start = begun(model, machine)
    shown = pipe(
        **told(dtype=machine.dtype), latents=start.clone(), num_inference_steps=10, guidance_scale=7.5, output_type="pt",
        callback_on_step_end=lambda pipe, i, t, held: {"latents": kept(theirs, held["latents"].clone())},
    ).images  # fmt: skip
    mine = ours(model, guided(PROMPTS, 7.5), (*range(901, 0, -100), end), rule, x=start)
    noise = (
        5e-10 if kind == "DDPMScheduler" else 0.0
    )  # its last noise has a standard deviation of 1e-10, where it clamps the variance
    agree(f"Stable Diffusion, {kind}, {prediction}", mine, theirs, noise)
    assert model.image_shape == tuple(shown.shape[1:]) and torch.allclose(
        model.decode(theirs[-1]), shown.float(), atol=1e-4
    )


def test_latents_of_a_picture_are_those_of_the_mean_of_the_encoder(tmp_path):
    from diffusers import AutoencoderKL

    folder = tiny.stable_diffusion(tmp_path / "model", latent_scheduler("DDIMScheduler", "epsilon"))
    model = stable_diffusion(tiny.Words(), CPU, str(folder), size=32)
    images = torch.rand(2, *model.image_shape)
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae")
    expected = vae.encode(2 * images - 1).latent_dist.mean * vae.config.scaling_factor
    assert torch.allclose(model.encode(images), expected, atol=1e-5) and tuple(
        expected.shape[1:]
    ) == model.shape == (4, 16, 16)
    assert torch.equal(model.encode(images), model.encode(images))


def test_a_view_turns_the_small_picture_with_the_large_one(models):
    """Stage II told the same thing of a turned picture answers what it answers upright, turned: only if both are turned."""
    model, low, noise = stage_two(models, EXACT)
    turned = deepfloyd.deepfloyd_upscaler(
        low.rot90(2, (2, 3)), lambda shape: noise.rot90(2, (2, 3)), tiny.Words(), EXACT, str(models / "if")
    )
    x = torch.randn(2, *model.shape)
    asked, view = guided(PROMPTS, 7), Rotate180()
    assert torch.allclose(
        asked.through(view)(model, x, 500).native, view.inverse(asked(turned, view(x), 500).native), atol=1e-5
    )


def test_a_model_of_texts_has_no_class_prompts(stage_one):
    assert stage_one.class_prompts == Counting(stage_one).class_prompts == ()


def test_concat_condition_gives_each_picture_its_own(models):
    model, _, _ = stage_two(models)
    x = torch.zeros(1, *model.shape)
    first, second = model.concat_condition(x, [0]), model.concat_condition(x, [1])
    both = model.concat_condition(x.expand(2, -1, -1, -1), [0, 1])
    assert torch.equal(second[:, 3:], both[1:, 3:]) and not torch.equal(first, second)


def test_every_task_runs_one_forward_a_step(stage_one):
    net = Counting(stage_one)
    both = anagram(
        {"a": guided("one", 7), "b": hybrid(guided("two"), guided("three"), LowPass(2.0))},
        {"a": Identity(), "b": Rotate180()},
    )
    assert all(x.isfinite().all() for x in ours(net, both, GRID[-4:], clip=tiny.thresholded))
    assert net.rows == [10, 10, 10]


def test_nothing_is_loaded_before_it_is_asked_and_all_is_given_back(models):
    words = tiny.Words()
    model = deepfloyd.deepfloyd(words, CPU, str(models / "if"))
    model.prepare(["a", "b"])
    assert words.prepared == ["a", "b"] and model.network.module is None
    answer = model.predict(torch.zeros(1, *model.shape), 500, ["a"])
    assert (
        answer.native.dtype == answer.variance_fraction.dtype == torch.float32
        and model.network.module is not None
    )
    model.release()
    assert model.network.module is None
    assert torch.equal(model.predict(torch.zeros(1, *model.shape), 500, ["a"]).native, answer.native)


def test_embeddings_are_stacked_once_while_the_prompts_stay(models, monkeypatch):
    words, stacked = tiny.Words(), []
    model = deepfloyd.deepfloyd(words, CPU, str(models / "if"))
    monkeypatch.setattr(words, "rows", lambda texts: kept(stacked, tiny.Words().rows(texts)))
    ours(model, guided(PROMPTS, 7), clip=tiny.thresholded)
    assert len(stacked) == 1 and len(stacked[0]) == 4


def test_only_the_input_is_cast(models):
    x = torch.randn(2, 3, tiny.SIDE, tiny.SIDE)
    exact, half = (
        deepfloyd.deepfloyd(tiny.Words(), base.DeviceSpec(dtype=dtype), str(models / "if")).predict(
            x, 500, PROMPTS
        )
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert half.native.dtype == torch.float32
    assert 1e-4 < (half.native - exact.native).abs().max() < 0.2


def test_offloading_is_accelerates(models, monkeypatch):
    moved = []
    monkeypatch.setitem(sys.modules, "accelerate", type(sys)("accelerate"))
    sys.modules["accelerate"].cpu_offload = lambda module, device: kept(moved, module)
    model = deepfloyd.deepfloyd(tiny.Words(), base.DeviceSpec(offload=True), str(models / "if"))
    monkeypatch.setattr(model.network.repository.__class__, "load", lambda *a, **k: torch.nn.Identity())
    assert model.network.loaded() is moved[0]
    monkeypatch.setitem(sys.modules, "accelerate", None)
    model.release()
    with pytest.raises(UserError, match="pip install accelerate"):
        model.network.loaded()


def test_the_oldest_repositories_lie_at_the_top(models, tmp_path):
    """google/ddpm-cat-256 has config.json and scheduler_config.json beside model_index.json."""
    for path in [
        *(models / "ddpm" / "unet").iterdir(),
        *(models / "ddpm" / "scheduler").iterdir(),
        models / "ddpm" / "model_index.json",
    ]:
        shutil.copy(path, tmp_path)
    x = torch.randn(1, 3, tiny.SIDE, tiny.SIDE)
    old, new = (
        unconditional_ddpm(str(folder), CPU).predict(x, 10, [""]).native
        for folder in (tmp_path, models / "ddpm")
    )
    assert torch.equal(old, new)


def test_weights_in_half_precision_are_taken_where_they_are_wanted_or_all_there_is(models, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(models / "ddpm", folder)
    whole, half = (
        folder / "unet" / f"diffusion_pytorch_model{variant}.safetensors" for variant in ("", ".fp16")
    )
    shutil.copy(whole, half)
    weights = Repository(str(folder)).weights("unet")
    assert weights.choose_variant(half=True) == "fp16" and weights.choose_variant(half=False) is None
    whole.unlink()
    assert weights.choose_variant(half=False) == "fp16"
    assert (
        unconditional_ddpm(str(folder), CPU)
        .predict(torch.zeros(1, 3, tiny.SIDE, tiny.SIDE), 10, [""])
        .native.isfinite()
        .all()
    )


SCHEDULES = {
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "squaredcos_cap_v2": {"beta_schedule": "squaredcos_cap_v2"},
    "trained": {"trained_betas": torch.linspace(0.001, 0.01, 40).tolist(), "num_train_timesteps": 40},
    "zero terminal": {
        "beta_schedule": "linear",
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "rescale_betas_zero_snr": True,
    },
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_diffusers(name):
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(**SCHEDULES[name])
    mine = schedule_of(json.loads(theirs.to_json_string()))
    assert mine.alpha.dtype == torch.float64 and len(mine) == len(theirs)
    assert torch.allclose(mine.alpha**2, theirs.alphas_cumprod.double(), rtol=1e-3, atol=1e-6)


def test_what_a_network_answers_is_known_by_its_schedulers_configuration():
    assert [prediction_type_of({"prediction_type": p}) for p in ("epsilon", "v_prediction", "sample")] == [
        "eps",
        "v",
        "x0",
    ]


def test_a_model_that_is_not_told_refuses_to_be_told(models):
    model = unconditional_ddpm(str(models / "ddpm"), CPU)
    assert model.canonical_prompt("") == ""
    with pytest.raises(UserError, match=r"'a cat'.*null prompt"):
        model.prepare(["", "a cat"])


def test_embeddings_of_another_encoder_are_refused(models):
    model = deepfloyd.deepfloyd(tiny.Words(width=7), CPU, str(models / "if"))
    with pytest.raises(UserError, match=r"7 wide.*model\.encoder.*model\.imported"):
        model.predict(torch.zeros(1, *model.shape), 500, ["a"])


def emptied(folder, *names):
    for name in names:
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (["unet"], r"no unet/config\.json.*model\.weights=FOLDER.*model=digits"),
        (["scheduler"], r"no scheduler/scheduler_config\.json"),
        (["unet/diffusion_pytorch_model.safetensors"], "no weights in unet/ as safetensors"),
    ],
)
def test_a_folder_that_lacks_something_is_refused_before_anything_is_loaded(lost, said, models, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(models / "ddpm", folder)
    emptied(folder, *lost)
    with pytest.raises(UserError, match=said):
        unconditional_ddpm(str(folder), CPU)


def test_what_cannot_be_loaded_is_said(models, tmp_path):
    with pytest.raises(UserError, match=r"no folder /nowhere.*model_index\.json.*model\.weights=FOLDER"):
        deepfloyd.deepfloyd(tiny.Words(), CPU, "/nowhere")
    with pytest.raises(UserError, match=r"model\.dtype=f8 is not known.*bfloat16"):
        base.device_spec("cpu", "f8")
    with pytest.raises(UserError, match=r"holds a UNet2DModel.*model=ddpm"):
        deepfloyd.deepfloyd(tiny.Words(), CPU, str(models / "ddpm"))
    with pytest.raises(UserError, match=r"6 channels.*stage II"):
        deepfloyd.deepfloyd(tiny.Words(), CPU, str(models / "if" / "stage_2"))
    with pytest.raises(UserError, match=r"no stage II.*model\.second="):
        deepfloyd.deepfloyd_upscaler(
            torch.zeros(1, 3, 8, 8), torch.zeros, tiny.Words(), CPU, str(models / "ddpm")
        )
    for level in (5000, -1, "many"):
        with pytest.raises(UserError, match=rf"model\.noise_level={level} does not fit.*0 to 999"):
            deepfloyd.deepfloyd_upscaler(
                torch.zeros(1, 3, 8, 8), torch.zeros, tiny.Words(), CPU, str(models / "if"), noise_level=level
            )
    with pytest.raises(UserError, match=r"model.size=xxl.*There are: m, l, xl"):
        deepfloyd.deepfloyd(tiny.Words(), CPU, size="xxl")
    damaged = tmp_path / "model"
    shutil.copytree(models / "ddpm", damaged)
    (damaged / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match="cannot be loaded"):
        unconditional_ddpm(str(damaged), CPU).predict(torch.zeros(1, 3, tiny.SIDE, tiny.SIDE), 0, [""])


def raised(kind, *causes):
    """An error of huggingface_hub's as it comes up through other libraries."""
    from types import SimpleNamespace

    from huggingface_hub import errors

    response = SimpleNamespace(headers={}, request=SimpleNamespace(url=""), status_code=401)
    made = getattr(errors, kind)
    error = made("no", response=response) if issubclass(made, errors.HfHubHTTPError) else made("no")
    outer = OSError("something went wrong")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("GatedRepoError", "licence.*https://huggingface.co/some/model, then run `hf auth login`"),
        ("RepositoryNotFoundError", "no repository some/model.*hf auth login"),
        ("LocalEntryNotFoundError", "online.*model.weights=FOLDER.*model=digits"),
        ("OfflineModeIsEnabled", "online.*model.weights=FOLDER"),
    ],
)
def test_what_the_hub_says_becomes_a_sentence_that_names_the_next_command(kind, said):
    with pytest.raises(UserError, match=said), Repository("some/model").errors.explained():
        raise raised(kind)


def test_no_variant_at_all_is_a_defect_of_the_caller(tmp_path):
    with pytest.raises(ValueError, match="no variant"):
        Repository(str(tmp_path)).load(object, variants=())


def test_a_licence_that_is_not_accepted_is_said_at_once(monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"nobody is logged in here.*IF-I-M-v1.0, then run `hf auth login`"):
        deepfloyd.deepfloyd(tiny.Words(), CPU)
    with pytest.raises(UserError, match=r"nobody is logged in here.*IF-II-L-v1.0, then run `hf auth login`"):
        deepfloyd.deepfloyd_upscaler(torch.zeros(1, 3, 8, 8), torch.zeros, tiny.Words(), CPU, size="xl")


def separate(code, tmp_path, **environment):
    """What a process of its own prints, with an empty cache of the hub."""
    import os

    given = {**os.environ, "HF_HOME": str(tmp_path / "hub"), **environment}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=110, env=given, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


OFFLINE = """
from expkit.models.pretrained import base, deepfloyd
from expkit.models.pretrained.families.ddpm import unconditional_ddpm
from expkit.errors import UserError
device = base.DeviceSpec()
for ask in (lambda: unconditional_ddpm("google/ddpm-cat-256", device), lambda: deepfloyd.deepfloyd(None, device)):
    try: ask()
    except UserError as refusal: print(refusal)
"""


def test_offline_an_id_that_is_not_on_this_machine_is_a_sentence(tmp_path):
    said = separate(OFFLINE, tmp_path, HF_HUB_OFFLINE="1").splitlines()
    assert len(said) == 2 and all(
        "HF_HUB_OFFLINE is set" in line and "model.weights=FOLDER" in line for line in said
    )


STORED = """
import sys, torch
from expkit.models.pretrained import base, deepfloyd
from expkit.core.estimate import guided
from expkit.core.sampler import sample, seeded
from tests.tiny_diffusers import Words
model = deepfloyd.deepfloyd(Words(), base.DeviceSpec(), {folder!r})
assert "diffusers" not in sys.modules
list(sample(model, guided("a"), (990, 500, -1), seeded(0, 1)))
print("diffusers" in sys.modules, [name for name in sys.modules if name.startswith("transformers.models.t5")])
"""


def test_a_run_with_stored_embeddings_never_imports_t5(models, tmp_path):
    assert separate(STORED.format(folder=str(models / "if")), tmp_path).strip() == "True []"


@pytest.fixture
def words(monkeypatch):
    """Commands read prompts as tiny models do, without an encoder."""
    from expkit.text import embedding_store, encoders, prompt_embeddings

    monkeypatch.setattr(prompt_embeddings, "Embeddings", tiny.Words)
    monkeypatch.setattr(embedding_store, "Store", dict)
    monkeypatch.setattr(encoders, "T5", dict)


@pytest.mark.parametrize("task", ["sample", "hybrid", "anagram", "sdedit", "inpaint"])
def test_every_task_runs_with_deepfloyd(task, models, expkit, words):
    done = expkit(
        "model=deepfloyd", f"model.weights={models / 'if'}", "model.device=cpu", "model.dtype=float32", f"task={task}", "logger=none",
        "steps=3", "samples=1", "prompt=a rocket", "i_start=[1,2]",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.numbers()["network_calls"] in (2, 3) and "judged" not in done.numbers()


def test_a_picture_goes_through_the_second_stage_alone(models, expkit, words):
    settings = [
        "model=deepfloyd",
        f"model.weights={models / 'if'}",
        "model.device=cpu",
        "model.dtype=float32",
        "logger=none",
        "steps=3",
    ]
    done = expkit(*settings, "task=upscale", "image=cat")
    assert done.code == 0, done.err
    numbers = done.numbers()
    assert numbers["network_calls"] == 0 and numbers["second_stage"]["network_calls"] == 3
    assert Image.open(done.folder / numbers["pictures"][0]["file"]).size == (2 * tiny.SIDE, 2 * tiny.SIDE)


@pytest.fixture
def spoiled(models, tmp_path):
    """Makes a folder whose network of this stage is cut off, or is another's, and says where it is."""

    def spoil(stage: str, how: str) -> Path:
        shutil.copytree(models / "if", tmp_path / "if")
        weights = tmp_path / "if" / stage / "unet/diffusion_pytorch_model.safetensors"
        other = models / "if" / {"stage_1": "stage_2", "stage_2": "stage_1"}[stage] / "unet" / weights.name
        weights.write_bytes(weights.read_bytes()[:-100] if how == "cut off" else other.read_bytes())
        return tmp_path / "if"

    return spoil


class Encodes(tiny.Words):
    """Embeddings that have to be encoded: room is made before."""

    widths: ClassVar[set] = {tiny.WIDTH}
    encoded: ClassVar[list] = []

    def prepare(self, texts, make_room=None):
        make_room()
        self.encoded.extend(texts)


@pytest.mark.parametrize(
    ("how", "says"),
    [("cut off", "incomplete metadata"), ("another's", "tensors are missing or of another shape")],
)
@pytest.mark.parametrize("stage", ["stage_1", "stage_2"])
def test_weights_that_do_not_fit_are_refused_before_prompts_are_encoded_or_anything_is_sampled(
    stage, how, says, spoiled, expkit, words, monkeypatch
):
    from expkit.text import prompt_embeddings

    monkeypatch.setattr(prompt_embeddings, "Embeddings", Encodes)
    monkeypatch.setattr(base.LoadedNetwork, "loaded", lambda self: pytest.fail("a network was loaded"))
    monkeypatch.setattr(Encodes, "encoded", [])
    done = expkit("model=deepfloyd", f"model.weights={spoiled(stage, how)}", "model.device=cpu", "model.dtype=float32", "logger=none",
                  "steps=3", "samples=1", "prompt=a rocket", "upscale=true")  # fmt: skip
    assert (
        done.code == 2
        and says in done.err
        and f"{stage} cannot be loaded" in done.err
        and Encodes.encoded == []
    )


def test_an_encoder_of_another_width_is_refused_before_it_encodes(models, monkeypatch):
    monkeypatch.setattr(Encodes, "encoded", [])
    monkeypatch.setattr(Encodes, "widths", {tiny.WIDTH + 8})
    with pytest.raises(UserError, match=f"{tiny.WIDTH + 8} wide, and this model was trained on {tiny.WIDTH}"):
        deepfloyd.deepfloyd(Encodes(), CPU, str(models / "if")).prepare(["a rocket"])
    assert Encodes.encoded == []


def test_weights_in_several_files_and_under_old_names_are_known(models, tmp_path):
    from diffusers import UNet2DModel
    from safetensors.torch import load_file, save_file

    shutil.copytree(models / "ddpm", tmp_path / "old")
    file = tmp_path / "old/unet/diffusion_pytorch_model.safetensors"
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = lambda name: next(
        (name.replace(new, old) for new, old in names.items() if f".{new}." in name), name
    )
    save_file({old(name): value for name, value in load_file(file).items()}, file)
    shutil.copytree(models / "ddpm", tmp_path / "parts")
    UNet2DModel.from_pretrained(models / "ddpm/unet").save_pretrained(
        tmp_path / "parts/unet", max_shard_size="100KB"
    )
    (tmp_path / "parts/unet" / file.name).unlink()
    assert len(list((tmp_path / "parts/unet").glob("*.safetensors"))) > 1 and any(
        ".query." in name for name in load_file(file)
    )
    for folder in ("old", "parts"):
        unconditional_ddpm(str(tmp_path / folder), CPU).check_weights()
    next((tmp_path / "parts/unet").glob("*00002*.safetensors")).unlink()
    with pytest.raises(UserError, match="tensors are missing"):
        unconditional_ddpm(str(tmp_path / "parts"), CPU).check_weights()


def test_what_a_latent_model_keeps_of_a_picture_is_kept_to_the_byte(expkit, words, tmp_path, monkeypatch):
    from expkit.images import image_io
    from expkit.text import encoders

    monkeypatch.setattr(encoders, "CLIPText", dict)
    folder = tiny.stable_diffusion(
        tmp_path / "sd", tiny.scheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1)
    )
    given = (
        "model=stable_diffusion",
        f"model.weights={folder}",
        "model.device=cpu",
        "logger=none",
        "steps=3",
        "image=cat",
        "prompt=a dog",
    )
    masked, itself = (
        expkit(*given, "task=inpaint", "mask=lower_half", "samples=1"),
        expkit(*given, "task=sdedit", "i_start=[1,3,null]"),
    )
    assert masked.code == itself.code == 0, masked.err + itself.err
    shown = lambda done, file: image_io.as_tensor(Image.open(done.folder / file))
    assert torch.equal(*(shown(masked, f"{kind}/000.png")[:, :8] for kind in ("pictures", "original")))
    assert not torch.equal(*(shown(masked, f"{kind}/000.png")[:, 8:] for kind in ("pictures", "original")))
    same = [
        torch.equal(shown(itself, f"pictures/{k:03d}.png"), shown(itself, "original/000.png"))
        for k in range(3)
    ]
    assert same == [False, True, True] and itself.numbers()["rows"] == 2 * itself.numbers()["network_calls"]


def test_an_unconditional_model_samples_by_the_command(models, expkit):
    settings = ["model=ddpm", f"model.weights={models / 'ddpm'}", "model.device=cpu", "logger=none"]
    settings += ["steps=2", "samples=1", "i_start=1"]
    done = expkit(*settings, "task=sample")
    assert done.code == 0 and done.numbers()["rows_per_call"] == 1, done.err
    told = expkit(*settings, "task=sample", "prompt=a cat")
    assert told.code == 2 and "not told what to show" in told.err
