"""A folder or id says which family it is; what it lacks, and a pipeline that is none of ours, is said in a sentence."""

import json
import shutil
import subprocess
import sys

import pytest
import torch

from expkit.core.schedules import flow
from expkit.errors import UserError
from expkit.models.pretrained import families
from expkit.models.pretrained.any_pipeline import diffusers_model
from expkit.models.pretrained.base import Conditions
from expkit.models.pretrained.configs import prediction_type_of, schedule_of
from expkit.models.pretrained.deepfloyd import deepfloyd
from expkit.models.pretrained.families.ddpm import unconditional_ddpm
from expkit.models.pretrained.families.family import with_null
from expkit.models.pretrained.pipeline_text import PipelineText
from expkit.storage.hub import Repository
from expkit.text.embedding_store import Store
from expkit.text.encoders import T5
from expkit.text.prompt_embeddings import Embeddings
from tests import tiny_diffusers as tiny
from tests import tiny_pipelines
from tests.models.families.parity import CPU


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {
        name: tiny_pipelines.FAMILIES[name](tmp_path_factory.mktemp("tiny") / name)
        for name in ("sd", "sdxl", "if", "ddpm")
    }


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No network, and an empty cache of the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def model_of(folder, **more):
    return diffusers_model(Embeddings(Store(), PipelineText(str(folder))), CPU, str(folder), **more)


# ---- which family


@pytest.mark.parametrize(("pipeline", "module"), families.MODULES.items())
def test_every_pipeline_of_the_table_has_its_family_and_diffusers_has_it(pipeline, module):
    import diffusers

    family = families.family_in(module, pipeline)
    assert pipeline in family.pipelines and family.__module__.endswith(module)
    assert all(families.MODULES[other] == module for other in family.pipelines)
    assert {pipeline, *family.networks} <= set(dir(diffusers))  # which imports none of them
    assert family.part in ("unet", "transformer")


LAZY = """
import sys
from expkit.models.pretrained.families import family_of
from expkit.storage.hub import Repository
print(family_of(Repository({folder!r})).__name__)
loaded = [name.rpartition(".")[2] for name in sys.modules if ".families." in name]
print(sorted(loaded), "diffusers" in sys.modules, "transformers" in sys.modules)
"""


def test_a_family_is_imported_when_it_is_used(folders):
    code = LAZY.format(folder=str(folders["sd"]))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    name, loaded = done.stdout.splitlines()
    assert name == "StableDiffusion"
    assert loaded == "['family', 'latent', 'stable_diffusion'] False False"


def indexed(tmp_path, **index):
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    return str(tmp_path)


def test_a_pipeline_that_is_none_of_ours_is_refused_with_the_list(tmp_path):
    with pytest.raises(UserError) as refusal:
        model_of(indexed(tmp_path, _class_name="KandinskyPipeline"))
    said = str(refusal.value)
    assert "is a KandinskyPipeline" in said and all(name in said for name in families.MODULES)
    with pytest.raises(UserError, match=r"Did you mean FluxPipeline\?"):
        model_of(indexed(tmp_path, _class_name="FluxPipelines"))
    with pytest.raises(UserError, match=r"names no pipeline of diffusers"):
        model_of(indexed(tmp_path))


@pytest.mark.parametrize(
    ("pipeline", "advice"),
    [
        ("StableVideoDiffusionPipeline", "no pipeline from text or a class alone to a picture"),
        ("StableDiffusionControlNetPipeline", "no pipeline from text or a class alone to a picture"),
        ("StableDiffusionInpaintPipeline", "task=inpaint works with the text-to-image model"),
    ],
)
def test_a_pipeline_for_something_else_is_no_misspelling(pipeline, advice, tmp_path):
    with pytest.raises(UserError, match=advice) as refusal:
        model_of(indexed(tmp_path, _class_name=pipeline))
    assert "Did you mean" not in str(refusal.value)


def test_what_is_no_pipeline_is_refused(tmp_path, folders):
    with pytest.raises(UserError, match=r"no model_index\.json.*save_pretrained.*model\.weights=FOLDER"):
        model_of(tmp_path)
    (tmp_path / "all.safetensors").write_bytes(b"weights")
    with pytest.raises(UserError, match=r"single file.*from_single_file.*save_pretrained"):
        model_of(tmp_path / "all.safetensors")
    with pytest.raises(UserError, match=r"no folder /nowhere.*model_index\.json"):
        model_of("/nowhere")
    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE is set.*online"):
        model_of("stabilityai/stable-diffusion-xl-base-1.0")
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(UserError, match=r"model_index\.json cannot be read"):
        model_of(tmp_path)


def test_a_gated_id_is_refused_with_the_command_that_opens_it(monkeypatch):
    from types import SimpleNamespace

    import huggingface_hub

    def gated(*given, **named):
        response = SimpleNamespace(headers={}, request=SimpleNamespace(url=""), status_code=401)
        raise huggingface_hub.errors.GatedRepoError("no", response=response)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("expkit.storage.repository_files.hub_is_reachable", lambda: True)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", gated)
    with pytest.raises(UserError, match=r"accepted its licence.*https://huggingface\.co/black-forest-labs/F"):
        model_of("black-forest-labs/FLUX.1-dev")


def test_another_network_than_the_pipelines_is_refused(folders, tmp_path):
    folder = shutil.copytree(folders["sd"], tmp_path / "sd")
    config = json.loads((folder / "unet/config.json").read_text())
    (folder / "unet/config.json").write_text(json.dumps(config | {"_class_name": "UNet3DConditionModel"}))
    with pytest.raises(UserError, match="holds a UNet3DConditionModel"):
        model_of(folder)


def test_a_configuration_that_diffusers_refuses_is_a_sentence(folders, tmp_path):
    folder = shutil.copytree(folders["ddpm"], tmp_path / "ddpm")
    config = json.loads((folder / "unet/config.json").read_text())
    (folder / "unet/config.json").write_text(json.dumps(config | {"block_out_channels": [16]}))
    with pytest.raises(UserError, match=r"unet/config\.json of .* takes \(Must provide the same number"):
        model_of(folder).prepare([""])
    scheduler = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    del scheduler["beta_start"]
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(scheduler))
    with pytest.raises(UserError, match="its configuration has no 'beta_start'"):
        model_of(folder)


def test_an_autoencoder_of_another_class_is_refused(folders, tmp_path):
    folder = shutil.copytree(folders["sd"], tmp_path / "sd")
    config = json.loads((folder / "vae/config.json").read_text())
    (folder / "vae/config.json").write_text(json.dumps(config | {"_class_name": "VQModel"}))
    with pytest.raises(UserError, match=r"has a VQModel in vae/.*AutoencoderKL and AutoencoderDC"):
        model_of(folder)


# ---- the short names


def test_stage_one_of_deepfloyd_is_the_same_by_both_names(folders):
    folder = folders["if"]
    short = deepfloyd(Embeddings(Store(), T5(str(folder / "stage_1"))), CPU, str(folder))
    model = model_of(folder / "stage_1")
    x = torch.randn(2, *model.shape)
    first, second = (one.predict(x, 500, ["a Dog ", ""]) for one in (short, model))
    torch.testing.assert_close(first.native, second.native, atol=1e-5, rtol=0)
    torch.testing.assert_close(first.variance_fraction, second.variance_fraction, atol=1e-5, rtol=0)
    assert model.range == short.range and model.sample_max_value == short.sample_max_value
    assert model.learns_variance and model.shape == short.shape


def test_an_unconditional_model_is_the_same_by_both_names(folders):
    folder = str(folders["ddpm"])
    short, model = unconditional_ddpm(folder, CPU), model_of(folder)
    model.prepare([""])
    x = torch.randn(2, *model.shape)
    assert torch.equal(*(one.predict(x, 500, ["", ""]).native for one in (short, model)))
    with pytest.raises(UserError, match=r"'a cat'.*null prompt"):
        model.prepare(["a cat"])
    with pytest.raises(UserError, match="DDPMPipeline, which reads no text"):
        PipelineText(folder).embeddings(["a cat"])


# ---- conditions


class Given:
    """Embeddings of these tensors, which are counted."""

    def __init__(self, **rows) -> None:
        self.rows, self.asked = rows, 0

    def conditions(self, texts):
        self.asked += 1
        return {name: values.expand(len(texts), *values.shape) for name, values in self.rows.items()}


def test_conditions_are_stacked_once_and_cast_if_they_are_floats():
    from dataclasses import replace

    given = Given(tokens=torch.rand(4, 8), mask=torch.ones(4, dtype=torch.int64), pooled=torch.rand(3))
    rows = Conditions(given, 8, replace(CPU, dtype=torch.bfloat16), ("tokens", "pooled"))
    first = rows(["a", "b"])
    assert rows(("a", "b")) is first and given.asked == 1
    kinds = {name: values.dtype for name, values in first.items()}
    assert kinds == {"tokens": torch.bfloat16, "pooled": torch.bfloat16, "mask": torch.int64}
    rows.release()
    assert rows(["a", "b"]) is not first and given.asked == 2


def test_conditions_of_another_encoder_are_refused():
    with pytest.raises(UserError, match="8 wide, and this model was trained on 9"):
        Conditions(Given(tokens=torch.rand(4, 8)), 9, CPU)(["a"])
    with pytest.raises(UserError, match="without mask and pooled"):
        Conditions(Given(tokens=torch.rand(4, 8)), 8, CPU, ("tokens", "mask", "pooled"))(["a"])
    given = Given(tokens=torch.rand(4, 8), pooled=torch.rand(3))
    with pytest.raises(UserError, match=r"pooled embeddings of these prompts are 3 wide, .* trained on 5"):
        Conditions(given, 8, CPU, ("tokens", "pooled"), pooled_width=5)(["a"])


def test_rows_of_the_null_prompt_are_replaced():
    rows, null = torch.ones(3, 2, 2), torch.zeros(3, 2, 2)
    assert with_null(["a", "", "b"], rows, null)[:, 0, 0].tolist() == [1, 0, 1]
    assert with_null(["", ""], torch.ones(2, 5), torch.zeros(2, 5)).max() == 0


# ---- encoders


def test_the_encoder_of_another_family_is_refused_before_it_encodes(folders):
    held = Embeddings(Store(), PipelineText(str(folders["sdxl"])))
    with pytest.raises(
        UserError, match=r"model\.encoder=.*sdxl is a StableDiffusionXLPipeline, and .*sd is a"
    ):
        diffusers_model(held, CPU, str(folders["sd"]))


def test_an_encoder_of_an_unknown_class_or_without_safetensors_is_a_sentence(folders, tmp_path):
    folder = shutil.copytree(folders["sd"], tmp_path / "sd")
    weights = folder / "text_encoder/model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(UserError, match=r"no weights in text_encoder/ as safetensors"):
        PipelineText(str(folder)).embeddings(["a dog"])
    index = json.loads((folder / "model_index.json").read_text())
    indexed(folder, **index | {"text_encoder": ["transformers", "NoSuchModel"]})
    with pytest.raises(UserError, match=r"text_encoder is a NoSuchModel, and the transformers that is here"):
        PipelineText(str(folder)).embeddings(["a dog"])


def test_an_encoder_that_is_not_there_or_reads_no_text_leaves_no_embedding(folders):
    with pytest.raises(UserError, match=r"There is no embedding of 'a dog'.*no folder /nowhere"):
        Embeddings(Store(), PipelineText("/nowhere")).prepare(["a dog"])
    with pytest.raises(UserError, match=r"There is no embedding of 'a dog'.*reads no text"):
        Embeddings(Store(), PipelineText(str(folders["ddpm"]))).prepare(["a dog"])


def without(folder, tmp_path, *names):
    """A copy of the model whose index says that these parts are missing."""
    copy = shutil.copytree(folder, tmp_path / "without")
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | {name: [None, None] for name in names}))
    return str(copy)


def test_a_missing_encoder_is_a_sentence(folders, tmp_path):
    folder = without(folders["sdxl"], tmp_path, "text_encoder_2", "tokenizer_2")
    said = r"There is no embedding of 'a dog'.*has no text_encoder_2, and a StableDiffusionXLPipeline"
    with pytest.raises(UserError, match=said):
        model_of(folder).prepare(["a dog"])


def test_sd3_without_t5_is_encoded_as_its_pipeline_does(tmp_path):
    from diffusers import StableDiffusion3Pipeline

    folder = without(tiny_pipelines.sd3(tmp_path / "sd3"), tmp_path, "text_encoder_3", "tokenizer_3")
    encoder = PipelineText(folder)
    assert encoder.length == 77
    (ours,) = encoder.embeddings(["a dog"])
    missing = {"text_encoder_3": None, "tokenizer_3": None}
    pipe = StableDiffusion3Pipeline.from_pretrained(folder, **missing)
    with torch.no_grad():
        tokens, _, pooled, _ = pipe.encode_prompt("a dog", None, None)
    torch.testing.assert_close(ours.values, tokens[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(ours.extra["pooled"], pooled[0], atol=1e-6, rtol=0)


def test_the_provenance_is_the_pipelines_and_that_of_its_text_parts(folders, tmp_path):
    folder = shutil.copytree(folders["sdxl"], tmp_path / "sdxl")
    before = PipelineText(str(folder)).provenance
    assert before.encoder == "sdxl, StableDiffusionXLPipeline" and before.length == 77
    (folder / "unet/config.json").write_text("{}")
    assert PipelineText(str(folder)).provenance == before
    tokenizer = folder / "tokenizer_2/tokenizer_config.json"
    tokenizer.write_text(tokenizer.read_text() + " ")
    assert PipelineText(str(folder)).provenance.revision != before.revision


def test_weights_in_half_precision_are_taken_where_they_are_all_there_is(folders, tmp_path):
    folder = shutil.copytree(folders["sdxl"], tmp_path / "sdxl")
    for name in ("text_encoder", "text_encoder_2"):
        (folder / name / "model.safetensors").rename(folder / name / "model.fp16.safetensors")
    ours, theirs = (PipelineText(str(one)).embeddings(["a dog"])[0] for one in (folder, folders["sdxl"]))
    assert torch.equal(ours.values, theirs.values) and torch.equal(
        ours.extra["pooled"], theirs.extra["pooled"]
    )


@pytest.mark.parametrize("halves", [False, True])
def test_an_id_in_the_hubs_cache_serves_offline(halves, folders, tmp_path):
    sha = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--some--sdxl"
    snapshot = shutil.copytree(folders["sdxl"], repository / "snapshots" / sha)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(sha)
    if halves:
        for path in [*snapshot.rglob("*.safetensors")]:
            path.rename(path.with_suffix(".fp16.safetensors"))
    held = Embeddings(Store(), PipelineText("some/sdxl"))
    model = diffusers_model(held, CPU, "some/sdxl")
    model.prepare(["a dog", ""])
    assert held.used["a dog"].revision == model.weights == sha
    assert held.used["a dog"].encoder == "some/sdxl, StableDiffusionXLPipeline"
    x = torch.randn(2, *model.shape)
    local = model_of(folders["sdxl"])
    local.prepare(["a dog", ""])
    asked = (x, 500, ["a dog", ""])
    assert torch.allclose(model.predict(*asked).native, local.predict(*asked).native, atol=1e-6)
    assert Embeddings(Store(), PipelineText("some/sdxl")).prepare(["a dog"]) == []


def test_an_encoder_without_some_of_its_weights_is_refused(folders, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(folders["sdxl"], tmp_path / "sdxl")
    weights = folder / "text_encoder_2" / "model.safetensors"
    kept = {name: value for name, value in load_file(weights).items() if "layers.0.mlp" not in name}
    save_file(kept, weights, {"format": "pt"})
    with pytest.raises(UserError, match="weights are missing"):
        PipelineText(str(folder)).embeddings(["a dog"])
    weights.unlink()
    with pytest.raises(UserError, match="no weights in text_encoder_2/ as safetensors"):
        PipelineText(str(folder)).embeddings(["a dog"])


def test_eight_bits_need_bitsandbytes(folders, monkeypatch):
    from expkit.models.pretrained import pipeline_text

    monkeypatch.setattr(pipeline_text, "find_spec", lambda name: None)
    encoder = PipelineText(str(folders["sdxl"]), quantize=True)
    assert encoder.provenance.encoder == "sdxl, StableDiffusionXLPipeline, 8 bit"
    with pytest.raises(UserError, match=r"model\.quantize_text=true.*pip install bitsandbytes accelerate"):
        encoder.embeddings(["a dog"])


# ---- schedules


FLOWS = {
    "FlowMatchEulerDiscreteScheduler": {},
    "DPMSolverMultistepScheduler": {"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
    "UniPCMultistepScheduler": {"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
}


@pytest.mark.parametrize("name", FLOWS)
def test_flow_matching_is_known_by_its_schedulers_configuration(name):
    import diffusers

    config = json.loads(getattr(diffusers, name)(**FLOWS[name]).to_json_string())
    schedule = schedule_of(config)
    assert torch.equal(schedule.alpha, flow(1000).alpha) and torch.equal(schedule.sigma, flow(1000).sigma)
    assert prediction_type_of(config) == "flow"


def test_schedulers_of_betas_are_not_taken_for_flow_matching(folders):
    for name in ("sd", "sdxl", "ddpm"):
        config = Repository(str(folders[name])).config("scheduler")
        assert prediction_type_of(config) == "eps" and schedule_of(config).preserves_variance
    assert tiny.BETAS["beta_schedule"] == "squaredcos_cap_v2"
    with pytest.raises(UserError, match=r"its noise schedule is sigmoid.*flow matching"):
        schedule_of({"_class_name": "DDPMScheduler", "beta_schedule": "sigmoid"})
    with pytest.raises(UserError, match="its network answers 'noise'"):
        prediction_type_of({"prediction_type": "noise"})
