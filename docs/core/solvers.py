"""Four solvers on one exact denoiser, whose pictures vary by 0.3 about a bar: how close their samples come to that."""

from memory import Memory, shapes

from expkit.core import DDIM, DDPM, DPMpp, Euler, guided, sample, seeded
from expkit.core.timesteps import strided_clean

model = Memory(shapes(), spread=0.3)
for steps in (10, 100):
    for solver in (DDPM(), DDIM(), DPMpp(), Euler()):
        *_, end = sample(model, guided("bar", 1), strided_clean(1000, steps), seeded(180, count=64), solver)
        away = end.x - model.pictures["bar"]
        print(
            f"{steps} steps, {type(solver).__name__}: mean {away.mean():+.3f}, standard deviation {away.std():.3f}"
        )
