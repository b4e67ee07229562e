"""Uniform handling of Ctrl-C and SIGTERM.

Some code turns KeyboardInterrupt into an error of its own: torch and numpy do this in their C code
while they are imported or called. Therefore each signal is recorded, and code that would report
such an error checks first whether a signal was received.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

RECEIVED_SIGNALS: list[int] = []  # the signals that this process has received


@contextmanager
def interruptible() -> Iterator[None]:
    """Let both signals raise KeyboardInterrupt.

    A signal that was ignored when the process started, as under nohup, stays ignored.
    """

    def interrupt(number: int, _) -> None:
        RECEIVED_SIGNALS.append(number)
        raise KeyboardInterrupt

    RECEIVED_SIGNALS.clear()
    numbers = [
        number
        for number in (signal.SIGTERM, signal.SIGINT)
        if signal.getsignal(number) not in (signal.SIG_IGN, None)
    ]
    handlers = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def raise_if_interrupted(error: Exception) -> None:
    """Raise KeyboardInterrupt instead of `error` if a signal was received."""
    if RECEIVED_SIGNALS:
        raise KeyboardInterrupt from error
