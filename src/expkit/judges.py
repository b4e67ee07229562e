"""What reads a picture: a digit from near and from afar; anything else by the words that CLIP finds nearest.

    p(digit | x) = softmax f(x),    from afar: p(digit | U S x)

with S the mean over blocks of pixels, which shrinks, and U bilinear, which enlarges again. Two networks of different make read:
the first is expkit's judge, the second counts what is reported, so that nothing is chosen and counted by one and the same.

    p(prompt | x) = softmax over the prompts of tau <image(x), text(prompt)>        (Radford et al. 2021, figure 1)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expkit import devices, store
from expkit.errors import Refusal, nearest
from expkit.hub import Repository

SIDE, DIGITS, MOST_ROWS = 28, 10, 500
MADE_BY = "task=train trainer=judge"


class Reader(nn.Module, ABC):
    """A network that reads ten kinds of grey pictures; `width` is all it is built from. Refuses to be made for others."""

    def __init__(self, width: int, classes: int = DIGITS, channels: int = 1, size: int = SIDE) -> None:
        super().__init__()
        if (classes, channels, size) != (DIGITS, 1, SIDE):
            raise Refusal(
                f"The judges read {DIGITS} kinds of grey pictures of {SIDE} pixels, and were given {classes} kinds of {channels}-channel "
                f"pictures of {size}: train them on data=mnist, fashion_mnist or kmnist."
            )
        self.width = width

    answer: nn.Sequential  # its last part is the linear map that reads

    @abstractmethod
    def penultimate(self, x: Tensor) -> Tensor:
        """x (N, 1, 28, 28) in [0, 1] -> what the last linear map reads, (N, F)."""

    def forward(self, x: Tensor) -> Tensor:
        """x (N, 1, 28, 28) in [0, 1] -> logits (N, 10)."""
        return self.answer[-1](self.penultimate(x))


class Plain(Reader):
    """Convolutions, batch normalisation, ReLU, three poolings; one linear map reads the last 3×3. Width 32: 203,690 parameters."""

    def __init__(self, width: int = 32, **pictures: int) -> None:
        super().__init__(width, **pictures)
        w = width
        self.features = nn.Sequential(
            seen(1, w, 5), nn.MaxPool2d(2),
            seen(w, 2 * w), seen(2 * w, 2 * w), nn.MaxPool2d(2),
            seen(2 * w, 3 * w), seen(3 * w, 3 * w), nn.MaxPool2d(2),
        )  # fmt: skip
        self.answer = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(27 * w, DIGITS))

    def penultimate(self, x: Tensor) -> Tensor:
        return self.answer[:-1](self.features(x))


def seen(inner: int, outer: int, side: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inner, outer, side, padding=side // 2, bias=False), nn.BatchNorm2d(outer), nn.ReLU())


class Residual(Reader):
    """h ← h + F(h) with group normalisation and SiLU, no pooling before the mean over the picture. Width 32: 170,186 parameters."""

    def __init__(self, width: int = 32, **pictures: int) -> None:
        super().__init__(width, **pictures)
        w = width
        self.enter = nn.Conv2d(1, w, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(Block(w, w), Block(w, w), Block(w, 2 * w, stride=2), Block(2 * w, 2 * w))
        self.answer = nn.Sequential(nn.GroupNorm(8, 2 * w), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * w, DIGITS))

    def penultimate(self, x: Tensor) -> Tensor:
        return self.answer[:-1](self.blocks(self.enter(x)))


class Block(nn.Module):
    """Normalised before each convolution (He et al. 2016, figure 4e)."""

    def __init__(self, inner: int, outer: int, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(8, inner), nn.SiLU(), nn.Conv2d(inner, outer, 3, stride, 1))
        self.second = nn.Sequential(nn.GroupNorm(8, outer), nn.SiLU(), nn.Conv2d(outer, outer, 3, 1, 1))
        self.past = nn.Identity() if inner == outer else nn.Conv2d(inner, outer, 1, stride)

    def forward(self, h: Tensor) -> Tensor:
        return self.past(h) + self.second(self.first(h))


def shrunk(images: Tensor, times: float) -> Tensor:
    """images (N, C, H, W) as they look from `times` as far: shrunk to the nearest whole size by area, enlarged bilinearly."""
    size = [max(1, round(side / times)) for side in images.shape[-2:]]
    return F.interpolate(F.interpolate(images, size, mode="area"), images.shape[-2:], mode="bilinear", align_corners=False)


class Judging(ABC):
    """What says how likely each of its answers is for a picture.

    accuracy_from_afar: the share of known pictures that it reads right when they are shrunk by 4, None where that was not measured.
    """

    accuracy_from_afar: float | None = None

    @abstractmethod
    def answers(self, prompts: Sequence[str]) -> tuple[str, ...]:
        """What it tells apart where these are the prompts."""

    @abstractmethod
    def probabilities(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """images (N, C, H, W) in [0, 1] -> (N, len(answers)), on the pictures' device."""

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """images (N, C, H, W) in [0, 1] -> (N, F), what it sees in them before it answers, on the pictures' device."""


@dataclass(frozen=True)
class Judge(Judging):
    """A reader with the weights of one file, which must have that sha256 where one is given.

    Pictures are (N, 1, 28, 28) in [0, 1], a light digit on dark; what lies outside is read as black or white, as a screen shows it.
    Answers are on the pictures' device. Pictures of another shape, and a missing or damaged file, raise Refusal.
    """

    weights: Path
    sha256: str | None = None
    device: str = "cpu"
    accuracy_from_afar: float | None = None
    network: Reader = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        network = load(Path(self.weights), self.sha256).to(self.device).eval().requires_grad_(False)
        object.__setattr__(self, "network", network)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """The probability of each digit, (N, 10)."""
        return torch.cat([self.network(part).softmax(1) for part in self.parts(images)]).to(images.device)

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        """What its last linear map reads, (N, F)."""
        return torch.cat([self.network.penultimate(part) for part in self.parts(images)]).to(images.device)

    def parts(self, images: Tensor) -> tuple[Tensor, ...]:
        return _shown(images).to(self.device).split(MOST_ROWS)

    def read(self, images: Tensor) -> Tensor:
        """The likeliest digit of each picture, (N,)."""
        return self(images).argmax(1)

    def sees_far(self, images: Tensor, times: float = 4) -> Tensor:
        """The probability of each digit for someone `times` as far away, (N, 10)."""
        return self(shrunk(_shown(images), times))

    def answers(self, prompts: Sequence[str]) -> tuple[str, ...]:
        return tuple(map(str, range(DIGITS)))

    def probabilities(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self(images)


def _shown(images: Tensor) -> Tensor:
    if images.ndim != 4 or tuple(images.shape[1:]) != (1, SIDE, SIDE):
        raise Refusal(
            f"The judge was given pictures of shape {tuple(images.shape)}; it reads grey digits, (N, 1, {SIDE}, {SIDE}). "
            "One picture is image[None]; other pictures need a judge of their own."
        )
    return images.float().clamp(0, 1)


def first(device: str = "cpu") -> Judge:
    """expkit's judge."""
    return shipped("judge_first", device)


def second(device: str = "cpu") -> Judge:
    """The judge that counts what is reported."""
    return shipped("judge_second", device)


def shipped(name: str, device: str = "cpu") -> Judge:
    """The judge whose weights and model card ship as `name`."""
    return Judge(*store.shipped(name), device, store.card(name).get("accuracy_shrunk_by_4"))


@dataclass(frozen=True)
class CLIP(Judging):
    """CLIP of a folder or a repository of the hub; refuses weights that cannot be had.

    Pictures are (N, 3, H, W) or grey, in [0, 1], of any size; what lies outside is read as black or white. Its answers are the prompts.
    """

    weights: str = "openai/clip-vit-base-patch32"
    device: str = "auto"
    revision: str | None = None
    network: nn.Module = field(init=False, repr=False, compare=False)
    processor: object = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        from transformers import CLIPModel, CLIPProcessor

        told = {"holds": "config.json, model.safetensors", "instead": "the judges that ship, judges@model.judges=digits"}
        repository = Repository(str(self.weights), "model.judges.clip.weights", **told)
        commit = repository.revision((), self.revision)
        network = repository.load(CLIPModel, commit).to(devices.device_of(self.device)).eval().requires_grad_(False)
        object.__setattr__(self, "processor", repository.load(CLIPProcessor, commit))
        object.__setattr__(self, "network", network)

    def answers(self, prompts: Sequence[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(map(str, prompts)))

    @torch.inference_mode()
    def probabilities(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        known = list(self.answers(prompts))
        if not known:
            raise Refusal("The judge was given no prompts to tell apart: give at least one.")
        said = self.processor.tokenizer(known, padding=True, truncation=True, return_tensors="pt").to(self.network.device)
        parts = [self.network(**said, pixel_values=part).logits_per_image for part in self.seen(images).split(MOST_ROWS)]
        return torch.cat(parts).softmax(1).float().to(images.device)

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        """Its embeddings of the pictures, not normalised."""
        see, project = self.network.vision_model, self.network.visual_projection
        parts = [project(see(pixel_values=part).pooler_output) for part in self.seen(images).split(MOST_ROWS)]
        return torch.cat(parts).float().to(images.device)

    def seen(self, images: Tensor) -> Tensor:
        """Pictures as the network takes them."""
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise Refusal(f"CLIP was given pictures of shape {tuple(images.shape)}; it reads (N, 3, H, W). One picture is image[None].")
        shown = images.float().clamp(0, 1).expand(-1, 3, -1, -1)
        look = self.processor.image_processor
        return look(images=[*shown.cpu()], do_rescale=False, return_tensors="pt").pixel_values.to(self.network.device)


@dataclass(frozen=True)
class Facts:
    """What a file of weights says of itself."""

    architecture: str
    width: int

    def network(self) -> Reader:
        known = {kind.__name__: kind for kind in Reader.__subclasses__()}
        if self.architecture not in known:
            hint = nearest(self.architecture, known)
            raise Refusal(f"The weights are of a reader {self.architecture!r}, which is unknown.{hint} Known are: {', '.join(known)}.")
        return known[self.architecture](self.width)


def save(path: Path, network: Reader, dtype: torch.dtype = torch.float32) -> None:
    """Write network and Facts as one safetensors file, in one move."""
    store.write(path, network.state_dict(), asdict(Facts(type(network).__name__, network.width)), dtype)


def load(path: Path, sha256: str | None = None) -> Reader:
    """The reader of a file, in float32; refuses a file that is missing, damaged, or not the one whose sha256 was promised."""
    tensors, facts = store.read(path, sha256, MADE_BY)
    try:
        network = Facts(**facts).network()
        network.load_state_dict(tensors)
    except (TypeError, RuntimeError) as error:
        raise store.unreadable(path, error, MADE_BY) from None
    return network
