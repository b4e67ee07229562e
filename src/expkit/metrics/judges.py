"""What reads a picture: a digit or a pictogram from near and from afar; anything else by the words that CLIP finds nearest.

    p(thing | x) = softmax f(x),    from afar: p(thing | U S x)

with S the mean over blocks of pixels, which shrinks, and U bilinear, which enlarges again. Two networks of different make read:
the first is expkit's judge, the second counts what is reported, so that nothing is chosen and counted by one and the same.

    p(prompt | x) = softmax over the prompts of <image(x), text(prompt)> / tau        (Radford et al. 2021, figure 1)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expkit.errors import UserError
from expkit.metrics import classifiers
from expkit.metrics.classifiers import Classifier
from expkit.storage import devices, weights_io
from expkit.storage.hub import Repository
from expkit.text import caption_grammar

MOST_ROWS = 500


def downsample_and_restore(images: Tensor, times: float) -> Tensor:
    """images (N, C, H, W) as they look from `times` as far: shrunk to the nearest whole size by area, enlarged bilinearly."""
    size = [max(1, round(side / times)) for side in images.shape[-2:]]
    return F.interpolate(
        F.interpolate(images, size, mode="area"), images.shape[-2:], mode="bilinear", align_corners=False
    )


class JudgeScores(NamedTuple):
    """How likely each answer is, (N, A), and how well each fits, (N, A), which is comparable between pictures too."""

    probabilities: Tensor
    scores: Tensor


class Judge(ABC):
    """What says how likely each of its answers is for a picture.

    distance: the farthest, in times as far, from which it reads 95 % of ordinary pictures that it has not seen; None where not measured.
    temperature: of its scores, by which a softmax over them divides: softmax(scores / temperature).
    """

    distance: float | None = None
    temperature: float = 1.0

    @abstractmethod
    def answers(self, prompts: Sequence[str]) -> tuple[str, ...]:
        """What it tells apart where these are the prompts."""

    def meant(self, prompt: str) -> str | None:
        """Which of its answers a prompt asks for, None where it has no such answer."""
        return prompt

    @abstractmethod
    def probabilities(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """images (N, C, H, W) in [0, 1] -> (N, len(answers)), on the pictures' device."""

    def evaluate(self, images: Tensor, prompts: Sequence[str]) -> JudgeScores:
        """images (N, C, H, W) in [0, 1]: probabilities and scores of all answers. Of a classifier a score is log p, at temperature 1.

        Probabilities that are zero in their precision count as the smallest number that it has: log p is -87 or more in float32.
        """
        probabilities = self.probabilities(images, prompts)
        return JudgeScores(
            probabilities, probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()
        )

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """images (N, C, H, W) in [0, 1] -> (N, F), what it sees in them before it answers, on the pictures' device."""


@dataclass(frozen=True)
class ClassifierJudge(Judge):
    """A reader with the weights of one file, which must have that sha256 where one is given.

    Pictures are (N, *shape) in [0, 1], as it was trained on; what lies outside is read as black or white, as a screen shows it.
    Answers are on the pictures' device. Pictures of another shape, and a missing or damaged file, raise UserError.
    """

    weights: Path
    sha256: str | None = None
    device: str = "cpu"
    distance: float | None = None
    network: Classifier = field(init=False, repr=False, compare=False)
    called: Mapping[str, str] = field(
        init=False, repr=False, compare=False
    )  # what its answers are called: {name: answer}

    def __post_init__(self) -> None:
        network, facts = classifiers.load_classifier(Path(self.weights), self.sha256)
        object.__setattr__(self, "network", network.to(self.device).eval().requires_grad_(False))
        object.__setattr__(self, "called", {other: names[0] for names in facts.names for other in names})

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """The probability of each answer, (N, A)."""
        return torch.cat([self.network(part).softmax(1) for part in self.parts(images)]).to(images.device)

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        """What its last linear map reads, (N, F)."""
        return torch.cat([self.network.penultimate(part) for part in self.parts(images)]).to(images.device)

    def parts(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.shown(images).to(self.device).split(MOST_ROWS)

    def shown(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or tuple(images.shape[1:]) != self.network.shape:
            raise UserError(
                f"The judge was given pictures of shape {tuple(images.shape)}; it reads (N, {', '.join(map(str, self.network.shape))}). "
                "One picture is image[None]; other pictures need a judge of their own."
            )
        return images.float().clamp(0, 1)

    def read(self, images: Tensor) -> Tensor:
        """The likeliest answer of each picture, (N,)."""
        return self(images).argmax(1)

    def sees_far(self, images: Tensor, times: float = 4) -> Tensor:
        """The probability of each answer for someone `times` as far away, (N, A)."""
        return self(downsample_and_restore(self.shown(images), times))

    def answers(self, prompts: Sequence[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.called.values()))

    def meant(self, prompt: str) -> str | None:
        """The thing that a prompt names, however it is to be shown: a skull of "a soft picture of a skull in grey"."""
        said = caption_grammar.normalize_text(prompt)
        return self.called.get(said) or (
            self.called.get(caption_grammar.parse_caption(said, self.called).thing) if said else None
        )

    def probabilities(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self(images)


def first(device: str = "cpu") -> ClassifierJudge:
    """expkit's judge."""
    return shipped("judge_first", device)


def second(device: str = "cpu") -> ClassifierJudge:
    """The judge that counts what is reported."""
    return shipped("judge_second", device)


def shipped(name: str, device: str = "cpu") -> ClassifierJudge:
    """The judge whose weights and model card ship as `name`."""
    return ClassifierJudge(*weights_io.shipped_weights(name), device, distance_of(name))


def distance_of(name: str) -> float | None:
    """From how many times as far the judge that ships as `name` still reads 95 % of ordinary pictures: of its model card."""
    return weights_io.model_card(name).get("reads_to", {}).get("times")


def calibrated(
    judge: ClassifierJudge, images: Tensor, labels: Tensor, wanted: float = 0.95
) -> tuple[int, float]:
    """The smallest side, in pixels, to which ordinary pictures can be shrunk so that this share of them is read right, and the share there.

    images (N, C, H, W) in [0, 1]; labels (N,). It is taken that no smaller size is read better; the full side counts whatever is read.
    """
    side = images.shape[-1]
    share = lambda size: (judge.sees_far(images, side / size).argmax(1) == labels).double().mean().item()
    least, most = 4, side
    while least < most:
        size = (least + most) // 2
        least, most = (least, size) if share(size) >= wanted else (size + 1, most)
    return most, share(most)


@dataclass(frozen=True)
class CLIP(Judge):
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

        told = {
            "holds": "config.json, model.safetensors",
            "instead": "the judges that ship, judges@model.judges=digits",
        }
        repository = Repository(str(self.weights), "model.judges.clip.weights", **told)
        commit = repository.revision((), self.revision)
        network = (
            repository.load(CLIPModel, commit).to(devices.device_of(self.device)).eval().requires_grad_(False)
        )
        object.__setattr__(self, "processor", repository.load(CLIPProcessor, commit))
        object.__setattr__(self, "network", network)

    def answers(self, prompts: Sequence[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(map(str, prompts)))

    @property
    def temperature(self) -> float:
        """By which its cosines are divided before the softmax; CLIP learns it, and it is 0.01 in all that were published."""
        return float(torch.exp(-self.network.logit_scale.double()))

    def probabilities(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.evaluate(images, prompts).probabilities

    @torch.inference_mode()
    def evaluate(self, images: Tensor, prompts: Sequence[str]) -> JudgeScores:
        """Its scores are cosines between pictures and prompts."""
        known = list(self.answers(prompts))
        if not known:
            raise UserError("The judge was given no prompts to tell apart: give at least one.")
        said = self.processor.tokenizer(known, padding=True, truncation=True, return_tensors="pt").to(
            self.network.device
        )
        parts = [
            self.network(**said, pixel_values=part).logits_per_image
            for part in self.seen(images).split(MOST_ROWS)
        ]
        logits = torch.cat(parts)
        return JudgeScores(
            logits.softmax(1).float().to(images.device), (self.temperature * logits).float().to(images.device)
        )

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        """Its embeddings of the pictures, not normalised."""
        see, project = self.network.vision_model, self.network.visual_projection
        parts = [project(see(pixel_values=part).pooler_output) for part in self.seen(images).split(MOST_ROWS)]
        return torch.cat(parts).float().to(images.device)

    def seen(self, images: Tensor) -> Tensor:
        """Pictures as the network takes them."""
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise UserError(
                f"CLIP was given pictures of shape {tuple(images.shape)}; it reads (N, 3, H, W). One picture is image[None]."
            )
        shown = images.float().clamp(0, 1).expand(-1, 3, -1, -1)
        look = self.processor.image_processor
        return look(images=[*shown.cpu()], do_rescale=False, return_tensors="pt").pixel_values.to(
            self.network.device
        )
