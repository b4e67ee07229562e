"""The files and folders that a run reads: which ones its configuration names, and hashes of them.

A run's identity is made of its configuration and of these hashes. So the same content under another
name is another input, because the name is a part of the configuration.
This module imports nothing slow, so that a finished sweep is recognized at once.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from expkit.config import schema
from expkit.config.addresses import current_address
from expkit.storage.files import path_of, sha256

PACKAGE = Path(__file__).parents[1]
WEIGHTS, ASSETS = PACKAGE / "weights", PACKAGE / "assets"
# keys whose values are prompts, not file names: at the top of the configuration, and in inner nodes
TEXTS = schema.keys_of("prompt")
INNER_TEXTS = {"prompt", "negative", "prompts", "note", "says", "seen", "examples", "_target_"}
WRITTEN = {"export", "store"}  # keys whose values name what a run writes
NOT_INPUTS = ("logger", "sweep", "hydra")
NEWEST = "outputs/train"
FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
DATASETS = ("mnist", "fashion_mnist", "kmnist", "emnist")
SETS = {f"expkit.data.{name}": f"{name} at hand" for name in DATASETS}
# {_target_ of a node: (the argument that names a file, what is read if that argument is null)}
IMPLIED = {
    **{target: ("folder", name) for target, name in SETS.items()},
    "expkit.data.emoji_pictograms": ("font", FONT),
    "expkit.metrics.first_digit_judge": ("name", "judge_first"),
    "expkit.metrics.second_digit_judge": ("name", "judge_second"),
}
WHOLE = 1 << 28  # bytes of the largest file that is hashed completely
PIECES, PIECE = 16, 1 << 20  # a larger file is hashed from this many pieces, of this many bytes
SETTLED = 2_000_000_000  # nanoseconds: a later change gets a different time on any file system


def data_root() -> Path | None:
    """The folder of local data sets: EXPKIT_DATA, or shared/data next to a checkout."""
    places = [
        os.environ.get("EXPKIT_DATA"),
        PACKAGE.parents[2] / "shared" / "data",
        Path("../shared/data"),
    ]
    return next((Path(place) for place in places if place and os.path.isdir(place)), None)


# ---- which names a configuration contains


def config_names(config: Mapping) -> list[str]:
    """Every text of a resolved configuration that may name a file or folder.

    Includes what its nodes read by default. Excludes prompts, and the files that a run writes.
    """
    skip = {*TEXTS, *WRITTEN, *NOT_INPUTS}
    values = [value for key, value in config.items() if key not in skip]
    texts = {name: None for value in values for name in config_texts(value)}
    implied = {
        name: None
        for key, value in config.items()
        if key not in ("data", "trainer", *NOT_INPUTS)
        for name in implied_files(value)
    }
    reads_newest = any(name.startswith(f"{NEWEST}/") for name in texts)
    newest = [f"newest in {NEWEST}"] if reads_newest else []
    return [*texts, *(name for name in implied if name not in texts), *newest]


def config_texts(node) -> Iterator[str]:
    """Every text in a value, at any depth, except prompts of inner nodes."""
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
    """What a node and its inner nodes read by default, where no file is named."""
    if isinstance(node, Mapping):
        target = current_address(str(node.get("_target_")))
        argument, name = IMPLIED.get(target, ("", ""))
        if argument and not node.get(argument):
            yield name
        for value in node.values():
            yield from implied_files(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from implied_files(value)


def locate_files(name: str) -> list[Path]:
    """The existing files and folders that a name may mean.

    A name is a path (`~` and file: URLs included), or the name of something that ships with expkit.
    """
    if name in SETS.values():
        root = data_root()
        return existing_paths([root / name.partition(" ")[0]] if root else [])
    if name.startswith("newest in "):
        return sorted(Path(NEWEST).glob("*/model.safetensors"))
    shipped = []
    if "/" not in name:
        shipped = [WEIGHTS / f"{name}.json", WEIGHTS / name / "card.json", ASSETS / f"{name}.png"]
    return existing_paths([Path(path_of(name)), *shipped])


def existing_paths(paths: Iterable[Path]) -> list[Path]:
    # os.path.exists also accepts names that no file can have, such as those with NUL
    return [path for path in paths if os.path.exists(path)]


def is_shipped_input(name: str) -> bool:
    """Whether every file that a name may mean ships with expkit."""
    return all(PACKAGE in path.parents for path in locate_files(name))


# ---- the hash of each file


def input_hashes(config: Mapping, known: dict[str, str] | None = None) -> dict[str, str]:
    """{name: hash of the files it means} of everything that a resolved configuration reads.

    Args:
        config: The resolved configuration.
        known: Hashes that are already computed, for example for other cells of the same sweep.
            New hashes are added to it.
    """
    known = {} if known is None else known
    names = config_names(config)
    for name in names:
        if name not in known:
            is_marker = name.startswith("newest in ")
            known[name] = "" if is_marker else " ".join(map(path_digest, locate_files(name)))
    return {name: known[name] for name in names if known[name]}


def path_digest(path: Path) -> str:
    """The SHA-256 of a file, or of the names and contents of all files in a folder.

    Names that start with a dot are skipped, as the code that reads folders skips them. Links are
    followed, except one that leads to a folder that contains it. For a file over 256 MB, its size,
    its modification time and 16 pieces of its content are hashed.
    """
    if not os.path.isdir(path):
        return content_hash(path)
    return hash_words(f"{inner}\0{content_hash(file)}" for inner, file in relative_files(path))


def relative_files(path: Path) -> Iterator[tuple[str, Path]]:
    """(name relative to the folder, path) of each file in a folder, ordered by name.

    For a file, yields only that file, under the name "".
    """
    return walk_folder(path, "", ()) if os.path.isdir(path) else iter([("", path)])


def yaml_files(folder: Path) -> list[tuple[str, Path]]:
    """(name, path) of the YAML files in a configuration folder; the folder outputs is skipped."""
    if not os.path.isdir(folder):
        return []
    paths = [path for path in folder.iterdir() if path.name[0] != "." and path.name != "outputs"]
    files = ((entry, file) for entry in sorted(paths) for _, file in relative_files(entry))
    return [(f"{entry}\0{file}", file) for entry, file in files if file.suffix == ".yaml"]


def walk_folder(
    folder: Path,
    name: str,
    above: tuple[tuple[int, int], ...],
) -> Iterator[tuple[str, Path]]:
    """Yield (name, path) of each file in a folder.

    Args:
        folder: The folder.
        name: What the name of each file starts with.
        above: (device, inode) of the folders that contain this one, to detect cycles of links.
    """
    try:
        stat = os.stat(folder)
        entries = sorted(entry for entry in os.listdir(folder) if not entry.startswith("."))
    except OSError:
        yield f"{name}?", folder
        return
    inode = (stat.st_dev, stat.st_ino)
    if inode in above:
        return
    for entry in entries:
        path = folder / entry
        if os.path.isdir(path):
            yield from walk_folder(path, f"{name}{entry}/", (*above, inode))
        else:
            yield f"{name}{entry}", path


# {(path, size, times, inode): SHA-256} of files that have not changed recently
HASH_CACHE: dict[tuple, str] = {}


def content_hash(path: Path) -> str:
    """The SHA-256 of a file's content, or the reason why it cannot be read."""
    try:
        stat = os.stat(path)
        if not os.path.isfile(path):
            return f"no file ({stat.st_mode:o})"
        key = (os.path.abspath(path), *stat_signature(stat))
        if key not in HASH_CACHE:
            digest = sha256(path) if stat.st_size <= WHOLE else hash_pieces(path, stat)
            if not is_settled(stat):
                return digest
            HASH_CACHE[key] = digest
        return HASH_CACHE[key]
    except OSError as error:
        return f"unreadable ({error.errno})"


def hash_pieces(path: Path, stat: os.stat_result) -> str:
    """A hash of a large file's size, modification time and 16 pieces of its content."""
    with open(path, "rb") as file:
        digest = hashlib.sha256(f"{stat.st_size} {stat.st_mtime_ns}".encode())
        for start in range(0, stat.st_size, stat.st_size // PIECES):
            file.seek(start)
            digest.update(file.read(PIECE))
        return digest.hexdigest()


def stat_signature(stat: os.stat_result) -> tuple[int, ...]:
    """Values that change whenever a file changes, unless it changes twice in one clock tick.

    They include ctime, because a user cannot set it.
    """
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def is_settled(stat: os.stat_result) -> bool:
    """Whether the file is old enough for its next change to be visible in its times."""
    return time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) > SETTLED


def hash_words(words: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for word in words:
        digest.update(word.encode(errors="surrogateescape") + b"\n")
    return digest.hexdigest()


# ---- whether the files are unchanged


def file_state(found: Iterable[tuple[str, Path]]) -> dict[str, object]:
    """The present state of files, for `is_unchanged` to compare with later.

    Args:
        found: (name, path) of each file.

    Returns:
        "look": a hash of names, sizes and times; "settled": whether the next change of each file
        will be visible in its times; "content": a hash of names and contents.
    """
    found = list(found)
    look, settled = stat_hash(found)
    return {
        "look": look,
        "settled": settled,
        "content": hash_words(f"{name}\0{content_hash(path)}" for name, path in found),
    }


def is_unchanged(known: Mapping, found: Iterable[tuple[str, Path]]) -> bool:
    """Whether files are as they were when `file_state` returned `known`.

    Files whose sizes and times are equal are not read, unless they were written just before that.
    """
    found = list(found)
    if known["settled"] and known["look"] == stat_hash(found)[0]:
        return True
    return known["content"] == hash_words(f"{name}\0{content_hash(path)}" for name, path in found)


def stat_hash(found: Iterable[tuple[str, Path]]) -> tuple[str, bool]:
    """A hash of names, sizes and times, and whether all files are settled."""
    words, settled = [], True
    for name, path in found:
        try:
            stat = os.stat(path)
            words.append(f"{name}\0{stat_signature(stat)}")
            settled = settled and is_settled(stat)
        except OSError as error:
            words.append(f"{name}\0{error.errno}")
    return hash_words(words), settled


def all_files(name: str) -> list[tuple[str, Path]]:
    """(name, path) of every file that a name means; each name starts with the absolute place."""
    return [
        (f"{os.path.abspath(place)}\0{inner}", path)
        for place in locate_files(name)
        for inner, path in relative_files(place)
    ]
