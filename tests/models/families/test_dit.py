"""DiT is diffusers' pipeline at every step; its prompts are names of classes."""

import json

import pytest
import torch

from expkit.core.estimate import guided
from expkit.core.schedules import CLEAN
from expkit.core.solvers import DDIM, DDPM, Update
from expkit.errors import UserError
from expkit.models.pretrained.families.dit import ClassLabels, DiT
from expkit.storage.hub import Repository
from tests import tiny_pipelines
from tests.models.families.parity import (
    CPU,
    EXACT,
    agree,
    check_answers,
    check_own_sampler,
    noted,
    start,
    walked,
)

CLASSES = ("golden retriever", "volcano")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_pipelines.dit(tmp_path_factory.mktemp("dit"))


@pytest.fixture
def pipe(folder):
    from diffusers import DiTPipeline

    return DiTPipeline.from_pretrained(folder)


@pytest.fixture
def model(folder):
    return DiT(Repository(str(folder)), None, CPU)


def run(pipe, x, monkeypatch, **call):
    """What the pipeline makes from the noise x."""
    from diffusers.pipelines.dit import pipeline_dit

    monkeypatch.setattr(pipeline_dit, "randn_tensor", lambda *a, **k: x.clone())
    return pipe(pipe.get_label_ids(list(CLASSES)), output_type="pt", **call).images


@pytest.mark.parametrize("gamma", [1.0, 4.0, 7.0])
def test_it_is_diffusers_pipeline_at_every_step_in_all_channels(gamma, folder, model, pipe, monkeypatch):
    steps, x, estimate = noted(pipe, monkeypatch), start(model), guided(CLASSES, gamma)
    shown = run(pipe, x, monkeypatch, num_inference_steps=8, guidance_scale=gamma)
    grid = (*[int(step.t) for step in steps], CLEAN)
    check_answers(model, estimate, steps, grid[:-1])  # with guidance the pipeline has each row twice
    assert steps[0].answer.shape[1] == 4
    mine = walked(model, estimate, grid, DDIM(), x)
    agree(mine, [step.after[:2] for step in steps])
    check_own_sampler(folder, model, estimate, steps, x)
    assert torch.allclose(model.decode(mine[-1]), shown, atol=1e-4) and model.image_shape == (3, 64, 64)


@pytest.mark.parametrize("gamma", [1.0, 4.0, 7.0])
def test_in_float64_it_answers_the_same_number_for_number(gamma, folder, pipe, monkeypatch):
    model, steps = DiT(Repository(str(folder)), None, EXACT), noted(pipe.to(torch.float64), monkeypatch)
    run(pipe, start(model), monkeypatch, num_inference_steps=5, guidance_scale=gamma)
    check_answers(model, guided(CLASSES, gamma), steps, [step.t for step in steps])


def test_the_variance_is_the_other_half_of_the_answer_as_diffusers_takes_it(model, pipe, monkeypatch):
    from diffusers import DDPMScheduler
    from diffusers.schedulers import scheduling_ddpm

    x, noise, t, s = start(model), torch.randn(2, 4, 8, 8), 900, 800
    with torch.no_grad():
        classes = torch.tensor(pipe.get_label_ids(list(CLASSES)))
        whole = pipe.transformer(x, timestep=torch.full((2,), t), class_labels=classes).sample
    config = {**pipe.scheduler.config, "variance_type": "learned_range"}
    scheduler = DDPMScheduler.from_config(config)
    scheduler.set_timesteps(timesteps=[t, s])
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *a, **k: noise.clone())
    theirs = scheduler.step(whole, t, x).prev_sample
    answer = model.predict(x, t, CLASSES)
    x0 = model.schedule.denoised(x, t, answer.native, "eps")
    mine = DDPM()(Update(model.schedule, x, x0, t, s, noise, answer.variance_fraction))
    assert model.learns_variance and (mine - theirs).abs().max() < 1e-4
    small = DDPM("small")(Update(model.schedule, x, x0, t, s, noise))
    assert (small - theirs).abs().max() > 1e-3


def test_pictures_are_encoded_by_the_mean_of_its_autoencoder(model, pipe):
    pictures = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = pipe.vae.encode(2 * pictures - 1).latent_dist.mean * pipe.vae.config.scaling_factor
    assert torch.allclose(model.encode(pictures), expected, atol=1e-5)


def test_a_prompt_is_any_name_of_a_class_in_a_phrase_too_or_its_number(model, pipe):
    for name, number in pipe.labels.items():
        assert model.classes.number(name) == number and model.canonical_prompt(name) == model.classes.name(
            number
        )
    for prompt, name in {
        "Golden Retriever": "golden retriever",
        "a photo of a tiger cat": "tiger cat",
        "a tiger": "tiger",
        "Panthera tigris": "tiger",
        "tabby cat": "tabby",
        "the panda bear": "giant panda",
        "207": "golden retriever",
        "134": "134",  # the bird: its only name is the machine's too
        "crane": "crane",
        "999": "999",
        "": "",
        "  ": "",
    }.items():
        assert model.canonical_prompt(prompt) == name
        assert model.canonical_prompt(name) == name
    assert model.condition(["crane", "134", ""])["classes"].tolist() == [517, 134, 1000]
    assert len(model.class_prompts) == 1000 and model.class_prompts[207] == "golden retriever"


@pytest.mark.parametrize("prompt", ["golden retreiver", "a castle and a volcano", "1000", "-1"])
def test_other_prompts_are_refused_with_what_is_known(prompt, model):
    with pytest.raises(UserError) as refused:
        model.prepare([prompt])
    text = str(refused.value)
    assert repr(prompt) in text and "tench" in text and "0 to 999" in text and len(text) < 400
    assert ("Did you mean golden retriever?" in text) == (prompt == "golden retreiver")


def test_a_model_without_names_takes_numbers():
    classes = ClassLabels({}, 1000)
    assert classes.find("12") == "12" and classes.find("") == "" and classes.number("") == 1000
    nameless = ClassLabels({"3": " ,"}, 1000)
    for one in (classes, nameless):
        with pytest.raises(UserError, match="0 to 999"):
            one.find("a cat")


def test_a_configuration_with_the_older_name_of_the_class_is_read(folder, model, tmp_path):
    import shutil

    shutil.copytree(folder, tmp_path / "older")
    path = tmp_path / "older" / "transformer" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "_class_name": "Transformer2DModel"}))
    older, x = DiT(Repository(str(tmp_path / "older")), None, CPU), start(model)
    older.check_weights()
    assert torch.equal(older.predict(x, 500, CLASSES).native, model.predict(x, 500, CLASSES).native)


def test_nothing_is_encoded_and_the_network_is_released(model):
    model.prepare([*CLASSES, ""])
    model.predict(start(model), 500, CLASSES)
    assert model.network.module is not None
    model.release()
    assert model.network.module is None and model.substitutions(CLASSES) == []
