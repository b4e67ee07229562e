"""Data sets of labelled pictures: torchvision's sets, and any folder of pictures, held in memory.

A folder without a test part is split by the content of its pictures, h(x) mod 10 = 0, so that equal
pictures are on the same side.
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
# sha256 of train-images-idx3-ubyte
MNIST_IMAGES = "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"


def mnist(
    train: bool,
    folder: str | None = None,
    size: int | None = None,
    colour: bool = False,
) -> Pictures:
    """MNIST: 60,000 pictures for training or 10,000 for testing, 28×28, white on black.

    Args:
        train: the training or the test part.
        folder: where it lies, in torchvision's layout; None: see `torchvision_dataset`.
        size: pixels, a multiple of 4; None: 28.
        colour: whether pictures get three equal channels.
    """
    dataset = torchvision_dataset("MNIST", "mnist", folder, {"train": train})
    file = Path(dataset.raw_folder) / "train-images-idx3-ubyte"
    if train and file.is_file() and sha256(file) != MNIST_IMAGES:
        raise UserError(
            f"{file} is not MNIST's: its sha256 is not the published one ({MNIST_IMAGES[:12]}…). "
            "Delete it and try again."
        )
    return resize_pictures(to_labelled(dataset, [str(digit) for digit in range(10)]), size, colour)


def fashion_mnist(
    train: bool, folder: str | None = None, size: int | None = None, colour: bool = False
) -> Pictures:
    """FashionMNIST: ten kinds of clothes, 60,000 and 10,000 pictures, 28×28 (Xiao et al. 2017).

    Arguments as in `mnist`.
    """
    dataset = torchvision_dataset("FashionMNIST", "fashion_mnist", folder, {"train": train})
    return resize_pictures(to_labelled(dataset, dataset.classes), size, colour)


def kmnist(
    train: bool,
    folder: str | None = None,
    size: int | None = None,
    colour: bool = False,
) -> Pictures:
    """KMNIST: ten cursive kana, 60,000 and 10,000 pictures, 28×28 (Clanuwat et al. 2018).

    Prompts are o, ki, su, … Arguments as in `mnist`.
    """
    dataset = torchvision_dataset("KMNIST", "kmnist", folder, {"train": train})
    return resize_pictures(to_labelled(dataset, dataset.classes), size, colour)


def emnist(
    train: bool,
    folder: str | None = None,
    size: int | None = None,
    colour: bool = False,
    split: str = "balanced",
) -> Pictures:
    """EMNIST: handwritten letters and digits, 28×28, turned upright (Cohen et al. 2017).

    split: balanced, byclass, bymerge, letters, digits or mnist. Other arguments as in `mnist`.
    """
    splits = ("balanced", "byclass", "bymerge", "letters", "digits", "mnist")
    if split not in splits:
        choices = ", ".join(splits)
        raise UserError(f"EMNIST has no split {split!r}: give data.split=… one of {choices}.")
    dataset = torchvision_dataset("EMNIST", "emnist", folder, {"train": train, "split": split})
    first_label = int(split == "letters")  # the labels of this split start at 1
    images = dataset.data.mT[:, None].contiguous()
    names = tuple(dataset.classes[first_label:])
    upright = Pictures(images, dataset.targets.long() - first_label, names)
    return resize_pictures(check_dataset(upright), size, colour)


def torchvision_dataset(name: str, place: str, folder: str | None, options: dict):
    """A torchvision data set.

    It is read from `folder`, in torchvision's layout; else from `inputs.data_root()`; else it is
    downloaded into the user's cache.

    Raises:
        UserError: It can neither be read nor downloaded.
    """
    from torchvision import datasets

    data_root = inputs.data_root()
    local = data_root and data_root / place
    if folder:
        root = image_folders.place_of(folder)
    elif local and local.is_dir():
        root = local
    else:
        root = Path.home() / ".cache" / "expkit" / place
    try:
        return getattr(datasets, name)(str(root), download=not (folder or root == local), **options)
    except (RuntimeError, OSError, ValueError, AssertionError, EOFError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(
            f"{name} is not at {root}, or cannot be read, and could not be downloaded ({reason}). "
            f"Say where it is with EXPKIT_DATA=FOLDER (expects FOLDER/{place}/{name}/raw) "
            "or data.folder=FOLDER, or connect to the network."
        ) from None


def to_labelled(found, names: Sequence[str]) -> Pictures:
    """A torchvision data set of grey images as Pictures."""
    images = found.data[:, None].contiguous()
    return check_dataset(Pictures(images, found.targets.long(), tuple(names)))


def check_dataset(found: Pictures) -> Pictures:
    """The pictures, if they have as many labels, and all labels are those of classes."""
    labels = found.labels
    if len(found.images) != len(labels):
        raise UserError(
            f"The set has {len(found.images):,} pictures and {len(labels):,} labels: "
            "one of its files is another set's."
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(found.names):
        bounds = f"from {labels.min()} to {labels.max()}"
        raise UserError(f"The set has labels {bounds} for {len(found.names)} classes.")
    return found


def resize_pictures(found: Pictures, size: int | None, colour: bool) -> Pictures:
    """Pictures resized bilinearly with antialiasing; for `colour`, with three equal channels."""
    images = found.images
    if size and size != images.shape[-1]:
        check_size(size)
        parts = []
        for part in images.split(5000):
            resized = F.interpolate(part.float(), (size, size), mode="bilinear", antialias=True)
            parts.append(resized.round().byte())
        images = torch.cat(parts)
    if colour:
        images = images.expand(-1, 3, -1, -1).contiguous()
    return replace(found, images=images)


def check_size(size: int) -> None:
    """Refuse a size that is not a multiple of 4."""
    if not (isinstance(size, int) and size >= 4 and size % 4 == 0):
        raise UserError(
            f"data.size={size} does not fit: the UNets halve pictures twice. "
            "Give a multiple of 4, such as 28, 32 or 64."
        )


def image_folder(
    train: bool,
    folder: str | None,
    size: int | None = None,
    colour: bool = True,
) -> Pictures:
    """The pictures of a folder, each class in its own sub-folder, or all of one class.

    They are read as by torchvision's ImageFolder, see `expkit.data.image_folders`. They may have
    any size; their middle is used. The sub-folders train/ and test/ (or val/) are the two parts.
    Without them, about a tenth is held out, by the content of the pictures. Training pictures that
    are also test pictures are left out, with a warning.

    Args:
        train: the training or the test part.
        folder: its path.
        size: pixels, a multiple of 4; None: 32.
        colour: whether pictures have three channels or one.

    Raises:
        UserError: The folder cannot be read, or leaves nothing to train on or to test on.
    """
    size = size or 32
    check_size(size)
    place = image_folders.check_folder(folder)
    shape = (3 if colour else 1, size, size)
    omissions = image_folders.Omissions(place)
    training, test = image_folders.parts_of(place, omissions)
    if test:
        return one_part(
            read_folder(training, shape, omissions, place.name),
            read_folder(test, shape, image_folders.Omissions(place), place.name),
            train,
        )
    pictures, keys, _ = read_folder(training, shape, omissions, place.name)
    if len(set(keys)) < 2:
        remarks = f" ({pictures.remarks.text})" if pictures.remarks.text else ""
        raise UserError(
            f"All pictures in {training} are equal{remarks}: "
            "give two or more that differ, for one is held out to test on."
        )
    in_test = [int(key[:8], 16) % 10 == 0 for key in keys]
    if not any(in_test) or all(in_test):  # possible if there are few pictures
        smallest = min(keys)
        in_test = [key == smallest for key in keys]
    mask = torch.tensor(in_test)
    return pictures.select(~mask if train else mask)


def one_part(train: Hashed, test: Hashed, wanted: bool) -> Pictures:
    """The training pictures that are not among the test pictures, or the test pictures.

    wanted: whether the training pictures are returned.
    """
    pictures, keys, files = train
    test_pictures, test_keys, _ = test
    if pictures.names != test_pictures.names:
        unmatched = [
            f"{name} ({'train' if name in pictures.names else 'test'})"
            for name in sorted(set(pictures.names) ^ set(test_pictures.names))
        ]
        raise UserError(
            "The parts to train and to test on have different classes; "
            f"only one has: {', '.join(unmatched)}. Give both the same sub-folders."
        )
    if not wanted:
        return test_pictures
    known_keys = set(test_keys)
    is_new = torch.tensor([key not in known_keys for key in keys])
    if is_new.all():
        return pictures
    warn(
        f"{int((~is_new).sum())} of {len(is_new)} training pictures "
        "are among the test pictures too, and are left out."
    )
    if not is_new.any():
        reason = "All training pictures are among the test pictures too"
        raise UserError(f"{reason}: nothing is left to train on.")
    repeated = [file for file, new in zip(files, is_new.tolist(), strict=True) if not new]
    left_out = {**pictures.remarks.left_out, "also in the test part": repeated}
    return replace(pictures.select(is_new), remarks=replace(pictures.remarks, left_out=left_out))


def ideal_denoiser(pictures, count: int, schedule):
    """The exact denoiser of the first `count` pictures of the training set.

    Args:
        pictures: a function such as `mnist`, called with train=True.
        count: the number of pictures.
        schedule: the noise schedule.
    """
    from expkit.models.analytic import Ideal

    data = pictures(train=True).first(count)
    if data.remarks.text:
        warn(data.remarks.text)
    return Ideal(data.images.float() / 255, data.labels, schedule)
