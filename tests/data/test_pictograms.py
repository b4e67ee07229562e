"""Pictograms are drawn, moved, coloured and captioned: what a caption says is what is seen."""

from pathlib import Path
from random import Random

import pytest
import torch
import torch.nn.functional as F

from expkit.core.maps import LowPass
from expkit.core.rng import Draws, stream
from expkit.data.captioned_scenes import (
    AugmentStrength,
    Captions,
    Scenes,
    make_captions,
    render_rows,
    render_scene,
)
from expkit.data.labelled_pictures import Batches, Pictures, Remarks
from expkit.data.pictograms import FONT, OVER, Concept, Pictograms, emoji_names, emoji_pictograms
from expkit.errors import UserError
from expkit.metrics import classifiers, judges
from expkit.text import caption_grammar
from expkit.text.caption_grammar import ANY, COLOURS, GROUNDS, LINES, PLAIN, SOFT
from expkit.training.classifier import CompositeClassification, PictogramClassification, make_composite

STILL = AugmentStrength(turn=0, zoom=(1.0, 1.0), shift=0, stretch=0, warp=0, hue=0, tone=0, mirror=0)


@pytest.fixture(scope="module")
def font():
    if not Path(FONT).is_file():
        pytest.skip("no font at hand: apt-get install fonts-noto-color-emoji")


@pytest.fixture(scope="module")
def few(font):
    return emoji_pictograms(
        True, concepts=["skull", "rocket", "old man", "right arrow", "eight o'clock", "red heart"], views=3
    )


def seen(pictures, style=PLAIN, grey=False, ground=ANY, vary=STILL, seed=0):
    rows = len(pictures.concepts)
    glyphs = pictures.images_of(torch.arange(rows)).float() / 255
    each = lambda value: torch.full((rows,), value)
    return render_scene(
        glyphs, each(style), each(grey), each(ground), pictures.mirrors, Draws(stream(seed), rows), vary
    )


def test_the_vocabulary_has_each_thing_once_and_the_familiar_first():
    known = emoji_names()
    names = [name for concept in known for name in (concept.name, *concept.others)]
    assert 1250 < len(known) < 1450 and len(names) == len(set(names)) and known[0].name == "skull"
    assert {
        "rocket",
        "old man",
        "cook",
        "astronaut",
        "polar bear",
        "man",
        "woman",
        "campfire",
        "pumpkin",
    } <= set(names)
    assert not {
        "man cook",
        "woman astronaut",
        "keycap 3",
        "family man woman boy",
        "pirate flag",
        "man running facing right",
    } & set(names)
    assert not any(0x1F3FB <= ord(c) <= 0x1F3FF for concept in known for c in concept.sign)


def test_what_has_a_side_is_not_mirrored():
    mirrors = {concept.name: concept.mirrors for concept in emoji_names()}
    assert all(mirrors[name] for name in ("skull", "rocket", "crayon", "dog", "top hat", "old man"))
    assert not any(
        mirrors[name]
        for name in ("right arrow", "eight o'clock", "a button", "waxing crescent moon", "hundred points")
    )


def test_glyphs_are_drawn_multiplied_by_their_opacity(few):
    assert few.images.dtype == torch.uint8 and few.images.shape == (6, 4, 64, 64) and few.shape == (3, 32, 32)
    colour, opacity = few.images[:, :3].int(), few.images[:, 3:].int()
    assert (
        (colour <= opacity + 1).all()
        and (opacity.flatten(1).amax(1) > 250).all()
        and (opacity[:, :, 0, 0] == 0).all()
    )
    assert len({image.numpy().tobytes() for image in few.images}) == 6
    assert emoji_pictograms(True, size=64, concepts=2).images.shape == (2, 4, 128, 128)


def test_every_concept_of_the_font_is_drawn_in_seconds(font):
    every = emoji_pictograms(False)
    assert 1200 < len(every.concepts) <= len(emoji_names()) and every.labels.tolist() == list(
        range(len(every.concepts))
    )
    inked = every.images[:, 3].flatten(1).float().mean(1) / 255
    assert inked.min() > 0.01 and inked.max() < 0.95
    assert len({image.numpy().tobytes() for image in every.images}) > 0.98 * len(every.images)


def test_concepts_are_chosen_by_number_or_name(few):
    assert few.names == ("skull", "rocket", "old man", "right arrow", "eight o'clock", "red heart")
    assert (
        emoji_pictograms(True, concepts=3).names == ("skull", "rocket", "old man")
        and len(emoji_pictograms(False, concepts=3).labels) == 3
    )
    assert emoji_pictograms(True, concepts=["Grandpa", "old man"]).names == ("old man",)
    batches = list(Batches(few, 4, seed=1))
    assert sum(len(b.labels) for b in batches) == 18 and batches[0].images.shape == (4, 4, 64, 64)
    assert sorted(torch.cat([b.labels for b in batches]).tolist()) == sorted([*range(6)] * 3)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"concepts": ["skul"]}, "Did you mean skull"), ({"concepts": []}, "names no pictogram"), ({"concepts": 0}, "does not fit"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused(font, wrong, said):
    with pytest.raises(UserError, match=said):
        emoji_pictograms(True, **wrong)


def test_a_missing_font_says_how_to_get_it(tmp_path):
    (tmp_path / "no.ttf").write_bytes(b"no font")
    for path in (tmp_path / "nowhere.ttf", tmp_path / "no.ttf"):
        with pytest.raises(UserError, match=r"apt-get install -y fonts-noto-color-emoji.*data\.font=PATH"):
            emoji_pictograms(True, str(path))


def test_pictures_are_a_function_of_their_seed(few):
    scenes, rows = Scenes.of(few, 8, AugmentStrength()), torch.arange(6)
    (one, texts), (same, _), (other, words) = (render_rows(few, rows, seed, scenes) for seed in (1, 1, 2))
    assert torch.equal(one, same) and one.shape == (6, 3, 32, 32) and one.min() >= 0 and one.max() <= 1
    assert not torch.equal(one, other) and texts != words


def test_rows_are_drawn_alike_by_one_process_and_by_three(few):
    glyphs, said = few.images_of(torch.arange(6)).float() / 255, torch.zeros(6, dtype=torch.long)
    tell = lambda part: (said[part], said[part].bool(), said[part] + ANY, few.mirrors[part])
    whole = render_scene(glyphs, *tell(slice(None)), Draws(stream(5), 6), AugmentStrength())
    for rank in range(3):
        mine = slice(rank, None, 3)
        assert torch.allclose(
            render_scene(glyphs[mine], *tell(mine), Draws(stream(5), 6, rank, 3), AugmentStrength()),
            whole[mine],
            atol=1e-5,
        )


def test_a_glyph_that_nothing_is_done_to_is_itself(few):
    glyphs = few.images_of(torch.arange(6)).float() / 255
    as_drawn = torch.nn.functional.avg_pool2d(glyphs[:, :3] + 1 - glyphs[:, 3:], OVER)
    assert (
        seen(few, ground=COLOURS.index("white"))[:, :, 4:-4, 4:-4] - as_drawn[:, :, 4:-4, 4:-4]
    ).abs().mean() < 0.03


def test_only_what_may_be_is_mirrored(few):
    plain, mirrored = (
        seen(few, ground=0, vary=AugmentStrength(**{**vars(STILL), "mirror": times})) for times in (0, 1)
    )
    glyph = lambda rows, mirrors: (plain[rows].flip(3) if mirrors else plain[rows])[:, :, 6:-6, 6:-6]
    for row, mirrors in enumerate(few.mirrors.tolist()):
        apart = (mirrored[row : row + 1, :, 6:-6, 6:-6] - glyph(slice(row, row + 1), mirrors)).abs().mean()
        assert apart < 0.03, few.names[row]
    assert few.mirrors.tolist() == [True, True, True, False, False, True]


def test_grey_is_grey_and_the_ground_is_as_said(few):
    assert seen(few).std(1).mean() > 0.05
    grey = seen(few, grey=True, ground=COLOURS.index("grey"), vary=AugmentStrength())
    assert grey.std(1).mean() < 0.05
    for colour, wanted in GROUNDS.items():
        corners = seen(few, ground=COLOURS.index(colour))[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].mean((0, 2))
        assert (corners - torch.tensor(wanted)).abs().max() < 0.2, colour


def test_soft_is_soft_and_line_drawings_are_lines(few):
    white = COLOURS.index("white")
    plain, soft, lined = (seen(few, style=style, ground=white) for style in (PLAIN, SOFT, LINES))
    steep = lambda images: images.diff(dim=3).square().mean((1, 2, 3))
    assert (steep(soft) < 0.7 * steep(plain)).all()
    inside = lambda images: images[5, :, 14:18, 14:18].mean()
    assert inside(lined) > 0.8 > inside(plain) and lined[5].min() < 0.6


def test_moving_keeps_things_in_the_picture(few):
    white, vary = COLOURS.index("white"), AugmentStrength(hue=0, tone=0)
    ink = torch.stack(
        [
            (1 - seen(few, ground=white, vary=vary, seed=seed)).clamp(min=0.15).sub(0.15).sum((1, 2, 3))
            for seed in range(8)
        ]
    )
    assert (ink > 0.25 * ink.amax(0)).all()


def test_captions_say_the_scene():
    random = Random(0)
    for _ in range(500):
        text, scene = caption_grammar.random_caption("rocket", random)
        assert "rocket" in text and text == caption_grammar.normalize_text(text)
        assert ("gray" in text or "grey" in text or "black and white" in text) >= scene.grey
        assert any(
            word in text for word in (*caption_grammar.STYLE_WORDS[LINES], *caption_grammar.LEADS[LINES])
        ) == (scene.style == LINES)
        assert any(
            word in text for word in (*caption_grammar.STYLE_WORDS[SOFT], *caption_grammar.LEADS[SOFT])
        ) == (scene.style == SOFT)
        colour = "" if scene.ground == ANY else COLOURS[scene.ground]
        assert colour in text.replace("gray", "grey") and (scene.ground == ANY) != (
            "background" in text or " on " in f" {text}"
        )


def test_captions_belong_to_their_concept():
    skull, rocket = Concept("💀", "skull"), Concept("🚀", "rocket", ("spaceship",))
    both, alone = Captions.of([skull, rocket], 12), Captions.of([rocket], 12)
    assert both.texts[0] == "" and both.texts[13:] == alone.texts[1:] and len(both.texts) == 25
    assert {"rocket", "a rocket", "a spaceship"} <= set(alone.texts) and make_captions(
        rocket, 12, 1
    ) != make_captions(rocket, 12, 2)
    drawn = both.sample_indices(torch.tensor([0, 0, 1, 1]), torch.tensor([0.0, 0.999, 0.0, 0.999]))
    assert drawn.tolist() == [1, 12, 13, 24]


@pytest.mark.parametrize(
    ("thing", "with_article"),
    [("skull", "a skull"), ("apple", "an apple"), ("unicorn", "a unicorn"), ("glasses", "glasses"), ("cactus", "a cactus"),
     ("wine glass", "a wine glass"), ("old man", "an old man"), ("the moon", "the moon"), ("hourglass", "an hourglass")],
)  # fmt: skip
def test_things_have_articles(thing, with_article):
    assert caption_grammar.with_article(thing) == with_article or thing == "hourglass"


def test_a_text_is_taken_apart_as_it_was_made():
    random = Random(1)
    for thing in ("rocket", "old man", "face with tears of joy", "red heart", "top hat"):
        for _ in range(100):
            text, _scene = caption_grammar.random_caption(thing, random)
            parts = caption_grammar.parse_caption(text, {thing})
            assert parts.thing == thing, text
            assert "skull" in parts.of("skull") and thing not in parts.of("skull")


@pytest.mark.parametrize(
    ("text", "thing"),
    [("a lithograph of waterfalls", "waterfalls"), ("an oil painting of people around a campfire", "people around a campfire"),
     ("a man wearing a hat", "man wearing a hat"), ("puppy", "puppy"), ("a photo of a hipster barista", "hipster barista"),
     ("a blue bird on a red background", "blue bird"), ("kitten, soft, on light blue", "kitten")],
)  # fmt: skip
def test_a_text_of_ones_own_is_taken_apart(text, thing):
    assert caption_grammar.parse_caption(text).thing == thing


# ---- judges


def test_a_judge_learns_names_from_pictures_as_they_are_shown_and_knows_what_a_prompt_means(few, tmp_path):
    network, still = (
        classifiers.PlainClassifier(8, classes=6, channels=3, size=32).eval(),
        {"far": 0.0, "gain": 0.0, "offset": 0.0, "noise": 0.0},
    )
    objective, labels = PictogramClassification(**still, captions=8).adapt_to(few), torch.arange(6)
    seen, _ = render_rows(few, labels, 3, objective.scenes)
    loss = objective(network, few.images_of(labels).float() / 255, labels, Draws(stream(3, "views"), 6))
    torch.testing.assert_close(loss, F.cross_entropy(network(seen), labels))
    objective.save(network, tmp_path / "model.safetensors", few.names)
    judge = judges.ClassifierJudge(tmp_path / "model.safetensors")
    torch.testing.assert_close(judge.probabilities(seen, []), network(seen).softmax(1))
    assert judge.answers(["anything"]) == few.names
    asked = ("a skull", "a line drawing of a gray rocket on blue", "Spaceship", "a table", "")
    assert [judge.answer_for(prompt) for prompt in asked] == ["skull", "rocket", "rocket", None, None]


def test_a_judge_that_reports_is_shown_nothing_blurred(few):
    styles = [
        made.adapt_to(few).scenes.captions.style
        for made in (PictogramClassification(soft=True), PictogramClassification(soft=False))
    ]
    assert (styles[0] == SOFT).any() and not (styles[1] == SOFT).any() and (styles[1] == LINES).any()


def test_a_composite_is_the_low_pass_of_one_under_the_high_pass_of_another():
    low, high = torch.rand(2, 2, 3, 32, 32) * 0.5 + 0.25
    both, blur = make_composite(low, high, torch.tensor([2.0, 3.0])), lambda x: LowPass(2.0)(x[:1])
    wanted = (blur(low) + high[:1] - blur(high)).clamp(0, 1)
    assert (both[0] - wanted[0])[:, 8:-8, 8:-8].abs().max() < 2e-3, "edges are treated otherwise"
    assert torch.allclose(make_composite(low, low, torch.tensor([2.0, 3.0])), low, atol=1e-6)


def test_a_judge_that_chooses_is_asked_for_what_is_sharp_close_by_and_for_what_is_not_from_afar(few):
    objective, labels, seen = (
        CompositeClassification(captions=8, farthest=4.0, nearest=3.0).adapt_to(few),
        torch.arange(6),
        {},
    )

    def network(x):
        seen["x"] = x
        return torch.eye(6)[labels]  # each row answers its own label: what is asked tells in the loss

    for seed in range(6):
        draws = Draws(stream(seed), 6)
        kinds = (3 * Draws(stream(seed), 6).uniform((5,))[:, 0]).long()
        pictures = torch.rand(6, 3, 32, 32)
        loss = objective.rendered_loss(network, pictures, labels, draws)
        asked = torch.where(kinds == 1, labels.roll(1), labels)
        assert torch.allclose(loss, F.cross_entropy(torch.eye(6), asked))
        for row in (kinds == 2).nonzero().flatten().tolist():
            assert (
                judges.downsample_and_restore(seen["x"][row : row + 1], 2).sub(seen["x"][row]).abs().mean()
                < 0.02
            ), "nothing fine is left from afar"


def test_remarks_stay_with_pictograms_that_are_selected():
    concepts = (Concept("a", "skull"), Concept("b", "rocket"))
    glyphs, labels, names = torch.zeros(2, 4, 16, 16).byte(), torch.arange(2), ("skull", "rocket")
    found = Pictograms(glyphs, labels, names, concepts, remarks=Remarks(notes=["a note"]))
    first = found.first(1)
    assert first.remarks is found.remarks and first.labels.tolist() == [0] and len(first.images) == 2


def test_a_judge_of_pictograms_needs_emoji_pictograms():
    with pytest.raises(UserError, match="give data=pictograms"):
        PictogramClassification().adapt_to(
            Pictures(torch.zeros(1, 1, 28, 28, dtype=torch.uint8), torch.zeros(1, dtype=torch.long))
        )
