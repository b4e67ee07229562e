"""What an estimate makes visible is looked at as its algebra says."""

import torch
from PIL import Image

from expkit.core.estimate import anagram, guided, hybrid, triple
from expkit.core.maps import LowPass
from expkit.core.views import Flip, Identity, Negate
from expkit.images import image_io
from expkit.tasks.scoring import Downsampled, readouts_of

DIGITS = ("model=digits", "steps=2", "logger=none", "samples=1")


def test_close_by_comes_first_and_afar_is_as_far_as_the_model_says():
    bands = triple(guided("a"), guided("b"), guided("c"), 2)
    readouts = readouts_of(bands.readings, 5)
    assert list(readouts) == ["near", "middle", "far"]
    assert [one.far for one in readouts.values()] == [False, True, True]
    assert readouts["middle"].through.times == 2 and readouts["far"].through.times == 5
    assert readouts["far"].scaled(4).through.times == 20


def test_an_animation_leads_to_what_is_seen_through_a_view_alone():
    views = {"upright": Identity(), "turned": Flip()}
    parts = anagram({"upright": guided("a"), "turned": guided("b")}, views)
    moving = [one.moving for one in readouts_of(parts.readings, 4).values()]
    assert moving == [False, True]
    nested = readouts_of(hybrid(parts, guided("c"), LowPass(2)).readings, 4)
    assert list(nested) == ["near", "far upright", "far turned"]
    assert not any(one.moving for one in nested.values())
    image = torch.rand(1, 3, 16, 16)
    seen = nested["far turned"].through(image)
    assert torch.equal(seen, Downsampled(4)(Flip()(image)))


def test_two_parts_without_a_name_are_numbered():
    assert list(readouts_of((guided("a") + guided("b")).readings, 4)) == ["picture", "picture 2"]


def test_the_negative_of_a_picture_is_white_where_it_is_black(expkit):
    done = expkit("task=anagram", "view@task.estimate.views.turned=negate", *DIGITS)
    picture = image_io.as_tensor(Image.open(done.folder / "pictures" / "000.png"))
    turned = image_io.as_tensor(Image.open(done.folder / "readings" / "turned_000.png"))
    assert torch.allclose(picture + turned, torch.ones(()), atol=2 / 255) and turned.max() > 0.5
    view = anagram({"turned": guided("a")}, {"turned": Negate()})
    readout = readouts_of(view.readings, 4)["turned"]
    assert torch.allclose(readout.through(picture[None]), 1 - picture[None])


def test_a_hybrid_of_an_anagram_is_read_in_three_ways(expkit):
    nested = "estimate@task.estimate.far=anagram"
    done = expkit("task=hybrid", nested, "upright=3", "turned=8", "near=1", *DIGITS)
    assert set(done.numbers()["judged"]) == {"near", "far upright", "far turned", "all readings"}
