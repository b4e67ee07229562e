"""Augmentations of whole images, random for each row of a batch: affine, distance, blur, light."""

from __future__ import annotations

from functools import cache
from math import radians

import torch
import torch.nn.functional as F
from torch import Tensor

from expkit.metrics import judges


def random_affine(
    images: Tensor,
    chance: Tensor,
    shift: float,
    turn: float,
    zoom: tuple[float, float],
) -> Tensor:
    """Rotate, zoom and shift images about their middle, bilinearly; what comes in is black.

    Args:
        images: (N, C, H, W).
        chance: (N, 4) in [0, 1): the random numbers for angle, zoom and the two shifts.
        shift: largest shift in each direction, in pixels.
        turn: largest rotation in each direction, in degrees.
        zoom: smallest and largest zoom factor.
    """
    angle = radians(turn) * (2 * chance[:, 0] - 1)
    factor = zoom[0] + (zoom[1] - zoom[0]) * chance[:, 1]
    cos, sin = angle.cos() / factor, angle.sin() / factor
    across, down = (2 * shift / images.shape[-1] * (2 * chance[:, 2:] - 1)).unbind(1)
    theta = torch.stack([torch.stack([cos, -sin, across], 1), torch.stack([sin, cos, down], 1)], 1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def random_distance(
    images: Tensor, chance: Tensor, far: float, farthest: float = 4.0, nearest: float = 2.0
) -> Tensor:
    """Images as if seen from afar: M x Mᵀ for each row x; M downsamples, blurs or is the identity.

    Args:
        images: (N, C, side, side).
        chance: (N, 3) in [0, 1): the random numbers for the kind of M, the size and the blur. Blurs
            have sigma from 0.5 to 2.5 pixels.
        far: the fraction of rows that are changed: far/2 are downsampled, far/2 are blurred.
        farthest: the smallest downsampled side is side / farthest. The size is then restored.
        nearest: the largest downsampled side is side / nearest.
    """
    side = images.shape[-1]
    kind = chance[:, 0, None, None]
    matrices = downsample_matrices(side, farthest, nearest).to(images)
    downsample = matrices[(chance[:, 1] * len(matrices)).long()]
    blur = blur_matrices(0.5 + 2 * chance[:, 2], side)
    identity = torch.eye(side).to(images)
    matrix = torch.where(kind < far, blur, identity)
    matrix = torch.where(kind < far / 2, downsample, matrix)[:, None]
    return matrix @ images @ matrix.mT


@cache
def downsample_matrices(side: int, farthest: float = 4.0, nearest: float = 2.0) -> Tensor:
    """`judges.downsample_and_restore` as matrices that act on columns, (K, side, side).

    One for each whole size from side/farthest to side/nearest.
    """
    columns = torch.eye(side)[:, None, :, None].expand(side, 1, side, side)
    sizes = range(round(side / farthest), round(side / nearest) + 1)
    restored = [judges.downsample_and_restore(columns, side / size) for size in sizes]
    return torch.stack([images[:, 0, :, 0].T for images in restored])


def blur_matrices(sigma: Tensor, side: int) -> Tensor:
    """Gaussian blurs as matrices that act on columns, (N, side, side); rows sum to one.

    sigma: (N,), standard deviations in pixels.
    """
    place = torch.arange(side, device=sigma.device, dtype=sigma.dtype)
    return (-((place[:, None] - place) ** 2) / (2 * sigma[:, None, None] ** 2)).softmax(-1)


def random_light(
    images: Tensor,
    chance: Tensor,
    gain: float,
    offset: float,
    noise: Tensor,
) -> Tensor:
    """Change contrast and brightness and add noise, then clamp to [0, 1].

    Args:
        images: (N, C, H, W) in [0, 1].
        chance: (N, 3) in [0, 1): the random numbers for gain, offset and the strength of the noise.
        gain: images are multiplied by 1 ± gain at the most.
        offset: ± offset is added at the most.
        noise: (N, C, H, W), of which a random fraction is added.
    """
    light = (2 * chance - 1)[..., None, None, None]
    strength = chance[:, 2, None, None, None]
    return ((1 + gain * light[:, 0]) * images + offset * light[:, 1] + strength * noise).clamp(0, 1)
