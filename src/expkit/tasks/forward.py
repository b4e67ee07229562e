"""task=forward: the forward process, a picture with noise of several levels.

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
from expkit.results.run_folder import RunFolder
from expkit.tasks.pins import load_images, paper_notes


@dataclass(frozen=True, eq=False)
class Forward:
    """Add noise to `image` at each level of t. Each picture has the same noise at all levels.

    Args:
        image: one picture or several, as paths, URLs or shipped names.
        t: one level or several, in thousandths of the schedule.
        fit: "crop" or "pad": how a picture is brought to the model's size.
        note: a line for the foot of the sheet.
    """

    model: Denoiser
    image: str | Sequence[str]
    t: int | Sequence[int]
    seed: int
    fit: str = "crop"
    note: str = ""

    def __call__(self, result: RunFolder) -> None:
        model = self.model
        levels = scaled_levels(self.t, len(model.schedule))
        source = load_images(self.image, model, self.fit)
        for note in paper_notes(self.image):
            result.say(f"forward: {note}")
        seeds = seeded(self.seed, len(source))
        noise = keyed_noise(seeds, "forward", 0, model.shape).to(model.device)
        clean = model.encode(source).to(noise)
        noisy = [model.decode(model.schedule.noised(clean, t, noise)).cpu() for t in levels]
        pairs = zip(levels, noisy, strict=True)
        files = {t: result.save_images(images, f"t{t:04d}_{{:03d}}") for t, images in pairs}
        result.numbers |= {"levels": [self.level_facts(t, files[t]) for t in levels], "seed": self.seed}
        rows = [list(pictures) for pictures in zip(source, *noisy, strict=True)]
        down = axis_labels(self.image) if isinstance(self.image, list | tuple) else []
        across = ["original", *[f"t = {t}" for t in levels]]
        result.picture(picture_sheet(rows, down, across, "forward process", self.note))

    def level_facts(self, t: int, files: list[str]) -> dict:
        """The numbers of a level: alpha_bar_t, signal-to-noise ratio alpha_t²/sigma_t², files."""
        alpha, sigma = self.model.schedule.at(t)
        ratio = alpha**2 / sigma**2
        return {"t": t, "alpha_bar": alpha**2, "signal_to_noise": ratio, "files": files}
