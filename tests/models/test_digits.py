"""The digits model that ships: it is the one on its card, and its pictures are read as asked by the judge that counts."""

import pytest
import torch
from torch.nn.functional import avg_pool2d

from expkit.core.denoiser import from_range
from expkit.core.estimate import guided
from expkit.core.sampler import Seed, sample, seeded
from expkit.core.solvers import DDIM, DDPM, DPMpp
from expkit.core.thresholding import DynamicThreshold
from expkit.core.timesteps import ays, strided, strided_clean
from expkit.images import image_io
from expkit.metrics import judges
from expkit.models.trained import load_model
from expkit.storage import weights_io
from expkit.storage.files import sha256


def test_the_card_is_of_these_weights_and_says_how_they_were_made():
    path, _ = weights_io.shipped_weights("digits")
    card = weights_io.model_card("digits")
    assert load_model().network.classes == 10 and path.stat().st_size < 5e6
    assert card["command"].startswith("python -m expkit task=train") and len(card["epochs"]) >= 5
    assert {"config", "git_commit", "data", "licence"} <= set(card)
    assert card["read_as_asked"]["second"] >= 0.98


DRAWN = {  # the mean grey of each 7 × 7 pixels of a 3, four steps, gamma 7, seed 180
    "strided": [
        8.9,
        70.3,
        46.9,
        2.5,
        32.0,
        97.3,
        156.0,
        4.4,
        22.7,
        34.7,
        134.2,
        20.3,
        50.8,
        130.0,
        99.4,
        1.9,
    ],
    "strided_clean": [
        8.2,
        69.3,
        46.3,
        1.5,
        31.0,
        97.1,
        156.0,
        2.8,
        22.0,
        34.2,
        134.3,
        19.7,
        50.4,
        129.7,
        99.0,
        1.2,
    ],
    "ddim": [1.4, 70.2, 89.5, 1.1, 1.5, 78.1, 167.9, 1.6, 21.6, 18.7, 147.2, 21.6, 73.6, 121.0, 58.2, 1.3],
    "dpmpp": [4.7, 51.7, 104.7, 3.7, 4.3, 89.5, 165.0, 12.5, 11.1, 32.2, 144.4, 23.5, 34.1, 122.2, 39.0, 3.3],
    "diffusers": [
        6.4,
        65.5,
        40.2,
        1.9,
        24.0,
        99.6,
        135.5,
        2.7,
        16.7,
        27.4,
        124.9,
        18.1,
        45.2,
        123.6,
        100.9,
        1.9,
    ],
    "ays": [1.1, 59.5, 96.2, 1.0, 0.9, 90.4, 169.0, 0.7, 17.9, 22.3, 142.0, 22.8, 73.2, 118.4, 44.7, 0.9],
}
SAMPLERS = {
    "strided": (strided, DDPM(), None), "strided_clean": (strided_clean, DDPM(), None), "ddim": (strided_clean, DDIM(), None),
    "dpmpp": (strided_clean, DPMpp(), None), "diffusers": (strided_clean, DDPM(), DynamicThreshold(0.95)),
    "ays": (lambda levels, steps: ays(levels), DPMpp(), None),
}  # fmt: skip


@pytest.mark.parametrize("name", SAMPLERS)
def test_digits_are_drawn_as_they_always_were(name):
    model, (grid, rule, clip) = load_model(device="cpu", precision="float32"), SAMPLERS[name]
    *_, end = sample(model, guided("3", 7), grid(300, 4), seeded(180, 1), rule, clip=clip)
    assert torch.allclose(
        avg_pool2d(255 * model.decode(end.x), 7).flatten(), torch.tensor(DRAWN[name]), atol=0.5
    )


def test_what_a_card_says_of_another_is_so():
    """Whatever ships says that it was trained to its end: as many rows as its recipe has epochs."""
    cards = {
        name: weights_io.model_card(name)
        for name in ("digits", "class_conditional", "time_conditional", "single_step")
    }
    assert all(len(card["epochs"]) == card["config"]["trainer"]["epochs"] for card in cards.values())
    assert all("not been trained" not in card["note"] for card in cards.values())
    for name in cards:
        path, promised = weights_io.shipped_weights(name)
        assert sha256(path) == promised


def test_digits_are_read_as_asked():
    model, asked = load_model(), torch.arange(20) % 10
    estimate = guided([str(int(d)) for d in asked], 5)
    *_, end = sample(model, estimate, strided(len(model.schedule)), [Seed(7, k // 10) for k in range(20)])
    read = judges.second_digit_judge().read(from_range(end.x, model.range))
    assert (read == asked).sum() >= 19


def test_the_default_hybrid_has_both_readings(expkit):
    done = expkit("task=hybrid", "logger=none")
    assert done.code == 0, done.err
    numbers = done.numbers()
    assert numbers["rows_per_call"] == 8 * 3 and numbers["network_calls"] == 33
    assert (
        numbers["judged"]["all readings"]["second"] >= 0.5
        and numbers["far_is_seen_from"] == judges.second_digit_judge().distance
    )


def test_the_courses_single_step_denoiser_ships_and_beats_a_blur(expkit):
    done = expkit("experiment=b1_3", "samples=10", "sigma=0.5", "logger=none")
    assert done.code == 0, done.err
    assert "model digits, weights single_step" in done.err
    at = done.numbers()
    assert at["denoised"]["psnr"] > at["Gaussian blur"]["psnr"] + 3 and at["denoised"]["ssim"] > 0.8


def test_the_courses_time_conditioned_network_ships_and_draws_digits(expkit):
    done = expkit("experiment=b2_3", "samples=20", "logger=none")
    assert done.code == 0, done.err
    drawn = torch.stack(
        [
            image_io.load_image(str(path), (1, 28, 28))
            for path in sorted((done.folder / "pictures").glob("*.png"))
        ]
    )
    sure, read = judges.second_digit_judge()(drawn).max(1)
    assert len(drawn) == 20 and (sure > 0.8).sum() >= 16 and len(read.unique()) >= 5


def test_the_courses_recipe_ships_too():
    model = load_model("class_conditional")
    assert (model.prediction_type, model.range, round(model.schedule.terminal_alpha, 3)) == (
        "eps",
        (0.0, 1.0),
        0.219,
    )
