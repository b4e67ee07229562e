"""Text embeddings on disk: in the store, in exports, in a model's file, and imported ones.

The store has one safetensors file for each embedding E (L, D). Its name is
sha256(text; encoder, revision, cleaning, dtype, length). An export has several embeddings. What an
encoder answers beside E, such as the pooled text or a mask, is in the same file under its name.

The prompt_embeds_dict.pth of UC Berkeley CS180 project 5, and files like it, can be imported: they
are read as data, nothing is unpickled. Their provenance names the file.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from expkit.errors import UserError
from expkit.storage import weights_io

MADE_BY = "task=embed"
IMPORTED = "imported "
EXTRA = "."  # between the number of an embedding in a file and the name of a further tensor


@dataclass(frozen=True)
class Provenance:
    """All that an embedding depends on besides its text.

    Attributes:
        encoder: a repository's id, a folder's name, or "imported FILE".
        revision: a commit, or the sha256 of files.
        cleaning: whether captions were cleaned; None: unknown.
        dtype: name of the dtype of the embedding.
        length: number of tokens that the encoder reads.
    """

    encoder: str
    revision: str
    cleaning: bool | None
    dtype: str
    length: int

    @property
    def imported(self) -> bool:
        """Whether the embedding comes from a foreign file."""
        return self.encoder.startswith(IMPORTED)

    def __str__(self) -> str:
        cleaning = ", cleaned" if self.cleaning else ""
        return f"{self.encoder} ({self.revision[:8]}, {self.dtype}{cleaning})"


@dataclass(frozen=True)
class Entry:
    """The metadata of an embedding.

    Attributes:
        text: the text.
        provenance: what else the embedding depends on.
        shape: (L, D).
        tokens: number of tokens of the text; None: unknown.
        cut: the end of the text that was beyond the encoder's length.
    """

    text: str
    provenance: Provenance
    shape: tuple[int, int]
    tokens: int | None = None
    cut: str = ""

    @property
    def bytes(self) -> int:
        """Size of the values in bytes."""
        return math.prod(self.shape) * getattr(torch, self.provenance.dtype).itemsize


@dataclass(frozen=True, eq=False)
class Embedding:
    """The embedding of a text.

    Attributes:
        entry: its metadata.
        values: (L, D), one row for each token.
        extra: further tensors of the text by name, such as "mask" (L,) or "pooled" (P,).
    """

    entry: Entry
    values: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def condition(self) -> dict[str, Tensor]:
        """All its tensors by name; the values are "tokens"."""
        return {"tokens": self.values, **self.extra}


def embedding_key(text: str, provenance: Provenance) -> str:
    """The sha256 of text and provenance, which names the file in the store."""
    content = json.dumps([text, asdict(provenance)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def write_embeddings(path: Path, embeddings: Sequence[Embedding]) -> None:
    """Write embeddings atomically as one file; raises UserError if that fails."""
    from safetensors import SafetensorError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for i, embedding in enumerate(embeddings):
            extra = {f"{i}{EXTRA}{name}": tensor for name, tensor in embedding.extra.items()}
            tensors |= {str(i): embedding.values, **extra}
        entries = [asdict(embedding.entry) for embedding in embeddings]
        weights_io.write_weights(path, tensors, {"embeddings": entries})
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"The embeddings {path} cannot be written ({error}). Give another file, "
            "or another folder with EXPKIT_CACHE=FOLDER."
        ) from None


def read_embeddings(path: Path) -> list[Embedding]:
    """Read what `write_embeddings` wrote; raises UserError for a missing, damaged or other file."""
    tensors, facts = weights_io.read_weights(path, None, MADE_BY)
    try:
        return [
            Embedding(entry, tensors[str(i)], tensors_below(f"{i}{EXTRA}", tensors))
            for i, entry in enumerate(describe_facts(facts))
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise weights_io.unreadable_weights_error(path, error, MADE_BY) from None


def tensors_below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with this prefix, by the rest of their names."""
    names = (name for name in tensors if name.startswith(prefix))
    return {name.removeprefix(prefix): tensors[name] for name in names}


def read_entries(path: Path) -> list[Entry]:
    """The metadata of the embeddings of a file, without loading their values."""
    try:
        return describe_facts(weights_io.read_facts(path, MADE_BY))
    except (KeyError, TypeError, AttributeError) as error:
        raise weights_io.unreadable_weights_error(path, error, MADE_BY) from None


def describe_facts(facts: dict) -> list[Entry]:
    """The metadata of embeddings, from that of their file."""
    entries = []
    for fields in facts["embeddings"]:
        values = {
            **fields,
            "provenance": Provenance(**fields["provenance"]),
            "shape": tuple(fields["shape"]),
        }
        entries.append(Entry(**values))
    return entries


@dataclass(frozen=True, eq=False)
class PackedEmbeddings:
    """Embeddings of many texts from one encoder, concatenated without padding.

    The embedding of a text is (L, D), where L is the encoder's length. It is zero after the last
    token, from which the attention mask is made.

    Attributes:
        texts: the N texts.
        states: (T, D), the hidden states of the tokens of all texts.
        ends: (N,), the end of each text in `states`.
        provenance: what else the embeddings depend on.
        names: the names of the concepts; their texts follow the null prompt, which is the first.
    """

    texts: tuple[str, ...]
    states: Tensor
    ends: Tensor
    provenance: Provenance
    names: tuple[str, ...] = ()

    def __deepcopy__(self, memo: dict) -> PackedEmbeddings:
        return self  # it is large and never changed

    @cached_property
    def places(self) -> dict[str, int]:
        """The index of each text; the first one if it occurs twice."""
        return {text: place for place, text in reversed([*enumerate(self.texts)])}

    def rows(self, places: Tensor) -> Tensor:
        """The padded embeddings (R, L, D) of the texts at `places` (R,), on the states' device."""
        starts = torch.where(places > 0, self.ends[places - 1], 0)
        steps = torch.arange(self.provenance.length, device=places.device)
        index = starts[:, None] + steps
        inside = index < self.ends[places][:, None]
        return self.states[index.clamp(max=len(self.states) - 1)] * inside[..., None]

    def get(self, text: str) -> Embedding | None:
        """The embedding of a text, or None."""
        if (place := self.places.get(text)) is None:
            return None
        values = self.rows(torch.tensor([place]))[0]
        tokens = int((values != 0).any(-1).sum())
        length, width = values.shape
        return Embedding(Entry(text, self.provenance, (length, width), tokens), values)

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    def to(self, device: torch.device | str) -> PackedEmbeddings:
        """A copy on this device."""
        return PackedEmbeddings(
            self.texts, self.states.to(device), self.ends.to(device), self.provenance, self.names
        )

    def write(self, path: Path) -> None:
        """Write them atomically as one file."""
        facts = {"texts": self.texts, "provenance": asdict(self.provenance), "names": self.names}
        weights_io.write_weights(path, {"states": self.states, "ends": self.ends}, facts)

    @classmethod
    def read(cls, path: Path, made_by: str = "task=train") -> PackedEmbeddings:
        """Read what `write` wrote; raises UserError for a missing, damaged or other file."""
        tensors, facts = weights_io.read_weights(path, None, made_by)
        try:
            provenance, texts = Provenance(**facts["provenance"]), tuple(facts["texts"])
            states, ends = tensors["states"], tensors["ends"]
            return cls(texts, states, ends, provenance, tuple(facts["names"]))
        except (KeyError, TypeError) as error:
            raise weights_io.unreadable_weights_error(path, error, made_by) from None


class StoreError(UserError):
    """The store's folder cannot be written."""


@dataclass(frozen=True)
class Store:
    """A folder of embeddings, one safetensors file each. Damaged files count as absent.

    Attributes:
        folder: its path; None: embeddings/ in $EXPKIT_CACHE, or else in expkit/ of the user's
            cache.
    """

    folder: str | Path | None = None

    @property
    def place(self) -> Path:
        """The folder's path."""
        if self.folder:
            return Path(self.folder).expanduser()
        return weights_io.cache_folder() / "embeddings"

    def path(self, text: str, provenance: Provenance) -> Path:
        """The file of an embedding, whether it exists or not."""
        return self.place / f"{embedding_key(text, provenance)}.safetensors"

    def get(self, text: str, provenance: Provenance) -> Embedding | None:
        """The embedding, or None."""
        return read_if_intact(self.path(text, provenance))

    def put(self, embedding: Embedding) -> None:
        """Write an embedding into the store; raises StoreError if that fails."""
        path = self.path(embedding.entry.text, embedding.entry.provenance)
        try:
            write_embeddings(path, [embedding])
        except UserError as error:
            raise self.not_writable(error.__context__ or error) from None

    def check_writable(self) -> None:
        """Raise StoreError if nothing can be written into the folder, which is made if need be."""
        try:
            self.place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.place) as file:
                file.write(b"0" * 4096)
        except OSError as error:
            raise self.not_writable(error) from None

    def not_writable(self, error: BaseException) -> StoreError:
        """The error for a folder that takes no file."""
        reason = getattr(error, "strerror", None) or error
        return StoreError(
            f"The embeddings cannot be written to {self.place} ({reason}). Make it a folder that takes "
            "them, with space left, or give another with model.store=FOLDER or EXPKIT_CACHE=FOLDER."
        )

    def list(self) -> list[Entry]:
        """The metadata of all embeddings in the store, sorted by text and provenance."""
        entries = (entry for _, entry in self.newest_first())
        return sorted(entries, key=lambda entry: (entry.text, str(entry.provenance)))

    def newest(self, fits: Callable[[Entry], bool]) -> Entry | None:
        """The newest entry that fits, or None."""
        return next((entry for _, entry in self.newest_first() if fits(entry)), None)

    def newest_first(self) -> Iterator[tuple[Path, Entry]]:
        """File and metadata of every embedding, the newest first."""
        paths = self.place.glob("*.safetensors")
        for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True):
            try:
                yield path, read_entries(path)[0]
            except (UserError, IndexError):
                continue


def read_if_intact(path: Path) -> Embedding | None:
    """The first embedding of a file; None if the file is missing or damaged."""
    try:
        return read_embeddings(path)[0]
    except (UserError, IndexError):
        return None


def import_embeddings(path: str | Path) -> list[Embedding]:
    """Read a file of embeddings: an export of expkit, or a .pth with a dict {prompt: (1, L, D)}.

    Raises:
        UserError: the file is missing, damaged or of another format.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(
            f"There are no embeddings at {path}. Expected the course's prompt_embeds_dict.pth, "
            f"or a file that {EXPORTS}."
        )
    if path.suffix == ".safetensors":
        return read_export(path)
    table = check_table(load_pth(path), path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return [
        Embedding(foreign_embedding(text, values, path.name, sha256), values)
        for text, values in table.items()
    ]


EXPORTS = "task=embed export=FILE.safetensors has written"


def read_export(path: Path) -> list[Embedding]:
    """Read an export of expkit; raises UserError if it is damaged or of another format."""
    try:
        return read_embeddings(path)
    except UserError as reason:
        start = str(reason).partition(" Expected")[0]
        raise UserError(f"{start} Expected a file that {EXPORTS}.") from None


def foreign_embedding(text: str, values: Tensor, file: str, sha256: str) -> Entry:
    """The metadata of an embedding (L, D) from a foreign file with this name and hash."""
    dtype = str(values.dtype).removeprefix("torch.")
    provenance = Provenance(IMPORTED + file, sha256, None, dtype, len(values))
    length, width = values.shape
    return Entry(text, provenance, (length, width))


def load_pth(path: Path):
    """Load a file of torch.save as data; raises UserError for a pickle that would run code."""
    try:
        # torch warns about a plain pickle before it rejects it.
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # torch raises many types for damaged or other files
        reason = f"it is damaged, or holds more than tensors: {type(error).__name__}"
        raise not_embeddings_error(path, reason) from None


def check_table(table, path: Path) -> dict[str, Tensor]:
    """Check a table {prompt: (1, L, D)} and return it as {prompt: (L, D)}.

    Raises:
        UserError: it is no such table, its shapes differ, or its values are not finite floats.
    """
    if not (
        isinstance(table, dict)
        and table
        and all(isinstance(text, str) and isinstance(item, Tensor) for text, item in table.items())
    ):
        raise not_embeddings_error(path, "it is no dict of prompts and tensors")
    shapes = {tuple(values.shape) for values in table.values()}
    first = min(shapes)
    if len(shapes) > 1 or len(first) != 3 or first[0] != 1 or 0 in first:
        examples = ", ".join(map(str, sorted(shapes)[:3]))
        raise not_embeddings_error(path, f"its tensors are of shape {examples}")
    if not all(values.is_floating_point() and values.isfinite().all() for values in table.values()):
        raise not_embeddings_error(path, "some of its tensors are no finite numbers")
    return {text: values.detach()[0].clone() for text, values in table.items()}


def not_embeddings_error(path: Path, reason: str) -> UserError:
    """The error for a file that holds no embeddings."""
    return UserError(
        f"The embeddings {path} cannot be read ({reason}). Expected a dict "
        "{prompt: tensor of shape (1, 77, 4096)} such as the course's prompt_embeds_dict.pth, "
        f"or a file that {EXPORTS}."
    )
