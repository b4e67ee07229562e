"""Random streams that belong to a name, not to the order in which they are drawn.

`stream(seed, picture, "step", index)` is the same generator wherever, whenever and beside whatever it is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor


def stream(*key: int | str) -> torch.Generator:
    """A CPU generator that is a function of its key alone."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


@dataclass(frozen=True, eq=False)
class Draws:
    """What `random` draws for a global batch of `count` rows, of which this process has every world-th from `rank` on.

    However many processes share a batch, and however unevenly, each of its rows has the same draws.
    """

    random: Generator
    count: int
    rank: int = 0
    world: int = 1
    device: torch.device | str = "cpu"

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal, (rows, *shape)."""
        return self.ours(torch.randn((self.count, *shape), generator=self.random))

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """In [0, 1), (rows, *shape)."""
        return self.ours(torch.rand((self.count, *shape), generator=self.random))

    def integers(self, end: int) -> Tensor:
        """0 … end − 1, (rows,)."""
        return self.ours(torch.randint(end, (self.count,), generator=self.random))

    def ours(self, drawn: Tensor) -> Tensor:
        """Of what is drawn for the whole batch, the rows of this process, on its device."""
        return drawn[self.rank :: self.world].to(self.device)
