"""The classifier networks of judges, and their files.

    p(c | x) = softmax f(x)_c

There are different architectures, so that one judge can rank images and another one, of a different
architecture, can count what is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from expkit.errors import UserError, suggest
from expkit.storage import weights_io

MADE_BY = "task=train trainer=judge"
DIGITS = tuple((str(digit),) for digit in range(10))


class Classifier(nn.Module):
    """A network that classifies images (channels, size, size) into `classes` classes.

    These numbers and `width` are all that it is built from.

    Raises:
        UserError: the images have fewer than 8 pixels a side.
    """

    def __init__(self, width: int, classes: int, channels: int, size: int) -> None:
        super().__init__()
        if size < 8:
            raise UserError(
                "A judge reads pictures of 8 pixels or more, "
                f"and was given pictures of {size}."
            )  # fmt: skip
        self.width = width
        self.classes = classes
        self.shape = (channels, size, size)

    features: nn.Sequential
    answer: nn.Sequential  # its last module is the linear layer that gives the logits

    def penultimate(self, x: Tensor) -> Tensor:
        """x (N, *shape) in [0, 1] -> the input of the last linear layer, (N, F)."""
        return self.answer[:-1](self.features(x))

    def forward(self, x: Tensor) -> Tensor:
        """x (N, *shape) in [0, 1] -> logits (N, classes)."""
        return self.answer[-1](self.penultimate(x))


class PlainClassifier(Classifier):
    """Convolutions with batch normalization and ReLU, three poolings, and one linear layer.

    It has 203,690 parameters for digits at width 32.

    Args:
        width: channels of the first layer.
        classes: number of classes.
        channels: channels of the images.
        size: side of the images in pixels, 8 or more.
    """

    def __init__(
        self,
        width: int = 32,
        classes: int = 10,
        channels: int = 1,
        size: int = 28,
    ) -> None:
        super().__init__(width, classes, channels, size)
        positions = (size // 8) ** 2
        self.features = nn.Sequential(
            conv_block(channels, width, 5), nn.MaxPool2d(2),
            conv_block(width, 2 * width), conv_block(2 * width, 2 * width), nn.MaxPool2d(2),
            conv_block(2 * width, 3 * width), conv_block(3 * width, 3 * width), nn.MaxPool2d(2),
        )  # fmt: skip
        linear = nn.Linear(3 * width * positions, classes)
        self.answer = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), linear)


def conv_block(inner: int, outer: int, side: int = 3) -> nn.Sequential:
    convolution = nn.Conv2d(inner, outer, side, padding=side // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outer), nn.ReLU())


class ResidualClassifier(Classifier):
    """Residual blocks h ← h + F(h) with group normalization and SiLU, then the mean over positions.

    It has no other pooling, and 170,186 parameters for digits at width 32. For the arguments see
    `PlainClassifier`.
    """

    def __init__(
        self,
        width: int = 32,
        classes: int = 10,
        channels: int = 1,
        size: int = 28,
    ) -> None:
        super().__init__(width, classes, channels, size)
        self.enter = nn.Conv2d(channels, width, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(
            Block(width, width),
            Block(width, width),
            Block(width, 2 * width, stride=2),
            Block(2 * width, 2 * width),
        )
        self.answer = nn.Sequential(
            nn.GroupNorm(8, 2 * width),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(2 * width, classes),
        )

    def penultimate(self, x: Tensor) -> Tensor:
        return self.answer[:-1](self.blocks(self.enter(x)))


class StridedClassifier(Classifier):
    """Three strided convolutions, each with a residual block h ← h + F(h), and one linear layer.

    With batch normalization and SiLU. It has 1,422,344 parameters for 200 pictograms at width 48.
    For the arguments see `PlainClassifier`.
    """

    def __init__(
        self,
        width: int = 48,
        classes: int = 10,
        channels: int = 1,
        size: int = 28,
    ) -> None:
        super().__init__(width, classes, channels, size)
        positions = (size // 8) ** 2
        self.features = nn.Sequential(
            *strided_block(channels, width),
            *strided_block(width, 2 * width),
            *strided_block(2 * width, 4 * width),
        )
        linear = nn.Linear(4 * width * positions, classes)
        self.answer = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), linear)


def strided_block(inner: int, outer: int) -> tuple[nn.Module, nn.Module]:
    """A convolution that halves the side, and a residual block."""
    convolution = nn.Conv2d(inner, outer, 4, stride=2, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outer), nn.SiLU()), Added(outer)


class Added(nn.Module):
    """A residual block with normalization after its convolution (He et al. 2016, figure 4a)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.change = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.SiLU()
        )

    def forward(self, h: Tensor) -> Tensor:
        return h + self.change(h)


class Block(nn.Module):
    """A residual block with normalization before each convolution (He et al. 2016, figure 4e)."""

    def __init__(self, inner: int, outer: int, stride: int = 1) -> None:
        super().__init__()
        first = nn.Conv2d(inner, outer, 3, stride, 1)
        self.first = nn.Sequential(nn.GroupNorm(8, inner), nn.SiLU(), first)
        second = nn.Conv2d(outer, outer, 3, 1, 1)
        self.second = nn.Sequential(nn.GroupNorm(8, outer), nn.SiLU(), second)
        self.past = nn.Identity() if inner == outer else nn.Conv2d(inner, outer, 1, stride)

    def forward(self, h: Tensor) -> Tensor:
        return self.past(h) + self.second(self.first(h))


@dataclass(frozen=True)
class ClassifierSpec:
    """The description in a file of weights.

    Attributes:
        architecture: The name of the network's class without "Classifier".
        width, channels, size: Arguments of the network.
        names: All names of each class, its main name first.
    """

    architecture: str
    width: int
    channels: int = 1
    size: int = 28
    names: Sequence[Sequence[str]] = DIGITS

    def network(self) -> Classifier:
        """A network of this description, with random weights."""
        architectures = {architecture_of(cls): cls for cls in Classifier.__subclasses__()}
        if self.architecture not in architectures:
            hint = suggest(self.architecture, architectures)
            raise UserError(
                f"The weights are of a reader {self.architecture!r}, which is unknown.{hint} "
                f"Known are: {', '.join(architectures)}."
            )
        architecture = architectures[self.architecture]
        return architecture(self.width, len(self.names), self.channels, self.size)


def architecture_of(network: type[Classifier]) -> str:
    """The name of an architecture in files of weights."""
    return network.__name__.removesuffix("Classifier")


def save_classifier(
    path: Path,
    network: Classifier,
    names: Sequence[Sequence[str]],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a network and its `ClassifierSpec` as one safetensors file, atomically."""
    channels, size, _ = network.shape
    architecture = architecture_of(type(network))
    spec = ClassifierSpec(architecture, network.width, channels, size, names)
    weights_io.write_weights(path, network.state_dict(), asdict(spec), dtype)


def load_classifier(path: Path, sha256: str | None = None) -> tuple[Classifier, ClassifierSpec]:
    """Load a network that `save_classifier` has written, in float32, and its description.

    Raises:
        UserError: the file is missing or damaged, or its sha256 is not the expected one.
    """
    tensors, facts = weights_io.read_weights(path, sha256, MADE_BY)
    try:
        spec = ClassifierSpec(**facts)
        network = spec.network()
        network.load_state_dict(tensors)
    except (TypeError, RuntimeError) as error:
        raise weights_io.unreadable_weights_error(path, error, MADE_BY) from None
    return network, spec
