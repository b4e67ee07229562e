"""Prompts of class-conditioned models: a digit, however it is written, or the name of a class."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from expkit.errors import UserError, suggest

FILLERS = (
    "a an the of handwritten hand written drawn digit number numeral figure picture image photo "
    "drawing sketch"
)
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
AROUND = set(re.findall(r"\w+", FILLERS))
DIGITS = tuple("0123456789")


def find_class(prompt: str, names: Sequence[str]) -> str:
    """The class that a prompt names, or "" for the null prompt.

    Args:
        prompt: one of the names in any case, or a phrase that contains exactly one of them; if the
            names are `DIGITS`, what `parse_digit` reads.
        names: the names of the classes.

    Raises:
        UserError: the prompt names no class, or several.
    """
    if tuple(names) == DIGITS:
        return parse_digit(prompt)
    text = str(prompt).strip().casefold()
    if not text:
        return ""
    equal = [name for name in names if name.casefold() == text]
    matches = equal or [name for name in names if is_named_in(name.casefold(), text)]
    if len(matches) == 1:
        return matches[0]
    raise UserError(
        f"This model does not know the prompt {str(prompt)!r}.{suggest(prompt, names)} "
        f"It knows one class a prompt: {', '.join(names)}; "
        '"" is the null prompt.'
    )


def null_only(prompt: str, why: str) -> str:
    """The null prompt "" for an unconditional model.

    Args:
        prompt: must be empty or blank.
        why: why the model knows no other prompt, for the error message.

    Raises:
        UserError: the prompt is another.
    """
    if str(prompt).strip():
        raise UserError(
            f"This model {why}, so it does not know the prompt {str(prompt)!r}: the null prompt, "
            'prompt="", is the only one. Models that are told are digits and pictograms, which '
            "ship, deepfloyd, and diffusers."
        )
    return ""


def is_named_in(name: str, said: str) -> bool:
    """Whether the phrase `said` contains `name` as whole words."""
    return bool(re.search(rf"(?<![\w-]){re.escape(name)}(?!\w)", said))


@lru_cache(maxsize=1024)
def parse_digit(prompt: str) -> str:
    """The digit that a prompt names: '3', 'three', 'a handwritten 3' -> '3'; '' -> ''.

    Raises:
        UserError: the prompt has words other than `FILLERS`, or not exactly one digit.
    """
    words = re.findall(r"[a-z]+|(?<!\w)-\d+|\d+", str(prompt).lower())  # "-3" is not a digit
    words = [word for word in words if word not in AROUND]
    digits = [str(WORDS.index(word)) if word in WORDS else word for word in words]
    if not str(prompt).strip():
        return ""
    if len(digits) == 1 and digits[0] in DIGITS:
        return digits[0]
    hint = suggest(" ".join(digits), WORDS)
    raise UserError(
        f"The digits model does not know the prompt {str(prompt)!r}.{hint} "
        "It knows one digit a prompt: 0 to 9, zero to nine, or "
        'phrases such as "a handwritten 3"; "" is the null prompt.'
    )
