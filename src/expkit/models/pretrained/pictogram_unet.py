"""Small text-to-image models in pixel space: diffusers' UNet2DConditionModel with cross-attention.

    eps, v or x0 = F(x_t, t, E, m)

E (L, 384) are the hidden states of the text's tokens, m (L,) is the attention mask. A model is a
folder in the format of save_pretrained, with unet/ and scheduler/, and known.safetensors, the
concepts that it was trained on.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from expkit.core.denoiser import Denoiser, limit_rows
from expkit.core.schedules import Schedule
from expkit.errors import UserError
from expkit.models.pretrained import deepfloyd
from expkit.models.pretrained.base import DeviceSpec
from expkit.models.pretrained.configs import KINDS
from expkit.models.pretrained.deepfloyd import IFStageOne, Noise
from expkit.storage import weights_io
from expkit.storage.hub import Repository
from expkit.text.sentence_prompts import WIDTH

CONCEPTS_FILE, SHIPPED = "known.safetensors", "pictograms"


def text_conditioned_unet(
    classes: int, channels: int, size: int, width: int = 32, layers: int = 1, attend: int = 16,
    **more,
):  # fmt: skip
    """A text-conditioned UNet2DConditionModel with four resolutions, each of half the side.

    Their widths are 1, 2, 4 and 6 times `width`. As in DeepFloyd IF, the text is also pooled and,
    together with the time, scales and shifts every block.

    Args:
        classes: number of classes of the data; ignored.
        channels: channels of an image.
        size: side of an image in pixels, a multiple of 8 from 16 on.
        width: channels at full resolution, a multiple of 16.
        layers: residual blocks at each resolution.
        attend: the largest side with self-attention and cross-attention.
        more: further arguments of UNet2DConditionModel.

    Raises:
        UserError: width, size or attend does not fit.
    """
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import AttnProcessor

    if width % 16 or width < 16:
        raise UserError(f"trainer.network.width={width} does not fit: give a multiple of 16.")
    if size % 8 or size < 16:
        raise UserError(
            f"Pictures of {size} pixels do not fit this network: "
            "give data.size a multiple of 8 from 16 on."
        )  # fmt: skip
    sides = [size, size // 2, size // 4, size // 8]
    widths = [width, 2 * width, 4 * width, 6 * width]
    attention = [side <= attend for side in sides]
    if not any(attention):
        raise UserError(
            f"trainer.network.attend={attend} does not fit: the smallest side of this network is "
            f"{sides[-1]}; try {sides[-2]}."
        )
    down_types = ["CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in attention]
    up_types = ["CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(attention)]
    arguments: dict[str, Any] = {
        "sample_size": size,
        "out_channels": channels,
        "layers_per_block": layers,
        "block_out_channels": widths,
        "down_block_types": down_types,
        "up_block_types": up_types,
        # In diffusers this is the number of heads.
        "attention_head_dim": [max(block_width // 32, 1) for block_width in widths],
        "cross_attention_dim": WIDTH,
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": WIDTH // 64,
        "resnet_time_scale_shift": "scale_shift",
    }
    arguments |= {"in_channels": channels, "norm_num_groups": 16} | more
    network = UNet2DConditionModel(**arguments)
    if not torch.cuda.is_available():
        # Without a GPU, torch's fused attention is faster only on large grids: without it a step
        # takes 0.81 of the time.
        network.set_attn_processor(AttnProcessor())
    return network


def haar_unet(
    classes: int, channels: int, size: int, schedule: Schedule, width: int = 32, layers: int = 1,
    attend: int = 8, deviations: Sequence[float] = (2.0, 0.16, 0.16, 0.065),
):  # fmt: skip
    """A UNet for half the side, inside an orthonormal 2 × 2 Haar transform: see `haar`.

    Args:
        classes, channels, width, layers: as in `text_conditioned_unet`.
        size: side of an image in pixels, a multiple of 16 from 32 on.
        schedule: the noise schedule of the training.
        attend: the largest side with attention, inside the transform.
        deviations: standard deviations of the bands of images in [−1, 1]: mean, columns, rows,
            diagonals.

    Raises:
        UserError: size, width or attend does not fit.
    """
    from expkit.models.pretrained.haar import BANDS, HaarUNet2DConditionModel

    if size % 16 or size < 32:
        raise UserError(
            f"Pictures of {size} pixels do not fit this network: "
            "give data.size a multiple of 16 from 32 on."
        )  # fmt: skip
    inner = text_conditioned_unet(classes, BANDS * channels, size // 2, width, layers, attend)
    network = HaarUNet2DConditionModel(
        dict(inner.config), size, WIDTH, channels, len(schedule), list(deviations)
    )
    network.ratios.copy_(schedule.alpha / schedule.sigma)
    return network


def upscaler_unet(
    classes: int, channels: int, size: int, width: int = 16, layers: int = 1, attend: int = 8
):  # fmt: skip
    """A super-resolution UNet: its input also has the small images, upsampled and noised.

    It is also conditioned on their noise level. Each group of the group normalisation has four
    channels or more: smaller groups would lose the brightness of the small image.

    Args:
        classes, channels, size, width, layers, attend: as in `text_conditioned_unet`.
    """
    options = {
        "in_channels": 2 * channels,
        "class_embed_type": "timestep",
        "norm_num_groups": width // 4,
    }
    return text_conditioned_unet(classes, channels, size, width, layers, attend, **options)


def diffusers_prediction_types(schedule: Schedule, kind: str) -> dict[str, Any]:
    """The name in diffusers of each prediction type.

    Raises:
        UserError: diffusers' format cannot hold this schedule and prediction type.
    """
    names = {prediction_type: name for name, prediction_type in KINDS.items()}
    if kind not in names or not schedule.preserves_variance:
        raise UserError(
            f"A model in diffusers' format answers {', '.join(names)} on a schedule that preserves "
            f"variance: {kind} is another."
        )
    return names


def diffusers_model_class() -> type[torch.nn.Module]:
    """The class of all networks that `save_pipeline` can write."""
    from diffusers.models.modeling_utils import ModelMixin

    return ModelMixin


def save_pipeline(folder: Path, network: Any, schedule: Schedule, kind: str) -> None:
    """Write network and schedule in diffusers' format: unet/ and scheduler/ in `folder`.

    They are written into a hidden sibling folder first. It is then renamed; if `folder` exists, its
    files are moved there one by one, and other files stay. Between two epochs only the weights
    differ, one file that is replaced at once.
    """
    from diffusers import DDPMScheduler

    names = diffusers_prediction_types(schedule, kind)
    alpha_bar = schedule.alpha**2
    previous = torch.cat([torch.ones(1, dtype=alpha_bar.dtype), alpha_bar[:-1]])
    betas = 1 - alpha_bar / previous
    scheduler = DDPMScheduler(
        len(schedule), trained_betas=betas.tolist(), prediction_type=names[kind], clip_sample=False
    )
    part = folder.with_name(f".{uuid.uuid4().hex}.part")
    try:
        network.save_pretrained(part / "unet")
        scheduler.save_pretrained(part / "scheduler")
        if folder.is_dir():  # replace the files of an earlier epoch, and keep other files
            for file in (path for path in part.rglob("*") if path.is_file()):
                file.replace(folder / file.relative_to(part))
        else:
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)  # no other process knows this random name


def model_repository(weights: str) -> Repository:
    """The repository of a model: the shipped one for "pictograms", else a folder or an id."""
    return Repository(str(weights_io.WEIGHTS / SHIPPED if str(weights) == SHIPPED else weights))


def pictogram_denoiser(
    embeddings, machine: DeviceSpec, weights: str = SHIPPED, max_rows: int | None = None
) -> Denoiser:  # fmt: skip
    """The denoiser of model=pictograms.

    Args:
        embeddings: a `sentence_prompts.ConceptPrompts`.
        machine: where and how it runs.
        weights: see `model_repository`.
        max_rows: the largest number of rows in one forward; None: no limit.
    """
    return limit_rows(IFStageOne(model_repository(weights), embeddings, machine), max_rows)


def pictogram_upscaler(
    low: Tensor, noise: Noise, embeddings, machine: DeviceSpec, weights: str = SHIPPED,
    second: str | None = None, noise_level: int = 50, max_rows: int | None = None,
) -> Denoiser:  # fmt: skip
    """The denoiser of the second stage, conditioned on the images `low` of the first.

    Args:
        low: (B, 3, H, W) in [-1, 1].
        noise: maps a shape to standard normal noise (B, *shape).
        embeddings: a `sentence_prompts.ConceptPrompts`.
        machine: where and how it runs.
        weights: weights of the first stage; see `model_repository`.
        second: weights of the second stage; None: the folder stage_2 in those of the first.
        noise_level: the level of the noise that is added to the upsampled images.
        max_rows: the largest number of rows in one forward; None: no limit.

    Raises:
        UserError: there is no second stage, or noise_level does not fit.
    """
    if str(weights) == SHIPPED and second is None:
        raise UserError(
            "upscale=true: the pictograms that ship have 64 pixels and no second stage. Train one "
            "with task=train trainer=upscaler and give its folder as model.second=…, "
            "or leave upscale=true out."
        )
    return deepfloyd.deepfloyd_upscaler(
        low,
        noise,
        embeddings,
        machine,
        model_repository(weights).name,
        second,
        noise_level=noise_level,
        max_rows=max_rows,
    )


def concepts_file(weights: str) -> Path:
    """The file known.safetensors of a model: the concepts that it was trained on.

    Args:
        weights: see `model_repository`.

    Raises:
        UserError: the model has no such file.
    """
    path = model_repository(weights).files.fetch(CONCEPTS_FILE)
    if path is None:
        raise UserError(
            f"{weights} has no {CONCEPTS_FILE}, which says what it was shown: "
            "give a folder that trainer=text_conditional has written."
        )
    return path


def image_side(weights: str, part: float = 1) -> float:
    """The side of a model's images in pixels, times `part`: for lengths relative to the side.

    Args:
        weights: see `model_repository`.
        part: a fraction of the side, as for a blur.
    """
    return part * model_repository(weights).config("unet")["sample_size"]
