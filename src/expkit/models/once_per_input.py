"""What does not depend on the step of a run is computed once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

REMEMBERED = 8  # inputs: a step of a sweep has several batches of prompts


class OncePerInput(nn.Module):
    """A function whose output is computed once for each of the last inputs, compared by identity.

    In a network that is compiled it is computed each time.

    Args:
        inner: a module or function of one tensor, which nothing changes in place.
    """

    def __init__(self, inner: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner = inner
        self.outputs: OrderedDict[int, tuple[Tensor, Tensor]] = OrderedDict()

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return self.inner(x)
        known = self.outputs.pop(id(x), None)
        # The input is kept with its output, so that no other tensor has its id.
        self.outputs[id(x)] = known or (x, self.inner(x))
        if len(self.outputs) > REMEMBERED:
            self.outputs.popitem(last=False)
        return self.outputs[id(x)][1]
