"""Small models of pixels told in sentences: diffusers' UNet2DConditionModel, with a text's tokens for its cross-attention.

    eps, v or x0 = F(x_t, t, E, m)          E (L, 384) the states of the text's tokens, m (L,) which of them there are

A model is a folder as save_pretrained writes it, unet/ and scheduler/, and known.safetensors, the things that it was shown.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from expkit.core.denoiser import Denoiser
from expkit.core.schedules import Schedule
from expkit.errors import UserError
from expkit.models.pretrained import deepfloyd
from expkit.models.pretrained.base import DeviceSpec, limit_rows
from expkit.models.pretrained.configs import KINDS
from expkit.models.pretrained.deepfloyd import IFStageOne, Noise
from expkit.storage import weights_io
from expkit.storage.hub import Repository
from expkit.text.sentence_prompts import WIDTH

KNOWN, SHIPPED = "known.safetensors", "pictograms"


def unet(classes: int, channels: int, size: int, width: int = 32, layers: int = 1, attend: int = 16, **more):
    """A network for pictures of this size: width, 2·width, 4·width and 6·width, each at half the side of the one before.

    layers: of each part. attend: the largest side with attention, to itself and to the text. As in DeepFloyd IF the text is also pooled
    and, with the time, scales and shifts every part. It is told no classes.
    """
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import AttnProcessor

    if width % 16 or width < 16:
        raise UserError(f"trainer.network.width={width} does not fit: give a multiple of 16.")
    if size % 8 or size < 16:
        raise UserError(
            f"Pictures of {size} pixels do not fit this network: give data.size a multiple of 8 from 16 on."
        )
    sides, widths = [size, size // 2, size // 4, size // 8], [width, 2 * width, 4 * width, 6 * width]
    attends = [side <= attend for side in sides]
    if not any(attends):
        raise UserError(
            f"trainer.network.attend={attend} does not fit: the smallest side of this network is {sides[-1]}; try {sides[-2]}."
        )
    network = UNet2DConditionModel(
        sample_size=size,
        out_channels=channels,
        layers_per_block=layers,
        block_out_channels=widths,
        down_block_types=["CrossAttnDownBlock2D" if yes else "DownBlock2D" for yes in attends],
        up_block_types=["CrossAttnUpBlock2D" if yes else "UpBlock2D" for yes in reversed(attends)],
        attention_head_dim=[max(wide // 32, 1) for wide in widths],  # diffusers' name for how many heads
        cross_attention_dim=WIDTH,
        addition_embed_type="text",
        addition_embed_type_num_heads=WIDTH // 64,
        resnet_time_scale_shift="scale_shift",
        **{"in_channels": channels, "norm_num_groups": 16} | more,
    )
    if (
        not torch.cuda.is_available()
    ):  # there torch's fused attention pays only where grids are large: without it a step takes .81 of it
        network.set_attn_processor(AttnProcessor())
    return network


def haar_unet(
    classes: int, channels: int, size: int, schedule: Schedule, width: int = 32, layers: int = 1, attend: int = 8,
    deviations: Sequence[float] = (2.0, 0.16, 0.16, 0.065),
):  # fmt: skip
    """`unet` for pictures of half the size, inside an orthonormal 2 × 2 Haar transform: twice the side for the cost of half of it.

    schedule: that it is trained on; deviations: of the bands of pictures in [−1, 1], the mean's, the columns', rows' and diagonals'.
    """
    from expkit.models.pretrained.haar import BANDS, HaarUNet2DConditionModel

    if size % 16 or size < 32:
        raise UserError(
            f"Pictures of {size} pixels do not fit this network: give data.size a multiple of 16 from 32 on."
        )
    inner = unet(classes, BANDS * channels, size // 2, width, layers, attend)
    network = HaarUNet2DConditionModel(
        dict(inner.config), size, WIDTH, channels, len(schedule), list(deviations)
    )
    network.ratios.copy_(schedule.alpha / schedule.sigma)
    return network


def second_unet(classes: int, channels: int, size: int, width: int = 16, layers: int = 1, attend: int = 8):
    """A network for pictures of this size beside smaller ones, enlarged and noised; it is told how noisy they are.

    Four channels or more are normalised together: alone, they would forget how bright the small picture is.
    """
    more = {"in_channels": 2 * channels, "class_embed_type": "timestep", "norm_num_groups": width // 4}
    return unet(classes, channels, size, width, layers, attend, **more)


def check_kept(schedule: Schedule, kind: str) -> dict[str, str]:
    """What diffusers calls each kind of prediction; refuses a schedule and a kind that its format cannot hold."""
    names = {ours: theirs for theirs, ours in KINDS.items()}
    if kind not in names or not schedule.preserves_variance:
        raise UserError(
            f"A model in diffusers' format answers {', '.join(names)} on a schedule that preserves variance: {kind} is another."
        )
    return names


def save_pipeline(folder: Path, network: nn.Module, schedule: Schedule, kind: str) -> None:
    """Write network and schedule as diffusers does, in one move."""
    from diffusers import DDPMScheduler

    names = check_kept(schedule, kind)
    kept = schedule.alpha**2
    betas = 1 - kept / torch.cat([torch.ones(1, dtype=kept.dtype), kept[:-1]])
    steps = DDPMScheduler(
        len(schedule), trained_betas=betas.tolist(), prediction_type=names[kind], clip_sample=False
    )
    part = folder.with_name(f".{uuid.uuid4().hex}.part")
    try:
        network.save_pretrained(part / "unet")
        steps.save_pretrained(part / "scheduler")
        if folder.is_dir():  # what an earlier epoch has written, file by file: others may lie beside
            for file in (path for path in part.rglob("*") if path.is_file()):
                file.replace(folder / file.relative_to(part))
        else:
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)  # its name is known to this process alone


def model_repository(weights: str) -> Repository:
    """Where a model lies: the one that ships, where it is asked for by its name, else a folder or a repository."""
    return Repository(str(weights_io.WEIGHTS / SHIPPED if str(weights) == SHIPPED else weights))


def worded(embeddings, machine: DeviceSpec, weights: str = SHIPPED, max_rows: int | None = None) -> Denoiser:
    """model=pictograms"""
    return limit_rows(IFStageOne(model_repository(weights), embeddings, machine), max_rows)


def upscaler(
    low: Tensor, noise: Noise, embeddings, machine: DeviceSpec, weights: str = SHIPPED, second: str | None = None, noise_level: int = 50,
    max_rows: int | None = None,
) -> Denoiser:  # fmt: skip
    """The second stage, for the pictures `low` of the first: model.second, or what lies as stage_2 beside the first."""
    if weights == SHIPPED and second is None:
        raise UserError(
            "upscale=true: the pictograms that ship have 64 pixels and no second stage. Train one with task=train trainer=upscaler and "
            "give its folder as model.second=…, or leave upscale=true out."
        )
    return deepfloyd.upscaler(
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
    """The file of the things that a model was shown, in its folder or repository."""
    found = model_repository(weights).file(KNOWN)
    if found is None:
        raise UserError(
            f"{weights} has no {KNOWN}, which says what it was shown: give a folder that trainer=text_conditional has written."
        )
    return found


def image_side(weights: str, part: float = 1) -> float:
    """A part of the side of a model's pictures, in pixels: all of it, or a blur."""
    return part * model_repository(weights).config("unet")["sample_size"]
