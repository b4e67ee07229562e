"""Training of a second stage: a diffusion model of large images, conditioned on noised small ones.

    L = E || F([x_t, y_n], t, E(caption), n) − target(x0, eps) ||²            (Ho et al. 2021, §4.2)
    y_n = alpha_n · enlarged(downsampled(x0)) + sigma_n · noise

The level n is drawn anew for each image. When sampling, n can therefore be chosen: it says how far
the large image may depart from the small one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

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
from expkit.models.pretrained.base import device_spec
from expkit.text.embedding_store import Store
from expkit.text.sentence_prompts import ConceptPrompts
from expkit.training.text_to_image import TextDiffusion


@dataclass(frozen=True, eq=False)
class SuperResolution(TextDiffusion):
    """`TextDiffusion` that is also conditioned on a smaller, noised version of each image.

    Args:
        times: factor between the sides of the large and the small images.
        noisiest: the highest level of noise that is added to the small images.
    """

    times: int = 2
    noisiest: int = 200

    def adapt_to(self, images: Pictures) -> Self:
        if images.shape[-1] % self.times:
            raise UserError(
                f"trainer.objective.times={self.times} does not fit pictures of "
                f"{images.shape[-1]} pixels: give a number that divides them."
            )
        if not 0 <= self.noisiest < len(self.schedule):
            raise UserError(
                f"trainer.objective.noisiest={self.noisiest} is no level of this schedule: "
                f"give 0 to {len(self.schedule) - 1}."
            )
        return super().adapt_to(images)

    def condition_network(
        self,
        network: nn.Module,
        pictures: Tensor,
        draws: Draws,
    ) -> Callable[..., tuple[Tensor]]:
        level = draws.integers(self.noisiest + 1)
        alpha, sigma = self.schedule.rows(level)
        small = 2 * F.avg_pool2d(pictures, self.times) - 1
        large = deepfloyd.upsample_condition(small, pictures.shape[-2:])
        condition = alpha * large + sigma * draws.normal(pictures.shape[1:])

        def conditioned_network(x: Tensor, t: Tensor, **arguments) -> tuple[Tensor]:
            channels = torch.cat([x, condition.to(x.dtype)], 1)
            channels = channels.contiguous(memory_format=torch.channels_last)
            return network(channels, t, class_labels=level, **arguments)

        return conditioned_network

    def save(self, network: nn.Module, path: Path, names: Sequence[str]) -> None:
        pictogram_unet.save_pipeline(path, network, self.schedule, self.kind)

    def sample_figures(
        self, network: nn.Module, held_out: Pictures, seed: int
    ) -> dict[str, Image.Image]:  # fmt: skip
        rows = torch.arange(min(10, len(held_out.labels)))
        originals, captions = render_rows(held_out, rows, seed, self.adapted.scenes)
        small = F.avg_pool2d(originals, self.times)
        bilinear = deepfloyd.upsample_condition(small, originals.shape[-2:])
        samples = self.enlarged(network, small, captions, seed)
        psnr_text = lambda images: f"{psnr(images, originals).mean():.1f} dB"
        sheet_rows = {
            "small": F.interpolate(small, originals.shape[-2:]),
            f"enlarged bilinearly, {psnr_text(bilinear)}": bilinear,
            f"enlarged by this model, {psnr_text(samples)}": samples,
            "original": originals,
        }
        sheet = picture_sheet(
            [[*images] for images in sheet_rows.values()],
            [*sheet_rows],
            title="held-out pictures, and PSNR",
        )
        return {"samples": sheet}

    def enlarged(
        self,
        network: nn.Module,
        small: Tensor,
        said: Sequence[str],
        seed: int,
    ) -> Tensor:
        """Enlarge images with this model, loaded from a saved folder as a user would load it.

        Args:
            small: (N, 3, h, w) in [0, 1].
            said: a caption of each image.

        Returns:
            (N, 3, H, W) in [0, 1].
        """
        seeds = seeded(seed, len(small))
        device = device_spec(str(next(network.parameters()).device), "float32")
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model"
            super().save(network, path, ())  # also writes the embeddings of the known concepts
            prompts = ConceptPrompts(Store(), self.encoder, path / pictogram_unet.CONCEPTS_FILE)
            noise = partial(keyed_noise, seeds, "low", 0)
            model = deepfloyd.deepfloyd_upscaler(
                2 * small - 1,
                noise,
                prompts,
                device,
                second=str(path),
                noise_level=self.noisiest // 4,
            )
            model.prepare(["", *said])
            grid = strided(len(model.schedule))
            *_, end = sample(model, guided(said, 1.0), grid, seeds, DDPM())
        return model.decode(end.x).cpu()

    def facts(self, network: nn.Module) -> dict:
        return super().facts(network) | {"times": self.times, "noisiest": self.noisiest}
