"""What models that were trained on classes understand: a digit, however people write it, or the name of a class."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from expkit.errors import UserError, suggest

FILLERS = "a an the of handwritten hand written drawn digit number numeral figure picture image photo drawing sketch"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
AROUND = set(re.findall(r"\w+", FILLERS))
DIGITS = tuple("0123456789")


def find_class(prompt: str, names: Sequence[str]) -> str:
    """The class that a prompt names, however it is written; "" for the null prompt. Anything else is refused with the names."""
    if tuple(names) == DIGITS:
        return parse_digit(prompt)
    said = str(prompt).strip().casefold()
    if not said:
        return ""
    found = [name for name in names if name.casefold() == said] or [
        name for name in names if is_named_in(name.casefold(), said)
    ]
    if len(found) == 1:
        return found[0]
    raise UserError(
        f"This model does not know the prompt {str(prompt)!r}.{suggest(prompt, names)} It knows one class a prompt: {', '.join(names)}; "
        '"" is the null prompt.'
    )


def null_only(prompt: str, why: str) -> str:
    """ "" for the null prompt; anything else is refused by a model that is told nothing, for the reason `why`."""
    if str(prompt).strip():
        raise UserError(
            f"This model {why}, so it does not know the prompt {str(prompt)!r}: the null prompt, "
            'prompt="", is the only one. Models that are told are deepfloyd, stable_diffusion and digits.'
        )
    return ""


def is_named_in(name: str, said: str) -> bool:
    """Whether a class is named within a phrase, as whole words."""
    return bool(re.search(rf"(?<![\w-]){re.escape(name)}(?!\w)", said))


@lru_cache(maxsize=1024)
def parse_digit(prompt: str) -> str:
    """'3', 'three', 'a handwritten 3' -> '3'; '' -> ''. Anything else is refused with the vocabulary."""
    words = re.findall(r"[a-z]+|(?<!\w)-\d+|\d+", str(prompt).lower())  # a negative number is no digit
    digits = [str(WORDS.index(w)) if w in WORDS else w for w in words if w not in AROUND]
    if not str(prompt).strip():
        return ""
    if len(digits) == 1 and digits[0] in DIGITS:
        return digits[0]
    hint = suggest(" ".join(digits), WORDS)
    raise UserError(
        f"The digits model does not know the prompt {str(prompt)!r}.{hint} It knows one digit a prompt: 0 to 9, zero to nine, or "
        'phrases such as "a handwritten 3"; "" is the null prompt.'
    )
