"""The UNet of `expkit.models.unets` as it runs fastest without gradients; its outputs stay the same.

- Batch normalisation is folded into the convolution before it.
- Rows with the same image share the encoder, and whatever else does not depend on time and class:
  a guided image has a row for its class and one for the null class. Of a convolution over the
  channels of decoder and encoder, the part over the encoder's is computed once for each image.
"""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from expkit.models.once_per_input import OncePerInput
from expkit.models.unets import TimeAndClass, UNet


class InferenceUNet(TimeAndClass, nn.Module):
    """A trained UNet without gradients: (x, u, label) -> the same as `UNet.forward`.

    Args:
        unet: the UNet in evaluation mode; it is not changed.
    """

    def __init__(self, unet: UNet) -> None:
        super().__init__()
        self.timed, self.classes, self.product = unet.timed, unet.classes, unet.product
        self.times = deepcopy(unet.times)
        self.labels = nn.ModuleList(OncePerInput(deepcopy(block)) for block in unet.labels)
        self.enter, self.down1, self.down2 = map(flattened, (unet.enter, unet.down1, unet.down2))
        unflatten, *after = flattened(unet.unflatten)
        self.bottleneck = nn.Sequential(*unet.flatten, FromOnePixel(unflatten), *after)
        self.up1 = JoinedConv(unet.up1, 2 * unet.hidden)
        self.up2 = JoinedConv(unet.up2, unet.hidden)
        self.leave = JoinedConv(unet.leave, unet.hidden)

    def forward(self, x: Tensor, u: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        """Predict the training target, (N, C, H, W); arguments as in `UNet.forward`."""
        images, index = distinct_images(x)
        h0 = self.enter(images)
        h1 = self.down1(h0)
        h2 = self.down2(h1)
        h = select_images(self.bottleneck(h2), index)
        h = self.up1(self.conditioned(h, 0, u, label), h2, index)
        h = self.up2(self.conditioned(h, 1, u, label), h1, index)
        return self.leave(h, h0, index)


class FromOnePixel(nn.Module):
    """A transposed convolution of images of one pixel: it is a linear map.

    Args:
        conv: the convolution; its kernel is as large as its output.
    """

    def __init__(self, conv: Any) -> None:
        super().__init__()
        inner, outer, *self.size = conv.weight.shape
        self.linear = nn.Linear(inner, math.prod((outer, *self.size)))
        # channels last, as the images that follow
        self.linear.weight = nn.Parameter(conv.weight.permute(2, 3, 1, 0).reshape(-1, inner))
        self.linear.bias = nn.Parameter(conv.bias.repeat(math.prod(self.size)))

    def forward(self, image: Tensor) -> Tensor:
        """(N, inner, 1, 1) -> (N, outer, H, W)."""
        return self.linear(image.flatten(1)).unflatten(1, (*self.size, -1)).permute(0, 3, 1, 2)


class JoinedConv(nn.Module):
    """A block over the channels of the decoder and the encoder: its first convolution in two parts.

    Args:
        block: of `UNet`; its input is both, joined.
        channels: of the decoder, which come first.
    """

    def __init__(self, block: nn.Sequential, channels: int) -> None:
        super().__init__()
        conv, *rest = flattened(block)
        self.own, self.shared = split_input(conv, channels)
        self.rest = nn.Sequential(*rest)

    def forward(self, h: Tensor, shared: Tensor, index: Tensor | None) -> Tensor:
        """The block's output for the rows of h (R, channels, H, W).

        Args:
            h: the decoder's features.
            shared: the encoder's, (images, C, H, W).
            index: the image of each row; None where each row has its own.
        """
        return self.rest(self.own(h).add_(select_images(self.shared(shared), index)))


def split_input(conv: Any, channels: int) -> tuple[nn.Module, nn.Module]:
    """A convolution as the sum of two: over its first `channels` channels, and over the others."""
    axis = 0 if isinstance(conv, nn.ConvTranspose2d) else 1
    own, shared = deepcopy(conv), deepcopy(conv)
    count = conv.weight.shape[axis]
    own.weight = nn.Parameter(conv.weight.narrow(axis, 0, channels).clone())
    shared.weight = nn.Parameter(conv.weight.narrow(axis, channels, count - channels).clone())
    shared.bias = None
    return own, shared


def flattened(block: nn.Sequential) -> nn.Sequential:
    """A copy of a block without nested ones, its batch normalisations folded into convolutions."""
    parts: list[Any] = []
    for part in block:
        if isinstance(part, nn.Sequential):
            parts += flattened(part)
        elif isinstance(part, nn.BatchNorm2d):
            conv = parts.pop()
            parts.append(fuse_conv_bn_eval(conv, part, isinstance(conv, nn.ConvTranspose2d)))
        else:
            parts.append(deepcopy(part))
    return nn.Sequential(*parts)


def distinct_images(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """The images of a batch, without those that are equal to the one before.

    Returns:
        Images (M, C, H, W), and the image of each row of x (N,); x and None if all differ.
    """
    is_new = (x[1:] != x[:-1]).flatten(1).any(1)
    if is_new.all():
        return x, None
    is_new = F.pad(is_new, (1, 0), value=True)
    return x[is_new], is_new.cumsum(0) - 1


def select_images(images: Tensor, index: Tensor | None) -> Tensor:
    """The images of these rows, in the memory layout channels_last; all of them for None."""
    if index is None:
        return images
    return images.permute(0, 2, 3, 1)[index].permute(0, 3, 1, 2)
