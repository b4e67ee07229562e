"""Pictures in and out: every mode and size comes in, bytes go out as they came, the recipe travels inside."""

import struct
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from expkit.core.denoiser import from_range, to_range
from expkit.errors import UserError
from expkit.images import image_io, sources
from expkit.images.sheets import picture_sheet

GREY, COLOUR = (1, 28, 28), (3, 64, 64)
OURS = ("smiley", "hook", "tower", "cat", "kittens", "sketch_house", "sketch_fish")
MASKS = ("lower_half", "right_half", "centre", "all_but_edge", "circle", "tower_top")


def encoded(format_: str = "PNG", mode: str = "RGB", size=(90, 60), colour=None, **options) -> bytes:
    file = BytesIO()
    Image.new(mode, size, colour or 0).save(file, format_, **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
@pytest.mark.parametrize("shape", [GREY, COLOUR])
def test_every_mode_comes_in(mode, shape, tmp_path):
    name = tmp_path / ("a.tiff" if mode in ("CMYK", "I;16", "F") else "a.png")
    Image.new(mode, (90, 60)).save(name)
    image = image_io.load_image(str(name), shape)
    assert image.shape == shape and image.min() >= 0 and image.max() <= 1


@pytest.mark.parametrize(
    ("size", "contained"),
    [((3000, 2), (160, 1)), ((1, 900), (1, 160)), ((320, 200), (160, 100)), ((8, 4), (160, 80))],
)
def test_the_whole_of_a_picture_is_contained(size, contained):
    assert image_io.contain_image(Image.new("RGB", size), (160, 160)).size == contained


def test_what_is_transparent_is_white(tmp_path):
    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save(tmp_path / "a.png")
    assert image_io.load_image(str(tmp_path / "a.png"), COLOUR).min() == 1


def test_the_middle_is_kept_and_exif_is_heeded(tmp_path):
    image = Image.new("L", (84, 28))
    image.paste(255, (28, 0, 56, 14))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "a.png", exif=exif)
    loaded = image_io.load_image(str(tmp_path / "a.png"), GREY)
    assert loaded[:, :12].max() < 0.1 and loaded[:, 16:].min() > 0.9


def test_a_picture_of_the_models_own_size_comes_in_unchanged_and_goes_out_unchanged(tmp_path):
    bytes_ = torch.randint(256, GREY, dtype=torch.uint8)
    Image.fromarray(bytes_[0].numpy()).save(tmp_path / "a.png")
    loaded = image_io.load_image(str(tmp_path / "a.png"), GREY)
    image_io.save_png(image_io.as_image(loaded), tmp_path / "b.png", "gamma: 7")
    assert torch.equal((image_io.load_image(str(tmp_path / "b.png"), GREY) * 255).round().byte(), bytes_)
    assert image_io.recipe_of(tmp_path / "b.png") == "gamma: 7"


def test_ranges_go_there_and_back():
    image = torch.rand(GREY)
    assert torch.allclose(from_range(to_range(image, (-1, 1)), (-1, 1)), image, atol=1e-6)
    assert from_range(torch.tensor([-9.0, 9.0]), (-1, 1)).tolist() == [0, 1]


def test_a_picture_too_large_is_refused_before_it_is_decoded(tmp_path):
    Image.new("1", (30_000, 30_000)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="100 megapixels"):
        image_io.load_image(str(tmp_path / "a.png"), GREY)


def test_a_cut_off_picture_is_refused(tmp_path):
    Image.effect_noise((200, 200), 90).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:9000])
    with pytest.raises(UserError, match="cannot be read"):
        image_io.load_image(str(tmp_path / "a.png"), GREY)


def test_pictures_that_ship_have_names():
    assert sources.shipped_names() == sorted(OURS + MASKS)
    with pytest.raises(UserError, match=r"Did you mean smiley\?.*kittens"):
        image_io.load_image("smily", GREY)
    assert image_io.load_mask("lower_half", COLOUR).weights.mean() == 0.5


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("shape", [GREY, COLOUR])
def test_our_pictures_are_light_on_dark(name, shape):
    picture = image_io.load_image(name, shape)
    rim = torch.cat([picture[:, 0].flatten(), picture[:, -1].flatten()])
    assert rim.mean() < 0.3 and picture.max() > 0.8 and 0.05 < (picture.mean(0) > 0.5).float().mean() < 0.5


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("side", [28, 64, 256, 512])
def test_our_masks_fit_every_square_model(name, side):
    mask = image_io.load_mask(name, (3, side, side)).weights
    assert mask.shape == (1, side, side) and 0.1 < mask.mean() < 0.9


def test_the_towers_top_is_inside_its_mask():
    tower, mask = (
        image_io.load_image("tower", COLOUR).mean(0),
        image_io.load_mask("tower_top", COLOUR).weights[0],
    )
    lit = tower > 0.6
    assert (
        not (lit[:24] & (mask[:24] == 0)).any()
        and (lit & (mask == 1)).sum() > 100
        and (lit & (mask == 0)).sum() > 100
    )


def test_our_files_are_small():
    assert max(path.stat().st_size for path in sources.ASSETS.glob("*.png")) < 40_000


def test_a_picture_without_a_recipe_says_so(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="holds no recipe"):
        image_io.recipe_of(tmp_path / "a.png")


def test_nothing_half_written_is_left_under_the_name(tmp_path, monkeypatch):
    monkeypatch.setattr(Image.Image, "save", lambda self, path, **_: path.write_bytes(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        image_io.save_png(Image.new("L", (8, 8)), tmp_path / "a.png", "")
    assert not (tmp_path / "a.png").exists()


def test_labels_are_inside_the_sheet():
    rows = [[torch.zeros(GREY)] * 3, [torch.ones(GREY)] * 3]
    page = picture_sheet(
        rows, ["a rather long label", "b"], ["one", "two words here", "three"], "title " * 30, "note " * 60
    )
    edge = [page.getpixel((x, y)) for x in range(page.width) for y in (0, page.height - 1)]
    edge += [page.getpixel((x, y)) for y in range(page.height) for x in (0, page.width - 1)]
    assert set(edge) == {(255, 255, 255)}


def test_levels_of_16_bits_are_scaled_and_numbers_too(tmp_path):
    ramp = np.tile(np.linspace(0, 65535, 64), (64, 1))
    Image.fromarray(ramp.astype(np.uint16)).save(tmp_path / "a.png")
    Image.fromarray((ramp / 65535).astype(np.float32)).save(tmp_path / "b.tiff")
    Image.fromarray((ramp / 257).astype(np.float32)).save(tmp_path / "c.tiff")
    for name in ("a.png", "b.tiff", "c.tiff"):
        loaded = image_io.load_image(str(tmp_path / name), COLOUR)
        torch.testing.assert_close(loaded[0, 0], torch.linspace(0, 1, 64), atol=0.003, rtol=0)
    Image.fromarray(np.full((64, 64), 255, np.uint16)).save(tmp_path / "dark.png")
    assert image_io.load_image(str(tmp_path / "dark.png"), COLOUR).max() < 0.005


def test_a_cmyk_jpeg_has_its_colours(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded("JPEG", "CMYK", colour=(0, 255, 255, 0), quality=95))
    assert [
        round(c, 1) for c in image_io.load_image(str(tmp_path / "a.jpg"), COLOUR)[:, 32, 32].tolist()
    ] == [
        1,
        0,
        0,
    ]


@pytest.mark.parametrize("level", [0, 128, 220, 255])
def test_a_silhouette_on_transparent_ground_never_vanishes(level, tmp_path):
    image = Image.new("LA", (64, 64), (0, 0))
    image.paste((level, 255), (16, 16, 48, 48))
    image.save(tmp_path / "a.png")
    picture = image_io.load_image(str(tmp_path / "a.png"), GREY)[0]
    assert abs(picture[14, 14] - picture[0, 0]) >= 0.4
    assert picture[0, 0] == (0 if level > 200 else 1)


def test_a_palettes_transparent_colour_is_paper(tmp_path):
    image = Image.new("P", (64, 64), 1)
    image.putpalette([0, 0, 0, 9, 9, 9])
    image.paste(0, (16, 16, 48, 48))
    image.save(tmp_path / "a.png", transparency=1)
    picture = image_io.load_image(str(tmp_path / "a.png"), COLOUR)
    assert picture[0, 0, 0] == 1 and picture[0, 32, 32] == 0


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "PNG"])
def test_of_what_moves_the_first_frame_is_used_and_said_once(format_, tmp_path, stderr):
    name = str(tmp_path / f"a.{format_.lower()}")
    red, blue = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue")
    red.save(name, format_, save_all=True, append_images=[blue], duration=100)
    for _ in range(2):
        assert [round(c, 1) for c in image_io.load_image(name, COLOUR)[:, 32, 32].tolist()] == [1, 0, 0]
    assert stderr() == f"The picture {name} moves: the first of its 2 frames is used.\n"


@pytest.mark.parametrize("size", [(1, 1), (3000, 1), (1, 3000), (2, 5), (4000, 30)])
@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("shape", [GREY, COLOUR])
def test_every_size_comes_in(size, fit, shape, tmp_path):
    Image.new("RGB", size, (200, 200, 200)).save(tmp_path / "a.png")
    picture = image_io.load_image(str(tmp_path / "a.png"), shape, fit)
    assert picture.shape == shape and abs(picture.max() - 200 / 255) < 0.01


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_heeded_in_picture_and_size(orientation, tmp_path):
    upright = Image.new("L", (40, 20))
    upright.paste(255, (0, 0, 10, 10))
    stored = {2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}.get(
        orientation, []
    )  # the transpositions that EXIF undoes
    exif = Image.Exif()
    exif[0x0112] = orientation
    for how in stored:
        upright = upright.transpose(Image.Transpose(how))
    upright.save(tmp_path / "a.png", exif=exif)
    name = str(tmp_path / "a.png")
    assert sources.image_size(name) == sources.open_rgb(name).size == (40, 20)
    assert (
        image_io.load_image(name, (1, 20, 40))[0, 4, 4] > 0.9
        and image_io.load_image(name, (1, 20, 40))[0, 14, 34] < 0.1
    )


def test_crop_keeps_the_middle_and_pad_the_whole(tmp_path):
    image = Image.new("RGB", (120, 60), "lime")
    ImageDraw.Draw(image).rectangle((0, 0, 119, 4), fill="blue")
    ImageDraw.Draw(image).rectangle((0, 55, 119, 59), fill="red")
    ImageDraw.Draw(image).rectangle((0, 20, 9, 39), fill="white")
    image.save(tmp_path / "a.png")
    crop, pad, grey = (
        image_io.load_image(str(tmp_path / "a.png"), *how)
        for how in [(COLOUR,), (COLOUR, "pad"), (GREY, "pad")]
    )
    assert crop[:, 32, 0].tolist() == [0, 1, 0]
    assert (
        pad[2, 32, 1] > 0.9 and pad[:, 0, 32].argmax() == 2 and pad[:, -1, 32].argmax() == 0
    )  # each band like the edge it goes on from
    assert (
        torch.equal(pad[:, 0], pad[:, 15])
        and torch.equal(pad[:, 48], pad[:, -1])
        and pad[:, 32, 32].tolist() == [0, 1, 0]
    )
    assert grey[0, :7].max() == grey[0, 21:].max() == 0 and grey[0, 14, 14] > 0.3


def test_padding_a_square_is_cropping_it(tmp_path):
    for name in ("cat", "hook"):
        assert torch.equal(image_io.load_image(name, COLOUR, "pad"), image_io.load_image(name, COLOUR))


@pytest.mark.parametrize("photo", ["chelsea.png", "coffee.png", "rocket.jpg", "horse.png", "camera.png"])
def test_photographs_come_in(photo, photos):
    for shape in (GREY, COLOUR):
        for fit in ("crop", "pad"):
            picture = image_io.load_image(str(photos / photo), shape, fit)
            assert picture.shape == shape and picture.std() > 0.1


def test_a_mask_of_the_pictures_own_size_is_fitted_as_the_picture_is(tmp_path):
    horse, other = str(tmp_path / "horse.png"), str(tmp_path / "rocket.jpg")
    drawn = Image.new("L", (400, 328), 255)
    ImageDraw.Draw(drawn).ellipse((60, 40, 330, 300), fill=0)
    drawn.save(horse)
    Image.new("RGB", (640, 427), "grey").save(other)
    for fit in ("crop", "pad"):
        mask, picture = (
            image_io.load_mask(horse, COLOUR, fit, [horse]).weights,
            image_io.load_image(horse, COLOUR, fit),
        )
        inside = slice(7, 57) if fit == "pad" else slice(None)  # bands are kept
        clear = (picture.mean(0) - 0.5).abs()[inside] > 0.4
        assert ((mask[0] > 0.5) == (picture.mean(0) > 0.5))[inside][clear].float().mean() > 0.99
        assert fit == "crop" or mask[0, :5].max() == 0
    for of in ([], [other], [horse, other]):
        with pytest.raises(UserError, match="400 × 328 pixels; this model's pictures are 64 × 64"):
            image_io.load_mask(horse, COLOUR, "crop", of)
    with pytest.raises(UserError, match="or of the picture's own 640 × 427"):
        image_io.load_mask(horse, COLOUR, "crop", [other])


HALF = np.zeros((280, 280), np.uint8)  # the lower half is to be repainted
HALF[140:] = 255


def layer(colour) -> Image.Image:
    """A layer that is transparent but for its lower half."""
    image = Image.new("RGBA", (280, 280))
    image.paste(colour, (0, 140, 280, 280))
    return image


def erased(mode: str = "RGB", blur: float = 0) -> Image.Image:
    """A photograph, or what is as colourful, whose lower half was erased."""
    photo = Image.merge(
        "RGB", [Image.radial_gradient("L").resize((280, 280)).rotate(turn) for turn in (0, 30, 60)]
    )
    photo.paste("orange", (90, 0, 190, 280))
    photo = photo.convert(mode)
    photo.putalpha(Image.fromarray(255 - HALF).filter(ImageFilter.GaussianBlur(blur)))
    return photo


def speckled() -> Image.Image:
    """A mask a few of whose pixels an editor has left a little transparent."""
    image = PLAIN.convert("RGBA")
    image.paste((255, 255, 255, 110), (3, 278, 12, 279))
    return image


def scanned(dark, light, noise: float) -> Image.Image:
    """A mask as a scanner sees it."""
    paper = np.stack([np.interp(HALF, [0, 255], both) for both in zip(dark, light, strict=True)], -1)
    return Image.fromarray(
        (paper + np.random.default_rng(0).normal(0, noise, paper.shape)).clip(0, 255).astype(np.uint8)
    )


def file_of(image: Image.Image, format_: str, **options) -> bytes:
    file = BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


TURNED = Image.Exif()
TURNED[0x0112] = 6
PLAIN, DEEP = Image.fromarray(HALF), Image.fromarray(HALF.astype(np.uint16) * 257)
WHITE, ERASED, STROKES = (
    "mask: white",
    "mask: what is transparent in it",
    "mask: what is drawn in white on transparent ground",
)
READ = {
    "grey": (file_of(PLAIN, "PNG"), WHITE),
    "1 bit": (file_of(PLAIN.convert("1"), "PNG"), WHITE),
    "palette": (file_of(PLAIN.convert("P"), "PNG"), WHITE),
    "16 bits": (file_of(DEEP, "PNG"), WHITE),
    "JPEG": (file_of(PLAIN.convert("RGB"), "JPEG", quality=60), WHITE),
    "CMYK": (file_of(PLAIN.convert("CMYK"), "TIFF"), WHITE),
    "turned": (file_of(PLAIN.rotate(90), "PNG", exif=TURNED), WHITE),
    "moving": (file_of(PLAIN, "GIF", save_all=True, append_images=[Image.new("L", PLAIN.size, 255)]), WHITE),
    "tinted scan": (file_of(scanned((30, 26, 24), (250, 240, 215), 3), "JPEG"), WHITE),
    "grey scan": (file_of(scanned((35,) * 3, (238,) * 3, 4), "JPEG"), WHITE),
    "half opaque": (file_of(Image.merge("LA", [PLAIN, Image.new("L", PLAIN.size, 128)]), "PNG"), WHITE),
    "stray": (file_of(speckled(), "PNG"), WHITE),
    "white strokes": (file_of(layer("white"), "PNG"), STROKES),
    "black is tRNS": (file_of(PLAIN, "PNG", transparency=0), STROKES),
    "photograph": (file_of(erased(), "PNG"), ERASED),
    "grey photograph": (file_of(erased("L"), "PNG"), ERASED),
    "WebP": (file_of(erased(), "WEBP"), ERASED),
    "palette photograph": (file_of(erased().quantize(64), "PNG"), ERASED),
    "GIF": (file_of(erased(), "GIF"), ERASED),
    "light photograph": (file_of(ImageOps.flip(layer((235, 225, 215))), "PNG"), ERASED),
    "black strokes": (file_of(ImageOps.flip(layer("black")), "PNG"), ERASED),
    "white is tRNS": (file_of(PLAIN, "PNG", transparency=255), ERASED),
    "16 bits tRNS": (file_of(DEEP, "PNG", transparency=65535), ERASED),
}


@pytest.mark.parametrize("name", READ)
def test_what_a_mask_marks_is_read_as_editors_write_it_and_said(name, tmp_path):
    content, says = READ[name]
    (tmp_path / "mask").write_bytes(content)
    mask = image_io.load_mask(str(tmp_path / "mask"), GREY)
    assert torch.equal(mask.weights[0, :14], torch.zeros(14, 28)) and torch.equal(
        mask.weights[0, 14:], torch.ones(14, 28)
    )
    assert str(mask).startswith(says) and "repainted, 50% of the picture;" in str(mask)


@pytest.mark.parametrize(
    "blurred", [PLAIN.filter(ImageFilter.GaussianBlur(30)), erased(blur=30)], ids=["grey", "alpha"]
)
def test_a_soft_mask_stays_soft(blurred, tmp_path):
    blurred.save(tmp_path / "mask.png")
    mask = image_io.load_mask(str(tmp_path / "mask.png"), GREY)
    line = mask.weights[0, :, 14]
    wanted = (
        np.asarray(PLAIN.filter(ImageFilter.GaussianBlur(30)), dtype=np.float32)[:, 140]
        .reshape(28, 10)
        .mean(1)
        / 255
    )
    assert (line - torch.from_numpy(wanted)).abs().max() < 0.04 and 6 < ((line > 0) & (line < 1)).sum() < 22
    assert line[0] == 0 and line[-1] == 1 and (line.diff() >= 0).all() and "of it in part" in str(mask)


def test_grey_levels_are_weights(tmp_path):
    grey = Image.new("L", (28, 28), 64)
    grey.paste(250, (0, 0, 14, 28))  # as near to white as JPEG's noise
    grey.paste(3, (0, 0, 14, 14))
    grey.save(tmp_path / "a.png")
    assert image_io.load_mask(str(tmp_path / "a.png"), GREY).weights.unique().tolist() == pytest.approx(
        [0, 64 / 255, 1]
    )


NO_MASK = {
    "a colour photograph": (file_of(erased().convert("RGB"), "JPEG"), "picture in colour, not a mask"),
    "a pale one": (
        file_of(Image.new("RGB", (280, 280), (235, 225, 215)), "PNG"),
        "picture in colour, not a mask",
    ),
    "red strokes": (file_of(layer("red").convert("RGB"), "PNG"), "picture in colour, not a mask"),
    "nothing": (file_of(Image.new("RGBA", (280, 280)), "PNG"), "wholly transparent"),
    "one grey": (file_of(Image.new("L", (280, 280), 128), "PNG"), "all of one grey"),
    "black but for noise": (file_of(Image.new("L", (280, 280), 6), "JPEG"), "repaints nothing"),
}


@pytest.mark.parametrize("name", NO_MASK)
def test_what_is_no_mask_is_refused(name, tmp_path):
    content, says = NO_MASK[name]
    (tmp_path / "mask").write_bytes(content)
    with pytest.raises(UserError, match=says):
        image_io.load_mask(str(tmp_path / "mask"), GREY)


def test_an_erased_part_that_the_fit_leaves_out_marks_nothing(tmp_path):
    image = Image.new("RGBA", (560, 280), "orange")
    image.paste((0, 0, 0, 0), (0, 0, 100, 280))
    image.save(tmp_path / "a.png")
    name = str(tmp_path / "a.png")
    with pytest.raises(UserError, match="marks no part of what fit=crop leaves of it"):
        image_io.load_mask(name, GREY, "crop", [name])
    assert image_io.load_mask(name, GREY, "pad", [name]).weights.max() == 1


@pytest.mark.parametrize(("side", "coarse"), [(32, 2), (64, 1), (96, 2), (128, 1)])
def test_a_mask_that_fits_the_first_stage_fits_the_second(side, coarse, tmp_path):
    PLAIN.resize((side, side), Image.Resampling.NEAREST).save(tmp_path / "a.png")
    first, second = (
        image_io.load_mask(str(tmp_path / "a.png"), (3, 32 * times, 32 * times), times=times)
        for times in (1, 2)
    )
    assert torch.equal(first.weights.repeat_interleave(2, 1).repeat_interleave(2, 2), second.weights)
    assert second.coarse == coarse and ("each pixel of the mask is 2 × 2 here" in str(second)) == (
        coarse == 2
    )


def test_it_is_said_what_of_a_picture_is_transparent(tmp_path):
    layer("red").save(tmp_path / "a.png")
    layer("white").save(tmp_path / "b.png")
    PLAIN.save(tmp_path / "c.png")
    for name, says in (("a", "50% of the picture, is laid on white"), ("b", "is laid on black"), ("c", "")):
        assert says in sources.transparency_note(str(tmp_path / f"{name}.png"))
    assert sources.transparency_note(str(tmp_path / "c.png")) == sources.transparency_note("cat") == ""


def cut_short() -> bytes:
    file = BytesIO()
    Image.effect_noise((200, 200), 90).save(file, "PNG")
    return file.getvalue()[:9000]


def bomb() -> bytes:
    """A GIF of 8 × 8 whose second frame says it is 65535 × 65535."""
    file = BytesIO()
    Image.new("P", (8, 8)).save(file, "GIF", save_all=True, append_images=[Image.new("P", (8, 8), 1)])
    head, _, tail = file.getvalue().rpartition(b"\x2c\0\0\0\0")
    return head + b"\x2c\0\0\0\0" + struct.pack("<HH", 65535, 65535) + tail[4:]


BAD = {
    "empty.png": (b"", "empty"),
    "broken.png": (b"\x89PNG\r\n\x1a\n" + b"x" * 99, "cannot be read"),
    "cut_short.png": (cut_short(), "truncated"),
    "page.png": (b"\xef\xbb\xbf \n<!DOCTYPE html><html></html>", "web page"),
    "drawing.svg": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    "text.png": (b"hello", "it is no picture"),
    "script.eps": (encoded("EPS"), "it is no picture"),
    "bomb.gif": (bomb(), "100 megapixels"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_with_a_sentence(name, tmp_path):
    content, says = BAD[name]
    (tmp_path / name).write_bytes(content)
    for ask in (lambda n: image_io.load_image(n, GREY), lambda n: image_io.load_mask(n, GREY)):
        with pytest.raises(UserError, match=says) as refused:
            ask(str(tmp_path / name))
        assert name in str(refused.value) and "BytesIO" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (".", "is a folder"),
        ("ftp://a/b.png", "ftp:"),
        ("data:image/png;base64," + "A" * 9000, "data:"),
        ("x" * 9000, "no picture"),
    ],
)
def test_what_is_no_picture_at_all_is_refused(name, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=says):
        image_io.load_image(name, GREY)


ANSWERS = {
    "/cat.png": (200, "image/png", encoded(colour="red")),
    "/no type": (200, None, encoded("JPEG", colour="red")),
    "/page": (200, "text/html", b"<!doctype html><title>A cat</title>"),
    "/nothing.png": (200, "image/png", b""),
    "/cut_short.png": (200, "image/png", cut_short()),
    "/long.png": (200, "image/png", b"\x89PNG" + b"0" * 3000),
    "/missing.png": (404, "text/html", b"<html>nothing here</html>"),
    "/broken.png": (500, "text/plain", b""),
    "/moved.png": (302, "/cat.png", b""),
    "/file.png": (302, "file:///etc/hostname", b""),
    "/ftp.png": (302, "ftp://127.0.0.1/cat.png", b""),
    "/loop.png": (302, "/loop.png", b""),
}


@pytest.fixture
def server(monkeypatch):
    """A server on this machine: its address, and in `.asked` the requests it had."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers["User-Agent"]))
            if self.path == "/slow.png":
                time.sleep(1)
            if self.path == "/drip.png":
                return self.drip()
            status, about, body = ANSWERS.get(self.path.replace("%20", " "), (404, None, b""))
            self.send_response(status)
            if about:
                self.send_header("Location" if status == 302 else "Content-Type", about)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def drip(self):
            self.send_response(200)
            self.end_headers()
            for _ in range(20):
                self.wfile.write(b"x")
                time.sleep(0.05)

        def handle(self):
            with suppress(BrokenPipeError, ConnectionResetError):  # who asked has heard enough
                super().handle()

        def log_message(self, *_):
            pass

    monkeypatch.setenv("no_proxy", "*")
    sources.fetch_url.cache_clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.asked = True, asked
    server.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("path", ["/cat.png", "/no type", "/moved.png", "/cat.png#top"])
def test_a_url_is_fetched_once(path, server):
    for _ in range(2):
        assert image_io.load_image(server.address + path, COLOUR)[:, 32, 32].round().tolist() == [1, 0, 0]
    assert len(server.asked) == (2 if "moved" in path else 1)
    assert all(agent.startswith("expkit/") for _, agent in server.asked)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/missing.png", "404 Not Found"),
        ("/broken.png", "500 Internal Server Error"),
        ("/page", "web page"),
        ("/nothing.png", "empty"),
        ("/cut_short.png", "truncated"),
        ("/loop.png", "302"),
        ("/file.png", "not allowed"),
        ("/ftp.png", "neither http nor https"),
    ],
)
def test_bad_answers_are_refused_with_a_sentence(path, says, server):
    with pytest.raises(UserError, match=says) as refused:
        image_io.load_image(server.address + path, COLOUR)
    assert server.address in str(refused.value)


def test_servers_that_are_slow_long_or_absent_are_refused(server, monkeypatch):
    monkeypatch.setattr(sources, "PATIENCE", 0.2)
    with pytest.raises(UserError, match=r"nothing was heard for 0\.2 seconds"):
        image_io.load_image(server.address + "/slow.png", COLOUR)
    monkeypatch.setattr(sources, "MAX_SECONDS", 0.1)
    with pytest.raises(UserError, match=r"takes more than 0\.1 seconds"):
        image_io.load_image(server.address + "/drip.png", COLOUR)
    monkeypatch.setattr(sources, "MOST_BYTES", 2000)
    with pytest.raises(UserError, match="more than 0 MB"):
        image_io.load_image(server.address + "/long.png", COLOUR)
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match=r"cannot be fetched: .*refused"):
        image_io.load_image(server.address + "/cat.png", COLOUR)


@pytest.mark.parametrize(
    "url",
    ["http://", "http:///a.png", "http://127.0.0.1:port/a.png", "https://[::1/a.png", "http://a b/c.png"],
)
def test_malformed_urls_are_refused(url, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(UserError, match="cannot be fetched"):
        image_io.load_image(url, COLOUR)


def test_file_urls_are_paths(tmp_path):
    (tmp_path / "a cat.png").write_bytes(encoded(colour="red"))
    url = (tmp_path / "a cat.png").as_uri()
    assert "%20" in url and image_io.load_image(url, COLOUR)[0].min() == 1
    with pytest.raises(UserError, match="no picture"):
        image_io.load_image(url + "x", COLOUR)
