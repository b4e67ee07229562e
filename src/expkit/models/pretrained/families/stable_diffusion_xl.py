"""Stable Diffusion XL (Podell et al. 2023): a UNet on latents, told two CLIPs and its picture's size.

Beside the tokens of both CLIPs it is told the pooled text of the second, and six numbers: height and
width of the picture that it was, the corner of the crop, and height and width of the crop. As in
diffusers' pipeline, they say that the picture is whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from expkit.core.denoiser import Prediction
from expkit.errors import UserError
from expkit.models.pretrained.base import DeviceSpec
from expkit.models.pretrained.families.family import with_null
from expkit.models.pretrained.families.stable_diffusion import LatentUNet
from expkit.storage.hub import Repository


class StableDiffusionXL(LatentUNet):
    """The base model of Stable Diffusion XL, or one that was made from it."""

    pipelines: ClassVar[tuple[str, ...]] = (
        "StableDiffusionXLPipeline",
        "StableDiffusionXLImg2ImgPipeline",
    )
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder", "text_encoder_2")
    needs: ClassVar[tuple[str, ...]] = ("tokens", "pooled")

    def __init__(
        self, repository: Repository, embeddings, machine: DeviceSpec, size: int | None = None
    ) -> None:  # fmt: skip
        if is_refiner(repository):
            raise UserError(
                f"{repository.name} is the refiner of Stable Diffusion XL, which is told how "
                "beautiful a picture is and makes none from noise alone. Give the base model: "
                "model.weights=stabilityai/stable-diffusion-xl-base-1.0."
            )
        super().__init__(repository, embeddings, machine, size)

    @classmethod
    def encode_prompts(cls, pipeline: Any, texts: Sequence[str]) -> dict[str, Tensor]:
        """{"tokens": (N, 77, D), "pooled": (N, P)}; zeros for "" if the model was trained so."""
        tokens, null, pooled, null_pooled = pipeline.encode_prompt(
            list(texts), device=pipeline.text_encoder_2.device, do_classifier_free_guidance=True
        )
        return {
            "tokens": with_null(texts, tokens, null),
            "pooled": with_null(texts, pooled, null_pooled),
        }

    def answer(self, x: Tensor, t: float, condition: Mapping[str, Tensor]) -> Prediction:
        """Run one forward pass; see `Family.answer`."""
        _, height, width = self.image_shape
        pooled = condition["pooled"]
        sizes = torch.tensor([height, width, 0, 0, height, width]).to(pooled)
        output = self.network(
            x,
            t,
            encoder_hidden_states=condition["tokens"],
            added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes.repeat(len(x), 1)},
        )
        return Prediction(output)


def is_refiner(repository: Repository) -> bool:
    """Whether a repository is the refiner: it has one text encoder, or needs an aesthetic score."""
    index = repository.index
    has_first = bool((index.get("text_encoder") or [None])[0])
    return bool(index.get("requires_aesthetics_score")) or not has_first
