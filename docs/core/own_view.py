"""A view of one's own is one definition: which pixel goes where. Its inverse is worked out from that."""

from dataclasses import dataclass

import torch
from memory import Memory, shapes

from expkit.core import DDIM, anagram, guided, sample, seeded, strided
from expkit.core.views import Identity, Permutation


@dataclass(frozen=True)
class Halves(Permutation):
    """The left half and the right half change places."""

    def move(self, image):
        return image.roll(image.shape[-1] // 2, -1)


model, halves = Memory(shapes()), Halves()
noise = torch.randn(1, 1, 32, 32)
*_, end = sample(
    model,
    anagram({"a": guided("bar", 1), "b": guided("disc", 1)}, {"a": Identity(), "b": halves}),
    strided(1000),
    seeded(180, 1),
    DDIM(),
)
print(f"there and back again: {torch.equal(halves.inverse(halves(noise)), noise)}; {end.x.shape}")
