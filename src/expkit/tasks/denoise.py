"""task=denoise: denoise a picture in several ways: Gaussian blur, one network step, many steps.

one step      x0 = (x_t − sigma_t eps_hat(x_t, t)) / alpha_t
many steps    the sampler, started at level t
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from expkit.core.denoiser import Counting, Denoiser
from expkit.core.estimate import Estimate
from expkit.core.maps import LowPass
from expkit.core.pin import Pin
from expkit.core.sampler import Sampler, count_rows, keyed_noise, sample, seeded
from expkit.core.schedules import CLEAN
from expkit.core.timesteps import count_updates, scaled_levels
from expkit.errors import UserError
from expkit.images.sheets import picture_sheet
from expkit.metrics import similarity
from expkit.results.run_folder import RunFolder
from expkit.tasks import timing
from expkit.tasks.generation.run_note import run_note
from expkit.tasks.pins import load_images, paper_notes
from expkit.tasks.preflight import check_run, format_header

WAYS = ("noisy", "Gaussian blur", "one step", "iterative")
# Sigmas of the blurs to try, in pixels at side 64; "no blur" is not among them. The blur with the
# best PSNR against the original is shown, which favours blurring.
BLURS = tuple(quarter / 4 for quarter in range(1, 33))


@dataclass(frozen=True, eq=False)
class Denoise:
    """Add noise to `image` at each level of t, denoise it in several ways, measure PSNR and SSIM.

    The iterative way is a sampling run with the picture pinned until t: its result is that of
    task=trajectory with i_start at t.

    Args:
        image: one picture, as a path, a URL or a shipped name.
        t: one level or several, in thousandths of the schedule.
        fit: "crop" or "pad": how the picture is brought to the model's size.
        ways: those of `WAYS` to show. A single-step denoiser has no iterative way.
        note: a line for the foot of the sheet.
    """

    model: Denoiser
    estimate: Estimate
    sampler: Sampler
    image: str
    t: int | Sequence[int]
    seed: int
    fit: str = "crop"
    ways: Sequence[str] = WAYS
    note: str = ""

    def __call__(self, result: RunFolder) -> None:
        if not isinstance(self.image, str):
            raise UserError(
                "task=denoise compares ways to denoise one picture, and was given "
                f"image={self.image}: give one."
            )
        if unknown := set(self.ways) - set(WAYS):
            ways = ", ".join(WAYS)
            raise UserError(f"There is no way {unknown.pop()!r} to denoise. There are: {ways}.")
        model = Counting(self.model)
        grid = self.sampler.timesteps(model.schedule)
        levels = scaled_levels(self.t, len(model.schedule))
        source = load_images(self.image, model, self.fit)
        notes = paper_notes(self.image)
        if model.can_sample:
            rule, clip = self.sampler.rule, self.sampler.clip
            plan = check_run(model, self.estimate, grid, 1, clip=clip, rule=rule)
            plan = replace(plan, calls=self.calls(model, levels, grid))
            extra = [f"from t = {', '.join(map(str, levels))}", *notes]
            result.say(format_header("denoise", model, [max(levels)], plan, 1, extra))
        else:
            first = "denoise: a single-step denoiser, so there is no iterative way"
            result.say("\n  ".join([first, *notes]))
        rows, captions, table = [], [], []
        for t in levels:
            images = self.back(model, source, t, insert_level(t, grid))
            scores = {way: measure(image, source) for way, image in images.items()}
            rows.append([source[0], *[image[0] for image in images.values()]])
            values = [(score["psnr"], score["ssim"]) for score in scores.values()]
            captions.append(["", *[f"PSNR {psnr:.1f} · SSIM {ssim:.2f}" for psnr, ssim in values]])
            files = {
                way: result.save_images(image, f"t{t:04d}_{way.lower().replace(' ', '_')}")[0]
                for way, image in images.items()
            }
            table.append({"t": t, **scores, "files": files})
        result.numbers |= timing.usage(model)
        result.numbers |= {"levels": table, "device": str(model.device), "seed": self.seed}
        down, across = [f"t = {t}" for t in levels], ["original", *images]
        note = self.noted(model, grid)
        result.picture(picture_sheet(rows, down, across, "denoising", note, under=captions))

    def iterates(self, model: Denoiser) -> bool:
        """Whether the iterative way is part of this run."""
        return model.can_sample and "iterative" in self.ways

    def calls(self, model: Denoiser, levels: Sequence[int], grid: Sequence[float]) -> list[int]:
        """The number of rows of each network call, over all levels and ways."""
        calls, blank = [], torch.zeros(1, *model.shape)
        estimate = self.estimate.for_denoiser(model)
        for t in levels:
            if "one step" in self.ways:
                calls += count_rows(estimate, model.schedule, (t, CLEAN), 1)
            if self.iterates(model):
                pin = Pin(blank, until=t)
                walk, rule = insert_level(t, grid), self.sampler.rule
                calls += count_rows(estimate, model.schedule, walk, 1, pin, rule=rule)
        return calls

    def noted(self, model: Denoiser, grid: Sequence[float]) -> str:
        """The note at the foot of the sheet."""
        if not {"one step", "iterative"} & set(self.ways):
            return f"nothing is asked of the network · seed {self.seed}"
        updates = f"{count_updates(grid)} updates from noise" if self.iterates(model) else ""
        return run_note(self.note, [self.estimate], updates, self.seed)

    def noise(self, model: Denoiser, t: int, grid: Sequence[float]) -> Tensor:
        """Standard normal noise (1, *model.shape) for level t.

        With the iterative way it is the noise of the pin at t, so that all ways start from the same
        noisy picture; without it, the noise of task=forward.
        """
        purpose, index = "forward", 0
        if self.iterates(model):
            purpose, index = "pin", len(grid) - 1 - grid[::-1].index(t)  # the last visit of t
        return keyed_noise(seeded(self.seed, 1), purpose, index, model.shape).to(model.device)

    def back(
        self, model: Denoiser, source: Tensor, t: int, grid: Sequence[float]
    ) -> dict[str, Tensor]:  # fmt: skip
        """{way: (1, C, H, W) in [0, 1]} for the source noised to t, a level of the grid."""
        clean, noise = model.encode(source), self.noise(model, t, grid)
        noisy = model.schedule.noised(clean.to(noise), t, noise)
        noisy_image = model.decode(noisy).cpu()
        ways = {
            "noisy": lambda: noisy_image,
            "Gaussian blur": lambda: blur_noisy(noisy_image, best_blur(noisy_image, source)),
            "one step": lambda: self.once(model, noisy, t),
            "iterative": lambda: self.many(model, clean, t, grid),
        }
        return {way: ways[way]() for way in self.ways if model.can_sample or way != "iterative"}

    def once(self, model: Denoiser, noisy: Tensor, t: int) -> Tensor:
        """The estimate of the clean picture in one step: states at t -> (1, C, H, W) in [0, 1]."""
        native = self.estimate(model, noisy, t).native
        return model.decode(model.schedule.denoised(noisy, t, native, model.prediction_type)).cpu()

    def many(self, model: Denoiser, clean: Tensor, t: int, grid: Sequence[float]) -> Tensor:
        """The result of the sampler from level t: clean states -> (1, C, H, W) in [0, 1]."""
        pin, seeds = Pin(clean, until=t), seeded(self.seed, 1)
        steps = sample(model, self.estimate, grid, seeds, self.sampler.rule, pin, self.sampler.clip)
        *_, end = timing.progress(steps, f"from t = {t}", grid, pin)
        return model.decode(end.x).cpu()


def insert_level(t: int, grid: Sequence[float]) -> tuple[float, ...]:
    """The grid with t among its levels. Where t is inserted, only levels below t follow it."""
    if t in grid:
        return tuple(grid)
    index = next((index for index, s in enumerate(grid) if s < t), len(grid))
    return (*grid[:index], t, *[s for s in grid[index:] if s < t])


def blur_noisy(noisy: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur of sigma pixels, in [0, 1]."""
    return LowPass(sigma)(noisy).clamp(0, 1)


def best_blur(noisy: Tensor, clean: Tensor, blurs: Sequence[float] = BLURS) -> float:
    """The sigma in pixels of the Gaussian blur with the highest mean PSNR.

    blurs: the sigmas to try, in pixels at side 64; 0 is no blur.
    """
    sigmas = [blur * clean.shape[-1] / 64 for blur in blurs]
    psnr = lambda sigma: float(similarity.psnr(blur_noisy(noisy, sigma), clean).mean())
    return max(sigmas, key=psnr)


def measure(shown: Tensor, source: Tensor) -> dict[str, float]:
    """PSNR (dB) and SSIM of the first picture against the source, rounded."""
    return {
        "psnr": round(float(similarity.psnr(shown, source)[0]), 3),
        "ssim": round(float(similarity.ssim(shown, source)[0]), 4),
    }
