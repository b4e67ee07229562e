"""Write one run: pictures, sheet, film, numbers, and what the page of a sweep can show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from expkit.core.views import View
from expkit.images.animations import save_gif
from expkit.results.run_folder import RunFolder
from expkit.tasks.generation.run_output import RunOutput
from expkit.tasks.generation.runs import Run
from expkit.tasks.pins import select_rows
from expkit.tasks.result_figure import (
    ReadoutImages,
    readout_frames,
    readout_images,
    result_sheet,
    stage_images,
)


@dataclass(frozen=True, eq=False)
class RunWriter:
    """Writes one run: RunOutput -> the files of a RunFolder.

    Args:
        name: of the task, the title of the sheet.
        run: the run.
        output: its kept pictures (N, C, H, W) in [0, 1], and what was measured of them.
    """

    name: str
    run: Run
    output: RunOutput

    def __call__(self, result: RunFolder) -> None:
        """Write everything."""
        self.write_pictures(result)
        self.write_recordings(result)
        pinned, kept = self.output.pinned, self.output.kept
        before, after = select_rows(pinned.before, kept), select_rows(pinned.after, kept)
        self.write_original({**before, **after}, result)
        readouts = self.readout_images()
        self.write_animations(readouts, result)
        if self.output.first_stage is not None:
            result.save_images(self.output.first_stage, folder="first_stage")
            readouts = stage_images(self.output.first_stage, readouts)
        result.look["distance"] = any(readout.far for readout in self.run.readings.values())
        cells, note = self.run.cells, self.run.note
        samples = len(kept) // len(cells)
        result.picture(result_sheet(self.name, readouts, cells, samples, before, after, note))

    def write_pictures(self, result: RunFolder) -> None:
        """The bare pictures, and the numbers."""
        files = result.save_images(self.output.images)
        result.numbers |= self.output.numbers
        result.numbers["pictures"] = []
        for file, number, scores in zip(files, self.output.kept, self.output.scores, strict=True):
            entry = {"file": file, **self.run.describe_picture(number)}
            result.numbers["pictures"].append(entry | ({"scores": scores} if scores else {}))

    def write_recordings(self, result: RunFolder) -> None:
        """The film of each recorded picture."""
        for recording in self.output.recordings:
            recording.film.develop(result, recording.shots, recording.end, self.run.note)

    def write_original(self, beside: Mapping[str, Tensor], result: RunFolder) -> None:
        """The original picture, if one stands beside the results."""
        if "original" in beside:
            result.look["original"] = result.save_images(beside["original"], folder="original")

    def readout_images(self) -> list[ReadoutImages]:
        """The kept pictures through each readout, which is scaled to their size."""
        images, first_stage = self.output.images, self.output.first_stage
        times = 1 if first_stage is None else images.shape[-1] // first_stage.shape[-1]
        readings = {name: readout.scaled(times) for name, readout in self.run.readings.items()}
        return readout_images(images, readings, self.output.kept, self.run.count)

    def write_animations(self, readouts: Sequence[ReadoutImages], result: RunFolder) -> None:
        """For each moving readout, an animation from the first one to it."""
        moving = {name for name, readout in self.run.readings.items() if readout.moving}
        for readout in readouts:
            if readout.label in moving:
                self.animate(readouts[0], readout, result)

    def animate(self, first: ReadoutImages, second: ReadoutImages, result: RunFolder) -> None:
        """An animation from the first readout to another, and all pictures through that."""
        view = cast(View, self.run.readings[second.label].through)
        path = result.folder / f"{second.label}.gif"
        save_gif(readout_frames(first, second, view), path, result.recipe)
        files = result.save_images(second.images, f"{second.label}_{{:03d}}", "readings")
        entry = {"label": second.label, "said": second.prompts[0], "degrees": view.degrees}
        result.look.setdefault("readings", []).append(entry | {"files": files})
