"""PixArt-α (Chen et al. 2024) and PixArt-Σ: diffusion transformers on latents, told T5 tokens.

The networks have learned a variance, which the pipelines drop; so does this family. The larger
networks of PixArt-α are also told (H, W) in pixels and H / W.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from expkit.core.denoiser import Prediction
from expkit.models.pretrained.base import DeviceSpec
from expkit.models.pretrained.families.latent import Latent
from expkit.storage.hub import Repository


class PixArtSigma(Latent):
    """A network of PixArt-Σ, conditioned on the last hidden state of T5 and its mask.

    Texts are in lower case, as encode_prompt has them. Captions are not cleaned further: what the
    pipeline's clean_caption does depends on which libraries are installed.
    """

    pipelines: ClassVar[tuple[str, ...]] = ("PixArtSigmaPipeline",)
    # The published configurations have the older name; diffusers loads the newer class.
    networks: ClassVar[tuple[str, ...]] = ("PixArtTransformer2DModel", "Transformer2DModel")
    needs: ClassVar[tuple[str, ...]] = ("tokens", "mask")
    length: ClassVar[int] = 300  # tokens that its encode_prompt reads

    def __init__(
        self, repository: Repository, embeddings, machine: DeviceSpec, size: int | None = None
    ) -> None:  # fmt: skip
        super().__init__(repository, embeddings, machine, size)
        is_told_size = self.config.get("use_additional_conditions")
        if is_told_size is None:  # the default of the network's class
            is_told_size = self.config.get("sample_size") == 128
        self.is_told_size = bool(is_told_size)

    @classmethod
    def encode_prompts(cls, pipeline: Any, texts: Sequence[str]) -> dict[str, Tensor]:
        """{"tokens": (N, L, D), "mask": (N, L)}; L is 120 for PixArt-α and 300 for PixArt-Σ."""
        encoded = pipeline.encode_prompt(list(texts), do_classifier_free_guidance=False)
        return {"tokens": encoded[0], "mask": encoded[1]}

    @classmethod
    def longest(cls, components: Collection[str]) -> tuple[str, int | None]:
        return "tokenizer", cls.length

    def answer(self, x: Tensor, t: float, condition: Mapping[str, Tensor]) -> Prediction:
        """Run one forward pass; see `Family.answer`."""
        output = self.network(
            x,
            timestep=self.row_times(x, float(t)),
            encoder_hidden_states=condition["tokens"],
            encoder_attention_mask=condition["mask"],
            added_cond_kwargs=self.size_condition(len(x)),
        )
        return Prediction(output[:, : self.shape[0]])

    def size_condition(self, rows: int) -> dict[str, Tensor | None]:
        """The size of the images in pixels, for networks that are told it."""
        if not self.is_told_size:
            return {"resolution": None, "aspect_ratio": None}
        _, height, width = self.image_shape
        machine = self.network.machine
        how = {"device": machine.device, "dtype": machine.dtype}
        return {
            "resolution": torch.tensor([[height, width]] * rows, **how),
            "aspect_ratio": torch.tensor([[height / width]] * rows, **how),
        }


class PixArtAlpha(PixArtSigma):
    """A network of PixArt-α, which reads shorter texts."""

    pipelines: ClassVar[tuple[str, ...]] = ("PixArtAlphaPipeline",)
    length: ClassVar[int] = 120
