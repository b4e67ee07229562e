"""Ways back from a noisy picture, side by side: Gaussian blur, one step of the network, many steps.

    one step:  x0 = (x_t − sigma_t eps_hat(x_t, t)) / alpha_t            many steps:  the sampler from level t
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from expkit import measures
from expkit.denoiser import Counting, Denoiser
from expkit.errors import Refusal
from expkit.estimate import Estimate
from expkit.grids import listed, updates
from expkit.maps import LowPass
from expkit.pin import Pin
from expkit.preflight import check, header
from expkit.result import Result
from expkit.sample import Sampler, calls, noises, sample, seeded
from expkit.schedule import CLEAN
from expkit.sheets import sheet
from expkit.tasks.pins import images, papers
from expkit.tasks.sampling import noted, spent, watched

WAYS = ("noisy", "Gaussian blur", "one step", "iterative")
BLURS = tuple(k / 4 for k in range(1, 33))  # pixels at 64; the one with the best PSNR is shown, which flatters it


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
            raise Refusal(f"task=denoise compares ways to denoise one picture, and was given image={self.image}: give one.")
        if unknown := set(self.ways) - set(WAYS):
            raise Refusal(f"There is no way {unknown.pop()!r} to denoise. There are: {', '.join(WAYS)}.")
        model = Counting(self.model)
        grid = self.sampler.timesteps(model.schedule)
        levels = listed(self.t, len(model.schedule))
        source, notes = images(self.image, model, self.fit), papers(self.image)
        if model.generates:
            whole = check(model, self.estimate, grid, 1, clip=self.sampler.clip, rule=self.sampler.rule)
            plan = replace(whole, calls=self.calls(model, levels, grid))
            result.say(header("denoise", model, [max(levels)], plan, 1, [f"from t = {', '.join(map(str, levels))}", *notes]))
        else:
            result.say("\n  ".join(["denoise: a single-step denoiser, so there is no iterative way", *notes]))
        rows, under, table = [], [], []
        for t in levels:
            ways = self.back(model, source, t, through(t, grid))
            scores = {way: measured(shown, source) for way, shown in ways.items()}
            rows.append([source[0], *[shown[0] for shown in ways.values()]])
            under.append(["", *[f"PSNR {s['psnr']:.1f} · SSIM {s['ssim']:.2f}" for s in scores.values()]])
            files = {way: result.bare(shown, f"t{t:04d}_{way.lower().replace(' ', '_')}")[0] for way, shown in ways.items()}
            table.append({"t": t, **scores, "files": files})
        result.numbers |= spent(model) | {"levels": table, "device": str(model.device), "seed": self.seed}
        across = ["original", *ways]
        result.picture(sheet(rows, [f"t = {t}" for t in levels], across, "denoising", self.noted(model, grid), under=under))

    def iterates(self, model: Denoiser) -> bool:
        return model.generates and "iterative" in self.ways

    def calls(self, model: Denoiser, levels: Sequence[int], grid: Sequence[int]) -> list[int]:
        """The rows of each network call: one for a single step from each level, a run's for many steps."""
        planned, nothing = [], torch.zeros(1, *model.shape)
        for t in levels:
            planned += calls(self.estimate, model.schedule, (t, CLEAN), 1) if "one step" in self.ways else []
            planned += calls(self.estimate, model.schedule, through(t, grid), 1, Pin(nothing, until=t)) if self.iterates(model) else []
        return planned

    def noted(self, model: Denoiser, grid: Sequence[int]) -> str:
        if not {"one step", "iterative"} & set(self.ways):
            return f"nothing is asked of the network · seed {self.seed}"
        return noted(self.note, [self.estimate], f"{updates(grid)} updates from noise" * self.iterates(model), self.seed)

    def noise(self, model: Denoiser, t: int, grid: Sequence[int]) -> Tensor:
        """(1, C, H, W): the pin's where the noisy picture is gone on from, so that all ways start from one; else task=forward's."""
        stream = ("pin", len(grid) - 1 - grid[::-1].index(t)) if self.iterates(model) else ("forward", 0)
        return noises(seeded(self.seed, 1), *stream, model.shape).to(model.device)

    def back(self, model: Denoiser, source: Tensor, t: int, grid: Sequence[int]) -> dict[str, Tensor]:
        """{way: (1, C, H, W) in [0, 1]}; t is a level of the grid."""
        clean, noise = model.encode(source), self.noise(model, t, grid)
        noisy = model.schedule.noised(clean.to(noise), t, noise)
        seen = model.decode(noisy).cpu()
        ways = {"noisy": lambda: seen, "Gaussian blur": lambda: blurred(seen, source), "one step": lambda: self.once(model, noisy, t),
                "iterative": lambda: self.many(model, clean, t, grid)}  # fmt: skip
        return {way: ways[way]() for way in self.ways if model.generates or way != "iterative"}

    def once(self, model: Denoiser, noisy: Tensor, t: int) -> Tensor:
        return model.decode(model.schedule.denoised(noisy, t, self.estimate(model, noisy, t).native, model.kind)).cpu()

    def many(self, model: Denoiser, clean: Tensor, t: int, grid: Sequence[int]) -> Tensor:
        pin = Pin(clean, until=t)
        steps = sample(model, self.estimate, grid, seeded(self.seed, 1), self.sampler.rule, pin, self.sampler.clip)
        *_, end = watched(steps, f"from t = {t}", grid, pin)
        return model.decode(end.x).cpu()


def through(t: int, grid: Sequence[int]) -> tuple[int, ...]:
    """The grid, with t among its levels."""
    if t in grid:
        return tuple(grid)
    first = next((index for index, s in enumerate(grid) if s < t), len(grid))
    return (*grid[:first], t, *[s for s in grid[first:] if s < t])


def blurred(noisy: Tensor, source: Tensor) -> Tensor:
    """The Gaussian blur of the noisy picture that comes closest to the source."""
    tried = [LowPass(sigma * source.shape[-1] / 64)(noisy).clamp(0, 1) for sigma in BLURS]
    return tried[int(torch.stack([measures.psnr(shown, source)[0] for shown in tried]).argmax())]


def measured(shown: Tensor, source: Tensor) -> dict[str, float]:
    return {"psnr": round(float(measures.psnr(shown, source)[0]), 3), "ssim": round(float(measures.ssim(shown, source)[0]), 4)}
