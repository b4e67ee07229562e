"""Families that act on latents: an image is encoded and decoded by the model's own autoencoder.

    z = (q(2 · image − 1) − b) · s;    image = (D(z / s + b) + 1) / 2

q is the encoder of the autoencoder (the mean of its distribution, if it has one), D its decoder, s its
scaling_factor, b its shift_factor. Where the configuration has latents_mean m and latents_std d, it is
(z − m) · s / d.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from expkit.errors import UserError
from expkit.models.pretrained.base import DeviceSpec, LoadedNetwork
from expkit.models.pretrained.configs import size_of
from expkit.models.pretrained.families.family import Family
from expkit.storage.hub import Repository

AUTOENCODERS = ("AutoencoderKL", "AutoencoderDC")


class Latent(Family):
    """A family with an autoencoder, AutoencoderKL or AutoencoderDC.

    Latents have no black and white, so `range` is the range of the images. The autoencoder runs in
    float32 whatever the network's dtype is: many overflow in half precision, and it runs only once
    a run, unless views act on pixels.

    Attributes:
        vae_config: the configuration of the autoencoder.
        factor: how many pixels wide a pixel of the latent is.
        vae: the autoencoder.
    """

    range = (0.0, 1.0)

    def __init__(
        self, repository: Repository, embeddings, machine: DeviceSpec, size: int | None = None
    ) -> None:  # fmt: skip
        self.vae_config = config = repository.config("vae")
        kind = config.get("_class_name", "AutoencoderKL")
        if kind not in AUTOENCODERS:
            raise UserError(
                f"{repository.name} has a {kind} in vae/, and expkit decodes with "
                f"{' and '.join(AUTOENCODERS)}."
            )
        blocks = config.get("encoder_block_out_channels") or config["block_out_channels"]
        self.factor = 2 ** (len(blocks) - 1)
        super().__init__(repository, embeddings, machine, size)
        self.vae = LoadedNetwork(repository, "vae", kind, DeviceSpec(machine.device))
        self.mean, self.std, self.scale = latent_statistics(config)
        self.learns_variance = False  # what a network has learned of it, the pipelines of latents drop

    def state_shape(self, size: int | None) -> tuple[int, int, int]:
        """(C, H, W) of the latent of an image of side `size` in pixels; None: the trained size."""
        side = size and latent_side(size, self.factor)
        height, width = (side, side) if side else self.trained_sides()
        return (self.vae_config["latent_channels"], height, width)

    def trained_sides(self) -> tuple[int, int]:
        """(H, W) of the latents that the network was trained on."""
        return size_of(self.config, None)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels = self.vae_config.get("in_channels", 3)
        return (channels, self.shape[1] * self.factor, self.shape[2] * self.factor)

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, f·H, f·W) in [0, 1] as latents (B, C, H, W).

        It is the mean of the encoder's distribution, so that an image has one latent.
        """
        latents = torch.cat([self.encode_one(2 * image - 1) for image in images.split(1)])
        return (latents - self.mean.to(latents)) * self.scale / self.std.to(latents)

    def encode_one(self, image: Tensor) -> Tensor:
        """The latent of one image (1, 3, f·H, f·W) in [−1, 1], before it is scaled."""
        vae: Any = self.vae.loaded()
        answer = vae.encode(self.vae.cast(image), return_dict=False)[0]
        # AutoencoderDC answers with the latent itself, AutoencoderKL with a distribution.
        return answer if isinstance(answer, Tensor) else answer.mean

    @torch.inference_mode()
    def decode(self, x: Tensor) -> Tensor:
        """Decode latents (B, C, H, W) as images in [0, 1]."""
        vae: Any = self.vae.loaded()
        latents = x * self.std.to(x) / self.scale + self.mean.to(x)
        decoded = [vae.decode(self.vae.cast(latent), return_dict=False)[0] for latent in latents.split(1)]
        return ((torch.cat(decoded) + 1) / 2).clamp(0, 1)

    def check_weights(self) -> None:
        super().check_weights()
        self.vae.check()

    def release(self) -> None:
        super().release()
        self.vae.release()


def latent_statistics(config: dict) -> tuple[Tensor, Tensor, float]:
    """Mean m and deviation d (1, C, 1, 1) or of one number, and factor s of an autoencoder.

    A latent of the autoencoder becomes the state (latent − m) · s / d.
    """
    scale = config.get("scaling_factor") or 0.18215
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean and std:
        return as_channels(mean), as_channels(std), scale
    shift = config.get("shift_factor") or 0.0
    return torch.tensor(float(shift)), torch.tensor(1.0), scale


def as_channels(values: list[float]) -> Tensor:
    """(1, C, 1, 1), one number for each channel."""
    return torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1)


def latent_side(size: int, factor: int) -> int:
    """The side of the latent for images of side `size`, which must be a multiple of `factor`."""
    if size % factor or size <= 0:
        raise UserError(
            f"model.size={size} does not fit: this model's pictures have sides that are "
            f"multiples of {factor}."
        )
    return size // factor
