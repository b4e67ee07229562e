"""The UNets of UC Berkeley CS180 project 5: single-step, time-conditioned, class-conditioned.

    ConvBlock(1→D) → Down(D→D) → Down(D→2D) → Flatten → Unflatten(2D)
    → Up(4D→D) → Up(2D→D) → ConvBlock(2D→D) → Conv(D→1)

The conditioning acts twice, after Unflatten (2D channels) and after the first Up (D channels):
h ← c·h + t, where t = FC_t(t/T) and c = FC_c(one-hot class). Without classes it is h ← h + t, or
h ← h·t as in the later edition of the course. The null class is the zero vector; FC_c(0) is not 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from expkit.errors import UserError

NORMS = {
    "batch": nn.BatchNorm2d,
    # Group normalisation (Wu & He 2018): the output of a row does not depend on its batch.
    "group": lambda width: nn.GroupNorm(min(8, width // 4), width),
}


class Network(nn.Module):
    """What `task=train` trains on labelled images and a weights file holds: forward(x, time, label).

    A subclass sets these attributes. Its `forward` takes x (N, C, H, W), time (N, 1) in [0, 1] and
    label (N, classes), one-hot or zero for the null class, and returns (N, C, H, W).

    Attributes:
        channels, size: channels and side of its images.
        timed: whether it is conditioned on the time.
        classes: number of classes it is conditioned on; 0 for none.
        arguments: the arguments of its constructor, JSON values, from which it is built again.
    """

    channels: int
    size: int
    timed: bool
    classes: int
    arguments: Mapping[str, Any]

    def for_inference(self) -> nn.Module:
        """What is called without gradients; a subclass may have something faster than itself."""
        return self


class TimeAndClass:
    """The conditioning of a UNet: one pair of fully connected blocks for each of two places."""

    timed: bool
    classes: int
    product: bool
    times: nn.ModuleList
    labels: nn.ModuleList

    def conditioned(self, h: Tensor, where: int, u: Tensor | None, label: Tensor | None) -> Tensor:
        """Features h (N, D', H, W) after the conditioning at place `where`: 0 or 1."""
        if not self.timed:
            return h
        t = self.times[where](u)[:, :, None, None]
        if self.classes:
            return self.labels[where](label)[:, :, None, None] * h + t
        return h * t if self.product else h + t


class UNet(TimeAndClass, Network):
    """The UNet of CS180 project 5, for square images whose side is a multiple of 4.

    Args:
        hidden: D, the number of channels.
        timed: whether it is conditioned on the time.
        classes: number of classes it is conditioned on; 0 for none. Classes need timed=True.
        channels: channels of an image.
        size: side of an image in pixels; Flatten averages over (size/4)² positions.
        norm: "batch", as in the course, or "group".
        product: whether to use h·t instead of h + t; only without classes.
    """

    def __init__(
        self, hidden: int = 64, timed: bool = True, classes: int = 0, channels: int = 1,
        size: int = 28, norm: str = "batch", product: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        check_sizes(hidden, timed, classes, size, norm)
        self.hidden, self.channels, self.size, self.norm = hidden, channels, size, norm
        self.timed, self.classes, self.product = timed, classes, product
        self.arguments = {
            "hidden": hidden, "timed": timed, "classes": classes, "channels": channels,
            "size": size, "norm": norm, "product": product,
        }  # fmt: skip
        double, quarter = 2 * hidden, size // 4
        self.enter = self.conv_block(channels, hidden)
        self.down1 = self.down_block(hidden, hidden)
        self.down2 = self.down_block(hidden, double)
        self.flatten = nn.Sequential(nn.AvgPool2d(quarter), nn.GELU())
        self.unflatten = self.normed(nn.ConvTranspose2d(double, double, quarter, quarter, 0))
        self.up1 = self.up_block(4 * hidden, hidden)
        self.up2 = self.up_block(double, hidden)
        block = self.conv_block(double, hidden)
        self.leave = nn.Sequential(block, nn.Conv2d(hidden, channels, 3, 1, 1))
        widths = (double, hidden)
        self.times = nn.ModuleList([fc_block(1, width) for width in widths if timed])
        self.labels = nn.ModuleList([fc_block(classes, width) for width in widths if classes])

    def normed(self, conv: nn.Module) -> nn.Sequential:
        """A convolution, then normalisation and GELU."""
        return nn.Sequential(conv, NORMS[self.norm](conv.out_channels), nn.GELU())

    def conv_block(self, inner: int, outer: int) -> nn.Sequential:
        """Two 3 × 3 convolutions, inner -> outer channels."""
        first = self.normed(nn.Conv2d(inner, outer, 3, 1, 1))
        return nn.Sequential(first, self.normed(nn.Conv2d(outer, outer, 3, 1, 1)))

    def down_block(self, inner: int, outer: int) -> nn.Sequential:
        """Halve the side, inner -> outer channels."""
        down = self.normed(nn.Conv2d(inner, outer, 3, 2, 1))
        return nn.Sequential(down, self.conv_block(outer, outer))

    def up_block(self, inner: int, outer: int) -> nn.Sequential:
        """Double the side, inner -> outer channels."""
        up = self.normed(nn.ConvTranspose2d(inner, outer, 4, 2, 1))
        return nn.Sequential(up, self.conv_block(outer, outer))

    def for_inference(self) -> nn.Module:
        """The same function without gradients, faster; a subclass with its own forward as it is."""
        if type(self).forward is not UNet.forward:
            return self
        from expkit.models.unet_inference import InferenceUNet

        return InferenceUNet(self)

    def forward(self, x: Tensor, u: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        """Predict the training target, (N, C, H, W).

        Args:
            x: noisy images (N, C, H, W).
            u: t/T (N, 1) in [0, 1].
            label: one-hot rows, or zero for the null class (N, classes).
        """
        h0 = self.enter(x)
        h1 = self.down1(h0)
        h2 = self.down2(h1)
        h = self.conditioned(self.unflatten(self.flatten(h2)), 0, u, label)
        h = self.conditioned(self.up1(torch.cat([h, h2], 1)), 1, u, label)
        h = self.up2(torch.cat([h, h1], 1))
        return self.leave(torch.cat([h, h0], 1))


def fc_block(inner: int, outer: int) -> nn.Sequential:
    """Linear, GELU, Linear: (N, inner) -> (N, outer)."""
    return nn.Sequential(nn.Linear(inner, outer), nn.GELU(), nn.Linear(outer, outer))


def check_sizes(hidden: int, timed: bool, classes: int, size: int, norm: str) -> None:
    """Raise ValueError or UserError if a UNet cannot have these sizes."""
    if classes and not timed:
        raise ValueError(
            "a class-conditioned UNet is told the time too: "
            "classes > 0 needs timed=True"
        )  # fmt: skip
    if norm not in NORMS:
        raise UserError(
            f"There is no normalisation {norm!r} for the UNet: "
            "give norm=batch, as the course, or norm=group."
        )  # fmt: skip
    if norm == "group" and hidden % 8:
        raise UserError(
            f"hidden={hidden} does not divide into the groups of norm=group: give a multiple of 8."
        )
    if size < 4 or size % 4:
        raise UserError(
            f"Pictures of {size} pixels do not fit the UNet, which halves them twice: "
            "give data.size a multiple of 4."
        )


def single_step_unet(hidden: int, classes: int, channels: int, size: int, norm: str = "batch") -> UNet:
    """The single-step UNet, with no conditioning: maps images (N, channels, size, size) to such.

    Args:
        hidden: D, the number of channels.
        classes: number of classes of the data; ignored.
        channels: channels of an image.
        size: side of an image in pixels, a multiple of 4.
        norm: "batch" or "group".
    """
    return UNet(hidden, False, 0, channels, size, norm)


def time_conditioned_unet(
    hidden: int, classes: int, channels: int, size: int, norm: str = "batch", product: bool = False
) -> UNet:
    """The time-conditioned UNet; arguments as in `single_step_unet`, `product` as in `UNet`."""
    return UNet(hidden, True, 0, channels, size, norm, product)


def class_conditioned_unet(
    hidden: int, classes: int, channels: int, size: int, norm: str = "batch"
) -> UNet:  # fmt: skip
    """The UNet conditioned on time and class; arguments as in `UNet`."""
    return UNet(hidden, True, classes, channels, size, norm)
