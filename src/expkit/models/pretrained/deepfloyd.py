"""DeepFloyd IF's two stages (after Saharia et al. 2022), on pixels.

If a network has learned its variance, its output has twice the channels (Nichol & Dhariwal 2021,
eq. 15):

    native, v = eps_theta(x, t, c);    variance_fraction = (v + 1) / 2

Stage II makes an image with 4 times the side. It sees a noised version y of the small image,
upsampled, as further channels; the noise level n is 250 by default:

    y = alpha_n · upsample(low) + sigma_n · noise;    eps_theta([x, y], t, c, n)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from expkit.core.denoiser import Denoiser, Prediction, limit_rows
from expkit.errors import UserError, suggest
from expkit.models.pretrained.base import HAAR, DeviceSpec, TextConditioned
from expkit.models.pretrained.configs import check_class, schedule_of, size_of
from expkit.storage.hub import Repository

FIRST = {"m": "DeepFloyd/IF-I-M-v1.0", "l": "DeepFloyd/IF-I-L-v1.0", "xl": "DeepFloyd/IF-I-XL-v1.0"}
SECOND = {
    "m": "DeepFloyd/IF-II-M-v1.0",
    "l": "DeepFloyd/IF-II-L-v1.0",
    "xl": "DeepFloyd/IF-II-L-v1.0",
}


Noise = Callable[[tuple[int, int, int]], Tensor]


def split_variance(answer: Tensor, channels: int, learned: bool) -> Prediction:
    """Split a network's output (R, C or 2C, H, W) into prediction and fraction of the variance.

    Args:
        answer: the output.
        channels: C.
        learned: whether the network has learned its variance.
    """
    native, rest = answer[:, :channels], answer[:, channels:]
    return Prediction(native, (rest + 1) / 2 if learned and rest.shape[1] else None)


def upsample_condition(low: Tensor, size: Sequence[int]) -> Tensor:
    """Upsample the condition of stage II to `size` (H, W), as DeepFloyd IF does."""
    return F.interpolate(low, tuple(size), mode="bilinear", align_corners=True)


class IFStageOne(TextConditioned):
    """A text-to-image model in pixel space: stage I of DeepFloyd IF, or one of expkit's.

    Stage I of IF has 64 pixels, predicts eps with a learned variance, and reads T5 embeddings.

    Args:
        repository: the model.
        embeddings: a `prompt_embeddings.Embeddings`.
        machine: where and how it runs.
    """

    range = (-1.0, 1.0)
    channels = 3
    classes: tuple[str, ...] = ("UNet2DConditionModel", HAAR)

    def __init__(self, repository: Repository, embeddings, machine: DeviceSpec) -> None:
        unet = repository.config("unet")
        check_class(unet, self.classes, repository.name, self.channels)
        super().__init__(repository, unet, embeddings, machine)
        self.shape = (3, *size_of(unet, None))

    def make_room(self) -> None:
        for width in self.embeddings.widths:
            self.conditions.check_width(width)
        super().make_room()

    def condition_kwargs(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """The keyword arguments that condition the UNet on the prompts of its rows."""
        rows = self.conditions([self.canonical_prompt(prompt) for prompt in prompts])["tokens"]
        condition = {"encoder_hidden_states": rows}
        if self.embeddings.padded:
            condition["encoder_attention_mask"] = (rows != 0).any(-1)
        return condition

    def predict(self, x: Tensor, t: float, prompts: Sequence[str], **more) -> Prediction:
        output = self.network(x, t, **self.condition_kwargs(prompts), **more)
        return split_variance(output, 3, self.learns_variance)


class IFStageTwo(IFStageOne):
    """A super-resolution model: stage II of DeepFloyd IF (64 → 256 pixels), or expkit's (32 → 64).

    Args:
        low: the images of the first stage (B, 3, H, W) in [-1, 1], one for each image of the run.
        noise: maps a shape to standard normal noise (B, *shape).
        repository: the model.
        embeddings: a `prompt_embeddings.Embeddings`.
        machine: where and how it runs.
        noise_level: the level of the noise that is added to the upsampled images, so that the
            network may depart from them.

    Raises:
        UserError: noise_level is not a level of the schedule.
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
        config = repository.optional("image_noising_scheduler")
        schedule = schedule_of(config) if config else self.schedule
        noise_image = noise(self.shape).to(low)
        if not (isinstance(noise_level, int) and 0 <= noise_level < len(schedule)):
            raise UserError(
                f"model.noise_level={noise_level} does not fit: it is a level of this model's "
                f"schedule, 0 to {len(schedule) - 1}."
            )
        upsampled = upsample_condition(low, self.shape[1:])
        self.low = schedule.noised(upsampled, noise_level, noise_image).to(self.device)
        self.level = noise_level

    def concat_condition(self, x: Tensor, pictures: Sequence[int]) -> Tensor:
        """Concatenate x (B, 3, H, W) and the noised small images, so that a view acts on both."""
        return torch.cat([x, self.low[list(pictures)].to(x)], 1)

    def predict(self, x: Tensor, t: float, prompts: Sequence[str]) -> Prediction:
        noise_levels = torch.full((len(x),), self.level, device=self.device)
        return super().predict(x, t, prompts, class_labels=noise_levels)


def deepfloyd(
    embeddings, machine: DeviceSpec, weights: str | None = None, size: str = "m",
    max_rows: int | None = None,
) -> Denoiser:  # fmt: skip
    """The denoiser of model=deepfloyd: stage I of DeepFloyd IF.

    Args:
        embeddings: a `prompt_embeddings.Embeddings` of T5.
        machine: where and how it runs.
        weights: see `first_stage`.
        size: m, l or xl: which published model to use if weights is None.
        max_rows: the largest number of rows in one forward; None: no limit.
    """
    return limit_rows(IFStageOne(first_stage(weights, size), embeddings, machine), max_rows)


def deepfloyd_upscaler(
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
    """The denoiser of stage II, conditioned on the images `low` of stage I.

    Args:
        low: (B, 3, H, W) in [-1, 1].
        noise: maps a shape to standard normal noise (B, *shape).
        embeddings: a `prompt_embeddings.Embeddings`.
        machine: where and how it runs.
        weights: weights of stage I; see `second_stage`.
        second: weights of stage II; see `second_stage`.
        size: m, l or xl: which published model to use if neither is given.
        noise_level: the level of the noise that is added to the upsampled images.
        max_rows: the largest number of rows in one forward; None: no limit.
    """
    repository = second_stage(weights, second, size)
    model = IFStageTwo(low, noise, repository, embeddings, machine, noise_level)
    return limit_rows(model, max_rows)


def t5_location(encoder: str | None, weights: str | None) -> str:
    """The folder or id of T5.

    Args:
        encoder: the folder or id (model.encoder); None: the default.
        weights: weights of stage I, as in `first_stage`; None: the published ones.

    Returns:
        `encoder`, else the repository of stage I, else the published one. T5 is the same for every
        size of IF.
    """
    return encoder or (first_stage(weights, "").name if weights else FIRST["xl"])


def first_stage(weights: str | None, size: str) -> Repository:
    """Stage I: weights/stage_1 if that is a folder, else weights; for None the published `size`."""
    name = published_name(FIRST, size) if weights is None else weights
    inner = Path(name).expanduser() / "stage_1"
    return Repository(str(inner if inner.is_dir() else name))


def second_stage(weights: str | None, second: str | None, size: str) -> Repository:
    """Stage II: `second` (model.second), else weights/stage_2; for None the published `size`.

    Raises:
        UserError: `second` is None and there is no folder weights/stage_2.
    """
    if second is None and weights is None:
        second = published_name(SECOND, size)
    inner = Path(second or f"{weights}/stage_2").expanduser()
    if second is None and not inner.is_dir():
        raise UserError(
            f"There is no stage II in {weights}. Give its folder or id with model.second=…, "
            "or put both stages into one folder, as stage_1 and stage_2."
        )
    return Repository(second or str(inner), "model.second")


def published_name(names: dict[str, str], size: str) -> str:
    """The id of the published model of this size; raises UserError for an unknown size."""
    if size not in names:
        raise UserError(
            f"model.size={size} is not one of DeepFloyd IF's sizes.{suggest(size, names)} "
            f"There are: {', '.join(names)}."
        )
    return names[size]
