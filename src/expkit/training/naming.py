"""Training judges of pictograms: the name of what is seen, however it is shown, near and from afar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from expkit.randomness import Draws
from expkit.training.data import Pictures
from expkit.training.objectives import Reading
from expkit.training.pictograms import Concept
from expkit.training.scenes import Scenes, Variety


@dataclass(frozen=True, eq=False)
class Naming(Reading):
    """The cross-entropy of a pictogram's name. captions: scenes of each concept; vary: how much its pictures differ beside that.

    What `Reading` then does to a picture as a whole is left to `far` and the light.
    """

    shift: float = 0.0
    turn: float = 0.0
    zoom: tuple[float, float] = (1.0, 1.0)
    captions: int = 48
    vary: Variety = Variety()  # noqa: RUF009  frozen
    scenes: Scenes | None = None
    concepts: tuple[Concept, ...] = ()

    def told(self, images: Pictures) -> Naming:
        return replace(self, scenes=Scenes.of(images, self.captions, self.vary), concepts=images.concepts)

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """images (N, 4, 2S, 2S): the glyphs of the labels."""
        pictures, _ = self.scenes.to(images.device).shown(images, labels, draws)
        return super().__call__(network, pictures, labels, draws)

    def called(self, names: Sequence[str]) -> list[Sequence[str]]:
        return [(concept.name, *concept.others) for concept in self.concepts]
