"""A denoiser at noise of every strength, whether it was trained on it or not: test pictures denoised in one step.

    z = x + sigma eps,  x in [0, 1];      the model is shown alpha_t z, z in its range, at the t whose sigma_t / alpha_t comes closest

beside what needs no network: the best Gaussian blur, chosen on training pictures, and the mean picture of the training set, which is
the best answer to pure noise.
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
from expkit.core.maps import LowPass
from expkit.core.sampler import keyed_noise, seeded
from expkit.errors import UserError
from expkit.images.figures import render_figure, wrap_for_figure
from expkit.images.sheets import picture_sheet
from expkit.metrics import similarity
from expkit.results.run_folder import Result
from expkit.tasks.denoise import BLURS
from expkit.tasks.evaluation import reference_set
from expkit.tasks.sampling import usage

if TYPE_CHECKING:
    from expkit.training.train import Data

WAYS = {"denoised": "C0", "Gaussian blur": "C1", "noisy": "0.6"}  # and the colours of their curves
SHOWN = ("noisy", "denoised")
CHUNK = 250  # rows of one forward


class Held(NamedTuple):
    """Pictures in [0, 1], (N, C, H, W): to test on, to choose blurs on, one of each class to show; and the mean of the training set."""

    test: Tensor
    train: Tensor
    shown: Tensor
    mean: Tensor


@dataclass(frozen=True, eq=False)
class Generalize:
    """Denoise `samples` test pictures of `data` at each sigma; PSNR and SSIM are means over them. One picture of each class is shown,
    noisy, denoised or both: `ways`.

    A picture has one noise at all sigmas. A model that is told classes is asked with the null prompt.
    """

    model: Denoiser
    data: Data
    sigma: float | Sequence[float]
    samples: int
    seed: int
    ways: Sequence[str] = SHOWN
    note: str = ""

    def __call__(self, result: Result) -> None:
        from tqdm import tqdm

        model, sigmas = (
            Counting(self.model),
            list(self.sigma) if isinstance(self.sigma, Sequence) else [self.sigma],
        )
        check_model(model)
        held, found, pairs = self.held(model), [], []
        levels = ", ".join(f"{sigma:g}" for sigma in sigmas)
        result.say(
            f"generalize: {self.samples} test pictures, each in one step from sigma {levels}\n  {self.note}"
        )
        for sigma in tqdm(sigmas, desc="generalize", unit="sigma", leave=False):
            found.append(self.measured(model, held, sigma))
            noisy = self.noised(held.shown, sigma, "shown")
            pairs.append((noisy.clamp(0, 1), denoise_once(model, noisy, sigma)))
        mean = mean_scores(held.mean.expand_as(held.test), held.test)
        result.numbers |= {
            "samples": self.samples,
            "seed": self.seed,
            "device": str(model.device),
            **usage(model),
        }
        several = {"sigmas": dict(zip(map(sigma_label, sigmas), found, strict=True))}
        each = (
            several if len(sigmas) > 1 else found[0]
        )  # so that the cells of a sweep have numbers of the same names
        result.numbers |= each | {"mean_picture": mean}
        for sigma, pair in zip(sigmas, pairs, strict=True):
            for way, images in zip(SHOWN, pair, strict=True):
                result.bare(images, f"{way}_sigma_{sigma:g}_{{:02d}}")
        result.picture(
            comparison_page(
                sigmas, [dict(zip(SHOWN, pair, strict=True)) for pair in pairs], self.ways, self.note
            )
        )
        if len(sigmas) > 1:
            about = f"{self.samples} test pictures; the blur is the best on training pictures · {self.note}"
            result.picture(plot_curves(sigmas, found, mean, about), "curves")

    def held(self, model: Denoiser) -> Held:
        train, test = (reference_set.open_set(self.data, model, train) for train in (True, False))
        few = (
            reference_set.draw_pictures(test, self.samples, "test pictures"),
            reference_set.draw_pictures(train, self.samples, "training pictures"),
        )
        shown = reference_set.of_each(test, 1, test.labels.unique().tolist(), "test pictures")
        mean = train.images.double().mean(0, keepdim=True).float() / 255
        return Held(*[one.images.float() / 255 for one in (*few, shown)], mean)

    def noised(self, images: Tensor, sigma: float, which: str) -> Tensor:
        return images + sigma * keyed_noise(seeded(self.seed, len(images)), which, 0, images.shape[1:])

    def measured(self, model: Denoiser, held: Held, sigma: float) -> dict:
        """How each way fares; the blur is the one that fares best on training pictures."""
        noisy, known = (
            self.noised(images, sigma, which)
            for images, which in ((held.test, "test"), (held.train, "train"))
        )
        blur = best_blur(known, held.train)
        ways = {
            "denoised": denoise_once(model, noisy, sigma),
            "Gaussian blur": blur_noisy(noisy, blur),
            "noisy": noisy.clamp(0, 1),
        }
        return {"t": matching_level(model, sigma), "blur_in_pixels": blur} | {
            way: mean_scores(made, held.test) for way, made in ways.items()
        }


def check_model(model: Denoiser) -> None:
    """Refuse models to which noise on pictures means nothing."""
    if model.shape != model.image_shape:
        raise UserError(
            "task=generalize adds noise to pictures, and this model denoises latents of them: give a model of pixels."
        )
    if not float(model.schedule.alpha[0]):
        raise UserError(
            "This model knows pure noise only, in which nothing is left of a picture: there is no sigma to ask it at."
        )
    model.prepare([""])


def matching_level(model: Denoiser, sigma: float) -> int:
    """The level at which the model sees noise of sigma on pictures in [0, 1]."""
    low, high = model.range
    return model.schedule.nearest((high - low) * sigma)


def denoise_once(model: Denoiser, noisy: Tensor, sigma: float) -> Tensor:
    """noisy (N, C, H, W), pictures in [0, 1] and noise of sigma, in one step -> (N, C, H, W) in [0, 1]."""
    t = matching_level(model, sigma)
    alpha, _ = model.schedule.at(t)
    made = []
    for part in (alpha * to_range(noisy, model.range)).to(model.device).split(CHUNK):
        made.append(
            model.decode(
                model.schedule.denoised(
                    part, t, conditional("")(model, part, t).native, model.prediction_type
                )
            ).cpu()
        )
    return torch.cat(made)


def blur_noisy(noisy: Tensor, sigma: float) -> Tensor:
    return LowPass(sigma)(noisy).clamp(0, 1)


def best_blur(noisy: Tensor, clean: Tensor) -> float:
    """The sigma in pixels of the Gaussian blur, 0 for none, of the best PSNR."""
    tried = [blur * clean.shape[-1] / 64 for blur in (0, *BLURS)]
    return max(tried, key=lambda blur: float(similarity.psnr(blur_noisy(noisy, blur), clean).mean()))


def mean_scores(made: Tensor, clean: Tensor) -> dict[str, float | None]:
    """Means over the pictures; no PSNR where a picture is met exactly, for there it is infinite."""
    psnr = float(similarity.psnr(made, clean).mean())
    return {"psnr": psnr if math.isfinite(psnr) else None, "ssim": float(similarity.ssim(made, clean).mean())}


def sigma_label(sigma: float) -> str:
    return f"sigma {sigma:g}"


def comparison_page(
    sigmas: Sequence[float], shown: Sequence[Mapping[str, Tensor]], ways: Sequence[str], note: str
) -> Image.Image:
    """A column a sigma; of each picture a row each way. Where there is one sigma the pictures run across."""
    title = "denoised in one step" if "denoised" in ways else "noise of every strength"
    if len(sigmas) == 1:
        return picture_sheet(
            [shown[0][way] for way in ways], list(ways), (), f"{title}, {sigma_label(sigmas[0])}", note
        )
    count = len(shown[0]["noisy"])
    rows = [[images[way][k] for images in shown] for k in range(count) for way in ways]
    return picture_sheet(rows, list(ways) * count, [sigma_label(sigma) for sigma in sigmas], title, note)


def plot_curves(sigmas: Sequence[float], found: Sequence[Mapping], mean: Mapping, note: str) -> Image.Image:
    """PSNR and SSIM of each way against sigma."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    figure.suptitle(f"One step at noise of every strength\n{wrap_for_figure(note, 10.5)}", fontsize=10)
    order = sorted(range(len(sigmas)), key=lambda k: sigmas[k])
    for axes, key, title in zip(
        figure.subplots(1, 2),
        ("psnr", "ssim"),
        ("PSNR, dB; infinite where nothing is lost", "SSIM"),
        strict=True,
    ):
        for way, colour in WAYS.items():
            scored = [math.nan if found[k][way][key] is None else found[k][way][key] for k in order]
            axes.plot([sigmas[k] for k in order], scored, "o-", color=colour, ms=5, lw=1.3, label=way)
        axes.axhline(mean[key], color="C2", ls="--", lw=1.2, label="mean picture of the training set")
        axes.set(xlabel="sigma of the noise, pictures in [0, 1]", title=title)
        axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return render_figure(figure)
