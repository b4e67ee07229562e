"""task=evaluate and task=generalize: what is asked of the model, what it is compared with, and what cannot be compared."""

import pytest
import torch
from PIL import Image

from expkit.core.denoiser import Prediction
from expkit.core.schedules import Schedule, cosine, flow, linear, linear_rescaled
from expkit.data.labelled_pictures import Pictures
from expkit.errors import UserError
from expkit.images import image_io
from expkit.metrics import judges
from expkit.models import trained
from expkit.models.analytic import Ideal, Mixture
from expkit.models.unets import UNet
from expkit.tasks import denoise, noise_levels
from expkit.tasks.evaluation import reference_set
from expkit.tasks.evaluation.eps_error import eps_error
from expkit.tasks.evaluation.evaluate import Evaluate
from expkit.tasks.evaluation.judge_panel import Panel
from tests.conftest import Toy

SMALL = ("model=ideal", "model.count=200", "logger=none", "steps=4", "samples=20")


@pytest.fixture
def ran(expkit, data):
    return lambda *arguments: expkit(*SMALL, *arguments)


def test_gamma_is_swept_on_one_page_beside_the_floor(ran):
    done = ran("task=evaluate", "gamma=[1,5]")
    assert done.code == 0, done.err
    numbers = done.numbers()
    made = {name: numbers["measured"][name] for name in ("gamma 1", "gamma 5")}
    for table in made.values():
        assert set(table["accuracy"]) == {"first", "second"} and len(table["accuracy_of_class"]) == 10
        assert table["frechet_distance"] > 0 and table["diversity"] > 0
    assert made["gamma 1"]["accuracy"]["second"] >= 0.9  # its pictures are training pictures
    floor = numbers["measured"]["training pictures"]
    assert floor["frechet_distance"] > 0 and 0.5 < floor["recall"] <= 1 and "accuracy" not in floor
    assert numbers["measured"]["test pictures"]["accuracy"]["second"] >= 0.9
    assert [len(files) for files in numbers["files"].values()] == [20, 20]
    assert Image.open(done.folder / "picture.png").width > 1000 and "Inception FID is left out" in done.err


def test_pictures_are_the_same_however_many_are_sampled_together(ran):
    whole, parts = ran("task=evaluate", "gamma=[1,3]"), ran("task=evaluate", "gamma=3", "task.chunk=7")
    assert whole.numbers()["network_calls"] == 4 and parts.numbers()["network_calls"] == 3 * 4
    for name in parts.numbers()["files"]["gamma 3"]:
        a, b = (image_io.as_tensor(Image.open(run.folder / name)) for run in (whole, parts))
        assert (a - b).abs().max() <= 1.01 / 255


def test_a_model_that_is_told_no_classes_is_read_not_scored(expkit, data, tmp_path):
    network = UNet(8, True).eval()
    spec = trained.ModelSpec.of(network, "v", -1.0, 1.0, ())
    trained.save_model(tmp_path / "model.safetensors", network, linear_rescaled(300), spec)
    done = expkit(
        "task=evaluate",
        f"model.weights={tmp_path / 'model.safetensors'}",
        "logger=none",
        "steps=3",
        "samples=21",
        "gamma=[1,7]",
    )
    assert done.code == 0, done.err
    measured = done.numbers()["measured"]["unconditional"]
    assert "accuracy" not in measured and sum(measured["share_read"].values()) == pytest.approx(1)
    assert 0 <= measured["entropy_in_bits"] <= 3.33 and done.numbers()["rows"] == 3 * 21
    assert "told no classes" in done.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["samples=25"], "Give a multiple of 10, 20 or more"),
        (["samples=10"], "Give a multiple of 10, 20 or more"),
        (["samples=100000"], "to compare with: of one class there are 16"),
        (["seed=[1,2]"], "one seed"),
        (
            ["judges@model.judges=none"],
            "this run has none: try judges@model.judges=digits, for digits, or judges@model.judges=clip",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_said(arguments, says, ran):
    done = ran("task=evaluate", *arguments)
    assert done.code == 2 and says in done.err and "Traceback" not in done.err


def test_a_denoiser_that_cannot_sample_is_sent_to_generalize(toy):
    toy.can_sample = False
    with pytest.raises(UserError, match="task=generalize"):
        Evaluate(toy, sampler(), None, {"second": judges.second_digit_judge()}, 1.0, 8, 0)(None)


def sampler():
    from expkit.core.sampler import Sampler
    from expkit.core.timesteps import strided

    return Sampler(lambda levels: strided(levels, 3))


def test_a_judge_of_other_pictures_is_refused():
    panel, grey = (
        Panel({"second": judges.second_digit_judge()}, tuple("0123456789")),
        torch.full((20, 1, 28, 28), 90, dtype=torch.uint8),
    )
    with pytest.raises(UserError, match="no judge of these pictures"):
        panel.check(panel.read(grey, torch.arange(20) % 10))
    with pytest.raises(UserError, match="this model's are others: sneaker"):
        panel.labels(("3", "sneaker"))
    with pytest.raises(UserError, match="tells 10 classes apart, and the data has 2"):
        Panel({"second": judges.second_digit_judge()}, ("cat", "dog"))


KNOWN = Pictures(
    torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1).expand(-1, 1, 28, 28), torch.arange(40) % 4
)


def test_pictures_to_compare_with_are_the_same_in_every_run_and_as_many_of_each_class():
    few = reference_set.of_each(KNOWN, 3, [0, 1, 3], "test")
    assert few.labels.tolist() == [0, 1, 3] * 3 and len(few.images.unique()) == 9
    assert torch.equal(few.images, reference_set.of_each(KNOWN, 3, [0, 1, 3], "test").images)
    assert torch.equal(few.images[:3], reference_set.of_each(KNOWN, 1, [0, 1, 3], "test").images)
    assert len(reference_set.draw_pictures(KNOWN, 7, "test").labels) == 7
    with pytest.raises(UserError, match="of one class there are 10"):
        reference_set.of_each(KNOWN, 11, [0], "test")
    with pytest.raises(UserError, match="more than the 40"):
        reference_set.draw_pictures(KNOWN, 41, "test")


def test_data_of_another_kind_is_refused():
    class Data:
        def pictures(self, train):
            return KNOWN

    with pytest.raises(UserError, match=r"28 × 28 in grey, and this model's are 8 × 8 in grey"):
        reference_set.open_set(Data(), Toy(), train=True)


class Straight(Toy):
    """Answers x0 with what it is shown; remembers it, and the level."""

    prediction_type = "x0"

    def predict(self, x, t, prompts):
        self.shown, self.t, self.asked = x, t, list(prompts)
        return Prediction(x)


def test_a_model_is_shown_the_noise_at_the_strength_and_in_the_range_that_it_knows():
    noisy, model = (
        torch.rand(2, 1, 8, 8),
        Straight(schedule=linear_rescaled(100)),
    )  # range [-1, 1]: noise of 0.5 on [0, 1] is noise of 1
    noise_levels.denoise_once(model, noisy, 0.5)
    alpha, sigma = model.schedule.at(model.t)
    assert sigma / alpha == pytest.approx(1, abs=0.03) and model.asked == ["", ""]
    torch.testing.assert_close(model.shown, alpha * (2 * noisy - 1))
    single = Straight(schedule=Schedule(torch.ones(100).double(), (torch.arange(100).double() + 1) / 100))
    single.range = (0.0, 1.0)
    assert torch.equal(noise_levels.denoise_once(single, noisy, 0.5), noisy) and single.t == 49


def test_the_exact_denoiser_finds_its_pictures_and_at_much_noise_their_mean():
    images = (torch.arange(5).float() / 4).view(5, 1, 1, 1).expand(-1, 1, 8, 8) ** 2
    model = Ideal(images, torch.arange(5), linear_rescaled(300))
    noise = torch.randn(5, 1, 8, 8)
    torch.testing.assert_close(
        noise_levels.denoise_once(model, images + 0.01 * noise, 0.01), images, atol=1e-3, rtol=0
    )
    far = noise_levels.denoise_once(model, images + 50 * noise, 50)
    torch.testing.assert_close(far, images.mean(0, keepdim=True).expand_as(far), atol=0.05, rtol=0)


def test_the_best_blur_is_none_without_noise_and_grows_with_it(data):
    from expkit.data.datasets import mnist

    clean = mnist(train=True).first(50).images.float() / 255
    noisy = [clean + sigma * torch.randn_like(clean) for sigma in (0, 0.2, 0.8)]
    blurs = [denoise.best_blur(images, clean, (0, *denoise.BLURS)) for images in noisy]
    assert blurs[0] == 0 < blurs[1] < blurs[2]
    assert denoise.best_blur(noisy[0], clean) == denoise.BLURS[0] * 28 / 64


def test_a_model_of_pure_noise_knows_no_sigma():
    noise_levels.check_model(Toy(schedule=flow(100)))
    with pytest.raises(UserError, match="pure noise only"):
        noise_levels.check_model(Toy(schedule=Schedule(torch.zeros(1), torch.ones(1))))


def test_generalize_measures_every_sigma_beside_blur_and_mean(ran):
    done = ran("task=generalize", "sigma=[0,0.5]")
    assert done.code == 0, done.err
    numbers = done.numbers()
    clean, noisy = numbers["sigmas"]["sigma 0"], numbers["sigmas"]["sigma 0.5"]
    assert clean["noisy"] == {"psnr": None, "ssim": 1.0} and clean["t"] == 0 and clean["blur_in_pixels"] == 0
    assert noisy["Gaussian blur"]["psnr"] > noisy["noisy"]["psnr"] and noisy["blur_in_pixels"] > 0
    assert numbers["mean_picture"]["psnr"] == pytest.approx(12, abs=2)
    assert len(list((done.folder / "pictures").iterdir())) == 2 * 2 * 10
    assert (
        Image.open(done.folder / "picture.png").width > 100
        and Image.open(done.folder / "curves.png").width > 1000
    )


def test_the_blur_of_a_hybrid_is_the_models_own_unless_sigma_says_another(expkit, data):
    import yaml

    for arguments, blur in (((), 1.7), (("sigma=2.5",), 2.5)):
        shown = expkit("--cfg", "job", "--resolve", "task=hybrid", *arguments)
        assert yaml.safe_load(shown.out)["task"]["estimate"]["blur"]["sigma"] == blur
    several = expkit("task=hybrid", "sigma=[1,2]", "logger=none", "samples=1")
    assert several.code == 2 and "-m sigma=1,2" in several.err and "Traceback" not in several.err


@pytest.mark.parametrize("schedule", [linear(300), linear_rescaled(300), cosine(1000), flow(1000)])
def test_the_error_of_eps_is_what_theory_says_whatever_the_schedule_and_range(schedule):
    spread, course = (
        0.1,
        linear(300),
    )  # of independent normal pixels: E|eps_hat − eps|² = alpha² d² / (alpha² d² + sigma²)
    images = 0.5 + spread * torch.randn(300, 1, 8, 8)
    model = Mixture(torch.ones(1), torch.zeros(1, 1, 8, 8), torch.tensor([2 * spread]), schedule)
    signal = (course.alpha * spread) ** 2
    assert eps_error(model, images, [""] * 300) == pytest.approx(
        float((signal / (signal + course.sigma**2)).mean()), rel=0.02
    )
