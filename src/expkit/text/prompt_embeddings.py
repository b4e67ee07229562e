"""What a denoiser holds of the texts that a run asks for: each is taken from an import or the store, or encoded, once, ever."""

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
    """What a denoiser holds: the embedding of every text that a run asks for.

    It looks into `imported` (a file) first, then into the store, and asks the encoder for what neither has. Where the encoder is not at
    hand, what it has encoded before, and imports that were copied into the store, are still found. `used` says where each text of the
    run is from; embeddings of different provenance, and texts that were cut, are told to `warn`.
    padded: whether the rows of a short text end in zeros, which its network is told to pass over.
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
        """(L, D)"""
        if text not in self.held:
            self.prepare([*self.held, text])
        return self.held[text].values

    @property
    def widths(self) -> set[int]:
        """How wide the embeddings of its import and of its encoder are, as far as that is known."""
        encoder = {self.asked.width} - {None} if self.asked else set()
        return encoder | {embedding.values.shape[-1] for embedding in self.given.values()}

    def rows(self, texts: Sequence[str]) -> Tensor:
        """(R, L, D)"""
        if not set(texts) <= set(self.held):
            self.prepare([*self.held, *texts])
        return torch.stack([self.held[text].values for text in texts])

    def canonical_prompt(self, prompt: str) -> str:
        """The text that is asked with, for what a person wrote."""
        return str(prompt)

    def taken(self, prompts: Iterable[str]) -> list[str]:
        """What was not known in these prompts, and what it is taken for."""
        return []

    @property
    def used(self) -> dict[str, Provenance]:
        return {text: embedding.entry.provenance for text, embedding in self.held.items()}

    def prepare(self, texts: Iterable[str], make_room: Callable[[], None] = lambda: None) -> list[str]:
        """Have the embeddings of all the texts of a run, and of no others; which of them had to be encoded. Refuses what cannot be had.

        make_room: called where there is something to encode, before the encoder is loaded.
        """
        self.given  # noqa: B018  an import that cannot be read is refused, even where its texts are known from elsewhere
        found = {text: self.held.get(text) or self.found(text) for text in texts}
        missing = [text for text, embedding in found.items() if embedding is None]
        if missing:
            make_room()
            found |= self.obtained(missing)
        check_agreement(found)
        self.held = found
        self.remark()
        return [text for text in missing if not found[text].entry.provenance.imported]

    def found(self, text: str) -> Embedding | None:
        """A text's embedding from the import, else from the store."""
        given = self.given.get(text) or self.given.get(self.normal(text))
        return given or (self.store.get(self.normal(text), self.origin) if self.origin else None)

    def normal(self, text: str) -> str:
        return self.encoder.normal(text) if self.encoder else text.lower().strip()

    @cached_property
    def given(self) -> dict[str, Embedding]:
        """The import's embeddings by text."""
        table = import_embeddings(self.imported) if self.imported else []
        return {self.normal(e.entry.text): e for e in table} | {e.entry.text: e for e in table}

    @cached_property
    def asked(self) -> Encoder | None:
        """The encoder, of the revision that the store knows unless there is one on this machine."""
        if self.encoder is None or self.encoder.at_hand:
            return self.encoder
        known = self.store.newest(self.encoder.may_have_made)
        return replace(self.encoder, revision=known.provenance.revision) if known else self.encoder

    @cached_property
    def origin(self) -> Provenance | None:
        """The encoder's provenance; where it is not at hand, that of its newest embedding in the store."""
        known = self.asked and not self.asked.at_hand and self.store.newest(self.asked.may_have_made)
        try:
            return known.provenance if known else self.asked and self.asked.provenance
        except UserError:  # which is said when there is something to encode
            return None

    def obtained(self, texts: Sequence[str]) -> dict[str, Embedding]:
        """Encode texts; where that cannot be, take them from imports that were copied into the store."""
        try:
            return self.encoded(texts)
        except UserError as reason:
            return self.borrowed(texts, str(reason))

    def encoded(self, texts: Sequence[str]) -> dict[str, Embedding]:
        """Encode texts, all at once, and keep them."""
        if self.asked is None:
            raise UserError("No encoder is named.")
        normal = list(dict.fromkeys(map(self.normal, texts)))
        made = {}
        for text, values in zip(normal, self.asked.encode(normal), strict=True):
            entry = Entry(
                text,
                self.asked.provenance,
                tuple(values.shape),
                self.asked.tokens(text),
                self.asked.cut(text),
            )
            made[text] = Embedding(entry, values.clone())
        for embedding in made.values():
            self.store.put(embedding)
        return {text: made[self.normal(text)] for text in texts}

    def borrowed(self, texts: Sequence[str], reason: str) -> dict[str, Embedding]:
        """Texts from the newest imports in the store; `reason` says why they were not encoded."""
        known = [entry for _, entry in self.store.newest_first()]
        imports = {entry.text: entry for entry in reversed(known) if entry.provenance.imported}
        entries = {text: imports.get(text) or imports.get(self.normal(text)) for text in texts}
        if missing := [text for text, entry in entries.items() if entry is None]:
            raise missing_error(missing, known, self.given, reason)
        return {text: self.store.get(entry.text, entry.provenance) for text, entry in entries.items()}

    def remark(self) -> None:
        """Warn of mixed provenance and of texts that were cut, once each."""
        origins = {str(provenance): text for text, provenance in reversed(self.used.items())}
        if len(origins) > 1:
            parts = "; ".join(f"{text!r} is of {origin}" for origin, text in reversed(origins.items()))
            self.once(
                f"the embeddings of this run are of different provenance: {parts}. Guidance compares them all the same."
            )
        for text, entry in ((text, embedding.entry) for text, embedding in self.held.items()):
            if entry.cut:
                read = entry.provenance.length
                self.once(
                    f"the prompt {shorten(text)!r} has {entry.tokens} tokens, of which {read} are read; cut off: {entry.cut!r}"
                )

    def once(self, text: str) -> None:
        if text not in self.warned:
            self.warned.add(text)
            self.warn(text)


def missing_error(
    texts: Sequence[str], stored: Sequence[Entry], given: Iterable[str], reason: str
) -> UserError:
    """No embedding of these texts can be had; the nearest that could, and what to do."""
    others = {entry.text: str(entry.provenance) for entry in stored}
    known = {text for text in (*given, *others) if text}
    same = (
        f" The store has it of {others[texts[0]]}."
        if texts[0] in others
        else suggest(texts[0], known, ' Did you mean "{}"?')
    )
    more = f" and {len(texts) - 1} more" if len(texts) > 1 else ""
    return UserError(
        f"There is no embedding of {texts[0]!r}{more}.{same} {reason} Encode where an encoder is at hand, with {embed_command(texts)} "
        "export=FILE.safetensors, and name that file here: model.imported=FILE.safetensors."
    )


def check_agreement(found: dict[str, Embedding]) -> None:
    shapes = {tuple(embedding.values.shape): text for text, embedding in found.items()}
    if len(shapes) > 1:
        parts = ", ".join(f"{text!r} {length} × {width}" for (length, width), text in shapes.items())
        raise UserError(
            f"The embeddings are of different size ({parts}), so of different encoders: name the import that is this model's."
        )


def embed_command(texts: Sequence[str]) -> str:
    """The command that encodes texts, as a shell takes it."""
    quoted = ",".join(json.dumps(text, ensure_ascii=False) for text in texts[:8])
    return f"python -m expkit task=embed {shlex.quote(f'prompts=[{quoted}]')}"


def shorten(text: str, most: int = 48) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
