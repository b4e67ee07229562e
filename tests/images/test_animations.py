"""Pictures that move: exact at both ends, there and back, and whole after the trip through a GIF."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops, ImageSequence

from expkit.core.views import Rotate180, RotateCW
from expkit.images import animations, image_io

GREY, COLOUR = (1, 28, 28), (3, 16, 16)


def same(a: Image.Image, b: Image.Image) -> bool:
    return a.size == b.size and ImageChops.difference(a, b).getbbox() is None


def test_a_turned_picture_is_the_view_of_it_pixel_by_pixel():
    picture = torch.rand(COLOUR)
    for view, degrees in ((Rotate180(), 180), (RotateCW(), 90)):
        there = animations.turn_frames(picture, degrees, side=64, steps=4, hold=1)
        back = animations.turn_frames(view(picture), -degrees, side=64, steps=4, hold=1)
        assert same(there[4], back[0]) and same(there[0], back[4])


def turned(picture):
    return animations.turn_frames(picture, steps=6, hold=2)


def faded(picture):
    return animations.fade_frames(picture, 1 - picture, steps=6, hold=2)


@pytest.mark.parametrize("made", [turned, faded])
def test_frames_go_there_and_back_and_rest_at_both_ends(made):
    frames = made(torch.rand(GREY))
    assert len(frames) == 2 + 5 + 4 + 5 + 1 and len({frame.size for frame in frames}) == 1
    assert same(frames[0], frames[1]) and same(frames[0], frames[-1]) and same(frames[7], frames[10])
    assert all(same(there, back) for there, back in zip(frames[2:7], frames[11:16][::-1], strict=True))
    assert not same(frames[0], frames[7]) and not same(frames[1], frames[2])


def test_a_fade_is_half_of_each_in_the_middle():
    frames = animations.fade_frames(torch.zeros(GREY), torch.ones(GREY), side=28, steps=2, hold=1)
    assert [frame.getpixel((14, 14))[0] for frame in frames] == [0, 127, 255, 255, 127, 0]


def test_captions_stand_below_and_never_move_the_picture():
    black, long = torch.zeros(GREY), "so long a prompt that it needs two lines " * 2
    frames = animations.fade_frames(black, black, ("short", long), side=112, steps=4, hold=1)
    assert len({frame.size for frame in frames}) == 1
    assert all(not np.asarray(frame)[:112].any() for frame in frames)
    below = [np.asarray(frame)[112:] for frame in frames]
    assert (below[0] != below[4]).any() and (below[0].min(), below[4].min()) < (100, 100)
    assert all((rows[-2:] == 255).all() for rows in below)


def test_an_animation_keeps_its_frames_its_times_and_its_recipe(tmp_path):
    frames = animations.turn_frames(torch.rand(GREY), captions=("6", "9"), side=56, steps=5, hold=3)
    recipe = "prompt: größer · 龍\n" * 40
    animations.save_gif(frames, tmp_path / "a.gif", recipe, seconds_per_frame=0.1, seconds_at_end=1.5)
    assert image_io.recipe_of(tmp_path / "a.gif") == recipe
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.info["loop"] == 0
        shown = [(frame.convert("RGB"), frame.info["duration"]) for frame in ImageSequence.Iterator(gif)]
    spread = [image for image, time in shown[:-1] for _ in range(round(time / 100))]
    assert all(same(a, b) for a, b in zip([*spread, shown[-1][0]], frames, strict=True))
    assert shown[-1][1] == 1500 and [path.name for path in tmp_path.iterdir()] == ["a.gif"]


def test_colours_stay_close_in_a_gif(tmp_path):
    photo = image_io.load_image("tower", (3, 64, 64))
    frames = animations.fade_frames(photo, photo.flip(-1), side=64, steps=2, hold=1)
    animations.save_gif(frames, tmp_path / "a.gif", "")
    with Image.open(tmp_path / "a.gif") as gif:
        first = np.asarray(gif.convert("RGB"), dtype=float)
    assert np.abs(first - np.asarray(frames[0], dtype=float)).mean() < 4
