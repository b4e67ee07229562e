"""Pictures in and out: every mode and size comes in, bytes go out as they came, the recipe travels inside."""

import pytest
import torch
from PIL import Image

from expkit import pictures
from expkit.errors import Refusal
from expkit.sheets import sheet

GREY, COLOUR = (1, 28, 28), (3, 64, 64)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
@pytest.mark.parametrize("shape", [GREY, COLOUR])
def test_every_mode_comes_in(mode, shape, tmp_path):
    name = tmp_path / ("a.tiff" if mode in ("CMYK", "I;16", "F") else "a.png")
    Image.new(mode, (90, 60)).save(name)
    image = pictures.load(str(name), shape)
    assert image.shape == shape and image.min() >= 0 and image.max() <= 1


def test_what_is_transparent_is_white(tmp_path):
    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save(tmp_path / "a.png")
    assert pictures.load(str(tmp_path / "a.png"), COLOUR).min() == 1


def test_the_middle_is_kept_and_exif_is_heeded(tmp_path):
    image = Image.new("L", (84, 28))
    image.paste(255, (28, 0, 56, 14))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "a.png", exif=exif)
    loaded = pictures.load(str(tmp_path / "a.png"), GREY)
    assert loaded[:, :12].max() < 0.1 and loaded[:, 16:].min() > 0.9


def test_a_picture_of_the_models_own_size_comes_in_unchanged_and_goes_out_unchanged(tmp_path):
    bytes_ = torch.randint(256, GREY, dtype=torch.uint8)
    Image.fromarray(bytes_[0].numpy()).save(tmp_path / "a.png")
    loaded = pictures.load(str(tmp_path / "a.png"), GREY)
    pictures.save(pictures.as_image(loaded), tmp_path / "b.png", "gamma: 7")
    assert torch.equal((pictures.load(str(tmp_path / "b.png"), GREY) * 255).round().byte(), bytes_)
    assert pictures.recipe_of(tmp_path / "b.png") == "gamma: 7"


def test_ranges_go_there_and_back():
    image = torch.rand(GREY)
    assert torch.allclose(pictures.from_range(pictures.to_range(image, (-1, 1)), (-1, 1)), image, atol=1e-6)
    assert pictures.from_range(torch.tensor([-9.0, 9.0]), (-1, 1)).tolist() == [0, 1]


def test_a_picture_too_large_is_refused_before_it_is_decoded(tmp_path):
    Image.new("1", (30_000, 30_000)).save(tmp_path / "a.png")
    with pytest.raises(Refusal, match="100 megapixels"):
        pictures.load(str(tmp_path / "a.png"), GREY)


def test_a_cut_off_picture_is_refused(tmp_path):
    Image.effect_noise((200, 200), 90).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:9000])
    with pytest.raises(Refusal, match="cannot be read"):
        pictures.load(str(tmp_path / "a.png"), GREY)


def test_pictures_that_ship_have_names():
    assert pictures.load("smiley", GREY).max() > 0.5
    with pytest.raises(Refusal, match="smiley"):
        pictures.load("smily", GREY)
    assert pictures.load_mask("lower_half", COLOUR).mean() == 0.5


def test_a_picture_without_a_recipe_says_so(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(Refusal, match="holds no recipe"):
        pictures.recipe_of(tmp_path / "a.png")


def test_nothing_half_written_is_left_under_the_name(tmp_path, monkeypatch):
    monkeypatch.setattr(Image.Image, "save", lambda self, path, **_: path.write_bytes(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pictures.save(Image.new("L", (8, 8)), tmp_path / "a.png", "")
    assert not (tmp_path / "a.png").exists()


def test_labels_are_inside_the_sheet():
    rows = [[torch.zeros(GREY)] * 3, [torch.ones(GREY)] * 3]
    page = sheet(rows, ["a rather long label", "b"], ["one", "two words here", "three"], "title " * 30, "note " * 60)
    edge = [page.getpixel((x, y)) for x in range(page.width) for y in (0, page.height - 1)]
    edge += [page.getpixel((x, y)) for y in range(page.height) for x in (0, page.width - 1)]
    assert set(edge) == {(255, 255, 255)}
