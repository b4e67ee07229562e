"""Training: the course's networks, streams that belong to (seed, epoch, index), and a killed run that goes on as itself."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import hydra
import pytest
import torch
import yaml
from torch import nn

from expkit.config.schema import config_folder
from expkit.core.denoiser import Counting, Prediction
from expkit.core.estimate import guided
from expkit.core.pin import Pin
from expkit.core.rng import Draws, stream
from expkit.core.sampler import Sampler, count_rows, keyed_noise, sample, seeded
from expkit.core.schedules import (
    CLEAN,
    Schedule,
    cosine,
    flow,
    linear,
    linear_rescaled,
    prediction_target,
    single_noise_level,
    variance_exploding,
    zero_terminal_snr,
)
from expkit.core.solvers import DDIM, DDPM
from expkit.data.labelled_pictures import Batches, Pictures
from expkit.errors import UserError
from expkit.metrics import judges
from expkit.metrics.classifiers import PlainClassifier
from expkit.models import trained
from expkit.models.pretrained import pictogram_unet
from expkit.models.unets import Network, UNet
from expkit.storage import devices, weights_io
from expkit.training import checkpoints, lr_schedules
from expkit.training.objectives import Diffusion, DigitClassification
from expkit.training.text_to_image import TextDiffusion
from expkit.training.train import Train, TrainConfig, TrainingData
from tests.conftest import Toy
from tests.stand_in import AS_EMNIST

PICTURES = Pictures(torch.randint(256, (50, 1, 28, 28), dtype=torch.uint8), torch.arange(50) % 10)


@pytest.mark.parametrize(
    ("hidden", "plain", "timed", "classed"),
    [
        (8, 31_433, 31_825, 32_433),
        (32, 495_137, 500_545, 506_817),
        (64, 1_975_361, 1_996_417, 2_019_201),
        (128, 7_891_073, 7_974_145, 8_060_673),
    ],
)
def test_the_unets_are_the_courses(hidden, plain, timed, classed):
    count = lambda *made: sum(p.numel() for p in UNet(hidden, *made).parameters())
    assert (count(False), count(True), count(True, 10)) == (plain, timed, classed)


def test_conditioning_acts_as_written():
    net, x, u = UNet(8, True, 10).eval(), torch.rand(2, 1, 28, 28), torch.tensor([[0.1], [0.9]])
    none, three = torch.zeros(2, 10), torch.eye(10)[[3, 3]]
    assert not torch.equal(net(x, u, none), net(x, u, three)) and not torch.equal(
        net(x, u, none), net(x, u.flip(0), none)
    )
    h = torch.rand(2, 16, 7, 7)
    by_hand = net.labels[0](three)[:, :, None, None] * h + net.times[0](u)[:, :, None, None]
    assert torch.equal(net.conditioned(h, 0, u, three), by_hand)


def test_time_multiplies_in_the_later_edition():
    net, h, u = UNet(8, True, product=True).eval(), torch.rand(2, 16, 7, 7), torch.tensor([[0.1], [0.9]])
    assert torch.equal(net.conditioned(h, 0, u, None), h * net.times[0](u)[:, :, None, None])


@pytest.mark.parametrize(("size", "channels"), [(4, 1), (28, 3), (32, 3), (64, 1)])
def test_the_unets_take_any_side_that_is_a_multiple_of_four(size, channels):
    x = torch.rand(2, channels, size, size)
    assert UNet(8, True, 3, channels, size)(x, torch.rand(2, 1), torch.eye(3)[:2]).shape == x.shape


def test_pictures_that_cannot_be_halved_twice_are_refused():
    with pytest.raises(UserError, match="multiple of 4"):
        UNet(8, size=30)
    with pytest.raises(UserError, match="normalisation 'layer'"):
        UNet(8, norm="layer")


def test_group_normalisation_treats_each_row_alone():
    torch.manual_seed(0)
    net, x, u = UNet(8, True, norm="group").train(), torch.rand(4, 1, 28, 28), torch.rand(4, 1)
    assert torch.allclose(net(x, u)[:1], net(x[:1], u[:1]), atol=1e-5)


def test_an_epochs_order_is_a_function_of_seed_and_epoch():
    batches = Batches(PICTURES, 8, seed=3)
    first = [b.labels.tolist() for b in batches]
    assert first == [b.labels.tolist() for b in batches] and sum(map(len, first)) == 50
    batches.set_epoch(1)
    assert first != [b.labels.tolist() for b in batches]


def test_batches_are_taken_up_again_where_they_were_left():
    whole, left = list(Batches(PICTURES, 8, seed=3)), Batches(PICTURES, 8, seed=3)
    seen = iter(left)
    next(seen), next(seen)
    again = Batches(PICTURES, 8, seed=3)
    again.load_state_dict(left.state_dict())
    assert [b.index for b in again] == [2, 3, 4, 5, 6]
    assert torch.equal(next(iter(Batches(PICTURES, 8, seed=3))).images, whole[0].images)


@pytest.mark.parametrize(
    "objective",
    [
        Diffusion(linear_rescaled(300)),
        Diffusion(linear_rescaled(300), "v", min_snr=5.0),
        DigitClassification(),
    ],
)
def test_processes_share_a_global_batch_and_its_draws(objective):
    """Of 50 pictures in batches of 12 the last has 2 rows: over three processes one has none."""
    net = (PlainClassifier(4) if isinstance(objective, DigitClassification) else UNet(8, True, 10)).eval()

    def losses(rank: int, world: int) -> torch.Tensor:
        parts = []
        for b in Batches(PICTURES, 12, 3, True, rank, world):
            draws = Draws(stream(b.index), b.count, rank, world)
            parts.append(
                objective(net, b.images, b.labels, draws) * len(b.labels) / b.count
                if len(b.labels)
                else torch.tensor(0.0)
            )
        return torch.stack(parts)

    assert torch.allclose(losses(0, 1), losses(0, 3) + losses(1, 3) + losses(2, 3), atol=1e-6)


def drawn(count: int) -> Draws:
    return Draws(stream(0), count)


class Perfect(torch.nn.Module):
    """Knows the picture, a single flat one, and so what to answer."""

    classes = 0

    def __init__(self, schedule, kind: str) -> None:
        super().__init__()
        self.schedule, self.kind = schedule, kind

    def forward(self, x, u, label):
        alpha, sigma = self.schedule.rows((u[:, 0] * len(self.schedule)).round().long() - 1)
        return prediction_target(torch.full_like(x, 0.5), (x - alpha * 0.5) / sigma, alpha, sigma, self.kind)


class Silent(torch.nn.Module):
    classes = 0

    def forward(self, x, u, label):
        return torch.zeros_like(x)


@pytest.mark.parametrize(
    ("schedule", "kind"),
    [
        (linear(300), "eps"),
        (linear_rescaled(300), "v"),
        (cosine(300), "x0"),
        (zero_terminal_snr(linear(300)), "v"),
        (flow(300), "flow"),
    ],
)
def test_who_knows_the_picture_has_no_loss(schedule, kind):
    images, objective = torch.full((64, 1, 28, 28), 0.5), Diffusion(schedule, kind)
    assert objective(Perfect(schedule, kind), images, torch.zeros(64).long(), drawn(64)) < 1e-5
    assert objective(Silent(), images, torch.zeros(64).long(), drawn(64)) > 0.2


def test_the_loss_of_silence_is_the_variance_of_the_noise():
    images, labels = torch.full((64, 1, 28, 28), 0.5), torch.zeros(64).long()
    assert float(Diffusion(linear(300))(Silent(), images, labels, drawn(64))) == pytest.approx(1, abs=0.02)
    assert float(
        Diffusion(variance_exploding(100), "x0", only=0.5)(Silent(), images, labels, drawn(64))
    ) == pytest.approx(0.25)


def test_a_single_step_denoiser_is_shown_one_strength_of_noise():
    class Looking(torch.nn.Module):
        classes = 0

        def forward(self, x, u, label):
            self.seen = x
            return x

    net = Looking()
    Diffusion(variance_exploding(100), "x0", only=0.5)(
        net, torch.zeros(200, 1, 8, 8), torch.zeros(200).long(), drawn(200)
    )
    assert (
        net.seen.flatten(1).std(1) == pytest.approx(torch.full((200,), 0.5), abs=0.2)
        and abs(float(net.seen.std()) - 0.5) < 0.01
    )
    Diffusion(single_noise_level(), "x0")(net, torch.ones(200, 1, 8, 8), torch.zeros(200).long(), drawn(200))
    assert abs(float(net.seen.mean())) < 0.05 and abs(float(net.seen.std()) - 1) < 0.05


@pytest.mark.parametrize(
    ("kind", "by_hand"),
    [
        ("eps", lambda snr: min(snr, 5) / snr),
        ("v", lambda snr: min(snr, 5) / (snr + 1)),
        ("x0", lambda snr: min(snr, 5)),
    ],
)
def test_min_snr_weights_are_the_papers(kind, by_hand):
    """Hang et al. 2023, section 3.4: for x0 min(SNR, gamma), for eps that over SNR, for v that over SNR + 1."""
    made, t = linear_rescaled(300), torch.tensor([0, 20, 100, 299])
    found = Diffusion(made, kind, min_snr=5.0).weight(t).flatten().tolist()
    assert found == pytest.approx(
        [by_hand(made.alpha_bar(i) / (1 - made.alpha_bar(i))) for i in t.tolist()], rel=1e-5
    )


def test_a_flow_and_an_x0_weigh_the_same_error_alike():
    made, t = Schedule(flow(300).alpha[:-1], flow(300).sigma[:-1]), torch.tensor([10, 150, 298])
    ratio = Diffusion(made, "flow", min_snr=5.0).weight(t) / Diffusion(made, "x0", min_snr=5.0).weight(t)
    assert torch.allclose(ratio.flatten(), (made.sigma[t] ** 2).float())


@pytest.mark.parametrize(("kind", "min_snr"), [("eps", None), ("v", 5.0)])
def test_pure_noise_at_the_end_needs_an_answer_that_says_something(kind, min_snr):
    with pytest.raises(UserError, match="pure noise"):
        Diffusion(zero_terminal_snr(linear(300)), kind, min_snr=min_snr)


def test_classes_are_forgotten_as_often_as_asked():
    class Listening(torch.nn.Module):
        classes = 10

        def forward(self, x, u, label):
            self.kept = label.sum(1)
            return x

    net = Listening()
    Diffusion(linear_rescaled(300), drop=0.1)(
        net, torch.zeros(4000, 1, 4, 4), torch.arange(4000) % 10, drawn(4000)
    )
    assert float((net.kept == 0).float().mean()) == pytest.approx(0.1, abs=0.02)


def test_eulers_steps_along_a_known_flow_land_on_the_picture():
    class Straight(Toy):
        prediction_type = "flow"

        def predict(self, x, t, prompts):
            return Prediction(
                (0.5 - x) / self.schedule.at(t)[1]
            )  # the straight way to the one picture there is

    model = Straight(schedule=flow(300))
    *_, end = sample(model, guided("", 1.0), (299, 200, 50, CLEAN), seeded(0, 2), DDIM())
    assert torch.allclose(end.x, torch.full_like(end.x, 0.5), atol=1e-5)
    with pytest.raises(UserError, match="sampler=euler"):
        list(sample(model, guided("", 1.0), (299, 200), seeded(0, 2), DDPM()))


class Fixed(Draws):
    """Draws that are kept: the time, the noise, and whose class is forgotten, in the order in which they are asked for."""

    def __init__(self, t: torch.Tensor, noise: torch.Tensor, chance: torch.Tensor) -> None:
        super().__init__(torch.Generator(), len(t))
        object.__setattr__(self, "kept", {(): t, (1,): chance, noise.shape[1:]: noise})

    def normal(self, shape):
        return self.kept[shape]

    def uniform(self, shape):
        return self.kept[tuple(shape)]


@pytest.mark.parametrize("classes", [0, 10])
def test_the_loss_of_a_flow_is_the_courses(classes):
    """x_t = (1 − t) noise + t x1, u(x_t, t) against x1 − noise, t in [0, 1), one class in ten forgotten."""
    net = UNet(
        8, True, classes, product=not classes
    ).double()  # in training, so that it looks at the whole batch
    images, labels = torch.rand(32, 1, 28, 28, dtype=torch.float64), torch.arange(32) % 10
    t, noise, chance = torch.rand(32), torch.randn(32, 1, 28, 28).double(), torch.rand(32, 1)
    t[0] = 0.0
    found = Diffusion(flow(1000, continuous=True), "flow")(net, images, labels, Fixed(t, noise, chance))
    at = t.double()[:, None, None, None]
    label = torch.nn.functional.one_hot(labels, 10).double() * (chance >= 0.1) if classes else None
    u = net((1 - at) * noise + at * images, t.double()[:, None], label)
    assert found.item() == pytest.approx((u - (images - noise)).square().mean().item(), abs=1e-6)


def test_the_time_of_a_flow_is_uniform_and_real():
    class Told(torch.nn.Module):
        classes = 0

        def forward(self, x, u, label):
            self.u, self.x = u[:, 0], x
            return x

    net, images = Told(), torch.zeros(4000, 1, 2, 2)
    Diffusion(flow(1000, continuous=True), "flow")(net, images, torch.zeros(4000).long(), drawn(4000))
    assert (
        net.u.min() >= 0 and net.u.max() < 1 and len(net.u.unique()) > 3990
    )  # of 1000 levels there were fewer
    assert torch.allclose(net.u.sort().values, (torch.arange(4000) + 0.5) / 4000, atol=0.03)
    assert float(net.x[net.u > 0.9].std()) < 0.1 < 0.9 < float(net.x[net.u < 0.1].std())  # told 0 at noise


@pytest.mark.parametrize("kind", ["flow", "x0", "v"])
def test_min_snr_weighs_every_time_of_a_flow(kind):
    made, t = (
        flow(1000, continuous=True),
        torch.tensor([999.0, 998.5, 499.5, 0.25, -0.9], dtype=torch.float64),
    )
    found = Diffusion(made, kind, min_snr=5.0).weight(t).flatten()
    alpha, sigma = 1 - (t + 1) / 1000, (t + 1) / 1000
    slope = {"flow": sigma, "x0": 1.0, "v": sigma / (alpha**2 + sigma**2)}[kind]
    assert torch.allclose(found, (((alpha / sigma) ** 2).clamp(max=5) * slope**2).float()) and found[0] == 0
    with pytest.raises(UserError, match="eps says nothing"):
        Diffusion(made, "eps")


def flowing(classes: int, dtype: torch.dtype) -> trained.TrainedUNet:
    net = UNet(8, True, classes, size=8, product=not classes).eval().to(dtype)
    facts = trained.ModelSpec.of(net, "flow", 0.0, 1.0, "0123456789")
    return trained.TrainedUNet(
        net, flow(1000, continuous=True), facts, precision=str(dtype).removeprefix("torch.")
    )


def plainly(
    net: UNet, x: torch.Tensor, steps: int, label: torch.Tensor | None = None, gamma: float = 5.0
) -> torch.Tensor:
    """The course's loop: x + u(x, i/N)/N from pure noise, guided where there are classes."""
    with torch.no_grad():
        for i in range(steps):
            t = torch.full((len(x), 1), i / steps, dtype=x.dtype)
            if label is None:
                u = net(x, t)
            else:
                null = net(x, t, torch.zeros_like(label))
                u = null + gamma * (net(x, t, label) - null)
            x = x + u / steps
    return x


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize(("steps", "classes"), [(1, 0), (33, 10), (50, 0), (50, 10), (300, 0)])
def test_eulers_sampler_is_a_plain_loop(classes, steps, dtype, atol):
    model, prompts = flowing(classes, dtype), ["3", "9"] if classes else ""
    counted, seeds, chosen = Counting(model), seeded(5, 2), euler(steps)
    grid, wish = chosen.timesteps(model.schedule), guided(prompts, 5.0 if classes else 1.0)
    x = keyed_noise(seeds, "start", 0, model.shape).to(dtype)
    *_, end = sample(counted, wish, grid, seeds, chosen.rule, x=x)
    label = torch.eye(10, dtype=dtype)[[3, 9]] if classes else None
    assert torch.allclose(end.x, plainly(model.network, x, steps, label), atol=atol, rtol=0)
    assert len(counted.rows) == steps and counted.rows == count_rows(wish, model.schedule, grid, 2)


def euler(steps: int) -> Sampler:
    """sampler=euler, as its YAML has it."""
    said, grid = (
        yaml.safe_load((config_folder() / path).read_text())
        for path in ("sampler/euler.yaml", "grid/trailing.yaml")
    )
    assert said.pop("defaults") == [{"/grid@grid": "trailing"}]
    return hydra.utils.instantiate(said | {"grid": grid | {"steps": steps}})


def test_a_flow_is_begun_from_pure_noise_and_ends_at_the_picture():
    """SDEdit on a flow: at i_start i there is i/N of the picture and 1 − i/N of noise, and Euler goes on from there."""
    model, seeds, chosen = flowing(0, torch.float32), seeded(1, 4), euler(8)
    grid, image = chosen.timesteps(model.schedule), torch.rand(1, 1, 8, 8)
    starts = (0, 1, 5, 8)
    *_, end = sample(
        model, guided("", 1.0), grid, seeds, chosen.rule, Pin(image, until=tuple(grid[i] for i in starts))
    )
    for row, i in enumerate(starts):
        x = i / 8 * image + (1 - i / 8) * keyed_noise(seeds[row : row + 1], "pin", i, model.shape)
        for step in range(i, 8):
            x = x + model.network(x, torch.full((1, 1), step / 8)) / 8
        assert torch.allclose(end.x[row], x[0], atol=1e-4), i
    assert torch.equal(end.x[3], image[0])


def test_weights_of_a_flow_say_how_time_is_told_and_old_ones_are_told_it_as_before(tmp_path):
    net = UNet(8, True, product=True).eval()
    x, times = torch.randn(2, 1, 28, 28), {}
    for name, made in (("new", flow(1000, continuous=True)), ("old", flow(300))):
        trained.save_model(tmp_path / name, net, made, trained.ModelSpec.of(net, "flow", 0.0, 1.0, ()))
        times[name] = trained.load_model(str(tmp_path / name), device="cpu", precision="float32")
    assert times["new"].schedule.continuous and times["new"].spec.continuous
    answer = times["new"].predict(x, 249.5, [""] * 2).native
    assert torch.allclose(answer, net(x, torch.full((2, 1), 1 - 250.5 / 1000)), atol=1e-6)
    assert torch.allclose(
        times["old"].predict(x, 99, [""] * 2).native, net(x, torch.full((2, 1), 100 / 300)), atol=1e-6
    )
    kept, facts = weights_io.read_weights(tmp_path / "old", None, "task=train")
    weights_io.write_weights(
        tmp_path / "older", kept, {key: value for key, value in facts.items() if key != "continuous"}
    )
    assert not trained.load_model(
        str(tmp_path / "older"), device="cpu", precision="float32"
    ).schedule.continuous


@pytest.mark.parametrize("name", ["flow", "flow_class_conditional"])
def test_the_recipe_of_a_flow_is_the_courses(name):
    with hydra.initialize_config_dir(str(config_folder()), version_base=None):
        recipe = hydra.utils.instantiate(hydra.compose(f"trainer/{name}").trainer, _convert_="all")
    assert (recipe.batch_size, recipe.epochs, recipe.objective.kind, recipe.objective.drop) == (
        64,
        10,
        "flow",
        0.1,
    )
    assert (recipe.objective.low, recipe.objective.high, recipe.objective.only, recipe.objective.min_snr) == (
        0.0,
        1.0,
        None,
        None,
    )
    assert recipe.objective.schedule.continuous and recipe.objective.schedule.at(999) == (0, 1)
    net = recipe.network(classes=10, channels=1, size=28)
    assert (net.hidden, net.classes, net.product) == ((64, 0, True) if name == "flow" else (64, 10, False))
    assert recipe.optimizer([torch.zeros(1)]).param_groups[0]["lr"] == 1e-2 and recipe.rate(
        0.1, 10
    ) == pytest.approx(0.1**0.1)


def test_rates():
    assert [lr_schedules.exponential_lr(done, 20) for done in (0, 0.5, 0.95)] == pytest.approx(
        [1, 0.1**0.5, 0.1**0.95]
    )
    assert (
        lr_schedules.cosine_lr(0, 5) == 0
        and lr_schedules.cosine_lr(0.03, 5) == 1
        and lr_schedules.cosine_lr(1, 5) == pytest.approx(0)
    )


def saved(
    path: Path, network: UNet, schedule, kind: str = "v", low: float = -1.0, names=tuple("0123456789")
) -> str:
    trained.save_model(path, network, schedule, trained.ModelSpec.of(network, kind, low, 1.0, names))
    return str(path)


def test_weights_come_back_as_they_were_saved(tmp_path):
    net = UNet(8, True, 10).eval()
    model = trained.load_model(
        saved(tmp_path / "model.safetensors", net, linear_rescaled(300)), precision="float32", device="cpu"
    )
    x = torch.randn(2, 1, 28, 28)
    assert (model.prediction_type, model.range, len(model.schedule)) == ("v", (-1.0, 1.0), 300)
    assert torch.equal(model.schedule.alpha, linear_rescaled(300).alpha)
    expected = net(x, torch.full((2, 1), 151 / 300), torch.stack([torch.eye(10)[3], torch.zeros(10)]))
    assert torch.allclose(model.predict(x, 150, ["a handwritten 3", ""]).native, expected, atol=1e-5)


class OneConvolution(Network):
    """A network that is none of expkit's: one convolution, which is told nothing."""

    timed, classes = True, 0

    def __init__(self, channels: int, size: int, kernel: int = 3) -> None:
        super().__init__()
        self.channels, self.size = channels, size
        self.arguments = {"channels": channels, "size": size, "kernel": kernel}
        self.layer = nn.Conv2d(channels, channels, kernel, padding="same")

    def forward(self, x, time=None, label=None):
        return self.layer(x)


def test_a_network_of_any_class_is_saved_and_built_again(tmp_path):
    net = OneConvolution(1, 28, kernel=5).eval()
    path = saved(tmp_path / "model.safetensors", net, linear_rescaled(300))
    model = trained.load_model(path, precision="float32", device="cpu")
    x = torch.randn(2, 1, 28, 28)
    assert torch.allclose(model.predict(x, 150, ["", ""]).native, net(x), atol=1e-6)
    assert not trained.knows_classes(Path(path))


@pytest.mark.parametrize("address", ["subprocess.Popen", "no.such.Network", "os.getcwd", ""])
def test_weights_of_what_is_no_network_build_nothing(address, tmp_path):
    spec = trained.ModelSpec(address, {"args": ["touch", str(tmp_path / "made")]}, "v", 0.0, 1.0)
    with pytest.raises(UserError, match="must be a subclass"):
        spec.build()
    assert not (tmp_path / "made").exists()


def test_a_network_that_cannot_be_kept_is_refused_in_a_sentence(tmp_path):
    objective = Diffusion(linear_rescaled(300), "v", -1.0)
    with pytest.raises(UserError, match="makes a Conv2d"):
        objective.save(nn.Conv2d(1, 1, 3), tmp_path / "model.safetensors", "0123456789")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("objective", "wanted"),
    [
        (
            Diffusion(linear_rescaled(300), "v", -1.0),
            r"expkit\.models\.unets\.Network, as in CONTRIBUTING\.md",
        ),
        (DigitClassification(), r"expkit\.metrics\.classifiers\.Classifier"),
        (TextDiffusion(cosine(1000), "v"), r"diffusers\.models\.modeling_utils\.ModelMixin"),
    ],
    ids=["diffusion", "classification", "text"],
)
def test_a_network_that_cannot_be_kept_is_refused_before_the_training(objective, wanted):
    recipe = TrainConfig(lambda **size: nn.Conv2d(1, 1, 3), objective, None, None, 8, 1)
    with pytest.raises(UserError, match=f"makes a Conv2d, and .* subclass of {wanted}\\.$"):
        Train(recipe, TrainingData(None), 0).network(PICTURES)


def test_networks_that_can_be_kept_are_trained():
    for objective, network in (
        (Diffusion(linear_rescaled(300), "v", -1.0), UNet(8)),
        (DigitClassification(), PlainClassifier(8, 10, 1, 28)),
        (TextDiffusion(cosine(1000), "v"), pictogram_unet.text_conditioned_unet(1, 3, 16, width=16)),
        (TextDiffusion(cosine(1000), "v"), pictogram_unet.haar_unet(1, 3, 32, cosine(1000), width=16)),
    ):
        recipe = TrainConfig(lambda made=network, **size: made, objective, None, None, 8, 1)
        assert Train(recipe, TrainingData(None), 0).network(PICTURES) is network


def test_a_model_of_other_classes_knows_their_names(tmp_path):
    net = UNet(8, True, 2, 3, 32, norm="group").eval()
    model = trained.load_model(
        saved(tmp_path / "m.safetensors", net, linear_rescaled(300), names=("cat", "dog")),
        precision="float32",
        device="cpu",
    )
    assert model.shape == (3, 32, 32) and [
        model.canonical_prompt(p) for p in ("Dog", "a photo of a cat", " ")
    ] == ["dog", "cat", ""]
    expected = net(x := torch.randn(1, 3, 32, 32), torch.full((1, 1), 1 / 300), torch.tensor([[0.0, 1.0]]))
    assert torch.allclose(model.predict(x, 0, ["dog"]).native, expected, atol=1e-5)
    for prompt in ("bird", "a cat and a dog", "dogs"):
        with pytest.raises(UserError, match="cat, dog"):
            model.canonical_prompt(prompt)


def test_a_model_that_was_told_no_classes_knows_the_null_prompt_only(tmp_path):
    model = trained.load_model(
        saved(tmp_path / "m.safetensors", UNet(8, True), linear_rescaled(300)),
        precision="float32",
        device="cpu",
    )
    assert model.canonical_prompt("") == "" and model.predict(
        torch.randn(1, 1, 28, 28), 10, [""]
    ).native.shape == (1, 1, 28, 28)
    with pytest.raises(UserError, match="not told classes"):
        model.canonical_prompt("3")


def test_a_single_step_denoiser_denoises_and_does_not_sample(expkit, tmp_path):
    weights = "model.weights=" + saved(
        tmp_path / "m.safetensors", UNet(8, False), variance_exploding(100), "x0", 0.0
    )
    done = expkit("task=sample", weights, "logger=none", 'prompt=""')
    assert done.code == 2 and "single-step" in done.err and "task=denoise" in done.err
    for task in ("forward", "denoise"):
        done = expkit(f"task={task}", weights, "logger=none", "t=[250,500]")
        assert done.code == 0, done.err
    assert [set(level) & {"one step", "iterative"} for level in done.numbers()["levels"]] == [
        {"one step"}
    ] * 2


def test_a_card_that_promises_another_file_is_not_believed(tmp_path):
    saved(tmp_path / "m.safetensors", UNet(8, True, 10), linear_rescaled(300))
    with pytest.raises(UserError, match="damaged"):
        trained.read_model(tmp_path / "m.safetensors", "0" * 64)


def test_a_training_begins_with_the_weights_of_another(tmp_path):
    theirs, mine = UNet(8, True, 10, 1, 28), UNet(8, True, 10, 1, 28)
    checkpoints.init_from(mine, saved(tmp_path / "model.safetensors", theirs, linear_rescaled(300)))
    assert all(
        torch.equal(a, b)
        for a, b in zip(mine.state_dict().values(), theirs.state_dict().values(), strict=True)
    )


def test_a_judge_may_begin_as_one_that_ships():
    mine, theirs = (judges.first_digit_judge().network for _ in range(2))
    for weights in mine.parameters():
        torch.nn.init.zeros_(weights)
    checkpoints.init_from(mine, "judge_first")
    assert all(
        torch.equal(a, b)
        for a, b in zip(mine.state_dict().values(), theirs.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (
            "digits",
            r"begin=digits .*\d+ of its tensors differ, the first is .*, \(64, 1, 3, 3\) there and \(8, 1, 3, 3\) here",
        ),
        ("pictograms", "are of another network"),
        ("nothing", "There is no folder nothing.*begin=FOLDER"),
        ("nothing/here.safetensors", "There are no weights at nothing/here.safetensors"),
    ],
)
def test_weights_that_a_training_cannot_begin_with(weights, said):
    with pytest.raises(UserError, match=said):
        checkpoints.init_from(UNet(8, True, 10, 1, 28), weights)


TINY = ("task=train", "trainer=digits", "trainer.network.hidden=8", "data.limit=320", "data.test_limit=64", "trainer.epochs=3",
        "trainer.batch_size=32", "trainer.checkpoint_every=4", 
        "trainer.lightning.log_every_n_steps=4", "trainer.accelerator=cpu", "trainer.precision=32-true", *AS_EMNIST)  # fmt: skip


def losses(folder: Path) -> list:
    return list(csv.reader((folder / "losses.csv").open()))


def test_a_run_killed_in_mid_epoch_goes_on_as_if_it_had_not_been(expkit, data, tmp_path):
    whole = expkit(*TINY, f"hydra.run.dir={tmp_path / 'whole' / 'run'}")
    assert whole.code == 0, whole.err
    victim = tmp_path / "killed" / "run"
    environment = os.environ | {"EXPKIT_DATA": str(data), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "expkit", *TINY, "logger=none", f"hydra.run.dir={victim}"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(victim.glob("checkpoints/000016.ckpt")):
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = expkit(*TINY, "resume=auto", f"hydra.run.dir={tmp_path / 'killed' / 'again'}")
    assert resumed.code == 0 and "resuming from" in resumed.err
    assert len(losses(whole.folder)) == 31 and losses(resumed.folder) == losses(whole.folder)
    weights = [
        trained.read_model(run.folder / "model.safetensors")[0].state_dict() for run in (whole, resumed)
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    tested = whole.numbers()["epochs"]
    assert [row["epoch"] for row in tested] == [1, 2, 3] and all(row["test_loss"] > 0 for row in tested)
    kept = ("samples.png", "denoised.png", "loss.png", "model.safetensors")
    for file in ("picture.png", "recipe.yaml", *[f"epochs/01_{name}" for name in kept]):
        assert (whole.folder / file).stat().st_size > 0


@pytest.mark.parametrize("parts", [("flow", "v"), ("added", "x0"), ("zero_terminal", "v"), ("cosine", "eps")])
def test_every_schedule_that_trains_is_shown(expkit, data, parts):
    """What a network can do after an epoch is sampled by a rule that its schedule allows."""
    chosen = (f"schedule@trainer.objective.schedule={parts[0]}", f"trainer.objective.kind={parts[1]}")
    done = expkit(*TINY, *chosen, "logger=none", "data.limit=64", "trainer.epochs=1", "trainer.show=[1]")
    assert done.code == 0, done.err
    assert (done.folder / "epochs" / "01_samples.png").is_file()


def test_a_loss_that_is_no_number_stops_the_run_with_a_sentence(expkit, data):
    done = expkit(*TINY, "logger=none", "trainer.optimizer.lr=1e30")
    assert done.code == 2 and "no longer a number" in done.err


def test_missing_data_is_said(expkit, tmp_path):
    done = expkit("task=train", "data=mnist", "logger=none", f"data.folder={tmp_path / 'nowhere'}")
    assert done.code == 2 and "MNIST is not at" in done.err


@pytest.mark.slow
def test_two_processes_make_the_model_of_one(expkit, data, tmp_path):
    """The same global batches, the last of them uneven, over two processes of their own: the same losses and weights."""
    shared = (*TINY, "logger=none", "trainer.network.norm=group", "trainer.precision=64-true", "data.limit=101", "trainer.epochs=1",
              "trainer.show=[]")  # fmt: skip
    alone = expkit(*shared)
    assert alone.code == 0, alone.err
    command = [
        sys.executable,
        "-m",
        "expkit",
        *shared,
        "trainer.devices=2",
        "trainer.strategy=ddp",
        f"hydra.run.dir={tmp_path / 'two'}",
    ]
    environment = os.environ | {"EXPKIT_DATA": str(data), "OMP_NUM_THREADS": "1"}
    two = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert two.returncode == 0 and two.stdout.splitlines()[-1] == str(tmp_path / "two"), two.stderr
    assert json.loads((tmp_path / "two" / "numbers.json").read_text())["processes"] == 2
    pairs = zip(losses(alone.folder)[1:], losses(tmp_path / "two")[1:], strict=True)
    assert all(float(a[1]) == pytest.approx(float(b[1]), abs=1e-9) for a, b in pairs)
    weights = [
        trained.read_model(folder / "model.safetensors")[0].state_dict()
        for folder in (alone.folder, tmp_path / "two")
    ]
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-6) for name in weights[0])


def test_processes_that_do_not_share_statistics_are_said(stderr):
    two = lambda device: SimpleNamespace(
        world_size=2, strategy=SimpleNamespace(root_device=torch.device(device))
    )
    Train(None, None, 0).check_processes(two("cpu"), UNet(8))
    assert "do not share the statistics of BatchNorm" in stderr()
    Train(None, None, 0).check_processes(two("cpu"), UNet(8, norm="group"))
    Train(None, None, 0).check_processes(two("cuda"), UNet(8))
    assert not stderr()


def test_a_training_on_the_cpu_is_one_on_a_machine_with_a_gpu_too(monkeypatch, stderr):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(devices, "fast_bfloat16", lambda device: device == "cuda")
    precisions = {}
    for accelerator in ("auto", "gpu", "cpu"):
        config = TrainConfig(None, None, None, None, 1, 1, accelerator=accelerator)
        precisions[accelerator] = Train(config, None, 0).precision()
    assert precisions == {"auto": "bf16-mixed", "gpu": "bf16-mixed", "cpu": "32-true"}
    on_cpus = SimpleNamespace(world_size=2, strategy=SimpleNamespace(root_device=torch.device("cpu")))
    Train(None, None, 0).check_processes(on_cpus, UNet(8))
    assert "do not share the statistics of BatchNorm" in stderr()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("trainer.strategy=fsdp", "requires a GPU"),
        ("trainer.devices=0", "devices=0"),
        ("trainer.batch_size=0", "1 or more"),
    ],
)
def test_what_cannot_be_trained_here_is_said(expkit, data, setting, said):
    done = expkit(*TINY, "logger=none", setting)
    assert done.code == 2 and said in done.err


def test_a_checkpoint_is_whole_or_it_is_not_there(tmp_path, monkeypatch):
    from pytorch_lightning.plugins.io import TorchCheckpointIO

    from expkit.training.callbacks import AtomicCheckpointIO

    AtomicCheckpointIO().save_checkpoint({"step": 1}, tmp_path / "1.ckpt")

    def half(self, checkpoint, path, storage_options=None):
        Path(path).write_bytes(b"half of it")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(TorchCheckpointIO, "save_checkpoint", half)
    for name in ("1.ckpt", "2.ckpt"):
        with pytest.raises(OSError, match="No space left"):
            AtomicCheckpointIO().save_checkpoint({"step": 2}, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["1.ckpt"] and torch.load(
        tmp_path / "1.ckpt", weights_only=True
    ) == {"step": 1}


def test_what_was_learnt_stands_in_the_order_of_its_epochs(tmp_path):
    import numpy as np
    from PIL import Image

    from expkit.training.train import training_page

    curve, greys = Image.new("RGB", (30, 10), "white"), {1: 40, 10: 80, 20: 120, 100: 160}
    for epoch, grey in greys.items():
        Image.new("RGB", (30, 10), (grey,) * 3).save(tmp_path / f"{epoch:02d}_samples.png")
    column = np.asarray(training_page(curve, tmp_path))[:, 1190, 0].tolist()
    assert list(dict.fromkeys(value for value in column if value in greys.values())) == list(greys.values())
