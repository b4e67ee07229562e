"""Ctrl-C and SIGTERM end a command in one way, whatever they come upon.

What is being imported or called when KeyboardInterrupt is raised may turn it into an error of its own: torch and numpy do, in their C
code. So it is remembered that a signal came, and whoever would report such an error asks first.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

CAME: list[int] = []  # the signals that came to this process


@contextmanager
def interruptible() -> Iterator[None]:
    """Both signals raise KeyboardInterrupt; one that the process was started to ignore, as under nohup, stays ignored."""

    def interrupt(number: int, _) -> None:
        CAME.append(number)
        raise KeyboardInterrupt

    CAME.clear()
    wanted = [
        number
        for number in (signal.SIGTERM, signal.SIGINT)
        if signal.getsignal(number) not in (signal.SIG_IGN, None)
    ]
    before = {number: signal.signal(number, interrupt) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def raise_if_interrupted(error: Exception) -> None:
    """Raise KeyboardInterrupt in place of an error that is what became of a signal."""
    if CAME:
        raise KeyboardInterrupt from error
