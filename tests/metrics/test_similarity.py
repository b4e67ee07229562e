"""How close two pictures are: closed forms, and torchmetrics' own numbers. How well views are aligned and concealed: by hand."""

import math

import pytest
import torch

from expkit.metrics.similarity import alignment, concealment, psnr, ssim


def waves() -> tuple[torch.Tensor, torch.Tensor]:
    """Two pairs of pictures (2, 3, 40, 32), made of numbers alone."""
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(32.0), indexing="ij")
    first = torch.stack([(x * (k + 1) / 32 + y / 40) % 1 for k in range(3)])
    second = 0.9 * first**2
    return torch.stack([first, second]), torch.stack([second, (x * y / 1280).expand(3, -1, -1)])


def test_equal_pictures():
    a = torch.rand(2, 3, 16, 16)
    assert psnr(a, a).tolist() == [float("inf")] * 2
    torch.testing.assert_close(ssim(a, a), torch.ones(2))


def test_flat_pictures_have_closed_forms():
    a, b = torch.full((2, 1, 28, 28), 0.25), torch.tensor([0.75, 0.35]).view(2, 1, 1, 1).expand(2, 1, 28, 28)
    torch.testing.assert_close(psnr(a, b), torch.tensor([6.0206, 20.0]), rtol=1e-4, atol=0)
    expected = (2 * 0.25 * b[:, 0, 0, 0] + 1e-4) / (0.25**2 + b[:, 0, 0, 0] ** 2 + 1e-4)
    torch.testing.assert_close(ssim(a, b), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("measure", "said"), [(psnr, [13.439916, 8.975751]), (ssim, [0.757668, 0.178317])], ids=["psnr", "ssim"]
)
def test_the_numbers_are_those_of_torchmetrics(measure, said):
    """torchmetrics 1.9.0, data_range=1.0; not asked here, for it takes seven seconds to import."""
    a, b = waves()
    torch.testing.assert_close(measure(a, b), torch.tensor(said), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(measure(b, a), measure(a, b))


def test_a_pictures_number_is_its_own():
    a, b = waves()
    for measure in (psnr, ssim):
        torch.testing.assert_close(measure(a, b)[1:], measure(a[1:], b[1:]))


def test_alignment_is_the_worst_of_the_diagonal():
    scores = torch.tensor([[[0.3, 0.9], [0.1, 0.2]], [[0.25, 0.0], [0.9, 0.5]]])
    torch.testing.assert_close(alignment(scores), torch.tensor([0.2, 0.25]))


def test_concealment_is_the_mean_of_both_directions_of_the_softmax():
    """Of [[2, 1], [0, 3]] at temperature 1: rows s(1) and s(3), columns s(2) and s(2), with s(x) = 1 / (1 + exp(−x))."""
    s = lambda x: 1 / (1 + math.exp(-x))
    scores = torch.tensor([[2.0, 1.0], [0.0, 3.0]], dtype=torch.float64)
    assert concealment(scores, 1.0).item() == pytest.approx((s(1) + s(3) + s(2) + s(2)) / 4, rel=1e-12)
    assert concealment(scores, 0.5).item() == pytest.approx((s(2) + s(6) + s(4) + s(4)) / 4, rel=1e-12)
    three = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [2.0, 0.0, 0.0]], dtype=torch.float64)
    e = math.e
    rows, columns = e / (e + 2) + 1 / 3 + 1 / (e**2 + 2), e / (e + 1 + e**2) + 1 / 3 + 1 / 3
    assert concealment(three, 1.0).item() == pytest.approx((rows + columns) / 6, rel=1e-12)


def test_concealment_is_one_where_all_is_told_apart_and_one_in_n_where_nothing_is():
    assert concealment(torch.eye(4, dtype=torch.float64), 1e-3).item() == pytest.approx(1)
    assert concealment(torch.full((2, 5, 5), 0.3), 0.01).tolist() == pytest.approx([0.2, 0.2])
