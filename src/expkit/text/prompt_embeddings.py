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
from expkit.text.embedding_store import Embedding, Entry, Provenance, Store, import_embeddings
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
        self.held: dict[str, Embedding] = {}
        self.warned: set[str] = set()

    def __call__(self, text: str) -> Tensor:
        """The embedding of a text, (L, D)."""
        if text not in self.held:
            self.prepare([*self.held, text])
        return self.held[text].values

    @property
    def widths(self) -> set[int]:
        """The widths D of the import's and the encoder's embeddings, as far as they are known."""
        encoder_widths = {self.asked.width} - {None} if self.asked else set()
        return encoder_widths | {embedding.values.shape[-1] for embedding in self.given.values()}

    def rows(self, texts: Sequence[str]) -> Tensor:
        """The embeddings of texts, (R, L, D)."""
        if not set(texts) <= set(self.held):
            self.prepare([*self.held, *texts])
        return torch.stack([self.held[text].values for text in texts])

    def canonical_prompt(self, prompt: str) -> str:
        """The text whose embedding stands for a prompt."""
        return str(prompt)

    def taken(self, prompts: Iterable[str]) -> list[str]:
        """Notes on what is unknown in these prompts, and what replaces it."""
        return []

    @property
    def used(self) -> dict[str, Provenance]:
        """The provenance of each text of the run."""
        return {text: embedding.entry.provenance for text, embedding in self.held.items()}

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
        self.given  # noqa: B018
        embeddings = {text: self.held.get(text) or self.found(text) for text in texts}
        missing = [text for text, embedding in embeddings.items() if embedding is None]
        if missing:
            make_room()
            embeddings |= self.obtained(missing)
        check_agreement(embeddings)
        self.held = embeddings
        self.remark()
        return [text for text in missing if not embeddings[text].entry.provenance.imported]

    def found(self, text: str) -> Embedding | None:
        """A text's embedding from the import, else from the store, else None."""
        embedding = self.given.get(text) or self.given.get(self.normal(text))
        if embedding or not self.origin:
            return embedding
        return self.store.get(self.normal(text), self.origin)

    def normal(self, text: str) -> str:
        """The normal form of a text, as in `Encoder.normal`."""
        return self.encoder.normal(text) if self.encoder else text.lower().strip()

    @cached_property
    def given(self) -> dict[str, Embedding]:
        """The import's embeddings by text, and by the normal form of the text."""
        table = import_embeddings(self.imported) if self.imported else []
        by_normal_form = {self.normal(embedding.entry.text): embedding for embedding in table}
        return by_normal_form | {embedding.entry.text: embedding for embedding in table}

    @cached_property
    def asked(self) -> Encoder | None:
        """The encoder; if not on this machine, at the revision of its newest stored embedding."""
        if self.encoder is None or self.encoder.at_hand:
            return self.encoder
        entry = self.store.newest(self.encoder.may_have_made)
        return replace(self.encoder, revision=entry.provenance.revision) if entry else self.encoder

    @cached_property
    def origin(self) -> Provenance | None:
        """The encoder's provenance; if not on this machine, that of its newest stored embedding."""
        if self.asked is None:
            return None
        entry = None if self.asked.at_hand else self.store.newest(self.asked.may_have_made)
        try:
            return entry.provenance if entry else self.asked.provenance
        except UserError:  # is raised again when there is something to encode
            return None

    def obtained(self, texts: Sequence[str]) -> dict[str, Embedding]:
        """Encode texts, or else take them from imports that were copied into the store."""
        try:
            return self.encoded(texts)
        except UserError as reason:
            return self.borrowed(texts, str(reason))

    def encoded(self, texts: Sequence[str]) -> dict[str, Embedding]:
        """Encode texts in one batch and store their embeddings."""
        if self.asked is None:
            raise UserError("No encoder is named.")
        normal = list(dict.fromkeys(map(self.normal, texts)))
        embeddings = {}
        for text, values in zip(normal, self.asked.encode(normal), strict=True):
            entry = Entry(
                text,
                self.asked.provenance,
                tuple(values.shape),
                self.asked.tokens(text),
                self.asked.cut(text),
            )
            embeddings[text] = Embedding(entry, values.clone())
        for embedding in embeddings.values():
            self.store.put(embedding)
        return {text: embeddings[self.normal(text)] for text in texts}

    def borrowed(self, texts: Sequence[str], reason: str) -> dict[str, Embedding]:
        """Texts from the newest imports in the store; `reason` says why they were not encoded."""
        stored = [entry for _, entry in self.store.newest_first()]
        imports = {entry.text: entry for entry in reversed(stored) if entry.provenance.imported}
        entries = {text: imports.get(text) or imports.get(self.normal(text)) for text in texts}
        if missing := [text for text, entry in entries.items() if entry is None]:
            raise missing_error(missing, stored, self.given, reason)
        get = self.store.get
        return {text: get(entry.text, entry.provenance) for text, entry in entries.items()}

    def remark(self) -> None:
        """Warn of mixed provenance and of texts that were cut, once for each message."""
        origins = {str(provenance): text for text, provenance in reversed(self.used.items())}
        if len(origins) > 1:
            parts = [f"{text!r} is of {origin}" for origin, text in reversed(origins.items())]
            self.once(
                f"the embeddings of this run are of different provenance: {'; '.join(parts)}. "
                "Guidance compares them all the same."
            )
        for text, embedding in self.held.items():
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
    texts: Sequence[str], stored: Sequence[Entry], given: Iterable[str], reason: str
) -> UserError:
    """The error for texts without an embedding: the most similar text, and what to do.

    Args:
        texts: the texts, at least one.
        stored: all entries of the store.
        given: the texts of the import.
        reason: why the texts were not encoded.
    """
    origins = {entry.text: str(entry.provenance) for entry in stored}
    if texts[0] in origins:
        hint = f" The store has it of {origins[texts[0]]}."
    else:
        available = {text for text in (*given, *origins) if text}
        hint = suggest(texts[0], available, ' Did you mean "{}"?')
    more = f" and {len(texts) - 1} more" if len(texts) > 1 else ""
    return UserError(
        f"There is no embedding of {texts[0]!r}{more}.{hint} {reason} Encode where an encoder is "
        f"at hand, with {embed_command(texts)} export=FILE.safetensors, and name that file here: "
        "model.imported=FILE.safetensors."
    )


def check_agreement(found: dict[str, Embedding]) -> None:
    """Raise UserError if the embeddings differ in shape."""
    shapes = {tuple(embedding.values.shape): text for text, embedding in found.items()}
    if len(shapes) > 1:
        sizes = [f"{text!r} {length} × {width}" for (length, width), text in shapes.items()]
        raise UserError(
            f"The embeddings are of different size ({', '.join(sizes)}), so of different encoders: "
            "name the import that is this model's."
        )


def embed_command(texts: Sequence[str]) -> str:
    """The shell command that encodes texts, at most the first eight."""
    quoted = ",".join(json.dumps(text, ensure_ascii=False) for text in texts[:8])
    return f"python -m expkit task=embed {shlex.quote(f'prompts=[{quoted}]')}"


def shorten(text: str, most: int = 48) -> str:
    """The text, cut to at most `most` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
