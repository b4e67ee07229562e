"""What happens on the way from noise to picture: the states that the network saw, and what it took them for."""

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
from expkit.results.run_folder import Result


class Shot(NamedTuple):
    """A moment: the level, and two pictures (C, H, W) in [0, 1], the state and the clean picture it was taken for."""

    t: float
    state: Tensor
    clean: Tensor


@dataclass(frozen=True)
class Film:
    """Films one picture of each run. The sheet has a frame each `every` updates; the animation and the strip of frames have them all."""

    every: int = 5
    picture: int = 0
    seconds: float = 0.15

    def shot(self, model: Denoiser, step: Step, row: int) -> Shot:
        state, clean = (model.decode(x[row : row + 1]).cpu()[0] for x in (step.seen, step.x0))
        return Shot(step.t, state, clean)

    def develop(self, result: Result, shots: Sequence[Shot], end: Tensor, note: str) -> None:
        """Write trajectory.png, trajectory.gif and frames.png, in which the frames lie side by side; end (C, H, W) is the result."""
        frames = shots[:: self.every]
        rows = [[*[shot.state for shot in frames], end], [*[shot.clean for shot in frames], end]]
        across = [*[f"t = {shot.t:g}" for shot in frames], "result"]
        result.picture(
            picture_sheet(rows, ["state", "its estimate"], across, "trajectory", note), "trajectory"
        )
        pages = [
            picture_sheet([[s.state, s.clean]], [], [f"t = {s.t:g}", "estimate"], side=256) for s in shots
        ]
        pages.append(picture_sheet([[end, end]], [], ["result", "result"], side=256))
        save_gif(pages, result.folder / "trajectory.gif", result.recipe, self.seconds)
        kinds = {"state": [shot.state for shot in shots], "its estimate": [shot.clean for shot in shots]}
        strip = torch.cat([torch.cat([*pictures, end], 2) for pictures in kinds.values()], 1)
        result.picture(as_image(strip), "frames")
        size, times = [end.shape[-1], end.shape[-2]], [*[round(shot.t, 3) for shot in shots], "result"]
        result.look["frames"] = {"file": "frames.png", "t": times, "size": size, "rows": list(kinds)}
