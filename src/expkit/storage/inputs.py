"""What a command reads on this machine: the files and folders that the texts of its configuration name, and what is in them.

Equal content under another name is another input: names are texts of the configuration, which is a part of a run's identity as well.
Nothing heavy is imported, so that a finished sweep is checked at once.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from expkit.config import schema
from expkit.storage.files import path_of, sha256

PACKAGE = Path(__file__).parents[1]
WEIGHTS, ASSETS = PACKAGE / "weights", PACKAGE / "assets"
TEXTS = schema.keys_of("prompt")  # keys whose values are shown to a network, not opened,
INNER_TEXTS = {
    "prompt",
    "negative",
    "prompts",
    "note",
    "says",
    "seen",
    "examples",
    "_target_",
}  # and those of inner nodes,
WRITTEN = {"export", "store"}  # and those that name what a run writes
NOT_INPUTS = ("logger", "sweep", "hydra")
NEWEST = "outputs/train"
FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
SETS = {
    f"expkit.data.datasets.{name}": f"{name} at hand"
    for name in ("mnist", "fashion_mnist", "kmnist", "emnist")
}
IMPLIED = {  # {what a node builds: (the argument that names a file, what is read where it is null)}
    **{target: ("folder", name) for target, name in SETS.items()},
    "expkit.data.pictograms.pictograms": ("font", FONT),
    "expkit.metrics.judges.first": ("name", "judge_first"),
    "expkit.metrics.judges.second": ("name", "judge_second"),
}
WHOLE, PIECES, PIECE = (
    1 << 28,
    16,
    1 << 20,
)  # bytes of the largest file that is read whole; of a larger one so many pieces of so many bytes
SETTLED = 2_000_000_000  # nanoseconds after which another change has another time on any file system


def data_root() -> Path | None:
    """The folder of data at hand: EXPKIT_DATA, or shared/data beside a checkout."""
    places = [os.environ.get("EXPKIT_DATA"), PACKAGE.parents[2] / "shared" / "data", Path("../shared/data")]
    return next((Path(place) for place in places if place and os.path.isdir(place)), None)


# ---- what is named


def config_names(config: Mapping) -> list[str]:
    """Every text of a resolved configuration that may name a file or a folder, and what its nodes read where nothing is named.

    Prompts are left out, and what a run writes.
    """
    skipped = {*TEXTS, *WRITTEN, *NOT_INPUTS}
    found = {
        name: None for key, value in config.items() if key not in skipped for name in config_texts(value)
    }
    read = {
        name: None
        for key, value in config.items()
        if key not in ("data", "trainer", *NOT_INPUTS)
        for name in implied_files(value)
    }
    newest = [f"newest in {NEWEST}"] if any(name.startswith(f"{NEWEST}/") for name in found) else []
    return [*found, *(name for name in read if name not in found), *newest]


def config_texts(node) -> Iterator[str]:
    """The texts in a value, wherever they stand; prompts of inner nodes left out."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            if key not in INNER_TEXTS and key not in WRITTEN:
                yield from config_texts(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from config_texts(value)


def implied_files(node) -> Iterator[str]:
    """What the parts of a node read where no file is named."""
    if isinstance(node, Mapping):
        argument, name = IMPLIED.get(str(node.get("_target_")), ("", ""))
        if argument and not node.get(argument):
            yield name
        for value in node.values():
            yield from implied_files(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from implied_files(value)


def locate_files(name: str) -> list[Path]:
    """The files and folders that a name may mean: a path, with ~ or as file://, and what ships under this name."""
    if name in SETS.values():
        return existing_paths([root / name.partition(" ")[0]] if (root := data_root()) else [])
    if name.startswith("newest in "):
        return sorted(Path(NEWEST).glob("*/model.safetensors"))
    ships = (
        []
        if "/" in name
        else [WEIGHTS / f"{name}.json", WEIGHTS / name / "card.json", ASSETS / f"{name}.png"]
    )
    return existing_paths([Path(path_of(name)), *ships])


def existing_paths(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if os.path.exists(path)]  # which takes names that no file can have


def is_shipped(name: str) -> bool:
    """Whether a name means nothing but what ships with expkit."""
    return all(PACKAGE in path.parents for path in locate_files(name))


# ---- what is in it


def input_hashes(config: Mapping, known: dict[str, str] | None = None) -> dict[str, str]:
    """{name: a hash of what it means} of all that a resolved configuration reads. known: hashes of this command's other cells."""
    known = {} if known is None else known
    for name in (found := config_names(config)):
        if name not in known:
            known[name] = (
                "" if name.startswith("newest in ") else " ".join(map(path_digest, locate_files(name)))
            )
    return {name: known[name] for name in found if known[name]}


def path_digest(path: Path) -> str:
    """The sha256 of a file; of a folder that of the names and contents of all files below it.

    Names that begin with a dot are left out, as by those who read folders. Links are followed; one that leads into a folder it lies in
    is not. Of a file over 256 MB are hashed its size, its time and 16 pieces.
    """
    if not os.path.isdir(path):
        return content_hash(path)
    return hash_words(f"{inner}\0{content_hash(file)}" for inner, file in files_below(path))


def files_below(path: Path) -> Iterator[tuple[str, Path]]:
    """(its name from the folder, its path) of each file below a folder, in the order of the names; a file is its own only one."""
    return walk_folder(path, "", ()) if os.path.isdir(path) else iter([("", path)])


def yaml_files(folder: Path) -> list[tuple[str, Path]]:
    """The YAML below a folder that configurations are composed from; what runs have written there is left out."""
    inner = sorted(
        path
        for path in existing_paths([folder])
        if os.path.isdir(path)
        for path in folder.iterdir()
        if path.name[0] not in "."
    )
    found = ((str(path), file) for path in inner if path.name != "outputs" for _, file in files_below(path))
    return [(f"{path}\0{file}", file) for path, file in found if file.suffix == ".yaml"]


def walk_folder(folder: Path, name: str, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, Path]]:
    """above: the folders that this one lies in, by device and number."""
    try:
        stat = os.stat(folder)
        entries = sorted(entry for entry in os.listdir(folder) if not entry.startswith("."))
    except OSError:
        yield f"{name}?", folder
        return
    own = (stat.st_dev, stat.st_ino)
    if own in above:
        return
    for entry in entries:
        path = folder / entry
        if os.path.isdir(path):
            yield from walk_folder(path, f"{name}{entry}/", (*above, own))
        else:
            yield f"{name}{entry}", path


KNOWN: dict[tuple, str] = {}  # {(path, size, times, number): sha256} of files that have not changed lately


def content_hash(path: Path) -> str:
    """The sha256 of a file; of one that cannot be read why."""
    try:
        stat = os.stat(path)
        if not os.path.isfile(path):
            return f"no file ({stat.st_mode:o})"
        key = (os.path.abspath(path), *stat_signature(stat))
        if key not in KNOWN:
            found = sha256(path) if stat.st_size <= WHOLE else of_pieces(path, stat)
            if not is_settled(stat):
                return found
            KNOWN[key] = found
        return KNOWN[key]
    except OSError as error:
        return f"unreadable ({error.errno})"


def of_pieces(path: Path, stat: os.stat_result) -> str:
    with open(path, "rb") as file:
        found = hashlib.sha256(f"{stat.st_size} {stat.st_mtime_ns}".encode())
        for start in range(0, stat.st_size, stat.st_size // PIECES):
            file.seek(start)
            found.update(file.read(PIECE))
        return found.hexdigest()


def stat_signature(stat: os.stat_result) -> tuple[int, ...]:
    """Changes whenever a file does, unless twice in one tick of the clock: the time of the last change cannot be set by hand."""
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def is_settled(stat: os.stat_result) -> bool:
    """Whether the next change of a file will show in its times."""
    return time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) > SETTLED


def hash_words(words: Iterable[str]) -> str:
    found = hashlib.sha256()
    for word in words:
        found.update(word.encode(errors="surrogateescape") + b"\n")
    return found.hexdigest()


# ---- whether it is as it was


def file_state(found: Iterable[tuple[str, Path]]) -> dict[str, object]:
    """How files are at this moment, {name: path}: how they look, and what is in them."""
    found = list(found)
    looks, quiet = stat_hash(found)
    return {
        "look": looks,
        "settled": quiet,
        "content": hash_words(f"{name}\0{content_hash(path)}" for name, path in found),
    }


def is_unchanged(known: Mapping, found: Iterable[tuple[str, Path]]) -> bool:
    """Whether files are as they were when `file_state` was asked. What looks the same is not read, unless it was written just before."""
    found = list(found)
    if known["settled"] and known["look"] == stat_hash(found)[0]:
        return True
    return known["content"] == hash_words(f"{name}\0{content_hash(path)}" for name, path in found)


def stat_hash(found: Iterable[tuple[str, Path]]) -> tuple[str, bool]:
    """A hash of names, sizes and times; and whether all of them are settled."""
    words, quiet = [], True
    for name, path in found:
        try:
            stat = os.stat(path)
            words.append(f"{name}\0{stat_signature(stat)}")
            quiet = quiet and is_settled(stat)
        except OSError as error:
            words.append(f"{name}\0{error.errno}")
    return hash_words(words), quiet


def all_files(name: str) -> list[tuple[str, Path]]:
    """(name, path) of every file that a name means, the places included."""
    return [
        (f"{os.path.abspath(place)}\0{inner}", path)
        for place in locate_files(name)
        for inner, path in files_below(place)
    ]
