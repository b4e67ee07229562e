"""Judges: classifiers of digits and pictograms, from near and afar, and CLIP for anything else.

    p(class | x) = softmax f(x);    from afar: p(class | U S x)

S downsamples by averaging blocks of pixels, U upsamples bilinearly. There are two networks of
different architectures: the first is expkit's judge, the second counts the reported results. So
results are never chosen and counted by the same network.

    p(prompt | x) = softmax over the prompts of <image(x), text(prompt)> / tau
                                                                 (Radford et al. 2021, figure 1)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from expkit.errors import UserError
from expkit.metrics import classifiers
from expkit.metrics.classifiers import Classifier
from expkit.metrics.fidelity import MOST_ROWS
from expkit.storage import devices, weights_io
from expkit.storage.hub import Repository
from expkit.text import caption_grammar


def downsample_and_restore(images: Tensor, times: float) -> Tensor:
    """Images (N, C, H, W) as they look from `times` as far away.

    They are downsampled by area to the nearest whole size, and upsampled bilinearly.
    """
    size = [max(1, round(side / times)) for side in images.shape[-2:]]
    small = F.interpolate(images, size, mode="area")
    return F.interpolate(small, images.shape[-2:], mode="bilinear", align_corners=False)


class JudgeScores(NamedTuple):
    """The probability of each answer, (N, A), and its score, (N, A).

    Unlike probabilities, scores can also be compared between images.
    """

    probabilities: Tensor
    scores: Tensor


class Judge(ABC):
    """A judge gives the probability of each of its answers for an image.

    Attributes:
        distance: the largest factor of distance from which it classifies 95 % of ordinary, unseen
            images correctly; None if not measured.
        temperature: of its scores: probabilities are softmax(scores / temperature).
    """

    distance: float | None = None
    temperature: float = 1.0

    @abstractmethod
    def answers(self, prompts: Sequence[str]) -> tuple[str, ...]:
        """The answers among which it chooses when the prompts are these."""

    def answer_for(self, prompt: str) -> str | None:
        """The answer that a prompt asks for; None if the judge has no such answer."""
        return prompt

    @abstractmethod
    def probabilities(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """images (N, C, H, W) in [0, 1] -> (N, len(answers)), on the device of the images."""

    def evaluate(self, images: Tensor, prompts: Sequence[str]) -> JudgeScores:
        """Probabilities and scores of all answers for images (N, C, H, W) in [0, 1].

        The score of a classifier is log p, with temperature 1. A probability that is rounded to
        zero is replaced by the smallest normal number of its precision: log p is -87.4 or
        more in float32.
        """
        probabilities = self.probabilities(images, prompts)
        smallest = torch.finfo(probabilities.dtype).tiny
        return JudgeScores(probabilities, probabilities.clamp(min=smallest).log())

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """The features from which the judge computes its answers.

        images (N, C, H, W) in [0, 1] -> (N, F), on the device of the images.
        """


@dataclass(frozen=True)
class ClassifierJudge(Judge):
    """A classifier with the weights of one file.

    Images are (N, *shape) in [0, 1], of the shape it was trained on; values outside [0, 1] are
    clamped, as a screen does. Results are on the device of the images.

    Args:
        weights: the file of weights.
        sha256: the expected hash of the file; None: not checked.
        device: the device of the network.
        distance: see `Judge`.

    Raises:
        UserError: the file is missing or damaged, or, in a call, the images have another shape.
    """

    weights: Path
    sha256: str | None = None
    device: str = "cpu"
    distance: float | None = None
    network: Classifier = field(init=False, repr=False, compare=False)
    # all names of its answers: {name: answer}
    answer_by_name: Mapping[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        network, spec = classifiers.load_classifier(Path(self.weights), self.sha256)
        answers = {name: names[0] for names in spec.names for name in names}
        object.__setattr__(self, "network", network.to(self.device).eval().requires_grad_(False))
        object.__setattr__(self, "answer_by_name", answers)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """The probability of each answer, (N, A)."""
        probabilities = [self.network(chunk).softmax(1) for chunk in self.parts(images)]
        return torch.cat(probabilities).to(images.device)

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        """The input of its last linear layer, (N, F)."""
        features = [self.network.penultimate(chunk) for chunk in self.parts(images)]
        return torch.cat(features).to(images.device)

    def parts(self, images: Tensor) -> tuple[Tensor, ...]:
        """The images in chunks, as the network reads them, on its device."""
        return self.prepare(images).to(self.device).split(MOST_ROWS)

    def prepare(self, images: Tensor) -> Tensor:
        """The images as float32 in [0, 1]; refuses another shape."""
        if images.ndim != 4 or tuple(images.shape[1:]) != self.network.shape:
            shape = ", ".join(map(str, self.network.shape))
            raise UserError(
                f"The judge was given pictures of shape {tuple(images.shape)}; "
                f"it reads (N, {shape}). "
                "One picture is image[None]; other pictures need a judge of their own."
            )
        return images.float().clamp(0, 1)

    def read(self, images: Tensor) -> Tensor:
        """The index of the most likely answer for each image, (N,)."""
        return self(images).argmax(1)

    def sees_far(self, images: Tensor, times: float = 4) -> Tensor:
        """The probability of each answer from `times` as far away, (N, A)."""
        return self(downsample_and_restore(self.prepare(images), times))

    def answers(self, prompts: Sequence[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.answer_by_name.values()))

    def answer_for(self, prompt: str) -> str | None:
        """The concept that a prompt names, in whatever style it asks for it.

        It is "skull" for "a soft picture of a skull in grey".
        """
        text = caption_grammar.normalize_text(prompt)
        answer = self.answer_by_name.get(text)
        if answer:
            return answer
        if not text:
            return None
        thing = caption_grammar.parse_caption(text, self.answer_by_name).thing
        return self.answer_by_name.get(thing)

    def probabilities(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self(images)


def first_digit_judge(device: str = "cpu") -> ClassifierJudge:
    """expkit's judge of digits, the one that ranks images."""
    return shipped_judge("judge_first", device)


def second_digit_judge(device: str = "cpu") -> ClassifierJudge:
    """The judge of digits that counts the reported results."""
    return shipped_judge("judge_second", device)


def shipped_judge(name: str, device: str = "cpu") -> ClassifierJudge:
    """The judge whose weights and model card ship with expkit under this name.

    Raises:
        UserError: the weights or the model card are missing or damaged.
    """
    path, sha256 = weights_io.shipped_weights(name)
    return ClassifierJudge(path, sha256, device, judge_distance(name))


def judge_distance(name: str) -> float | None:
    """The `Judge.distance` on the model card of the judge that ships under this name.

    It is the factor of distance from which the judge still classifies 95 % of ordinary images
    correctly; None if the card has none.
    """
    return weights_io.model_card(name).get("reads_to", {}).get("times")


def calibrated(
    judge: ClassifierJudge,
    images: Tensor,
    labels: Tensor,
    wanted: float = 0.95,
) -> tuple[int, float]:
    """The smallest side to which images can be downsampled and are still classified correctly.

    The bisection assumes that accuracy does not rise as the size falls. The full side is returned
    if no smaller one is good enough, whatever its accuracy.

    Args:
        images: ordinary images (N, C, H, W) in [0, 1].
        labels: (N,).
        wanted: the share of images that must be classified correctly.

    Returns:
        The side in pixels, 4 or more, and the accuracy at it.
    """
    side = images.shape[-1]

    def accuracy(size: int) -> float:
        predictions = judge.sees_far(images, side / size).argmax(1)
        return (predictions == labels).double().mean().item()

    low, high = 4, side
    while low < high:
        size = (low + high) // 2
        if accuracy(size) >= wanted:
            high = size
        else:
            low = size + 1
    return high, accuracy(high)


@dataclass(frozen=True)
class CLIP(Judge):
    """CLIP or SigLIP as a judge: its answers are the prompts, its scores are cosines.

    CLIP: Radford et al. 2021. SigLIP (Zhai et al. 2023) is trained with a sigmoid for each pair; the
    probabilities are the softmax over the prompts all the same, as one of them is to be read.

    Images are (N, 3, H, W) or (N, 1, H, W) in [0, 1], of any size; values outside [0, 1] are
    clamped.

    Args:
        weights: a folder, or a repository on huggingface.co.
        device: the device of the network; "auto" chooses one.
        revision: the revision of the repository; None: the cached or the newest one.

    Raises:
        UserError: the weights cannot be loaded.
    """

    weights: str = "openai/clip-vit-base-patch32"
    device: str = "auto"
    revision: str | None = None
    network: Any = field(init=False, repr=False, compare=False)  # a CLIPModel or SiglipModel
    processor: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        from transformers import AutoModel, AutoProcessor

        repository = Repository(
            str(self.weights),
            "model.judges.clip.weights",
            holds="config.json, model.safetensors",
            instead="the judges that ship, judges@model.judges=digits",
        )
        commit = repository.revision((), self.revision)
        network = repository.load(AutoModel, commit).to(devices.device_of(self.device))
        network = network.eval().requires_grad_(False)
        if not hasattr(network, "logit_scale"):
            raise UserError(
                f"{self.weights} holds a {type(network).__name__}, which does not compare pictures and "
                "texts: give a CLIP or SigLIP, such as google/siglip-base-patch16-224."
            )
        object.__setattr__(self, "processor", repository.load(AutoProcessor, commit))
        object.__setattr__(self, "network", network)

    def answers(self, prompts: Sequence[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(map(str, prompts)))

    @property
    def temperature(self) -> float:
        """By which cosines are divided before the softmax.

        CLIP learns it; it is 0.01 in all published models.
        """
        return float(torch.exp(-self.network.logit_scale.double()))

    @property
    def bias(self) -> Tensor | None:
        """What SigLIP adds to its logits; None for CLIP."""
        return getattr(self.network, "logit_bias", None)

    def probabilities(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.evaluate(images, prompts).probabilities

    @torch.inference_mode()
    def evaluate(self, images: Tensor, prompts: Sequence[str]) -> JudgeScores:
        """Probabilities, and scores, which are the cosines between images and prompts."""
        answers = list(self.answers(prompts))
        if not answers:
            raise UserError("The judge was given no prompts to tell apart: give at least one.")
        tokenizer = self.processor.tokenizer
        padding = True if self.bias is None else "max_length"  # as each was trained
        tokens = tokenizer(answers, padding=padding, truncation=True, return_tensors="pt")
        tokens = tokens.to(self.network.device)
        logits = [
            self.network(**tokens, pixel_values=chunk).logits_per_image
            for chunk in self.prepare(images).split(MOST_ROWS)
        ]
        logits = torch.cat(logits)
        probabilities = logits.softmax(1).float().to(images.device)
        cosines = self.temperature * (logits if self.bias is None else logits - self.bias)
        return JudgeScores(probabilities, cosines.float().to(images.device))

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        """Its embeddings of the images, not normalized."""
        encode = self.network.get_image_features
        chunks = self.prepare(images).split(MOST_ROWS)
        features = [encode(pixel_values=chunk).pooler_output for chunk in chunks]
        return torch.cat(features).float().to(images.device)

    def prepare(self, images: Tensor) -> Tensor:
        """The images as CLIP's image processor prepares them for the network."""
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise UserError(
                f"CLIP was given pictures of shape {tuple(images.shape)}; it reads (N, 3, H, W). "
                "One picture is image[None]."
            )
        rgb = [*images.float().clamp(0, 1).expand(-1, 3, -1, -1).cpu()]
        process = self.processor.image_processor
        pixel_values = process(images=rgb, do_rescale=False, return_tensors="pt").pixel_values
        return pixel_values.to(self.network.device)
