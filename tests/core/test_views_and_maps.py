"""Views invert and keep noise white; maps are linear; what is written differently but is the same is equal."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from expkit.config import checks
from expkit.core import maps, views
from expkit.core.schedules import linear_rescaled
from expkit.errors import UserError
from expkit.tasks import preflight
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
    views.Patches(16),
    views.SquareHinge(),
    views.SquareHinge(3),
    views.Jigsaw(),
    views.VisualAnagramsJigsaw(),
    views.VisualAnagramsJigsaw(0),
    views.InnerCircle(),
    views.compose(views.RotateCW(), views.Skew()),
]
FAILURES = [views.Blur(), views.WhiteBalance(), views.RotateInterpolated()]
MAPS = [
    maps.IdentityMap(),
    maps.LowPass(1.3),
    maps.high_pass(2.0),
    maps.Band(1, 2),
    maps.Motion(),
    maps.without_motion(),
    maps.Mask(torch.eye(16)),
    maps.Complement(maps.Mask(torch.eye(16))),
    maps.Gray(),
    maps.Complement(maps.Gray()),
    maps.Scale(0.3),
    maps.LowPass(1) @ maps.Gray(),
    maps.InverseView(views.RotateCW()),
]


@pytest.fixture
def image():
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("view", VIEWS, ids=repr)
def test_inverse_undoes_the_view(view, image):
    before = image.clone()
    assert torch.equal(view.inverse(view(image)), image)
    assert torch.equal(view(view.inverse(image)), image)
    assert torch.equal(view.inverse_view(view(image)), image)
    assert torch.equal(image, before)


@pytest.mark.parametrize("view", VIEWS, ids=repr)
def test_views_are_orthogonal(view, image):
    other = torch.randn_like(image)
    assert torch.allclose((view(image) * view(other)).sum(), (image * other).sum(), atol=1e-3)


@pytest.mark.parametrize("view", VIEWS, ids=repr)
def test_views_are_values(view):
    assert view == eval(repr(view), vars(views)) and hash(view) == hash(eval(repr(view), vars(views)))
    assert views.compose(view, view.inverse_view) == views.Identity()


def test_moving_back_leaves_signs_alone(image):
    seen = views.compose(views.Negate(), views.RotateCW())
    assert torch.equal(seen.unpermute(seen(image)), -image)


def test_what_the_views_are(image):
    corner = torch.zeros(1, 16, 16)
    corner[0, 0, 1] = 1
    at = lambda view: tuple(view(corner)[0].nonzero()[0].tolist())
    assert at(views.Flip()) == (15, 1) and at(views.Mirror()) == (0, 14) and at(views.Rotate180()) == (15, 14)
    assert at(views.RotateCW()) == (1, 15) and at(views.RotateCCW()) == (14, 0)


@pytest.mark.parametrize(
    "view", [views.Patches(), views.Patches(16), views.Flip(), views.RotateCW()], ids=repr
)
def test_the_same_permutation_at_every_resolution(view, image):
    large = F.interpolate(image, scale_factor=4, mode="nearest")
    assert torch.equal(view(large), F.interpolate(view(image), scale_factor=4, mode="nearest"))


@pytest.mark.parametrize("side", [28, 64, 256])
def test_a_jigsaw_moves_every_pixel_to_one_place_and_pieces_whole(side):
    puzzle, pixels = views.Jigsaw(), torch.arange(side * side).view(1, side, side)
    assert torch.equal(puzzle(pixels).flatten().sort().values, pixels.flatten())
    owners = puzzle.owners(side)
    came, seen = puzzle(owners[None])[0], set()
    for piece in range(16):
        origin = came[owners == piece].unique()
        assert len(origin) == 1 and origin != piece  # a piece fits exactly where another one was
        seen.add(int(origin))
    assert seen == set(range(16))


def test_a_jigsaw_has_corners_at_the_corners_and_knobs_on_every_inner_edge():
    cells, owners = torch.arange(16).view(4, 4), views.Jigsaw().owners(64)
    place = torch.arange(64) // 16
    came = views.Jigsaw()(owners[None])[0][8::16, 8::16]
    kinds = torch.tensor([[0, 1, 2, 0], [2, 3, 3, 1], [1, 3, 3, 2], [0, 2, 1, 0]])
    assert torch.equal(
        kinds.flatten()[came], kinds
    )  # corners from corners, left borders from left borders, …
    strangers = {
        (int(a), int(b))
        for a, b in zip(owners.flatten(), cells[place][:, place].flatten(), strict=True)
        if a != b
    }
    assert len({frozenset(pair) for pair in strangers}) == 24


def test_a_jigsaw_of_older_pictures_is_what_it_was():
    """Its recipes name no seed, and those of hinged squares not how many there are across."""
    turns, owners = views.Jigsaw().turns(), views.Jigsaw().owners(64)
    assert turns.tolist() == [[1, 1, 2, 2], [2, 3, 1, 1], [1, 2, 2, 3], [3, 1, 1, 2]]
    assert torch.bincount(owners.flatten()).tolist() == [
        200,
        228,
        340,
        200,
        340,
        256,
        256,
        228,
        228,
        256,
        256,
        340,
        200,
        340,
        228,
        200,
    ]
    assert views.SquareHinge() == views.SquareHinge(4)
    assert {
        "expkit.core.Jigsaw",
        "expkit.core.SquareHinge",
        "expkit.core.triple",
    } <= checks.known_targets()


def test_a_jigsaw_is_cut_alike_at_every_resolution():
    small, large = views.Jigsaw().owners(64), views.Jigsaw().owners(256)
    assert (small == large[2::4, 2::4]).float().mean() > 0.97


def test_hinged_squares_turn_in_place_and_neighbours_the_other_way(image):
    seen = views.SquareHinge(2)(image)
    assert torch.equal(seen[..., :8, :8], image[..., :8, :8].rot90(-1, (-2, -1)))
    assert torch.equal(seen[..., :8, 8:], image[..., :8, 8:].rot90(1, (-2, -1)))
    assert torch.equal(seen[..., 8:, 8:], image[..., 8:, 8:].rot90(-1, (-2, -1)))


def published_hinge(side):
    """Visual anagrams: 3 × 3 squares of side // 3 pixels make a quarter turn, clockwise where row + column is even; the rest stays."""
    places, width = torch.arange(side * side).view(side, side), side // 3
    for row, column in itertools.product(range(3), range(3)):
        square = places[row * width : (row + 1) * width, column * width : (column + 1) * width]
        square[:] = square.rot90(-1 if (row + column) % 2 == 0 else 1)
    return places


@pytest.mark.parametrize("side", [28, 64, 256])
def test_three_hinged_squares_are_those_of_visual_anagrams(side):
    assert torch.equal(
        views.SquareHinge(3)(torch.arange(side * side).view(side, side)), published_hinge(side)
    )


def test_hinged_squares_where_two_lines_are_left_over():
    """7 = 2 + 2 + 3 less a line; 5 = 1 + 2 + 2, where the largest square of every part turns."""
    seven = views.SquareHinge(3)(torch.arange(49).view(7, 7))
    assert seven[:2, :6].tolist() == [[7, 0, 3, 10, 11, 4], [8, 1, 2, 9, 12, 5]] and seven[
        6
    ].tolist() == list(range(42, 49))
    five = views.SquareHinge(3)(torch.arange(25).view(5, 5))
    assert five.tolist() == [
        [0, 1, 2, 3, 4],
        [5, 11, 6, 9, 14],
        [10, 12, 7, 8, 13],
        [15, 17, 22, 23, 18],
        [20, 16, 21, 24, 19],
    ]


@pytest.mark.parametrize("across", [0, -1, 9])
def test_squares_that_a_picture_does_not_have_are_refused(across):
    with pytest.raises(UserError, match="squares across: give 1 to 8"):
        preflight.check_view(views.SquareHinge(across), Toy())


WRONG = [views.SquareHinge("a"), views.VisualAnagramsJigsaw("a"), views.Patches(2, "a"), views.Skew("a")]


@pytest.mark.parametrize("view", WRONG, ids=repr)
def test_arguments_of_another_type_are_refused_in_a_sentence(view):
    with pytest.raises(
        UserError, match=f"view {type(view).__name__} cannot work with what it was given, .*'a'"
    ):
        preflight.check_view(view, Toy())


# For 16 places, c0 … c3, i0 … i3, e0 … e3, f0 … f3: the piece that is seen there. numpy's RandomState(seed) draws an order of the corners,
# of the inner pieces, of e and of f, then for each border whether e and f change places: seed 0 draws 2310 0213 3021 1023 and 0001.
PUBLISHED = {
    0: ["c2", "c3", "c1", "c0", "i0", "i2", "i1", "i3", "f3", "e0", "e2", "e1", "f1", "f0", "f2", "e3"],
    1: ["c3", "c2", "c0", "c1", "i0", "i2", "i1", "i3", "f3", "e2", "f0", "e1", "f2", "e3", "e0", "f1"],
    11: ["c2", "c3", "c0", "c1", "i2", "i0", "i3", "i1", "e3", "f0", "f2", "e1", "f3", "e2", "e0", "f1"],
}


@given(st.integers(0, 2**32 - 1))
def test_orders_are_drawn_as_by_numpy(seed):
    ours, theirs = views.mersenne_twister(seed), np.random.RandomState(seed)
    assert [views.permutation(n, ours) for n in (4, 16, 5)] == [
        theirs.permutation(n).tolist() for n in (4, 16, 5)
    ]
    assert [ours.getrandbits(32) & 1 for _ in range(4)] == theirs.randint(2, size=4).tolist()


NAMES = [f"{kind}{turn}" for kind in "cief" for turn in range(4)]
LAYOUT = [
    ["c0", "e0", "f0", "c1"],
    ["f3", "i0", "i1", "e1"],
    ["e3", "i3", "i2", "f1"],
    ["c3", "f2", "e2", "c2"],
]


@pytest.mark.parametrize("seed", PUBLISHED)
@pytest.mark.parametrize("side", [28, 32, 64, 256])
def test_the_jigsaw_of_visual_anagrams_moves_the_published_pieces_whole(seed, side):
    puzzle, pixels = views.VisualAnagramsJigsaw(seed), torch.arange(side * side).view(1, side, side)
    owners, seen = puzzle.owners(side).flatten(), puzzle(pixels).flatten()
    assert torch.equal(seen.sort().values, pixels.flatten())
    for place, piece in enumerate(PUBLISHED[seed]):
        assert [NAMES[k] for k in owners[seen][owners == place].unique()] == [piece]


def test_the_jigsaw_of_visual_anagrams_is_cut_into_the_published_pieces():
    for side in (32, 64, 256):
        sizes = torch.bincount(views.VisualAnagramsJigsaw().owners(side).flatten()) * 64**2 / side**2
        assert sizes.tolist() == [256] * 4 + [224] * 4 + [272] * 8
    owners = views.VisualAnagramsJigsaw().owners(64)
    assert [
        [NAMES[owners[16 * row + 8, 16 * column + 8]] for column in range(4)] for row in range(4)
    ] == LAYOUT
    pixels = {
        name: {tuple(place) for place in (owners == k).nonzero().tolist()} for k, name in enumerate(NAMES)
    }
    assert {(y, x + 16) for y, x in pixels["e0"]} == pixels["f0"]  # so that they may change places
    for kind, turn in itertools.product("cief", range(3)):
        assert {(x, 63 - y) for y, x in pixels[f"{kind}{turn}"]} == pixels[
            f"{kind}{turn + 1}"
        ]  # a quarter turn clockwise


def test_what_a_swap_on_a_border_does():
    """Seed 0, place e0: the order of e has 3 first, and on border 3 e and f change places: it shows f3, the piece above e3 at the left."""
    seen = views.VisualAnagramsJigsaw(0)(torch.arange(64 * 64).view(64, 64))
    assert divmod(int(seen[8, 24]), 64) == (
        16 + 7,
        8,
    )  # the middle of e0, (8, 24), a quarter turn back: (39, 8), and sixteen pixels up


def test_a_jigsaw_of_a_side_that_has_no_quarters_is_refused():
    with pytest.raises(UserError, match="multiple of 4"):
        preflight.check_view(views.VisualAnagramsJigsaw(), Toy((1, 30, 30)))


def test_the_other_views_are_those_of_visual_anagrams():
    """Column i rolled by int(1.5 (i − 32)); torch's own shuffle of 8 × 8 patches and of 64 × 64 pixels; half a turn within 24 pixels."""
    x = torch.arange(64 * 64).view(64, 64)
    assert torch.equal(
        views.Skew()(x), torch.stack([x[:, i].roll(int(1.5 * (i - 32))) for i in range(64)], 1)
    )
    for across in (8, 64):
        order = torch.randperm(across**2, generator=torch.Generator().manual_seed(5))
        wide = 64 // across
        patches = [x[k // across * wide :, k % across * wide :][:wide, :wide] for k in order]
        rows = [torch.cat(patches[k : k + across], 1) for k in range(0, across**2, across)]
        assert torch.equal(views.Patches(across, 5)(x), torch.cat(rows))
    y, z = torch.meshgrid(*[torch.arange(64) - 31.5] * 2, indexing="ij")
    assert torch.equal(views.InnerCircle()(x), torch.where(y**2 + z**2 < 24**2, x.flip(0, 1), x))


@pytest.mark.parametrize("view", FAILURES, ids=repr)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 64, 64)])
def test_failures_are_detected_and_let_through_with_a_warning(view, shape):
    assert preflight.orthogonality_error(view, shape)
    said = preflight.check_view(view, Toy(shape))
    assert (
        said.startswith("WARNING")
        and view.not_orthogonal_because in said
        and preflight.orthogonality_error(view, shape) in said
    )
    assert preflight.check_view(views.compose(view, views.Flip()), Toy(shape)).startswith("WARNING")


@pytest.mark.parametrize("view", VIEWS, ids=repr)
def test_good_views_are_let_through_without_a_word(view):
    assert (
        preflight.check_view(view, Toy((3, 16, 16))) == "" == preflight.orthogonality_error(view, (3, 16, 16))
    )


@dataclass(frozen=True)
class Turned(views.View):
    """By a hundredth of a degree: the noise's strength is all but kept."""

    degrees: float = 0.01

    def __call__(self, image):
        return views.RotateInterpolated(self.degrees)(image)

    def inverse(self, image):
        return views.RotateInterpolated(-self.degrees)(image)


@dataclass(frozen=True)
class Louder(views.View):
    """It inverts exactly, and is louder by a thousandth."""

    def __call__(self, image):
        return image * 1.001

    def inverse(self, image):
        return image / 1.001


@pytest.mark.parametrize(
    ("view", "says"), [(Turned(), "does not invert"), (Louder(), "strength of the noise by up to 0.2%")]
)
def test_what_is_all_but_orthogonal_is_refused(view, says):
    with pytest.raises(UserError, match=says):
        preflight.check_view(view, Toy((3, 64, 64)))


@pytest.mark.parametrize("linear", MAPS, ids=lambda linear: type(linear).__name__)
def test_maps_are_linear(linear, image):
    other = torch.randn_like(image)
    assert torch.allclose(linear(2 * image - 3 * other), 2 * linear(image) - 3 * linear(other), atol=1e-4)


@pytest.mark.parametrize(
    "parts",
    [
        (maps.LowPass(2), maps.high_pass(2)),
        (maps.LowPass(2), maps.Band(1, 2), maps.high_pass(1)),
        (maps.Gray(), maps.Complement(maps.Gray())),
        (maps.Motion(), maps.without_motion()),
        (maps.Scale(0.3), maps.Complement(maps.Scale(0.3))),
        (maps.Mask(torch.eye(16)), maps.Complement(maps.Mask(torch.eye(16)))),
    ],
    ids=lambda parts: type(parts[0]).__name__,
)
def test_parts_sum_to_the_whole(parts, image):
    assert torch.allclose(sum(part(image) for part in parts), image, atol=1e-6)
    assert all(not torch.allclose(part(image), image, atol=1e-2) for part in parts)


@pytest.mark.parametrize("linear", MAPS, ids=lambda linear: type(linear).__name__)
def test_a_map_is_the_sum_of_its_summands(linear, image):
    assert torch.allclose(
        sum(weight * part(image) for weight, part in linear.summands), linear(image), atol=1e-5
    )


def test_motion_is_the_mean_of_seven_pixels_on_the_diagonal():
    point = torch.zeros(1, 1, 16, 16)
    point[..., 8, 8] = 7
    moved = maps.Motion()(point)[0, 0]
    assert torch.allclose(moved, torch.diag(((torch.arange(16) - 8).abs() <= 3).float()))
    flat = torch.full((3, 64, 64), 0.7)
    for taps in (1, 7, 28):
        assert torch.allclose(maps.Motion(taps)(flat), flat, atol=1e-6)


def test_motion_goes_on_mirrored_beyond_the_edges_and_is_scaled_by_parts_of_a_pixel():
    x = torch.rand(1, 3, 64, 64)
    zeros = F.conv2d(x.view(3, 1, 64, 64), torch.eye(7)[None, None] / 7, padding=3).view(x.shape)
    assert (
        torch.allclose(maps.Motion()(x)[..., 3:-3, 3:-3], zeros[..., 3:-3, 3:-3], atol=1e-6)
        and zeros[..., 0, 0].max() < 4 / 7
    )
    mirrored = [x[0, 0, abs(k), abs(k)] for k in range(-3, 4)]
    assert maps.Motion()(x)[0, 0, 0, 0] == pytest.approx(float(sum(mirrored) / 7), abs=1e-6)
    point = torch.zeros(1, 1, 64, 64)
    point[..., 32, 32] = 28
    diagonal = maps.Motion().for_resolution(4)(point)[0, 0].diagonal()
    assert torch.allclose(
        diagonal[18:47], torch.tensor([0.5, *[1.0] * 27, 0.5])
    ) and diagonal.sum() == pytest.approx(28)


def test_a_mask_grows_with_the_picture():
    mask = torch.eye(4)
    assert torch.equal(
        maps.Mask(mask).for_resolution(4).mask, torch.eye(4).repeat_interleave(4, 0).repeat_interleave(4, 1)
    )
    assert maps.Mask(mask[None]).for_resolution(2).mask.shape == (1, 8, 8) and maps.Mask(mask).area == 0.25


def test_the_blur_is_torchvisions(image):
    from torchvision.transforms.functional import gaussian_blur

    assert torch.allclose(maps.LowPass(1.5)(image), gaussian_blur(image, [13, 13], [1.5, 1.5]), atol=1e-6)


def test_the_blur_keeps_a_flat_picture_whatever_its_width():
    flat = torch.full((1, 28, 28), 0.7)
    for sigma in (0, 0.3, 2.6, 30):
        assert torch.allclose(maps.LowPass(sigma)(flat), flat, atol=1e-6)


@pytest.mark.parametrize("sigma", [-1, float("nan"), float("inf"), [1, 2]])
def test_a_blur_of_no_width_is_refused(sigma):
    with pytest.raises(UserError, match="sigma"):
        maps.LowPass(sigma)


class Blurred(views.Identity):
    def __call__(self, image):
        return maps.LowPass(1)(image)

    inverse = __call__


def test_a_view_that_is_not_orthogonal_is_refused():
    with pytest.raises(UserError, match="not orthogonal"):
        preflight.check_view(Blurred(), Toy())


def test_views_that_do_not_fit_the_model_are_refused():
    with pytest.raises(UserError, match="cannot be cut into 3 × 3"):
        preflight.check_view(views.Patches(3), Toy())
    with pytest.raises(UserError, match="square"):
        preflight.check_view(views.Flip(), Toy((1, 8, 12)))
    half = Toy(schedule=linear_rescaled(100))
    half.range = (0.0, 1.0)
    with pytest.raises(UserError, match="symmetric about zero"):
        preflight.check_view(views.Negate(), half)
