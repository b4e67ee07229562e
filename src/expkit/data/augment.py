"""Changes of whole pictures, each row of a batch in its own way: moved, seen from afar, blurred, in another light."""

from __future__ import annotations

from functools import cache
from math import radians

import torch
import torch.nn.functional as F
from torch import Tensor

from expkit.metrics import judges


def random_affine(
    images: Tensor, chance: Tensor, shift: float, turn: float, zoom: tuple[float, float]
) -> Tensor:
    """Turned, zoomed and shifted about the middle, bilinearly, black coming in. chance (N, 4) in [0, 1): angle, zoom, shifts."""
    angle = radians(turn) * (2 * chance[:, 0] - 1)
    factor = zoom[0] + (zoom[1] - zoom[0]) * chance[:, 1]
    cos, sin = angle.cos() / factor, angle.sin() / factor
    across, down = (2 * shift / images.shape[-1] * (2 * chance[:, 2:] - 1)).unbind(1)
    where = torch.stack([torch.stack([cos, -sin, across], 1), torch.stack([sin, cos, down], 1)], 1)
    return F.grid_sample(
        images, F.affine_grid(where, list(images.shape), align_corners=False), align_corners=False
    )


def random_distance(
    images: Tensor, chance: Tensor, far: float, farthest: float = 4.0, nearest: float = 2.0
) -> Tensor:
    """M x Mᵀ a row, with M a shrinking to 1/nearest … 1/farthest (far/2 of the rows), a blur (far/2) or the identity.

    chance (N, 3) in [0, 1): which of the three, how far, how blurred (sigma 0.5 to 2.5 pixels).
    """
    side = images.shape[-1]
    which = chance[:, 0, None, None]
    shrinks = downsample_matrices(side, farthest, nearest).to(images)
    shrink = shrinks[(chance[:, 1] * len(shrinks)).long()]
    blur = blur_matrices(0.5 + 2 * chance[:, 2], side)
    none = torch.eye(side).to(images)
    m = torch.where(which < far / 2, shrink, torch.where(which < far, blur, none))[:, None]
    return m @ images @ m.mT


@cache
def downsample_matrices(side: int, farthest: float = 4.0, nearest: float = 2.0) -> Tensor:
    """`judges.downsample_and_restore` to each whole size from side/farthest to side/nearest, as matrices (K, side, side) on columns."""
    columns = torch.eye(side)[:, None, :, None].expand(side, 1, side, side)
    sizes = range(round(side / farthest), round(side / nearest) + 1)
    return torch.stack([judges.downsample_and_restore(columns, side / size)[:, 0, :, 0].T for size in sizes])


def blur_matrices(sigma: Tensor, side: int) -> Tensor:
    """Gaussian blurs of standard deviations sigma (N,) as matrices that act on columns, (N, side, side); rows sum to one."""
    place = torch.arange(side, device=sigma.device, dtype=sigma.dtype)
    return (-((place[:, None] - place) ** 2) / (2 * sigma[:, None, None] ** 2)).softmax(-1)


def random_light(images: Tensor, chance: Tensor, gain: float, offset: float, noise: Tensor) -> Tensor:
    """In another light, with noise, cut off at black and white. chance (N, 3) in [0, 1): gain, offset, how much of the noise."""
    light = (2 * chance - 1)[..., None, None, None]
    return (
        (1 + gain * light[:, 0]) * images + offset * light[:, 1] + chance[:, 2, None, None, None] * noise
    ).clamp(0, 1)
