"""Where labelled pictures come from: torchvision's sets, and any folder of pictures. All are held in memory.

A folder without a test part of its own is parted by what is in its pictures, h(x) mod 10 = 0, so that equal pictures are on one side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from expkit import inputs, pictures
from expkit.errors import Refusal, warn
from expkit.files import sha256
from expkit.training.data import Pictures

MNIST = "MNIST, 60,000 training pictures (LeCun, Cortes, Burges), CC BY-SA 3.0"
MNIST_IMAGES = "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"  # sha256 of train-images-idx3-ubyte
ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"}
TESTS = ("test", "val", "valid", "validation")


class Hashed(NamedTuple):
    """Pictures, and what is in each of them as a hash."""

    pictures: Pictures
    keys: list[str]


def root() -> Path | None:
    """Where data is at hand: EXPKIT_DATA, or shared/data beside a checkout."""
    return inputs.data_root()


def mnist(train: bool, folder: str | None = None, size: int | None = None, colour: bool = False) -> Pictures:
    """MNIST: 60,000 pictures for training or 10,000 for testing, 28×28, white on black."""
    found = known("MNIST", "mnist", folder, {"train": train})
    raw = Path(found.raw_folder) / "train-images-idx3-ubyte"
    if train and raw.is_file() and sha256(raw) != MNIST_IMAGES:
        raise Refusal(f"{raw} is not MNIST's: its sha256 is not the published one ({MNIST_IMAGES[:12]}…). Delete it and try again.")
    return shaped(labelled(found, [str(digit) for digit in range(10)]), size, colour)


def fashion_mnist(train: bool, folder: str | None = None, size: int | None = None, colour: bool = False) -> Pictures:
    """FashionMNIST: ten kinds of clothes, 60,000 and 10,000 pictures, 28×28 (Xiao et al. 2017)."""
    found = known("FashionMNIST", "fashion_mnist", folder, {"train": train})
    return shaped(labelled(found, found.classes), size, colour)


def kmnist(train: bool, folder: str | None = None, size: int | None = None, colour: bool = False) -> Pictures:
    """KMNIST: ten cursive kana, 60,000 and 10,000 pictures, 28×28 (Clanuwat et al. 2018); prompts are o, ki, su, …"""
    found = known("KMNIST", "kmnist", folder, {"train": train})
    return shaped(labelled(found, found.classes), size, colour)


def emnist(train: bool, folder: str | None = None, size: int | None = None, colour: bool = False, split: str = "balanced") -> Pictures:
    """EMNIST: letters and digits, 28×28, turned upright (Cohen et al. 2017). split: balanced, byclass, bymerge, letters, digits, mnist."""
    splits = ("balanced", "byclass", "bymerge", "letters", "digits", "mnist")
    if split not in splits:
        raise Refusal(f"EMNIST has no split {split!r}: give data.split=… one of {', '.join(splits)}.")
    found = known("EMNIST", "emnist", folder, {"train": train, "split": split})
    first = int(split == "letters")  # whose labels begin at 1
    upright = Pictures(found.data.mT[:, None].contiguous(), found.targets.long() - first, tuple(found.classes[first:]))
    return shaped(checked(upright), size, colour)


def known(name: str, place: str, folder: str | None, options: dict):
    """A set of torchvision's: from `folder` (its layout), else from the data at hand, else downloaded into the user's cache."""
    from torchvision import datasets

    at_hand = root() and root() / place
    there = Path(folder) if folder else at_hand if at_hand and at_hand.is_dir() else Path.home() / ".cache" / "expkit" / place
    try:
        return getattr(datasets, name)(str(there), download=not (folder or there == at_hand), **options)
    except (RuntimeError, OSError, ValueError, AssertionError, EOFError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise Refusal(
            f"{name} is not at {there}, or cannot be read, and could not be downloaded ({reason}). Say where it is with "
            f"EXPKIT_DATA=FOLDER (expects FOLDER/{place}/{name}/raw) or data.folder=FOLDER, or connect to the network."
        ) from None


def labelled(found, names: Sequence[str]) -> Pictures:
    return checked(Pictures(found.data[:, None].contiguous(), found.targets.long(), tuple(names)))


def checked(found: Pictures) -> Pictures:
    if len(found.images) != len(found.labels):
        raise Refusal(f"The set has {len(found.images):,} pictures and {len(found.labels):,} labels: one of its files is another set's.")
    if len(found.labels) and not 0 <= int(found.labels.min()) <= int(found.labels.max()) < len(found.names):
        raise Refusal(f"The set has labels from {found.labels.min()} to {found.labels.max()} for {len(found.names)} classes.")
    return found


def shaped(found: Pictures, size: int | None, colour: bool) -> Pictures:
    """At another size, by area or bilinearly, and with three equal channels where colour is asked for."""
    images = found.images
    if size and size != images.shape[-1]:
        check_size(size)
        parts = [F.interpolate(part.float(), (size, size), mode="bilinear", antialias=True).round().byte() for part in images.split(5000)]
        images = torch.cat(parts)
    return Pictures(images.expand(-1, 3, -1, -1).contiguous() if colour else images, found.labels, found.names)


def check_size(size: int) -> None:
    if not (isinstance(size, int) and size >= 4 and size % 4 == 0):
        raise Refusal(f"data.size={size} does not fit: the UNets halve pictures twice. Give a multiple of 4, such as 28, 32 or 64.")


def folder(train: bool, folder: str | None, size: int | None = None, colour: bool = True) -> Pictures:
    """Pictures of a folder, those of each class in a sub-folder of its name, or all of one class; of any size, the middle is taken.

    train/ and test/ (or val/) in it are its parts; else about a tenth is held out, by what is in the pictures. size: 32 where none is
    given. What is also among the test pictures is left out of the training ones, which is said.
    """
    size = size or 32
    check_size(size)
    place = Path(folder).expanduser() if folder else None
    if not place or not place.is_dir():
        given = f"there is no folder {folder}" if folder else "none was named"
        raise Refusal(f"data=folder trains on the pictures of a folder, and {given}: say where they are with data.folder=FOLDER.")
    shape = (3 if colour else 1, size, size)
    test = next((place / name for name in TESTS if (place / name).is_dir()), None)
    if test and (place / "train").is_dir():
        return one_part(read(place / "train", shape), read(test, shape), train)
    whole, keys = read(place, shape)
    if len(set(keys)) < 2:
        raise Refusal(f"All pictures in {place} are equal: give two or more that differ, for one is held out to test on.")
    apart = [int(key[:8], 16) % 10 == 0 for key in keys]
    held_out = torch.tensor(apart if any(apart) and not all(apart) else [key == min(keys) for key in keys])  # few may fall on one side
    return whole.only(~held_out if train else held_out)


def one_part(train: Hashed, test: Hashed, wanted: bool) -> Pictures:
    """The training pictures that are not among the test pictures, or the test pictures."""
    (train, keys), (test, others) = train, test
    if train.names != test.names:
        odd = sorted(set(train.names) ^ set(test.names))
        raise Refusal(f"The parts to train and to test on have different classes; only one has: {', '.join(odd)}.")
    if not wanted:
        return test
    known = set(others)
    new = torch.tensor([key not in known for key in keys])
    if not new.all():
        warn(f"{int((~new).sum())} of {len(new)} training pictures are among the test pictures too, and are left out.")
    if not new.any():
        raise Refusal("All training pictures are among the test pictures too: nothing is left to train on.")
    return train.only(new)


def hashes(images: Tensor) -> list[str]:
    """What is in each picture, as a hash."""
    return [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images]


def read(place: Path, shape: tuple[int, int, int]) -> Hashed:
    """The pictures below a folder, a class each sub-folder, or one class where it has none."""
    classes, loose = sorted(path for path in place.iterdir() if path.is_dir() and not path.name.startswith(".")), images_of(place)
    if classes and loose:
        raise Refusal(
            f"{place} has pictures ({loose[0].name}, …) beside sub-folders ({classes[0].name}, …). Put each class into a sub-folder of its "
            "name, or all pictures into one folder."
        )
    files = [(path, label) for label, below in enumerate(classes or [place]) for path in images_of(below)]
    empty = [path.name for path in classes if not images_of(path)]
    if empty or not files:
        where = f"the sub-folder{'s' * (len(empty) > 1)} {', '.join(empty)} of {place}" if empty else str(place)
        raise Refusal(f"There are no pictures in {where}. Expected {', '.join(sorted(ENDINGS))}.")
    states = tuple((path.stat().st_mtime_ns, path.stat().st_size) for path, _ in files)
    return decoded(tuple(files), states, tuple(path.name for path in classes or [place]), shape)


@lru_cache(maxsize=2)  # a part to train on and one to test on are asked for in turn
def decoded(files: tuple[tuple[Path, int], ...], states: tuple, names: tuple[str, ...], shape: tuple[int, int, int]) -> Hashed:
    """Files and their labels as pictures, in the order of their hashes, so that the first so many are of all classes.

    `states` has when each file was written and how large it is: what was decoded stands as long as they do.
    """
    from tqdm import tqdm

    bar = tqdm(files, desc="pictures", unit="picture", leave=False, delay=2)
    found = torch.stack([(255 * pictures.load(str(path), shape)).round().byte() for path, _ in bar])
    keys = hashes(found)
    order = sorted(range(len(keys)), key=keys.__getitem__)
    whole = Pictures(found, torch.tensor([label for _, label in files]), names)
    return Hashed(whole.only(torch.tensor(order)), [keys[k] for k in order])


def images_of(place: Path) -> list[Path]:
    return sorted(path for path in place.iterdir() if path.suffix.lower() in ENDINGS and not path.name.startswith("."))


def ideal(pictures, count: int, schedule):
    """The exact denoiser of the first `count` pictures of the training set."""
    from expkit.denoisers.ideal import Ideal

    data = pictures(train=True).first(count)
    return Ideal(data.images.float() / 255, data.labels, schedule)
