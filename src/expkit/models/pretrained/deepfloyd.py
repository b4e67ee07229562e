"""Models of pixels in diffusers' format: DeepFloyd IF's two stages (Saharia et al. 2022), and unconditional ones (Ho et al. 2020).

    native, v = eps_theta(x, t, c);    frac = (v + 1) / 2          where the variance was learned (Nichol & Dhariwal 2021, eq. 15)

Stage II makes a picture four times as large, beside a noised version of the small one:

    y = alpha_n · enlarged(low) + sigma_n · noise;    eps_theta([x, y], t, c, n)                              n = 250 unless told
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from expkit.core.denoiser import Denoiser, Prediction
from expkit.errors import UserError, suggest
from expkit.models.pretrained.base import HAAR, DeviceSpec, Pretrained, TextConditioned, limit_rows
from expkit.models.pretrained.configs import check_class, schedule_of, size_of
from expkit.storage.hub import Repository
from expkit.text.class_names import null_only

FIRST = {"m": "DeepFloyd/IF-I-M-v1.0", "l": "DeepFloyd/IF-I-L-v1.0", "xl": "DeepFloyd/IF-I-XL-v1.0"}
SECOND = {"m": "DeepFloyd/IF-II-M-v1.0", "l": "DeepFloyd/IF-II-L-v1.0", "xl": "DeepFloyd/IF-II-L-v1.0"}


Noise = Callable[[tuple[int, int, int]], Tensor]


def split_variance(answer: Tensor, channels: int, learned: bool) -> Prediction:
    """A network's answer (R, C or 2C, H, W) as the estimate, and the learned variance's fraction if it learned one."""
    native, v = answer[:, :channels], answer[:, channels:]
    return Prediction(native, (v + 1) / 2 if learned and v.shape[1] else None)


def upsample_condition(low: Tensor, size: Sequence[int]) -> Tensor:
    """As DeepFloyd IF enlarges what its second stage is told."""
    return F.interpolate(low, tuple(size), mode="bilinear", align_corners=True)


class Unconditional(Pretrained):
    """A model that is not told what to show, such as google/ddpm-cat-256: the null prompt is all it is asked."""

    range = (-1.0, 1.0)

    def __init__(self, repository: Repository, machine: DeviceSpec, size: int | None = None) -> None:
        unet = repository.config("unet")
        check_class(unet, ("UNet2DModel",), repository.name)
        if unet.get("num_class_embeds") or unet.get("class_embed_type"):
            raise UserError(
                f"{repository.name} is told a class with every picture, and model=ddpm tells none: give an unconditional model."
            )
        super().__init__(repository, "UNet2DModel", machine)
        self.shape = (unet["in_channels"], *size_of(unet, size))

    def canonical_prompt(self, prompt: str) -> str:
        return null_only(prompt, "is not told what to show")

    def predict(self, x: Tensor, t: int, prompts: Sequence[str]) -> Prediction:
        return split_variance(self.network(x, t), self.shape[0], self.learned)


class IFStageOne(TextConditioned):
    """What makes pictures of what it is told: stage I of DeepFloyd IF (64 pixels, eps, a learned variance, T5's words), and ours."""

    range = (-1.0, 1.0)
    channels = 3
    classes: tuple[str, ...] = ("UNet2DConditionModel", HAAR)

    def __init__(self, repository: Repository, embeddings, machine: DeviceSpec) -> None:
        unet = repository.config("unet")
        check_class(unet, self.classes, repository.name, self.channels)
        super().__init__(
            repository, unet.get("encoder_hid_dim") or unet.get("cross_attention_dim"), embeddings, machine
        )
        self.shape = (3, *size_of(unet, None))

    def predict(self, x: Tensor, t: int, prompts: Sequence[str], **more) -> Prediction:
        return split_variance(self.network(x, t, **self.told(prompts), **more), 3, self.learned)


class IFStageTwo(IFStageOne):
    """What makes larger pictures beside those of a first stage: stage II of DeepFloyd IF (256 pixels of 64), and ours (64 of 32).

    low: (B, 3, H, W) in [-1, 1], one for each picture of the run; noise: shape -> (B, *shape), standard normal; noise_level: how much
    of it is mixed with the enlarged ones, so that the network may depart from them.
    """

    channels = 6
    classes = ("UNet2DConditionModel",)

    def __init__(
        self,
        low: Tensor,
        noise: Noise,
        repository: Repository,
        embeddings,
        machine: DeviceSpec,
        noise_level: int = 250,
    ) -> None:
        super().__init__(repository, embeddings, machine)
        noising = repository.optional("image_noising_scheduler")
        steps, drawn = schedule_of(noising) if noising else self.schedule, noise(self.shape).to(low)
        if not (isinstance(noise_level, int) and 0 <= noise_level < len(steps)):
            raise UserError(
                f"model.noise_level={noise_level} does not fit: it is a level of this model's schedule, 0 to {len(steps) - 1}."
            )
        self.low = steps.noised(upsample_condition(low, self.shape[1:]), noise_level, drawn).to(self.device)
        self.level = noise_level

    def beside(self, x: Tensor, pictures: Sequence[int]) -> Tensor:
        """x (B, 3, H, W) with the enlarged pictures as three more channels: a view turns both."""
        return torch.cat([x, self.low[list(pictures)].to(x)], 1)

    def predict(self, x: Tensor, t: int, prompts: Sequence[str]) -> Prediction:
        return super().predict(
            x, t, prompts, class_labels=torch.full((len(x),), self.level, device=self.device)
        )


def unconditional(
    weights: str, machine: DeviceSpec, size: int | None = None, max_rows: int | None = None
) -> Denoiser:
    """model=ddpm"""
    return limit_rows(Unconditional(Repository(str(weights)), machine, size), max_rows)


def deepfloyd(
    embeddings, machine: DeviceSpec, weights: str | None = None, size: str = "m", max_rows: int | None = None
) -> Denoiser:
    """model=deepfloyd: stage I, of a folder or an id, or the published one of this size."""
    return limit_rows(IFStageOne(first_stage(weights, size), embeddings, machine), max_rows)


def upscaler(
    low: Tensor,
    noise: Noise,
    embeddings,
    machine: DeviceSpec,
    weights: str | None = None,
    second: str | None = None,
    size: str = "m",
    noise_level: int = 250,
    max_rows: int | None = None,
) -> Denoiser:
    """Stage II for the pictures `low` of stage I."""
    return limit_rows(
        IFStageTwo(low, noise, second_stage(weights, second, size), embeddings, machine, noise_level),
        max_rows,
    )


def encoder_of(encoder: str | None, weights: str | None) -> str:
    """Where T5 lies: model.encoder, beside stage I, or where it is published, the same for every size."""
    return encoder or (first_stage(weights, "").name if weights else FIRST["xl"])


def first_stage(weights: str | None, size: str) -> Repository:
    """Stage I: WEIGHTS/stage_1, WEIGHTS itself, or the published one of this size."""
    name = published_name(FIRST, size) if weights is None else weights
    inner = Path(name).expanduser() / "stage_1"
    return Repository(str(inner if inner.is_dir() else name))


def second_stage(weights: str | None, second: str | None, size: str) -> Repository:
    """Stage II: model.second, WEIGHTS/stage_2, or the published one of this size."""
    if second is None and weights is None:
        second = published_name(SECOND, size)
    inner = Path(second or f"{weights}/stage_2").expanduser()
    if second is None and not inner.is_dir():
        raise UserError(
            f"There is no stage II in {weights}. Give its folder or id with model.second=…, or put both stages into one folder, as stage_1 "
            "and stage_2."
        )
    return Repository(second or str(inner), "model.second")


def published_name(names: dict[str, str], size: str) -> str:
    if size not in names:
        raise UserError(
            f"model.size={size} is not one of DeepFloyd IF's sizes.{suggest(size, names)} There are: {', '.join(names)}."
        )
    return names[size]
