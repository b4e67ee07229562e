"""A UNet inside an orthonormal 2 × 2 Haar transform: twice the image side for the same cost.

    bands = H(x_t)   (N, 4·C, S/2, S/2);      v = Hᵀ(output bands)

H is orthonormal, so white noise stays white. Diffusion, views and linear maps still act on pixels;
code outside the network does not depend on the transform. Each band of standard deviation d is
preconditioned as in Karras et al. 2022 (table 1), written for a network that predicts v:

    n = alpha² d² + sigma²,    input = band / sqrt(n),
    v = alpha sigma (1 − d²) / n · band + d / sqrt(n) · output

The mean band is twice the image of half the size: d = 2 and n = 4 alpha² + sigma². Its input is
what a network of the small images sees at the level whose alpha/sigma is twice as large, and the
output is that network's. So a new network can start from one of half the size (see
`state_for_double_size`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, cast

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor

BANDS = 4  # of each 2 × 2 block: the mean, and the differences of columns, rows and diagonals


def haar_transform(x: Tensor) -> Tensor:
    """Orthonormal (N, C, H, W) -> (N, 4·C, H/2, W/2); the mean bands of all channels come first."""
    top_left, top_right = x[..., ::2, ::2], x[..., ::2, 1::2]
    low_left, low_right = x[..., 1::2, ::2], x[..., 1::2, 1::2]
    bands = [
        top_left + top_right + low_left + low_right,
        top_left - top_right + low_left - low_right,
        top_left + top_right - low_left - low_right,
        top_left - top_right - low_left + low_right,
    ]
    return torch.cat(bands, 1) / 2


def inverse_haar_transform(bands: Tensor) -> Tensor:
    """The inverse of `haar_transform`: (N, 4·C, H, W) -> (N, C, 2·H, 2·W)."""
    mean, across, down, cross = bands.chunk(BANDS, 1)
    rows = [
        [mean + across + down + cross, mean - across + down - cross],
        [mean + across - down - cross, mean - across - down + cross],
    ]
    blocks = torch.stack([torch.stack(row, -1) for row in rows], -2)  # (N, C, H, W, 2, 2)
    n, channels, h, w = mean.shape
    return blocks.movedim(-2, 3).reshape(n, channels, 2 * h, 2 * w) / 2


class HaarUNet2DConditionModel(ModelMixin, ConfigMixin):
    """diffusers' UNet2DConditionModel inside the Haar transform; predicts v.

    The schedule must preserve variance.

    Args:
        unet: configuration of the inner network: 4·in_channels channels, half of sample_size.
        sample_size: side of the images in pixels.
        cross_attention_dim: width of the text embeddings.
        in_channels: C, channels of the images.
        levels: number of levels of the schedule; its alpha/sigma are saved with the weights.
        deviations: d, the standard deviations of the bands of images in [−1, 1].
    """

    # The schedule must not be rounded to half precision.
    _keep_in_fp32_modules: ClassVar[list[str]] = ["ratios"]

    @register_to_config
    def __init__(
        self, unet: Mapping, sample_size: int, cross_attention_dim: int, in_channels: int = 3,
        levels: int = 1000, deviations: Sequence[float] = (2.0, 0.16, 0.16, 0.065),
    ) -> None:  # fmt: skip
        super().__init__()
        # diffusers declares a pair, which from_config returns only with return_unused_kwargs
        self.network = cast("UNet2DConditionModel", UNet2DConditionModel.from_config(dict(unet)))
        self.register_buffer("ratios", torch.zeros(levels, dtype=torch.float32))

    def forward(
        self, sample: Tensor, timestep: Tensor | int, return_dict: bool = False, **told
    ) -> tuple[Tensor]:
        """Predict v, as a tuple of one tensor (N, C, H, W).

        Args:
            sample: x_t (N, C, H, W).
            timestep: levels, a single one or (N,).
            return_dict: ignored; it is part of diffusers' interface.
            told: keyword arguments of the inner network, such as its condition.
        """
        t = torch.as_tensor(timestep, device=sample.device)
        ratio = self.ratios[t].view(-1, 1, 1, 1)
        sigma = (1 + ratio**2).rsqrt()
        alpha, deviation = ratio * sigma, self.deviation(sample)
        n, bands = (alpha * deviation) ** 2 + sigma**2, haar_transform(sample.float())
        scaled = (bands * n.rsqrt()).to(self.network.dtype)
        scaled = scaled.contiguous(memory_format=torch.channels_last)
        output = self.network(scaled, t, return_dict=False, **told)[0].float()
        skip = alpha * sigma * (1 - deviation**2) / n * bands
        return (inverse_haar_transform(skip + deviation * n.rsqrt() * output),)

    def deviation(self, sample: Tensor) -> Tensor:
        """The standard deviation of each channel of `haar_transform`, (1, 4·C, 1, 1)."""
        bands = torch.tensor(self.config["deviations"], device=sample.device, dtype=torch.float32)
        return bands.repeat_interleave(self.config["in_channels"]).view(1, -1, 1, 1)

    def state_for_double_size(self, small: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict for this network, initialised from that of a network of half the size.

        The weights of the mean bands' channels are the small network's; those of the other bands'
        channels are zero. With it this network outputs the small network's image, enlarged.

        Args:
            small: the state dict of a UNet of half the size. One of this class is returned as is.
        """
        if "ratios" in small:
            return dict(small)
        state = {f"network.{name}": values for name, values in small.items()}
        state["ratios"] = self.ratios
        for name, axis in (("conv_in.weight", 1), ("conv_out.weight", 0), ("conv_out.bias", 0)):
            if (old := small.get(name)) is not None:
                zeros = [torch.zeros_like(old)] * (BANDS - 1)
                state[f"network.{name}"] = torch.cat([old, *zeros], axis)
        return state
