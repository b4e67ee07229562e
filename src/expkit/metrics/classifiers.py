"""The networks that read pictures, and their files.

    p(c | x) = softmax f(x)_c

Two of different make, so that one can rank pictures and the other count what is reported.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from expkit.errors import UserError, suggest
from expkit.storage import weights_io

MADE_BY = "task=train trainer=judge"
DIGITS = tuple((str(digit),) for digit in range(10))


class Classifier(nn.Module, ABC):
    """A network that tells `classes` kinds of pictures (channels, size, size) apart; these and `width` are all it is built from."""

    def __init__(self, width: int, classes: int, channels: int, size: int) -> None:
        super().__init__()
        if size < 8:
            raise UserError(f"A judge reads pictures of 8 pixels or more, and was given pictures of {size}.")
        self.width, self.classes, self.shape = width, classes, (channels, size, size)

    answer: nn.Sequential  # its last part is the linear map that reads

    @abstractmethod
    def penultimate(self, x: Tensor) -> Tensor:
        """x (N, *shape) in [0, 1] -> what the last linear map reads, (N, F)."""

    def forward(self, x: Tensor) -> Tensor:
        """x (N, *shape) in [0, 1] -> logits (N, classes)."""
        return self.answer[-1](self.penultimate(x))


class Plain(Classifier):
    """Convolutions, batch normalisation, ReLU, three poolings; one linear map reads all that is left.

    203,690 parameters for digits at width 32.
    """

    def __init__(self, width: int = 32, classes: int = 10, channels: int = 1, size: int = 28) -> None:
        super().__init__(width, classes, channels, size)
        w, left = width, (size // 8) ** 2
        self.features = nn.Sequential(
            conv_block(channels, w, 5), nn.MaxPool2d(2),
            conv_block(w, 2 * w), conv_block(2 * w, 2 * w), nn.MaxPool2d(2),
            conv_block(2 * w, 3 * w), conv_block(3 * w, 3 * w), nn.MaxPool2d(2),
        )  # fmt: skip
        self.answer = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(3 * w * left, classes))

    def penultimate(self, x: Tensor) -> Tensor:
        return self.answer[:-1](self.features(x))


def conv_block(inner: int, outer: int, side: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inner, outer, side, padding=side // 2, bias=False), nn.BatchNorm2d(outer), nn.ReLU()
    )


class Residual(Classifier):
    """h ← h + F(h) with group normalisation and SiLU, no pooling before the mean over the picture.

    170,186 parameters for digits at width 32.
    """

    def __init__(self, width: int = 32, classes: int = 10, channels: int = 1, size: int = 28) -> None:
        super().__init__(width, classes, channels, size)
        w = width
        self.enter = nn.Conv2d(channels, w, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(Block(w, w), Block(w, w), Block(w, 2 * w, stride=2), Block(2 * w, 2 * w))
        self.answer = nn.Sequential(
            nn.GroupNorm(8, 2 * w),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(2 * w, classes),
        )

    def penultimate(self, x: Tensor) -> Tensor:
        return self.answer[:-1](self.blocks(self.enter(x)))


class Strided(Classifier):
    """Convolutions that halve, batch normalisation, SiLU, h ← h + F(h) after each; one linear map reads all that is left.

    1,422,344 parameters for 200 pictograms at width 48.
    """

    def __init__(self, width: int = 48, classes: int = 10, channels: int = 1, size: int = 28) -> None:
        super().__init__(width, classes, channels, size)
        w, left = width, (size // 8) ** 2
        self.features = nn.Sequential(
            *strided_block(channels, w), *strided_block(w, 2 * w), *strided_block(2 * w, 4 * w)
        )
        self.answer = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(4 * w * left, classes))

    def penultimate(self, x: Tensor) -> Tensor:
        return self.answer[:-1](self.features(x))


def strided_block(inner: int, outer: int) -> tuple[nn.Module, nn.Module]:
    convolve = nn.Conv2d(inner, outer, 4, stride=2, padding=1, bias=False)
    return nn.Sequential(convolve, nn.BatchNorm2d(outer), nn.SiLU()), Added(outer)


class Added(nn.Module):
    """Normalised after its convolution (He et al. 2016, figure 4a)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.change = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.SiLU()
        )

    def forward(self, h: Tensor) -> Tensor:
        return h + self.change(h)


class Block(nn.Module):
    """Normalised before each convolution (He et al. 2016, figure 4e)."""

    def __init__(self, inner: int, outer: int, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(8, inner), nn.SiLU(), nn.Conv2d(inner, outer, 3, stride, 1))
        self.second = nn.Sequential(nn.GroupNorm(8, outer), nn.SiLU(), nn.Conv2d(outer, outer, 3, 1, 1))
        self.past = nn.Identity() if inner == outer else nn.Conv2d(inner, outer, 1, stride)

    def forward(self, h: Tensor) -> Tensor:
        return self.past(h) + self.second(self.first(h))


@dataclass(frozen=True)
class ClassifierSpec:
    """What a file of weights says of itself. names: of each kind that it tells apart, what it is called."""

    architecture: str
    width: int
    channels: int = 1
    size: int = 28
    names: Sequence[Sequence[str]] = DIGITS

    def network(self) -> Classifier:
        known = {kind.__name__: kind for kind in Classifier.__subclasses__()}
        if self.architecture not in known:
            hint = suggest(self.architecture, known)
            raise UserError(
                f"The weights are of a reader {self.architecture!r}, which is unknown.{hint} Known are: {', '.join(known)}."
            )
        return known[self.architecture](self.width, len(self.names), self.channels, self.size)


def save_classifier(
    path: Path, network: Classifier, names: Sequence[Sequence[str]], dtype: torch.dtype = torch.float32
) -> None:
    """Write network and Facts as one safetensors file, in one move."""
    channels, size, _ = network.shape
    weights_io.write_weights(
        path,
        network.state_dict(),
        asdict(ClassifierSpec(type(network).__name__, network.width, channels, size, names)),
        dtype,
    )


def load_classifier(path: Path, sha256: str | None = None) -> tuple[Classifier, ClassifierSpec]:
    """The reader of a file, in float32; refuses a file that is missing, damaged, or not the one whose sha256 was promised."""
    tensors, told = weights_io.read_weights(path, sha256, MADE_BY)
    try:
        facts = ClassifierSpec(**told)
        network = facts.network()
        network.load_state_dict(tensors)
    except (TypeError, RuntimeError) as error:
        raise weights_io.unreadable_error(path, error, MADE_BY) from None
    return network, facts
