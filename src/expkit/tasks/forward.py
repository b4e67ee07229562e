"""The forward process: a picture and what the noise leaves of it.

    x_t = alpha_t x0 + sigma_t eps
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from expkit.denoiser import Denoiser
from expkit.grids import listed
from expkit.labels import labels
from expkit.result import Result
from expkit.sample import noises, seeded
from expkit.sheets import sheet
from expkit.tasks.pins import images, papers


@dataclass(frozen=True, eq=False)
class Forward:
    """Noise `image` (one, or several) to the levels t, given in thousandths of the schedule; each picture has one noise at all levels."""

    model: Denoiser
    image: str | Sequence[str]
    t: int | Sequence[int]
    seed: int
    fit: str = "crop"
    note: str = ""

    def __call__(self, result: Result) -> None:
        model = self.model
        levels = listed(self.t, len(model.schedule))
        source = images(self.image, model, self.fit)
        for said in papers(self.image):
            result.say(f"forward: {said}")
        noise = noises(seeded(self.seed, len(source)), "forward", 0, model.shape).to(model.device)
        clean = model.encode(source).to(noise)
        noisy = [model.decode(model.schedule.noised(clean, t, noise)).cpu() for t in levels]
        files = {str(t): result.bare(shown, f"t{t:04d}_{{:03d}}") for t, shown in zip(levels, noisy, strict=True)}
        result.numbers |= {"levels": [self.told(t, files[str(t)]) for t in levels], "seed": self.seed}
        rows = [[source[k], *[shown[k] for shown in noisy]] for k in range(len(source))]
        down = labels(self.image) if isinstance(self.image, list | tuple) else []
        result.picture(sheet(rows, down, ["original", *[f"t = {t}" for t in levels]], "forward process", self.note))

    def told(self, t: int, files: list[str]) -> dict:
        alpha, sigma = self.model.schedule.at(t)
        return {"t": t, "alpha_bar": alpha**2, "signal_to_noise": alpha**2 / sigma**2, "files": files}
