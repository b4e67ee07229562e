"""Stage I of DeepFloyd IF (after Saharia et al. 2022): a UNet on pixels, told the tokens of T5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from expkit.core.denoiser import Prediction
from expkit.models.pretrained.base import DeviceSpec
from expkit.models.pretrained.configs import check_class
from expkit.models.pretrained.deepfloyd import split_variance
from expkit.models.pretrained.families.family import Family
from expkit.storage.hub import Repository


class DeepFloydIF(Family):
    """Stage I of DeepFloyd IF; with its stage II it is model=deepfloyd."""

    range = (-1.0, 1.0)
    pipelines: ClassVar[tuple[str, ...]] = ("IFPipeline",)
    part: ClassVar[str] = "unet"
    networks: ClassVar[tuple[str, ...]] = ("UNet2DConditionModel",)

    def __init__(
        self, repository: Repository, embeddings, machine: DeviceSpec, size: int | None = None
    ) -> None:  # fmt: skip
        super().__init__(repository, embeddings, machine, size)
        check_class(self.config, self.networks, repository.name, channels=3)

    @classmethod
    def encode_prompts(cls, pipeline: Any, texts: Sequence[str]) -> dict[str, Tensor]:
        """{"tokens": (N, 77, D)} of the texts in lower case."""
        tokens, _ = pipeline.encode_prompt(
            list(texts), do_classifier_free_guidance=False, device=pipeline.text_encoder.device
        )
        return {"tokens": tokens}

    def answer(self, x: Tensor, t: float, condition: Mapping[str, Tensor]) -> Prediction:
        """Run one forward pass; see `Family.answer`."""
        output = self.network(x, t, encoder_hidden_states=condition["tokens"])
        return split_variance(output, self.shape[0], self.learns_variance)
