"""task=generalize: a denoiser on noise of any strength, also where it was not trained.

Test pictures are denoised in one step:

    z = x + sigma eps,  x in [0, 1]

The model gets alpha_t z, z in its own range, at the level t whose sigma_t / alpha_t is closest.
The result is compared with two baselines that need no network: the best Gaussian blur, chosen on
training pictures, and the mean picture of the training set, which is the best answer to pure noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from expkit.core.denoiser import Counting, Denoiser, to_range
from expkit.core.estimate import conditional
from expkit.core.sampler import keyed_noise, seeded
from expkit.errors import UserError
from expkit.images.figures import render_figure, wrap_for_figure
from expkit.images.sheets import picture_sheet
from expkit.metrics import similarity
from expkit.results.run_folder import RunFolder
from expkit.tasks import timing
from expkit.tasks.denoise import BLURS, best_blur, blur_noisy
from expkit.tasks.evaluation import reference_set

if TYPE_CHECKING:
    from expkit.training.train import TrainingData

WAYS = {"denoised": "C0", "Gaussian blur": "C1", "noisy": "0.6"}  # with the colours of their curves
SHOWN = ("noisy", "denoised")
CHUNK = 250  # rows of one network call


class EvaluationImages(NamedTuple):
    """Pictures (N, C, H, W) in [0, 1].

    Attributes:
        test: to test on.
        train: to choose blurs on.
        figure_images: one test picture of each class, for the page.
        mean: the mean picture of the training set, N = 1.
    """

    test: Tensor
    train: Tensor
    figure_images: Tensor
    mean: Tensor


@dataclass(frozen=True, eq=False)
class Generalize:
    """Denoise `samples` test pictures of `data` at each sigma; PSNR and SSIM are means over them.

    A picture has the same noise, times sigma, at all sigmas. A model with classes gets the null
    prompt.

    Args:
        sigma: standard deviations of the noise, one or several, for pictures in [0, 1].
        ways: "noisy", "denoised" or both: how one picture of each class is shown.
        note: a line for the header and the foot of the sheet.
    """

    model: Denoiser
    data: TrainingData
    sigma: float | Sequence[float]
    samples: int
    seed: int
    ways: Sequence[str] = SHOWN
    note: str = ""

    def __call__(self, result: RunFolder) -> None:
        from tqdm import tqdm

        model = Counting(self.model)
        sigmas = list(self.sigma) if isinstance(self.sigma, Sequence) else [self.sigma]
        check_model(model)
        pictures = self.evaluation_images(model)
        levels = ", ".join(f"{sigma:g}" for sigma in sigmas)
        header = f"{self.samples} test pictures, each in one step from sigma {levels}"
        result.say(f"generalize: {header}\n  {self.note}")
        scores, pairs = [], []
        for sigma in tqdm(sigmas, desc="generalize", unit="sigma", leave=False):
            scores.append(self.measured(model, pictures, sigma))
            noisy = self.noised(pictures.figure_images, sigma, "shown")
            pairs.append((noisy.clamp(0, 1), denoise_once(model, noisy, sigma)))
        mean = mean_scores(pictures.mean.expand_as(pictures.test), pictures.test)
        result.numbers |= {
            "samples": self.samples,
            "seed": self.seed,
            "device": str(model.device),
            **timing.usage(model),
        }
        if len(sigmas) > 1:
            result.numbers["sigmas"] = dict(zip(map(sigma_label, sigmas), scores, strict=True))
        else:  # the same keys at every sigma, so that the cells of a sweep can be compared
            result.numbers |= scores[0]
        result.numbers["mean_picture"] = mean
        for sigma, pair in zip(sigmas, pairs, strict=True):
            for way, images in zip(SHOWN, pair, strict=True):
                result.save_images(images, f"{way}_sigma_{sigma:g}_{{:02d}}")
        images_by_way: list[dict[str, Tensor]] = [dict(zip(SHOWN, pair, strict=True)) for pair in pairs]
        result.picture(comparison_page(sigmas, images_by_way, self.ways, self.note))
        if len(sigmas) > 1:
            blur = "the blur is the best on training pictures"
            about = f"{self.samples} test pictures; {blur} · {self.note}"
            result.picture(plot_noise_curves(sigmas, scores, mean, about), "curves")

    def evaluation_images(self, model: Denoiser) -> EvaluationImages:
        """The pictures that the run needs, from `data`."""
        train = reference_set.open_set(self.data, model, train=True)
        test = reference_set.open_set(self.data, model, train=False)
        sets = (
            reference_set.draw_pictures(test, self.samples, "test pictures"),
            reference_set.draw_pictures(train, self.samples, "training pictures"),
            reference_set.of_each(test, 1, test.labels.unique().tolist(), "test pictures"),
        )
        mean = train.images.double().mean(0, keepdim=True).float() / 255
        to_test, to_train, to_show = (part.images.float() / 255 for part in sets)
        return EvaluationImages(to_test, to_train, to_show, mean)

    def noised(self, images: Tensor, sigma: float, which: str) -> Tensor:
        """images + sigma eps. which: the name of the set, which has a random stream of its own."""
        seeds = seeded(self.seed, len(images))
        return images + sigma * keyed_noise(seeds, which, 0, images.shape[1:])

    def measured(self, model: Denoiser, pictures: EvaluationImages, sigma: float) -> dict:
        """The scores of each way on test pictures; the blur is the best on training pictures."""
        noisy = self.noised(pictures.test, sigma, "test")
        noisy_train = self.noised(pictures.train, sigma, "train")
        blur = best_blur(noisy_train, pictures.train, (0, *BLURS))
        ways = {
            "denoised": denoise_once(model, noisy, sigma),
            "Gaussian blur": blur_noisy(noisy, blur),
            "noisy": noisy.clamp(0, 1),
        }
        scores = {way: mean_scores(images, pictures.test) for way, images in ways.items()}
        return {"t": matching_level(model, sigma), "blur_in_pixels": blur} | scores


def check_model(model: Denoiser) -> None:
    """Refuse latent models, and models trained on pure noise only."""
    if model.shape != model.image_shape:
        raise UserError(
            "task=generalize adds noise to pictures, and this model denoises latents of them: "
            "give a model of pixels."
        )
    if not float(model.schedule.alpha[0]):
        raise UserError(
            "This model knows pure noise only, in which nothing is left of a picture: "
            "there is no sigma to ask it at."
        )
    model.prepare([""])


def matching_level(model: Denoiser, sigma: float) -> int:
    """The level at which the model expects noise of `sigma` on pictures in [0, 1]."""
    low, high = model.range
    return model.schedule.nearest((high - low) * sigma)


def denoise_once(model: Denoiser, noisy: Tensor, sigma: float) -> Tensor:
    """Denoise in one step: pictures in [0, 1] plus noise, (N, C, H, W) -> pictures in [0, 1]."""
    t = matching_level(model, sigma)
    alpha, _ = model.schedule.at(t)
    images = []
    for part in (alpha * to_range(noisy, model.range)).to(model.device).split(CHUNK):
        native = conditional("")(model, part, t).native
        clean = model.schedule.denoised(part, t, native, model.prediction_type)
        images.append(model.decode(clean).cpu())
    return torch.cat(images)


def mean_scores(made: Tensor, clean: Tensor) -> dict[str, float | None]:
    """Mean PSNR and SSIM; PSNR is None if it is infinite: a picture is matched exactly."""
    psnr = float(similarity.psnr(made, clean).mean())
    ssim = float(similarity.ssim(made, clean).mean())
    return {"psnr": psnr if math.isfinite(psnr) else None, "ssim": ssim}


def sigma_label(sigma: float) -> str:
    return f"sigma {sigma:g}"


def comparison_page(
    sigmas: Sequence[float], shown: Sequence[Mapping[str, Tensor]], ways: Sequence[str], note: str
) -> Image.Image:
    """A sheet with a column per sigma and, for each picture, a row per way.

    With one sigma there is a column per picture instead. shown: per sigma {way: (N, C, H, W)}.
    """
    title = "denoised in one step" if "denoised" in ways else "noise of every strength"
    if len(sigmas) == 1:
        rows = [[*shown[0][way]] for way in ways]
        return picture_sheet(rows, list(ways), (), f"{title}, {sigma_label(sigmas[0])}", note)
    count, across = len(shown[0]["noisy"]), [sigma_label(sigma) for sigma in sigmas]
    rows = [[images[way][index] for images in shown] for index in range(count) for way in ways]
    return picture_sheet(rows, list(ways) * count, across, title, note)


def plot_noise_curves(
    sigmas: Sequence[float], found: Sequence[Mapping], mean: Mapping, note: str
) -> Image.Image:  # fmt: skip
    """PSNR and SSIM of each way against sigma.

    found: the scores at each sigma; mean: those of the mean picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    note = wrap_for_figure(note, 10.5)
    figure.suptitle(f"One step at noise of every strength\n{note}", fontsize=10)
    order = sorted(range(len(sigmas)), key=lambda index: sigmas[index])
    sorted_sigmas = [sigmas[index] for index in order]
    titles = {"psnr": "PSNR, dB; infinite where nothing is lost", "ssim": "SSIM"}
    for axes, (key, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        for way, colour in WAYS.items():
            scores = [found[index][way][key] for index in order]
            values = [math.nan if score is None else score for score in scores]
            axes.plot(sorted_sigmas, values, "o-", color=colour, ms=5, lw=1.3, label=way)
        label = "mean picture of the training set"
        axes.axhline(mean[key], color="C2", ls="--", lw=1.2, label=label)
        axes.set(xlabel="sigma of the noise, pictures in [0, 1]", title=title)
        axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return render_figure(figure)
