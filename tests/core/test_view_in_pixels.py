"""Views through the autoencoder: where it commutes with them and loses nothing, they are the views of latents; the cost is counted."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from expkit.core.denoiser import Counting, DenoiserWrapper, Prediction
from expkit.core.estimate import Rescaled, anagram, conditional, guided, hybrid
from expkit.core.maps import LowPass
from expkit.core.pin import Pin
from expkit.core.pixel_views import ViewsInPixels
from expkit.core.sampler import count_rows, sample, seeded
from expkit.core.schedules import cosine, flow, linear_rescaled, prediction_target
from expkit.core.solvers import DDIM, Heun
from expkit.core.views import (
    Composition,
    Flip,
    Identity,
    InnerCircle,
    Jigsaw,
    Mirror,
    Negate,
    Patches,
    Rotate180,
    RotateCW,
    Skew,
    SquareHinge,
    VisualAnagramsJigsaw,
    WhiteBalance,
)
from expkit.errors import UserError
from expkit.models import stable_diffusion
from expkit.models.analytic import Ideal
from expkit.models.pretrained.base import DeviceSpec
from expkit.tasks.preflight import check_run, format_header
from tests import tiny_diffusers
from tests.conftest import Toy

CPU = DeviceSpec()

CELL = 4
GRID = (99, 88, 77, 66, 55, 44, 33, 22, 11, 5, -1)
UP, DOWN, SIDE = guided("3", 4), guided("6", 3), guided("9", 5)


class Latent(DenoiserWrapper):
    """A model with a lossless autoencoder: each latent is a cell of 4 × 4 pixels of one grey, which commutes with permutations of cells.

    `matrix` mixes the channels. With `ramp`, the pixels of a cell rise to the right, and a latent is the weighted mean of its pixels,
    which does not commute with what turns a cell.
    """

    def __init__(self, inner, ramp: float = 0.0) -> None:
        super().__init__(inner)
        channels = self.shape[0]
        self.matrix = torch.eye(channels) + 0.2 * torch.ones(channels, channels)
        self.offsets = ramp * (torch.arange(CELL * self.shape[2]) % CELL - (CELL - 1) / 2)
        self.passes = {"decode": 0, "encode": 0}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (self.shape[0], CELL * self.shape[1], CELL * self.shape[2])

    def decode(self, x: Tensor) -> Tensor:
        self.passes["decode"] += len(x)
        colours = torch.einsum("ij,bjhw->bihw", self.matrix.to(x), x)
        return 0.5 + 0.5 * (F.interpolate(colours, scale_factor=CELL) * (1 + self.offsets.to(x)))

    def encode(self, images: Tensor) -> Tensor:
        self.passes["encode"] += len(images)
        left = (2 * images - 1)[..., ::CELL] / (1 + self.offsets.to(images)[::CELL])
        return torch.einsum("ij,bjhw->bihw", self.matrix.inverse().to(images), left[..., ::CELL, :])


def ideal(schedule=None, dtype=torch.float64) -> Ideal:
    generator = torch.Generator().manual_seed(3)
    data, labels = torch.rand(12, 2, 8, 8, generator=generator).to(dtype), torch.tensor([3, 6, 9] * 4)
    return Ideal(data, labels, schedule or linear_rescaled(100))


def both(parts, views):
    return anagram(parts, views), anagram(parts, views, view_in="pixels")


def state(count: int = 2, channels: int = 2) -> Tensor:
    return torch.randn(count, channels, 8, 8, generator=torch.Generator().manual_seed(5)).double()


VIEWS = [Flip(), Mirror(), Rotate180(), RotateCW(), Negate(), Patches(4), Composition((RotateCW(), Negate()))]


@pytest.mark.parametrize("view", VIEWS, ids=str)
@pytest.mark.parametrize("t", [0, 40, 99])
def test_an_autoencoder_that_commutes_gives_the_anagram_of_latents(view, t):
    model = Latent(ideal())
    in_latents, in_pixels = both({"up": UP, "down": DOWN}, {"up": Identity(), "down": view})
    expected, answer = (one(model, state(), t).native for one in (in_latents, in_pixels))
    assert torch.allclose(answer, expected, atol=1e-5)
    assert (expected - UP(model, state(), t).native).abs().max() > 1e-3 or t == 0  # the view has a say


class In(DenoiserWrapper):
    """The same model in another parametrization."""

    def __init__(self, inner, kind: str) -> None:
        super().__init__(inner)
        self.prediction_type = kind

    def predict(self, x, t, prompts):
        x0, (alpha, sigma) = self.inner.predict(x, t, prompts).native, self.schedule.at(t)
        noise = (x - alpha * x0) / sigma
        return Prediction(
            prediction_target(x0, noise, torch.tensor(alpha), torch.tensor(sigma), self.prediction_type)
        )


@pytest.mark.parametrize(
    ("kind", "schedule"), [("eps", cosine(100)), ("v", cosine(100)), ("flow", flow(100))]
)
def test_every_parametrization_with_three_parts_and_without_a_plain_one(kind, schedule):
    model = Latent(In(ideal(schedule), kind))
    three = {"up": Identity(), "down": Flip(), "side": RotateCW()}
    for views in (three, three | {"up": Mirror()}, three | {"side": Flip()}):
        expected, answer = both({"up": UP, "down": DOWN, "side": SIDE}, views)
        assert torch.allclose(
            answer(model, state(), 60).native, expected(model, state(), 60).native, atol=1e-5
        )


def test_an_autoencoder_that_does_not_commute_gives_another_answer():
    model = Latent(ideal(), ramp=0.2)
    assert torch.allclose(model.encode(model.decode(state())), state(), atol=1e-5)  # but it is lossless
    parts = {"up": UP, "down": DOWN}
    for view, commutes in ((Flip(), True), (Mirror(), False), (Rotate180(), False)):
        expected, answer = both(parts, {"up": Identity(), "down": view})
        error = (answer(model, state(), 40).native - expected(model, state(), 40).native).abs().max()
        assert error < 1e-5 if commutes else error > 1e-2


def test_the_viewed_part_is_asked_at_the_state_of_the_viewed_picture():
    """The formula, written out with what the model answers to it."""
    model = Latent(ideal(), ramp=0.2)
    x, t, view = state(), 40, Rotate180()
    alpha, sigma = model.schedule.at(t)
    z0 = UP(model, x, t).native
    seen = alpha * model.encode(view(model.decode(z0))) + sigma * view((x - alpha * z0) / sigma)
    back = model.encode(view(model.decode(DOWN(model, seen, t).native)))
    answer = anagram({"up": UP, "down": DOWN}, {"up": Identity(), "down": view}, view_in="pixels")
    assert torch.allclose(answer(model, x, t).native, (z0 + back) / 2, atol=1e-5)


def test_equal_prompts_through_a_view_that_changes_nothing_are_the_prompt():
    model = Latent(ideal(), ramp=0.2)
    same = Composition((Flip(), Flip()))  # not the identity by name, so that it goes all the way
    answer = anagram({"up": UP, "down": UP}, {"up": Identity(), "down": same}, view_in="pixels")
    assert torch.allclose(answer(model, state(), 40).native, UP(model, state(), 40).native, atol=1e-5)
    assert model.passes == {"decode": 4, "encode": 4}  # two pictures


def test_a_model_of_pixels_and_parts_without_views_make_one_call():
    expected, answer = both({"up": UP, "down": DOWN}, {"up": Identity(), "down": Flip()})
    net = Counting(ideal())
    assert torch.equal(answer(net, state(), 40).native, expected(net, state(), 40).native) and net.rows == [
        8,
        8,
    ]
    plain = anagram({"up": UP, "down": DOWN}, {"up": Identity(), "down": Identity()}, view_in="pixels")
    net = Counting(Latent(ideal()))
    assert torch.allclose(plain(net, state(), 40).native, (0.5 * (UP + DOWN))(net, state(), 40).native)
    assert net.rows == [6, 6] and net.inner.passes == {"decode": 0, "encode": 0}


@pytest.mark.parametrize("rule", [DDIM(), Heun()])
def test_calls_rows_and_passes_are_those_that_were_counted(rule):
    up, down = guided(["3", "6", "9"], [1, 4, 4]), guided(["6", "9", "3"], [4, 0, 1])
    for views in ({"up": Identity(), "down": Flip()}, {"up": RotateCW(), "down": Flip()}):
        wish = anagram({"up": up, "down": down}, views, view_in="pixels")
        net = Counting(Latent(ideal(dtype=torch.float32)))
        pin = Pin(torch.zeros(3, 2, 8, 8), until=(60, 30, -1))
        plan = check_run(net, wish, GRID, 3, pin, rule=rule)
        assert net.rows == [] and net.inner.passes == {
            "decode": 0,
            "encode": 0,
        }  # the VAE is not loaded to check
        *_, end = sample(net, wish, GRID, seeded(1, 3), rule, pin)
        passes = sum(net.inner.passes.values())
        assert end.x.isfinite().all() and net.rows == plan.calls == count_rows(
            wish, net.schedule, GRID, 3, pin, rule=rule
        )
        header = format_header("anagram", net, GRID, plan, 3)
        each = 2 + 2 if Identity() in views.values() else 3 + 4
        assert f"the autoencoder {passes // each} × {each} times" in header and passes % each == 0


def test_a_batch_is_its_pictures_alone_and_a_selection_of_them():
    up, down = guided(["3", "6", "9"], [1, 4, 2]), guided(["6", "9", "3"], 3)
    wish = anagram({"up": up, "down": down}, {"up": Identity(), "down": Rotate180()}, view_in="pixels")
    model, x = Latent(ideal(), ramp=0.2), state(3)
    together = wish(model, x, 40).native
    for number in range(3):
        alone = wish.select([number])(model, x[[number]], 40).native
        in_run = wish(model, x[[number]], 40, [number]).native
        assert torch.allclose(alone, together[[number]], atol=1e-5) and torch.equal(alone, in_run)


def test_the_learned_variance_comes_back_through_the_view():
    model = Latent(Toy((1, 8, 8), variance_fraction=True, skewed=1.0))
    for views in ({"up": Identity(), "down": Flip()}, {"up": RotateCW(), "down": Negate()}):
        expected, answer = both({"up": UP, "down": DOWN}, views)
        x = state(channels=1)
        assert torch.allclose(
            answer(model, x, 40).variance_fraction, expected(model, x, 40).variance_fraction, atol=1e-5
        )


def test_it_stands_outermost_and_its_parts_have_no_views():
    wish = anagram({"up": UP, "down": DOWN}, {"up": Identity(), "down": Flip()}, view_in="pixels")
    for build in (
        lambda: hybrid(wish, UP, LowPass(1)),
        lambda: Rescaled(wish),
        lambda: wish.through(Flip()),
        lambda: anagram({"up": wish, "down": UP}, {"up": Identity(), "down": Flip()}, view_in="pixels"),
    ):
        with pytest.raises(UserError, match=r"ViewsInPixels is not a sum of terms.* take view_in=latents"):
            build()
    nested = anagram({"up": UP, "down": DOWN}, {"up": Identity(), "down": Flip()})
    with pytest.raises(UserError, match="views of its own"):
        ViewsInPixels((nested, UP), (Identity(), Mirror()))
    with pytest.raises(ValueError, match="latents or pixels"):
        anagram({"up": UP}, {"up": Flip()}, view_in="words")
    assert wish.readings == nested.readings and wish.for_resolution(4) == wish
    assert wish.with_guidance(2).parts == (guided("3", 2), guided("6", 2))


def test_what_the_header_says_of_views_and_latents():
    views = {"up": Identity(), "down": Rotate180()}
    in_latents, in_pixels = both({"up": UP, "down": DOWN}, views)
    model = Latent(ideal())
    warned = check_run(model, in_latents, GRID, 1)
    assert "Rotate180 moves latents, of 4 × 4 pixels each" in warned.warnings[0] and len(warned.calls) == 10
    told = check_run(model, in_pixels, GRID, 1)
    assert not told.warnings and told.calls == [2] * 20
    assert any(
        "the autoencoder 10 × 4 times (2 decodings and 2 encodings each)" in note for note in told.notes
    )
    pixels = check_run(ideal(), in_pixels, GRID, 1)
    assert pixels.calls == [4] * 10 and any("states are pixels" in note for note in pixels.notes)
    assert not check_run(ideal(), in_latents, GRID, 1).warnings
    assert not check_run(model, UP, GRID, 1).warnings


def test_views_that_the_noise_has_too_fit_and_others_are_refused_in_a_sentence():
    def wish(view):
        return anagram({"up": UP, "down": DOWN}, {"up": Identity(), "down": view}, view_in="pixels")

    model = Latent(ideal())
    model.range = (0.0, 1.0)  # as pretrained latent models say it
    for view in (*VIEWS, Skew(), SquareHinge(4)):
        check_run(model, wish(view), GRID, 1)
    with pytest.raises(UserError, match="symmetric about zero"):
        check_run(model, anagram({"up": UP}, {"up": Negate()}), GRID, 1)
    for view in (
        Patches(16),
        SquareHinge(3),
    ):  # the grid of latents has no such view, or it moves other things
        with pytest.raises(UserError, match="fits pictures of 32 pixels but not the grid of 8 × 8 latents"):
            check_run(model, wish(view), GRID, 1)
    large = Latent(Toy((4, 32, 32)))
    for view in (
        Jigsaw(),
        VisualAnagramsJigsaw(),
        InnerCircle(),
    ):  # pieces with curved edges, to the nearest latent
        check_run(large, wish(view), GRID, 1)
    with pytest.raises(UserError, match="does not fit this model: a picture of 32 pixels"):
        check_run(model, wish(Patches(3)), GRID, 1)
    assert (
        check_run(model, wish(WhiteBalance()), GRID, 1)
        .warnings[0]
        .startswith("WARNING: the view WhiteBalance")
    )
    with pytest.raises(UserError, match="do not sum to the whole picture"):
        check_run(
            model,
            anagram(
                {"up": 0.5 * UP, "down": 1.5 * DOWN}, {"up": Identity(), "down": Flip()}, view_in="pixels"
            ),
            GRID,
            1,
        )


def test_a_prompt_of_null_is_prepared_where_no_part_is_without_a_view():
    wish = anagram(
        {"a": conditional("3"), "b": conditional("6")}, {"a": Flip(), "b": Mirror()}, view_in="pixels"
    )
    assert "" in [term.prompt for term in wish.terms] and [
        row.query.prompt for row in wish.queries([0], 1)
    ] == ["", "3", "6"]


def test_stable_diffusion_goes_through_its_own_autoencoder(tmp_path):
    from diffusers import AutoencoderKL, DDIMScheduler

    folder = tiny_diffusers.stable_diffusion(tmp_path, DDIMScheduler(steps_offset=1, clip_sample=False))
    net, view, x, t = (
        Counting(stable_diffusion(tiny_diffusers.Words(), CPU, str(folder))),
        Rotate180(),
        torch.randn(2, 4, 8, 8),
        600,
    )
    wish = anagram({"up": UP, "down": DOWN}, {"up": Identity(), "down": view}, view_in="pixels")
    answer = wish(net, x, t).native

    vae, (alpha, sigma) = AutoencoderKL.from_pretrained(folder, subfolder="vae"), net.schedule.at(t)

    def turned(z0: Tensor) -> Tensor:
        with torch.no_grad():
            image = vae.decode(z0 / vae.config.scaling_factor).sample.clamp(-1, 1)
            return vae.encode(image.flip((-2, -1))).latent_dist.mean * vae.config.scaling_factor

    noise = UP(net, x, t).native
    z0 = (x - sigma * noise) / alpha
    seen = alpha * turned(z0) + sigma * noise.flip((-2, -1))
    back = turned((seen - sigma * DOWN(net, seen, t).native) / alpha)
    expected = (x - alpha * (z0 + back) / 2) / sigma
    assert torch.allclose(answer, expected, atol=1e-4) and net.rows == [4] * 4
    assert (
        answer - anagram({"up": UP, "down": DOWN}, {"up": Identity(), "down": view})(net, x, t).native
    ).abs().max() > 0.01


def test_the_command_says_that_pixels_have_no_latents_and_refuses_other_words(expkit):
    call = ("task=anagram", "model=digits", "upright=6", "turned=9", "steps=2", "samples=1", "logger=none")
    done = expkit(*call, "view_in=pixels")
    assert done.code == 0 and "2 network calls" in done.err and "this model's states are pixels" in done.err
    done = expkit(*call, "view_in=words")
    assert done.code == 2 and "view_in is latents or pixels" in done.err
    done = expkit(
        "task=hybrid", "model=digits", "estimate@task.estimate.far=anagram", "view_in=pixels", "logger=none"
    )
    assert done.code == 2 and "take view_in=latents" in done.err
