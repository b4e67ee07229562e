"""Text encoders T5 and CLIP, from a folder or a repository: E = encoder(text), (L, D)."""

from __future__ import annotations

import shlex
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
from expkit.storage.repository_errors import RepositoryErrors
from expkit.text.embedding_store import Embedding, Entry, Provenance

AT_ONCE = 16  # texts in one forward


@dataclass(frozen=True)
class Encoder(ABC):
    """Encodes texts. What it needs is loaded when it is needed, and freed after each use.

    Attributes:
        weights: a folder or an id of huggingface.co.
        dtype: auto, float32, bfloat16 or float16, of the network and of the embeddings.
        device: auto, cpu, cuda or mps.
        revision: a commit of the repository; None: the one on this machine, else the newest.
        cleaning: whether captions are cleaned before they are tokenised.
    """

    weights: str
    dtype: str = "float32"
    device: str = "cpu"
    revision: str | None = None

    cleaning: ClassVar[bool] = False
    model: ClassVar[str] = ""  # the model whose encoder it is, as model=… takes it; "": the default

    @property
    def model_arguments(self) -> str:
        """The arguments of a command that name the model and this encoder."""
        return f"model={self.model} model.encoder={shlex.quote(str(self.weights))}" if self.model else ""

    @property
    @abstractmethod
    def parts(self) -> tuple[str, ...]:
        """The folders that it needs."""

    @property
    @abstractmethod
    def length(self) -> int:
        """L, the number of tokens that it reads."""

    @abstractmethod
    def normal(self, text: str) -> str:
        """The normal form of a text: texts with the same normal form have the same embedding."""

    @abstractmethod
    def embeddings(self, texts: Sequence[str]) -> list[Embedding]:
        """The embeddings of texts that are in normal form, on the CPU."""

    @cached_property
    def repository(self) -> Repository:
        return Repository(str(self.weights), "model.encoder", "tokenizer/, text_encoder/")

    @property
    def name(self) -> str:
        """The name of the encoder in a `Provenance`."""
        return self.repository.called

    @cached_property
    def precision(self) -> str:
        """The name of the dtype, with "auto" resolved."""
        return devices.precision_of(self.dtype, devices.device_of(self.device))

    @property
    def at_hand(self) -> bool:
        """Whether its weights are on this machine."""
        return self.repository.at_hand(self.parts, self.revision)

    def may_have_made(self, entry: Entry) -> bool:
        """Whether this encoder may have made an embedding, judged without loading the encoder."""
        origin = entry.provenance
        own = (self.name, self.cleaning, self.precision)
        is_same = own == (origin.encoder, origin.cleaning, origin.dtype)
        return is_same and origin.revision.startswith(self.revision or "")

    @property
    def width(self) -> int | None:
        """D, the width of its embeddings; None if it is not known before it is loaded."""
        return None

    @cached_property
    def commit(self) -> str:
        """The commit of the repository, or a hash of the folder."""
        return self.repository.revision(self.parts, self.revision)

    @cached_property
    def provenance(self) -> Provenance:
        """The provenance of its embeddings; raises UserError if the encoder cannot be had."""
        return Provenance(self.name, self.commit, self.cleaning, self.precision, self.length)


@dataclass(frozen=True)
class SingleEncoder(Encoder):
    """One network with its tokenizer, in the folders `text_encoder` and `tokenizer`."""

    parts: ClassVar[tuple[str, ...]] = ("tokenizer", "text_encoder")

    @abstractmethod
    def network(self, **how) -> tuple:
        """The network, and the loading information of from_pretrained."""

    @abstractmethod
    def forward(self, network, ids: Tensor, mask: Tensor) -> Tensor:
        """Encode token ids (R, L), with their attention mask (R, L), as embeddings (R, L, D)."""

    @property
    def width(self) -> int | None:
        """D, the width of its embeddings; None if its configuration is not on this machine."""
        config = self.repository.optional("text_encoder") if self.at_hand else None
        return (config.get("d_model") or config.get("hidden_size")) if config else None

    @cached_property
    def tokenizer(self):
        """The tokenizer."""
        return self.repository.load(self.tokenizer_class(), self.commit, subfolder="tokenizer")

    @abstractmethod
    def tokenizer_class(self) -> type:
        """The class of the tokenizer."""

    def prepared(self, texts: Sequence[str]) -> list[str]:
        """The texts as the tokenizer gets them."""
        return [self.normal(text) for text in texts]

    def tokens(self, text: str) -> int:
        """The number of tokens of a text, with the special tokens."""
        return len(self._ids(text))

    def cut(self, text: str) -> str:
        """The end of a text that is beyond the encoder's length, or ""."""
        ids = self._ids(text)
        return self.tokenizer.decode(ids[self.length - 1 : -1]) if len(ids) > self.length else ""

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(self.prepared([text])[0], verbose=False).input_ids

    def embeddings(self, texts: Sequence[str]) -> list[Embedding]:
        embeddings = []
        for text, values in zip(texts, self.encode(texts), strict=True):
            length, width = values.shape
            tokens, cut = self.tokens(text), self.cut(text)
            entry = Entry(text, self.provenance, (length, width), tokens, cut)
            embeddings.append(Embedding(entry, values.clone()))
        return embeddings

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embeddings (N, L, D) in the encoder's dtype, on the CPU."""
        tokens = self.tokenizer(
            self.prepared(texts), padding="max_length", max_length=self.length, truncation=True,
            add_special_tokens=True, return_tensors="pt",
        )  # fmt: skip
        device = devices.device_of(self.device)
        network = self.loaded().to(device).eval()
        try:
            ids, masks = tokens.input_ids.split(AT_ONCE), tokens.attention_mask.split(AT_ONCE)
            values = [
                self.forward(network, rows.to(device), mask.to(device)).to("cpu", network.dtype)
                for rows, mask in zip(ids, masks, strict=True)
            ]
        finally:
            del network
            devices.release_memory()
        return check_finite(torch.cat(values), self.weights)

    def loaded(self):
        """Load the network, checked: wrong embeddings would stay in the store.

        Raises:
            UserError: weights are missing, or the tokenizer belongs to another encoder.
        """
        network, info = self.network(
            revision=self.commit, subfolder="text_encoder", dtype=getattr(torch, self.precision),
            output_loading_info=True,
            variants=("fp16", None) if self.precision == "float16" else (None,),
        )  # fmt: skip
        check_complete(info, self.repository.errors)
        check_tokenizer(network, self.tokenizer, self.repository.errors)
        return network


def check_complete(info: dict, errors: RepositoryErrors) -> None:
    """Raise UserError if weights are missing, by the loading information of from_pretrained."""
    if info["missing_keys"] or info["mismatched_keys"]:
        reason = f"{len(info['missing_keys']) or 'some'} of the encoder's weights are missing"
        raise errors.not_loaded(ValueError(reason))


def check_tokenizer(network, tokenizer, errors: RepositoryErrors) -> None:
    """Raise UserError if the tokenizer belongs to another encoder."""
    pieces, tokenizer_pieces = network.config.vocab_size, len(tokenizer)
    if 2 * tokenizer_pieces < pieces:
        reason = f"the tokenizer knows {tokenizer_pieces} pieces of text, the encoder {pieces}"
        raise errors.not_loaded(ValueError(reason))


def check_finite(values: Tensor, weights: str) -> Tensor:
    """Return embeddings unchanged; raises UserError if they are not finite."""
    if not values.isfinite().all():
        raise UserError(
            f"The encoder {weights} answers in {values.dtype} with numbers that are not finite: "
            "try bfloat16 or float32."
        )
    return values


@dataclass(frozen=True)
class T5(SingleEncoder):
    """DeepFloyd IF's text encoder: the last hidden state of T5 with the tokens' attention mask.

    Texts are in lower case. It equals diffusers' IFPipeline.encode_prompt.

    Attributes:
        cleaning: whether to clean captions as DeepFloyd IF does: see `clean_captions`.
    """

    cleaning: bool = False
    model: ClassVar[str] = "deepfloyd"
    length: ClassVar[int] = 77  # what IF was trained with; T5 itself reads more

    def normal(self, text: str) -> str:
        return text.lower().strip()

    def prepared(self, texts: Sequence[str]) -> list[str]:
        return clean_captions(texts) if self.cleaning else super().prepared(texts)

    def tokenizer_class(self):
        from transformers import T5Tokenizer

        return T5Tokenizer

    @cached_property
    def tokenizer(self):
        try:
            return super().tokenizer
        except UserError as reason:
            if find_spec("sentencepiece"):
                raise reason from None
            raise UserError(f"{reason} {SENTENCEPIECE}") from None

    def network(self, **how) -> tuple:
        from transformers import T5EncoderModel

        return self.repository.load(T5EncoderModel, **how)

    def forward(self, network, ids: Tensor, mask: Tensor) -> Tensor:
        return network(ids, attention_mask=mask)[0]


SENTENCEPIECE = (
    "A tokenizer that is a spiece.model needs a library that is not here: "
    "pip install sentencepiece."
)  # fmt: skip


def clean_captions(texts: Sequence[str]) -> list[str]:
    """Clean captions as diffusers does.

    Without the two libraries diffusers would not clean them, and would only log a warning.

    Raises:
        UserError: beautifulsoup4 or ftfy is not installed.
    """
    from diffusers import IFPipeline
    from diffusers.utils import is_bs4_available, is_ftfy_available

    if not (is_bs4_available() and is_ftfy_available()):
        raise UserError(
            "Cleaning captions needs two libraries that are not here: "
            "pip install beautifulsoup4 ftfy, or leave cleaning=false."
        )
    pipeline = object.__new__(IFPipeline)  # its networks are not needed
    return IFPipeline._text_preprocessing(pipeline, list(texts), clean_caption=True)


@dataclass(frozen=True)
class CLIPText(SingleEncoder):
    """Stable Diffusion's text encoder: the last hidden state of CLIP.

    It equals diffusers' StableDiffusionPipeline.encode_prompt.
    """

    model: ClassVar[str] = "stable_diffusion"

    @property
    def length(self) -> int:
        return self.tokenizer.model_max_length

    def normal(self, text: str) -> str:
        return text

    def tokenizer_class(self):
        from transformers import CLIPTokenizer

        return CLIPTokenizer

    def network(self, **how) -> tuple:
        from transformers import CLIPTextModel

        return self.repository.load(CLIPTextModel, **how)

    def forward(self, network, ids: Tensor, mask: Tensor) -> Tensor:
        uses_mask = getattr(network.config, "use_attention_mask", False)
        return network(ids, attention_mask=mask if uses_mask else None)[0]
