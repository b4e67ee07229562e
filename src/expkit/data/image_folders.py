"""A folder of pictures as labelled pictures, as torchvision's ImageFolder reads it, and what of it was left out.

Classes are the sub-folders in the order of their names, pictures below them at any depth are of that class, and links are followed: on a
folder of pictures alone, classes, labels and counts are those of `torchvision.datasets.ImageFolder`. It differs where that would train on
what nobody meant, or fail later:

- A file or folder that is reached twice in a class, through links, counts once; ImageFolder counts it as often, and a loop forty times.
- Hidden files and folders are left out, for they are what other programs keep there.
- What cannot be read is left out; ImageFolder raises an error in the middle of an epoch.
- .gif and .avif are pictures too, .ppm and .pgm are as there.
- A folder without sub-folders is one class; ImageFolder refuses it. Pictures beside classes are refused; ImageFolder drops them silently.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from expkit.data.labelled_pictures import Pictures, Remarks, first_names
from expkit.errors import UserError
from expkit.images import image_io
from expkit.storage.files import path_of

ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".ppm", ".pgm"}
TESTS = ("test", "val", "valid", "validation")


class Hashed(NamedTuple):
    """Pictures; of each what is in it as a hash, and its file's name."""

    pictures: Pictures
    keys: Sequence[str]
    files: Sequence[str]


@dataclass
class Left:
    """What is left out below `top`, by kind (see LEFT_OUT), as paths that begin there."""

    top: Path
    kinds: dict[str, list[str]] = field(default_factory=dict)

    def name(self, path: Path) -> str:
        return str(path.relative_to(self.top))

    def out(self, kind: str, path: Path, reason: str = "") -> None:
        self.kinds.setdefault(kind, []).append(self.name(path) + (f": {reason}" if reason else ""))


def hash_images(images: Tensor) -> list[str]:
    """What is in each picture, as a hash."""
    return [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images]


def place_of(folder: str | Path) -> Path:
    """A folder as people write it: a path, also with ~, or a file: address. It need not be there."""
    return Path(os.path.abspath(path_of(str(folder))))


def check_folder(folder: str | Path | None) -> Path:
    """The folder that data.folder names; refuses what is none, or cannot be opened."""
    place = place_of(folder) if folder else None
    if not place:
        given = "none was named"
    elif os.path.isfile(place):
        given = f"{folder} is a file"
    elif not os.path.lexists(place):
        given = f"there is no folder {folder}"
    elif not os.path.isdir(place):
        given = f"{folder} is a link to what is not there"
    elif reason := folder_error(place):
        given = f"{folder} cannot be opened ({reason})"
    else:
        return place
    raise UserError(
        f"data=folder trains on the pictures of a folder, and {given}: say where they are with data.folder=FOLDER."
    )


def folder_error(place: Path) -> str:
    """Why a folder cannot be opened; "" where it can."""
    try:
        os.scandir(place).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def parts_of(place: Path, left: Left) -> tuple[Path, Path | None]:
    """The folders to train and to test on: train/ and test/ (or val/, valid/, validation/), in any case of letters; else all, and None.

    train/ alone is all there is to train on, and a tenth of it is held out.
    """
    folders, beside = {}, []
    for path in sorted(place.iterdir()):
        known = (
            os.path.isdir(path)
            and path.name.lower() in ("train", *TESTS)
            and path.name.lower() not in folders
        )
        folders |= {path.name.lower(): path} if known else {}
        beside += [] if known else [path]
    test = next((folders[name] for name in TESTS if name in folders), None)
    beside += [path for path in folders.values() if path not in (folders.get("train"), test)]
    alone = not test and not any(os.path.isdir(path) and not path.name.startswith(".") for path in beside)
    if "train" not in folders or not (test or alone):
        return place, None
    if loose := [path.name for path in beside if is_picture(path)]:
        raise UserError(
            f"{place} has pictures ({loose[0]}, …) beside {' and '.join(path.name for path in (folders['train'], test) if path)}: they are "
            "neither to train nor to test on. Put them into one of the two."
        )
    for path in beside:
        left.out("beside the parts", path)
    return folders["train"], test


def is_picture(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS and not path.name.startswith(".") and os.path.isfile(path)


def read_folder(place: Path, shape: tuple[int, int, int], left: Left, name: str = "") -> Hashed:
    """The pictures below a folder, a class each sub-folder; where it has none, all of them are of the class `name`, or of its own name.

    Raises UserError for pictures beside classes, and for a class of which no picture can be used.
    """
    if reason := folder_error(place):
        raise UserError(
            f"The folder {place} cannot be opened ({reason}): its pictures are to be trained or tested on."
        )
    classes = classes_of(place)
    loose = [path for path in sorted(place.iterdir()) if is_picture(path)]
    if classes and loose:
        raise UserError(
            f"{place} has pictures ({loose[0].name}, …) beside sub-folders ({classes[0].name}, …). Put each class into a sub-folder of its "
            "name, or all pictures into one folder."
        )
    for path in sorted(set(place.iterdir()) - set(classes)) if classes else []:
        left.out(kind_of(path), path)
    names = tuple(path.name for path in classes) or (name or "pictures",)
    files = tuple(
        (path, label) for label, below in enumerate(classes or [place]) for path in files_below(below, left)
    )
    states = tuple((path.stat().st_mtime_ns, path.stat().st_size) for path, _ in files)
    found = decode_files(files, states, names, shape, left.top)
    if found.unreadable:
        left.kinds["unreadable"] = [*left.kinds.get("unreadable", []), *found.unreadable]
    check_classes(place, names if classes else (), found.hashed.pictures.labels.unique().tolist(), left)
    remarks = Remarks(left.kinds, found.equal, one_class(classes))
    return found.hashed._replace(pictures=replace(found.hashed.pictures, remarks=remarks))


def classes_of(place: Path) -> list[Path]:
    """The sub-folders, in the order of their names, but for hidden ones and links that lead back to this folder or above it."""
    above = [place.resolve(), *place.resolve().parents]
    return sorted(
        p
        for p in place.iterdir()
        if os.path.isdir(p) and not p.name.startswith(".") and p.resolve() not in above
    )


def one_class(classes: Sequence[Path]) -> list[str]:
    """A note where the only class has sub-folders, which are more likely the classes that were meant."""
    inside = classes_of(classes[0]) if len(classes) == 1 and not folder_error(classes[0]) else []
    say = "all pictures are of one class, {}; for classes of its sub-folders ({}) give data.folder={}"
    return (
        [say.format(classes[0].name, first_names([path.name for path in inside]), classes[0])]
        if inside
        else []
    )


def check_classes(place: Path, classes: Sequence[str], used: Sequence[int], left: Left) -> None:
    """Refuse a class, or a folder, that has no picture, and say what was left out there."""
    empty = [name for label, name in enumerate(classes) if label not in used]
    if empty or not used:
        where = (
            f"the sub-folder{'s' * (len(empty) > 1)} {', '.join(empty)} of {place}" if empty else str(place)
        )
        out = Remarks(left.kinds).text
        raise UserError(
            f"There are no pictures in {where}{f' ({out})' if out else ''}. Expected {', '.join(sorted(ENDINGS))}."
        )


def kind_of(path: Path) -> str:
    """Why something that is no class and no picture to train on is left out."""
    if path.is_symlink() and not os.path.exists(path):
        return "broken link"
    if os.path.isdir(path):
        return "hidden" if path.name.startswith(".") else "repeated link"
    return "hidden" if path.name.startswith(".") and path.suffix.lower() in ENDINGS else "no picture"


def files_below(top: Path, left: Left) -> list[Path]:
    """The pictures below a folder at any depth, each once: links are followed after all that is there itself, and never twice."""
    above, known, files = {top.resolve(), *top.resolve().parents}, set(), []
    waiting, links = deque([top]), deque()
    while waiting or links:
        path = (waiting or links).popleft()
        real = Path(os.path.realpath(path))
        if path != top and real in known | above:
            left.out("repeated link", path)
        elif path == top or (os.path.isdir(path) and not path.name.startswith(".")):
            known.add(real)
            for entry in list_folder(path, left):
                (links if entry.is_symlink() else waiting).append(entry)
        elif is_picture(path):
            known.add(real)
            files.append(path)
        else:
            left.out(kind_of(path), path)
    return sorted(files)


def list_folder(folder: Path, left: Left) -> list[Path]:
    """What lies in a folder, in the order of names."""
    if reason := folder_error(folder):
        left.out("closed folder", folder, reason)
        return []
    return sorted(folder.iterdir())


class Decoded(NamedTuple):
    """What was read; the names of files that cannot be, with reasons; the names of pictures of which another class has an equal one."""

    hashed: Hashed
    unreadable: Sequence[str]
    equal: Sequence[str]


@lru_cache(maxsize=2)  # a part to train on and one to test on are asked for in turn
def decode_files(
    files: tuple[tuple[Path, int], ...],
    states: tuple,
    names: tuple[str, ...],
    shape: tuple[int, int, int],
    top: Path,
) -> Decoded:
    """Files and their labels as pictures, in the order of their hashes, so that the first so many are of all classes.

    `states` has when each file was written and how large it is: what was decoded stands as long as they do.
    """
    from tqdm import tqdm

    left = Left(top)
    images, labels, read = [], [], []
    for path, label in tqdm(files, desc="pictures", unit="picture", leave=False, delay=2):
        try:
            images.append((255 * image_io.load_image(str(path), shape)).round().byte())
        except UserError as refusal:
            left.out("unreadable", path, short_reason(refusal))
            continue
        labels.append(label)
        read.append(left.name(path))
    found = torch.stack(images) if images else torch.zeros(0, *shape, dtype=torch.uint8)
    keys = hash_images(found)
    order = sorted(
        range(len(keys)), key=lambda k: (keys[k], labels[k])
    )  # never by name: what the data is does not depend on it
    whole = Pictures(found, torch.tensor(labels, dtype=torch.int64), names).only(
        torch.tensor(order, dtype=torch.int64)
    )
    hashed = Hashed(whole, [keys[k] for k in order], [read[k] for k in order])
    return Decoded(hashed, left.kinds.get("unreadable", []), equal_to_another_class(hashed))


def short_reason(refusal: UserError) -> str:
    """Why a picture cannot be read, without its name and without what to do."""
    return str(refusal).partition(" cannot be read: ")[2].partition(". Expected")[0] or str(refusal)


def equal_to_another_class(found: Hashed) -> list[str]:
    """The names of pictures of which there is an equal one in another class, equals side by side."""
    classes: dict[str, set[int]] = {}
    for key, label in zip(found.keys, found.pictures.labels.tolist(), strict=True):
        classes.setdefault(key, set()).add(label)
    return [name for key, name in zip(found.keys, found.files, strict=True) if len(classes[key]) > 1]


def merge_remarks(parts: Sequence[Remarks]) -> Remarks:
    """The remarks of several parts of one folder as one."""
    kinds: dict[str, list[str]] = {}
    for one in parts:
        for kind, names in one.left_out.items():
            kinds[kind] = list(dict.fromkeys([*kinds.get(kind, []), *names]))
    equal, notes = (
        [*dict.fromkeys(text for one in parts for text in getattr(one, name))] for name in ("equal", "notes")
    )
    return Remarks(kinds, equal, notes)
