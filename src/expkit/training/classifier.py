"""Training judges of pictograms: one that knows ordinary pictures only, and one that knows pictures which show two things at once.

    Naming       L = E [ −log softmax(f(x))_a ],    x an ordinary picture of a
    Composing    the same of x, of y close by (for b) and of y from afar (for a),    y = G_sigma a + (b − G_sigma b)

The first reports: what it reads is what somebody would who has never seen a hybrid. The second chooses: it knows what interferes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
    """The cross-entropy of a pictogram's name. captions: scenes of each concept; soft: whether blurred pictures are among them; vary: how
    much its pictures differ beside that.

    What `DigitClassification` then does to a picture as a whole is left to `far` and the light.
    """

    shift: float = 0.0
    turn: float = 0.0
    zoom: tuple[float, float] = (1.0, 1.0)
    captions: int = 48
    soft: bool = True
    vary: AugmentStrength = AugmentStrength()  # noqa: RUF009  frozen
    scenes: Scenes | None = None
    concepts: tuple[Concept, ...] = ()

    def told(self, images: Pictures) -> PictogramClassification:
        scenes = Scenes.of(images, self.captions, self.vary)
        return replace(self, scenes=scenes if self.soft else scenes.sharp(), concepts=images.concepts)

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """images (N, 4, 2S, 2S): the glyphs of the labels."""
        pictures, _ = self.scenes.to(images.device).shown(images, labels, draws)
        return self.named(network, pictures, labels, draws)

    def named(self, network: nn.Module, pictures: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        return super().__call__(network, pictures, labels, draws)

    def called(self, names: Sequence[str]) -> list[Sequence[str]]:
        return [(concept.name, *concept.others) for concept in self.concepts]


@dataclass(frozen=True, eq=False)
class CompositeClassification(PictogramClassification):
    """Naming, of which two thirds are composites of two pictures: the low pass of one under the high pass of another.

    A half of these is seen close by and shows what is sharp, a half from afar and shows what is not. sigma: the blur that parts them, the
    least and the most, in pixels; nearest: how far "afar" is at the least; the most is `farthest`.
    """

    sigma: tuple[float, float] = (1.5, 4.0)
    nearest: float = 3.0

    def named(self, network: nn.Module, pictures: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        chance = draws.uniform((5,))
        kind = (
            (3 * chance[:, 0]).long().view(-1, 1, 1, 1)
        )  # 0: ordinary; 1: of two, close by; 2: of two, from afar
        both = make_composite(
            pictures, pictures.roll(1, 0), self.sigma[0] + (self.sigma[1] - self.sigma[0]) * chance[:, 1]
        )
        always = torch.stack([torch.zeros_like(chance[:, 2]), chance[:, 2], chance[:, 3]], 1)
        far = random_distance(both, always, 1.0, self.farthest, self.nearest)
        seen = torch.where(kind == 0, self.varied(pictures, draws), torch.where(kind == 1, both, far))
        asked = torch.where(kind.flatten() == 1, labels.roll(1, 0), labels)
        return F.cross_entropy(network(seen.contiguous(memory_format=torch.channels_last)), asked)


def make_composite(low: Tensor, high: Tensor, sigma: Tensor) -> Tensor:
    """The low pass of one picture under the high pass of another, (N, C, S, S) in [0, 1], for blurs sigma (N,) in pixels."""
    blur = blur_matrices(sigma, low.shape[-1])[:, None]
    return (blur @ (low - high) @ blur.mT + high).clamp(0, 1)
