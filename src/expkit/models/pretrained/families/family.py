"""What all families of text-to-image models of diffusers have in common.

A family is what one pipeline of diffusers can load: its denoising network, its text encoders, and how
it passes the time and the condition to the network. Each family is one file of this folder.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from expkit.core.denoiser import Prediction
from expkit.errors import UserError
from expkit.models.pretrained.base import DeviceSpec, TextConditioned
from expkit.models.pretrained.configs import check_class, size_of
from expkit.storage.hub import Repository


class Family(TextConditioned):
    """A denoiser of a pipeline of diffusers.

    A subclass says which pipelines it stands for, and defines `encode_prompts` and `answer`. (`encode`
    is what every Denoiser has: it encodes images.) One that reads no text, whose `reads_text` is
    False, defines `canonical_prompt` and `condition` instead of `encode_prompts`.

    Args:
        repository: the model.
        embeddings: a `prompt_embeddings.Embeddings`; unused by a family that reads no text.
        machine: where and how it runs.
        size: side of its images in pixels; None: the size that it was trained on.

    Attributes:
        pipelines: the class names in model_index.json that this family stands for.
        part: the folder of the denoising network.
        networks: the class names that the network may have.
        reads_text: whether prompts are texts, which `encode_prompts` encodes.
        encoders: the names of the text encoders that it cannot do without.
        needs: the names of the tensors of a condition.
        config: the configuration of the network.
        shape: (C, H, W) of the state.
    """

    pipelines: ClassVar[tuple[str, ...]]
    part: ClassVar[str] = "transformer"
    networks: ClassVar[tuple[str, ...]]
    reads_text: ClassVar[bool] = True
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    needs: ClassVar[tuple[str, ...]] = ("tokens",)

    def __init__(
        self, repository: Repository, embeddings, machine: DeviceSpec, size: int | None = None
    ) -> None:  # fmt: skip
        self.config = repository.config(self.part)
        check_class(self.config, self.networks, repository.name)
        told = embeddings if self.reads_text else None
        super().__init__(repository, self.config, told, machine, self.part, self.needs)
        self.shape = self.state_shape(size)

    def state_shape(self, size: int | None) -> tuple[int, int, int]:
        """(C, H, W) of the state for images of side `size` in pixels; None: the trained size."""
        height, width = size_of(self.config, size)
        return (self.config["in_channels"], height, width)

    @classmethod
    def encode_prompts(cls, pipeline: Any, texts: Sequence[str]) -> dict[str, Tensor]:
        """The conditions of texts by the pipeline's own encode_prompt, on the pipeline's device.

        Args:
            pipeline: the pipeline with its text encoders and tokenizers only; the rest is None.
            texts: N texts. "" is the null prompt, as the pipeline encodes it where the user gives
                no negative prompt.

        Returns:
            Tensors (N, …) by name: "tokens" (N, L, D), and what else the family needs, such as
            "mask" (N, L) and "pooled" (N, P).
        """
        raise NotImplementedError(f"{cls.__name__} does not define encode_prompts")

    @classmethod
    def longest(cls, components: Collection[str]) -> tuple[str, int | None]:
        """The tokenizer that reads most of a text, and how many tokens it reads.

        Texts that are longer are cut, which is said.

        Args:
            components: the names of the text encoders and tokenizers that the model has.

        Returns:
            Name and number; None: the number in the configuration of the tokenizer.
        """
        return "tokenizer", None

    @abstractmethod
    def answer(self, x: Tensor, t: float, condition: Mapping[str, Tensor]) -> Prediction:
        """Run one forward pass.

        Args:
            x: state (R, C, H, W).
            t: level of the schedule, any real number.
            condition: what `encode_prompts` gives, one row for each row of x, on the network's device;
                floats are in the network's dtype.

        Returns:
            The native prediction, in expkit's parametrization: "flow" is x0 − noise.
        """

    def embed_guidance(self, strength: float) -> None:
        """Set the strength of the guidance that the network itself has as an input.

        Raises:
            UserError: it has no such input.
        """
        raise UserError(
            f"model.guidance={strength:g} does not fit: the network of "
            f"{self.network.repository.name} has no guidance as an input, as that of Flux dev has. "
            "Leave it out; gamma=… is the guidance by the null prompt."
        )

    def condition(self, prompts: Sequence[str]) -> Mapping[str, Tensor]:
        """The condition of the rows of these prompts."""
        return self.conditions([self.canonical_prompt(prompt) for prompt in prompts])

    def predict(self, x: Tensor, t: float, prompts: Sequence[str]) -> Prediction:
        return self.answer(x, t, self.condition(prompts))

    def row_times(self, x: Tensor, time: float) -> Tensor:
        """The time input of a transformer, (R,), for the rows of x (R, C, H, W)."""
        return torch.full((len(x),), time, device=self.device)


def with_null(texts: Sequence[str], rows: Tensor, null: Tensor) -> Tensor:
    """Rows (N, …) of texts, in which those of the null prompt "" are the rows of `null` (N, …)."""
    is_null = torch.tensor([not text for text in texts], device=rows.device)
    return torch.where(is_null.view(-1, *[1] * (rows.ndim - 1)), null, rows)
