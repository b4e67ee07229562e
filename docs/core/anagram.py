"""An anagram: one estimate as it is and one seen through a view, averaged."""

from memory import Memory, shapes

from expkit.core import DDIM, Rotate180, anagram, guided, sample, seeded, strided
from expkit.core.views import Identity

model = Memory(shapes())
views = {"upright": Identity(), "turned": Rotate180()}
wish = anagram({"upright": guided("bar", 1), "turned": guided("disc", 1)}, views)
*_, end = sample(model, wish, strided(1000), seeded(180, count=2), DDIM())

wanted = (model.pictures["bar"] + Rotate180()(model.pictures["disc"])) / 2
print(f"furthest from the mean of both: {(end.x0 - wanted).abs().max():.1e}")
