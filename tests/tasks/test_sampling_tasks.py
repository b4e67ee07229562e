"""What tasks do with their pictures: keep the best, film the way, go through a second stage, compare ways to denoise."""

import json
import math
from functools import partial

import pytest
import torch
from PIL import Image

from expkit.core import timesteps
from expkit.core.denoiser import Prediction
from expkit.core.estimate import conditional, guided, hybrid
from expkit.core.maps import LowPass
from expkit.core.pin import Pin
from expkit.core.sampler import Sampler, sample, seeded
from expkit.core.solvers import DDIM, DDPM, DPMpp
from expkit.core.views import Flip, Identity
from expkit.errors import UserError
from expkit.images import image_io, sheets
from expkit.metrics.judges import Judge
from expkit.results.run_folder import RunFolder
from expkit.tasks import denoise, pins, result_figure
from expkit.tasks.generation.accuracy import accuracy
from expkit.tasks.generation.run_scorer import best_rows, worst_probability
from expkit.tasks.generation.view_scores import mean_view_scores, view_scores
from expkit.tasks.sampling import RunRows, Sampling
from expkit.tasks.scoring import BatchScorer, Readout
from expkit.tasks.trajectory import Film
from tests.conftest import Toy


class Brightness(Judge):
    """A judge of toy pictures: "light" with the probability that is their mean, else "dark"."""

    def answers(self, prompts):
        return ("light", "dark")

    def features(self, images):
        return images.flatten(1)

    def probabilities(self, images, prompts):
        mean = images.mean((1, 2, 3))
        return torch.stack([mean, 1 - mean], 1)


class Larger(Toy):
    """A second stage: it looks at the low-resolution picture beside x, and answers what is left of x without it."""

    def __init__(self, low, noise):
        super().__init__(shape=(1, 32, 32))
        self.low, self.channels = torch.nn.functional.interpolate(low, scale_factor=4.0), []
        self.noise = noise(self.shape)

    def concat_condition(self, x, pictures):
        return torch.cat([x, self.low[list(pictures)]], 1)

    def predict(self, x, t, prompts):
        self.channels.append(x.shape[1])
        return Prediction(super().predict(x[:, :1], t, prompts).native + 0.1 * x[:, 1:])


def six(levels: int) -> tuple[int, ...]:
    return timesteps.strided(levels, 6)


def task(toy, **others) -> Sampling:
    given = {
        "name": "sample",
        "model": toy,
        "sampler": Sampler(lambda levels: timesteps.strided(levels, 6)),
        "estimate": guided("light", 3),
    }
    return Sampling(**given | {"pin": pins.no_pin, "seed": 5, "samples": 6} | others)


def run(one, folder) -> dict:
    result = RunFolder(folder)
    one(result)
    result.finish()
    return json.loads((folder / "numbers.json").read_text())


def test_the_best_of_each_wish_are_kept_and_the_ranking_says_why(toy, tmp_path):
    cells = [{"gamma": 1}, {"gamma": 5}]
    wish = guided("light", [c["gamma"] for c in cells for _ in range(6)])
    given = {
        "estimate": wish,
        "cells": cells,
        "judges": {"eye": Brightness()},
        "readings": {"picture": Readout("light", Identity())},
    }
    every, kept = (
        run(task(toy, **given), tmp_path / "all"),
        run(task(toy, **given, keep=2), tmp_path / "kept"),
    )
    shown = [image_io.as_tensor(Image.open(tmp_path / "all" / p["file"])) for p in every["pictures"]]
    for cell, first in ((0, 0), (1, 6)):
        best = sorted(range(6), key=lambda k: -shown[first + k].mean())[:2]
        assert [p["sample"] for p in kept["pictures"][2 * cell : 2 * cell + 2]] == best
        assert [r["sample"] for r in kept["ranking"][6 * cell :][:2]] == best
    assert (
        kept["judged"] == every["judged"]
        and kept["judged_of_kept"]["picture"]["eye"] >= kept["judged"]["picture"]["eye"]
    )
    for file, wanted in zip(
        kept["pictures"], [shown[0 + r["sample"]] for r in kept["ranking"][:2]], strict=False
    ):
        assert torch.equal(image_io.as_tensor(Image.open(tmp_path / "kept" / file["file"])), wanted)


def score_images(readings, judges, toy, images, runs=None):
    return BatchScorer(readings, judges, toy, runs or [range(len(images))]).score_images(images)


def test_a_picture_is_as_good_as_its_worst_reading(toy):
    images = torch.tensor([[0.9, 0.9], [0.2, 0.9], [0.9, 0.6]])[:, None, :, None].expand(-1, 1, -1, 2)
    top, bottom = (lambda x: x[:, :, :1]), (lambda x: x[:, :, 1:])
    (found,) = score_images(
        {"top": Readout("light", top), "bottom": Readout("light", bottom)}, {"eye": Brightness()}, toy, images
    )
    assert torch.allclose(worst_probability(found), torch.tensor([0.9, 0.2, 0.6]))
    assert best_rows(worst_probability(found), 3, 2) == [0, 2]
    assert accuracy(found, [0, 1, 2])["all readings"] == {"eye": 2 / 3}


def test_a_reading_that_asks_for_nothing_is_not_judged(toy):
    assert score_images(
        {"far": Readout("", Identity())}, {"eye": Brightness()}, toy, torch.rand(2, 1, 8, 8)
    ) == [[]]


TOP, BOTTOM = (lambda x: x[:, :, :1]), (lambda x: x[:, :, 1:])


def view_scores_of(toy, images, **given):
    readings_of = {name: Readout(prompt, through) for name, (prompt, through) in given.items()}
    judges = {"eye": Brightness()}
    (found,) = score_images(readings_of, judges, toy, images)
    return view_scores(found, list(readings_of), judges)


def test_alignment_and_concealment_are_those_of_the_matrix_of_log_probabilities(toy):
    """Two pictures, their halves 0.8 and 0.1, 0.5 and 0.5 bright; asked are "light" above and "dark" below."""
    images = torch.tensor([[0.8, 0.1], [0.5, 0.5]])[:, None, :, None].expand(-1, 1, -1, 2)
    scores = view_scores_of(toy, images, top=("light", TOP), bottom=("dark", BOTTOM))
    (eye,) = scores
    assert eye.alignment == pytest.approx([math.log(0.8), math.log(0.5)]) and not eye.left_out
    rows, columns = 0.8 / (0.8 + 0.2) + 0.9 / (0.9 + 0.1), 0.8 / (0.8 + 0.1) + 0.9 / (0.9 + 0.2)
    assert eye.concealment == pytest.approx([(rows + columns) / 4, 0.5])
    mean = {
        "alignment": {"eye": (math.log(0.8) + math.log(0.5)) / 2},
        "concealment": {"eye": (rows + columns) / 8 + 0.25},
    }
    told = mean_view_scores(scores, [0, 1])
    assert told.keys() == mean.keys() and all(
        told[name]["eye"] == pytest.approx(mean[name]["eye"], abs=1e-6) for name in mean
    )


def test_what_of_alignment_and_concealment_is_left_out_is_said(toy):
    images = torch.tensor([[0.8, 0.1], [0.5, 0.5]])[:, None, :, None].expand(-1, 1, -1, 2)
    one = mean_view_scores(view_scores_of(toy, images, picture=("light", TOP)), [0, 1])
    assert one == {"alignment": {"eye": pytest.approx((math.log(0.8) + math.log(0.5)) / 2, abs=1e-6)}} | {
        "concealment_left_out": {"eye": "there is one reading, from which no other is to be hidden"}
    }
    alike = mean_view_scores(
        view_scores_of(toy, images, top=("light", TOP), bottom=(["light", "dark"], BOTTOM)), [0, 1]
    )
    assert alike["concealment_left_out"] == {"eye": "two readings ask for the same, in 1 of 2 pictures"}
    assert alike["concealment"] == {"eye": 0.5}
    assert alike["alignment"]["eye"] == pytest.approx((math.log(0.1) + math.log(0.5)) / 2, abs=1e-6)
    nothing = mean_view_scores(view_scores_of(toy, images, top=("light", TOP), bottom=("", BOTTOM)), [0, 1])
    why = {"eye": "bottom asks for nothing that this judge can read"}
    assert nothing == {"alignment_left_out": why, "concealment_left_out": why}


def test_every_picture_has_its_alignment_and_concealment_and_a_run_their_means(toy, tmp_path):
    given = {
        "readings": {"up": Readout("light", Identity()), "down": Readout("dark", lambda x: 1 - x)},
        "judges": {"eye": Brightness()},
    }
    every, kept = (
        run(task(toy, **given), tmp_path / "all"),
        run(task(toy, **given, keep=2), tmp_path / "kept"),
    )
    for name in ("alignment", "concealment"):
        each = [p["scores"][name]["eye"] for p in every["pictures"]]
        assert len(set(each)) > 3 and every[name]["eye"] == pytest.approx(sum(each) / 6, abs=2e-6)
        assert kept[name] == every[name] and kept[f"{name}_of_kept"]["eye"] == pytest.approx(
            sum(each[p["sample"]] for p in kept["pictures"]) / 2, abs=2e-6
        )
        assert [r[name]["eye"] for r in kept["ranking"]] == [each[r["sample"]] for r in kept["ranking"]]
    shown = image_io.as_tensor(Image.open(tmp_path / "all" / every["pictures"][0]["file"]))
    assert every["pictures"][0]["scores"]["alignment"]["eye"] == pytest.approx(
        math.log(shown.mean()), abs=0.02
    )


class Chooser(Brightness):
    """A judge that answers with what is asked, as CLIP does; `sizes` has the pictures of each look."""

    def __init__(self):
        self.sizes = []

    def answers(self, prompts):
        return tuple(prompts)

    def probabilities(self, images, prompts):
        self.sizes.append(len(images))
        return torch.rand(len(images), len(prompts))


class Lamp(Brightness):
    """A judge that has no answer to other prompts than its own."""

    def answer_for(self, prompt):
        return prompt if prompt in ("light", "dark") else None


def test_a_ranking_is_the_first_judges_who_must_read_every_readout(toy, tmp_path):
    given = {"judges": {"lamp": Lamp(), "chooser": Chooser()}, "keep": 2}
    far, near, nothing = (Readout(text, Identity()) for text in ("a cat", "light", ""))
    with pytest.raises(UserError, match=r"rank by what the judge lamp reads, .* asked for in far"):
        run(task(toy, **given, readings={"far": far, "near": near}), tmp_path / "run")
    numbers = run(task(toy, **given, readings={"far": nothing, "near": near}), tmp_path / "ranked")
    assert [entry["score"] for entry in numbers["ranking"]] == [
        entry["near_lamp"] for entry in numbers["ranking"]
    ]


def test_runs_of_a_batch_are_read_at_once_where_the_answers_are_the_same_and_apart_where_not(toy):
    reading, images = Readout(["a", "b", "a", "b", "c", "c"], Identity()), torch.rand(6, 1, 8, 8)
    runs = [range(2), range(2, 4), range(4, 6)]
    eye, chooser = Brightness(), Chooser()
    found = score_images({"picture": reading}, {"chooser": chooser}, toy, images, runs)
    assert chooser.sizes == [4, 2] and [one[0].right_answers for one in found] == [
        ["a", "b"],
        ["a", "b"],
        ["c", "c"],
    ]
    light = Readout("light", Identity())
    together, alone = (score_images({"p": light}, {"eye": eye}, toy, images, r) for r in (runs, None))
    assert torch.equal(torch.cat([one[0].probability for one in together]), alone[0][0].probability)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"upscale": True}, "second stage"),
        ({"keep": 2}, "needs a judge"),
        ({"keep": 9, "judges": {"eye": Brightness()}}, "more than samples"),
    ],
)
def test_what_cannot_be_kept_or_upscaled_is_said(given, says, toy, tmp_path):
    with pytest.raises(Exception, match=says):
        run(task(toy, readings={"picture": Readout("light", Identity())}, **given), tmp_path / "run")


def test_a_second_stage_asks_the_same_wish_once_a_step_of_pictures_four_times_as_large(toy, tmp_path):
    made = []
    upscaler = lambda low, noise: made.append(Larger(low, noise)) or made[-1]
    given = {
        "readings": {"picture": Readout("light", Identity())},
        "judges": {"eye": Brightness()},
        "keep": 2,
    }
    wish = hybrid(guided("dark"), guided("light"), LowPass(2.0)).through(Flip())
    numbers = run(task(toy, estimate=wish, upscale=True, upscaler=upscaler, **given), tmp_path / "run")
    assert numbers["second_stage"]["rows_per_call"] == 2 * 3 and numbers["second_stage"]["network_calls"] == 6
    assert made[-1].channels == [2] * 6 and made[-1].noise.shape == (2, 1, 32, 32)
    assert all(Image.open(tmp_path / "run" / p["file"]).size == (32, 32) for p in numbers["pictures"])
    assert [Image.open(path).size for path in (tmp_path / "run" / "first_stage").iterdir()] == [(8, 8)] * 2


def test_what_is_kept_of_a_picture_is_kept_to_the_byte_in_the_second_stage_too(toy, tmp_path):
    pin = lambda *given, **more: pins.pin_around_mask(*given, image="hook", mask="lower_half", **more)
    numbers = run(task(toy, upscale=True, upscaler=Larger, pin=pin), tmp_path / "run")
    original = image_io.load_image("hook", (1, 32, 32))
    for entry in numbers["pictures"]:
        result = image_io.as_tensor(Image.open(tmp_path / "run" / entry["file"]))
        assert torch.equal((result * 255).round()[:, :16], (original * 255).round()[:, :16])


WISHES = {
    "“light” · 6 updates from noise · gamma 3": guided("light", 3),
    "“light” · 6 updates from noise · no guidance": conditional("light"),
    "no prompt · 6 updates from noise · no guidance": guided("", 3),
    "6 updates from noise · gamma 3": hybrid(guided("dark", 3), guided("light", 3), LowPass(2.0)),
}


@pytest.mark.parametrize("said", WISHES)
def test_a_note_says_what_is_asked(said, toy):
    one = task(toy, estimate=WISHES[said])
    assert (
        one.describe_run(RunRows(range(6), ({},), "model toy"), timesteps.strided(100, 6)).note
        == f"model toy · {said} · seed 5"
    )


def test_a_run_of_a_batch_is_noted_as_if_it_were_alone(toy):
    grid = timesteps.strided(100, 6)
    batch = task(toy, estimate=guided(["a", "a", "b", "b"], [1, 1, 7, 7]), samples=2, seed=[5, 5, 6, 6])
    for wish, seed, rows in ((guided("a", 1), 5, range(2)), (guided("b", 7), 6, range(2, 4))):
        alone = task(toy, estimate=wish, samples=2, seed=seed).describe_run(
            RunRows(range(2), ({},), "toy"), grid
        )
        assert batch.describe_run(RunRows(rows, ({},), "toy"), grid).note == alone.note


def test_a_note_says_which_stages_did_something(toy):
    one, grid, part = (
        task(toy, upscale=True, upscaler=Larger),
        timesteps.strided(100, 6),
        RunRows(range(6), ({},), "toy"),
    )
    whole = pins.pin_whole(toy, grid, "hook", None).pin
    assert (
        "updates from noise in each stage" in one.describe_run(part, grid).note
        and "in stage II" in one.describe_run(part, grid, whole).note
    )


OWN = [(None, 12, "gamma 3"), (1, 6, "gamma 3, then no guidance"), (4, 12, "gamma 3, then gamma 4")]


@pytest.mark.parametrize(("second_gamma", "rows", "said"), OWN)
def test_the_second_stage_may_have_a_guidance_of_its_own(second_gamma, rows, said, toy, tmp_path):
    one = task(toy, upscale=True, upscaler=Larger, second_gamma=second_gamma)
    numbers = run(one, tmp_path / "run")
    assert numbers["rows_per_call"] == 12 and numbers["second_stage"]["rows_per_call"] == rows
    grid, part = timesteps.strided(100, 6), RunRows(range(6), ({},), "toy")
    alone = one.describe_run(part, grid, pins.pin_whole(toy, grid, "hook", None).pin)
    assert (
        f" · {said} · " in one.describe_run(part, grid).note
        and f" · {said.split(', then ')[-1]} · " in alone.note
    )


def test_what_the_second_stage_refuses_is_said_before_the_first_has_worked(toy, tmp_path):
    def upscaler(low, noise):
        raise UserError("There is no second stage there.")

    with pytest.raises(UserError, match="no second stage"):
        run(task(toy, upscale=True, upscaler=upscaler), tmp_path / "run")
    assert toy.rows == []


class Faulty(Larger):
    """A second stage whose files hold another network."""

    def check_weights(self):
        raise UserError("These weights do not fit.")


class Unread(Brightness):
    def probabilities(self, images, prompts):
        raise UserError("The judge reads other pictures.")


def small_only(model, grid, times=1):
    """A pin that does not fit the pictures of a second stage."""
    if times > 1:
        raise UserError("It fits small pictures only.")
    return pins.no_pin(model, grid)


def clip_small(x0, denoiser):
    if x0.shape[-1] > 8:
        raise UserError("It bounds small pictures only.")
    return x0


READ = {"readings": {"picture": Readout("light", Identity())}, "judges": {"eye": Brightness()}}
LATE = {
    "second weights": ({"upscale": True, "upscaler": Faulty}, "weights do not fit"),
    "second pin": ({"upscale": True, "upscaler": Larger, "pin": small_only}, "fits small pictures only"),
    "second clip": (
        {"upscale": True, "upscaler": Larger, "sampler": Sampler(six, clip=clip_small)},
        "bounds small pictures only",
    ),
    "grid": (
        {
            "upscale": True,
            "upscaler": Larger,
            "sampler": Sampler(lambda levels: timesteps.strided(levels, 100)),
        },
        "steps=100",
    ),
    "rule": ({"sampler": Sampler(six, DDPM("learned"))}, "learned a variance"),
    "judge": ({**READ, "judges": {"eye": Unread()}}, "reads other pictures"),
    "ranking": (
        {**READ, "readings": {"picture": Readout("", Identity())}, "keep": 1},
        "cannot be read by a judge",
    ),
    "film": ({"film": Film(picture=6)}, r"task\.film\.picture=6 is not among .* from 0 to 5"),
    "an image of several": (
        {"pin": partial(pins.pin_whole, image=["hook", "nowhere"] * 3, i_start=1)},
        "no picture 'nowhere'",
    ),
}


@pytest.mark.parametrize("name", LATE)
def test_what_will_be_refused_is_refused_before_anything_is_asked_or_encoded(name, tmp_path):
    class Asked(Toy):
        def prepare(self, prompts):
            encoded.extend(prompts)

    encoded, (given, says), toy = [], LATE[name], Asked()
    with pytest.raises(Exception, match=says):
        run(task(toy, **given), tmp_path / "run")
    assert toy.rows == encoded == []


def test_a_mask_for_the_first_stage_serves_the_second(toy, tmp_path):
    kept = Image.new("L", (8, 8), 255)
    kept.paste(0, (0, 0, 8, 4))
    kept.save(tmp_path / "mask.png")
    pin = partial(pins.pin_around_mask, image="hook", mask=str(tmp_path / "mask.png"))
    numbers = run(task(toy, upscale=True, upscaler=Larger, pin=pin), tmp_path / "run")
    result = image_io.as_tensor(Image.open(tmp_path / "run" / numbers["pictures"][0]["file"]))
    assert torch.equal(
        (result * 255).round()[:, :16], (image_io.load_image("hook", (1, 32, 32)) * 255).round()[:, :16]
    )
    Image.new("L", (12, 12)).save(tmp_path / "mask.png")
    toy.rows.clear()
    with pytest.raises(UserError, match="12 × 12 pixels; this model's pictures are 8 × 8"):
        run(task(toy, upscale=True, upscaler=Larger, pin=pin), tmp_path / "other")
    assert toy.rows == []


def test_a_soft_mask_is_the_weight_of_the_picture_in_the_result(toy, tmp_path):
    ramp = (torch.arange(8) / 7).expand(8, 8)
    image_io.as_image(ramp[None]).save(tmp_path / "mask.png")
    pinned = pins.pin_around_mask(toy, timesteps.strided(100), "hook", str(tmp_path / "mask.png"))
    x, image = torch.randn(1, 1, 8, 8), toy.encode(image_io.load_image("hook", toy.shape)[None])
    assert torch.allclose(pinned.pin.finish(x), ramp * x + (1 - ramp) * image, atol=0.005)
    assert torch.equal(pinned.pin.finish(x)[..., 0], image[..., 0]) and torch.equal(
        pinned.pin.finish(x)[..., 7], x[..., 7]
    )
    assert (
        pinned.numbers["share_repainted"] == 0.5
        and "50% of the picture, 75% of it in part" in pinned.pin.note
    )


class Latent(Toy):
    """States of a quarter of the picture's side; what is decoded is never what was encoded."""

    image_shape = (1, 32, 32)

    def encode(self, images):
        return torch.nn.functional.avg_pool2d(super().encode(images), 4)

    def decode(self, x):
        return torch.nn.functional.interpolate(super().decode(x), scale_factor=4.0) * 0.9


def test_of_a_latent_model_what_is_kept_is_kept_to_the_byte(tmp_path):
    model, source = Latent(), image_io.load_image("hook", Latent.image_shape)
    hole = Image.new("L", (32, 32))
    hole.paste(255, (0, 14, 32, 32))  # a latent is four pixels high: of one there is half a hole
    hole.save(tmp_path / "mask.png")
    pinned = pins.pin_around_mask(model, timesteps.strided(100), "hook", str(tmp_path / "mask.png"))
    assert pinned.pin.part.area == 3 / 8 and pinned.numbers["share_repainted"] == round(18 / 32, 4)
    seen = pinned.finish(torch.full((2, 1, 32, 32), 0.5))
    assert torch.equal(seen[:, :, :14], source[:, :14].expand(2, 1, 14, 32)) and seen[:, :, 14:].eq(0.5).all()


GRIDS = [
    timesteps.ays(100),
    timesteps.strided(100, 6),
    timesteps.strided_clean(100, 6),
    timesteps.repaint(100, 6),
    timesteps.all_levels(100),
]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("rule", [DDPM(), DDIM(), DPMpp()])
def test_a_picture_pinned_to_the_end_asks_nothing_and_comes_back_as_it_is(rule, grid, toy):
    for i_start in (None, len(timesteps.descent(grid)) - 1):
        pinned = pins.pin_whole(toy, grid, "hook", i_start)
        *_, end = sample(toy, guided("light", 3), grid, seeded(5, 2), rule, pinned.pin)
        assert toy.rows == [] and torch.equal(end.x, pinned.pin.image.expand_as(end.x))
        assert [(start["i_start"], start["strength"]) for start in pinned.numbers["starts"]] == [
            (len(timesteps.descent(grid)) - 1, 0)
        ]


@pytest.mark.parametrize("model", [Toy(), Latent()], ids=["pixels", "latents"])
def test_in_a_batch_the_picture_itself_comes_back_to_the_byte(model, tmp_path, stderr):
    cells = [{"i_start": start} for start in (1, 6, None)]
    given = {
        "pin": partial(pins.pin_whole, image="hook", i_start=[1, 1, 6, 6, None, None]),
        "cells": cells,
        "samples": 2,
    }
    numbers = run(task(model, **given), tmp_path / "run")
    wanted = image_io.as_tensor(Image.open(tmp_path / "run/original/000.png"))
    same = [
        torch.equal(image_io.as_tensor(Image.open(tmp_path / "run" / p["file"])), wanted)
        for p in numbers["pictures"]
    ]
    assert same == [False, False, True, True, True, True]
    assert (
        numbers["rows"] == 5 * 2 * 2
        and "i_start 6 = the picture itself, given back as it is = strength 0" in stderr()
    )
    alone = run(
        task(model, pin=partial(pins.pin_whole, image="hook", i_start=None), samples=1), tmp_path / "alone"
    )
    assert alone["network_calls"] == 0 and alone["starts"][0]["strength"] == 0


def test_the_second_stage_starts_from_the_picture_itself(toy, tmp_path):
    made = []
    upscaler = lambda low, noise: made.append(Larger(low, noise)) or made[-1]
    numbers = run(
        task(toy, upscale=True, upscaler=upscaler, pin=partial(pins.pin_whole, image="hook", i_start=None)),
        tmp_path / "run",
    )
    low = toy.encode(image_io.load_image("hook", toy.shape)[None])
    assert torch.equal(
        made[-1].low, torch.nn.functional.interpolate(low, scale_factor=4.0).expand(6, -1, -1, -1)
    )
    assert (
        numbers["network_calls"] == 0
        and numbers["second_stage"]["network_calls"] == 6
        and numbers["starts"][0]["strength"] == 0
    )


def test_updates_are_those_of_the_grid():
    walks = {
        10: timesteps.ays(1000),
        300: timesteps.all_levels(300),
        33: timesteps.strided(1000),
        34: timesteps.strided_clean(1000),
        93: timesteps.repaint(1000),
    }
    assert [timesteps.count_updates(grid) for grid in walks.values()] == list(walks)


def test_a_number_stands_beside_its_key_and_words_after_a_colon():
    said = {
        "gamma": 7,
        "sigma": 1.5,
        "prompt": "a rocket ship",
        "i_start": "10",
        "image": "cat.png",
        "negative": "",
    }
    labels = ["gamma 7", "sigma 1.5", "prompt: a rocket ship", "i_start 10", "image: cat.png", "no negative"]
    assert [result_figure.label_value(key, value) for key, value in said.items()] == labels
    seen = result_figure.ReadoutImages("near", torch.rand(2, 1, 8, 8), ["a pencil", "a pencil"])
    assert (
        result_figure.row_label(seen, [{"gamma": 7}, {"gamma": 5}], range(1), 1, 2, {"gamma": ["7", "5"]})
        == "gamma 7, near: a pencil"
    )


def test_results_are_named_where_something_else_stands_beside_them():
    axes = {"gamma": ["1", "7"]}
    assert (
        result_figure.column_labels([{}], 1, 2, {}, {"mask": 0}, {}) == ["mask", "result", "result"]
        and result_figure.column_labels([{}], 1, 2, {}, {}, {}) == []
    )
    assert result_figure.column_labels([{"gamma": 1}, {"gamma": 7}], 2, 2, axes, {}, {"original": 0}) == [
        "gamma 1",
        "",
        "gamma 7",
        "",
        "original",
    ]
    small = [{"gamma": 1e-05}, {"gamma": 7}]
    assert result_figure.column_labels(small, 2, 1, {"gamma": ["1e-05", "7"]}, {}, {}) == [
        "gamma 1e-05",
        "gamma 7",
    ]


@pytest.mark.parametrize("count, line", [(5, 5), (12, 12), (13, 12), (14, 7), (40, 10), (100, 10), (500, 20)])
def test_many_samples_of_one_wish_stand_in_lines_of_equal_length_where_they_can(count, line):
    pictures = [result_figure.ReadoutImages("picture", torch.rand(count, 1, 8, 8), [""] * count)]
    page = result_figure.result_sheet("sample", pictures, [{}], count, {}, {})
    wide, high = sheets.picture_sheet(torch.rand(-(-count // line), line, 1, 8, 8), title="sample").size
    assert sheets.square_line_length(count) == line and page.size == (wide, high)


def test_wishes_that_fill_no_table_are_told_apart_by_all_that_they_say():
    pairs = [{"far": "a", "near": "x"}, {"far": "b", "near": "y"}, {"far": "c", "near": "z"}]
    said = ["a / x", "b / y", "c / z"]
    assert result_figure.as_table(pairs) == ([{"far / near": both} for both in said], {"far / near": said})
    whole = [{"far": far, "near": near} for far in "ab" for near in "xy"]
    assert result_figure.as_table(whole) == (
        whole,
        {"far": ["a", "b"], "near": ["x", "y"]},
    ) and result_figure.as_table([{}]) == ([{}], {})


def test_a_long_axis_stands_in_lines_with_its_values_under_the_pictures(monkeypatch):
    under = []
    monkeypatch.setattr(
        result_figure, "picture_sheet", lambda rows, *told, **more: under.extend(more["under"])
    )
    seen = [
        result_figure.ReadoutImages(name, torch.rand(14, 1, 8, 8), ["a"] * 14) for name in ("near", "far")
    ]
    result_figure.result_sheet("hybrid", seen, [{"seed": seed} for seed in range(14)], 1, {}, {})
    assert under == [
        [""] * 7,
        [f"seed {seed}" for seed in range(7)],
        [""] * 7,
        [f"seed {seed}" for seed in range(7, 14)],
    ]
    assert result_figure.column_caption({"prompt": "a skull"}, {"prompt": []}) == "a skull"


def test_both_stages_are_seen_at_one_size():
    small, seen = (
        torch.rand(2, 1, 8, 8),
        [result_figure.ReadoutImages(name, torch.rand(2, 1, 32, 32), ["a", "b"]) for name in ("near", "far")],
    )
    assert [look.label for look in result_figure.stage_images(small, seen)] == ["stage I", "near", "far"]
    first, second = result_figure.stage_images(small, seen[:1])
    assert (first.label, second.label) == (
        "stage I",
        "stage II",
    ) and first.images.shape == second.images.shape
    assert torch.equal(first.images[..., ::4, ::4], small) and second.images is seen[0].images


def test_kept_rows_ask_for_what_they_asked_for_in_the_whole_run(toy):
    wish, rows = guided(["a", "b", "c", "d"], [1, 2, 3, 4]), [3, 1]
    x = torch.randn(4, 1, 8, 8)
    assert torch.allclose(
        wish(toy, x, 50).native[rows], wish.select(rows)(toy, x[rows], 50).native, atol=1e-6
    )
    pin = Pin(torch.rand(4, 1, 8, 8), until=(10, 20, 30, 40))
    assert torch.equal(
        pin(x, 25, toy.schedule, x)[rows], pin.select(rows)(x[rows], 25, toy.schedule, x[rows])
    )


def test_blurs_grow_with_the_pictures():
    wish = hybrid(guided("a"), guided("b"), LowPass(2.0)).for_resolution(4)
    assert {getattr(term.map, "sigma", 8.0) for term in wish.terms} == {8.0}
    assert pins.pin_part(Toy(), (9, 0), "hook", LowPass(2.0), times=4).pin.part == LowPass(8.0)


def test_every_step_is_filmed_and_the_animation_ends_with_the_result(expkit, data):
    done = expkit("task=trajectory", "model=ideal", "model.count=60", "logger=none", "steps=6", "prompt=3")
    assert done.code == 0, done.err
    film = Image.open(done.folder / "trajectory.gif")
    assert film.n_frames == 6 + 1 and Image.open(done.folder / "trajectory.png").width > 200
    assert image_io.recipe_of(done.folder / "trajectory.gif") == image_io.recipe_of(
        done.folder / "trajectory.png"
    )


def test_a_film_of_a_pinned_picture_begins_where_it_is_let_go(expkit, data):
    done = expkit(
        "task=trajectory",
        "pin@task.pin=picture",
        "i_start=4",
        "model=ideal",
        "model.count=60",
        "logger=none",
        "steps=6",
    )
    assert done.code == 0, done.err
    assert Image.open(done.folder / "trajectory.gif").n_frames == 6 - 4 + 1


def test_the_forward_process_follows_the_schedule(expkit, data):
    done = expkit("task=forward", "logger=none", "t=[0,500,999]", "image=[smiley,tower]")
    assert done.code == 0, done.err
    levels = done.numbers()["levels"]
    assert [entry["t"] for entry in levels] == [0, 150, 299]
    assert levels[0]["alpha_bar"] > 0.99 > levels[1]["alpha_bar"] > levels[2]["alpha_bar"]
    assert all(len(entry["files"]) == 2 for entry in levels)


def test_the_network_denoises_a_picture_it_knows_better_than_any_blur(expkit, data, tmp_path):
    from expkit.data.datasets import mnist

    image_io.as_image(mnist(train=True).images[3].float() / 255).save(tmp_path / "digit.png")
    given = (
        "model=ideal",
        "model.count=60",
        "sampler=strided_clean",
        f"image={tmp_path / 'digit.png'}",
        "logger=none",
    )
    done = expkit("task=denoise", "t=[200,400]", *given)
    assert done.code == 0, done.err
    for entry in done.numbers()["levels"]:
        assert entry["one step"]["psnr"] > entry["Gaussian blur"]["psnr"] > entry["noisy"]["psnr"]
        assert entry["iterative"]["psnr"] > 25 and entry["iterative"]["ssim"] > 0.9


@pytest.mark.parametrize("sampler", ["strided", "diffusers", "dpmpp"])
def test_denoising_step_by_step_ends_where_a_run_pinned_until_then_does(sampler, expkit, data):
    given = (
        "image=tower",
        "prompt=3",
        "model=ideal",
        "model.count=60",
        "logger=none",
        "steps=6",
        f"sampler={sampler}",
    )
    steps = expkit("task=denoise", "t=330", *given)
    pinned = expkit(
        "task=trajectory", "pin@task.pin=picture", "estimate@task.estimate=asked", "i_start=4", *given
    )
    assert steps.code == pinned.code == 0, steps.err + pinned.err
    assert f" {steps.numbers()['network_calls']} network calls" in steps.err
    files = (
        steps.folder / steps.numbers()["levels"][0]["files"]["iterative"],
        pinned.folder / "pictures/000.png",
    )
    assert torch.equal(*[image_io.as_tensor(Image.open(file)) for file in files])


def test_what_is_only_looked_at_has_the_noise_of_the_forward_process(expkit, data):
    given = ("image=tower", "model=ideal", "model.count=60", "logger=none", "t=500")
    forward, looked = (
        expkit("task=forward", *given),
        expkit("task=denoise", "task.ways=[noisy,one step]", *given),
    )
    assert forward.code == looked.code == 0, forward.err + looked.err
    files = [
        done.folder / name
        for done, name in ((forward, "pictures/t0150_000.png"), (looked, "pictures/t0150_noisy.png"))
    ]
    assert torch.equal(*[image_io.as_tensor(Image.open(file)) for file in files])


def test_a_level_between_those_of_a_grid_is_put_into_it():
    assert denoise.insert_level(50, (90, 60, 30, 0)) == (90, 60, 50, 30, 0) and denoise.insert_level(
        60, (90, 60, 0)
    ) == (90, 60, 0)
    assert denoise.insert_level(95, (90, 60, 0)) == (95, 90, 60, 0) and denoise.insert_level(
        70, (90, 60, 90, 60, 0)
    ) == (90, 70, 60, 60, 0)


@pytest.mark.parametrize("argument", ["t=1000", "t=-1", "image=[smiley,tower]", "task.ways=[magic]"])
def test_what_cannot_be_denoised_is_said(argument, expkit, data):
    done = expkit("task=denoise", "model=ideal", "model.count=60", "logger=none", argument)
    assert (
        done.code == 2
        and "Traceback" not in done.err
        and done.err.startswith("expkit: ")
        and "There is no key" not in done.err
    )


def test_sampling_from_a_level_between_those_of_the_grid(toy):
    grid = (77, *[s for s in timesteps.strided(100, 6) if s < 77])
    *_, end = sample(toy, guided("a"), grid, seeded(0, 1), x=torch.randn(1, 1, 8, 8))
    assert end.s == 0 and end.x.isfinite().all()
