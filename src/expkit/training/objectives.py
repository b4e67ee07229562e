"""Training objectives: the losses of diffusion models and of the classifier of digits.

    Diffusion             L = E w_t || F(x_t, t/T, c) − target(x0, eps) ||²
                          x_t = alpha_t x0 + sigma_t eps                   (Ho et al. 2020, eq. 14)
    DigitClassification   L = E [ −log softmax(f(a(x)))_c ]
                          a: moves the image, sees it from afar, changes its light

In training, the class c is dropped for one image in ten, so that one network also predicts for the
null prompt (Ho & Salimans 2022, algorithm 1). A single-step denoiser is trained for x0 at one level
of a schedule that only adds noise. Flow matching is the prediction type `flow` on the schedule
`flow`, whose time is uniform in [0, 1).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from expkit.core.estimate import guided
from expkit.core.rng import Draws, stream
from expkit.core.sampler import Seed, sample
from expkit.core.schedules import KINDS, Schedule, prediction_target
from expkit.core.solvers import DDPM, Euler
from expkit.core.timesteps import scaled_levels, strided, trailing
from expkit.data.augment import random_affine, random_distance, random_light
from expkit.data.labelled_pictures import Pictures
from expkit.errors import UserError
from expkit.images.sheets import picture_sheet
from expkit.metrics import classifiers
from expkit.models import trained
from expkit.models.unets import Network

EULER_STEPS = 50  # of a flow, in the samples that are drawn during training
T = TypeVar("T")


class Objective(ABC):
    """A loss, and how to save the network it trains and to draw what that network can do.

    file: the name of the weights in a run's folder.
    """

    file: ClassVar[str] = "model.safetensors"

    def adapt_to(self, images: Pictures) -> Self:
        """This objective, adapted to the training data.

        Raises:
            UserError: the objective cannot be trained on these images.
        """
        return self

    def check_network(self, network: nn.Module) -> None:  # noqa: B027
        """Raise UserError before the training starts if `save` cannot hold this network."""

    @abstractmethod
    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """The mean loss over rows of a batch, a scalar.

        Args:
            images: (N, C, H, W) in [0, 1].
            labels: (N,), class indices.
            draws: the random numbers of these rows.
        """

    @abstractmethod
    def save(self, network: nn.Module, path: Path, names: Sequence[str]) -> None:
        """Write the network, its description and the names of its classes atomically."""

    @abstractmethod
    def sample_figures(
        self, network: nn.Module, held_out: Pictures, seed: int
    ) -> dict[str, Image.Image]:  # fmt: skip
        """Figures of what the network can do now, {name: figure}; the network is not changed."""

    @abstractmethod
    def facts(self, network: nn.Module) -> dict:
        """Numbers about the recipe for the results of a run."""


@dataclass(frozen=True, eq=False)
class Diffusion(Objective):
    """Mean squared error of a network's prediction at a random level of a noise schedule.

    Args:
        schedule: the noise schedule.
        kind: the prediction type: eps, v, x0 or flow.
        low, high: images in [0, 1] are first mapped to [low, high].
        drop: probability that the class of an image is dropped (classifier-free guidance).
        only: sigma/alpha of the one level that is trained; None: all levels with equal probability.
        min_snr: gamma of min-SNR weighting (Hang et al. 2023, eq. 7, where it is 5); None: equal
            weights.

    Raises:
        UserError: `kind` is unknown, or at the schedule's last level, which is pure noise, the loss
            says nothing about the image.
    """

    schedule: Schedule
    kind: str = "eps"
    low: float = 0.0
    high: float = 1.0
    drop: float = 0.1
    only: float | None = None
    min_snr: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            kinds = ", ".join(KINDS)
            raise UserError(f"objective.kind={self.kind} is unknown: give one of {kinds}.")
        ends_in_noise = not self.schedule.terminal_alpha and len(self.schedule) > 1
        needs_signal = self.kind == "eps" or (self.min_snr and not self.schedule.continuous)
        if ends_in_noise and needs_signal:
            if self.min_snr:
                reason = "min_snr gives it no weight"
            else:
                reason = "eps says nothing of the picture there"
            raise UserError(
                f"The last level of this schedule is pure noise, and {reason}: "
                "train for v, x0 or flow, without min_snr."
            )

    def __call__(
        self, network: Callable[..., Any], images: Tensor, labels: Tensor, draws: Draws
    ) -> Tensor:  # fmt: skip
        t = self.levels(draws)
        noise = draws.normal(images.shape[1:])
        keep_label = draws.uniform((1,)) >= self.drop
        x0 = self.low + (self.high - self.low) * images
        alpha, sigma = self.schedule.rows(t)
        x = (alpha * x0 + sigma * noise).contiguous(memory_format=torch.channels_last)
        prediction = self.answer(network, x, t, labels, keep_label)
        target = prediction_target(x0, noise, alpha, sigma, self.kind)
        if self.min_snr is None:
            return F.mse_loss(prediction, target)
        return (self.weight(t) * (prediction - target).square()).mean()

    def levels(self, draws: Draws) -> Tensor:
        """A random level for each row, (N,): integers, or float64 on a continuous schedule.

        On a continuous schedule the network's time is uniform in [0, 1).
        """
        if self.schedule.continuous:
            t = len(self.schedule) * (1 - draws.uniform(()).double()) - 1
        else:
            t = draws.integers(len(self.schedule))
        return t if self.only is None else torch.full_like(t, self.schedule.nearest(self.only))

    def answer(
        self,
        network: Any,
        x: Tensor,
        t: Tensor,
        labels: Tensor,
        kept: Tensor,
    ) -> Tensor:
        """The network's prediction; kept (N, 1): the rows whose class is passed to the network."""
        time = self.schedule.time(t).to(x)[:, None]
        one_hot = None
        if network.classes:
            one_hot = (F.one_hot(labels, network.classes) * kept).to(x.dtype)
        return network(x, time, one_hot)

    def weight(self, t: Tensor) -> Tensor:
        """Min-SNR weights of the squared error of the network's prediction, (N, 1, 1, 1).

        min(SNR, gamma) weights the squared error of x0. The factor (d x0 / d prediction)² converts
        it to a weight of the squared error of the prediction.
        """
        alpha, sigma = self.schedule.of(t)
        slope = {
            "x0": torch.ones_like(alpha),
            "eps": sigma / alpha,
            "v": sigma / (alpha**2 + sigma**2),
            "flow": sigma / (alpha + sigma),
        }
        snr = (alpha / sigma) ** 2
        weight = snr.clamp(max=self.min_snr).mul(slope[self.kind] ** 2)
        return weight.float().view(-1, 1, 1, 1)

    def model_spec(self, network: nn.Module, names: Sequence[str]) -> trained.ModelSpec:
        """The description that is saved with the network."""
        return trained.ModelSpec.of(as_network(network), self.kind, self.low, self.high, names)

    def check_network(self, network: nn.Module) -> None:
        as_network(network)

    def save(self, network: nn.Module, path: Path, names: Sequence[str]) -> None:
        spec = self.model_spec(network, names)
        trained.save_model(path, as_network(network), self.schedule, spec)

    def sample_figures(
        self, network: nn.Module, held_out: Pictures, seed: int
    ) -> dict[str, Image.Image]:  # fmt: skip
        spec = self.model_spec(network, held_out.names)
        device = str(next(network.parameters()).device)
        model = trained.TrainedUNet(deepcopy(as_network(network)), self.schedule, spec, device)
        sheets = {"denoised": self.denoised(model, held_out, seed)}
        if model.can_sample:
            sheets["samples"] = class_sample_sheet(model, seed)
        return sheets

    def denoised(
        self,
        model: trained.TrainedUNet,
        held_out: Pictures,
        seed: int,
    ) -> Image.Image:
        """A sheet of one held-out image of each of the first ten classes, noised and denoised.

        Each is denoised in one step, from three levels, or from the one level that is trained.
        """
        labels = held_out.labels
        indices = [int((labels == label).nonzero()[0]) for label in labels.unique()[:10]]
        clean = held_out.images[indices].float() / 255
        noise = torch.randn(clean.shape, generator=stream(seed, "shown"))
        if self.only is None:
            levels = scaled_levels((250, 500, 750), len(self.schedule))
        else:
            levels = [self.schedule.nearest(self.only)]
        rows, row_labels = [clean], ["original"]
        for t in dict.fromkeys(levels):
            x = self.schedule.noised(model.encode(clean), t, noise).to(model.device)
            native = model.predict(x, t, [""] * len(x)).native
            x0 = self.schedule.denoised(x, t, native, self.kind)
            rows += [model.decode(x).cpu(), model.decode(x0).cpu()]
            level = f"t = {t}" if self.only is None else f"sigma = {self.schedule.at(t)[1]:g}"
            row_labels += [f"noisy, {level}", "denoised"]
        return picture_sheet([list(row) for row in rows], row_labels, title="denoised in one step")

    def facts(self, network: nn.Module) -> dict:
        return {"leak": self.schedule.terminal_alpha, "parameters": count_parameters(network)}


def class_sample_sheet(model: trained.TrainedUNet, seed: int) -> Image.Image:
    """A sheet of samples in four rows, sampled as in CS180 project 5.

    Four samples of each of the first ten classes at guidance gamma = 5, or 40 unconditional samples
    of a model without classes. All classes share the noise of the four samples.
    """
    if model.schedule.continuous:
        grid = trailing(len(model.schedule), EULER_STEPS)
    else:
        grid = strided(len(model.schedule))
    rule = DDPM() if model.schedule.preserves_variance else Euler()
    if model.class_prompts:
        names, gamma = model.class_prompts[:10], 5.0
        pictures = list(range(4)) * len(names)
    else:
        names, gamma = [""] * 10, 1.0
        pictures = range(40)
    seeds = [Seed(seed, picture) for picture in pictures]
    prompts = [name for name in names for _ in range(4)]
    *_, end = sample(model, guided(prompts, gamma), grid, seeds, rule)
    columns = model.decode(end.x).cpu().split(4)
    rows = [[*row] for row in zip(*columns, strict=True)]
    title = f"samples, {len(grid) - 1} updates"
    if model.class_prompts:
        title += f", gamma {gamma:g}"
    return picture_sheet(rows, across=names, title=title)


def as_network(network: nn.Module) -> Network:
    """The network, of the kind that a weights file can hold.

    Raises:
        UserError: it is of another kind.
    """
    return require_type(network, Network, ", as in CONTRIBUTING.md")


def require_type(network: nn.Module, kind: type[T], example: str = "") -> T:
    """The network, of the kind that can be saved.

    Args:
        kind: the class of all networks that can be saved.
        example: where to find an example, for the message.

    Raises:
        UserError: it is of another kind.
    """
    if not isinstance(network, kind):
        raise UserError(
            f"trainer.network makes a {type(network).__name__}, and the weights of one cannot be "
            f"kept: give a subclass of {kind.__module__}.{kind.__qualname__}{example}."
        )
    return network


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@dataclass(frozen=True, eq=False)
class DigitClassification(Objective):
    """Cross-entropy of the class of an augmented image: moved, seen from afar, in another light.

    Args:
        shift: largest shift, in pixels, in each direction.
        turn: largest rotation, in degrees, in each direction.
        zoom: smallest and largest zoom factor.
        far: probability that an image is seen from afar: half of these are downsampled and
            restored, half are blurred.
        farthest: largest factor of downsampling.
        gain: largest change of the factor of the light, 1 ± gain.
        offset: largest offset of the light, 0 ± offset.
        noise: largest standard deviation of the added Gaussian noise.
    """

    shift: float = 2.0
    turn: float = 12.0
    zoom: tuple[float, float] = (0.85, 1.15)
    far: float = 0.5
    farthest: float = 4.0
    gain: float = 0.25
    offset: float = 0.05
    noise: float = 0.1

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        inputs = self.varied(images, draws).contiguous(memory_format=torch.channels_last)
        return F.cross_entropy(network(inputs), labels)

    def varied(self, images: Tensor, draws: Draws) -> Tensor:
        """Images (N, 1, H, W) in [0, 1], each augmented in its own way, in [0, 1]."""
        chance = draws.uniform((10,))
        grain = draws.normal(images.shape[1:])
        images = random_affine(images, chance[:, :4], self.shift, self.turn, self.zoom)
        images = random_distance(images, chance[:, 4:7], self.far, self.farthest)
        return random_light(images, chance[:, 7:], self.gain, self.offset, self.noise * grain)

    def class_names(self, names: Sequence[str]) -> list[Sequence[str]]:
        """All names of each class, its main name first."""
        return [(name,) for name in names]

    def check_network(self, network: nn.Module) -> None:
        require_type(network, classifiers.Classifier)

    def save(self, network: nn.Module, path: Path, names: Sequence[str]) -> None:
        classifier = require_type(network, classifiers.Classifier)
        classifiers.save_classifier(path, classifier, self.class_names(names))

    def sample_figures(
        self, network: nn.Module, held_out: Pictures, seed: int
    ) -> dict[str, Image.Image]:  # fmt: skip
        return {}

    def facts(self, network: nn.Module) -> dict:
        return {"parameters": count_parameters(network)}
