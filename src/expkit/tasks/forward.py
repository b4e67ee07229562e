"""The forward process: a picture and what the noise leaves of it.

x_t = alpha_t x0 + sigma_t eps
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from expkit.core.denoiser import Denoiser
from expkit.core.sampler import keyed_noise, seeded
from expkit.core.timesteps import scaled_levels
from expkit.images.labels import axis_labels
from expkit.images.sheets import picture_sheet
from expkit.results.run_folder import Result
from expkit.tasks.pins import load_images, paper_notes


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
        levels = scaled_levels(self.t, len(model.schedule))
        source = load_images(self.image, model, self.fit)
        for said in paper_notes(self.image):
            result.say(f"forward: {said}")
        noise = keyed_noise(seeded(self.seed, len(source)), "forward", 0, model.shape).to(model.device)
        clean = model.encode(source).to(noise)
        noisy = [model.decode(model.schedule.noised(clean, t, noise)).cpu() for t in levels]
        files = {
            str(t): result.bare(shown, f"t{t:04d}_{{:03d}}") for t, shown in zip(levels, noisy, strict=True)
        }
        result.numbers |= {"levels": [self.told(t, files[str(t)]) for t in levels], "seed": self.seed}
        rows = [[source[k], *[shown[k] for shown in noisy]] for k in range(len(source))]
        down = axis_labels(self.image) if isinstance(self.image, list | tuple) else []
        result.picture(
            picture_sheet(
                rows, down, ["original", *[f"t = {t}" for t in levels]], "forward process", self.note
            )
        )

    def told(self, t: int, files: list[str]) -> dict:
        alpha, sigma = self.model.schedule.at(t)
        return {"t": t, "alpha_bar": alpha**2, "signal_to_noise": alpha**2 / sigma**2, "files": files}
