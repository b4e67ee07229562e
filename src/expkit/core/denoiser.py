"""The interface of every denoising network.

Input: noisy states at one level, and one prompt per row. Output: the network's own prediction.
"""

# A property may stand for what a base class has as an attribute.
# pyright: reportIncompatibleVariableOverride=false

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from expkit.core.schedules import Schedule


@dataclass(frozen=True, eq=False)
class Prediction:
    """The output of a network for R rows.

    Attributes:
        native: (R, C, H, W), in the parametrization that the network was trained for: eps, v, x0 or
            flow.
        variance_fraction: (R, C, H, W), the learned variance as a fraction between two log
            variances (Nichol & Dhariwal 2021, eq. 15), or None if the network learned no variance.
    """

    native: Tensor
    variance_fraction: Tensor | None = None

    def of(self, rows: slice) -> Prediction:
        """The prediction for some of the rows."""
        fraction = self.variance_fraction
        return Prediction(self.native[rows], None if fraction is None else fraction[rows])


def to_range(images: Tensor, limits: tuple[float, float]) -> Tensor:
    """Scale images from [0, 1] to a model's range `limits` = (low, high)."""
    return limits[0] + (limits[1] - limits[0]) * images


def from_range(x: Tensor, limits: tuple[float, float]) -> Tensor:
    """Scale a model's values from `limits` = (low, high) to [0, 1], clamped at both ends."""
    return ((x - limits[0]) / (limits[1] - limits[0])).clamp(0, 1)


class Denoiser(ABC):
    """A model that predicts the noise, or an equivalent quantity, in a noisy state.

    Attributes:
        shape: (C, H, W) of a state x.
        schedule: The noise schedule.
        range: (low, high), the range of the model's image values.
        prediction_type: Parametrization of the native prediction: "eps", "v", "x0" or "flow".
        device: Where the state of a run is stored.
        sample_max_value: Upper bound of the threshold in dynamic thresholding.
        can_sample: Whether it can generate from noise; a single-step denoiser cannot.
        class_prompts: The prompts of the classes that it was trained on; empty if it was trained
            without conditions, or on conditions that are not classes.
        weights: Hash or revision of the weights; "" if it has none.
        learns_variance: Whether it also predicts a variance.

    The prompt "" is the null prompt.
    """

    shape: tuple[int, int, int]
    schedule: Schedule
    range: tuple[float, float]
    prediction_type: str
    device: torch.device
    sample_max_value: float = 1.0
    can_sample: bool = True
    class_prompts: tuple[str, ...] = ()
    weights: str = ""
    learns_variance: bool = False

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the image that a state stands for: `shape`, unless the model is latent."""
        return self.shape

    @property
    def name(self) -> str:
        """Network, state shape and device: models with different names are timed separately."""
        return f"{type(self).__name__} {'×'.join(map(str, self.shape))} {self.device}"

    @abstractmethod
    def predict(self, x: Tensor, t: float, prompts: Sequence[str]) -> Prediction:
        """Run one forward pass.

        Args:
            x: (R, C + extra, H, W) at level t, with the extra channels that `concat_condition`
                adds, if any.
            t: Level of the schedule.
            prompts: R prompts, one per row.

        Returns:
            The prediction for R rows.
        """

    @abstractmethod
    def canonical_prompt(self, prompt: str) -> str:
        """The form in which the model uses a prompt.

        Raises:
            UserError: The model does not know the prompt. The text lists the prompts that it knows.
        """

    def substitutions(self, prompts: Iterable[str]) -> list[str]:
        """Notes on those prompts that the model replaces by others."""
        return []

    def prepare(self, prompts: Iterable[str]) -> None:
        """Prepare everything that a run with these prompts needs before its first forward pass.

        Raises:
            UserError: The model does not know a prompt.
        """
        for prompt in prompts:
            self.canonical_prompt(prompt)

    def check_weights(self) -> None:  # noqa: B027
        """Check the weight files without loading them.

        Raises:
            UserError: A file is damaged or belongs to another network.
        """

    def concat_condition(self, x: Tensor, pictures: Sequence[int]) -> Tensor:
        """Concatenate the network's further inputs to x as channels. Views are applied afterwards.

        Args:
            x: State (B, C, H, W).
            pictures: Index in the run of the image in each row of x.

        Returns:
            (B, C + extra, H, W); x itself if the network has no further inputs.
        """
        return x

    def encode(self, images: Tensor) -> Tensor:
        """Clean states (B, *shape) of images (B, *image_shape) in [0, 1]."""
        return to_range(images, self.range)

    def decode(self, x: Tensor) -> Tensor:
        """Images (B, *image_shape) in [0, 1] of clean states x (B, *shape)."""
        return from_range(x, self.range)

    def release(self) -> None:  # noqa: B027
        """Free the memory of the networks. They are loaded again when they are needed."""


class DenoiserWrapper(Denoiser):
    """A denoiser that delegates everything to another one, `inner`."""

    def __init__(self, inner: Denoiser) -> None:
        self.inner = inner
        self.shape, self.schedule, self.range = inner.shape, inner.schedule, inner.range
        self.prediction_type, self.device = inner.prediction_type, inner.device
        self.sample_max_value, self.can_sample = inner.sample_max_value, inner.can_sample
        self.class_prompts, self.learns_variance = inner.class_prompts, inner.learns_variance

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.inner.image_shape

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def weights(self) -> str:
        return self.inner.weights

    def predict(self, x: Tensor, t: float, prompts: Sequence[str]) -> Prediction:
        return self.inner.predict(x, t, prompts)

    def canonical_prompt(self, prompt: str) -> str:
        return self.inner.canonical_prompt(prompt)

    def substitutions(self, prompts: Iterable[str]) -> list[str]:
        return self.inner.substitutions(prompts)

    def prepare(self, prompts: Iterable[str]) -> None:
        self.inner.prepare(prompts)

    def check_weights(self) -> None:
        self.inner.check_weights()

    def concat_condition(self, x: Tensor, pictures: Sequence[int]) -> Tensor:
        return self.inner.concat_condition(x, pictures)

    def encode(self, images: Tensor) -> Tensor:
        return self.inner.encode(images)

    def decode(self, x: Tensor) -> Tensor:
        return self.inner.decode(x)

    def release(self) -> None:
        self.inner.release()


class EDM(DenoiserWrapper):
    """A network F with the preconditioning of EDM, as a denoiser (Karras et al. 2022, table 1).

        x0 = c_skip x + c_out F(c_in x, c_noise),  x = x0 + sigma · noise

        c_skip = d²/(sigma² + d²)    c_out = sigma d/sqrt(sigma² + d²)
        c_in = 1/sqrt(sigma² + d²)   c_noise = log(sigma)/4

    Args:
        network: F. Its `predict(c_in x, c_noise, prompts)` gets c_noise in place of a level, and
            answers F as `native`; its own schedule and prediction type are not used.
        schedule: With alpha = 1 at every level, such as `schedules.edm()`.
        data_deviation: d, the standard deviation of the data in the network's range.

    Raises:
        ValueError: alpha is not 1 at every level.
    """

    def __init__(self, network: Denoiser, schedule: Schedule, data_deviation: float = 0.5) -> None:
        super().__init__(network)
        if not schedule.explodes:
            raise ValueError("EDM adds noise to the whole image: it needs alpha = 1 at every level")
        self.schedule, self.prediction_type = schedule, "x0"
        self.data_deviation, self.learns_variance = data_deviation, False

    def predict(self, x: Tensor, t: float, prompts: Sequence[str]) -> Prediction:
        _, sigma = self.schedule.at(t)
        deviation = math.hypot(sigma, self.data_deviation)
        skip, out = (self.data_deviation / deviation) ** 2, sigma * self.data_deviation / deviation
        answer = self.inner.predict(x / deviation, math.log(sigma) / 4, prompts).native
        return Prediction(skip * x + out * answer)


class Counting(DenoiserWrapper):
    """Records the rows of each forward pass in `rows`, and the total time in `seconds`."""

    def __init__(self, inner: Denoiser) -> None:
        super().__init__(inner)
        self.rows: list[int] = []
        self.seconds = 0.0

    def predict(self, x: Tensor, t: float, prompts: Sequence[str]) -> Prediction:
        self.rows.append(len(x))
        start = time.perf_counter()
        prediction = self.inner.predict(x, t, prompts)
        self.seconds += time.perf_counter() - start
        return prediction


class ChunkedRows(DenoiserWrapper):
    """Splits a forward pass into chunks of at most `max_rows` rows, to limit memory."""

    def __init__(self, inner: Denoiser, max_rows: int) -> None:
        super().__init__(inner)
        self.max_rows = max_rows

    def predict(self, x: Tensor, t: float, prompts: Sequence[str]) -> Prediction:
        starts = range(0, len(x), self.max_rows)
        chunks = [slice(start, start + self.max_rows) for start in starts]
        parts = [self.inner.predict(x[chunk], t, prompts[chunk]) for chunk in chunks]
        native = torch.cat([part.native for part in parts])
        fractions = [part.variance_fraction for part in parts if part.variance_fraction is not None]
        return Prediction(native, torch.cat(fractions) if fractions else None)


def limit_rows(model: Denoiser, max_rows: int | None) -> Denoiser:
    """The model, with at most `max_rows` rows in one forward pass; None: no limit."""
    return ChunkedRows(model, max_rows) if max_rows else model
