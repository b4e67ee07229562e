"""Sana (Xie et al. 2025): a linear diffusion transformer on latents, told Gemma 2's tokens.

It is trained by flow matching, and its network answers noise − x0. Its autoencoder makes one latent
pixel of 32 × 32 pixels.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from expkit.core.denoiser import Prediction
from expkit.models.pretrained.base import DeviceSpec
from expkit.models.pretrained.families.latent import Latent
from expkit.storage.hub import Repository

LENGTH = 300  # tokens of a prompt, as encode_prompt reads


class Sana(Latent):
    """A network of Sana, conditioned on the hidden states of Gemma 2 and their mask.

    The pipeline puts an instruction, its complex_human_instruction, before every prompt, and none
    before the null prompt; so does this family.
    """

    pipelines: ClassVar[tuple[str, ...]] = ("SanaPipeline",)
    networks: ClassVar[tuple[str, ...]] = ("SanaTransformer2DModel",)
    needs: ClassVar[tuple[str, ...]] = ("tokens", "mask")

    def __init__(
        self, repository: Repository, embeddings, machine: DeviceSpec, size: int | None = None
    ) -> None:  # fmt: skip
        super().__init__(repository, embeddings, machine, size)
        scheduler = repository.config("scheduler").get("_class_name")
        # Of the schedulers that Sana comes with, this one tells the network whole numbers only.
        self.tells_whole_times = scheduler == "DPMSolverMultistepScheduler"

    @classmethod
    def encode_prompts(cls, pipeline: Any, texts: Sequence[str]) -> dict[str, Tensor]:
        """{"tokens": (N, 300, D), "mask": (N, 300)}: prompts with the instruction, "" without."""
        tokens, masks = zip(*(encode_one(pipeline, text) for text in texts), strict=True)
        return {"tokens": torch.cat(tokens), "mask": torch.cat(masks)}

    @classmethod
    def longest(cls, components: Collection[str]) -> tuple[str, int | None]:
        return "tokenizer", LENGTH

    def answer(self, x: Tensor, t: float, condition: Mapping[str, Tensor]) -> Prediction:
        """Run one forward pass; see `Family.answer`."""
        time = int(t + 1) if self.tells_whole_times else float(t + 1)
        time *= self.config.get("timestep_scale", 1.0)
        output = self.network(
            x,
            timestep=self.row_times(x, float(time)),
            encoder_hidden_states=condition["tokens"],
            encoder_attention_mask=condition["mask"],
        )
        return Prediction(-output[:, : self.shape[0]])


def encode_one(pipeline: Any, text: str) -> tuple[Tensor, Tensor]:
    """Tokens (1, 300, D) and mask (1, 300) of a text, as the pipeline encodes it when called."""
    instruction = inspect.signature(type(pipeline).__call__).parameters["complex_human_instruction"]
    tokens, mask, _, _ = pipeline.encode_prompt(
        [text],
        do_classifier_free_guidance=False,
        complex_human_instruction=instruction.default if text else None,
    )
    return tokens, mask
