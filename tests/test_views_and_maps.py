"""Views invert and keep noise white; maps are linear; what is written differently but is the same is equal."""

import pytest
import torch
import torch.nn.functional as F

from expkit import maps, preflight, views
from expkit.errors import Refusal
from expkit.schedule import scaled
from tests.conftest import Toy

VIEWS = [
    views.Identity(),
    views.Negate(),
    views.Flip(),
    views.Mirror(),
    views.Rotate180(),
    views.RotateCW(),
    views.RotateCCW(),
    views.Skew(),
    views.Patches(),
    views.InnerCircle(),
    views.then(views.RotateCW(), views.Skew()),
]
MAPS = [
    maps.Identity(),
    maps.LowPass(1.3),
    maps.HighPass(2.0),
    maps.Mask(torch.eye(16)),
    maps.Gray(),
    maps.Colour(),
    maps.LowPass(1) @ maps.Gray(),
    maps.Unseen(views.RotateCW()),
]


@pytest.fixture
def image():
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("view", VIEWS, ids=repr)
def test_inverse_undoes_the_view(view, image):
    before = image.clone()
    assert torch.equal(view.inverse(view(image)), image)
    assert torch.equal(view(view.inverse(image)), image)
    assert torch.equal(view.opposite(view(image)), image)
    assert torch.equal(image, before)


@pytest.mark.parametrize("view", VIEWS, ids=repr)
def test_views_are_orthogonal(view, image):
    other = torch.randn_like(image)
    assert torch.allclose((view(image) * view(other)).sum(), (image * other).sum(), atol=1e-3)


@pytest.mark.parametrize("view", VIEWS, ids=repr)
def test_views_are_values(view):
    assert view == eval(repr(view), vars(views)) and hash(view) == hash(eval(repr(view), vars(views)))
    assert views.then(view, view.opposite) == views.Identity()


def test_moving_back_leaves_signs_alone(image):
    seen = views.then(views.Negate(), views.RotateCW())
    assert torch.equal(seen.unmoved(seen(image)), -image)


def test_what_the_views_are(image):
    corner = torch.zeros(1, 16, 16)
    corner[0, 0, 1] = 1
    at = lambda view: tuple(view(corner)[0].nonzero()[0].tolist())  # noqa: E731
    assert at(views.Flip()) == (15, 1) and at(views.Mirror()) == (0, 14) and at(views.Rotate180()) == (15, 14)
    assert at(views.RotateCW()) == (1, 15) and at(views.RotateCCW()) == (14, 0)


def test_the_same_patches_at_every_resolution(image):
    large = F.interpolate(image, scale_factor=4, mode="nearest")
    assert torch.equal(views.Patches()(large), F.interpolate(views.Patches()(image), scale_factor=4, mode="nearest"))


@pytest.mark.parametrize("linear", MAPS, ids=lambda linear: type(linear).__name__)
def test_maps_are_linear(linear, image):
    other = torch.randn_like(image)
    assert torch.allclose(linear(2 * image - 3 * other), 2 * linear(image) - 3 * linear(other), atol=1e-4)


def test_parts_sum_to_the_whole(image):
    assert torch.allclose(maps.LowPass(2)(image) + maps.HighPass(2)(image), image, atol=1e-6)
    assert torch.allclose(maps.Gray()(image) + maps.Colour()(image), image, atol=1e-6)


def test_the_blur_is_torchvisions(image):
    from torchvision.transforms.functional import gaussian_blur

    assert torch.allclose(maps.LowPass(1.5)(image), gaussian_blur(image, [13, 13], [1.5, 1.5]), atol=1e-6)


def test_the_blur_keeps_a_flat_picture_whatever_its_width():
    flat = torch.full((1, 28, 28), 0.7)
    for sigma in (0, 0.3, 2.6, 30):
        assert torch.allclose(maps.LowPass(sigma)(flat), flat, atol=1e-6)


class Blurred(views.Identity):
    def __call__(self, image):
        return maps.LowPass(1)(image)

    inverse = __call__


def test_a_view_that_is_not_orthogonal_is_refused():
    with pytest.raises(Refusal, match="not orthogonal"):
        preflight.check_view(Blurred(), Toy())


def test_views_that_do_not_fit_the_model_are_refused():
    with pytest.raises(Refusal, match="cannot be cut into 3 × 3"):
        preflight.check_view(views.Patches(3), Toy())
    with pytest.raises(Refusal, match="square"):
        preflight.check_view(views.Flip(), Toy((1, 8, 12)))
    half = Toy(schedule=scaled(100))
    half.range = (0.0, 1.0)
    with pytest.raises(Refusal, match="symmetric about zero"):
        preflight.check_view(views.Negate(), half)
