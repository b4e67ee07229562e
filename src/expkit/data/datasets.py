"""Where labelled pictures come from: torchvision's sets, and any folder of pictures. All are held in memory.

A folder without a test part of its own is parted by what is in its pictures, h(x) mod 10 = 0, so that equal pictures are on one side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

from expkit.data import image_folders
from expkit.data.image_folders import Hashed, read_folder
from expkit.data.labelled_pictures import Pictures
from expkit.errors import UserError, warn
from expkit.storage import inputs
from expkit.storage.files import sha256

MNIST = "MNIST, 60,000 training pictures (LeCun, Cortes, Burges), CC BY-SA 3.0"
MNIST_IMAGES = (
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"  # sha256 of train-images-idx3-ubyte
)


def mnist(train: bool, folder: str | None = None, size: int | None = None, colour: bool = False) -> Pictures:
    """MNIST: 60,000 pictures for training or 10,000 for testing, 28×28, white on black."""
    found = torchvision_dataset("MNIST", "mnist", folder, {"train": train})
    raw = Path(found.raw_folder) / "train-images-idx3-ubyte"
    if train and raw.is_file() and sha256(raw) != MNIST_IMAGES:
        raise UserError(
            f"{raw} is not MNIST's: its sha256 is not the published one ({MNIST_IMAGES[:12]}…). Delete it and try again."
        )
    return resize_pictures(to_labelled(found, [str(digit) for digit in range(10)]), size, colour)


def fashion_mnist(
    train: bool, folder: str | None = None, size: int | None = None, colour: bool = False
) -> Pictures:
    """FashionMNIST: ten kinds of clothes, 60,000 and 10,000 pictures, 28×28 (Xiao et al. 2017)."""
    found = torchvision_dataset("FashionMNIST", "fashion_mnist", folder, {"train": train})
    return resize_pictures(to_labelled(found, found.classes), size, colour)


def kmnist(train: bool, folder: str | None = None, size: int | None = None, colour: bool = False) -> Pictures:
    """KMNIST: ten cursive kana, 60,000 and 10,000 pictures, 28×28 (Clanuwat et al. 2018); prompts are o, ki, su, …"""
    found = torchvision_dataset("KMNIST", "kmnist", folder, {"train": train})
    return resize_pictures(to_labelled(found, found.classes), size, colour)


def emnist(
    train: bool,
    folder: str | None = None,
    size: int | None = None,
    colour: bool = False,
    split: str = "balanced",
) -> Pictures:
    """EMNIST: letters and digits, 28×28, turned upright (Cohen et al. 2017). split: balanced, byclass, bymerge, letters, digits, mnist."""
    splits = ("balanced", "byclass", "bymerge", "letters", "digits", "mnist")
    if split not in splits:
        raise UserError(f"EMNIST has no split {split!r}: give data.split=… one of {', '.join(splits)}.")
    found = torchvision_dataset("EMNIST", "emnist", folder, {"train": train, "split": split})
    first = int(split == "letters")  # whose labels begin at 1
    upright = Pictures(
        found.data.mT[:, None].contiguous(), found.targets.long() - first, tuple(found.classes[first:])
    )
    return resize_pictures(check_dataset(upright), size, colour)


def torchvision_dataset(name: str, place: str, folder: str | None, options: dict):
    """A set of torchvision's: from `folder` (its layout), else from the data at hand, else downloaded into the user's cache."""
    from torchvision import datasets

    at_hand = inputs.data_root() and inputs.data_root() / place
    there = (
        image_folders.place_of(folder)
        if folder
        else at_hand
        if at_hand and at_hand.is_dir()
        else Path.home() / ".cache" / "expkit" / place
    )
    try:
        return getattr(datasets, name)(str(there), download=not (folder or there == at_hand), **options)
    except (RuntimeError, OSError, ValueError, AssertionError, EOFError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(
            f"{name} is not at {there}, or cannot be read, and could not be downloaded ({reason}). Say where it is with "
            f"EXPKIT_DATA=FOLDER (expects FOLDER/{place}/{name}/raw) or data.folder=FOLDER, or connect to the network."
        ) from None


def to_labelled(found, names: Sequence[str]) -> Pictures:
    return check_dataset(Pictures(found.data[:, None].contiguous(), found.targets.long(), tuple(names)))


def check_dataset(found: Pictures) -> Pictures:
    if len(found.images) != len(found.labels):
        raise UserError(
            f"The set has {len(found.images):,} pictures and {len(found.labels):,} labels: one of its files is another set's."
        )
    if len(found.labels) and not 0 <= int(found.labels.min()) <= int(found.labels.max()) < len(found.names):
        raise UserError(
            f"The set has labels from {found.labels.min()} to {found.labels.max()} for {len(found.names)} classes."
        )
    return found


def resize_pictures(found: Pictures, size: int | None, colour: bool) -> Pictures:
    """At another size, by area or bilinearly, and with three equal channels where colour is asked for."""
    images = found.images
    if size and size != images.shape[-1]:
        check_size(size)
        parts = [
            F.interpolate(part.float(), (size, size), mode="bilinear", antialias=True).round().byte()
            for part in images.split(5000)
        ]
        images = torch.cat(parts)
    return Pictures(
        images.expand(-1, 3, -1, -1).contiguous() if colour else images, found.labels, found.names
    )


def check_size(size: int) -> None:
    if not (isinstance(size, int) and size >= 4 and size % 4 == 0):
        raise UserError(
            f"data.size={size} does not fit: the UNets halve pictures twice. Give a multiple of 4, such as 28, 32 or 64."
        )


def folder(train: bool, folder: str | None, size: int | None = None, colour: bool = True) -> Pictures:
    """Pictures of a folder, those of each class in a sub-folder of its name, or all of one class; of any size, the middle is taken.

    They are read as torchvision's ImageFolder reads them, see `expkit.data.image_folders`. train/ and test/ (or val/) in it are its parts;
    else about a tenth is held out, by what is in the pictures. size: 32 where none is given. What is also among the test pictures is left
    out of the training ones, which is said.
    """
    size = size or 32
    check_size(size)
    place = image_folders.check_folder(folder)
    shape = (3 if colour else 1, size, size)
    left = image_folders.Left(place)
    training, test = image_folders.parts_of(place, left)
    if test:
        return one_part(
            read_folder(training, shape, left, place.name),
            read_folder(test, shape, image_folders.Left(place), place.name),
            train,
        )
    whole, keys, _ = read_folder(training, shape, left, place.name)
    if len(set(keys)) < 2:
        out = f" ({whole.remarks.text})" if whole.remarks.text else ""
        raise UserError(
            f"All pictures in {training} are equal{out}: give two or more that differ, for one is held out to test on."
        )
    apart = [int(key[:8], 16) % 10 == 0 for key in keys]
    held_out = torch.tensor(
        apart if any(apart) and not all(apart) else [key == min(keys) for key in keys]
    )  # few may fall on one side
    return whole.only(~held_out if train else held_out)


def one_part(train: Hashed, test: Hashed, wanted: bool) -> Pictures:
    """The training pictures that are not among the test pictures, or the test pictures."""
    (train, keys, files), (test, others, _) = train, test
    if train.names != test.names:
        odd = [
            f"{name} ({'train' if name in train.names else 'test'})"
            for name in sorted(set(train.names) ^ set(test.names))
        ]
        raise UserError(
            f"The parts to train and to test on have different classes; only one has: {', '.join(odd)}. Give both the same sub-folders."
        )
    if not wanted:
        return test
    known = set(others)
    new = torch.tensor([key not in known for key in keys])
    if new.all():
        return train
    warn(
        f"{int((~new).sum())} of {len(new)} training pictures are among the test pictures too, and are left out."
    )
    if not new.any():
        raise UserError("All training pictures are among the test pictures too: nothing is left to train on.")
    out = [file for file, kept in zip(files, new.tolist(), strict=True) if not kept]
    remarks = replace(train.remarks, left_out={**train.remarks.left_out, "also in the test part": out})
    return replace(train.only(new), remarks=remarks)


def ideal(pictures, count: int, schedule):
    """The exact denoiser of the first `count` pictures of the training set."""
    from expkit.models.analytic import Ideal

    data = pictures(train=True).first(count)
    if data.remarks.text:
        warn(data.remarks.text)
    return Ideal(data.images.float() / 255, data.labels, schedule)
