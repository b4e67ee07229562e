"""Where a network runs, and in what precision."""

from __future__ import annotations

import gc

import torch

from expkit.errors import UserError


def device_of(name: str) -> str:
    if name != "auto":
        try:
            torch.empty(1, device=name)
        except (RuntimeError, AssertionError):
            raise UserError(
                f"model.device={name} is not at hand on this machine: try model.device=cpu or auto."
            ) from None
        return name
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def precision_of(name: str, device: str, key: str = "model.dtype") -> str:
    if name not in ("auto", "float32", "bfloat16", "float16"):
        raise UserError(f"{key}={name} is not known: give auto, float32, bfloat16 or float16.")
    return name if name != "auto" else "bfloat16" if fast_bfloat16(device) else "float32"


def fast_bfloat16(device: str) -> bool:
    """Whether the machine has instructions for bfloat16: emulated it is half as fast as float32."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def release_memory() -> None:
    """Give back the memory of networks that nothing refers to any more."""
    gc.collect()
    torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
