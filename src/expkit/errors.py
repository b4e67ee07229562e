"""What expkit says when it cannot do what was asked: a sentence, never a traceback."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable


class UserError(Exception):
    """A wish that cannot be met. Its text says what was given, what was expected and what to try."""


def suggest(name: str, known: Iterable[str], say: str = " Did you mean {}?") -> str:
    """A question that names the known word closest to `name`, or nothing where none is close."""
    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.5)
    return say.format(close[0]) if close else ""


def warn(text: str) -> None:
    """Say what a person should know although the run goes on."""
    print(f"expkit: {text}", file=sys.stderr, flush=True)
