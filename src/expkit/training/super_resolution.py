"""Training a second stage: a diffusion model of large pictures, told a noised version of the small one (Ho et al. 2021, §4.2).

    L = E || F([x_t, y_n], t, E(caption), n) − target(x0, eps) ||²,   y_n = alpha_n · enlarged(shrunk(x0)) + sigma_n · noise

n is drawn anew for each picture, so that whoever samples may choose how far the large picture may depart from the small one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from expkit.core.estimate import guided
from expkit.core.rng import Draws
from expkit.core.sampler import keyed_noise, sample, seeded
from expkit.core.solvers import DDPM
from expkit.core.timesteps import strided
from expkit.data.captioned_scenes import render_rows
from expkit.data.labelled_pictures import Pictures
from expkit.errors import UserError
from expkit.images.sheets import picture_sheet
from expkit.metrics.similarity import psnr
from expkit.models.pretrained import deepfloyd, pictogram_unet
from expkit.models.pretrained.base import machine
from expkit.text.embedding_store import Store
from expkit.text.sentence_prompts import ConceptPrompts
from expkit.training.text_to_image import TextDiffusion


@dataclass(frozen=True, eq=False)
class SuperResolution(TextDiffusion):
    """TextDiffusion of pictures that are seen smaller. times: how much; noisiest: the level of the most noise that these may have."""

    times: int = 2
    noisiest: int = 200

    def told(self, images: Pictures) -> SuperResolution:
        if images.shape[-1] % self.times:
            raise UserError(
                f"trainer.objective.times={self.times} does not fit pictures of {images.shape[-1]} pixels: give a number that divides them."
            )
        if not 0 <= self.noisiest < len(self.schedule):
            raise UserError(
                f"trainer.objective.noisiest={self.noisiest} is no level of this schedule: give 0 to {len(self.schedule) - 1}."
            )
        return super().told(images)

    def beside(self, network: nn.Module, pictures: Tensor, draws: Draws) -> Callable[..., tuple[Tensor]]:
        level = draws.integers(self.noisiest + 1)
        alpha, sigma = self.schedule.rows(level)
        large = deepfloyd.upsample_condition(2 * F.avg_pool2d(pictures, self.times) - 1, pictures.shape[-2:])
        noised = alpha * large + sigma * draws.normal(pictures.shape[1:])

        def asked(x: Tensor, t: Tensor, **told) -> tuple[Tensor]:
            rows = torch.cat([x, noised.to(x.dtype)], 1).contiguous(memory_format=torch.channels_last)
            return network(rows, t, class_labels=level, **told)

        return asked

    def save(self, network: nn.Module, path: Path, names: Sequence[str]) -> None:
        pictogram_unet.save_pipeline(path, network, self.schedule, self.kind)

    def shown(self, network: nn.Module, held_out: Pictures, seed: int) -> dict[str, Image.Image]:
        chosen = torch.arange(min(10, len(held_out.labels)))
        originals, said = render_rows(held_out, chosen, seed, self.of.scenes)
        small = F.avg_pool2d(originals, self.times)
        plain, made = (
            deepfloyd.upsample_condition(small, originals.shape[-2:]),
            self.enlarged(network, small, said, seed),
        )
        near = lambda pictures: f"{psnr(pictures, originals).mean():.1f} dB"
        rows = {
            "small": F.interpolate(small, originals.shape[-2:]),
            f"enlarged bilinearly, {near(plain)}": plain,
            f"enlarged by this model, {near(made)}": made,
            "original": originals,
        }
        return {
            "samples": picture_sheet(
                [[*pictures] for pictures in rows.values()], [*rows], title="held-out pictures, and PSNR"
            )
        }

    def enlarged(self, network: nn.Module, small: Tensor, said: Sequence[str], seed: int) -> Tensor:
        """Small pictures (N, 3, h, w) in [0, 1] through the folder that is kept, as anybody's would be: (N, 3, H, W) in [0, 1]."""
        seeds, place = seeded(seed, len(small)), machine(str(next(network.parameters()).device), "float32")
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model"
            super().save(network, path, ())  # with what is known beside it
            words, noise = (
                ConceptPrompts(Store(), self.encoder, path / pictogram_unet.KNOWN),
                partial(keyed_noise, seeds, "low", 0),
            )
            model = deepfloyd.upscaler(
                2 * small - 1, noise, words, place, second=str(path), noise_level=self.noisiest // 4
            )
            model.prepare(["", *said])
            *_, end = sample(model, guided(said, 1.0), strided(len(model.schedule)), seeds, DDPM())
        return model.decode(end.x).cpu()

    def facts(self, network: nn.Module) -> dict:
        return super().facts(network) | {"times": self.times, "noisiest": self.noisiest}
