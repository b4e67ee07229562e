"""Estimates are sums: what is written differently but is the same asks the same, and what cancels asks nothing."""

from memory import Memory, shapes

from expkit.core import Complement, LowPass, composable, conditional, guided

model, blur = Memory(shapes()), LowPass(2)
by_hand = conditional("", condition=False) + 7.0 * (conditional("disc") - conditional("", condition=False))
nested = blur @ guided("disc", 7) + Complement(blur) @ guided("disc", 7)
mixture = composable({"one": conditional("disc"), "two": conditional("bar")}, {"one": 0.5, "two": 0.5})
for name, wish in {
    "guided": guided("disc", 7),
    "by hand": by_hand,
    "low pass + high pass": nested,
    "mixture": mixture,
}.items():
    print(f"{name}: {[query.query.prompt or 'null' for query in wish.queries([0], 1.0)]}")
