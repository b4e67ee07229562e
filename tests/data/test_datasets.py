"""Where pictures to train on come from: torchvision's sets, written here in their format, and folders; and what is said of bad ones."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from expkit.data import datasets, image_folders
from expkit.data.labelled_pictures import Pictures, Remarks
from expkit.errors import UserError
from tests.stand_in import idx


def images(count: int) -> torch.Tensor:
    return torch.randint(
        256, (count, 28, 28), generator=torch.Generator().manual_seed(count), dtype=torch.uint8
    )


def written(
    folder: Path,
    name: str,
    prefix: str = "",
    counts: tuple = (30, 12),
    labels: int | None = None,
    first: int = 0,
) -> None:
    for part, count in zip(("train", "t10k" if not prefix else "test"), counts, strict=True):
        raw = folder / name / "raw"
        idx(raw / f"{prefix}{part}-images-idx3-ubyte", images(count))
        idx(raw / f"{prefix}{part}-labels-idx1-ubyte", torch.arange(labels or count) % 10 + first)


@pytest.mark.parametrize(
    ("kind", "name", "class_"), [("fashion_mnist", "FashionMNIST", "T-shirt/top"), ("kmnist", "KMNIST", "o")]
)
def test_sets_in_torchvisions_format(tmp_path, kind, name, class_):
    written(tmp_path, name)
    train, test = (getattr(datasets, kind)(part, str(tmp_path)) for part in (True, False))
    assert torch.equal(train.images, images(30)[:, None]) and torch.equal(test.images, images(12)[:, None])
    assert (
        train.labels.tolist() == [k % 10 for k in range(30)]
        and train.names[0] == class_
        and len(train.names) == 10
    )
    assert train.first(3).names == train.names


def test_emnist_stands_upright_and_letters_begin_with_a(tmp_path):
    written(tmp_path, "EMNIST", "emnist-letters-", first=1)
    found = datasets.emnist(True, str(tmp_path), split="letters")
    assert (
        torch.equal(found.images[:, 0], images(30).mT)
        and found.names[:2] == ("a", "b")
        and int(found.labels.min()) == 0
    )
    with pytest.raises(UserError, match="no split 'word'"):
        datasets.emnist(True, str(tmp_path), split="word")


def test_other_sizes_and_colours(tmp_path):
    written(tmp_path, "KMNIST")
    large = datasets.kmnist(True, str(tmp_path), size=32, colour=True)
    assert large.images.shape == (30, 3, 32, 32) and torch.equal(large.images[:, 0], large.images[:, 2])
    assert abs(float(large.images.float().mean()) - float(images(30).float().mean())) < 2
    with pytest.raises(UserError, match="multiple of 4"):
        datasets.kmnist(True, str(tmp_path), size=30)


def test_remarks_stay_with_pictures_that_are_resized():
    found = Pictures(images(2)[:, None], torch.tensor([0, 1]), remarks=Remarks(notes=["a note"]))
    assert datasets.resize_pictures(found, 32, True).remarks is found.remarks


def test_files_that_are_not_the_sets(tmp_path):
    written(tmp_path, "KMNIST", labels=29)
    with pytest.raises(UserError, match="30 pictures and 29 labels"):
        datasets.kmnist(True, str(tmp_path))
    written(tmp_path, "MNIST")
    with pytest.raises(UserError, match="is not MNIST's"):
        datasets.mnist(True, str(tmp_path))
    cut = tmp_path / "KMNIST" / "raw" / "train-images-idx3-ubyte"
    cut.write_bytes(cut.read_bytes()[:500])
    with pytest.raises(UserError, match=r"KMNIST is not at .* or cannot be read"):
        datasets.kmnist(True, str(tmp_path))
    with pytest.raises(UserError, match=r"KMNIST is not at .*data.folder=FOLDER"):
        datasets.kmnist(True, str(tmp_path / "nowhere"))


def test_mnists_parts_share_no_picture(mnist):
    train, test = datasets.mnist(True, str(mnist)), datasets.mnist(False, str(mnist))
    assert (len(train.labels), len(test.labels)) == (60_000, 10_000)
    assert not set(image_folders.hash_images(train.images)) & set(image_folders.hash_images(test.images))


def folder_of(place: Path, count: int, first: int = 0) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for k in range(first, first + count):
        Image.new("RGB", (40, 36), (k % 256, k // 256, 90)).save(place / f"{k}.png")


def test_a_folder_is_parted_by_what_is_in_its_pictures(tmp_path):
    folder_of(tmp_path / "cat", 60)
    folder_of(tmp_path / "dog", 60, 100)
    for k in range(60):  # every cat twice, under another name
        (tmp_path / "cat" / f"copy{k}.png").write_bytes((tmp_path / "cat" / f"{k}.png").read_bytes())
    train, test = (datasets.image_folder(part, str(tmp_path)) for part in (True, False))
    assert train.names == ("cat", "dog") and train.images.shape[1:] == (3, 32, 32)
    assert len(train.labels) + len(test.labels) == 180 and 5 <= len(test.labels) <= 40
    assert not set(image_folders.hash_images(train.images)) & set(image_folders.hash_images(test.images))
    assert len(set(train.first(20).labels.tolist())) == 2, "the first so many are of all classes"
    pixel = train.images[:, 0, 0, 0]
    assert torch.equal(train.labels, (pixel >= 100).long())


def test_two_pictures_are_one_to_train_on_and_one_to_test_on(tmp_path):
    folder_of(tmp_path, 2)
    assert [
        len(datasets.image_folder(part, str(tmp_path), size=8, colour=False).labels) for part in (True, False)
    ] == [1, 1]


def test_parts_of_its_own_and_what_is_in_both(tmp_path, stderr):
    folder_of(tmp_path / "train" / "a", 5)
    folder_of(tmp_path / "test" / "a", 2, 4)
    train, test = (datasets.image_folder(part, str(tmp_path)) for part in (True, False))
    assert (len(train.labels), len(test.labels)) == (
        4,
        2,
    ) and "1 of 5 training pictures" in stderr()
    folder_of(tmp_path / "test" / "b", 2, 50)
    with pytest.raises(UserError, match="only one has: b"):
        datasets.image_folder(True, str(tmp_path))


def test_folders_that_cannot_be_trained_on(tmp_path):
    for given, said in (
        (None, "none was named"),
        (str(tmp_path / "no"), "there is no folder"),
        (str(tmp_path), "no pictures in"),
    ):
        with pytest.raises(UserError, match=said):
            datasets.image_folder(True, given)
    folder_of(tmp_path / "cat", 1)
    with pytest.raises(UserError, match="two or more that differ"):
        datasets.image_folder(True, str(tmp_path))
    (tmp_path / "dog").mkdir()
    with pytest.raises(UserError, match="sub-folder dog of"):
        datasets.image_folder(True, str(tmp_path))
    folder_of(tmp_path, 1)
    with pytest.raises(UserError, match="beside sub-folders"):
        datasets.image_folder(True, str(tmp_path))
    (tmp_path / "cat" / "bad.png").write_bytes(b"no picture")
    with pytest.raises(
        UserError,
        match=r"are equal \(left out: 1 that cannot be read \(bad\.png: it is no picture, or is damaged\)\)",
    ):
        datasets.image_folder(True, str(tmp_path / "cat"))


def test_a_folder_trains_and_its_classes_are_sampled(expkit, tmp_path):
    folder_of(tmp_path / "mine" / "cat", 20)
    folder_of(tmp_path / "mine" / "dog", 20, 100)
    small = (
        "trainer.network.hidden=8",
        "trainer.epochs=1",
        "trainer.batch_size=8",
        "trainer.show=[1]",
        "logger=none",
    )
    trained = expkit("task=train", "data=folder", f"data.folder={tmp_path / 'mine'}", "data.size=16", *small)
    assert trained.code == 0, trained.err
    assert trained.numbers()["data"]["train"]["classes"] == ["cat", "dog"]
    weights = f"model.weights={trained.folder / 'model.safetensors'}"
    sampled = expkit("model=trained", weights, "prompt=[cat,dog]", "steps=3", "samples=2", "logger=none")
    assert sampled.code == 0 and len(sampled.numbers()["pictures"]) == 4
    assert Image.open(sampled.folder / "pictures" / "000.png").size == (16, 16)
    unknown = expkit("model=trained", weights, "prompt=bird", "logger=none")
    assert unknown.code == 2 and "cat, dog" in unknown.err
