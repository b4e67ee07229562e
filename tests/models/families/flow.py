"""What tests of families of flow matching share."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import torch
from torch import Tensor

from expkit.core.schedules import CLEAN
from expkit.models.pretrained.base import DeviceSpec

EXACT = DeviceSpec(dtype=torch.float64)
BOUND = {torch.float32: 2e-5, torch.float64: 1e-8}


def in_precision(pipe, dtype: torch.dtype, monkeypatch):
    """The pipeline in this dtype; its scheduler, which casts states to float32, then casts to this dtype too."""
    from diffusers.schedulers import scheduling_flow_match_euler_discrete as module

    monkeypatch.setattr(module, "torch", SimpleNamespace(**{**vars(torch), "float32": dtype}))
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(dtype)


def grid_of(pipe) -> tuple[float, ...]:
    """The levels of the pipeline's last run: t = 1000 · sigma − 1, real numbers."""
    return (*[float(t) - 1 for t in pipe.scheduler.timesteps], CLEAN)


def follow(mine: list[Tensor], theirs: list[Tensor]) -> None:
    """Equal at every step, within 2e-5 or in float64 1e-8; every step moves the states much more than that."""
    assert [x.dtype for x in mine] == [x.dtype for x in theirs] and len(mine) > 3
    apart = max(float((a - b).abs().max()) for a, b in zip(mine, theirs, strict=True))
    print(f"apart {apart:.1e}, of states up to {max(float(x.abs().max()) for x in theirs):.1f}")
    bound = BOUND[theirs[0].dtype]
    assert apart < bound
    assert min(float((a - b).abs().max()) for a, b in pairwise(theirs)) > 100 * bound


def check_autoencoder(model, pipe, latents: Tensor, shown: Tensor, shift: float, scale: float) -> None:
    """Latents are decoded to the pictures that the pipeline shows, and these encoded as its autoencoder does."""
    assert torch.allclose(model.decode(latents), shown, atol=1e-5) and shown.std() > 0.01
    assert model.image_shape == tuple(shown.shape[1:]) == (3, 64, 64) and model.shape == (16, 8, 8)
    with torch.no_grad():
        mean = pipe.vae.encode(2 * shown - 1).latent_dist.mean
    assert torch.allclose(model.encode(shown), (mean - shift) * scale, atol=1e-5)
