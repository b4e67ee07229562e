"""Frames of sampling, from noise to picture: the states that the network got, its x0 estimates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from expkit.core.denoiser import Denoiser
from expkit.core.solvers import Step
from expkit.images.animations import save_gif
from expkit.images.image_io import as_image
from expkit.images.sheets import picture_sheet
from expkit.results.run_folder import RunFolder


class Shot(NamedTuple):
    """A frame: level t, the state and the estimate of x0, both as pictures (C, H, W) in [0, 1]."""

    t: float
    state: Tensor
    clean: Tensor


@dataclass(frozen=True)
class Film:
    """Records one picture of each run while it is sampled.

    Args:
        every: the sheet has a frame every so many updates; the animation and frames.png have all.
        picture: which picture of the run, numbered from 0.
        seconds: how long the animation shows a frame.
    """

    every: int = 5
    picture: int = 0
    seconds: float = 0.15

    def shot(self, model: Denoiser, step: Step, row: int) -> Shot:
        """The frame of one row at this update."""
        state, clean = (model.decode(x[row : row + 1]).cpu()[0] for x in (step.x_t, step.x0))
        return Shot(step.t, state, clean)

    def develop(self, result: RunFolder, shots: Sequence[Shot], end: Tensor, note: str) -> None:
        """Write trajectory.png, trajectory.gif, and frames.png with all frames side by side.

        end: the result, (C, H, W) in [0, 1].
        """
        frames = shots[:: self.every]
        rows = [[*[shot.state for shot in frames], end], [*[shot.clean for shot in frames], end]]
        across = [*[f"t = {shot.t:g}" for shot in frames], "result"]
        labels = ["state", "its estimate"]
        sheet = picture_sheet(rows, labels, across, "trajectory", note)
        result.picture(sheet, "trajectory")
        pages = [
            picture_sheet([[shot.state, shot.clean]], [], [f"t = {shot.t:g}", "estimate"], side=256)
            for shot in shots
        ]
        pages.append(picture_sheet([[end, end]], [], ["result", "result"], side=256))
        save_gif(pages, result.folder / "trajectory.gif", result.recipe, self.seconds)
        states, estimates = [shot.state for shot in shots], [shot.clean for shot in shots]
        strips = [torch.cat([*pictures, end], 2) for pictures in (states, estimates)]
        result.picture(as_image(torch.cat(strips, 1)), "frames")
        size = [end.shape[-1], end.shape[-2]]
        levels = [*[round(shot.t, 3) for shot in shots], "result"]
        result.look["frames"] = {"file": "frames.png", "t": levels, "size": size, "rows": labels}
