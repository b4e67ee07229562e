"""Training classifiers ("judges") of pictograms, on ordinary images or also on composites of two.

    PictogramClassification   L = E [ −log softmax(f(x))_a ],   x an ordinary image of concept a
    CompositeClassification   the same for x, for a composite y seen from near (target b), and for y
                              seen from afar (target a),   y = G_sigma a + (b − G_sigma b)

The first reports results: it has never seen a hybrid image, so it reads what a person would who has
not either. The second ranks images: it knows how two concepts interfere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expkit.core.rng import Draws
from expkit.data.augment import blur_matrices, random_distance
from expkit.data.captioned_scenes import AugmentStrength, Scenes
from expkit.data.labelled_pictures import Pictures
from expkit.data.pictograms import Concept
from expkit.training.objectives import DigitClassification


@dataclass(frozen=True, eq=False)
class PictogramClassification(DigitClassification):
    """Cross-entropy of the concept that a pictogram shows.

    The geometric augmentation of `DigitClassification` is off by default, because `vary` does it.
    The change of distance (`far`) and the change of light stay on.

    Args:
        captions: number of captions of each concept; each caption is one scene (style, colour,
            background).
        soft: whether blurred images are among them.
        vary: how much the images of a concept differ otherwise.
        scenes: set by `adapt_to`.
        concepts: set by `adapt_to`.
    """

    shift: float = 0.0
    turn: float = 0.0
    zoom: tuple[float, float] = (1.0, 1.0)
    captions: int = 48
    soft: bool = True
    vary: AugmentStrength = AugmentStrength()  # noqa: RUF009  frozen
    scenes: Scenes | None = None
    concepts: tuple[Concept, ...] = ()

    def adapt_to(self, images: Pictures) -> Self:
        scenes = Scenes.of(images, self.captions, self.vary)
        if not self.soft:
            scenes = scenes.sharp()
        return replace(self, scenes=scenes, concepts=images.concepts)

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """The loss for glyphs `images` (N, 4, 2S, 2S) of the concepts `labels` (N,)."""
        assert self.scenes is not None  # set by adapt_to
        pictures, _ = self.scenes.to(images.device).render(images, labels, draws)
        return self.rendered_loss(network, pictures, labels, draws)

    def rendered_loss(
        self, network: nn.Module, pictures: Tensor, labels: Tensor, draws: Draws
    ) -> Tensor:  # fmt: skip
        """The loss for rendered images (N, 3, S, S) in [0, 1]."""
        return super().__call__(network, pictures, labels, draws)

    def class_names(self, names: Sequence[str]) -> list[Sequence[str]]:
        return [(concept.name, *concept.others) for concept in self.concepts]


@dataclass(frozen=True, eq=False)
class CompositeClassification(PictogramClassification):
    """Cross-entropy of ordinary images (one third) and of composites of two images (two thirds).

    A composite is the low pass of one image plus the high pass of another. Half of the composites
    are seen from near, and their target is the high-pass concept; half are seen from afar, and
    their target is the low-pass concept.

    Args:
        sigma: smallest and largest standard deviation, in pixels, of the blur that separates the
            two images.
        nearest: smallest factor of distance "from afar"; the largest is `farthest`.
    """

    sigma: tuple[float, float] = (1.5, 4.0)
    nearest: float = 3.0

    def rendered_loss(
        self, network: nn.Module, pictures: Tensor, labels: Tensor, draws: Draws
    ) -> Tensor:  # fmt: skip
        chance = draws.uniform((5,))
        # 0: ordinary; 1: composite from near; 2: composite from afar
        kind = (3 * chance[:, 0]).long().view(-1, 1, 1, 1)
        sigma = self.sigma[0] + (self.sigma[1] - self.sigma[0]) * chance[:, 1]
        composites = make_composite(pictures, pictures.roll(1, 0), sigma)
        # A zero in the first column makes `random_distance` shrink every row, and blur none.
        always_shrink = torch.zeros_like(chance[:, 2])
        far_chance = torch.stack([always_shrink, chance[:, 2], chance[:, 3]], 1)
        far = random_distance(composites, far_chance, 1.0, self.farthest, self.nearest)
        ordinary = self.varied(pictures, draws)
        inputs = torch.where(kind == 0, ordinary, torch.where(kind == 1, composites, far))
        targets = torch.where(kind.flatten() == 1, labels.roll(1, 0), labels)
        logits = network(inputs.contiguous(memory_format=torch.channels_last))
        return F.cross_entropy(logits, targets)


def make_composite(low: Tensor, high: Tensor, sigma: Tensor) -> Tensor:
    """The low pass of `low` plus the high pass of `high`, clamped to [0, 1].

    Args:
        low, high: (N, C, S, S) in [0, 1].
        sigma: (N,), standard deviation of each row's Gaussian blur, in pixels.
    """
    blur = blur_matrices(sigma, low.shape[-1])[:, None]
    return (blur @ (low - high) @ blur.mT + high).clamp(0, 1)
