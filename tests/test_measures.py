"""How close two pictures are: closed forms, and torchmetrics' own numbers."""

import pytest
import torch

from expkit.measures import psnr, ssim


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
