"""Unconditional diffusion models on pixels (Ho et al. 2020), such as google/ddpm-cat-256."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from expkit.core.denoiser import Denoiser, Prediction, limit_rows
from expkit.errors import UserError
from expkit.models.pretrained.base import DeviceSpec
from expkit.models.pretrained.deepfloyd import split_variance
from expkit.models.pretrained.families.family import Family
from expkit.storage.hub import Repository
from expkit.text.class_names import null_only


class Unconditional(Family):
    """An unconditional model; it takes only the null prompt."""

    range = (-1.0, 1.0)
    pipelines: ClassVar[tuple[str, ...]] = ("DDPMPipeline", "DDIMPipeline")
    part: ClassVar[str] = "unet"
    networks: ClassVar[tuple[str, ...]] = ("UNet2DModel",)
    reads_text: ClassVar[bool] = False

    def __init__(
        self, repository: Repository, embeddings, machine: DeviceSpec, size: int | None = None
    ) -> None:  # fmt: skip
        super().__init__(repository, embeddings, machine, size)
        if self.config.get("num_class_embeds") or self.config.get("class_embed_type"):
            raise UserError(
                f"{repository.name} is told a class with every picture, and model=ddpm tells none: "
                "give an unconditional model."
            )

    def canonical_prompt(self, prompt: str) -> str:
        return null_only(prompt, "is not told what to show")

    def condition(self, prompts: Sequence[str]) -> Mapping[str, Tensor]:
        """There is none."""
        return {}

    def answer(self, x: Tensor, t: float, condition: Mapping[str, Tensor]) -> Prediction:
        """Run one forward pass; see `Family.answer`."""
        return split_variance(self.network(x, t), self.shape[0], self.learns_variance)


def unconditional_ddpm(
    weights: str, machine: DeviceSpec, size: int | None = None, max_rows: int | None = None
) -> Denoiser:
    """The denoiser of model=ddpm: an unconditional model in diffusers' format.

    Args:
        weights: a folder, or an id of huggingface.co.
        machine: where and how it runs.
        size: side of its images in pixels; None: the size that it was trained on.
        max_rows: the largest number of rows in one forward; None: no limit.
    """
    return limit_rows(Unconditional(Repository(str(weights)), None, machine, size), max_rows)
