"""Similarity of two images, and how well each view of a multi-view image shows its own prompt.

All measures give one number for each image. Images are (B, C, H, W) in [0, 1].

psnr(a, b) = −10 log10 mean (a − b)²                    in decibels; infinite for equal images
ssim(a, b) = mean (2 m_a m_b + c1)(2 s_ab + c2) / (m_a² + m_b² + c1)(s_a² + s_b² + c2)
                                                        1 for equal images

Scores S (…, n, n): S_ij says how well view i of an image shows prompt j, for as many prompts as
views. In Geng, Park and Owens 2024 (visual anagrams, section 4) it is CLIP's cosine between view i
and prompt j.

alignment(S) = min over i of S_ii                       the worst view
concealment(S) = mean over i of (row_i(S/tau)_i + column_i(S/tau)_i) / 2
                                                        row_i: softmax over the prompts of view i
                                                        column_i: softmax over the views of prompt i
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

C1, C2 = 0.01**2, 0.03**2


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in decibels, (B,), with peak 1."""
    return -10 * (a - b).square().mean((1, 2, 3)).log10()


def ssim(a: Tensor, b: Tensor, sigma: float = 1.5) -> Tensor:
    """Structural similarity, (B,) (Wang et al. 2004).

    m, s² and s_ab are means, variances and covariance of each channel in a window around each
    pixel; the windows are Gaussian, 11 × 11 at sigma 1.5. Images have more than 5 pixels a side and
    are padded by reflection. c1 = 0.01², c2 = 0.03². Equals torchmetrics'
    structural_similarity_index_measure with data_range=1 in float64, which takes 6 to 38 times as
    long and 7.6 s to import; in float32 it is up to 4e-5 away.
    """
    count = len(a)
    radius = int(3.5 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1, device=a.device).double()
    window = torch.exp(-(offsets**2) / (2 * sigma**2))
    window = window / window.sum()
    column, row = window.view(1, 1, -1, 1), window.view(1, 1, 1, -1)
    a, b = (image.double().flatten(0, 1)[:, None] for image in (a, b))
    a, b = (pad(image, [radius] * 4, mode="reflect") for image in (a, b))
    products = (a, b, a * a, b * b, a * b)
    m_a, m_b, aa, bb, ab = (conv2d(conv2d(image, column), row) for image in products)
    index = (
        (2 * m_a * m_b + C1)
        * (2 * (ab - m_a * m_b) + C2)
        / ((m_a**2 + m_b**2 + C1) * (aa - m_a**2 + bb - m_b**2 + C2))
    )
    return index.view(count, -1).mean(1).float()


def alignment(scores: Tensor) -> Tensor:
    """The lowest score of a view for its own prompt: (…, n, n) -> (…)."""
    return scores.diagonal(dim1=-2, dim2=-1).amin(-1)


def concealment(scores: Tensor, temperature: float) -> Tensor:
    """How reliably scores match views and prompts: (…, n, n) -> (…), in (0, 1].

    The mean over i of softmax(S / temperature)_ii, and over both directions of the softmax: over
    the prompts of a view, which is a row of S, and over the views of a prompt, which is a column.
    It is 1/n if all scores are equal.
    """
    rows = (scores / temperature).softmax(-1)
    columns = (scores / temperature).softmax(-2)
    return (rows + columns).diagonal(dim1=-2, dim2=-1).mean(-1) / 2
