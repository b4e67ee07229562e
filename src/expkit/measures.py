"""How close two pictures are. Pictures (B, C, H, W) in [0, 1]; one number a picture.

psnr(a, b) = −10 log10 mean (a − b)²                                                            decibels; infinite where they are equal
ssim(a, b) = mean (2 m_a m_b + c1)(2 s_ab + c2) / (m_a² + m_b² + c1)(s_a² + s_b² + c2)          1 where they are equal
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal to noise ratio (B,), the peak being 1."""
    return -10 * (a - b).square().mean((1, 2, 3)).log10()


def ssim(a: Tensor, b: Tensor, side: int = 11, sigma: float = 1.5) -> Tensor:
    """Structural similarity (B,) (Wang et al. 2004): means m, variances s² and covariance s_ab of channels in windows inside the picture.

    The windows are Gaussian, 11 × 11 or as large as a smaller picture; c1 = 0.01², c2 = 0.03².
    """
    weight = torch.ones(1, 1, 1, 1, device=a.device, dtype=a.dtype)
    for axis in (2, 3):
        at = torch.arange(min(side, a.shape[axis]), device=a.device, dtype=a.dtype)
        bell = torch.exp(-((at - at.mean()) ** 2) / (2 * sigma**2))
        weight = weight * (bell / bell.sum()).view([-1 if i == axis else 1 for i in range(4)])
    of = [conv2d(image.flatten(0, 1)[:, None], weight) for image in (a, b, a * a, b * b, a * b)]
    m_a, m_b, s_aa, s_bb, s_ab = *of[:2], of[2] - of[0] ** 2, of[3] - of[1] ** 2, of[4] - of[0] * of[1]
    c1, c2 = 0.01**2, 0.03**2
    index = (2 * m_a * m_b + c1) * (2 * s_ab + c2) / ((m_a**2 + m_b**2 + c1) * (s_aa + s_bb + c2))
    return index.view(len(a), -1).mean(1)
