"""A hybrid: the low pass of one picture and the high pass of another, in one forward of three rows a step."""

from memory import Memory, shapes

from expkit.core import DDIM, LowPass, guided, hybrid, sample, seeded, strided

model, blur = Memory(shapes()), LowPass(2)
wish = hybrid(guided("disc", 1), guided("board", 1), blur)
*_, end = sample(model, wish, strided(1000), seeded(180, count=4), DDIM())

disc, board = model.pictures["disc"], model.pictures["board"]
away = (end.x0 - (blur(disc) + board - blur(board))).abs().max()
print(f"{len(wish.queries([0], 1.0))} rows a picture; furthest from the hybrid: {away:.1e}")
