"""What judges say of a set of pictures, and how close it is to another: the numbers of task=evaluate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from expkit.errors import UserError
from expkit.metrics import fidelity
from expkit.metrics.judges import Judge

LEAST = 0.5  # a judge that reads fewer of the test pictures right is a judge of something else


class Set(NamedTuple):
    """Pictures uint8 (N, C, H, W), their classes (N,), what the judge that counts sees in them (N, F), and what each judge reads (N,)."""

    images: Tensor
    labels: Tensor
    features: Tensor
    read: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Panel:
    """Judges, the last of whom counts: distances are in its features. They tell the classes of these names apart.

    inception: a file of Inception's weights, for FID, or None. Refuses judges that tell another number of classes apart.
    """

    judges: Mapping[str, Judge]
    names: tuple[str, ...]
    inception: Path | None = None

    def __post_init__(self) -> None:
        for name, judge in self.judges.items():
            if len(known := judge.answers(self.names)) != len(self.names):
                raise UserError(
                    f"The judge {name} tells {len(known)} classes apart, and the data has {len(self.names)}: give another."
                )

    @property
    def name(self) -> str:
        return list(self.judges)[-1]

    def labels(self, prompts: Sequence[str]) -> list[int]:
        """The classes that prompts name."""
        if unknown := [prompt for prompt in prompts if prompt not in self.names]:
            raise UserError(
                f"The classes of data are {', '.join(self.names)}; this model's are others: {', '.join(unknown)}. "
                "Give the data that the model was trained on, with data=…."
            )
        return [self.names.index(prompt) for prompt in prompts]

    def seen(self, images: Tensor, labels: Tensor | None = None) -> Set:
        """Pictures uint8 as the judges see them; where it is not known what they are, they are what is read."""
        shown = images.float() / 255
        read = {name: judge.probabilities(shown, self.names).argmax(1) for name, judge in self.judges.items()}
        return Set(
            images,
            read[self.name] if labels is None else labels,
            self.judges[self.name].features(shown),
            read,
        )

    def check(self, test: Set) -> None:
        right = self.accuracy(test)["accuracy"][self.name]
        if right < LEAST:
            raise UserError(
                f"The judge {self.name} reads {right:.0%} of the test pictures right, so it is no judge of these pictures: "
                f"give a judge that has learnt from them, with model.judges.{self.name}=…, or other data."
            )

    def accuracy(self, one: Set) -> dict:
        """The share that each judge reads right; of each class by the one that counts."""
        right = {name: (read == one.labels).double() for name, read in one.read.items()}
        each = {
            self.names[label]: right[self.name][one.labels == label].mean().item()
            for label in one.labels.unique()
        }
        return {
            "accuracy": {name: found.mean().item() for name, found in right.items()},
            "accuracy_of_class": each,
        }

    def shares(self, one: Set) -> dict:
        """The share of each class among what is read by the judge that counts, and their entropy."""
        shares = one.read[self.name].bincount(minlength=len(self.names)).double() / len(one.images)
        return {
            "share_read": dict(zip(self.names, shares.tolist(), strict=True)),
            "entropy_in_bits": fidelity.entropy_bits(shares),
        }

    def compared(self, one: Set, test: Set) -> dict[str, float]:
        """How close a set is to the test pictures, and how diverse beside them."""
        precision, recall = fidelity.precision_recall(test.features, one.features)
        table = {
            "frechet_distance": fidelity.frechet_distance(test.features, one.features),
            "precision": precision,
            "recall": recall,
            "diversity": fidelity.relative_diversity(one.features, one.labels, test.features, test.labels),
        }
        if self.inception:
            table["inception_frechet_distance"] = fidelity.inception_frechet(
                test.images, one.images, self.inception
            )
        return table
