"""The contract every network is wrapped into: pictures at a level, and one prompt a row, in; the network's own answer out."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from expkit.core.schedules import Schedule


@dataclass(frozen=True, eq=False)
class Prediction:
    """A network's answer.

    native: (R, C, H, W), in the kind the network was trained for (eps, v, x0, flow).
    frac: (R, C, H, W) or None, the learned variance as a fraction between two log variances (Nichol & Dhariwal 2021, eq. 15).
    """

    native: Tensor
    variance_fraction: Tensor | None = None


def to_range(images: Tensor, limits: tuple[float, float]) -> Tensor:
    """Pictures in [0, 1] as a model's values in [low, high]."""
    return limits[0] + (limits[1] - limits[0]) * images


def from_range(x: Tensor, limits: tuple[float, float]) -> Tensor:
    """A model's values in [low, high] as pictures in [0, 1], cut off at both ends."""
    return ((x - limits[0]) / (limits[1] - limits[0])).clamp(0, 1)


class Denoiser(ABC):
    """Something that answers.

    shape: (C, H, W) of the state x; pictured: (C, H, W) of the pictures it stands for, the same unless the model is latent;
    schedule: its noise schedule; range: (low, high) of its pictures' values;
    prediction_type: what its native answer is, one of eps, v, x0, flow;
    threshold: the largest bound of dynamic thresholding; device: where the state of a run lives; generates: whether it can start from
    noise, which a single-step denoiser cannot. "" is the null prompt.
    classes: the prompts of the classes that it was told in training, none where it was told none, or something else.
    weights: a hash of its weights, or their revision; nothing where it has none. learned: whether it answers a variance too.
    """

    shape: tuple[int, int, int]
    schedule: Schedule
    range: tuple[float, float]
    prediction_type: str
    device: torch.device
    sample_max_value: float = 1.0
    can_sample: bool = True
    classes: tuple[str, ...] = ()
    weights: str = ""
    learned: bool = False

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the pictures that a state stands for: the state's own shape, unless the model is latent."""
        return self.shape

    @property
    def name(self) -> str:
        """What tells its speed from another's: which network, of which pictures, where."""
        return f"{type(self).__name__} {'×'.join(map(str, self.shape))} {self.device}"

    @abstractmethod
    def predict(self, x: Tensor, t: float, prompts: Sequence[str]) -> Prediction:
        """One forward: x (R, C, H, W) at level t, one prompt a row, with what `beside` joined to it."""

    @abstractmethod
    def canonical_prompt(self, prompt: str) -> str:
        """The prompt as this model knows it; refuses, with its vocabulary, what it does not know."""

    def taken(self, prompts: Iterable[str]) -> list[str]:
        """What of these prompts is taken for something else than it says."""
        return []

    def prepare(self, prompts: Iterable[str]) -> None:
        """Everything that a run with these prompts needs before its first forward; refuses what is not known."""
        for prompt in prompts:
            self.canonical_prompt(prompt)

    def check_weights(self) -> None:  # noqa: B027
        """Refuse files of weights that are damaged or another network's, without loading them."""

    def beside(self, x: Tensor, pictures: Sequence[int]) -> Tensor:
        """x (B, C, H, W) of these pictures of the run, with what else the network looks at joined as channels, before any view."""
        return x

    def encode(self, images: Tensor) -> Tensor:
        """Pictures (B, *pictured) in [0, 1] as clean states (B, *shape)."""
        return to_range(images, self.range)

    def decode(self, x: Tensor) -> Tensor:
        """Clean states (B, *shape) as pictures (B, *pictured) in [0, 1]."""
        return from_range(x, self.range)

    def release(self) -> None:  # noqa: B027
        """Give back the memory that its networks hold; they are loaded again when they are needed."""


class DenoiserWrapper(Denoiser):
    """A denoiser around another, which answers for it."""

    def __init__(self, inner: Denoiser) -> None:
        self.inner, self.shape, self.schedule = inner, inner.shape, inner.schedule
        self.range, self.prediction_type, self.device, self.sample_max_value = (
            inner.range,
            inner.prediction_type,
            inner.device,
            inner.sample_max_value,
        )
        self.can_sample = inner.can_sample
        self.classes, self.learned = inner.classes, inner.learned

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.inner.image_shape

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def weights(self) -> str:
        return self.inner.weights

    def predict(self, x: Tensor, t: int, prompts: Sequence[str]) -> Prediction:
        return self.inner.predict(x, t, prompts)

    def canonical_prompt(self, prompt: str) -> str:
        return self.inner.canonical_prompt(prompt)

    def taken(self, prompts: Iterable[str]) -> list[str]:
        return self.inner.taken(prompts)

    def prepare(self, prompts: Iterable[str]) -> None:
        self.inner.prepare(prompts)

    def check_weights(self) -> None:
        self.inner.check_weights()

    def beside(self, x: Tensor, pictures: Sequence[int]) -> Tensor:
        return self.inner.beside(x, pictures)

    def encode(self, images: Tensor) -> Tensor:
        return self.inner.encode(images)

    def decode(self, x: Tensor) -> Tensor:
        return self.inner.decode(x)

    def release(self) -> None:
        self.inner.release()


class Counting(DenoiserWrapper):
    """Counts: `rows` has the rows of each forward, `seconds` the time spent in them."""

    def __init__(self, inner: Denoiser) -> None:
        super().__init__(inner)
        self.rows: list[int] = []
        self.seconds = 0.0

    def predict(self, x: Tensor, t: int, prompts: Sequence[str]) -> Prediction:
        self.rows.append(len(x))
        began = time.perf_counter()
        answer = self.inner.predict(x, t, prompts)
        self.seconds += time.perf_counter() - began
        return answer


class ChunkedRows(DenoiserWrapper):
    """Asks at most `most` rows at a time, for memory: model.max_rows."""

    def __init__(self, inner: Denoiser, most: int) -> None:
        super().__init__(inner)
        self.most = most

    def predict(self, x: Tensor, t: int, prompts: Sequence[str]) -> Prediction:
        cuts = range(0, len(x), self.most)
        answers = [self.inner.predict(x[i : i + self.most], t, prompts[i : i + self.most]) for i in cuts]
        fracs = [a.variance_fraction for a in answers if a.variance_fraction is not None]
        return Prediction(torch.cat([a.native for a in answers]), torch.cat(fracs) if fracs else None)
