"""task=embed: the embedding store is filled, listed, exported, and takes what others have made."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from expkit.errors import UserError
from expkit.results.run_folder import Result
from expkit.storage.files import without_replacing
from expkit.text.embedding_store import Embedding, Entry, import_embeddings, write_embeddings
from expkit.text.prompt_embeddings import Embeddings, shorten


@dataclass(frozen=True, eq=False)
class Embed:
    """Have the embeddings of `prompts`, or of all that the store holds if there are none, and say what is known of them.

    embeddings: the model's, None where it reads no text. source: a file whose embeddings are copied into the store first.
    export: a .safetensors file that the embeddings are written to.
    """

    embeddings: Embeddings | None
    prompts: str | int | Sequence[str | int]
    model: str
    export: str | None = None
    source: str | None = None

    def __call__(self, result: Result) -> None:
        if self.embeddings is None:
            raise UserError(
                f"model={self.model} needs no embeddings: it reads no text. Give a model that does, such as model=deepfloyd."
            )
        if self.export:
            check_export(self.export)
        told = {entry: "imported" for entry in self.copied()}
        told |= (
            self.filled()
            if self.texts()
            else {e: "" for e in self.embeddings.store.list() if not self.source}
        )
        if self.export:
            self.exported(list(told))
        result.numbers |= {
            "store": str(self.embeddings.store.place),
            "encoded": sum(how == "encoded" for how in told.values()),
            "embeddings": [
                asdict(entry) | {"bytes": entry.bytes, "done": how or "there already"}
                for entry, how in told.items()
            ],
        }
        text = format_listing(told)
        (result.folder / "listing.txt").write_text(text, encoding="utf-8")
        print(text, end="")

    def texts(self) -> list[str]:
        prompts = [self.prompts] if isinstance(self.prompts, str | int) else self.prompts
        return list(dict.fromkeys(str(prompt) for prompt in prompts))

    def copied(self) -> list[Entry]:
        """What the source holds, once it is in the store."""
        given = import_embeddings(self.source) if self.source else []
        for embedding in given:
            self.embeddings.store.put(embedding)
        return [embedding.entry for embedding in given]

    def filled(self) -> dict[Entry, str]:
        """The entries of the prompts, and whether each was encoded now."""
        encoded = self.embeddings.prepare(self.texts())
        return {
            e.entry: "encoded" if text in encoded else "there already"
            for text, e in self.embeddings.held.items()
        }

    def exported(self, entries: Sequence[Entry]) -> None:
        held = {e.entry: e for e in self.embeddings.held.values()}
        found = [
            held.get(entry) or self.embeddings.store.get(entry.text, entry.provenance) for entry in entries
        ]
        embeddings = check_distinct([embedding for embedding in found if embedding])
        try:
            Path(self.export).parent.mkdir(parents=True, exist_ok=True)
            without_replacing(Path(self.export), lambda part: write_embeddings(part, embeddings))
        except FileExistsError:
            raise there_already(self.export) from None
        except OSError as error:
            raise UserError(
                f"export={self.export} cannot be written ({error.strerror}). Give another file."
            ) from None


def check_export(name: str) -> None:
    """Refuse what cannot be a new file, before anything is encoded."""
    if Path(name).suffix != ".safetensors" or Path(name).is_dir():
        raise UserError(f"export={name} does not fit: give a file whose name ends in .safetensors.")
    if os.path.lexists(name):
        raise there_already(name)


def there_already(name: str) -> UserError:
    return UserError(
        f"export={name} does not fit: this file is there already, and nothing is overwritten. Give another name, or remove it."
    )


def check_distinct(embeddings: Sequence[Embedding]) -> Sequence[Embedding]:
    """The embeddings, refused where there are none, or several of one text, of which a run could not choose."""
    texts = [embedding.entry.text for embedding in embeddings]
    if not texts:
        raise UserError(
            "There is nothing to export: the store is empty. Name what is to be encoded: prompts=[…]."
        )
    if twice := next((text for text in texts if texts.count(text) > 1), None):
        raise UserError(
            f"The store holds {twice!r} of several encoders; an export holds each text once. Name what is wanted: prompts=[…]."
        )
    return embeddings


def format_listing(told: dict[Entry, str]) -> str:
    """A line an embedding."""
    head = ("text", "encoder", "tokens", "shape", "size", "")
    rows = [head, *[listing_row(entry, how) for entry, how in told.items()]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n"
        for row in rows
    )


def listing_row(entry: Entry, how: str) -> tuple[str, ...]:
    tokens = "?" if entry.tokens is None else f"{entry.tokens} (cut)" if entry.cut else str(entry.tokens)
    shape = " × ".join(map(str, entry.shape))
    return (
        repr(shorten(entry.text)),
        str(entry.provenance),
        tokens,
        shape,
        f"{entry.bytes / 1000:.1f} kB",
        how,
    )
