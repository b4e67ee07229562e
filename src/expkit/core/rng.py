"""Random streams that depend on a key, not on the order of the draws.

`stream(seed, picture, "step", index)` always gives the same random numbers, whatever else is drawn
before or with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor


def stream(*key: int | str) -> torch.Generator:
    """A CPU generator that is seeded by the hash of its key alone."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


@dataclass(frozen=True, eq=False)
class Draws:
    """Random draws for a global batch that is shared by several processes.

    This process has every `world`-th row, starting at `rank`. Draws are made for the whole batch,
    so each row gets the same ones with any number of processes, also if they have unequal shares.

    Attributes:
        random: Generator on the CPU.
        count: Rows of the global batch.
        rank: Index of this process.
        world: Number of processes.
        device: Where the draws are moved to.
    """

    random: Generator
    count: int
    rank: int = 0
    world: int = 1
    device: torch.device | str = "cpu"

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal (rows, *shape), for the rows of this process."""
        return self.local_rows(torch.randn((self.count, *shape), generator=self.random))

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Uniform in [0, 1), (rows, *shape), for the rows of this process."""
        return self.local_rows(torch.rand((self.count, *shape), generator=self.random))

    def integers(self, end: int) -> Tensor:
        """Uniform integers 0 … end − 1, (rows,), for the rows of this process."""
        return self.local_rows(torch.randint(end, (self.count,), generator=self.random))

    def local_rows(self, drawn: Tensor) -> Tensor:
        """The rows of this process, on its device, of draws (count, …) for the whole batch."""
        return drawn[self.rank :: self.world].to(self.device)
