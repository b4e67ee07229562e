"""Folders of pictures: labels and counts are those of torchvision's ImageFolder, and nothing is left out without a word."""

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from expkit.data import datasets, image_folders
from expkit.errors import UserError

GREY = (1, 8, 8)


def picture(path: Path, shade: int, mode: str = "RGB", **options) -> Path:
    """A flat picture of 12 × 10 pixels; its shade says which one it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10), (shade,) * 3).convert(mode).save(path, **options)
    return path


def whole(place: Path, train: bool = True, **options):
    return datasets.image_folder(train, str(place), **{"size": 8, "colour": False} | options)


def shades(found) -> list[tuple[str, int]]:
    """(class, shade) of every picture, in order."""
    return sorted(
        (found.names[label], int(image.float().mean().round()))
        for image, label in zip(found.images, found.labels, strict=True)
    )


def both(place: Path, **options) -> list[tuple[str, int]]:
    return sorted(shades(whole(place, True, **options)) + shades(whole(place, False, **options)))


def test_classes_labels_and_counts_are_those_of_torchvisions_image_folder(tmp_path):
    from torchvision.datasets import ImageFolder

    top, elsewhere = tmp_path / "top", tmp_path / "elsewhere"
    names = ["10", "2", "a b", "Zürich", "猫"]
    for number, name in enumerate(names):
        for k, file in enumerate(
            ["x.png", "sub/y.JPG", "sub/deep/er/z.webp", "v.PPM", "u.pgm", "t.tiff", "s.bmp"]
        ):
            picture(top / name / file, 30 * number + 4 * k)
        (top / name / "notes.txt").touch()
    picture(elsewhere / "in a linked folder.png", 200)
    picture(elsewhere / "deep" / "linked.png", 210)
    (top / "2" / "linked").symlink_to(elsewhere)
    (top / "a b" / "link.png").symlink_to(picture(tmp_path / "one.png", 220))
    (top / "README").touch()
    theirs = ImageFolder(str(top))
    expected = sorted((theirs.classes[label], image.convert("L").getpixel((0, 0))) for image, label in theirs)
    found = both(top)
    assert (
        list(whole(top).names) == theirs.classes == sorted(names) and len(found) == len(expected) == 5 * 7 + 3
    )
    assert [name for name, _ in found] == [name for name, _ in expected]
    assert all(abs(a - b) <= 3 for (_, a), (_, b) in zip(found, expected, strict=True)), (
        "JPEG and WebP may round a shade"
    )


def test_links_count_once_and_loops_end(tmp_path):
    top = tmp_path / "top"
    for name, shade in (("a", 10), ("b", 100)):
        picture(top / name / "x.png", shade)
        picture(top / name / "sub" / "y.png", shade + 5)
    links = {
        "a/again": "sub",
        "a/same.png": "x.png",
        "a/up": "..",
        "a/sub/here": ".",
        "b/round": "round",
        "c": ".",
    }
    for link, target in links.items():
        (top / link).symlink_to(target)
    assert both(top) == [("a", 10), ("a", 15), ("b", 100), ("b", 105)]
    out = whole(top).remarks.left_out
    assert sorted(out["repeated link"]) == ["a/again", "a/same.png", "a/sub/here", "a/up", "c"] and out[
        "broken link"
    ] == ["b/round"]


def test_what_is_left_out_is_counted_and_named(tmp_path):
    for k in range(6):
        picture(tmp_path / "a" / f"{k}.png", 20 * k)
    for name in ("a/notes.txt", "a/drawing.svg", "a/.DS_Store", "a/Thumbs.db", "readme.md"):
        (tmp_path / name).touch()
    picture(tmp_path / "a" / ".hidden.png", 3)
    picture(tmp_path / "a" / ".cache" / "thumb.png", 4)
    (tmp_path / "a" / "empty.png").touch()
    (tmp_path / "a" / "sub").mkdir()
    Image.effect_noise((40, 40), 64).save(tmp_path / "whole.png")
    (tmp_path / "a" / "sub" / "torn.png").write_bytes((tmp_path / "whole.png").read_bytes()[:700])
    (tmp_path / "whole.png").unlink()
    (tmp_path / "a" / "broken.png").symlink_to("nowhere.png")
    found = whole(tmp_path)
    assert len(both(tmp_path)) == 6
    text = found.remarks.text
    assert (
        "5 that are no pictures (readme.md, a/.DS_Store, a/Thumbs.db, …)" in text
        and "1 broken link (a/broken.png)" in text
    )
    assert "2 hidden (a/.cache, a/.hidden.png)" in text
    assert "2 that cannot be read (a/empty.png: it is empty (0 bytes), a/sub/torn.png: " in text
    counts = {kind: table["count"] for kind, table in found.facts()["left_out"].items()}
    assert counts == {"no picture": 5, "hidden": 2, "broken link": 1, "unreadable": 2}
    assert found.first(2).remarks is found.remarks, "and goes with each part of them"


def test_a_folder_that_is_whole_has_nothing_to_say(tmp_path):
    for k in range(4):
        picture(tmp_path / "a" / f"{k}.png", 20 * k)
        picture(tmp_path / "b" / f"{k}.png", 20 * k + 5)
    assert whole(tmp_path).remarks.text == "" and set(whole(tmp_path).facts()) == {
        "pictures",
        "shape",
        "classes",
        "sha256",
    }


@pytest.mark.parametrize(
    "names", [("train", "test"), ("train", "val"), ("Train", "Validation"), ("TRAIN", "valid")]
)
@pytest.mark.parametrize("classes", [("",), ("a", "b")])
def test_parts_are_flat_or_by_class(names, classes, tmp_path):
    for number, part in enumerate(names):
        for k, name in enumerate(classes):
            picture(tmp_path / "mine" / part / name / "x.png", 100 * number + 10 * k)
            picture(tmp_path / "mine" / part / name / "y.PNG", 100 * number + 10 * k + 5)
    (tmp_path / "mine" / "README.md").touch()
    known = classes if len(classes) > 1 else ("mine",)
    for number, train in enumerate((True, False)):
        expected = sorted(
            (name, 100 * number + 10 * k + more) for k, name in enumerate(known) for more in (0, 5)
        )
        assert (
            shades(whole(tmp_path / "mine", train)) == expected
            and whole(tmp_path / "mine", train).names == known
        )
    assert whole(tmp_path / "mine").remarks.left_out == {"beside the parts": ["README.md"]}


def test_of_several_parts_to_test_on_one_is_taken_and_the_others_are_said(tmp_path):
    for number, part in enumerate(("train", "test", "val")):
        picture(tmp_path / part / "a" / "x.png", 50 * number)
    assert shades(whole(tmp_path, False)) == [("a", 50)]
    assert whole(tmp_path).remarks.text == "left out: 1 beside the parts to train and to test on (val)"


def test_train_alone_is_parted_by_what_is_in_its_pictures(tmp_path):
    for k in range(20):
        picture(tmp_path / "train" / "ab"[k % 2] / f"{k}.png", 10 * k)
    assert (
        whole(tmp_path).names == ("a", "b")
        and len(both(tmp_path)) == 20
        and whole(tmp_path, False).names == ("a", "b")
    )


def test_training_pictures_that_are_test_pictures_too_are_named(tmp_path, stderr):
    for part, kept in (("train", (10, 20, 30)), ("test", (30, 40))):
        for shade in kept:
            picture(tmp_path / part / f"{shade}.png", shade)
    assert [shade for _, shade in shades(whole(tmp_path))] == [10, 20]
    assert (
        whole(tmp_path).remarks.text
        == "left out: 1 to train on that is among the test pictures too (train/30.png)"
    )
    assert "1 of 3 training pictures" in stderr()


def test_equal_pictures_in_two_classes_are_kept_and_said(tmp_path):
    for name, kept in (("a", (10, 20, 30)), ("b", (30, 40, 50))):
        for shade in kept:
            picture(tmp_path / name / f"{shade}.png", shade)
    assert len(both(tmp_path)) == 6
    assert whole(tmp_path).remarks.text == "2 are equal to one of another class (a/30.png, b/30.png)"
    assert whole(tmp_path).facts()["equal_to_another_class"]["count"] == 2


def test_one_class_that_holds_folders_is_said(tmp_path):
    for k in range(12):
        picture(tmp_path / "data" / "ab"[k % 2] / f"{k}.png", 20 * k)
    found = whole(tmp_path)
    assert found.names == ("data",) and found.remarks.text == (
        f"all pictures are of one class, data; for classes of its sub-folders (a, b) give data.folder={tmp_path / 'data'}"
    )


def test_what_the_data_is_does_not_depend_on_the_names_of_its_files(tmp_path):
    for k in range(12):
        picture(
            tmp_path / "one" / "ab"[k % 2] / f"{k:02d}.png", 20 * (k // 2) if k < 4 else 20 * k
        )  # the first are in both classes
        picture(tmp_path / "two" / "ab"[k % 2] / "sub" / f"{99 - k}.PNG", 20 * (k // 2) if k < 4 else 20 * k)
    for train in (True, False):
        assert whole(tmp_path / "one", train).sha256 == whole(tmp_path / "two", train).sha256


MODES = {
    "a.png": "RGBA",
    "b.gif": "P",
    "c.png": "P",
    "d.jpg": "CMYK",
    "e.png": "L",
    "f.bmp": "1",
    "g.tiff": "LA",
}


def test_pictures_of_every_kind_come_in(tmp_path):
    for name, mode in MODES.items():
        picture(tmp_path / name, 255, mode)
    Image.new("I;16", (12, 10), 65535).save(tmp_path / "sixteen.png")
    frames = [Image.new("L", (12, 10), shade) for shade in (255, 90)]
    frames[0].save(tmp_path / "moves.gif", save_all=True, append_images=frames[1:])
    turned = Image.Exif()
    turned[0x0112] = 6
    sideways = Image.new("L", (30, 10), 255)
    sideways.paste(0, (0, 0, 10, 10))
    sideways.save(tmp_path / "turned.png", exif=turned)
    found = torch.cat([whole(tmp_path, train).images for train in (True, False)])
    levels = sorted(image.float().mean().item() for image in found)
    assert len(found) == len(MODES) + 3 and levels[0] < 255 and levels[1:] == [255] * (len(MODES) + 2)
    assert not whole(tmp_path).remarks.left_out


WAYS = {
    "a relative path": lambda place: "mine",
    "home": lambda place: "~/mine",
    "an address": lambda place: place.as_uri(),
    "a trailing slash": lambda place: f"{place}/",
    "a link": lambda place: str(place.parent / "link"),
    "dots": lambda place: str(place / "a" / ".."),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_folder_may_be_named_in_many_ways(way, tmp_path, monkeypatch):
    place = tmp_path / "mine"
    (tmp_path / "link").symlink_to(place)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for k in range(8):
        picture(place / "a" / f"{k}.png", 20 * k)
    assert len(both(WAYS[way](place))) == 8


def test_what_cannot_be_a_folder_of_pictures_is_said(tmp_path, monkeypatch):
    file = picture(tmp_path / "x.png", 3)
    (tmp_path / "broken").symlink_to("nowhere")
    wrong = {
        file: "x.png is a file",
        tmp_path / "broken": "link to what is not there",
        tmp_path / "no": "there is no folder",
    }
    wrong |= {"~no_one/x": "there is no folder ~no_one/x", "x" * 300: "there is no folder"}
    for given, says in wrong.items():
        with pytest.raises(UserError, match=says):
            whole(given)
    picture(tmp_path / "mine" / "train" / "x.png", 3)
    picture(tmp_path / "mine" / "test" / "y.png", 9)
    scandir = os.scandir

    def refusing(closed: str):
        def scan(path="."):
            if Path(path).name == closed:
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        return scan

    for closed in ("mine", "train", "test"):
        monkeypatch.setattr(os, "scandir", refusing(closed))
        with pytest.raises(UserError, match=rf"{closed}\b.* cannot be opened \(Permission denied\)"):
            whole(tmp_path / "mine")
    picture(tmp_path / "classes" / "a" / "x.png", 3)
    picture(tmp_path / "classes" / "a" / "y.png", 30)
    picture(tmp_path / "classes" / "a" / "secret" / "x.png", 9)
    monkeypatch.setattr(os, "scandir", refusing("secret"))
    assert whole(tmp_path / "classes").remarks.left_out == {"closed folder": ["a/secret: Permission denied"]}


def test_a_class_without_a_usable_picture_is_refused_by_name(tmp_path):
    picture(tmp_path / "good" / "x.png", 3)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"no")
    (tmp_path / "bad" / "y.txt").touch()
    says = r"no pictures in the sub-folder bad of .*left out: 1 that is no picture \(bad/y\.txt\), 1 that cannot be read \(bad/x\.png: "
    with pytest.raises(UserError, match=says):
        whole(tmp_path)
    (tmp_path / "bad" / "x.png").unlink()
    (tmp_path / "worse").mkdir()
    with pytest.raises(UserError, match=r"no pictures in the sub-folders bad, worse of"):
        whole(tmp_path)


def test_classes_of_one_part_only_are_refused_by_name(tmp_path):
    for name in ("train/a", "train/b", "test/a", "test/c"):
        picture(tmp_path / name / "x.png", len(name))
    with pytest.raises(UserError, match=r"only one has: b \(train\), c \(test\)"):
        whole(tmp_path)


def test_a_picture_beside_the_parts_is_neither_to_train_nor_to_test_on(tmp_path):
    for name in ("train/x.png", "test/y.png", "z.png"):
        picture(tmp_path / name, len(name))
    with pytest.raises(UserError, match=r"pictures \(z\.png, …\) beside train and test"):
        whole(tmp_path)


def test_a_training_says_in_its_header_and_its_numbers_what_it_left_out(expkit, tmp_path):
    for k in range(20):
        picture(tmp_path / "mine" / "ab"[k % 2] / "sub" / f"{k}.png", 10 * k)
    (tmp_path / "mine" / "a" / "notes.txt").touch()
    (tmp_path / "mine" / "b" / "gone.png").symlink_to("nowhere")
    small = (
        "trainer.network.hidden=8",
        "trainer.epochs=1",
        "trainer.batch_size=8",
        "trainer.show=[]",
        "logger=none",
        "data.size=8",
    )
    done = expkit(
        "task=train", "data=folder", f"data.folder={tmp_path / 'mine'}", "trainer.accelerator=cpu", *small
    )
    assert done.code == 0, done.err
    assert "\n  left out: 1 that is no picture (a/notes.txt), 1 broken link (b/gone.png)\n" in done.err
    for part in ("train", "test"):
        counts = {kind: table["count"] for kind, table in done.numbers()["data"][part]["left_out"].items()}
        assert counts == {"no picture": 1, "broken link": 1}


def test_many_pictures_have_a_bar(tmp_path, monkeypatch):
    import tqdm

    bars, bar = [], tqdm.tqdm
    monkeypatch.setattr(tqdm, "tqdm", lambda *given, **named: bars.append(named) or bar(*given, **named))
    for k in range(3):
        picture(tmp_path / f"{k}.png", 20 * k)
    image_folders.read_folder(tmp_path, GREY, image_folders.Omissions(tmp_path))
    assert [one["desc"] for one in bars] == ["pictures"]
