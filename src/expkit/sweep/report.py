"""What a sweep's folder shows of all cells: sheet.png, table.csv, table.parquet and index.html.

All of it is made from the files in the cells' folders alone.
"""

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
from expkit.images.image_io import contain_image
from expkit.images.labels import format_label
from expkit.results.claims import LOOK, NUMBERS
from expkit.storage.files import atomic_write
from expkit.sweep import contact_sheet
from expkit.sweep.cells import Cell, failure_reason, is_done
from expkit.sweep.page import write_page

SMALL = 64  # pixels of the longer side of a picture that the page holds at its own size
MAX_EMBEDDED_PICTURES = 8  # pictures of a cell that the page itself holds
ROOM = 6_000_000  # bytes of all pictures that the page itself holds, about
PATIENCE = 5.0  # seconds between two checks of a running sweep, at least
SHARE = 20  # the pause after writing the report, as a multiple of the time that writing took


class SweepReport:
    """The report on the cells of a command, made from the files in their folders.

    Args:
        folder: the folder of the sweep.
        cells: the cells, in typed order.
        command: the shell command that makes all cells.
    """

    def __init__(self, folder: Path, cells: Sequence[Cell], command: str) -> None:
        self.folder, self.cells, self.command = folder, list(cells), command
        self.read: dict[str, dict] = {}  # {id: what was read} of finished cells

    @cached_property
    def axes(self) -> dict[str, list]:
        """{key: values} of the keys with more than one value, in typed order."""
        keys = dict.fromkeys(key for cell in self.cells for key in cell.axes)
        axes = {key: unique_values([cell.axes.get(key) for cell in self.cells]) for key in keys}
        return {key: values for key, values in axes.items() if len(values) > 1}

    @property
    def title(self) -> str:
        """The task or experiment, and the keys that are swept."""
        first = self.cells[0].axes
        if "task" in first and "task" not in self.axes:
            name = str(first["task"])
        else:
            name = str(first.get("experiment", "sweep"))
        return f"{name}: {' by '.join(self.axes)}" if self.axes else name

    @property
    def numbers(self) -> list[str]:
        """The names of all numbers that any finished cell has."""
        return list(dict.fromkeys(name for cell in self.read.values() for name in cell["numbers"]))

    @contextmanager
    def live(self) -> Iterator[None]:
        """Rewrite the report in a thread from time to time while cells are being finished.

        The thread waits much longer than it writes. An error is reported, and does not end it.
        """
        stop = threading.Event()

        def update() -> None:
            pause = PATIENCE
            written_count = -1
            while not stop.wait(pause):
                done_count = sum(is_done(cell.folder(self.folder)) for cell in self.cells)
                if done_count != written_count:
                    start = time.perf_counter()
                    written_count = done_count
                    try:
                        self.write()
                    except Exception as error:
                        warn(f"the report was not updated ({error}); it is written again later.")
                    pause = max(PATIENCE, SHARE * (time.perf_counter() - start))

        thread = threading.Thread(target=update, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def write(self) -> None:
        """Write the whole report."""
        entries = self.entries()
        self.sheets(entries)
        self.tables(entries)
        atomic_write(
            self.folder / "index.html",
            lambda part: part.write_text(write_page(self.page_content(entries)), encoding="utf-8"),
        )

    def entries(self) -> list[dict]:
        """The entries of all cells, in the form that `write_page` takes."""
        return [self.entry(cell) for cell in self.cells]

    def entry(self, cell: Cell) -> dict:
        """The entry of one cell. A finished cell is read from its folder once only."""
        folder = cell.folder(self.folder)
        if is_done(folder):
            if cell.id not in self.read:
                self.read[cell.id] = read_cell(folder, f"cells/{cell.id}")
            content = self.read[cell.id]
        else:
            error = failure_reason(folder)
            content = {
                **NOTHING,
                "status": "failed" if error else "missing",
                "error": error.splitlines()[-1] if error else None,
            }
        axes = {key: cell.axes.get(key) for key in self.axes}
        return {"id": cell.id, "axes": axes, "command": cell.command, **content}

    def page_content(self, entries: Sequence[dict]) -> dict:
        """The data of the page. Adds thumbnails to the entries while there is room in the page."""
        room = ROOM
        for entry in entries:
            for number, picture in enumerate(entry["pictures"][:MAX_EMBEDDED_PICTURES]):
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
        """Write the contact sheet: sheet.png, and sheet_02.png and so on if it has more pages."""
        pages = contact_sheet.sheet_pages(self.axes, entries, self.tile, self.title, self.command)
        for number, page in enumerate(pages, 1):
            name = "sheet.png" if number == 1 else f"sheet_{number:02d}.png"
            atomic_write(self.folder / name, lambda part, page=page: page.save(part, format="PNG"))

    def tile(self, entry: Mapping, side: int) -> Image.Image | None:
        """The picture of a cell on the contact sheet, None if it has none.

        It is a montage of the cell's pictures, or its labelled sheet if there are too many or none.
        """
        files = [picture["file"] for picture in entry["pictures"]]
        if entry["status"] != "done":
            return None
        if 0 < len(files) <= contact_sheet.MAX_TILE_PICTURES:
            images = [Image.open(self.folder / file) for file in files]
            return contact_sheet.make_montage(images, side)
        if not entry["sheet"]:
            return None
        sheet = Image.open(self.folder / entry["sheet"]).convert("RGB")
        return contain_image(sheet, (2 * side, 2 * side))

    def tables(self, entries: Sequence[dict]) -> None:
        """Write table.csv and table.parquet, one row for each cell."""
        numbers = [name for name in self.numbers if name not in self.axes]
        rows = [
            {
                "cell": entry["id"],
                "status": entry["status"],
                **entry["axes"],
                **{name: entry["numbers"].get(name) for name in numbers},
                "picture": entry["sheet"],
                "folder": entry["folder"],
                "command": entry["command"],
                "error": entry["error"],
            }
            for entry in entries
        ]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        csv_path = self.folder / "table.csv"
        atomic_write(csv_path, lambda part: part.write_text(text.getvalue(), encoding="utf-8"))
        atomic_write(self.folder / "table.parquet", lambda part: write_parquet(rows, part))


# What the entry of a cell holds that has not finished
NOTHING = {
    "numbers": {},
    "folder": None,
    "sheet": None,
    "pictures": [],
    "original": None,
    "frames": None,
    "readings": [],
    "distance": False,
}


def unique_values(values: Sequence) -> list:
    """The values without repetitions; they may be lists."""
    return list({json.dumps(value, default=str): value for value in values}.values())


def read_cell(folder: Path, name: str) -> dict:
    """Read a finished cell.

    Args:
        folder: the folder of the cell.
        name: the path of this folder relative to the folder of the sweep.

    Returns:
        The entry of the cell in the form that `write_page` takes, with files relative to the folder
        of the sweep.
    """
    from expkit.results.run_folder import flatten_scalars

    numbers = read_table(folder / NUMBERS)
    look = read_table(folder / LOOK)
    pictures = numbers.get("pictures")
    if not isinstance(pictures, list):
        pictures = []
    files = [picture["file"] for picture in pictures]
    captions = [_picture_caption(picture) for picture in pictures]
    if not files:
        files = sorted(f"pictures/{path.name}" for path in folder.glob("pictures/*.png"))
    if not captions:
        captions = [Path(file).stem for file in files]
    originals = [f"{name}/{file}" for file in look.get("original") or []]
    # There is one original for each picture, or one for all pictures
    own_originals = originals if len(originals) == len(files) else [None] * len(files)
    has_sheet = (folder / "picture.png").is_file()
    frames = look.get("frames")
    return {
        "status": "done",
        "error": None,
        "numbers": flatten_scalars(numbers),
        "folder": name,
        "sheet": f"{name}/picture.png" if has_sheet else None,
        "pictures": [
            {"file": f"{name}/{file}", "caption": caption, "original": original}
            for file, caption, original in zip(files, captions, own_originals, strict=True)
        ],
        "original": originals[0] if originals else None,
        "frames": frames and {**frames, "file": f"{name}/{frames['file']}"},
        "readings": [
            {**reading, "files": [f"{name}/{file}" for file in reading["files"]]}
            for reading in look.get("readings", [])
        ],
        "distance": look.get("distance", False),
    }


def _picture_caption(picture: Mapping) -> str:
    """What distinguishes a picture of a cell, as text: all that is recorded but file and scores."""
    values = {key: value for key, value in picture.items() if key not in ("file", "scores")}
    return ", ".join(f"{key} {format_label(value)}" for key, value in values.items())


def read_table(path: Path) -> dict:
    """The content of a JSON file; empty if it is missing or unreadable."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def thumbnail(path: Path, number: int) -> str | None:
    """A picture as a data URL, without its text metadata.

    Small pictures keep their size. Of large ones only the first of a cell has a thumbnail, which is
    made smaller; it is None for the others.
    """
    with Image.open(path) as image:
        is_large = max(image.size) > SMALL
        if is_large and number:
            return None
        if is_large:
            small = contain_image(image.convert("RGB"), (160, 160))
        else:
            small = image.copy()
    small.info.clear()
    buffer = io.BytesIO()
    file_format = "WEBP" if is_large else "PNG"
    small.save(buffer, file_format)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{file_format.lower()};base64,{data}"


def write_parquet(rows: Sequence[Mapping], path: Path) -> None:
    """Write rows as a Parquet file. A column has one type: values of several types become texts."""
    import pyarrow
    from pyarrow import parquet as writer

    columns = {key: [row[key] for row in rows] for key in rows[0]}
    for key, values in columns.items():
        present = [value for value in values if value is not None]
        types = {float if type(value) is int else type(value) for value in present}
        if len(types) > 1 or types - {float, str, bool}:
            columns[key] = [None if value is None else str(value) for value in values]
    try:
        writer.write_table(pyarrow.table(columns), path)
    except pyarrow.ArrowException as error:
        warn(f"{path.name} was not written ({error}); table.csv has the same.")
