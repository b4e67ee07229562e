"""torch.compile, with its cache kept between runs."""

from __future__ import annotations

import os
import shutil
import sys

from torch import nn

from expkit.errors import UserError
from expkit.storage.weights_io import cache_folder

COMPILERS = {"darwin": "clang++", "win32": "cl"}  # of torch.compile, where CXX names no other


def compile_network(network: nn.Module, key: str = "model.compile") -> None:
    """Compile a network in place, at its first call.

    Args:
        network: it keeps its class, attributes and state dict.
        key: the key that asks for it, for the error.

    Raises:
        UserError: this machine has no C++ compiler.
    """
    compiler = os.environ.get("CXX") or COMPILERS.get(sys.platform, "g++")
    if not shutil.which(compiler):
        raise UserError(
            f"{key}=true needs a C++ compiler, and there is no {compiler} on this machine: install "
            f"one (on Debian and Ubuntu the package g++), or leave {key} out."
        )
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
    network.compile()
