"""Learning-rate schedules: (fraction of the training done, number of epochs) -> factor of the rate.

The fraction `done` is in [0, 1); the factor multiplies the optimizer's learning rate.
"""

from __future__ import annotations

import math


def constant_lr(done: float, epochs: int) -> float:
    """The factor 1 throughout."""
    return 1.0


def exponential_lr(done: float, epochs: int) -> float:
    """Exponential decay to a tenth over the whole training, as in CS180 project 5.

    The factor is multiplied by 0.1^(1/epochs) at the end of each epoch.
    """
    return 0.1 ** (math.floor(done * epochs + 1e-9) / epochs)


def cosine_lr(done: float, epochs: int, warm: float = 0.03) -> float:
    """Linear warm-up from 0 to 1 over the first fraction `warm`, then cosine decay to 0."""
    if done < warm:
        return done / warm
    return 0.5 * (1 + math.cos(math.pi * min(1, (done - warm) / (1 - warm))))
