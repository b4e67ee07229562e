"""Latent models in diffusers' format: Stable Diffusion (Rombach et al. 2022).

    z = s · E[q(z | 2·image − 1)];    image = (D(z / s) + 1) / 2              encoder q and decoder D of the VAE, s its scaling_factor

The diffusion runs on z, a state of four channels an eighth as large as the picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from expkit.core.denoiser import Denoiser, Prediction
from expkit.errors import UserError
from expkit.models.pretrained.base import DeviceSpec, Network, TextConditioned, limit_rows
from expkit.models.pretrained.configs import check_class, size_of
from expkit.storage.hub import Repository


class StableDiffusion(TextConditioned):
    """A latent model that is told in CLIP's words. size: of its pictures, in pixels; what it was trained on if not given.

    Its states have no black and white, so `range` is that of its pictures. The VAE is float32 whatever the UNet is: many overflow
    in half precision, and it is asked but once a run.
    """

    range = (0.0, 1.0)

    def __init__(
        self, repository: Repository, embeddings, machine: DeviceSpec, size: int | None = None
    ) -> None:
        unet, vae = repository.config("unet"), repository.config("vae")
        check_class(unet, ("UNet2DConditionModel",), repository.name, channels=vae["latent_channels"])
        super().__init__(repository, unet.get("cross_attention_dim"), embeddings, machine)
        self.shrink, self.scale = (
            2 ** (len(vae["block_out_channels"]) - 1),
            vae.get("scaling_factor", 0.18215),
        )
        self.shape = (vae["latent_channels"], *size_of(unet, size and latent_side(size, self.shrink)))
        self.vae = Network(repository, "vae", "AutoencoderKL", DeviceSpec(machine.device))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (3, self.shape[1] * self.shrink, self.shape[2] * self.shrink)

    def predict(self, x: Tensor, t: int, prompts: Sequence[str]) -> Prediction:
        return Prediction(self.network(x, t, **self.told(prompts)))

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """The mean of the encoder's distribution, so that a picture has one state."""
        vae = self.vae.loaded()
        return (
            torch.cat(
                [vae.encode(self.vae.cast(2 * image - 1)).latent_dist.mean for image in images.split(1)]
            )
            * self.scale
        )

    @torch.inference_mode()
    def decode(self, x: Tensor) -> Tensor:
        vae = self.vae.loaded()
        return torch.cat(
            [(vae.decode(self.vae.cast(z / self.scale)).sample + 1) / 2 for z in x.split(1)]
        ).clamp(0, 1)

    def check_weights(self) -> None:
        super().check_weights()
        self.vae.check()

    def release(self) -> None:
        super().release()
        self.vae.release()


def latent_side(size: int, shrink: int) -> int:
    """The side of the state for pictures of this side."""
    if size % shrink or size <= 0:
        raise UserError(
            f"model.size={size} does not fit: this model's pictures have sides that are multiples of {shrink}."
        )
    return size // shrink


def stable_diffusion(
    embeddings, machine: DeviceSpec, weights: str, size: int | None = None, max_rows: int | None = None
) -> Denoiser:
    """model=stable_diffusion"""
    return limit_rows(StableDiffusion(Repository(str(weights)), embeddings, machine, size), max_rows)
