"""The contract every network is wrapped into: pictures at a level, and one prompt a row, in; the network's own answer out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from expkit.schedule import Schedule


@dataclass(frozen=True, eq=False)
class Prediction:
    """A network's answer.

    native: (R, C, H, W), in the kind the network was trained for (eps, v, x0, flow).
    frac: (R, C, H, W) or None, the learned variance as a fraction between two log variances (Nichol & Dhariwal 2021, eq. 15).
    """

    native: Tensor
    frac: Tensor | None = None


class Denoiser(ABC):
    """Something that answers.

    shape: (C, H, W) of one picture; schedule: its noise schedule; range: (low, high) of its pictures' values;
    kind: what its native answer is, one of eps, v, x0, flow; null: the prompt that says nothing.
    """

    shape: tuple[int, int, int]
    schedule: Schedule
    range: tuple[float, float]
    kind: str
    null: str = ""

    @abstractmethod
    def predict(self, x: Tensor, t: int, prompts: Sequence[str]) -> Prediction:
        """One forward: x (R, C, H, W) at level t, one prompt a row."""

    @abstractmethod
    def understand(self, prompt: str) -> str:
        """The prompt as this model knows it; refuses, with its vocabulary, what it does not know."""
