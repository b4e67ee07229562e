"""Ways back from a noisy picture, side by side: Gaussian blur, one step of the network, many steps.

one step:  x0 = (x_t − sigma_t eps_hat(x_t, t)) / alpha_t            many steps:  the sampler from level t
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
from expkit.results.run_folder import Result
from expkit.tasks.pins import load_images, paper_notes
from expkit.tasks.preflight import check_run, format_header
from expkit.tasks.sampling import progress, run_note, usage

WAYS = ("noisy", "Gaussian blur", "one step", "iterative")
BLURS = tuple(
    k / 4 for k in range(1, 33)
)  # pixels at 64; the one with the best PSNR is shown, which flatters it


@dataclass(frozen=True, eq=False)
class Denoise:
    """Noise `image` to the levels t, given in thousandths of the schedule, and denoise it in three ways, with PSNR and SSIM of each.

    The iterative way is a run that is pinned to the picture until t: it ends where task=trajectory with i_start at t does.
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

    def __call__(self, result: Result) -> None:
        if not isinstance(self.image, str):
            raise UserError(
                f"task=denoise compares ways to denoise one picture, and was given image={self.image}: give one."
            )
        if unknown := set(self.ways) - set(WAYS):
            raise UserError(f"There is no way {unknown.pop()!r} to denoise. There are: {', '.join(WAYS)}.")
        model = Counting(self.model)
        grid = self.sampler.timesteps(model.schedule)
        levels = scaled_levels(self.t, len(model.schedule))
        source, notes = load_images(self.image, model, self.fit), paper_notes(self.image)
        if model.can_sample:
            whole = check_run(model, self.estimate, grid, 1, clip=self.sampler.clip, rule=self.sampler.rule)
            plan = replace(whole, calls=self.calls(model, levels, grid))
            result.say(
                format_header(
                    "denoise",
                    model,
                    [max(levels)],
                    plan,
                    1,
                    [f"from t = {', '.join(map(str, levels))}", *notes],
                )
            )
        else:
            result.say("\n  ".join(["denoise: a single-step denoiser, so there is no iterative way", *notes]))
        rows, under, table = [], [], []
        for t in levels:
            ways = self.back(model, source, t, insert_level(t, grid))
            scores = {way: measure(shown, source) for way, shown in ways.items()}
            rows.append([source[0], *[shown[0] for shown in ways.values()]])
            under.append(["", *[f"PSNR {s['psnr']:.1f} · SSIM {s['ssim']:.2f}" for s in scores.values()]])
            files = {
                way: result.bare(shown, f"t{t:04d}_{way.lower().replace(' ', '_')}")[0]
                for way, shown in ways.items()
            }
            table.append({"t": t, **scores, "files": files})
        result.numbers |= usage(model) | {"levels": table, "device": str(model.device), "seed": self.seed}
        across = ["original", *ways]
        result.picture(
            picture_sheet(
                rows, [f"t = {t}" for t in levels], across, "denoising", self.noted(model, grid), under=under
            )
        )

    def iterates(self, model: Denoiser) -> bool:
        return model.can_sample and "iterative" in self.ways

    def calls(self, model: Denoiser, levels: Sequence[int], grid: Sequence[int]) -> list[int]:
        """The rows of each network call: one for a single step from each level, a run's for many steps."""
        planned, nothing = [], torch.zeros(1, *model.shape)
        for t in levels:
            planned += (
                count_rows(self.estimate, model.schedule, (t, CLEAN), 1) if "one step" in self.ways else []
            )
            planned += (
                count_rows(self.estimate, model.schedule, insert_level(t, grid), 1, Pin(nothing, until=t))
                if self.iterates(model)
                else []
            )
        return planned

    def noted(self, model: Denoiser, grid: Sequence[int]) -> str:
        if not {"one step", "iterative"} & set(self.ways):
            return f"nothing is asked of the network · seed {self.seed}"
        return run_note(
            self.note,
            [self.estimate],
            f"{count_updates(grid)} updates from noise" * self.iterates(model),
            self.seed,
        )

    def noise(self, model: Denoiser, t: int, grid: Sequence[int]) -> Tensor:
        """(1, C, H, W): the pin's where the noisy picture is gone on from, so that all ways start from one; else task=forward's."""
        stream = ("pin", len(grid) - 1 - grid[::-1].index(t)) if self.iterates(model) else ("forward", 0)
        return keyed_noise(seeded(self.seed, 1), *stream, model.shape).to(model.device)

    def back(self, model: Denoiser, source: Tensor, t: int, grid: Sequence[int]) -> dict[str, Tensor]:
        """{way: (1, C, H, W) in [0, 1]}; t is a level of the grid."""
        clean, noise = model.encode(source), self.noise(model, t, grid)
        noisy = model.schedule.noised(clean.to(noise), t, noise)
        seen = model.decode(noisy).cpu()
        ways = {"noisy": lambda: seen, "Gaussian blur": lambda: best_blur(seen, source), "one step": lambda: self.once(model, noisy, t),
                "iterative": lambda: self.many(model, clean, t, grid)}  # fmt: skip
        return {way: ways[way]() for way in self.ways if model.can_sample or way != "iterative"}

    def once(self, model: Denoiser, noisy: Tensor, t: int) -> Tensor:
        return model.decode(
            model.schedule.denoised(noisy, t, self.estimate(model, noisy, t).native, model.prediction_type)
        ).cpu()

    def many(self, model: Denoiser, clean: Tensor, t: int, grid: Sequence[int]) -> Tensor:
        pin = Pin(clean, until=t)
        steps = sample(
            model, self.estimate, grid, seeded(self.seed, 1), self.sampler.rule, pin, self.sampler.clip
        )
        *_, end = progress(steps, f"from t = {t}", grid, pin)
        return model.decode(end.x).cpu()


def insert_level(t: int, grid: Sequence[int]) -> tuple[int, ...]:
    """The grid, with t among its levels."""
    if t in grid:
        return tuple(grid)
    first = next((index for index, s in enumerate(grid) if s < t), len(grid))
    return (*grid[:first], t, *[s for s in grid[first:] if s < t])


def best_blur(noisy: Tensor, source: Tensor) -> Tensor:
    """The Gaussian blur of the noisy picture that comes closest to the source."""
    tried = [LowPass(sigma * source.shape[-1] / 64)(noisy).clamp(0, 1) for sigma in BLURS]
    return tried[int(torch.stack([similarity.psnr(shown, source)[0] for shown in tried]).argmax())]


def measure(shown: Tensor, source: Tensor) -> dict[str, float]:
    return {
        "psnr": round(float(similarity.psnr(shown, source)[0]), 3),
        "ssim": round(float(similarity.ssim(shown, source)[0]), 4),
    }
