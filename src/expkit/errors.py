"""Errors and warnings for the user: sentences instead of tracebacks."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable

LOGGER = logging.getLogger("expkit")


class UserError(Exception):
    """A request that cannot be fulfilled.

    Its text says what was given, what was expected, and what to try.
    """


def suggest(name: str, known: Iterable[str], say: str = " Did you mean {}?") -> str:
    """A question that names the closest match to `name`, or "" if there is none.

    Args:
        name: What the user typed.
        known: The valid names.
        say: The format of the question.
    """
    matches = difflib.get_close_matches(str(name), [str(item) for item in known], n=1, cutoff=0.5)
    return say.format(matches[0]) if matches else ""


def warn(text: str) -> None:
    """Log a warning; the run continues."""
    LOGGER.warning(text, stacklevel=2)
