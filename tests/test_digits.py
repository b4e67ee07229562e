"""The digits model that ships: it is the one on its card, and its pictures are read as asked by the judge that counts."""

import torch

from expkit import judges, pictures, store
from expkit.denoisers.trained import load
from expkit.estimate import guided
from expkit.grids import strided
from expkit.sample import Seed, sample


def test_the_card_is_of_these_weights_and_says_how_they_were_made():
    path, _ = store.shipped("digits")
    card = store.card("digits")
    assert load().facts.classes == 10 and path.stat().st_size < 5e6
    assert card["command"].startswith("python -m expkit task=train") and len(card["epochs"]) >= 5
    assert {"config", "git_commit", "data", "licence"} <= set(card)
    assert card["read_as_asked"]["second"] >= 0.98


def test_digits_are_read_as_asked():
    model, asked = load(), torch.arange(20) % 10
    estimate = guided([str(int(d)) for d in asked], 5)
    *_, end = sample(model, estimate, strided(len(model.schedule)), [Seed(7, k // 10) for k in range(20)])
    read = judges.second().read(pictures.from_range(end.x, model.range))
    assert (read == asked).sum() >= 19


def test_the_default_hybrid_has_both_readings(expkit):
    done = expkit("task=hybrid", "logger=none")
    assert done.code == 0, done.err
    numbers = done.numbers()
    assert numbers["rows_per_call"] == 8 * 3 and numbers["network_calls"] == 33
    assert numbers["judged"]["near"]["second"] >= 0.5 and numbers["judged"]["far"]["second"] >= 0.5


def test_the_courses_single_step_denoiser_ships_and_beats_a_blur(expkit):
    done = expkit("experiment=b1_3", "samples=10", "sigma=0.5", "logger=none")
    assert done.code == 0, done.err
    assert "model digits, weights single_step" in done.err
    at = done.numbers()
    assert at["denoised"]["psnr"] > at["Gaussian blur"]["psnr"] + 3 and at["denoised"]["ssim"] > 0.8


def test_the_courses_time_conditioned_network_ships_and_draws_digits(expkit):
    done = expkit("experiment=b2_3", "samples=20", "logger=none")
    assert done.code == 0, done.err
    drawn = torch.stack([pictures.load(str(path), (1, 28, 28)) for path in sorted((done.folder / "pictures").glob("*.png"))])
    sure, read = judges.second()(drawn).max(1)
    assert len(drawn) == 20 and (sure > 0.8).sum() >= 16 and len(read.unique()) >= 5


def test_the_courses_recipe_ships_too():
    model = load("class_conditional")
    assert (model.kind, model.range, round(model.schedule.leak, 3)) == ("eps", (0.0, 1.0), 0.219)
