"""Text on pictures: any script is drawn, labels that differ look different, and no text leaves its place."""

import json
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from expkit.images import figures, labels, text_drawing
from expkit.images.animations import add_caption
from expkit.images.image_io import INK
from expkit.images.sheets import picture_sheet
from expkit.results.run_folder import logger_value
from expkit.sweep import contact_sheet
from expkit.sweep.page import font_faces, with_axis_labels
from expkit.tasks import result_figure

TEXTS = (
    "un café à Zürich", "Жёлтый кот", "αβγ ∑ x ≤ ∞ → y", "我喜欢在夏天的时候去海边。", "猫と犬", "고양이가 지붕", "שלום 3.14",
    "مرحبا 123", "हिन्दी में बिल्ली", "แมวน้อย", "বাংলা", "தமிழ்", "ქართული", "Հայերեն", "n\u0303 e\u0301 x\u0489",
    "😀 👨‍👩‍👧‍👦 🇩🇪 👍🏽 ❤️ 1️⃣", "a\nb\tc\x00 \u202e \ud800 \ue000 \U000e0001", "𓀀 \U0001f9ff ⟨⟩ 𝒙",
)  # fmt: skip
LONG = "w" * 80
ADDRESS = "https://example.com/a/very/long/path/with_many_parts?and=a&query=" + "7" * 40


def glyphless(text: str) -> list[str]:
    """The characters of a text that the fonts of its runs lack."""
    found = [
        (one, run.font)
        for line in text.split("\n")
        for run in text_drawing.split_runs(line)
        for one in text_drawing.visible_characters(run.text)
    ]
    return [one for one, font in found if not text_drawing.character_test(font)(one)]


def dark(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L")) < 200


@pytest.mark.parametrize("text", TEXTS)
def test_every_character_is_drawn_by_a_font_that_has_it(text):
    prepared = text_drawing.prepare_text(text)
    assert not glyphless(prepared) and not {"\n", "\t", "\x00", "\u202e"} & {*prepared}
    page = Image.new("RGB", (900, 60), "white")
    text_drawing.draw_text(page, (10, 10), prepared, 18, INK)
    drawn = np.argwhere(np.asarray(page).min(2) < 200)
    assert (
        len(drawn) and drawn[:, 1].max() <= 10 + text_drawing.text_width(prepared, 18) + 10
    )  # enclosing marks reach further


def test_a_character_that_no_font_has_is_named(monkeypatch):
    for function in (
        text_drawing.font_of,
        text_drawing.prepare_text,
        text_drawing.split_runs,
        text_drawing.wrap_text,
        text_drawing.measure_line,
    ):
        function.cache_clear()
    dejavu = next(path for path in text_drawing.font_paths() if "DejaVu" in path)
    for name, found in (("font_paths", (dejavu,)), ("system_fonts", ()), ("colour_font", None)):
        monkeypatch.setattr(text_drawing, name, lambda found=found: found)
    assert text_drawing.prepare_text("猫 🐕‍🦺 é") == "⟨U+732B⟩ ⟨dog⟩⟨safety vest⟩ é" and not glyphless(
        text_drawing.prepare_text("猫 🐕‍🦺 é")
    )
    for function in (
        text_drawing.font_of,
        text_drawing.prepare_text,
        text_drawing.split_runs,
        text_drawing.wrap_text,
        text_drawing.measure_line,
    ):
        function.cache_clear()


def test_plain_text_is_drawn_as_pillow_draws_it():
    face, pages = ImageFont.load_default(18), [Image.new("RGB", (300, 80), "white") for _ in range(2)]
    ImageDraw.Draw(pages[0]).multiline_text(
        (150, 70), "a lithograph\nof waterfalls", INK, face, anchor="md", align="center", spacing=4
    )
    text_drawing.draw_text(
        pages[1], (150, 70), text_drawing.wrap_text("a lithograph of waterfalls", 18, 110), 18, INK, "md"
    )
    assert pages[0].tobytes() == pages[1].tobytes()
    known = ImageFont.load_default(40)
    missing = known.getmask("\u0416").getbbox(), bytes(known.getmask("\u0416"))
    for one in filter(text_drawing.PLAIN.fullmatch, map(chr, range(33, 0x2200))):
        assert (known.getmask(one).getbbox(), bytes(known.getmask(one))) != missing, one


def test_right_to_left_text_stands_so():
    said = "שלום 3.14 cat"
    assert [run.text.strip() for run in text_drawing.split_runs(said) if run.text.strip()] == [
        "cat",
        "3.14",
        "שלום",
    ]
    assert text_drawing.embedding_levels(["R", "", "EN", "CS", "EN", "", "R"]) == [1, 1, 2, 2, 2, 1, 1]
    assert text_drawing.embedding_levels(["L", "", "R", "", "R", "", "L"]) == [0, 0, 1, 1, 1, 0, 0]
    assert text_drawing.split_runs("a אב ג b")[0].text == "a "


@pytest.mark.parametrize("text", [*TEXTS, LONG, ADDRESS, "猫" * 50, "a " + LONG, "é" * 90, "👨‍👩‍👧‍👦" * 20])
@pytest.mark.parametrize("width", [60, 220])
def test_lines_are_as_wide_as_their_place(text, width):
    lines = text_drawing.wrap_text(text, 14, width)
    assert text_drawing.text_width(lines, 14) <= width
    assert lines.replace("\n", "").replace(" ", "") == text_drawing.prepare_text(text).replace(" ", "")


@pytest.mark.parametrize("text", [LONG, ADDRESS, "猫" * 50, "é" * 90])
def test_no_label_of_a_sheet_reaches_its_neighbours(text):
    tiles = [[torch.ones(1, 8, 8)] * 3] * 2
    bare = picture_sheet(tiles, ["a", "b"], ["c", "d", "e"], "t", "n", under=[["f"] * 3] * 2)
    for where in ("down", "across", "title", "note", "under"):
        told = {
            "down": ["", ""],
            "across": ["", text, ""],
            "title": "",
            "note": "",
            "under": [["", text, ""], [""] * 3],
        }
        only = {
            key: told[key] if key == where else ([""] * len(told[key]) if key in ("down", "across") else "")
            for key in told
        }
        only["under"] = told["under"] if where == "under" else [[""] * 3] * 2
        only |= (
            {"down": [text, ""]} if where == "down" else {where: text} if where in ("title", "note") else {}
        )
        page = picture_sheet(tiles, **only)
        marks = dark(page)
        assert (
            marks.any()
            and not marks[:, -8:].any()
            and not marks[:, :8].any()
            and not marks[-4:].any()
            and not marks[:4].any()
        ), where
        if where in ("across", "under"):
            columns = np.argwhere(marks.any(0))
            assert columns[-1] - columns[0] <= 168, where
    assert bare.width > 0


def test_a_label_higher_than_its_row_does_not_reach_the_next():
    page = picture_sheet([[torch.ones(1, 8, 8)]] * 3, ["x " * 110] * 3, side=56)
    rows = dark(page)[:, :200].any(1)
    assert sum(rows[1:] & ~rows[:-1]) >= 3 and not rows[:4].any() and not rows[-4:].any()


def test_a_hole_and_a_caption_stay_inside():
    for text in (LONG, ADDRESS, "猫" * 90):
        hole = contact_sheet.empty_cell(text, (90, 90))
        assert not dark(hole)[:, -2:].any() and not dark(hole)[-1:].any() and dark(hole).any()
        frame = add_caption(Image.new("RGB", (120, 20), "white"), text)
        assert not dark(frame)[:, -4:].any() and not dark(frame)[:, :4].any() and dark(frame).any()


def test_values_that_differ_have_labels_that_differ():
    values = [
        1,
        1.0,
        "1",
        None,
        "null",
        "",
        " ",
        "  ",
        "(empty)",
        True,
        "true",
        "a b",
        "a  b",
        "a\nb",
        "a\u00a0b",
        "é",
        "e\u0301",
    ]
    values += [[1, 2], ["1", 2], "x"]
    found = labels.axis_labels(values)
    assert len({labels.look_of(text) for text in found}) == len(values)
    assert found[:5] == ["1", "1.0", '"1"', "null", '"null"'] and found[-1] == "x"
    assert labels.axis_labels(["猫", "a fish", "a fish", 1e-05]) == ["猫", "a fish", "a fish", "1e-05"]


@pytest.mark.parametrize("most", [17, 60, 240])
def test_long_labels_that_begin_alike_differ(most):
    start = "a photograph of a large house on a hill by the sea, " * 6
    texts = [start + end for end in ("at dawn", "at dusk", "at dusk, in snow")]
    texts += [start.replace("house", "horse", 1), start * 2, "猫" * 300, "猫" * 299]
    short = labels.shorten_texts([*texts, *texts], most)
    assert len(set(short)) == len(texts) and short[: len(texts)] == short[len(texts) :]
    assert all(len(labels.grapheme_clusters(text)) <= most for text in short)
    names = [labels.file_name(text, 128) for text in texts]
    assert (
        len(set(names)) == len(texts)
        and max(map(len, names)) <= 128
        and labels.file_name("short", 128) == "short"
    )


def test_sheet_page_and_loggers_say_the_same():
    values = ["a\nb", "un café", "1", None, 2.0, " "]
    said = labels.axis_labels(values)
    named = contact_sheet.name_axes({"prompt": values})["prompt"]
    page = with_axis_labels(
        {
            "axes": [{"key": "prompt", "values": values}],
            "cells": [{"axes": {"prompt": value}} for value in values],
        }
    )
    assert named == [f"prompt {text}" for text in said] and page["axes"][0]["labels"] == said
    assert [logger_value({"prompt": value})["prompt"] for value in values] == [
        2.0 if text == "2.0" else text for text in said
    ]


def test_cells_of_one_and_one_point_nought_stand_in_their_own_places():
    values = [1, 1.0, "1"]
    cells = [
        {"axes": {"a": a, "b": b}, "number": number} for number, (a, b) in enumerate(product([0, 1], values))
    ]
    ((_, _, across, rows),) = contact_sheet.grid_cells({"a": [0, 1], "b": values}, cells)
    assert [[cell["number"] for cell in row] for row in rows] == [[0, 1, 2], [3, 4, 5]] and len(
        set(across)
    ) == 3
    page = with_axis_labels({"axes": [{"key": "b", "values": values}], "cells": cells})
    assert len({json.dumps(cell["axes"]["b"]) for cell in page["cells"][:3]}) == 3


def test_the_page_brings_characters_that_a_browser_may_lack():
    assert (
        font_faces("a cat, un café, Жёлтый 😀") == ""
        and "U+732B" in font_faces("猫")
        and "font/woff" in font_faces("猫")
    )


def test_charts_draw_what_is_typed():
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    said = figures.wrap_for_figure(r"$x_1$ costs 5$ \alpha 猫 🐱 𓀀", 10)
    assert Text(0, 0, said)._preprocess_math(said)[1] is False and "猫" in said and "hieroglyph" in said
    assert all(len(line) < 40 for line in figures.wrap_for_figure(LONG * 3, 2).split("\n"))
    figure = Figure(figsize=(4, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(figures.distinct_labels(["猫", "un café"], 1.5), [1, 2])
    with pytest.MonkeyPatch.context() as patch:
        import warnings

        patch.setattr(warnings, "showwarning", lambda message, *_: pytest.fail(str(message)))
        figure.suptitle(said)
        assert figures.render_figure(figure).width == 440


ORIGINALS = torch.stack([torch.full((1, 8, 8), level) for level in (0.1, 0.5, 0.9)])


def shown_rows(monkeypatch, cells, samples, before, after):
    told = {}
    monkeypatch.setattr(
        result_figure,
        "picture_sheet",
        lambda rows, down, *rest, **more: told.update(rows=rows, down=down, **more),
    )
    seen = [
        result_figure.ReadoutImages(
            "picture", torch.rand(len(cells) * samples, 1, 8, 8), [""] * len(cells) * samples
        )
    ]
    result_figure.result_sheet("sdedit", seen, cells, samples, before, after)
    return told


@pytest.mark.parametrize("samples", [1, 2])
def test_each_result_stands_with_its_own_original(samples, monkeypatch):
    cells = [{"image": name} for name in "abc"]
    originals = ORIGINALS.repeat_interleave(samples, 0)
    told = shown_rows(monkeypatch, cells, samples, {}, {"original": originals})
    if samples == 1:
        assert told["down"] == ["result", "original"] and [
            float(one.mean()) for one in told["rows"][1]
        ] == pytest.approx([0.1, 0.5, 0.9])
        assert told["under"][1] == ["a", "b", "c"]
    else:
        assert [float(row[-1].mean()) for row in told["rows"]] == pytest.approx([0.1, 0.5, 0.9])


def test_prompts_by_images_have_each_image_and_its_mask(monkeypatch):
    cells = [{"prompt": prompt, "image": image} for prompt in "xy" for image in "abc"]
    before = {"original": ORIGINALS.repeat(2, 1, 1, 1), "mask": torch.ones(1, 1, 8, 8)}
    told = shown_rows(monkeypatch, cells, 1, before, {})
    assert told["down"] == ["original", "mask", "result"] and told["under"][-1][0] == "prompt: x, a"
    assert [float(one.mean()) for one in told["rows"][0]] == pytest.approx([0.1, 0.5, 0.9] * 2)
