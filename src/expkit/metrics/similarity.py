"""How close two pictures are, and how well a picture of several views shows in each what it should. One number a picture.

Pictures (B, C, H, W) in [0, 1].

psnr(a, b) = −10 log10 mean (a − b)²                                                            decibels; infinite where they are equal
ssim(a, b) = mean (2 m_a m_b + c1)(2 s_ab + c2) / (m_a² + m_b² + c1)(s_a² + s_b² + c2)          1 where they are equal

Scores S (…, n, n): S_ij says how well view i of a picture shows prompt j, for as many prompts as views (Geng, Park and Owens 2024, visual
anagrams, section 4: CLIP's cosine between view i of a picture and prompt j).

alignment(S) = min over i of S_ii                                               the worst view
concealment(S) = mean over i of (row_i(S/tau)_i + column_i(S/tau)_i) / 2        row_i: softmax over the prompts of view i,
                                                                                column_i: softmax over the views of prompt i
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

C1, C2 = 0.01**2, 0.03**2


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal to noise ratio (B,), the peak being 1."""
    return -10 * (a - b).square().mean((1, 2, 3)).log10()


def ssim(a: Tensor, b: Tensor, sigma: float = 1.5) -> Tensor:
    """Structural similarity (B,) (Wang et al. 2004): means m, variances s² and covariance s_ab of each channel in windows about each pixel.

    The windows are Gaussian, 11 × 11 at sigma 1.5; beyond its edges a picture, of more than 5 pixels a side, goes on mirrored.
    c1 = 0.01², c2 = 0.03². Equals torchmetrics' structural_similarity_index_measure with data_range=1.
    """
    count, reach = len(a), int(3.5 * sigma + 0.5)
    bell = torch.exp(-(torch.arange(-reach, reach + 1, device=a.device).double() ** 2) / (2 * sigma**2))
    down, across = (bell / bell.sum()).view(1, 1, -1, 1), (bell / bell.sum()).view(1, 1, 1, -1)
    a, b = (pad(image.double().flatten(0, 1)[:, None], [reach] * 4, mode="reflect") for image in (a, b))
    m_a, m_b, aa, bb, ab = (conv2d(conv2d(image, down), across) for image in (a, b, a * a, b * b, a * b))
    index = (
        (2 * m_a * m_b + C1)
        * (2 * (ab - m_a * m_b) + C2)
        / ((m_a**2 + m_b**2 + C1) * (aa - m_a**2 + bb - m_b**2 + C2))
    )
    return index.view(count, -1).mean(1).float()


def alignment(scores: Tensor) -> Tensor:
    """The score of the worst view for its own prompt: (…, n, n) -> (…)."""
    return scores.diagonal(dim1=-2, dim2=-1).amin(-1)


def concealment(scores: Tensor, temperature: float) -> Tensor:
    """How surely views are told apart by prompts and prompts by views: (…, n, n) -> (…), in (0, 1]; 1/n where all scores are equal.

    The mean over i of softmax(S / temperature)_ii, and over both directions of the softmax: over the prompts of a view, which is a row of
    S, and over the views of a prompt, which is a column.
    """
    rows, columns = (scores / temperature).softmax(-1), (scores / temperature).softmax(-2)
    return (rows + columns).diagonal(dim1=-2, dim2=-1).mean(-1) / 2
