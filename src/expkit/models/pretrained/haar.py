"""A network of twice as large pictures for the cost of small ones: it works on the four bands of an orthonormal 2 × 2 Haar transform.

    bands = H(x_t)   (N, 4·C, S/2, S/2);      v = Hᵀ(output bands)

H is orthonormal, so noise stays white under it, and diffusion, views and maps stay on pixels: nobody outside hears of it. Each band of
standard deviation d is preconditioned as in Karras et al. 2022 (table 1), written for a network that answers v:

    n = alpha² d² + sigma²,    input = band / sqrt(n),    v = alpha sigma (1 − d²) / n · band + d / sqrt(n) · answer

The mean band is twice the picture of half the size, d = 2. There n is 4 alpha² + sigma², and the input is what a network of the small
pictures is shown at the level whose alpha/sigma is twice as large, and the answer is that network's: so a new one begins as an old one,
enlarged (see `enlarged`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor

BANDS = 4  # the mean of each 2 × 2 block, and what its columns, rows and diagonals differ by


def haar_transform(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, 4·C, H/2, W/2): the mean bands of all channels first. Orthonormal."""
    a, b, c, d = x[..., ::2, ::2], x[..., ::2, 1::2], x[..., 1::2, ::2], x[..., 1::2, 1::2]
    return torch.cat([a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d], 1) / 2


def inverse_haar_transform(bands: Tensor) -> Tensor:
    """The inverse of `haar_transform`: (N, 4·C, H, W) -> (N, C, 2·H, 2·W)."""
    mean, across, down, cross = bands.chunk(BANDS, 1)
    rows = [
        [mean + across + down + cross, mean - across + down - cross],
        [mean + across - down - cross, mean - across - down + cross],
    ]
    n, c, h, w = mean.shape
    return (
        torch.stack([torch.stack(row, -1) for row in rows], -2).movedim(-2, 3).reshape(n, c, 2 * h, 2 * w) / 2
    )


class HaarUNet2DConditionModel(ModelMixin, ConfigMixin):
    """diffusers' UNet2DConditionModel inside the transform; it answers v on a schedule that preserves variance.

    unet: the inner network's configuration, of 4·in_channels channels and half of sample_size. deviations: the standard deviations of
    the bands of pictures in [−1, 1]. levels: of the schedule, whose alpha/sigma are kept with the weights.
    """

    _keep_in_fp32_modules: ClassVar[list[str]] = ["ratios"]  # a schedule in half precision is another one

    @register_to_config
    def __init__(
        self, unet: Mapping, sample_size: int, cross_attention_dim: int, in_channels: int = 3, levels: int = 1000,
        deviations: Sequence[float] = (2.0, 0.16, 0.16, 0.065),
    ) -> None:  # fmt: skip
        super().__init__()
        self.network = UNet2DConditionModel.from_config(dict(unet))
        self.register_buffer("ratios", torch.zeros(levels, dtype=torch.float32))

    def forward(
        self, sample: Tensor, timestep: Tensor | int, return_dict: bool = False, **told
    ) -> tuple[Tensor]:
        """sample (N, C, H, W), x_t; timestep: levels, one or (N,); told: what the inner network is told. (v,) of the sample's shape."""
        t = torch.as_tensor(timestep, device=sample.device)
        ratio = self.ratios[t].view(-1, 1, 1, 1)
        sigma = (1 + ratio**2).rsqrt()
        alpha, d = ratio * sigma, self.deviation(sample)
        n, bands = (alpha * d) ** 2 + sigma**2, haar_transform(sample.float())
        shown = (bands * n.rsqrt()).to(self.network.dtype).contiguous(memory_format=torch.channels_last)
        answer = self.network(shown, t, return_dict=False, **told)[0].float()
        v = alpha * sigma * (1 - d**2) / n * bands + d * n.rsqrt() * answer
        return (inverse_haar_transform(v),)

    def deviation(self, sample: Tensor) -> Tensor:
        """The standard deviation of each channel of `haar_transform`, (1, 4·C, 1, 1)."""
        each = torch.tensor(self.config.deviations, device=sample.device, dtype=torch.float32)
        return each.repeat_interleave(self.config.in_channels).view(1, -1, 1, 1)

    def enlarged(self, small: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This network's state that answers as a network of the half size does, of that network's state: its picture enlarged.

        The channels of the mean bands are the small network's; of the others nothing comes in or goes out yet. A state of a network of
        this kind stays as it is.
        """
        if "ratios" in small:
            return dict(small)
        state = {f"network.{name}": values for name, values in small.items()} | {"ratios": self.ratios}
        for name, axis in (("conv_in.weight", 1), ("conv_out.weight", 0), ("conv_out.bias", 0)):
            if (old := small.get(name)) is not None:
                state[f"network.{name}"] = torch.cat([old, *[torch.zeros_like(old)] * (BANDS - 1)], axis)
        return state
