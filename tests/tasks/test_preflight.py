"""The pre-flight: decompositions that do not sum to the whole are refused, and the header says what will happen in everyone's words."""

import time
from dataclasses import dataclass

import pytest
import torch

from expkit.core import maps, timesteps, views
from expkit.core.denoiser import Counting
from expkit.core.estimate import (
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
from expkit.core.pin import Pin
from expkit.core.schedules import cosine, flow
from expkit.core.solvers import DDPM, Euler
from expkit.core.thresholding import ClipSample
from expkit.errors import UserError
from expkit.tasks.preflight import (
    Plan,
    check_run,
    check_stages,
    format_header,
    maps_agree,
    view_is_consistent,
)
from tests.conftest import Toy

GRID = timesteps.strided(1000)
A, B, C = (guided(p, 5) for p in "abc")
MASK = maps.Mask(torch.eye(8))
WHOLE = {
    "guided": A,
    "conditional": guided("a", 1),
    "unconditional": guided("a", 0),
    "negative": guided("a", 5, "b"),
    "interval": guided("a", guidance_interval(0.8, 0.2, 7)),
    "rescaled": Rescaled(hybrid(A, B, maps.LowPass(1))),
    "hybrid": hybrid(A, B, maps.LowPass(1)),
    "triple": triple_hybrid(A, B, C, 2.0),
    "triple by independent blurs": triple(A, B, C, 2.0),
    "colour": colour(A, B),
    "motion": motion(A, B),
    "mask": factorized({"in": A, "out": B}, {"in": MASK, "out": maps.Complement(MASK)}),
    "mixed": composable({"first": A, "second": B}, {"first": 0.3, "second": 0.7}),
    "conjunction": composable({"first": A, "second": B}, {"first": 1, "second": 2}),
    "anagram": anagram(
        {"up": A, "down": B, "no": C}, {"up": views.Identity(), "down": views.Jigsaw(), "no": views.Negate()}
    ),
    "nested": hybrid(
        anagram({"up": A, "down": B}, {"up": views.Identity(), "down": views.Skew()}), C, maps.LowPass(1)
    ),
    "listed": guided(["a", "b"], [1, 7]),
}
BROKEN = {
    "half": 0.5 * A,
    "sum": add(A, B),
    "only the low pass": maps.LowPass(2) @ A,
    "two blurs": factorized({"far": A, "near": B}, {"far": maps.LowPass(2), "near": maps.high_pass(1)}),
    "a mask twice": factorized({"in": A, "out": B}, {"in": MASK, "out": MASK}),
    "late": conditional("a") * (lambda clock: 1.0 if clock > 0.5 else 0.9),
}


@pytest.fixture
def net() -> Toy:
    return Toy((3, 8, 8), schedule=cosine(1000))


@pytest.mark.parametrize("name", WHOLE)
def test_the_same_wish_composed_is_the_wish(name, net):
    plan = check_run(net, WHOLE[name], GRID, 2)
    assert len(plan.calls) == 33 and not plan.warnings and net.rows == []


@pytest.mark.parametrize("name", BROKEN)
def test_what_does_not_sum_to_the_whole_is_refused(name, net):
    with pytest.raises(UserError, match="do not sum to the whole picture"):
        check_run(net, BROKEN[name], GRID, 2)


def test_colour_is_refused_where_there_is_none(net):
    grey = Toy((1, 8, 8), schedule=cosine(1000))
    for wish in (
        colour(A, B),
        colour(A, B).through(views.Flip()),
        Rescaled(colour(A, B)),
        maps.LowPass(1) @ colour(A, B),
    ):
        with pytest.raises(UserError, match="one channel, and their colour component is zero"):
            check_run(grey, wish, GRID, 1)
    with pytest.raises(UserError, match="colour component"):
        check_run(grey, A, GRID, 1, Pin(torch.zeros(1, 1, 8, 8), maps.Gray()))
    check_run(net, A, GRID, 1, Pin(torch.zeros(1, 3, 8, 8), maps.Gray()))


def test_named_failures_run_with_a_loud_warning(net):
    wish = anagram({"up": A, "down": B}, {"up": views.Identity(), "down": views.WhiteBalance()})
    plan = check_run(net, wish, GRID, 1)
    assert len(plan.warnings) == 1 and "WARNING: the view WhiteBalance fails on purpose" in format_header(
        "anagram", net, GRID, plan, 1
    )


def test_a_clip_that_does_not_fit_is_refused_before_the_first_forward():
    class Latent(Toy):
        image_shape = (3, 64, 64)

    net = Latent((4, 8, 8))
    with pytest.raises(UserError, match="latents"):
        check_run(net, A, timesteps.strided(100), 1, clip=ClipSample())
    assert net.rows == []


def test_the_header_states_calls_rows_and_conventions(net):
    said = format_header(
        "sample", net, GRID, check_run(net, guided(["a", "b"], [1, 7]), GRID, 2), 2, ["mode: course"]
    )
    assert "33 network calls (calls × rows: 33 × 3; 99 rows)" in said
    assert "gamma 1, 7: null + gamma (prompt − null)" in said and said.endswith("  mode: course")
    assert "gamma 7 (on the clock from 0.8 to 0.2, else 1)" in str(
        check_run(net, guided("a", guidance_interval(0.8, 0.2, 7)), GRID, 1).notes
    )
    assert check_run(net, conditional("a"), GRID, 1).notes == ()


def test_the_header_says_where_sdedit_starts_in_three_ways(net):
    image, starts = torch.zeros(1, 3, 8, 8), (1, 3, 5, 7, 10, 20)
    plan = check_run(net, A, GRID, 6, Pin(image, until=tuple(GRID[i] for i in starts)))
    assert "i_start 1 = t 960 = strength 0.98; i_start 3 = t 900 = strength 0.92" in plan.notes[-1]
    assert (
        "i_start 7 = t 780 = strength 0.8; i_start 10 = t 690 = strength 0.71; i_start 20 = t 390 = strength 0.42"
        in plan.notes[-1]
    )
    assert "for each pixel" in check_run(net, A, GRID, 1, Pin(image, until=torch.full((8, 8), 500))).notes[-1]


def test_the_header_says_jump_and_count_of_a_walk_that_goes_up_again(net):
    walk = timesteps.repaint(1000)
    said = format_header("inpaint", net, walk, check_run(net, A, walk, 1), 1)
    assert "93 network calls" in said
    assert "goes up again to blend: jump 3, 3 times each stretch; up 20 times, first from t = 840" in said
    assert "goes up again" not in format_header("inpaint", net, GRID, check_run(net, A, GRID, 1), 1)


@pytest.mark.parametrize("rule", [DDPM(), DDPM("learned"), DDPM("large")], ids=repr)
def test_a_rule_that_cannot_walk_a_schedule_is_refused_before_anything_is_asked(rule):
    flowing = Counting(Toy(variance_fraction=True, schedule=flow(1000, continuous=True)))
    with pytest.raises(UserError, match="sampler=euler"):
        check_run(flowing, A, GRID, 1, rule=rule)
    assert flowing.rows == [] and check_run(flowing, A, GRID, 1, rule=Euler()).calls
    check_run(Toy(variance_fraction=True, schedule=cosine(1000)), A, GRID, 1, rule=rule)


def test_the_header_says_the_mask_s_polarity_and_coverage(net):
    kept = torch.zeros(8, 8)
    kept[:2] = 1
    plan = check_run(net, A, GRID, 1, Pin(torch.zeros(1, 3, 8, 8), maps.Mask(kept), at_first=False))
    assert plan.notes[-1] == "mask: white is repainted, 75% of the picture; black is kept"


def test_long_lists_are_cut_short_in_the_header(net):
    said = check_run(net, guided(["a"] * 40, list(range(1, 41))), GRID, 40).notes[0]
    assert "(39 in all)" not in said and "(40 in all)" in said and len(said) < 120


def test_it_takes_milliseconds():
    net, many = Toy((1, 28, 28), schedule=cosine(1000)), guided([str(k % 10) for k in range(1000)], 7)
    check_run(net, A, GRID, 1)
    for wish, count, limit in ((hybrid(A, B, maps.LowPass(1.8)), 40, 0.1), (many, 1000, 0.3)):
        began = time.perf_counter()
        check_run(net, wish, GRID, count)
        assert time.perf_counter() - began < limit


SOUND = [
    views.Flip(), views.RotateCW(), views.Skew(), views.Patches(8), views.Patches(64), views.Jigsaw(), views.SquareHinge(),
    views.VisualAnagramsJigsaw(), views.VisualAnagramsJigsaw(0), views.SquareHinge(3), views.InnerCircle(), views.Negate(),
    views.compose(views.Skew(), views.Jigsaw()),
]  # fmt: skip


@pytest.mark.parametrize("view", SOUND, ids=repr)
def test_views_are_the_same_at_64_and_256_pixels(view):
    assert view_is_consistent(view, 64, 4)
    check_stages(
        anagram({"up": hybrid(A, B, maps.LowPass(2)), "down": C}, {"up": view, "down": views.Identity()}),
        Toy((3, 64, 64)),
        4,
    )


@pytest.mark.parametrize(
    "wish", [triple_hybrid(A, B, C, 2.0), triple(A, B, C, 2.0), motion(A, B), hybrid(A, B, maps.LowPass(2))]
)
def test_bands_are_the_same_at_64_and_256_pixels(wish):
    check_stages(wish, Toy((3, 64, 64)), 4)


@pytest.mark.parametrize("view", SOUND, ids=repr)
def test_views_are_the_same_at_32_and_64_pixels(view):
    assert view == views.Patches(64) or view_is_consistent(view, 32, 2)


@dataclass(frozen=True)
class Shuffled(views.Permutation):
    """Every pixel of whatever picture it is given: another shuffle at each size."""

    def move(self, image):
        order = torch.randperm(image.shape[-1] ** 2, generator=torch.Generator().manual_seed(0))
        return image.flatten(-2)[..., order].view(image.shape)


@dataclass(frozen=True)
class Fixed(maps.LowPass):
    """A blur that stays as it is when the picture grows."""

    def for_resolution(self, times):
        return self


MAPS = [
    maps.LowPass(2.0),
    maps.Band(1, 2),
    maps.high_pass(0.9),
    maps.Motion(),
    maps.without_motion(),
    maps.Gray(),
    maps.Mask(torch.eye(64)),
]


@pytest.mark.parametrize("linear", MAPS, ids=lambda linear: type(linear).__name__)
def test_maps_are_the_same_at_64_and_256_pixels(linear):
    for small, large in zip((linear @ A).terms, (linear @ A).for_resolution(4).terms, strict=True):
        assert maps_agree(small, large, 64, 4)


def test_stages_that_disagree_are_refused():
    net = Toy((3, 64, 64))
    with pytest.raises(UserError, match="moves other things at 256 pixels than at 64"):
        check_stages(A.through(Shuffled()), net, 4)
    for stuck in (Fixed(1.0), Fixed(2.0)):
        with pytest.raises(UserError, match="takes other things of a picture at 256 pixels than at 64"):
            check_stages(hybrid(A, B, stuck), net, 4)


def test_a_plan_is_a_value():
    assert Plan([1, 2]) == Plan([1, 2], (), ()) and Plan([1]) != Plan([1], warnings=("WARNING",))
