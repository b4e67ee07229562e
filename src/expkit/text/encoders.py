"""What turns texts into embeddings: T5 and CLIP's text encoder, each of a folder or a repository.

E = encoder(text)  (L, D)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import ClassVar

import torch
from torch import Tensor

from expkit.errors import UserError
from expkit.storage import devices
from expkit.storage.hub import Repository
from expkit.text.embedding_store import Entry, Provenance

AT_ONCE = 16  # texts a forward


@dataclass(frozen=True)
class Encoder(ABC):
    """Turns texts into embeddings. Nothing is loaded before it is needed, and the network is freed after each use.

    weights: a folder or a repository with `tokenizer` and `text_encoder` in it. dtype: float32, float16, bfloat16 or auto.
    """

    weights: str
    dtype: str = "float32"
    device: str = "cpu"
    revision: str | None = None

    cleaning: ClassVar[bool] = False
    parts: ClassVar[tuple[str, ...]] = ("tokenizer", "text_encoder")

    @property
    @abstractmethod
    def length(self) -> int:
        """How many tokens it reads."""

    @abstractmethod
    def normal(self, text: str) -> str:
        """What texts with one embedding have in common."""

    @abstractmethod
    def network(self, **how) -> tuple:
        """The network and what was said when it was loaded."""

    @abstractmethod
    def ask(self, network, ids: Tensor, mask: Tensor) -> Tensor:
        """Tokens (R, L) -> embeddings (R, L, D)."""

    @cached_property
    def repository(self) -> Repository:
        return Repository(str(self.weights), "model.encoder", "tokenizer/, text_encoder/")

    @property
    def name(self) -> str:
        return self.repository.called

    @cached_property
    def precision(self) -> str:
        return devices.precision_of(self.dtype, devices.device_of(self.device))

    @property
    def at_hand(self) -> bool:
        return self.repository.at_hand(self.parts, self.revision)

    def may_have_made(self, entry: Entry) -> bool:
        """Whether an embedding may be this encoder's, as far as can be told without it."""
        of = entry.provenance
        same = (self.name, self.cleaning, self.precision) == (of.encoder, of.cleaning, of.dtype)
        return same and of.revision.startswith(self.revision or "")

    @property
    def width(self) -> int | None:
        """How wide its embeddings are, None where that cannot be told on this machine."""
        config = self.repository.optional("text_encoder") if self.at_hand else None
        return config and (config.get("d_model") or config.get("hidden_size"))

    @cached_property
    def commit(self) -> str:
        return self.repository.revision(self.parts, self.revision)

    @cached_property
    def provenance(self) -> Provenance:
        """Raises UserError where the encoder is not at hand."""
        return Provenance(self.name, self.commit, self.cleaning, self.precision, self.length)

    @cached_property
    def tokenizer(self):
        return self.repository.load(self.tokenizers(), self.commit, subfolder="tokenizer")

    @abstractmethod
    def tokenizers(self):
        """The class of its tokenizer."""

    def prepared(self, texts: Sequence[str]) -> list[str]:
        """The texts as they are given to the tokenizer."""
        return [self.normal(text) for text in texts]

    def tokens(self, text: str) -> int:
        """How many tokens a text has, the special ones included."""
        return len(self._ids(text))

    def cut(self, text: str) -> str:
        """The end of a text of more tokens than the encoder reads."""
        ids = self._ids(text)
        return self.tokenizer.decode(ids[self.length - 1 : -1]) if len(ids) > self.length else ""

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(self.prepared([text])[0], verbose=False).input_ids

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """(N, L, D) in the encoder's dtype, on the CPU."""
        read = self.tokenizer(
            self.prepared(texts), padding="max_length", max_length=self.length, truncation=True, add_special_tokens=True,
            return_tensors="pt",
        )  # fmt: skip
        device = devices.device_of(self.device)
        network = self.loaded().to(device).eval()
        try:
            rows = zip(read.input_ids.split(AT_ONCE), read.attention_mask.split(AT_ONCE), strict=True)
            values = [
                self.ask(network, ids.to(device), mask.to(device)).to("cpu", network.dtype)
                for ids, mask in rows
            ]
        finally:
            del network
            devices.release_memory()
        return check_finite(torch.cat(values), self.weights)

    def loaded(self):
        """The network; one that lacks weights, or whose tokenizer is not its own, is refused: its embeddings would be kept for ever."""
        network, said = self.network(
            revision=self.commit, subfolder="text_encoder", dtype=getattr(torch, self.precision), output_loading_info=True,
            variants=("fp16", None) if self.precision == "float16" else (None,),
        )  # fmt: skip
        if said["missing_keys"] or said["mismatched_keys"]:
            raise self.repository.refusal(
                ValueError(f"{len(said['missing_keys']) or 'some'} of the encoder's weights are missing")
            )
        pieces, known = network.config.vocab_size, len(self.tokenizer)
        if 2 * known < pieces:
            raise self.repository.refusal(
                ValueError(f"the tokenizer knows {known} pieces of text, the encoder {pieces}")
            )
        return network


def check_finite(values: Tensor, weights: str) -> Tensor:
    if not values.isfinite().all():
        raise UserError(
            f"The encoder {weights} answers in {values.dtype} with numbers that are not finite: try bfloat16 or float32."
        )
    return values


@dataclass(frozen=True)
class T5(Encoder):
    """DeepFloyd IF's: lower-cased text, the last hidden state of T5 under the tokens' mask, as diffusers' IFPipeline.encode_prompt."""

    cleaning: bool = False
    length: ClassVar[int] = 77  # what IF was trained with; T5 itself reads more

    def normal(self, text: str) -> str:
        return text.lower().strip()

    def prepared(self, texts: Sequence[str]) -> list[str]:
        return clean_captions(texts) if self.cleaning else super().prepared(texts)

    def tokenizers(self):
        from transformers import T5Tokenizer

        return T5Tokenizer

    @cached_property
    def tokenizer(self):
        try:
            return super().tokenizer
        except UserError as reason:
            raise reason if find_spec("sentencepiece") else UserError(f"{reason} {SENTENCEPIECE}") from None

    def network(self, **how) -> tuple:
        from transformers import T5EncoderModel

        return self.repository.load(T5EncoderModel, **how)

    def ask(self, network, ids: Tensor, mask: Tensor) -> Tensor:
        return network(ids, attention_mask=mask)[0]


SENTENCEPIECE = (
    "A tokenizer that is a spiece.model needs a library that is not here: pip install sentencepiece."
)


def clean_captions(texts: Sequence[str]) -> list[str]:
    """diffusers' own cleaning of captions, which without its libraries would do nothing and say so only in passing."""
    from diffusers import IFPipeline
    from diffusers.utils import is_bs4_available, is_ftfy_available

    if not (is_bs4_available() and is_ftfy_available()):
        raise UserError(
            "Cleaning captions needs two libraries that are not here: pip install beautifulsoup4 ftfy, or leave cleaning=false."
        )
    return IFPipeline._text_preprocessing(object.__new__(IFPipeline), list(texts), clean_caption=True)


@dataclass(frozen=True)
class CLIPText(Encoder):
    """Stable Diffusion's: CLIP's last hidden state, as diffusers' StableDiffusionPipeline.encode_prompt."""

    @property
    def length(self) -> int:
        return self.tokenizer.model_max_length

    def normal(self, text: str) -> str:
        return text

    def tokenizers(self):
        from transformers import CLIPTokenizer

        return CLIPTokenizer

    def network(self, **how) -> tuple:
        from transformers import CLIPTextModel

        return self.repository.load(CLIPTextModel, **how)

    def ask(self, network, ids: Tensor, mask: Tensor) -> Tensor:
        return network(
            ids, attention_mask=mask if getattr(network.config, "use_attention_mask", False) else None
        )[0]
