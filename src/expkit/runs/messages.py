"""Messages of the logger "expkit" on stderr: the command line shows them, the library does not.

Levels: INFO is what a run does, WARNING is what the user should know, ERROR is why a command ended.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

LOGGER = logging.getLogger("expkit")


class MessageFormatter(logging.Formatter):
    """The text of a message; warnings and errors begin with "expkit: "."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return f"expkit: {text}" if record.levelno >= logging.WARNING else text


class StderrHandler(logging.Handler):
    """Writes each message to the present sys.stderr at once; a program may replace sys.stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            # in one piece: other processes may write to the same stderr
            print(f"{self.format(record)}\n", end="", file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)


HANDLER = StderrHandler()
HANDLER.setFormatter(MessageFormatter())


@contextmanager
def shown_on_stderr() -> Iterator[None]:
    """Show the messages on stderr and nowhere else, once each even if used inside itself.

    It is used again wherever Hydra may have configured logging since the last use: that can disable
    loggers. Processes that launchers of Hydra start use it too.
    """
    if HANDLER in LOGGER.handlers:
        LOGGER.disabled = False
        yield
        return
    level, propagates, was_disabled = LOGGER.level, LOGGER.propagate, LOGGER.disabled
    LOGGER.addHandler(HANDLER)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False  # handlers of the root logger would repeat the messages
    LOGGER.disabled = False
    try:
        yield
    finally:
        LOGGER.propagate, LOGGER.disabled = propagates, was_disabled
        LOGGER.setLevel(level)
        LOGGER.removeHandler(HANDLER)
