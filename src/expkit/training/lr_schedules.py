"""How a learning rate falls: (fraction of the training done, epochs) -> factor."""

from __future__ import annotations

import math


def constant(done: float, epochs: int) -> float:
    return 1.0


def tenth(done: float, epochs: int) -> float:
    """The course's: 0.1^(1/epochs) at the end of each epoch, a tenth over the whole training."""
    return 0.1 ** (math.floor(done * epochs + 1e-9) / epochs)


def cosine(done: float, epochs: int, warm: float = 0.03) -> float:
    """Up on a line over the first `warm` of the training, then down to nothing along a cosine."""
    return done / warm if done < warm else 0.5 * (1 + math.cos(math.pi * min(1, (done - warm) / (1 - warm))))
