"""The UNets of the course: single-step, time-conditioned, class- and time-conditioned.

    ConvBlock(1→D) → Down(D→D) → Down(D→2D) → Flatten → Unflatten(2D) → Up(4D→D) → Up(2D→D) → ConvBlock(2D→D) → Conv(D→1)

Conditioning acts twice, after Unflatten (2D wide) and after the first Up (D wide): h ← c·h + t, with t = T(t/T) and
c = C(one-hot class); without classes h ← h + t, or h ← h·t as the course's later edition has it. A null class is the zero vector, and
C(0) is not 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from expkit.errors import UserError

NORMS = {
    "batch": nn.BatchNorm2d,
    "group": lambda width: nn.GroupNorm(
        min(8, width // 4), width
    ),  # a row's is the same in any batch (Wu & He 2018)
}


class UNet(nn.Module):
    """The course's UNet, for square pictures of any side that is a multiple of 4.

    Args:
        hidden: D, the width.
        timed: whether it is told the time.
        classes: how many classes it is told of; 0 for none. Classes need time.
        channels: colours of a picture.
        size: its side; Flatten takes the mean of a quarter of it, squared.
        norm: "batch", the course's, or "group".
        product: h·t instead of h + t, where there are no classes.
    """

    def __init__(
        self, hidden: int = 64, timed: bool = True, classes: int = 0, channels: int = 1, size: int = 28, norm: str = "batch",
        product: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        check_sizes(hidden, timed, classes, size, norm)
        d, quarter, self.norm = hidden, size // 4, norm
        self.timed, self.classes, self.product = timed, classes, product
        self.hidden, self.channels, self.size = hidden, channels, size
        self.enter = self.conv_block(channels, d)
        self.down1, self.down2 = self.down_block(d, d), self.down_block(d, 2 * d)
        self.flatten = nn.Sequential(nn.AvgPool2d(quarter), nn.GELU())
        self.unflatten = self.normed(nn.ConvTranspose2d(2 * d, 2 * d, quarter, quarter, 0))
        self.up1, self.up2 = self.up_block(4 * d, d), self.up_block(2 * d, d)
        self.leave = nn.Sequential(self.conv_block(2 * d, d), nn.Conv2d(d, channels, 3, 1, 1))
        self.times = nn.ModuleList([fc_block(1, 2 * d), fc_block(1, d)] if timed else [])
        self.labels = nn.ModuleList([fc_block(classes, 2 * d), fc_block(classes, d)] if classes else [])

    def normed(self, conv: nn.Module) -> nn.Sequential:
        return nn.Sequential(conv, NORMS[self.norm](conv.out_channels), nn.GELU())

    def conv_block(self, inner: int, outer: int) -> nn.Sequential:
        return nn.Sequential(
            self.normed(nn.Conv2d(inner, outer, 3, 1, 1)), self.normed(nn.Conv2d(outer, outer, 3, 1, 1))
        )

    def down_block(self, inner: int, outer: int) -> nn.Sequential:
        return nn.Sequential(self.normed(nn.Conv2d(inner, outer, 3, 2, 1)), self.conv_block(outer, outer))

    def up_block(self, inner: int, outer: int) -> nn.Sequential:
        return nn.Sequential(
            self.normed(nn.ConvTranspose2d(inner, outer, 4, 2, 1)), self.conv_block(outer, outer)
        )

    def conditioned(self, h: Tensor, where: int, u: Tensor | None, label: Tensor | None) -> Tensor:
        if not self.timed:
            return h
        t = self.times[where](u)[:, :, None, None]
        if self.classes:
            return self.labels[where](label)[:, :, None, None] * h + t
        return h * t if self.product else h + t

    def forward(self, x: Tensor, u: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        """x (N, C, H, W), u = t/T (N, 1) in [0, 1], label one-hot or zero (N, classes) -> (N, C, H, W)."""
        h0 = self.enter(x)
        h1 = self.down1(h0)
        h2 = self.down2(h1)
        h = self.conditioned(self.unflatten(self.flatten(h2)), 0, u, label)
        h = self.conditioned(self.up1(torch.cat([h, h2], 1)), 1, u, label)
        h = self.up2(torch.cat([h, h1], 1))
        return self.leave(torch.cat([h, h0], 1))


def fc_block(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inner, outer), nn.GELU(), nn.Linear(outer, outer))


def check_sizes(hidden: int, timed: bool, classes: int, size: int, norm: str) -> None:
    if classes and not timed:
        raise ValueError("a class-conditioned UNet is told the time too: classes > 0 needs timed=True")
    if norm not in NORMS:
        raise UserError(
            f"There is no normalisation {norm!r} for the UNet: give norm=batch, as the course, or norm=group."
        )
    if norm == "group" and hidden % 8:
        raise UserError(
            f"hidden={hidden} does not divide into the groups of norm=group: give a multiple of 8."
        )
    if size < 4 or size % 4:
        raise UserError(
            f"Pictures of {size} pixels do not fit the UNet, which halves them twice: give data.size a multiple of 4."
        )


def single_step(hidden: int, classes: int, channels: int, size: int, norm: str = "batch") -> UNet:
    """Told nothing but the picture, whatever classes there are."""
    return UNet(hidden, False, 0, channels, size, norm)


def time_conditioned(
    hidden: int, classes: int, channels: int, size: int, norm: str = "batch", product: bool = False
) -> UNet:
    """Told the time, whatever classes there are."""
    return UNet(hidden, True, 0, channels, size, norm, product)


def class_conditioned(hidden: int, classes: int, channels: int, size: int, norm: str = "batch") -> UNet:
    """Told the time and the class."""
    return UNet(hidden, True, classes, channels, size, norm)
