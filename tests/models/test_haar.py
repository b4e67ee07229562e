"""A network inside a Haar transform: pictures of twice the side, white noise stays white, and it begins as the small one, enlarged."""

import pytest
import torch
import torch.nn.functional as F

from expkit.core.schedules import cosine
from expkit.errors import UserError
from expkit.models.pretrained import haar, pictogram_unet
from expkit.models.pretrained.base import HAAR, DeviceSpec, LoadedNetwork
from expkit.storage.hub import Repository
from expkit.training import checkpoints

SMALL, LARGE = cosine(1000), cosine(1000, 0.5)
TEXT, MASK = torch.randn(2, 5, 384), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return pictogram_unet.text_conditioned_unet(2, 3, 16, width=16, attend=8).eval()


@pytest.fixture(scope="module")
def large():
    torch.manual_seed(1)
    return pictogram_unet.haar_unet(2, 3, 32, LARGE, width=16, attend=8).eval()


def asked(network, x, t):
    with torch.no_grad():
        return network(
            x,
            torch.tensor([t, t]),
            encoder_hidden_states=TEXT,
            encoder_attention_mask=MASK,
            return_dict=False,
        )[0]


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 1, 2, 6)])
def test_the_transform_is_orthonormal(shape):
    x, y = torch.randn(2, *shape, dtype=torch.float64)
    bands = haar.haar_transform(x)
    assert bands.shape == (shape[0], 4 * shape[1], shape[2] // 2, shape[3] // 2)
    assert torch.allclose(haar.inverse_haar_transform(bands), x, atol=1e-14)
    assert torch.allclose((bands * haar.haar_transform(y)).sum(), (x * y).sum())
    assert torch.allclose(bands[:, : shape[1]], 2 * F.avg_pool2d(x, 2))


def test_bands_are_what_differs_across_down_and_crosswise():
    x = torch.tensor([[0.0, 1.0], [0.0, 1.0]])[None, None]
    assert haar.haar_transform(x).flatten().tolist() == [1, -1, 0, 0]
    assert haar.haar_transform(x.mT).flatten().tolist() == [1, 0, -1, 0] and haar.haar_transform(
        torch.eye(2)[None, None]
    ).flatten().tolist() == [1, 0, 0, 1]


def test_pictures_of_twice_the_side_show_through_noise_twice_as_strong():
    assert (
        torch.allclose(LARGE.alpha / LARGE.sigma, SMALL.alpha / SMALL.sigma / 2) and LARGE.preserves_variance
    )
    assert torch.equal(cosine(1000, 1).alpha, SMALL.alpha)


@pytest.mark.parametrize("t", [0, 5, 300, 700, 999])
def test_it_begins_as_the_small_network_enlarged(t, small, large):
    large.load_state_dict(large.state_for_double_size(small.state_dict()))
    alpha, sigma = LARGE.at(t)
    x = alpha * F.interpolate(torch.rand(2, 3, 16, 16) * 2 - 1, scale_factor=2) + sigma * torch.randn(
        2, 3, 32, 32
    )
    bands = haar.haar_transform(LARGE.denoised(x, t, asked(large, x, t), "v"))
    seen = haar.haar_transform(x)[:, :3] / (4 * alpha**2 + sigma**2) ** 0.5
    wanted = SMALL.denoised(seen, t, asked(small, seen, t), "v")
    assert torch.allclose(bands[:, :3] / 2, wanted, atol=1e-4)
    best = (
        haar.haar_transform(x)[:, 3:]
        * alpha
        * (d := torch.tensor([0.16, 0.16, 0.065]).repeat_interleave(3).view(1, 9, 1, 1)) ** 2
    )
    assert torch.allclose(bands[:, 3:], best / (alpha**2 * d**2 + sigma**2), atol=1e-4), (
        "of a band of which it knows the variance alone"
    )


def test_what_the_network_sees_of_each_band_has_unit_variance(large, monkeypatch):
    seen = []
    monkeypatch.setattr(
        large.network, "forward", lambda x, *_, **__: seen.append(x) or (torch.zeros_like(x),)
    )
    x0 = haar.inverse_haar_transform(torch.randn(2, 12, 16, 16) * large.deviation(torch.empty(0)))
    for t in (20, 300, 900):
        alpha, sigma = LARGE.at(t)
        asked(large, alpha * x0 + sigma * torch.randn(2, 3, 32, 32), t)
    assert all(0.8 < part.var() < 1.25 for x in seen for part in x.split(3, 1))


def test_it_is_a_folder_in_diffusers_format_that_says_its_transform(large, tmp_path):
    pictogram_unet.save_pipeline(tmp_path / "model", large, LARGE, "v")
    folder = Repository(str(tmp_path / "model"))
    assert folder.config("unet")["_class_name"] == HAAR and folder.config("unet")["deviations"] == [
        2.0,
        0.16,
        0.16,
        0.065,
    ]
    x = torch.randn(2, 3, 32, 32)
    read = LoadedNetwork(folder, "unet", HAAR, DeviceSpec())
    read.check()
    answer = read(x, torch.tensor([300, 300]), encoder_hidden_states=TEXT, encoder_attention_mask=MASK)
    assert torch.allclose(answer, asked(large, x, 300), atol=1e-5)
    half = LoadedNetwork(folder, "unet", HAAR, DeviceSpec(dtype=torch.bfloat16))
    told = {"encoder_hidden_states": TEXT.bfloat16(), "encoder_attention_mask": MASK}
    assert half.loaded().ratios.dtype == torch.float32 and half.cast(x).dtype == torch.float32
    answer = half(x, torch.tensor([0, 999]), **told)
    assert answer.dtype == torch.float32 and answer.isfinite().all()


def test_a_training_begins_from_a_small_model(small, large, tmp_path):
    pictogram_unet.save_pipeline(tmp_path / "model", small, SMALL, "v")
    checkpoints.init_from(large, str(tmp_path / "model"))
    assert (
        torch.equal(large.network.conv_in.weight[:, :3], small.conv_in.weight)
        and (large.network.conv_out.weight[3:] == 0).all()
    )
    with pytest.raises(UserError, match="are of another network"):
        checkpoints.init_from(
            pictogram_unet.haar_unet(2, 3, 32, LARGE, width=32, attend=8), str(tmp_path / "model")
        )


@pytest.mark.parametrize(
    ("size", "said"), [(16, "a multiple of 16 from 32 on"), (40, "a multiple of 16 from 32 on")]
)
def test_a_size_that_does_not_fit_is_refused(size, said):
    with pytest.raises(UserError, match=said):
        pictogram_unet.haar_unet(2, 3, size, LARGE)
