"""Stable Diffusion 3 and 3.5 (Esser et al. 2024): flow matching on latents, three text encoders.

The network takes 1000 · sigma as its time and answers noise − x0. Two encoders are CLIP's, one is
T5. In training each was left out at random, as zeros; so a repository may be without it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from expkit.core.denoiser import Prediction
from expkit.errors import UserError
from expkit.models.pretrained.families.latent import Latent, latent_side
from expkit.storage.hub import Repository


class StableDiffusion3(Latent):
    """A network of Stable Diffusion 3, conditioned on tokens and on pooled text."""

    pipelines: ClassVar[tuple[str, ...]] = ("StableDiffusion3Pipeline",)
    networks: ClassVar[tuple[str, ...]] = ("SD3Transformer2DModel",)
    encoders: ClassVar[tuple[str, ...]] = ()  # any of them may be missing
    needs: ClassVar[tuple[str, ...]] = ("tokens", "pooled")
    length: ClassVar[int] = 256  # tokens that encode_prompt gives to T5

    def state_shape(self, size: int | None) -> tuple[int, int, int]:
        """See `Latent.state_shape`; UserError if the network has no positions for the size."""
        patch = self.config.get("patch_size", 2) * self.factor
        most = self.config.get("pos_embed_max_size", 96) * patch
        if size and latent_side(size, patch) > most // patch:
            raise UserError(
                f"model.size={size} does not fit: this model's pictures are at most {most} pixels "
                f"wide, in multiples of {patch}."
            )
        return super().state_shape(size)

    @classmethod
    def encode_prompts(cls, pipeline: Any, texts: Sequence[str]) -> dict[str, Tensor]:
        """{"tokens": (N, 77 + 256, D), "pooled": (N, P)}; zeros where an encoder is missing."""
        stand_in_for_missing(pipeline)
        tokens, _, pooled, _ = pipeline.encode_prompt(
            list(texts), None, None, do_classifier_free_guidance=False
        )
        return {"tokens": tokens, "pooled": pooled}

    @classmethod
    def longest(cls, components: Collection[str]) -> tuple[str, int | None]:
        if "tokenizer_3" in components:
            return "tokenizer_3", cls.length
        return ("tokenizer" if "tokenizer" in components else "tokenizer_2"), None

    def answer(self, x: Tensor, t: float, condition: Mapping[str, Tensor]) -> Prediction:
        """Run one forward pass; see `Family.answer`."""
        velocity = self.network(
            x,
            timestep=self.row_times(x, t + 1.0),
            encoder_hidden_states=condition["tokens"],
            pooled_projections=condition["pooled"],
        )
        return Prediction(-velocity)


class ZeroOutput(NamedTuple):
    """What `ZeroCLIP` answers; fields are where encode_prompt looks for them.

    Attributes:
        pooled: (N, W).
        hidden_states: those of the last two layers, (N, L, W).
    """

    pooled: Tensor
    hidden_states: tuple[Tensor, Tensor]


class ZeroCLIP(nn.Module):
    """Stands for a CLIP text encoder that a model is without: all that it answers is zero.

    Args:
        width: W of its answers.
        dtype: of its answers.
        device: where encode_prompt puts what it makes.
    """

    def __init__(self, width: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.width, self.dtype, self.device = width, dtype, device

    def forward(self, ids: Tensor, output_hidden_states: bool = True) -> ZeroOutput:
        tokens = torch.zeros(*ids.shape, self.width, dtype=self.dtype, device=ids.device)
        return ZeroOutput(tokens[:, 0], (tokens, tokens))


def no_tokens(texts: Sequence[str], max_length: int = 1, **_: Any) -> SimpleNamespace:
    """Stands for the tokenizer of `ZeroCLIP`, which reads nothing."""
    return SimpleNamespace(input_ids=torch.zeros(len(texts), max_length, dtype=torch.long))


def stand_in_for_missing(pipeline: Any) -> None:
    """Give a pipeline what its encode_prompt needs where encoders are missing.

    Without T5 it asks the network how wide T5's zeros are; without CLIP it does not work at all.

    Args:
        pipeline: the pipeline, with or without the network; it is changed.

    Raises:
        UserError: it has no text encoder at all.
    """
    encoders = {suffix: getattr(pipeline, f"text_encoder{suffix}") for suffix in ("", "_2", "_3")}
    present = [encoder for encoder in encoders.values() if encoder is not None]
    if len(present) == len(encoders):
        return
    if not present:
        raise UserError(
            f"{pipeline.name_or_path} has no text encoder, so it cannot encode a prompt. Give a "
            "model with text_encoder, text_encoder_2 or text_encoder_3 in it, or encoded prompts "
            "with model.imported=FILE."
        )
    if pipeline.transformer is None:
        config = Repository(str(pipeline.name_or_path)).config("transformer")
        pipeline.transformer = SimpleNamespace(config=SimpleNamespace(**config))
    clips = {suffix: encoders[suffix] for suffix in ("", "_2")}
    known = sum(clip.config.projection_dim for clip in clips.values() if clip is not None)
    width = pipeline.transformer.config.pooled_projection_dim - known
    for suffix in [suffix for suffix, clip in clips.items() if clip is None]:
        zeros = ZeroCLIP(width, present[0].dtype, present[0].device)
        setattr(pipeline, f"text_encoder{suffix}", zeros)
        setattr(pipeline, f"tokenizer{suffix}", no_tokens)
        width = 0  # where both are missing, the first stands for both
