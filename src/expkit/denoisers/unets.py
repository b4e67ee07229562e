"""The MNIST UNets of the course: unconditional, time-conditioned, class- and time-conditioned.

    ConvBlock(1→D) → Down(D→D) → Down(D→2D) → Flatten → Unflatten(2D) → Up(4D→D) → Up(2D→D) → ConvBlock(2D→D) → Conv(D→1)

Conditioning acts twice, after Unflatten (2D wide) and after the first Up (D wide): h ← c·h + t, with t = T(t/T) and
c = C(one-hot class); without classes h ← h + t. A null class is the zero vector, and C(0) is not 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def conv(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inner, outer, 3, 1, 1), nn.BatchNorm2d(outer), nn.GELU())


def conv_block(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(conv(inner, outer), conv(outer, outer))


def down_block(inner: int, outer: int) -> nn.Sequential:
    shrink = nn.Sequential(nn.Conv2d(inner, outer, 3, 2, 1), nn.BatchNorm2d(outer), nn.GELU())
    return nn.Sequential(shrink, conv_block(outer, outer))


def up_block(inner: int, outer: int) -> nn.Sequential:
    grow = nn.Sequential(nn.ConvTranspose2d(inner, outer, 4, 2, 1), nn.BatchNorm2d(outer), nn.GELU())
    return nn.Sequential(grow, conv_block(outer, outer))


def fc_block(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inner, outer), nn.GELU(), nn.Linear(outer, outer))


class UNet(nn.Module):
    """The course's UNet for 28×28 pictures.

    Args:
        hidden: D, the width.
        timed: whether it is told the time.
        classes: how many classes it is told of; 0 for none. Classes need time.
        channels: colours of a picture.
    """

    def __init__(self, hidden: int = 64, timed: bool = True, classes: int = 0, channels: int = 1) -> None:
        super().__init__()
        if classes and not timed:
            raise ValueError("a class-conditioned UNet is told the time too: classes > 0 needs timed=True")
        d = hidden
        self.classes, self.timed = classes, timed
        self.enter = conv_block(channels, d)
        self.down1, self.down2 = down_block(d, d), down_block(d, 2 * d)
        self.flatten = nn.Sequential(nn.AvgPool2d(7), nn.GELU())
        self.unflatten = nn.Sequential(nn.ConvTranspose2d(2 * d, 2 * d, 7, 7, 0), nn.BatchNorm2d(2 * d), nn.GELU())
        self.up1, self.up2 = up_block(4 * d, d), up_block(2 * d, d)
        self.leave = nn.Sequential(conv_block(2 * d, d), nn.Conv2d(d, channels, 3, 1, 1))
        self.times = nn.ModuleList([fc_block(1, 2 * d), fc_block(1, d)] if timed else [])
        self.labels = nn.ModuleList([fc_block(classes, 2 * d), fc_block(classes, d)] if classes else [])

    def conditioned(self, h: Tensor, where: int, u: Tensor | None, label: Tensor | None) -> Tensor:
        if self.classes:
            h = self.labels[where](label)[:, :, None, None] * h
        return h + self.times[where](u)[:, :, None, None] if self.timed else h

    def forward(self, x: Tensor, u: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        """x (N, C, 28, 28), u = t/T (N, 1) in [0, 1], label one-hot or zero (N, classes) -> (N, C, 28, 28)."""
        h0 = self.enter(x)
        h1 = self.down1(h0)
        h2 = self.down2(h1)
        h = self.conditioned(self.unflatten(self.flatten(h2)), 0, u, label)
        h = self.conditioned(self.up1(torch.cat([h, h2], 1)), 1, u, label)
        h = self.up2(torch.cat([h, h1], 1))
        return self.leave(torch.cat([h, h0], 1))
