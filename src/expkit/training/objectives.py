"""What a network is trained for.

    Diffusion   L = E w_t || F(x_t, t/T, c) − target(x0, eps) ||²,   x_t = alpha_t x0 + sigma_t eps       (Ho et al. 2020, eq. 14)
    Reading     L = E [ −log softmax(f(a(x)))_c ],                   a the picture moved, seen from afar, in another light

with the class c forgotten one time in ten, so that one network answers for the null prompt too (Ho & Salimans 2022, algorithm 1). A
single-step denoiser is trained for x0 at one level of a schedule that only adds noise; flow matching is `flow` on the schedule `flow`,
whose time is uniform in [0, 1).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

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

EULER_STEPS = 50  # of a flow, in pictures that are shown while it trains


class Objective(ABC):
    """A loss, and how the network that it trains is kept and shown. file: under what name in a run's folder."""

    file: ClassVar[str] = "model.safetensors"

    def told(self, images: Pictures) -> Objective:
        """The same, knowing of what it trains on; refuses what it cannot be trained on."""
        return self

    @abstractmethod
    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """The mean loss of these rows of a batch, images (N, C, H, W) in [0, 1] and labels (N,); `draws` has what is random for them."""

    @abstractmethod
    def save(self, network: nn.Module, path: Path, names: Sequence[str]) -> None:
        """Write the network so that it says what it is, and the names of its classes, in one move."""

    @abstractmethod
    def shown(self, network: nn.Module, held_out: Pictures, seed: int) -> dict[str, Image.Image]:
        """What the network can do by now, under names; the network is left as it is."""

    @abstractmethod
    def facts(self, network: nn.Module) -> dict:
        """Numbers of the recipe that belong to a run's results."""


@dataclass(frozen=True, eq=False)
class Diffusion(Objective):
    """A kind of prediction on a schedule; pictures in [0, 1] are first put into [low, high].

    only: the strength of the noise beside the picture, sigma/alpha, of the one level that is trained; None: all, equally often.
    min_snr: the gamma of min-SNR weighting (Hang et al. 2023, eq. 7: 5), or None for equal weights.
    drop: how often the class is forgotten.
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
            raise UserError(f"objective.kind={self.kind} is unknown: give one of {', '.join(KINDS)}.")
        if (
            not self.schedule.terminal_alpha
            and len(self.schedule) > 1
            and (self.kind == "eps" or (self.min_snr and not self.schedule.continuous))
        ):
            said = "min_snr gives it no weight" if self.min_snr else "eps says nothing of the picture there"
            raise UserError(
                f"The last level of this schedule is pure noise, and {said}: train for v, x0 or flow, without min_snr."
            )

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        t, noise, kept = self.levels(draws), draws.normal(images.shape[1:]), draws.uniform((1,)) >= self.drop
        x0 = self.low + (self.high - self.low) * images
        alpha, sigma = self.schedule.rows(t)
        x = (alpha * x0 + sigma * noise).contiguous(memory_format=torch.channels_last)
        answer, wanted = (
            self.answer(network, x, t, labels, kept),
            prediction_target(x0, noise, alpha, sigma, self.kind),
        )
        return (
            F.mse_loss(answer, wanted)
            if self.min_snr is None
            else (self.weight(t) * (answer - wanted).square()).mean()
        )

    def levels(self, draws: Draws) -> Tensor:
        """The level of each row (N,): float64, its time uniform in [0, 1), where the schedule is continuous, else integers."""
        if self.schedule.continuous:
            t = len(self.schedule) * (1 - draws.uniform(()).double()) - 1
        else:
            t = draws.integers(len(self.schedule))
        return t if self.only is None else torch.full_like(t, self.schedule.nearest(self.only))

    def answer(self, network: nn.Module, x: Tensor, t: Tensor, labels: Tensor, kept: Tensor) -> Tensor:
        """The network's, told the class of the rows that are kept (N, 1)."""
        u = self.schedule.time(t).to(x)[:, None]
        label = (F.one_hot(labels, network.classes) * kept).to(x.dtype) if network.classes else None
        return network(x, u, label)

    def weight(self, t: Tensor) -> Tensor:
        """min(SNR, gamma) of an error in x0, carried over to one in the network's own answer: (d x0 / d answer)² as much, (N, 1, 1, 1)."""
        alpha, sigma = self.schedule.of(t)
        slope = {
            "x0": torch.ones_like(alpha),
            "eps": sigma / alpha,
            "v": sigma / (alpha**2 + sigma**2),
            "flow": sigma / (alpha + sigma),
        }
        return (
            ((alpha / sigma) ** 2)
            .clamp(max=self.min_snr)
            .mul(slope[self.kind] ** 2)
            .float()
            .view(-1, 1, 1, 1)
        )

    def made(self, network: nn.Module, names: Sequence[str]) -> trained.ModelSpec:
        return trained.ModelSpec.of(network, self.kind, self.low, self.high, names)

    def save(self, network: nn.Module, path: Path, names: Sequence[str]) -> None:
        trained.save_model(path, network, self.schedule, self.made(network, names))

    def shown(self, network: nn.Module, held_out: Pictures, seed: int) -> dict[str, Image.Image]:
        facts, device = self.made(network, held_out.names), str(next(network.parameters()).device)
        model = trained.TrainedUNet(deepcopy(network), self.schedule, facts, device)
        return {"denoised": self.denoised(model, held_out, seed)} | (
            {"samples": sample_sheet(model, seed)} if model.can_sample else {}
        )

    def denoised(self, model: trained.TrainedUNet, held_out: Pictures, seed: int) -> Image.Image:
        """One held-out picture of each class: as it is, noised, and denoised in one step, at one level or at three."""
        chosen = [int((held_out.labels == c).nonzero()[0]) for c in held_out.labels.unique()[:10]]
        clean = held_out.images[chosen].float() / 255
        noise = torch.randn(clean.shape, generator=stream(seed, "shown"))
        levels = (
            scaled_levels((250, 500, 750), len(self.schedule))
            if self.only is None
            else [self.schedule.nearest(self.only)]
        )
        rows, down = [clean], ["original"]
        for t in dict.fromkeys(levels):
            x = self.schedule.noised(model.encode(clean), t, noise).to(model.device)
            x0 = self.schedule.denoised(x, t, model.predict(x, t, [""] * len(x)).native, self.kind)
            rows += [model.decode(x).cpu(), model.decode(x0).cpu()]
            told = f"sigma = {self.schedule.at(t)[1]:g}" if self.only is not None else f"t = {t}"
            down += [f"noisy, {told}", "denoised"]
        return picture_sheet([list(row) for row in rows], down, title="denoised in one step")

    def facts(self, network: nn.Module) -> dict:
        return {"leak": self.schedule.terminal_alpha, "parameters": count_parameters(network)}


def sample_sheet(model: trained.TrainedUNet, seed: int) -> Image.Image:
    """Four samples of each of the first classes at gamma 5, or forty where it knows none, as the course samples."""
    grid = (
        trailing(len(model.schedule), EULER_STEPS)
        if model.schedule.continuous
        else strided(len(model.schedule))
    )
    rule = DDPM() if model.schedule.preserves_variance else Euler()
    names, gamma = (model.classes[:10], 5.0) if model.classes else ([""] * 10, 1.0)
    seeds = [Seed(seed, k if model.classes else 4 * row + k) for row in range(len(names)) for k in range(4)]
    *_, end = sample(model, guided([name for name in names for _ in range(4)], gamma), grid, seeds, rule)
    drawn = model.decode(end.x).cpu().split(4)
    rows = [[*four] for four in zip(*drawn, strict=True)]
    return picture_sheet(
        rows,
        across=names,
        title=f"samples, {len(grid) - 1} updates" + (f", gamma {gamma:g}" if model.classes else ""),
    )


def count_parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@dataclass(frozen=True, eq=False)
class DigitClassification(Objective):
    """The cross-entropy of a digit's name, read as a hand, a distance and a light may change the picture.

    shift: pixels each way. turn: degrees each way. zoom: smallest and largest. far: how often a picture is seen from afar, farthest: at the
    most from so many times as far.
    gain, offset: of the light, 1 ± gain and 0 ± offset. noise: the largest standard deviation.
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
        seen = self.varied(images, draws).contiguous(memory_format=torch.channels_last)
        return F.cross_entropy(network(seen), labels)

    def varied(self, images: Tensor, draws: Draws) -> Tensor:
        """images (N, 1, H, W) in [0, 1], each changed in its own way, in [0, 1]."""
        chance, grain = draws.uniform((10,)), draws.normal(images.shape[1:])
        far = random_distance(
            random_affine(images, chance[:, :4], self.shift, self.turn, self.zoom),
            chance[:, 4:7],
            self.far,
            self.farthest,
        )
        return random_light(far, chance[:, 7:], self.gain, self.offset, self.noise * grain)

    def called(self, names: Sequence[str]) -> list[Sequence[str]]:
        """All that each kind of picture is called, its name first."""
        return [(name,) for name in names]

    def save(self, network: nn.Module, path: Path, names: Sequence[str]) -> None:
        classifiers.save_classifier(path, network, self.called(names))

    def shown(self, network: nn.Module, held_out: Pictures, seed: int) -> dict[str, Image.Image]:
        return {}

    def facts(self, network: nn.Module) -> dict:
        return {"parameters": count_parameters(network)}
