"""Stable Diffusion 1 and 2 (Rombach et al. 2022): a UNet on latents, conditioned on CLIP's tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from expkit.core.denoiser import Denoiser, Prediction, limit_rows
from expkit.errors import UserError
from expkit.models.pretrained.base import DeviceSpec
from expkit.models.pretrained.configs import check_class
from expkit.models.pretrained.families.family import with_null
from expkit.models.pretrained.families.latent import Latent
from expkit.storage.hub import Repository


class LatentUNet(Latent):
    """A UNet2DConditionModel whose input is the latent alone."""

    part: ClassVar[str] = "unet"
    networks: ClassVar[tuple[str, ...]] = ("UNet2DConditionModel",)

    def __init__(
        self, repository: Repository, embeddings, machine: DeviceSpec, size: int | None = None
    ) -> None:  # fmt: skip
        super().__init__(repository, embeddings, machine, size)
        check_class(self.config, self.networks, repository.name, channels=self.shape[0])
        if self.config.get("time_cond_proj_dim"):
            raise UserError(
                f"{repository.name} is a latent consistency model, which is told the guidance "
                "itself, and expkit tells a UNet none. Give the model that it was distilled from."
            )


class StableDiffusion(LatentUNet):
    """Stable Diffusion 1 or 2, which is told the last hidden state of one CLIP."""

    pipelines: ClassVar[tuple[str, ...]] = (
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
    )

    @classmethod
    def encode_prompts(cls, pipeline: Any, texts: Sequence[str]) -> dict[str, Tensor]:
        """{"tokens": (N, 77, D)}."""
        tokens, null = pipeline.encode_prompt(
            list(texts), pipeline.text_encoder.device, 1, do_classifier_free_guidance=True
        )
        return {"tokens": with_null(texts, tokens, null)}

    def answer(self, x: Tensor, t: float, condition: Mapping[str, Tensor]) -> Prediction:
        """Run one forward pass; see `Family.answer`."""
        return Prediction(self.network(x, t, encoder_hidden_states=condition["tokens"]))


def stable_diffusion(
    embeddings, machine: DeviceSpec, weights: str, size: int | None = None,
    max_rows: int | None = None,
) -> Denoiser:  # fmt: skip
    """The denoiser of model=stable_diffusion.

    Args:
        embeddings: a `prompt_embeddings.Embeddings` of CLIP.
        machine: where and how it runs.
        weights: a folder, or an id of huggingface.co.
        size: side of its images in pixels; None: the size that it was trained on.
        max_rows: the largest number of rows in one forward; None: no limit.
    """
    model = StableDiffusion(Repository(str(weights)), embeddings, machine, size)
    return limit_rows(model, max_rows)
