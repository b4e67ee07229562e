"""Networks that are changed to run faster answer as before, and compute once what does not change."""

import os
import subprocess
import sys
from copy import deepcopy

import pytest
import torch
from torch import nn

from expkit.models.once_per_input import REMEMBERED, OncePerInput
from expkit.models.pretrained import pictogram_unet
from expkit.models.pretrained.base import HAAR, DeviceSpec, LoadedNetwork
from expkit.models.pretrained.inference import UpsampledConv, prepare_for_inference
from expkit.models.trained import TrainedUNet, load_model, read_model
from expkit.models.unet_inference import InferenceUNet, distinct_images
from expkit.models.unets import UNet
from expkit.storage import process, weights_io
from tests import tiny_diffusers as tiny

SIZES = {"hidden": 8, "size": 16}


def trained_unet(**arguments) -> UNet:
    """A UNet whose batch normalisations have statistics of their own."""
    torch.manual_seed(0)
    network = UNet(**SIZES | arguments)
    u, label = torch.rand(12, 1), torch.eye(12)[:, : arguments.get("classes", 0)]
    for _ in range(3):
        network.train()(torch.randn(12, network.channels, 16, 16) * 2 + 1, u, label)
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize(
    "arguments",
    [
        {"timed": False},
        {"product": True},
        {"classes": 3},
        {"classes": 3, "norm": "group", "channels": 3},
    ],
)
def test_the_faster_unet_is_the_unet(arguments):
    network = trained_unet(**arguments)
    before = deepcopy(network.state_dict())
    fast = network.for_inference()
    assert isinstance(fast, InferenceUNet)
    images = torch.randn(4, network.channels, 16, 16)
    u, label = torch.rand(8, 1), torch.eye(8)[:, : network.classes]
    for x in (images.repeat_interleave(2, 0), torch.cat([images, images.flip(0)]), images[:1]):
        expected = network(x, u[: len(x)], label[: len(x)])
        assert torch.allclose(fast(x, u[: len(x)], label[: len(x)]), expected, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_digits_that_ship_answer_as_their_plain_network():
    plain, _, _ = read_model(weights_io.WEIGHTS / "digits.safetensors")
    model = load_model(device="cpu", precision="float32")
    x, prompts = torch.randn(3, 1, 28, 28).repeat_interleave(2, 0), ["", "3"] * 3
    with torch.inference_mode():
        u = torch.full((6, 1), model.schedule.time(150))
        expected = plain.eval()(x, u, model.labels(prompts))
    assert torch.allclose(model.predict(x, 150, prompts).native, expected, atol=1e-5, rtol=1e-5)


def test_rows_of_one_image_share_the_encoder():
    fast = trained_unet(classes=3).for_inference()
    rows = []
    fast.enter.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    images = torch.randn(5, 1, 16, 16)
    u, label = torch.rand(15, 1), torch.zeros(15, 3)
    fast(images.repeat_interleave(3, 0), u, label)
    fast(images, u[:5], label[:5])
    assert rows == [5, 5]


def test_images_are_told_apart_by_one_value():
    images = torch.randn(2, 1, 4, 4)
    x = images[[0, 0, 1, 1, 0]].clone()
    x[3, 0, 3, 3] += 1e-6
    distinct, index = distinct_images(x)
    assert len(distinct) == 4 and index.tolist() == [0, 0, 1, 2, 3]
    assert torch.equal(distinct[index], x)
    assert distinct_images(images)[1] is None


def test_a_subclass_with_its_own_forward_stays_as_it_is():
    class Doubled(UNet):
        def forward(self, x, u=None, label=None):
            return 2 * super().forward(x, u, label)

    network = Doubled(**SIZES)
    assert network.for_inference() is network


def test_classes_are_embedded_once_a_run():
    model = load_model(device="cpu", precision="float32")
    assert isinstance(model, TrainedUNet)
    calls = []
    for block in model.ask.labels:
        block.inner.register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(2, 1, 28, 28)
    for t in (200, 100, 10):
        model.predict(x, t, ["", "3"])
    assert len(calls) == len(model.ask.labels) == 2


def test_an_output_is_kept_for_the_last_inputs_only():
    calls = []
    once = OncePerInput(lambda x: calls.append(1) or 2 * x)
    inputs = [torch.full((1,), float(k)) for k in range(REMEMBERED + 1)]
    assert [float(once(x)) for x in inputs for _ in range(2)] == [2.0 * (k // 2) for k in range(18)]
    assert len(calls) == len(inputs) and len(once.outputs) == REMEMBERED
    assert once(inputs[-1]) is once(inputs[-1]) and len(calls) == len(inputs)
    assert float(once(inputs[0])) == 0 and len(calls) == len(inputs) + 1


@pytest.fixture(scope="module")
def pictograms():
    repository = pictogram_unet.model_repository(pictogram_unet.SHIPPED)
    return LoadedNetwork(repository, "unet", HAAR, DeviceSpec())


def test_the_pictograms_that_ship_answer_as_their_plain_network(pictograms):
    plain = pictograms.read().eval()
    x, tokens = torch.randn(3, 3, 64, 64), torch.randn(3, 7, 384)
    mask = torch.arange(7)[None] < torch.tensor([7, 4, 1])[:, None]
    text = {"encoder_hidden_states": tokens, "encoder_attention_mask": mask}
    for t in (900, 100):
        with torch.inference_mode():
            expected = plain(x, torch.full((3,), t), **text)[0]
        found = pictograms(x, torch.full((3,), t), **text)
        assert torch.allclose(found, expected, atol=1e-5) and expected.std() > 0.1


FAMILIES = {
    "deepfloyd": tiny.first,
    "stable_diffusion": lambda folder: tiny.stable_diffusion(folder, tiny.scheduler()),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_computes_its_text_once(family, tmp_path):
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import Attention

    folder = FAMILIES[family](tmp_path / "model")
    plain = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    fast = prepare_for_inference(deepcopy(plain), "cpu", torch.float32)
    calls = []
    for module in fast.modules():
        if isinstance(module, OncePerInput) and isinstance(module.inner, nn.Module):
            module.inner.register_forward_hook(lambda *_: calls.append(1))
    config = plain.config
    width = config.encoder_hid_dim or config.cross_attention_dim
    x = torch.randn(2, config.in_channels, config.sample_size, config.sample_size)
    tokens = torch.randn(2, 5, width)
    with torch.inference_mode():
        for t in (900, 500, 100):
            expected = plain(x, t, encoder_hidden_states=tokens)[0]
            assert torch.allclose(fast(x, t, encoder_hidden_states=tokens)[0], expected, atol=1e-5)
        other = torch.randn(2, 5, width)
        expected = plain(x, 100, encoder_hidden_states=other)[0]
        assert torch.allclose(fast(x, 100, encoder_hidden_states=other)[0], expected, atol=1e-5)
    attentions = [one for one in fast.modules() if isinstance(one, Attention)]
    cross = [one for one in attentions if one.is_cross_attention]
    assert cross and len(calls) >= 2 * 2 * len(cross)  # keys and values, of two texts
    kept = [one for one in fast.modules() if isinstance(one, OncePerInput) and len(one.outputs) == 2]
    assert len(kept) >= 2 * len(cross)


def test_an_enlarging_convolution_is_one_transposed_convolution():
    from diffusers.models.upsampling import Upsample2D

    upsample = Upsample2D(6, use_conv=True, out_channels=4).requires_grad_(False)
    image = torch.randn(2, 6, 5, 7)
    fast = UpsampledConv(upsample)
    assert torch.allclose(fast(image), upsample(image), atol=1e-5)
    assert torch.equal(fast(image, (9, 13)), upsample(image, (9, 13)))


FAULTS = """
import resource, sys
from expkit.storage.process import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
buffers = lambda: [bytearray(b"1") * 40_000_000 for _ in range(3)]
buffers()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    buffers()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="another allocator than glibc's")
def test_freed_memory_is_used_again_without_page_faults():
    def faults(way: str) -> int:
        run = subprocess.run([sys.executable, "-c", FAULTS, way], capture_output=True, check=True)
        return int(run.stdout)

    assert faults("keep") < 1000 < 10_000 < faults("default")


def test_a_thread_that_waits_sleeps_soon_unless_the_environment_says_otherwise(monkeypatch):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    process.wait_without_spinning()
    assert os.environ["GOMP_SPINCOUNT"] == process.SPINS
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    process.wait_without_spinning()
    assert "GOMP_SPINCOUNT" not in os.environ


LIGHT = """
import sys, torch
from expkit.models.pretrained.light_import import only_what_networks_need
with only_what_networks_need():
    from expkit.models.pretrained.haar import HaarUNet2DConditionModel
from expkit.models.pretrained import base, pictogram_unet
base.LoadedNetwork(pictogram_unet.model_repository("pictograms"), "unet", base.HAAR, base.DeviceSpec()).check()
for name in (
    "torch._dynamo", "torch.fx.experimental.symbolic_shapes", "scipy.stats._stats_py", "scipy.integrate._bvp",
    "transformers", "diffusers.models.transformers",
):
    assert name not in sys.modules, name
from diffusers import DPMSolverMultistepScheduler, IFPipeline, LMSDiscreteScheduler, SD3Transformer2DModel
from transformers import CLIPTextModel
import diffusers.models.transformers, torch._dynamo
assert diffusers.models.transformers.__file__ and torch._dynamo.__file__
DPMSolverMultistepScheduler(use_beta_sigmas=True).set_timesteps(10)  # needs scipy.stats
multistep = LMSDiscreteScheduler()
multistep.set_timesteps(5)
multistep.get_lms_coefficient(1, 0, 0)  # needs scipy.integrate
"""


def test_a_network_is_imported_without_what_it_does_not_use_and_the_rest_can_be_imported_after():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_command_uses_as_many_threads_as_it_is_told(expkit, threads):
    torch.set_num_threads(2)
    tiny_run = ("task=sample", "model=digits", "prompt=3", "samples=1", "steps=2", "logger=none")
    assert expkit(*tiny_run).code == 0 and torch.get_num_threads() == 2
    assert expkit(*tiny_run, "threads=1").code == 0 and torch.get_num_threads() == 1
    assert "threads" in expkit(*tiny_run, "threads=0").err


def test_without_a_compiler_it_is_said_what_is_missing(expkit, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    done = expkit("task=sample", "model=digits", "model.compile=true", "steps=2", "logger=none")
    assert done.code == 2 and "there is no no-such-compiler" in done.err
    assert "Traceback" not in done.err


@pytest.mark.slow
def test_a_compiled_network_answers_as_before_and_its_cache_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("EXPKIT_CACHE", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    plain, compiled = (load_model(device="cpu", precision="float32", compile=c) for c in (False, True))
    x, prompts = torch.randn(2, 1, 28, 28).repeat_interleave(2, 0), ["", "3"] * 2
    for t in (200, 100):
        expected = plain.predict(x, t, prompts).native
        assert torch.allclose(compiled.predict(x, t, prompts).native, expected, atol=1e-4)
    assert any((tmp_path / "compiled").rglob("*.so"))
