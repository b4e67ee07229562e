"""The prompt embeddings of a run: imported, from the store, or encoded once and then stored."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from expkit import errors
from expkit.errors import UserError, suggest
from expkit.text.embedding_store import (
    Embedding,
    Entry,
    Provenance,
    Store,
    StoreError,
    import_embeddings,
)
from expkit.text.encoders import Encoder


class Embeddings:
    """The embeddings (L, D) of all texts of a run.

    An embedding is looked up in `imported`, then in the store; the encoder makes the others. If
    the encoder is not on this machine, its earlier embeddings in the store still work, and so do
    imports that were copied into the store.

    Args:
        store: the store, in which new embeddings are kept.
        encoder: the text encoder; None, or one without weights: none.
        imported: a file of embeddings; None: none.
        warn: called with a message for mixed provenance, and for texts that were cut.

    Attributes:
        padded: whether embeddings of short texts end in zeros, which the network must mask.
    """

    padded: ClassVar[bool] = False

    def __init__(
        self,
        store: Store,
        encoder: Encoder | None = None,
        imported: str | Path | None = None,
        warn: Callable[[str], None] = errors.warn,
    ) -> None:
        self.store, self.imported, self.warn = store, imported, warn
        self.encoder = encoder if encoder and encoder.weights else None
        self.loaded: dict[str, Embedding] = {}
        self.warned: set[str] = set()

    def __call__(self, text: str) -> Tensor:
        """The embedding of a text, (L, D)."""
        if text not in self.loaded:
            self.prepare([*self.loaded, text])
        return self.loaded[text].values

    @property
    def widths(self) -> set[int]:
        """The widths D of the import's and the encoder's embeddings, as far as they are known."""
        width = self.resolved_encoder.width if self.resolved_encoder else None
        encoder_widths = set() if width is None else {width}
        return encoder_widths | {embedding.values.shape[-1] for embedding in self.imports.values()}

    def rows(self, texts: Sequence[str]) -> Tensor:
        """The embeddings of texts, (R, L, D)."""
        if not set(texts) <= set(self.loaded):
            self.prepare([*self.loaded, *texts])
        return torch.stack([self.loaded[text].values for text in texts])

    def conditions(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """All tensors of texts by name, (R, …): "tokens" (R, L, D), and what the encoder adds."""
        tokens = self.rows(texts)
        extra = [self.loaded[text].extra for text in texts]
        names = extra[0] if extra else {}
        return {"tokens": tokens, **{name: torch.stack([one[name] for one in extra]) for name in names}}

    def canonical_prompt(self, prompt: str) -> str:
        """The text whose embedding stands for a prompt."""
        return str(prompt)

    def substitutions(self, prompts: Iterable[str]) -> list[str]:
        """Notes on what is unknown in these prompts, and what replaces it."""
        return []

    @property
    def used(self) -> dict[str, Provenance]:
        """The provenance of each text of the run."""
        return {text: embedding.entry.provenance for text, embedding in self.loaded.items()}

    def prepare(
        self, texts: Iterable[str], make_room: Callable[[], None] = lambda: None
    ) -> list[str]:  # fmt: skip
        """Load or make the embeddings of all texts of a run, and drop those of other texts.

        Args:
            texts: all texts of the run.
            make_room: called before the encoder is loaded, only if there is something to encode.

        Returns:
            The texts that were encoded.

        Raises:
            UserError: the import cannot be read, a text has no embedding, or the shapes differ.
        """
        # Read the import even if it is not needed: a file that cannot be read is always an error.
        self.imports  # noqa: B018
        found = {text: self.loaded.get(text) or self.lookup(text) for text in texts}
        missing = [text for text, embedding in found.items() if embedding is None]
        if missing:
            make_room()
            found |= self.encode_or_import(missing)
        embeddings = {text: embedding for text, embedding in found.items() if embedding is not None}
        check_agreement(embeddings)
        self.loaded = embeddings
        self.remark()
        return [text for text in missing if not embeddings[text].entry.provenance.imported]

    def lookup(self, text: str) -> Embedding | None:
        """A text's embedding from the import, else from the store, else None."""
        embedding = self.imports.get(text) or self.imports.get(self.normal(text))
        if embedding or not self.origin:
            return embedding
        return self.store.get(self.normal(text), self.origin)

    def normal(self, text: str) -> str:
        """The normal form of a text, as in `Encoder.normal`."""
        return self.encoder.normal(text) if self.encoder else text.lower().strip()

    @cached_property
    def imports(self) -> dict[str, Embedding]:
        """The import's embeddings by text, and by the normal form of the text."""
        table = import_embeddings(self.imported) if self.imported else []
        by_normal_form = {self.normal(embedding.entry.text): embedding for embedding in table}
        return by_normal_form | {embedding.entry.text: embedding for embedding in table}

    @cached_property
    def resolved_encoder(self) -> Encoder | None:
        """The encoder; if not on this machine, at the revision of its newest stored embedding."""
        if self.encoder is None or self.encoder.at_hand:
            return self.encoder
        entry = self.store.newest(self.encoder.may_have_made)
        return replace(self.encoder, revision=entry.provenance.revision) if entry else self.encoder

    @cached_property
    def origin(self) -> Provenance | None:
        """The encoder's provenance; if not on this machine, that of its newest stored embedding."""
        encoder = self.resolved_encoder
        if encoder is None:
            return None
        entry = None if encoder.at_hand else self.store.newest(encoder.may_have_made)
        try:
            return entry.provenance if entry else encoder.provenance
        except UserError:  # is raised again when there is something to encode
            return None

    def encode_or_import(self, texts: Sequence[str]) -> dict[str, Embedding]:
        """Encode texts, or else take them from imports that were copied into the store."""
        try:
            return self.encode(texts)
        except StoreError:  # the encoder is at hand: imports would not help
            raise
        except UserError as reason:
            return self.from_stored_imports(texts, str(reason))

    def encode(self, texts: Sequence[str]) -> dict[str, Embedding]:
        """Encode texts in one batch and store their embeddings."""
        encoder = self.resolved_encoder
        if encoder is None:
            raise UserError("No encoder is named.")
        if encoder.at_hand:  # before what may take long
            self.store.check_writable()
        normal = list(dict.fromkeys(map(self.normal, texts)))
        embeddings = {one.entry.text: one for one in encoder.embeddings(normal)}
        for embedding in embeddings.values():
            self.store.put(embedding)
        return {text: embeddings[self.normal(text)] for text in texts}

    def from_stored_imports(self, texts: Sequence[str], reason: str) -> dict[str, Embedding]:
        """Texts from the newest imports in the store; `reason` says why they were not encoded."""
        stored = [entry for _, entry in self.store.newest_first()]
        newest = {entry.text: entry for entry in reversed(stored) if entry.provenance.imported}
        entries = {text: newest.get(text) or newest.get(self.normal(text)) for text in texts}
        embeddings = {}
        for text, entry in entries.items():
            embeddings[text] = entry and self.store.get(entry.text, entry.provenance)
        missing = [text for text, embedding in embeddings.items() if embedding is None]
        if missing:
            unreadable = [entries[text] for text in missing]  # gone or damaged behind its header
            readable = [entry for entry in stored if entry not in unreadable]
            if self.encoder and self.encoder.at_hand:  # and broken: what others encoded is no help
                readable = []
            model = self.encoder.model_arguments if self.encoder else ""
            raise missing_error(missing, readable, self.imports, reason, model)
        return embeddings

    def remark(self) -> None:
        """Warn of mixed provenance and of texts that were cut, once for each message."""
        origins = {str(provenance): text for text, provenance in reversed(self.used.items())}
        if len(origins) > 1:
            parts = [f"{text!r} is of {origin}" for origin, text in reversed(origins.items())]
            self.once(
                f"the embeddings of this run are of different provenance: {'; '.join(parts)}. "
                "Guidance compares them all the same."
            )
        for text, embedding in self.loaded.items():
            entry = embedding.entry
            if entry.cut:
                length = entry.provenance.length
                self.once(
                    f"the prompt {shorten(text)!r} has {entry.tokens} tokens, "
                    f"of which {length} are read; cut off: {entry.cut!r}"
                )

    def once(self, text: str) -> None:
        """Warn, unless the same message was given before."""
        if text not in self.warned:
            self.warned.add(text)
            self.warn(text)


def missing_error(
    texts: Sequence[str], stored: Sequence[Entry], given: Iterable[str], reason: str, model: str = ""
) -> UserError:
    """The error for texts without an embedding: the most similar text, and what to do.

    Args:
        texts: the texts, at least one.
        stored: the entries of the store, the newest first.
        given: the texts of the import.
        reason: why the texts were not encoded.
        model: the arguments that name the model, for the command that encodes.
    """
    origins = {entry.text: str(entry.provenance) for entry in reversed(stored)}  # the newest stays
    if texts[0] in origins:
        hint = f" The store has it of {origins[texts[0]]}."
    else:
        available = {text for text in (*given, *origins) if text}
        hint = suggest(texts[0], available, ' Did you mean "{}"?')
    more = f" and {len(texts) - 1} more" if len(texts) > 1 else ""
    return UserError(
        f"There is no embedding of {texts[0]!r}{more}.{hint} {reason} Encode where an encoder is "
        f"at hand, with {embed_command(texts, model)} export=FILE.safetensors, and name that file here: "
        "model.imported=FILE.safetensors."
    )


def check_agreement(found: dict[str, Embedding]) -> None:
    """Raise UserError if the embeddings differ in shape, or in the names of their tensors."""
    shapes = {tuple(embedding.values.shape): text for text, embedding in found.items()}
    if len(shapes) > 1:
        sizes = [f"{text!r} {length} × {width}" for (length, width), text in shapes.items()]
        raise UserError(
            f"The embeddings are of different size ({', '.join(sizes)}), so of different encoders: "
            "name the import that is this model's."
        )
    names = {frozenset(embedding.extra): text for text, embedding in found.items()}
    if len(names) > 1:
        having = [f"{text!r} {' and '.join(sorted({'tokens', *some}))}" for some, text in names.items()]
        raise UserError(
            f"The embeddings hold different things ({', '.join(having)}), so they are of different "
            "encoders: name the import that is this model's."
        )


def embed_command(texts: Sequence[str], model: str = "") -> str:
    """The shell command that encodes texts, at most the first eight, for a model's arguments."""
    quoted = ",".join(json.dumps(text, ensure_ascii=False) for text in texts[:8])
    start = " ".join(filter(None, ["python -m expkit", model, "task=embed"]))
    return f"{start} {shlex.quote(f'prompts=[{quoted}]')}"


def shorten(text: str, most: int = 48) -> str:
    """The text, cut to at most `most` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
