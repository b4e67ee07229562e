"""Random streams that belong to a name, not to the order in which they are drawn.

`stream(seed, picture, "step", index)` is the same generator wherever, whenever and beside whatever it is asked for.
"""

from __future__ import annotations

import hashlib

import torch


def stream(*key: int | str) -> torch.Generator:
    """A CPU generator that is a function of its key alone."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
