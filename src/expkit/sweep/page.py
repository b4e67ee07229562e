"""The page of a sweep: one HTML file that needs no server, no network and nothing but the sweep's own folder beside it."""

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
# What every browser draws: Latin, Greek, Cyrillic, punctuation, currencies, arrows
EVERYWHERE = re.compile(r"[\x00-\u052f\u1e00-\u206f\u20a0-\u20bf\u2190-\u21ff\ud800-\udfff]")
TICK = 17  # characters of a label under a plot


def write_page(sweep: Mapping) -> str:
    """index.html of a sweep's folder. `sweep` is JSON: texts may hold anything, files are relative to that folder.

    title    what was swept, for example "sdedit: i_start × gamma"
    note     a sentence under it
    axes     [{key, values}] in typed order; a value is a number, a text, a list or None
    numbers  the names of every number that any cell has
    command  the sweep's own command
    cells    [{id, status, axes, numbers, command, error, folder, sheet, pictures, original, frames, readings, distance}]

    Of a cell:
    status    "done", "failed" or "missing"
    axes      {key: value}
    numbers   {name: number}; what is not finite is shown in the table and left out of the plots
    error     the whole text, or None
    sheet     the labelled picture, or None
    pictures  [{file, thumb, caption, original}]; thumb is a data:image address or None. Up to 64 pixels wide, they are enlarged as pixels
    original  the picture it started from, or None; that of one of its pictures, where they differ, is said there
    frames    {file, t, size: [width, height], rows}, or None: a sprite, a column a time and a row a kind
    readings  [{label, said, degrees, files}]: seen turned clockwise by `degrees`, or, where that is None, as the files, one a picture
    distance  whether it has a viewing distance, as a hybrid has
    """
    told = told_apart(sweep)
    css = read_part("page.css") + font_faces(json.dumps(told, ensure_ascii=False, default=str))
    text = (
        read_part("page.html").replace("/* page.css */", css).replace("/* page.js */", read_part("page.js"))
    )
    return text.replace("/* data */", page_data(told))


def read_part(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def font_faces(text: str) -> str:
    """CSS of the family `beside`: fonts of just those characters of a text that a browser may have no font for; emoji are its own."""
    from expkit.images import text_drawing

    rare = {one for one in text if not EVERYWHERE.fullmatch(one)}
    rare = sorted(one for one in rare if text_drawing.drawn_of(one) and not text_drawing.in_colour(one))
    found: dict[str, str] = {}
    for one in rare:
        font = next(
            (font for font in text_drawing.font_paths() if text_drawing.character_test(font)(one)), ""
        )
        found[font] = found.get(font, "") + one
    return "".join(font_face(font, those) for font, those in found.items() if font)


@lru_cache(maxsize=64)
def font_face(font: str, characters: str) -> str:
    """A font of these characters only, inside its own address."""
    from fontTools import subset

    options = subset.Options(flavor="woff", layout_features=["*"])
    loaded, held = subset.load_font(font, options), io.BytesIO()
    subsetter = subset.Subsetter(options)
    subsetter.populate(text=characters)
    subsetter.subset(loaded)
    subset.save_font(loaded, held, options)
    address, places = (
        base64.b64encode(held.getvalue()).decode(),
        ", ".join(f"U+{ord(one):X}" for one in characters),
    )
    return f'@font-face {{ font-family: beside; src: url("data:font/woff;base64,{address}"); unicode-range: {places}; }}\n'


def told_apart(sweep: Mapping) -> dict:
    """The same with labels for the values of an axis, and 1.0 in another form where there is a 1 too: to JavaScript they are one."""
    axes, cells = [], [{**cell, "axes": dict(cell.get("axes", {}))} for cell in sweep.get("cells", ())]
    for axis in sweep.get("axes", ()):
        values = [*axis["values"], *(cell["axes"].get(axis["key"]) for cell in cells)]
        values = list({key_of(value): value for value in values}.values())
        whole = {value for value in values if type(value) is int}
        kept = {
            key_of(value): {"number": repr(value)} if type(value) is float and value in whole else value
            for value in values
        }
        axes.append({**axis, "values": [kept[key_of(value)] for value in values], **page_labels(values)})
        for cell in cells:
            cell["axes"][axis["key"]] = kept[key_of(cell["axes"].get(axis["key"]))]
    return {**sweep, "axes": axes, "cells": cells} if axes else {**sweep}


def page_labels(values: Sequence) -> dict[str, list[str]]:
    """The labels of an axis: whole, as they stand beside pictures, and as they stand under a plot."""
    whole = axis_labels(values)
    return {"labels": whole, "short": shorten_texts(whole), "ticks": shorten_texts(whole, TICK)}


def page_data(sweep: Mapping) -> str:
    """JSON in ASCII without "<": nothing in it ends the script element that it stands in."""
    return json.dumps(json_safe(sweep), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def json_safe(value):
    """The same with nan and inf as texts, which JSON does not know as numbers."""
    if isinstance(value, Mapping):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    return str(value) if isinstance(value, float) and not isfinite(value) else value
