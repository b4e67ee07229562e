"""Inpainting and SDEdit are one thing: a part of a picture is held for all time, or the whole of it for a time."""

import torch
from memory import Memory, shapes

from expkit.core import DDIM, Mask, Pin, guided, sample, seeded, strided

model, grid = Memory(shapes()), strided(1000)
left = torch.zeros(32, 32)
left[:, :16] = 1
inpainted = Pin(model.pictures["disc"][None], Mask(left))
edited = Pin(model.pictures["disc"][None], until=grid[10])
for name, pin in {"inpainted": inpainted, "edited": edited}.items():
    *_, end = sample(model, guided("bar", 1), grid, seeded(180, count=1), DDIM(), pin)
    kept, new = (end.x - model.pictures["disc"])[..., :16], (end.x0 - model.pictures["bar"])[..., 16:]
    print(
        f"{name}: the left half differs from the disc by {kept.abs().max():.2f}, the right half from the bar by {new.abs().max():.1e}"
    )
