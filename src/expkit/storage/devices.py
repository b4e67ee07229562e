"""The device that a network runs on, and its floating-point precision."""

from __future__ import annotations

import gc

import torch

from expkit.errors import UserError
from expkit.storage.process import return_freed_memory


def device_of(name: str) -> str:
    """Resolve model.device: "auto" means CUDA, else MPS, else the CPU.

    Raises:
        UserError: PyTorch cannot use the device of this name on this machine.
    """
    if name != "auto":
        try:
            torch.empty(1, device=name)
        except (RuntimeError, AssertionError):
            raise UserError(
                f"model.device={name} is not at hand on this machine: try model.device=cpu or auto."
            ) from None
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def precision_of(name: str, device: str, key: str = "model.dtype") -> str:
    """Resolve the name of a dtype: "auto" means bfloat16 where it is fast, else float32."""
    if name not in ("auto", "float32", "bfloat16", "float16"):
        raise UserError(f"{key}={name} is not known: give auto, float32, bfloat16 or float16.")
    if name != "auto":
        return name
    return "bfloat16" if fast_bfloat16(device) else "float32"


def fast_bfloat16(device: str) -> bool:
    """Whether the hardware has bfloat16 instructions: emulated, it is half as fast as float32."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device != "cpu":
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def release_memory() -> None:
    """Free the memory of networks that are no longer referenced."""
    gc.collect()
    return_freed_memory()
    torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
