"""What the digits model understands: a digit, however people write it."""

from __future__ import annotations

import re
from functools import lru_cache

from expkit.errors import Refusal, nearest

FILLERS = "a an the of handwritten hand written drawn digit number numeral figure picture image photo drawing sketch"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
AROUND = set(re.findall(r"\w+", FILLERS))


@lru_cache(maxsize=1024)
def digit(prompt: str) -> str:
    """'3', 'three', 'a handwritten 3' -> '3'; '' -> ''. Anything else is refused with the vocabulary."""
    words = re.findall(r"[a-z]+|\d+", str(prompt).lower())
    digits = [str(WORDS.index(w)) if w in WORDS else w for w in words if w not in AROUND]
    if not str(prompt).strip():
        return ""
    if len(digits) == 1 and digits[0] in set("0123456789"):
        return digits[0]
    hint = nearest(" ".join(digits), WORDS)
    raise Refusal(
        f"The digits model does not know the prompt {str(prompt)!r}.{hint} It knows one digit a prompt: 0 to 9, zero to nine, or "
        'phrases such as "a handwritten 3"; "" is the null prompt.'
    )
