"""Embeddings on disk: one safetensors file each in the store, several in an export; and those that others have made.

    E (L, D),    kept under sha256(text; encoder, revision, cleaning, dtype, length)

The course's prompt_embeds_dict.pth and files like it are read as data, and keep saying where they are from. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from expkit.errors import UserError
from expkit.storage import weights_io

MADE_BY = "task=embed"
IMPORTED = "imported "


@dataclass(frozen=True)
class Provenance:
    """All that an embedding depends on besides its text.

    encoder: a repository's id, a folder's name, or "imported FILE"; revision: a commit, or the sha256 of files;
    cleaning: whether captions were cleaned, None where that is unknown; length: tokens that the encoder reads.
    """

    encoder: str
    revision: str
    cleaning: bool | None
    dtype: str
    length: int

    @property
    def imported(self) -> bool:
        return self.encoder.startswith(IMPORTED)

    def __str__(self) -> str:
        return f"{self.encoder} ({self.revision[:8]}, {self.dtype}{', cleaned' * bool(self.cleaning)})"


@dataclass(frozen=True)
class Entry:
    """What is known of an embedding. tokens: its text's, None where unknown; cut: the end of the text, which the encoder did not see."""

    text: str
    provenance: Provenance
    shape: tuple[int, int]
    tokens: int | None = None
    cut: str = ""

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * getattr(torch, self.provenance.dtype).itemsize


@dataclass(frozen=True, eq=False)
class Embedding:
    entry: Entry
    values: Tensor


def embedding_key(text: str, provenance: Provenance) -> str:
    return hashlib.sha256(json.dumps([text, asdict(provenance)], sort_keys=True).encode()).hexdigest()


def write_embeddings(path: Path, embeddings: Sequence[Embedding]) -> None:
    """Write embeddings as one file, in one move."""
    from safetensors import SafetensorError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {str(i): embedding.values for i, embedding in enumerate(embeddings)}
        weights_io.write_weights(
            path, tensors, {"embeddings": [asdict(embedding.entry) for embedding in embeddings]}
        )
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"The embeddings {path} cannot be written ({error}). Give another file, or another folder with EXPKIT_CACHE=FOLDER."
        ) from None


def read_embeddings(path: Path) -> list[Embedding]:
    """What `write` wrote; raises UserError where it is missing, damaged or something else."""
    tensors, facts = weights_io.read_weights(path, None, MADE_BY)
    try:
        return [Embedding(entry, tensors[str(i)]) for i, entry in enumerate(describe_facts(facts))]
    except (KeyError, TypeError, AttributeError) as error:
        raise weights_io.unreadable_error(path, error, MADE_BY) from None


def read_entries(path: Path) -> list[Entry]:
    """What is known of the embeddings of a file, which stay on the disk."""
    try:
        return describe_facts(weights_io.read_facts(path, MADE_BY))
    except (KeyError, TypeError, AttributeError) as error:
        raise weights_io.unreadable_error(path, error, MADE_BY) from None


def describe_facts(facts: dict) -> list[Entry]:
    known = facts["embeddings"]
    return [
        Entry(**{**fact, "provenance": Provenance(**fact["provenance"]), "shape": tuple(fact["shape"])})
        for fact in known
    ]


@dataclass(frozen=True, eq=False)
class PackedEmbeddings:
    """Embeddings of many texts of one encoder, without what pads them: states (T, D) one after the other, each text's end at ends (N,).

    An embedding is (L, D), L the encoder's length, and zero after the text's last token: which is how what asks with it knows its end.
    names: what the first texts after the null prompt are of, where they name something.
    """

    texts: tuple[str, ...]
    states: Tensor
    ends: Tensor
    provenance: Provenance
    names: tuple[str, ...] = ()

    def __deepcopy__(self, memo: dict) -> PackedEmbeddings:
        return self  # it is large, and never changed

    @cached_property
    def places(self) -> dict[str, int]:
        return {text: place for place, text in reversed([*enumerate(self.texts)])}

    def rows(self, places: Tensor) -> Tensor:
        """(R, L, D), where the states are."""
        starts = torch.where(places > 0, self.ends[places - 1], 0)
        steps = torch.arange(self.provenance.length, device=places.device)
        where = starts[:, None] + steps
        inside = where < self.ends[places][:, None]
        return self.states[where.clamp(max=len(self.states) - 1)] * inside[..., None]

    def get(self, text: str) -> Embedding | None:
        if (place := self.places.get(text)) is None:
            return None
        values = self.rows(torch.tensor([place]))[0]
        return Embedding(
            Entry(text, self.provenance, tuple(values.shape), int((values != 0).any(-1).sum())), values
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    def to(self, device: torch.device | str) -> PackedEmbeddings:
        return PackedEmbeddings(
            self.texts, self.states.to(device), self.ends.to(device), self.provenance, self.names
        )

    def write(self, path: Path) -> None:
        """As one file, in one move."""
        facts = {"texts": self.texts, "provenance": asdict(self.provenance), "names": self.names}
        weights_io.write_weights(path, {"states": self.states, "ends": self.ends}, facts)

    @classmethod
    def read(cls, path: Path, made_by: str = "task=train") -> PackedEmbeddings:
        tensors, facts = weights_io.read_weights(path, None, made_by)
        try:
            told = Provenance(**facts["provenance"])
            return cls(tuple(facts["texts"]), tensors["states"], tensors["ends"], told, tuple(facts["names"]))
        except (KeyError, TypeError) as error:
            raise weights_io.unreadable_error(path, error, made_by) from None


@dataclass(frozen=True)
class Store:
    """A folder of embeddings; None: embeddings/ in $EXPKIT_CACHE, or in expkit/ of the user's cache. A damaged file counts as absent."""

    folder: str | Path | None = None

    @property
    def place(self) -> Path:
        return Path(self.folder).expanduser() if self.folder else weights_io.cache_folder() / "embeddings"

    def path(self, text: str, provenance: Provenance) -> Path:
        return self.place / f"{embedding_key(text, provenance)}.safetensors"

    def get(self, text: str, provenance: Provenance) -> Embedding | None:
        return read_if_intact(self.path(text, provenance))

    def put(self, embedding: Embedding) -> None:
        write_embeddings(self.path(embedding.entry.text, embedding.entry.provenance), [embedding])

    def list(self) -> list[Entry]:
        """All that is in the store, by text."""
        return sorted(
            (entry for _, entry in self.newest_first()), key=lambda entry: (entry.text, str(entry.provenance))
        )

    def newest(self, fits: Callable[[Entry], bool]) -> Entry | None:
        return next((entry for _, entry in self.newest_first() if fits(entry)), None)

    def newest_first(self) -> Iterator[tuple[Path, Entry]]:
        for path in sorted(
            self.place.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns, reverse=True
        ):
            try:
                yield path, read_entries(path)[0]
            except (UserError, IndexError):
                continue


def read_if_intact(path: Path) -> Embedding | None:
    try:
        return read_embeddings(path)[0]
    except (UserError, IndexError):
        return None


def import_embeddings(path: str | Path) -> list[Embedding]:
    """The embeddings of a file: an export of expkit's, or a .pth that holds {prompt: (1, L, D)}."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(
            f"There are no embeddings at {path}. Expected the course's prompt_embeds_dict.pth, or a file that {EXPORTS}."
        )
    if path.suffix == ".safetensors":
        return read_export(path)
    table = check_table(load_tensors(path), path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return [
        Embedding(foreign_embedding(text, values, path.name, sha256), values)
        for text, values in table.items()
    ]


EXPORTS = "task=embed export=FILE.safetensors has written"


def read_export(path: Path) -> list[Embedding]:
    try:
        return read_embeddings(path)
    except UserError as reason:
        raise UserError(f"{str(reason).partition(' Expected')[0]} Expected a file that {EXPORTS}.") from None


def foreign_embedding(text: str, values: Tensor, file: str, sha256: str) -> Entry:
    dtype = str(values.dtype).removeprefix("torch.")
    return Entry(text, Provenance(IMPORTED + file, sha256, None, dtype, len(values)), tuple(values.shape))


def load_tensors(path: Path):
    """What torch.save has written, as data: a pickle that would run code is refused."""
    try:
        with warnings.catch_warnings(
            action="ignore"
        ):  # what torch thinks of a bare pickle, before it refuses it
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # torch raises many kinds for a file that was cut off or holds something else
        raise not_embeddings_error(
            path, f"it is damaged, or holds more than tensors: {type(error).__name__}"
        ) from None


def check_table(table, path: Path) -> dict[str, Tensor]:
    """{prompt: (L, D)}, all of one shape, or a refusal."""
    if not (
        isinstance(table, dict)
        and table
        and all(isinstance(t, str) and isinstance(v, Tensor) for t, v in table.items())
    ):
        raise not_embeddings_error(path, "it is no dict of prompts and tensors")
    shapes = {tuple(values.shape) for values in table.values()}
    first = min(shapes)
    if len(shapes) > 1 or len(first) != 3 or first[0] != 1 or 0 in first:
        raise not_embeddings_error(
            path, f"its tensors are of shape {', '.join(map(str, sorted(shapes)[:3]))}"
        )
    if not all(values.is_floating_point() and values.isfinite().all() for values in table.values()):
        raise not_embeddings_error(path, "some of its tensors are no finite numbers")
    return {text: values.detach()[0].clone() for text, values in table.items()}


def not_embeddings_error(path: Path, reason: str) -> UserError:
    return UserError(
        f"The embeddings {path} cannot be read ({reason}). Expected a dict {{prompt: tensor of shape (1, 77, 4096)}} such as the course's "
        f"prompt_embeds_dict.pth, or a file that {EXPORTS}."
    )
