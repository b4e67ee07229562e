"""Estimates are algebra: the same wish composed is the wish, equal questions are asked once, what weighs nothing is not asked."""

import pytest
import torch
import torch.nn.functional as F

from expkit.core.estimate import (
    Estimate,
    Rescaled,
    add,
    anagram,
    colour,
    composable,
    conditional,
    factorized,
    guidance_interval,
    guided,
    hybrid,
    motion,
    triple,
    triple_hybrid,
)
from expkit.core.maps import (
    Band,
    Complement,
    Distance,
    Gray,
    LowPass,
    Mask,
    Motion,
    Scale,
    high_pass,
    without_motion,
)
from expkit.core.views import Flip, Identity, Jigsaw, Negate, Rotate180, RotateCW
from expkit.errors import UserError
from tests.conftest import Toy

BLUR = LowPass(1.0)
VIEWS = {"upright": Identity(), "turned": Flip()}


def rows(estimate: Estimate, t: int = 50) -> int:
    return len(estimate.queries([0], (t + 1) / 100))


def same(a, b) -> bool:
    return torch.allclose(a.native, b.native, atol=1e-5)


def test_guidance_is_its_formula(toy, x):
    null, cond = toy.predict(x, 50, [""] * 3).native, toy.predict(x, 50, ["a"] * 3).native
    for gamma in (0.3, 1, 7):
        assert torch.allclose(guided("a", gamma)(toy, x, 50).native, null + gamma * (cond - null), atol=1e-5)


@pytest.mark.parametrize(
    ("gamma", "prompts"), [(0, ["", "", ""]), (1, ["a", "a", "a"]), (7, ["", "a"] * 3), (0.1, ["", "a"] * 3)]
)
def test_a_weight_of_zero_asks_nothing(gamma, prompts, toy, x):
    guided("a", gamma)(toy, x, 50)
    assert sorted(toy.asked) == sorted(prompts) and len(toy.rows) == 1


def test_rows_are_those_the_algebra_promises():
    far, near = guided("a"), guided("b")
    two_views = anagram({"upright": guided("c"), "turned": guided("d")}, VIEWS)
    assert rows(far) == 2
    assert rows(hybrid(far, near, BLUR)) == 3
    assert rows(two_views) == 4
    assert rows(hybrid(two_views, near, BLUR)) == 5
    assert rows(hybrid(far, far, BLUR)) == 2
    assert rows(anagram({"upright": two_views, "turned": two_views}, VIEWS)) == 6  # null, c, d, each way up
    assert rows(add(conditional("a"), conditional("b"), -1.0 * conditional("c"))) == 3


@pytest.mark.parametrize("gamma", [0.1, 0.3, 0.7, 1.1, 7, 7.7])
def test_what_cancels_is_not_asked_however_it_rounds(gamma):
    far, near = guided("a", gamma), guided("b", gamma)
    shares = {
        m: w
        for query in hybrid(far, near, BLUR).queries([0], 0.5)
        if query.query.prompt == ""
        for m, w in query.weights.items()
    }
    assert len(shares) == 1 and rows(hybrid(far, near, BLUR) - hybrid(far, near, BLUR)) == 0


def test_the_same_wish_composed_is_the_wish(toy, x):
    wish = guided("a", 5)
    assert same(hybrid(wish, wish, BLUR)(toy, x, 50), wish(toy, x, 50))
    assert same((0.25 * wish + 0.75 * wish)(toy, x, 50), wish(toy, x, 50))
    assert same(
        anagram({"upright": wish, "turned": wish}, VIEWS)(toy, x, 50), wish(toy, x, 50)
    )  # the toy commutes with the view
    assert same(wish.through(RotateCW()).through(RotateCW().inverse_view)(toy, x, 50), wish(toy, x, 50))


def test_a_network_that_does_not_commute_tells_views_apart(x):
    net, wish = Toy(skewed=1.0), guided("a", 5)
    assert not same(wish.through(Flip())(net, x, 50), wish(net, x, 50))
    seen = wish.through(Flip())(net, x, 50).native
    assert torch.allclose(seen, Flip()(wish(net, Flip()(x), 50).native), atol=1e-5)


def test_nested_views_compose_in_the_right_order(x):
    net, first, second = Toy(skewed=1.0), RotateCW(), Flip()
    nested = conditional("a").through(first).through(second)(net, x, 50).native
    by_hand = second.inverse(first.inverse(net.predict(first(second(x)), 50, ["a"] * 3).native))
    assert torch.allclose(nested, by_hand, atol=1e-5)


def test_a_filter_inside_a_view_is_the_filter_of_what_is_seen(x):
    net = Toy(skewed=1.0)
    inside = (BLUR @ conditional("a")).through(RotateCW())(net, x, 50).native
    assert torch.allclose(
        inside, RotateCW().inverse(BLUR(net.predict(RotateCW()(x), 50, ["a"] * 3).native)), atol=1e-5
    )


def test_one_prompt_and_one_gamma_a_picture(toy, x):
    batch = guided(["a", "b", "a"], [7, 1, 0])(toy, x, 50).native
    assert toy.rows == [2 + 1 + 1]
    for k, (prompt, gamma) in enumerate([("a", 7), ("b", 1), ("a", 0)]):
        assert torch.allclose(batch[k], guided(prompt, gamma)(toy, x[k : k + 1], 50).native[0], atol=1e-5)


def test_some_of_the_pictures_keep_their_own_prompts(toy, x):
    whole = guided(["a", "b", "c"])
    assert torch.allclose(whole(toy, x[1:], 50, [1, 2]).native, whole(toy, x, 50).native[1:], atol=1e-6)


def test_a_guidance_interval_asks_the_null_inside_it_only():
    wish = guided("a", guidance_interval(0.8, 0.2, 7))
    assert [rows(wish, t) for t in (99, 50, 5)] == [1, 2, 1]


def test_a_guidance_interval_may_have_a_gamma_of_its_own_for_each_picture(toy, x):
    wish = guided("a", guidance_interval(0.8, 0.2, [7, 1, 0]))
    assert torch.allclose(wish(toy, x, 50).native, guided("a", [7, 1, 0])(toy, x, 50).native)
    assert torch.allclose(wish(toy, x, 95).native, guided("a", 1)(toy, x, 95).native)
    assert toy.rows == [4, 4, 3, 3]


DECOMPOSITIONS = {
    "hybrid": (lambda a, b, c: hybrid(a, b, BLUR), [BLUR, high_pass(1.0)], 3),
    "triple hybrid": (
        lambda a, b, c: triple_hybrid(a, b, c, 2.0),
        [LowPass(2.0) @ LowPass(1.0), Complement(LowPass(2.0)) @ LowPass(1.0), high_pass(1.0)],
        4,
    ),
    "triple": (lambda a, b, c: triple(a, b, c, 2.0), [LowPass(2.0), Band(1.0, 2.0), high_pass(1.0)], 4),
    "colour": (lambda a, b, c: colour(a, b), [Gray(), Complement(Gray())], 3),
    "motion": (lambda a, b, c: motion(a, b, 5), [Motion(5), without_motion(5)], 3),
}


def published_blur(x, sigma):
    """Gaussian blur with a kernel of 33 at 64 pixels, edges mirrored, in float64."""
    kernel = torch.exp(-(torch.arange(-16, 17, dtype=torch.float64) ** 2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum())[None, None]
    padded = F.pad(x.flatten(0, 1)[:, None], [16] * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel[..., None]), kernel[:, :, None]).view(x.shape)


def published_motion(x):
    """The mean of seven pixels on the diagonal, beyond the edges zeros, in float64."""
    kernel = (torch.eye(7, dtype=torch.float64) / 7)[None, None]
    return F.conv2d(x.flatten(0, 1)[:, None], kernel, padding=3).view(x.shape)


def low_and_rest(x, sigma=2.0):
    low = published_blur(x, sigma)
    return low, x - low


def three_bands(x):
    """low: G_2 G_1 x, middle: G_1 x − G_2 G_1 x, high: x − G_1 x."""
    fine = published_blur(x, 1.0)
    low = published_blur(fine, 2.0)
    return low, fine - low, x - fine


def grey_and_colour(x):
    grey = x.mean(1, keepdim=True).expand_as(x)
    return grey, x - grey


def motion_and_rest(x):
    moved = published_motion(x)
    return moved, x - moved


PUBLISHED = {
    "hybrid": (lambda a, b, c: hybrid(a, b, LowPass(2.0)), low_and_rest),
    "triple": (lambda a, b, c: triple_hybrid(a, b, c, 2.0), three_bands),
    "colour": (lambda a, b, c: colour(a, b), grey_and_colour),
    "motion": (lambda a, b, c: motion(a, b), motion_and_rest),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_decomposition_is_that_of_factorized_diffusion(name):
    """sum over parts of f(null + gamma (prompt − null)), three pixels from the edge, where padding does not reach; in float64.

    Ours is float32, and its blurs end at 4 sigma where the paper's end at 8: what lies between is 4e-5 of a Gaussian.
    """
    wish, bands = PUBLISHED[name]
    net, x = (
        Toy((3, 64, 64), skewed=1.0),
        torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)),
    )
    null, *answers = (net.predict(x, 50, [p] * 2).native.double() for p in ("", "a", "b", "c"))
    guided_answers = [null + 7 * (answer - null) for answer in answers]
    wanted = sum(bands(answer)[k] for k, answer in enumerate(guided_answers[: len(bands(null))]))
    made = wish(guided("a"), guided("b"), guided("c"))(net, x, 50).native.double()
    assert (made - wanted)[..., 3:-3, 3:-3].abs().max() < 1e-4 * max(
        answer.abs().max() for answer in guided_answers
    )


def test_the_far_band_of_three_is_a_blur_of_the_square_root_of_five():
    point = torch.zeros(1, 3, 64, 64)
    point[..., 32, 32] = 1
    far, *_ = three_bands(point.double())
    places = torch.arange(64, dtype=torch.float64) - 32
    assert (far[0, 0].sum(0) * places**2).sum() == pytest.approx(1 + 4, rel=1e-5)
    ours = next(
        term.map for term in triple_hybrid(conditional("a"), conditional("b"), conditional("c"), 2.0).terms
    )(point)[0, 0].double()
    assert (ours.sum(0) * places**2).sum() == pytest.approx(5, rel=2e-3)
    old = next(term.map for term in triple(conditional("a"), conditional("b"), conditional("c"), 2.0).terms)(
        point
    )[0, 0].double()
    assert (old.sum(0) * places**2).sum() == pytest.approx(4, rel=2e-3)


def test_three_bands_grow_with_the_picture():
    small = triple_hybrid(conditional("a"), conditional("b"), conditional("c"), 2.0)
    (far, *_) = small.for_resolution(4).terms
    assert far.map == LowPass(8.0) @ LowPass(4.0)


@pytest.mark.parametrize("name", DECOMPOSITIONS)
def test_a_decomposition_gives_each_part_its_map_and_asks_the_null_once(name):
    made, filters, asked_rows = DECOMPOSITIONS[name]
    net, x = Toy((3, 8, 8), skewed=1.0), torch.randn(2, 3, 8, 8)
    parts = [guided(p, 5) for p in "abc"]
    expected = sum(linear(part(net, x, 50).native) for linear, part in zip(filters, parts, strict=False))
    assert torch.allclose(made(*parts)(net, x, 50).native, expected, atol=1e-5)
    assert rows(made(*parts)) == asked_rows
    assert same(made(parts[0], parts[0], parts[0])(net, x, 50), parts[0](net, x, 50))


def test_a_decomposition_by_a_mask(toy, x):
    hole = Mask(torch.eye(8))
    wish = factorized(
        {"inside": guided("a"), "outside": guided("b")}, {"inside": hole, "outside": Complement(hole)}
    )
    by_hand = torch.where(torch.eye(8) == 1, guided("a")(toy, x, 50).native, guided("b")(toy, x, 50).native)
    assert torch.allclose(wish(toy, x, 50).native, by_hand, atol=1e-5) and rows(wish) == 3


def test_a_number_times_the_picture_is_a_weight():
    assert (Scale(0.5) @ conditional("a")).terms == (0.5 * conditional("a")).terms and Scale(
        1.0
    ) @ conditional("a") == conditional("a")


def test_a_mixture_is_guidance_towards_the_weighted_mean(toy, x):
    said = {p: toy.predict(x, 50, [p] * 3).native for p in ("", "a", "b")}
    wish = composable({"first": guided("a", 3), "second": guided("b", 3)}, {"first": 0.25, "second": 0.75})
    mean = 0.25 * said["a"] + 0.75 * said["b"]
    assert (
        torch.allclose(wish(toy, x, 50).native, said[""] + 3 * (mean - said[""]), atol=1e-5)
        and rows(wish) == 3
    )
    both = composable({"first": guided("a", 3), "second": guided("b", 3)}, {"first": 1, "second": 1})
    by_hand = said[""] + 3 * (said["a"] - said[""]) + 3 * (said["b"] - said[""])
    assert torch.allclose(both(toy, x, 50).native, by_hand, atol=1e-5)
    assert (
        rows(composable({"first": guided("a", 1), "second": guided("b", 1)}, {"first": 0.5, "second": 0.5}))
        == 2
    )


@pytest.mark.parametrize("phi", [0.0, 0.7, 1.0])
def test_rescaled_guidance_is_equations_15_and_16(phi, toy, x):
    null, cond = toy.predict(x, 50, [""] * 3).native, toy.predict(x, 50, ["a"] * 3).native
    cfg = null + 7 * (cond - null)
    rescaled = cfg * cond.std((1, 2, 3), keepdim=True) / cfg.std((1, 2, 3), keepdim=True)
    answer = Rescaled(guided("a", 7), phi)(toy, x, 50)
    assert torch.allclose(answer.native, phi * rescaled + (1 - phi) * cfg, atol=1e-5)
    assert toy.rows[2:] == [6]


def test_rescaled_asks_what_it_needs_and_nothing_twice(toy, x):
    for gamma, asks in ((7, 2), (1, 1), (0, 2)):  # gamma 0 needs the condition for its contrast
        assert rows(Rescaled(guided("a", gamma))) == asks
    listed = Rescaled(guided(["a", "b", "a"], [7, 1, 0]))
    listed(toy, x, 50)
    assert toy.rows == [2 + 1 + 2] == [len(listed.queries(range(3), 0.5))]
    assert same(Rescaled(guided("a", 1))(toy, x, 50), guided("a", 1)(toy, x, 50))
    assert rows(Rescaled(hybrid(guided("a"), guided("b"), BLUR))) == 3


def test_the_conditional_wish_is_the_wish_without_guidance(toy, x):
    views = {"upright": Identity(), "turned": Jigsaw()}
    wish = lambda gamma: anagram(
        {"upright": hybrid(guided("a", gamma), guided("b", gamma), BLUR), "turned": guided("c", gamma)}, views
    )
    assert same(wish(5).with_guidance(1.0)(toy, x, 50), wish(1)(toy, x, 50)) and rows(
        wish(5).with_guidance(1.0)
    ) == rows(wish(1))


def test_rescaled_keeps_the_learned_variance_and_grows_with_the_picture(x):
    net, wish = Toy(variance_fraction=True), hybrid(guided("a"), guided("b"), BLUR)
    assert torch.allclose(Rescaled(wish)(net, x, 50).variance_fraction, wish(net, x, 50).variance_fraction)
    large = wish.for_resolution(4)
    assert Rescaled(wish, 0.3).for_resolution(4) == Rescaled(large, 0.3)
    assert LowPass(4.0) in {term.map for term in large.terms}


def test_numbers_are_prompts():
    assert [query.query.prompt for query in guided(3, 1).queries([0], 0.5)] == ["3"]


def test_the_learned_variance_is_a_mean_over_wishes(x):
    net = Toy(variance_fraction=True)
    of = lambda prompt, picture: net.predict(picture, 50, [prompt] * 3).variance_fraction
    assert torch.allclose(
        guided("a", 7)(net, x, 50).variance_fraction, of("a", x)
    )  # never the null's, never times gamma
    assert torch.allclose(
        guided("a", 0)(net, x, 50).variance_fraction, of("", x)
    )  # the null's, where there is no other
    assert torch.allclose(
        hybrid(guided("a"), guided("b"), BLUR)(net, x, 50).variance_fraction, (of("a", x) + of("b", x)) / 2
    )
    turned = Flip()(of("b", Flip()(x)))
    both = anagram({"upright": guided("a"), "turned": guided("b")}, VIEWS)(net, x, 50).variance_fraction
    assert torch.allclose(both, (of("a", x) + turned) / 2, atol=1e-6)
    assert torch.allclose(
        guided("a").through(Negate())(net, x, 50).variance_fraction, of("a", -x)
    )  # pixels back, sign untouched


def test_what_is_not_linear_stands_outermost():
    with pytest.raises(UserError, match="outermost"):
        guided("a") + (lambda denoiser, x, t: None)
    outer = Rescaled(guided("a"))
    for inside in (
        lambda: outer + guided("b"),
        lambda: guided("b") - outer,
        lambda: 2.0 * outer,
        lambda: outer.through(Flip()),
        lambda: BLUR @ outer,
        lambda: add(guided("b"), outer),
        lambda: hybrid(outer, guided("b"), BLUR),
        lambda: Rescaled(outer),
    ):
        with pytest.raises(UserError, match="Rescaled is not a sum of terms"):
            inside()


def test_a_number_is_no_estimate_but_the_zero_that_sum_starts_with(toy, x):
    for beside in (lambda: 1 - guided("a"), lambda: 5 + guided("a"), lambda: guided("a") - 0.5):
        with pytest.raises(UserError, match="is not a sum of terms"):
            beside()
    assert sum([guided("a"), guided("b")]) == guided("a") + guided("b")


def test_what_cancels_as_a_whole_is_zero_beside_what_does_not(toy, x):
    cancels_where_gamma_is_one = guided("a", 5) - conditional("a")
    answer = Rescaled(cancels_where_gamma_is_one, 0.0)(toy, x, 50)
    assert same(answer, cancels_where_gamma_is_one(toy, x, 50)) and answer.native.abs().max() > 0


def test_nothing_is_mutated(toy, x):
    before, wish = x.clone(), hybrid(guided("a"), guided("b"), BLUR).through(Rotate180())
    wish(toy, x, 50)
    assert torch.equal(x, before)


def readings(estimate):
    return {" ".join(one.names): (one.prompt, one.lenses, one.distance) for one in estimate.readings}


def test_readings_follow_the_algebra():
    a, b, c = guided("a"), guided("b"), guided("c")
    near, middle, far = Distance.NEAR, Distance.MIDDLE, Distance.FAR
    two_views = anagram({"upright": a, "turned": b}, VIEWS)
    bands = {"near": ("c", (), near), "middle": ("b", (), middle), "far": ("a", (), far)}
    assert readings(a) == {"": ("a", (), near)} and Rescaled(a).readings == a.readings
    assert readings(two_views) == {"upright": ("a", (), near), "turned": ("b", (Flip(),), near)}
    assert readings(hybrid(a, b, BLUR)) == {"far": ("a", (), far), "near": ("b", (), near)}
    assert readings(triple_hybrid(a, b, c, 2)) == readings(triple(a, b, c, 2)) == bands
    assert readings(colour(a, b)) == {"grey": ("a", (Gray(),), near), "colour": ("b", (), near)}
    assert readings(motion(a, b)) == {"moving": ("a", (Motion(),), near), "still": ("b", (), near)}
    parts = {"first": a, "second": b}
    mixture = composable(parts, {"first": 0.5, "second": 0.5}, "c")
    assert readings(mixture) == {"first": ("a", (), near), "second": ("b", (), near)}
    assert readings(hybrid(two_views, c, BLUR)) == {
        "far upright": ("a", (), far),
        "far turned": ("b", (Flip(),), far),
        "near": ("c", (), near),
    }
    assert readings(colour(two_views, c))["grey turned"] == ("b", (Gray(), Flip()), near)
    turned_hybrid = hybrid(a, b, BLUR).through(Flip()).through(Rotate180())
    assert readings(turned_hybrid)["far"] == ("a", (Rotate180(), Flip()), far)


def test_what_an_estimate_leads_away_from_is_not_read():
    assert guided("a", negative="b").readings == guided("a").readings
    assert (guided("a") - 0.5 * conditional("b")).readings == guided("a").readings
    assert (-1 * guided("a")).readings == ()


def test_readings_follow_pictures_and_size():
    moving = motion(guided(["a", "b", "c"]), guided("d"))
    assert [one.prompt for one in moving.select([2, 0]).readings] == [("c", "a"), "d"]
    assert moving.for_resolution(4).readings[0].lenses == (Motion(28),)
    assert moving.with_guidance(3).readings == moving.readings
