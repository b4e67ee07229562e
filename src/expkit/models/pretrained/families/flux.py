"""Flux dev and schnell: flow matching on latents, told T5's tokens and CLIP's pooled text.

The network sees patches of 2 × 2 pixels of the latent as tokens with positions (0, row, column);
texts are at (0, 0, 0). It takes sigma as its time and answers noise − x0.

Flux dev was distilled from a model with guidance, and its strength is an input of the network:
`guidance`. Schnell has no such input. Guidance by a null or negative prompt, which diffusers calls
true_cfg_scale, is expkit's gamma; with gamma = 1 there is none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from expkit.core.denoiser import Prediction
from expkit.core.timesteps import resolution_shift
from expkit.models.pretrained.base import DeviceSpec
from expkit.models.pretrained.families.latent import Latent, latent_side
from expkit.storage.hub import Repository

PATCH = 2  # pixels of the latent
GUIDANCE = 3.5  # the default of diffusers' pipeline


class Flux(Latent):
    """A network of Flux.

    Attributes:
        guidance: the strength that the network has as an input; None if it has no such input.
    """

    pipelines: ClassVar[tuple[str, ...]] = ("FluxPipeline",)
    networks: ClassVar[tuple[str, ...]] = ("FluxTransformer2DModel",)
    needs: ClassVar[tuple[str, ...]] = ("tokens", "pooled")
    length: ClassVar[int] = 512  # tokens that encode_prompt gives to T5
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder", "text_encoder_2")

    def __init__(
        self, repository: Repository, embeddings, machine: DeviceSpec, size: int | None = None
    ) -> None:  # fmt: skip
        super().__init__(repository, embeddings, machine, size)
        self.guidance = GUIDANCE if self.config.get("guidance_embeds") else None
        scheduler = repository.config("scheduler")
        if scheduler.get("use_dynamic_shifting"):
            self.schedule = replace(self.schedule, shift=self.shift_of_times(scheduler))

    def shift_of_times(self, scheduler: Mapping[str, Any]) -> float:
        """How far times are shifted towards noise for images of this size."""
        _, height, width = self.shape
        return resolution_shift(
            (height // PATCH) * (width // PATCH),
            scheduler.get("base_image_seq_len", 256),
            scheduler.get("max_image_seq_len", 4096),
            scheduler.get("base_shift", 0.5),
            scheduler.get("max_shift", 1.15),
        )

    def embed_guidance(self, strength: float) -> None:
        if self.guidance is None:
            super().embed_guidance(strength)
        self.guidance = strength

    def state_shape(self, size: int | None) -> tuple[int, int, int]:
        """See `Latent.state_shape`; raises UserError if the image is not of whole patches."""
        if size:
            latent_side(size, PATCH * self.factor)
        return super().state_shape(size)

    def trained_sides(self) -> tuple[int, int]:
        """(H, W) of the latents of images as large as its autoencoder was trained on."""
        side = self.vae_config.get("sample_size", 1024) // self.factor
        return (side, side)

    @classmethod
    def encode_prompts(cls, pipeline: Any, texts: Sequence[str]) -> dict[str, Tensor]:
        """{"tokens": (N, 512, D), "pooled": (N, P)}."""
        tokens, pooled, _ = pipeline.encode_prompt(list(texts))
        return {"tokens": tokens, "pooled": pooled}

    @classmethod
    def longest(cls, components: Collection[str]) -> tuple[str, int | None]:
        return "tokenizer_2", cls.length

    def answer(self, x: Tensor, t: float, condition: Mapping[str, Tensor]) -> Prediction:
        """Run one forward pass; see `Family.answer`."""
        tokens, dtype = condition["tokens"], self.network.machine.dtype
        patches = F.pixel_unshuffle(x, PATCH)
        # In half precision diffusers' pipeline also rounds the time before it divides.
        time = torch.full((len(x),), t + 1.0, device=self.device, dtype=dtype) / 1000
        strength = self.guidance
        if strength is not None:
            strength = torch.full((len(x),), strength, device=self.device)
        velocity = self.network(
            patches.flatten(2).mT.contiguous(),
            timestep=time,
            guidance=strength,
            encoder_hidden_states=tokens,
            pooled_projections=condition["pooled"],
            txt_ids=self.positions.new_zeros(tokens.shape[1], 3),
            img_ids=self.positions,
        )
        velocity = velocity.mT.unflatten(2, patches.shape[2:])
        return Prediction(-F.pixel_shuffle(velocity, PATCH))

    @cached_property
    def positions(self) -> Tensor:
        """(0, row, column) of each patch, (H/2 · W/2, 3)."""
        rows, columns = (torch.arange(side // PATCH, device=self.device) for side in self.shape[1:])
        grid = torch.cartesian_prod(torch.zeros_like(rows[:1]), rows, columns)
        return grid.float()
