"""The numbers of task=evaluate: how judges read a set of pictures, how close it is to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from expkit.errors import UserError
from expkit.metrics import fidelity
from expkit.metrics.judges import Judge

LEAST = 0.5  # a judge with a lower accuracy on the test pictures is refused


class JudgedSet(NamedTuple):
    """A set of pictures as the judges read it.

    Attributes:
        images: uint8 (N, C, H, W).
        labels: the class of each picture, (N,).
        features: of the judge that counts, (N, F).
        answers: {judge: the class that it reads, (N,)}.
    """

    images: Tensor
    labels: Tensor
    features: Tensor
    answers: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Panel:
    """Judges that distinguish the classes of a data set.

    The last judge counts: distances are in its features.

    Args:
        judges: {name: Judge}.
        names: the names of the classes.
        inception: a file with Inception's weights, for FID, or None.

    Raises:
        UserError: a judge distinguishes another number of classes.
    """

    judges: Mapping[str, Judge]
    names: tuple[str, ...]
    inception: Path | None = None

    def __post_init__(self) -> None:
        for name, judge in self.judges.items():
            count = len(judge.answers(self.names))
            if count != len(self.names):
                raise UserError(
                    f"The judge {name} tells {count} classes apart, "
                    f"and the data has {len(self.names)}: give another."
                )

    @property
    def name(self) -> str:
        """The name of the judge that counts."""
        return list(self.judges)[-1]

    def labels(self, prompts: Sequence[str]) -> list[int]:
        """The index of the class that each prompt names; refuses other prompts."""
        if unknown := [prompt for prompt in prompts if prompt not in self.names]:
            raise UserError(
                f"The classes of data are {', '.join(self.names)}; this model's are others: "
                f"{', '.join(unknown)}. Give the data that the model was trained on, with data=…."
            )
        return [self.names.index(prompt) for prompt in prompts]

    def read(self, images: Tensor, labels: Tensor | None = None) -> JudgedSet:
        """The set of these uint8 pictures; without labels, those that the counting judge reads."""
        unit_images = images.float() / 255
        answers = {
            name: judge.probabilities(unit_images, self.names).argmax(1)
            for name, judge in self.judges.items()
        }
        labels = answers[self.name] if labels is None else labels
        return JudgedSet(images, labels, self.judges[self.name].features(unit_images), answers)

    def check(self, test: JudgedSet) -> None:
        """Refuse a counting judge that reads too few of the test pictures right."""
        right = self.accuracy(test)["accuracy"][self.name]
        if right < LEAST:
            raise UserError(
                f"The judge {self.name} reads {right:.0%} of the test pictures right, so it is no "
                "judge of these pictures: give a judge that has learnt from them, "
                f"with model.judges.{self.name}=…, or other data."
            )

    def accuracy(self, one: JudgedSet) -> dict:
        """The accuracy of each judge, and that of the counting judge for each class."""
        right = {name: (answers == one.labels).double() for name, answers in one.answers.items()}
        class_accuracy = {
            self.names[label]: right[self.name][one.labels == label].mean().item()
            for label in one.labels.unique()
        }
        return {
            "accuracy": {name: hits.mean().item() for name, hits in right.items()},
            "accuracy_of_class": class_accuracy,
        }

    def shares(self, one: JudgedSet) -> dict:
        """The share of each class among the counting judge's answers, and their entropy."""
        counts = one.answers[self.name].bincount(minlength=len(self.names))
        shares = counts.double() / len(one.images)
        return {
            "share_read": dict(zip(self.names, shares.tolist(), strict=True)),
            "entropy_in_bits": fidelity.entropy_bits(shares),
        }

    def compare(self, one: JudgedSet, test: JudgedSet) -> dict[str, float]:
        """How close a set is to the test pictures, and how diverse it is relative to them."""
        precision, recall = fidelity.precision_recall(test.features, one.features)
        sets = (one.features, one.labels, test.features, test.labels)
        table = {
            "frechet_distance": fidelity.frechet_distance(test.features, one.features),
            "precision": precision,
            "recall": recall,
            "diversity": fidelity.relative_diversity(*sets),
        }
        if self.inception:
            table["inception_frechet_distance"] = fidelity.inception_frechet(
                test.images, one.images, self.inception
            )
        return table
