"""task=embed: fill, list, import into and export from the store of prompt embeddings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from expkit.errors import UserError
from expkit.results.run_folder import RunFolder
from expkit.storage.files import without_replacing
from expkit.text.embedding_store import Embedding, Entry, import_embeddings, write_embeddings
from expkit.text.prompt_embeddings import Embeddings, shorten


@dataclass(frozen=True, eq=False)
class Embed:
    """Store the embeddings of `prompts` and list them; without prompts, list what the store has.

    Args:
        embeddings: those of the model; None where it reads no text, which is refused.
        model: the name of the model, for the error.
        export: a new .safetensors file that the listed embeddings are written to.
        source: a file whose embeddings are first copied into the store. With a source and without
            prompts, only these are listed.
    """

    embeddings: Embeddings | None
    prompts: str | int | Sequence[str | int]
    model: str
    export: str | None = None
    source: str | None = None

    def __call__(self, result: RunFolder) -> None:
        store = self.needed.store
        if self.export:
            check_export(self.export)
        status = {entry: "imported" for entry in self.import_source()}
        if self.texts():
            status |= self.encode()
        elif not self.source:
            status |= {entry: "" for entry in store.list()}
        if self.export:
            self.export_file(self.export, list(status))
        result.numbers |= {
            "store": str(store.place),
            "encoded": sum(action == "encoded" for action in status.values()),
            "embeddings": [
                asdict(entry) | {"bytes": entry.bytes, "done": action or "there already"}
                for entry, action in status.items()
            ],
        }
        text = format_listing(status)
        (result.folder / "listing.txt").write_text(text, encoding="utf-8")
        print(text, end="")

    @property
    def needed(self) -> Embeddings:
        """The embeddings of the model.

        Raises:
            UserError: it needs none.
        """
        if self.embeddings is None:
            raise UserError(
                f"model={self.model} needs no embeddings: it reads no text. "
                "Give a model that does, such as model=deepfloyd."
            )
        return self.embeddings

    def texts(self) -> list[str]:
        """The distinct prompts, as text."""
        prompts = [self.prompts] if isinstance(self.prompts, str | int) else self.prompts
        return list(dict.fromkeys(str(prompt) for prompt in prompts))

    def import_source(self) -> list[Entry]:
        """Copy the embeddings of the source into the store; their entries."""
        embeddings = import_embeddings(self.source) if self.source else []
        for embedding in embeddings:
            self.needed.store.put(embedding)
        return [embedding.entry for embedding in embeddings]

    def encode(self) -> dict[Entry, str]:
        """Prepare the prompts' embeddings; {entry: "encoded" or "there already"}."""
        new_texts = self.needed.prepare(self.texts())
        return {
            embedding.entry: "encoded" if text in new_texts else "there already"
            for text, embedding in self.needed.loaded.items()
        }

    def export_file(self, export: str, entries: Sequence[Entry]) -> None:
        """Write the embeddings of these entries to the export file; an existing file is refused."""
        loaded, store = self.needed.loaded, self.needed.store
        in_memory = {embedding.entry: embedding for embedding in loaded.values()}
        found = (in_memory.get(entry) or store.get(entry.text, entry.provenance) for entry in entries)
        embeddings = check_distinct([embedding for embedding in found if embedding])
        try:
            Path(export).parent.mkdir(parents=True, exist_ok=True)
            without_replacing(Path(export), lambda part: write_embeddings(part, embeddings))
        except FileExistsError:
            raise there_already(export) from None
        except OSError as error:
            raise UserError(
                f"export={export} cannot be written ({error.strerror}). Give another file."
            ) from None


def check_export(name: str) -> None:
    """Refuse a name that cannot be a new .safetensors file, before anything is encoded."""
    if Path(name).suffix != ".safetensors" or Path(name).is_dir():
        raise UserError(f"export={name} does not fit: give a file whose name ends in .safetensors.")
    if os.path.lexists(name):
        raise there_already(name)


def there_already(name: str) -> UserError:
    """The error for an export file that already exists."""
    return UserError(
        f"export={name} does not fit: this file is there already, and nothing is overwritten. "
        "Give another name, or remove it."
    )


def check_distinct(embeddings: Sequence[Embedding]) -> Sequence[Embedding]:
    """The embeddings. Refused if there are none, or several of one text: a run could not choose."""
    texts = [embedding.entry.text for embedding in embeddings]
    if not texts:
        reason = "There is nothing to export: the store is empty."
        raise UserError(f"{reason} Name what is to be encoded: prompts=[…].")
    if duplicate := next((text for text in texts if texts.count(text) > 1), None):
        raise UserError(
            f"The store holds {duplicate!r} of several encoders; an export holds each text once. "
            "Name what is wanted: prompts=[…]."
        )
    return embeddings


def format_listing(told: dict[Entry, str]) -> str:
    """A table with a line per embedding. told: {entry: what was done with it}."""
    head = ("text", "encoder", "tokens", "shape", "size", "")
    rows = [head, *[listing_row(entry, action) for entry, action in told.items()]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip() + "\n")
    return "".join(lines)


def listing_row(entry: Entry, how: str) -> tuple[str, ...]:
    """The cells of a line. how: what was done with the embedding."""
    if entry.tokens is None:
        tokens = "?"
    else:
        tokens = f"{entry.tokens} (cut)" if entry.cut else str(entry.tokens)
    shape = " × ".join(map(str, entry.shape))
    size = f"{entry.bytes / 1000:.1f} kB"
    return repr(shorten(entry.text)), str(entry.provenance), tokens, shape, size, how
