"""The page of a sweep: one HTML file that needs no server or network, only the sweep's folder."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import isfinite
from pathlib import Path

from expkit.images.labels import axis_labels, key_of, shorten_texts

HERE = Path(__file__).parent
# Characters that every browser can draw: Latin, Greek, Cyrillic, punctuation, currencies, arrows
EVERYWHERE = re.compile(
    r"[\x00-\u052f\u1e00-\u206f\u20a0-\u20bf\u2190-\u21ff\ud800-\udfff]",
)
TICK = 17  # characters of a label under a plot at most


def write_page(sweep: Mapping) -> str:
    """The text of index.html, the page in a sweep's folder.

    `sweep` is JSON. Its texts may hold anything; its files are relative to the sweep's folder.

    title    what was swept, for example "sdedit: i_start × gamma"
    note     a sentence under the title
    axes     [{key, values}] in typed order; a value is a number, a text, a list or None
    numbers  the names of all numbers that any cell has
    command  the command of the whole sweep
    cells    [{id, status, axes, numbers, command, error, folder, sheet, pictures, original,
             frames, readings, distance}]

    A cell:
    status    "done", "failed" or "missing"
    axes      {key: value}
    numbers   {name: number}; numbers that are not finite are in the table but not in the plots
    error     the whole text, or None
    sheet     the labelled picture, or None
    pictures  [{file, thumb, caption, original}]; thumb is a data:image URL or None. Pictures up to
              64 pixels wide are enlarged with sharp pixels
    original  the picture that the cell started from, or None; where the originals of its pictures
              differ, each picture has its own
    frames    {file, t, size: [width, height], rows}, or None. The file is one image of all frames:
              a column for each time and a row for each kind of frame
    readings  [{label, said, degrees, files}]: a view of the picture and what is read in it. The
              page turns the picture clockwise by `degrees`; where that is None, it shows the files
              instead, one for each picture
    distance  whether the page offers to view it from a distance, as for a hybrid
    """
    data = with_axis_labels(sweep)
    faces = font_faces(json.dumps(data, ensure_ascii=False, default=str))
    css = read_part("page.css") + faces
    page = read_part("page.html").replace("/* page.css */", css)
    page = page.replace("/* page.js */", read_part("page.js"))
    return page.replace("/* data */", page_data(data))


def read_part(name: str) -> str:
    """The text of a file beside this module."""
    return (HERE / name).read_text(encoding="utf-8")


def font_faces(text: str) -> str:
    """CSS of the font family `beside`: fonts for characters of a text that a browser may lack.

    They have only these characters. Emoji are left to the browser's own font.
    """
    from expkit.images import text_drawing

    rare = {character for character in text if not EVERYWHERE.fullmatch(character)}
    characters = sorted(
        character
        for character in rare
        if text_drawing.visible_characters(character) and not text_drawing.in_colour(character)
    )
    characters_of: dict[str, str] = {}  # {path of a font: the characters taken from it}
    for character in characters:
        fonts = text_drawing.font_paths()
        font = next((font for font in fonts if text_drawing.character_test(font)(character)), "")
        characters_of[font] = characters_of.get(font, "") + character
    return "".join(font_face(font, subset) for font, subset in characters_of.items() if font)


@lru_cache(maxsize=64)
def font_face(font: str, characters: str) -> str:
    """A CSS rule with a font of only these characters, embedded as a data URL."""
    from fontTools import subset

    options = subset.Options(flavor="woff", layout_features=["*"])
    loaded_font = subset.load_font(font, options)
    buffer = io.BytesIO()
    subsetter = subset.Subsetter(options)
    subsetter.populate(text=characters)
    subsetter.subset(loaded_font)
    subset.save_font(loaded_font, buffer, options)
    data = base64.b64encode(buffer.getvalue()).decode()
    code_points = ", ".join(f"U+{ord(character):X}" for character in characters)
    return (
        f'@font-face {{ font-family: beside; src: url("data:font/woff;base64,{data}"); '
        f"unicode-range: {code_points}; }}\n"
    )


def with_axis_labels(sweep: Mapping) -> dict:
    """The data of a sweep with labels for the values of each axis.

    Where an axis has both 1 and 1.0, the float is written as {"number": "1.0"}, since JavaScript
    cannot tell the two apart.
    """
    axes = []
    cells = [{**cell, "axes": dict(cell.get("axes", {}))} for cell in sweep.get("cells", ())]
    for axis in sweep.get("axes", ()):
        values = [*axis["values"], *(cell["axes"].get(axis["key"]) for cell in cells)]
        values = list({key_of(value): value for value in values}.values())
        integers = {value for value in values if type(value) is int}
        json_values = {key_of(value): value for value in values}
        for value in values:
            if type(value) is float and value in integers:
                json_values[key_of(value)] = {"number": repr(value)}
        distinct = [json_values[key_of(value)] for value in values]
        axes.append({**axis, "values": distinct, **page_labels(values)})
        for cell in cells:
            cell["axes"][axis["key"]] = json_values[key_of(cell["axes"].get(axis["key"]))]
    return {**sweep, "axes": axes, "cells": cells} if axes else {**sweep}


def page_labels(values: Sequence) -> dict[str, list[str]]:
    """The labels of an axis: whole, shortened for use beside pictures, and shortest for plots."""
    labels = axis_labels(values)
    return {
        "labels": labels,
        "short": shorten_texts(labels),
        "ticks": shorten_texts(labels, TICK),
    }


def page_data(sweep: Mapping) -> str:
    """JSON in ASCII without "<", so that nothing in it ends the script element that contains it."""
    data = json.dumps(json_safe(sweep), separators=(",", ":"), allow_nan=False)
    return data.replace("<", "\\u003c")


def json_safe(value):
    """The same value with nan and inf as texts, since JSON has no such numbers."""
    if isinstance(value, Mapping):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    return str(value) if isinstance(value, float) and not isfinite(value) else value
