"""What a sweep's folder shows of all its cells: sheet.png, table.csv, table.parquet, index.html. Written from the cells' files alone."""

from __future__ import annotations

import base64
import csv
import io
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from PIL import Image

from expkit.errors import warn
from expkit.images.labels import format_label
from expkit.storage.files import atomic_write
from expkit.sweep import contact_sheet
from expkit.sweep.cells import Cell, failure_reason, is_done
from expkit.sweep.page import write_page

SMALL, SHOWN = 64, 8  # pixels of a picture that lies in the page itself; how many of a cell do
ROOM = 6_000_000  # bytes of pictures in the page
PATIENCE, SHARE = (
    5.0,
    20,
)  # seconds between two looks while a sweep runs, and how many times what showing it took


class SweepReport:
    """The cells of a command, in typed order, and what lies in their folders. command: what makes them all, as a shell takes it."""

    def __init__(self, folder: Path, cells: Sequence[Cell], command: str) -> None:
        self.folder, self.cells, self.command = folder, list(cells), command
        self.read: dict[str, dict] = {}

    @cached_property
    def axes(self) -> dict[str, list]:
        """{key: its values}, of what is swept, in typed order."""
        keys = dict.fromkeys(key for cell in self.cells for key in cell.axes)
        values = {key: unique_values([cell.axes.get(key) for cell in self.cells]) for key in keys}
        return {key: found for key, found in values.items() if len(found) > 1}

    @property
    def title(self) -> str:
        first = self.cells[0].axes
        what = (
            str(first["task"])
            if "task" in first and "task" not in self.axes
            else str(first.get("experiment", "sweep"))
        )
        return f"{what}: {' by '.join(self.axes)}" if self.axes else what

    @property
    def numbers(self) -> list[str]:
        """The names of every number that any finished cell has."""
        return list(dict.fromkeys(name for known in self.read.values() for name in known["numbers"]))

    @contextmanager
    def kept_up(self) -> Iterator[None]:
        """Write it anew now and then while cells come to be, from a thread that rests much longer than it writes."""
        over = threading.Event()

        def look() -> None:
            rest, seen = PATIENCE, -1
            while not over.wait(rest):
                there = sum(is_done(cell.folder(self.folder)) for cell in self.cells)
                if there != seen:
                    began, seen = time.perf_counter(), there
                    self.write()
                    rest = max(PATIENCE, SHARE * (time.perf_counter() - began))

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def write(self) -> None:
        entries = self.entries()
        self.sheets(entries)
        self.tables(entries)
        atomic_write(
            self.folder / "index.html",
            lambda part: part.write_text(write_page(self.shown(entries)), encoding="utf-8"),
        )

    def entries(self) -> list[dict]:
        """What is known of each cell, as the page wants it; what was read of finished ones is kept."""
        return [self.entry(cell) for cell in self.cells]

    def entry(self, cell: Cell) -> dict:
        folder = cell.folder(self.folder)
        if is_done(folder):
            if cell.id not in self.read:
                self.read[cell.id] = read_cell(folder, f"cells/{cell.id}")
            known = self.read[cell.id]
        else:
            error = failure_reason(folder)
            known = {
                **NOTHING,
                "status": "failed" if error else "missing",
                "error": error.splitlines()[-1] if error else None,
            }
        axes = {key: cell.axes.get(key) for key in self.axes}
        return {"id": cell.id, "axes": axes, "command": cell.command, **known}

    def shown(self, entries: Sequence[dict]) -> dict:
        room = ROOM
        for entry in entries:
            for number, picture in enumerate(entry["pictures"][:SHOWN]):
                if room > 0 and "thumb" not in picture:
                    picture["thumb"] = thumbnail(self.folder / picture["file"], number)
                room -= len(picture.get("thumb") or "")
        axes = [{"key": key, "values": values} for key, values in self.axes.items()]
        return {
            "title": self.title,
            "note": "",
            "axes": axes,
            "numbers": self.numbers,
            "command": self.command,
            "cells": entries,
        }

    def sheets(self, entries: Sequence[dict]) -> None:
        made = contact_sheet.sheet_pages(self.axes, entries, self.tile, self.title, self.command)
        for number, image in enumerate(made, 1):
            name = "sheet.png" if number == 1 else f"sheet_{number:02d}.png"
            atomic_write(self.folder / name, lambda part, image=image: image.save(part, format="PNG"))

    def tile(self, entry: Mapping, side: int) -> Image.Image | None:
        files = [picture["file"] for picture in entry["pictures"]]
        if entry["status"] != "done":
            return None
        if 0 < len(files) <= contact_sheet.SHOWN:
            return contact_sheet.make_montage([Image.open(self.folder / file) for file in files], side)
        return (
            contact_sheet.contain_image(
                Image.open(self.folder / entry["sheet"]).convert("RGB"), (2 * side, 2 * side)
            )
            if entry["sheet"]
            else None
        )

    def tables(self, entries: Sequence[dict]) -> None:
        numbers = [name for name in self.numbers if name not in self.axes]
        rows = [
            {
                "cell": e["id"],
                "status": e["status"],
                **e["axes"],
                **{name: e["numbers"].get(name) for name in numbers},
            }
            | {"picture": e["sheet"], "folder": e["folder"], "command": e["command"], "error": e["error"]}
            for e in entries
        ]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        atomic_write(
            self.folder / "table.csv", lambda part: part.write_text(text.getvalue(), encoding="utf-8")
        )
        atomic_write(self.folder / "table.parquet", lambda part: write_parquet(rows, part))


NOTHING = {
    "numbers": {},
    "folder": None,
    "sheet": None,
    "pictures": [],
    "original": None,
    "frames": None,
    "readings": [],
    "distance": 0,
}


def unique_values(values: Sequence) -> list:
    """Values that may be lists, each once."""
    return list({json.dumps(value, default=str): value for value in values}.values())


def read_cell(folder: Path, name: str) -> dict:
    """What a finished cell's folder holds; files are told from the sweep's folder."""
    from expkit.results.run_folder import flatten_scalars

    numbers, look = read_table(folder / "numbers.json"), read_table(folder / "look.json")
    told = numbers.get("pictures") if isinstance(numbers.get("pictures"), list) else []
    files = [one["file"] for one in told] or sorted(
        f"pictures/{path.name}" for path in folder.glob("pictures/*.png")
    )
    said = [{key: value for key, value in one.items() if key not in ("file", "scores")} for one in told]
    captions = [", ".join(f"{key} {format_label(value)}" for key, value in one.items()) for one in said] or [
        Path(file).stem for file in files
    ]
    originals = [f"{name}/{file}" for file in look.get("original") or []]
    own = originals if len(originals) == len(files) else [None] * len(files)  # one a picture, or one for all
    return {
        "status": "done",
        "error": None,
        "numbers": flatten_scalars(numbers),
        "folder": name,
        "sheet": f"{name}/picture.png" if (folder / "picture.png").is_file() else None,
        "pictures": [
            {"file": f"{name}/{file}", "caption": caption, "original": before}
            for file, caption, before in zip(files, captions, own, strict=True)
        ],
        "original": originals[0] if originals else None,
        "frames": look.get("frames") and {**look["frames"], "file": f"{name}/{look['frames']['file']}"},
        "readings": [
            {**one, "files": [f"{name}/{file}" for file in one["files"]]} for one in look.get("readings", [])
        ],
        "distance": look.get("distance", False),
    }


def read_table(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def thumbnail(path: Path, number: int) -> str | None:
    """A picture as an address that holds it: small ones as they are, less what is written in them; of large ones the first, shrunk."""
    with Image.open(path) as image:
        large = max(image.size) > SMALL
        if large and number:
            return None
        small = contact_sheet.contain_image(image.convert("RGB"), (160, 160)) if large else image.copy()
    small.info.clear()
    held, kind = io.BytesIO(), "WEBP" if large else "PNG"
    small.save(held, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(held.getvalue()).decode()}"


def write_parquet(rows: Sequence[Mapping], path: Path) -> None:
    """A column of one type each: texts where values are of several."""
    import pyarrow
    from pyarrow import parquet as writer

    columns = {key: [row[key] for row in rows] for key in rows[0]}
    for key, values in columns.items():
        kinds = {float if type(value) is int else type(value) for value in values if value is not None}
        if len(kinds) > 1 or kinds - {float, str, bool}:
            columns[key] = [None if value is None else str(value) for value in values]
    try:
        writer.write_table(pyarrow.table(columns), path)
    except pyarrow.ArrowException as error:
        warn(f"{path.name} was not written ({error}); table.csv has the same.")
