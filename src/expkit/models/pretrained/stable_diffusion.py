"""Latent diffusion models in diffusers' format: Stable Diffusion (Rombach et al. 2022).

    z = s · E[q(z | 2·image − 1)];    image = (D(z / s) + 1) / 2

q is the encoder of the VAE, D its decoder, s its scaling_factor. The diffusion acts on z, which has
four channels and an eighth of the image's side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from expkit.core.denoiser import Denoiser, Prediction, limit_rows
from expkit.errors import UserError
from expkit.models.pretrained.base import DeviceSpec, LoadedNetwork, TextConditioned
from expkit.models.pretrained.configs import check_class, size_of
from expkit.storage.hub import Repository


class StableDiffusion(TextConditioned):
    """A latent diffusion model that is conditioned on CLIP embeddings.

    Latents have no black and white, so `range` is the range of the images. The VAE is float32
    whatever the UNet's dtype is: many VAEs overflow in half precision, and it runs only once a run.

    Args:
        repository: the model.
        embeddings: a `prompt_embeddings.Embeddings`.
        machine: where and how it runs.
        size: side of its images in pixels; None: the size that it was trained on.
    """

    range = (0.0, 1.0)

    def __init__(
        self, repository: Repository, embeddings, machine: DeviceSpec, size: int | None = None
    ) -> None:
        unet, vae = repository.config("unet"), repository.config("vae")
        channels = vae["latent_channels"]
        check_class(unet, ("UNet2DConditionModel",), repository.name, channels=channels)
        super().__init__(repository, unet.get("cross_attention_dim"), embeddings, machine)
        self.shrink = 2 ** (len(vae["block_out_channels"]) - 1)
        self.scale = vae.get("scaling_factor", 0.18215)
        self.shape = (channels, *size_of(unet, size and latent_side(size, self.shrink)))
        self.vae = LoadedNetwork(repository, "vae", "AutoencoderKL", DeviceSpec(machine.device))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (3, self.shape[1] * self.shrink, self.shape[2] * self.shrink)

    def predict(self, x: Tensor, t: float, prompts: Sequence[str]) -> Prediction:
        return Prediction(self.network(x, t, **self.condition_kwargs(prompts)))

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, 8·H, 8·W) in [0, 1] as latents (B, C, H, W).

        It is the mean of the encoder's distribution, so that an image has one latent.
        """
        vae: Any = self.vae.loaded()
        cast = self.vae.cast
        means = [vae.encode(cast(2 * image - 1)).latent_dist.mean for image in images.split(1)]
        return torch.cat(means) * self.scale

    @torch.inference_mode()
    def decode(self, x: Tensor) -> Tensor:
        """Decode latents (B, C, H, W) as images in [0, 1]."""
        vae: Any = self.vae.loaded()
        cast = self.vae.cast
        images = [(vae.decode(cast(latent / self.scale)).sample + 1) / 2 for latent in x.split(1)]
        return torch.cat(images).clamp(0, 1)

    def check_weights(self) -> None:
        super().check_weights()
        self.vae.check()

    def release(self) -> None:
        super().release()
        self.vae.release()


def latent_side(size: int, shrink: int) -> int:
    """The side of the latent for images of side `size`, which must be a multiple of `shrink`."""
    if size % shrink or size <= 0:
        raise UserError(
            f"model.size={size} does not fit: this model's pictures have sides that are "
            f"multiples of {shrink}."
        )
    return size // shrink


def stable_diffusion(
    embeddings, machine: DeviceSpec, weights: str, size: int | None = None,
    max_rows: int | None = None,
) -> Denoiser:  # fmt: skip
    """The denoiser of model=stable_diffusion.

    Args:
        embeddings: a `prompt_embeddings.Embeddings` of CLIP.
        machine: where and how it runs.
        weights: a folder, or an id of huggingface.co.
        size: side of its images in pixels; None: the size that it was trained on.
        max_rows: the largest number of rows in one forward; None: no limit.
    """
    model = StableDiffusion(Repository(str(weights)), embeddings, machine, size)
    return limit_rows(model, max_rows)
