"""Read a folder of pictures as labelled pictures, like torchvision's ImageFolder; report omissions.

Classes are the sub-folders in the order of their names. Pictures below them at any depth belong to
that class, and links are followed. On a folder of pictures alone, classes, labels and counts are
those of `torchvision.datasets.ImageFolder`. The differences avoid unintended training data and
later failures:

- A file or folder that is reached twice in a class, through links, counts once. ImageFolder counts
  it as often as it is reached, and a loop forty times.
- Hidden files and folders are left out, because other programs keep their files there.
- What cannot be read is left out. ImageFolder raises an error in the middle of an epoch.
- .gif and .avif are pictures too, as are .ppm and .pgm, which ImageFolder also reads.
- A folder without sub-folders is one class. ImageFolder refuses it.
- Pictures beside classes are refused. ImageFolder drops them silently.
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

ENDINGS = {
    ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".ppm", ".pgm"
}  # fmt: skip
TESTS = ("test", "val", "valid", "validation")


class Hashed(NamedTuple):
    """Pictures with the hash of the content and the file name of each."""

    pictures: Pictures
    keys: Sequence[str]
    files: Sequence[str]


@dataclass
class Omissions:
    """Files and folders that are left out below `top`: kind (see LEFT_OUT) -> relative paths."""

    top: Path
    kinds: dict[str, list[str]] = field(default_factory=dict)

    def name(self, path: Path) -> str:
        """The path relative to `top`."""
        return str(path.relative_to(self.top))

    def add(self, kind: str, path: Path, reason: str = "") -> None:
        """Record a path that is left out."""
        self.kinds.setdefault(kind, []).append(self.name(path) + (f": {reason}" if reason else ""))


def hash_images(images: Tensor) -> list[str]:
    """The SHA-256 of each image's values, in hexadecimal."""
    return [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images]


def place_of(folder: str | Path) -> Path:
    """The absolute path of a user's folder, also from ~ or a file: URL. It need not exist."""
    return Path(os.path.abspath(path_of(str(folder))))


def check_folder(folder: str | Path | None) -> Path:
    """The path of data.folder; a UserError if it is missing, no folder, or cannot be opened."""
    place = place_of(folder) if folder else None
    if not place:
        problem = "none was named"
    elif os.path.isfile(place):
        problem = f"{folder} is a file"
    elif not os.path.lexists(place):
        problem = f"there is no folder {folder}"
    elif not os.path.isdir(place):
        problem = f"{folder} is a link to what is not there"
    elif reason := folder_error(place):
        problem = f"{folder} cannot be opened ({reason})"
    else:
        return place
    raise UserError(
        f"data=folder trains on the pictures of a folder, and {problem}: "
        "say where they are with data.folder=FOLDER."
    )


def folder_error(place: Path) -> str:
    """The reason why a folder cannot be opened; "" if it can."""
    try:
        os.scandir(place).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def parts_of(place: Path, omissions: Omissions) -> tuple[Path, Path | None]:
    """The folders for training and for testing; the whole folder and None if it has no such parts.

    They are train/ and test/ (or val/, valid/, validation/), in any case of letters. With train/
    alone, only that is used, and the second is None: a tenth of it will be held out.
    """
    folders, beside = {}, []
    for path in sorted(place.iterdir()):
        name = path.name.lower()
        if os.path.isdir(path) and name in ("train", *TESTS) and name not in folders:
            folders[name] = path
        else:
            beside.append(path)
    train = folders.get("train")
    test = next((folders[name] for name in TESTS if name in folders), None)
    beside += [path for path in folders.values() if path not in (train, test)]
    visible = [path for path in beside if not path.name.startswith(".")]
    if not train or (not test and any(map(os.path.isdir, visible))):
        return place, None
    loose = [path.name for path in beside if is_picture(path)]
    if loose:
        names = " and ".join(path.name for path in (train, test) if path)
        raise UserError(
            f"{place} has pictures ({loose[0]}, …) beside {names}: they are "
            "neither to train nor to test on. Put them into one of the two."
        )
    for path in beside:
        omissions.add("beside the parts", path)
    return train, test


def is_picture(path: Path) -> bool:
    """Whether a path is a picture file that is not hidden."""
    return path.suffix.lower() in ENDINGS and not path.name.startswith(".") and os.path.isfile(path)


def read_folder(
    place: Path, shape: tuple[int, int, int], omissions: Omissions, name: str = ""
) -> Hashed:  # fmt: skip
    """The pictures below a folder; each sub-folder is a class.

    Args:
        place: the folder.
        shape: (C, H, W) of the pictures.
        omissions: receives the paths that are left out.
        name: the class of all pictures if there are no sub-folders; "": "pictures".

    Raises:
        UserError: There are pictures beside classes, or a class without usable pictures.
    """
    if reason := folder_error(place):
        problem = f"The folder {place} cannot be opened ({reason})"
        raise UserError(f"{problem}: its pictures are to be trained or tested on.")
    classes = classes_of(place)
    loose = [path for path in sorted(place.iterdir()) if is_picture(path)]
    if classes and loose:
        raise UserError(
            f"{place} has pictures ({loose[0].name}, …) beside sub-folders "
            f"({classes[0].name}, …). Put each class into a sub-folder of its "
            "name, or all pictures into one folder."
        )
    if classes:
        for path in sorted(set(place.iterdir()) - set(classes)):
            omissions.add(omission_kind(path), path)
    names = tuple(path.name for path in classes) or (name or "pictures",)
    files = []
    for label, below in enumerate(classes or [place]):
        files += [(path, label) for path in files_below(below, omissions)]
    states = tuple((path.stat().st_mtime_ns, path.stat().st_size) for path, _ in files)
    decoded = decode_files(tuple(files), states, names, shape, omissions.top)
    if decoded.unreadable:
        unreadable = omissions.kinds.get("unreadable", [])
        omissions.kinds["unreadable"] = [*unreadable, *decoded.unreadable]
    pictures = decoded.hashed.pictures
    check_classes(place, names if classes else (), pictures.labels.unique().tolist(), omissions)
    remarks = Remarks(omissions.kinds, decoded.equal, one_class(classes))
    return decoded.hashed._replace(pictures=replace(pictures, remarks=remarks))


def classes_of(place: Path) -> list[Path]:
    """The sub-folders in the order of their names.

    Without hidden ones and links that lead back to this folder or above it.
    """
    above = [place.resolve(), *place.resolve().parents]
    return sorted(
        path
        for path in place.iterdir()
        if os.path.isdir(path) and not path.name.startswith(".") and path.resolve() not in above
    )


def one_class(classes: Sequence[Path]) -> list[str]:
    """A note if the only class has sub-folders, which are more likely the intended classes."""
    inside = []
    if len(classes) == 1 and not folder_error(classes[0]):
        inside = classes_of(classes[0])
    if not inside:
        return []
    names = first_names([path.name for path in inside])
    return [
        f"all pictures are of one class, {classes[0].name}; "
        f"for classes of its sub-folders ({names}) give data.folder={classes[0]}"
    ]


def check_classes(
    place: Path, classes: Sequence[str], used: Sequence[int], omissions: Omissions
) -> None:  # fmt: skip
    """Refuse a class or a folder without pictures; the error lists what was left out.

    used: the labels that occur.
    """
    empty = [name for label, name in enumerate(classes) if label not in used]
    if empty or not used:
        where = str(place)
        if empty:
            plural = "s" if len(empty) > 1 else ""
            where = f"the sub-folder{plural} {', '.join(empty)} of {place}"
        remarks = Remarks(omissions.kinds).text
        left_out = f" ({remarks})" if remarks else ""
        endings = ", ".join(sorted(ENDINGS))
        raise UserError(f"There are no pictures in {where}{left_out}. Expected {endings}.")


def omission_kind(path: Path) -> str:
    """The kind (see LEFT_OUT) of a path that is neither a class nor a picture for training."""
    if path.is_symlink() and not os.path.exists(path):
        return "broken link"
    hidden = path.name.startswith(".")
    if os.path.isdir(path):
        return "hidden" if hidden else "repeated link"
    return "hidden" if hidden and path.suffix.lower() in ENDINGS else "no picture"


def files_below(top: Path, omissions: Omissions) -> list[Path]:
    """The pictures below a folder at any depth, each once.

    Links are followed after all files and folders that are no links, and none is followed twice.
    """
    above, visited, files = {top.resolve(), *top.resolve().parents}, set(), []
    waiting, links = deque([top]), deque()
    while waiting or links:
        path = (waiting or links).popleft()
        real = Path(os.path.realpath(path))
        if path != top and real in visited | above:
            omissions.add("repeated link", path)
        elif path == top or (os.path.isdir(path) and not path.name.startswith(".")):
            visited.add(real)
            for entry in list_folder(path, omissions):
                (links if entry.is_symlink() else waiting).append(entry)
        elif is_picture(path):
            visited.add(real)
            files.append(path)
        else:
            omissions.add(omission_kind(path), path)
    return sorted(files)


def list_folder(folder: Path, omissions: Omissions) -> list[Path]:
    """The entries of a folder in the order of their names; none if it cannot be opened."""
    if reason := folder_error(folder):
        omissions.add("closed folder", folder, reason)
        return []
    return sorted(folder.iterdir())


class Decoded(NamedTuple):
    """The decoded pictures of a folder.

    unreadable: names of files that cannot be read, with reasons.
    equal: names of pictures of which another class has an equal one.
    """

    hashed: Hashed
    unreadable: Sequence[str]
    equal: Sequence[str]


@lru_cache(maxsize=2)  # the training and the test part are requested in turn
def decode_files(
    files: tuple[tuple[Path, int], ...],
    states: tuple,
    names: tuple[str, ...],
    shape: tuple[int, int, int],
    top: Path,
) -> Decoded:
    """Decode labelled files and sort them by the hashes of the pictures.

    This mixes the classes, so that the first pictures are of all classes.

    Args:
        files: paths and labels.
        states: the modification time and the size of each file. The cached result is used as long
            as these do not change.
        names: of the classes.
        shape: (C, H, W) of the pictures.
        top: the folder to which names are relative.
    """
    from tqdm import tqdm

    omissions = Omissions(top)
    images, labels, file_names = [], [], []
    for path, label in tqdm(files, desc="pictures", unit="picture", leave=False, delay=2):
        try:
            images.append((255 * image_io.load_image(str(path), shape)).round().byte())
        except UserError as refusal:
            omissions.add("unreadable", path, short_reason(refusal))
            continue
        labels.append(label)
        file_names.append(omissions.name(path))
    stacked = torch.stack(images) if images else torch.zeros(0, *shape, dtype=torch.uint8)
    keys = hash_images(stacked)
    # Never by file name: the data does not depend on it
    order = sorted(range(len(keys)), key=lambda k: (keys[k], labels[k]))
    pictures = Pictures(stacked, torch.tensor(labels, dtype=torch.int64), names)
    pictures = pictures.select(torch.tensor(order, dtype=torch.int64))
    hashed = Hashed(pictures, [keys[k] for k in order], [file_names[k] for k in order])
    return Decoded(hashed, omissions.kinds.get("unreadable", []), equal_to_another_class(hashed))


def short_reason(refusal: UserError) -> str:
    """The reason why a picture cannot be read, without its name and without advice."""
    text = str(refusal)
    return text.partition(" cannot be read: ")[2].partition(". Expected")[0] or text


def equal_to_another_class(found: Hashed) -> list[str]:
    """The names of pictures with an equal one in another class; equal pictures are adjacent."""
    classes: dict[str, set[int]] = {}
    for key, label in zip(found.keys, found.pictures.labels.tolist(), strict=True):
        classes.setdefault(key, set()).add(label)
    repeated = {key for key, labels in classes.items() if len(labels) > 1}
    return [name for key, name in zip(found.keys, found.files, strict=True) if key in repeated]


def merge_remarks(parts: Sequence[Remarks]) -> Remarks:
    """The remarks of several parts of one folder as one, without repetitions."""
    kinds: dict[str, list[str]] = {}
    for remarks in parts:
        for kind, names in remarks.left_out.items():
            kinds[kind] = list(dict.fromkeys([*kinds.get(kind, []), *names]))
    equal = dict.fromkeys(name for remarks in parts for name in remarks.equal)
    notes = dict.fromkeys(note for remarks in parts for note in remarks.notes)
    return Remarks(kinds, [*equal], [*notes])
