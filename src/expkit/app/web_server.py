"""Where `expkit dashboard` and `expkit app` are shown: the words that both take, and a port that is free."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Collection, Mapping, Sequence

from expkit.errors import UserError, suggest, warn

HERE = "127.0.0.1"
TRIED = 100  # ports from the wanted one on

Reader = Callable[
    [str, str], object
]  # (word, what is said of it) -> what that means; refuses what does not fit


def parse_words(
    of: str, arguments: Sequence[str], words: Mapping[str, Reader], others: Collection[str] = ()
) -> tuple[dict, list[str]]:
    """What is said in these words, and the arguments of runs, whose keys are `others` and what lies within them; the rest is refused."""
    said, rest = {}, []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and key in words:
            said[key] = words[key](key, value)
        elif equals and others and (key in others or re.search(r"[.@+~]", key)):
            rest.append(argument)
        elif key == "share":
            raise UserError(
                "share: the page is never put on the internet. host=0.0.0.0 shows it to the machines of your own network."
            )
        else:
            takes = (
                f"{', '.join(f'{word}=' for word in words)}{' and KEY=VALUE for its runs' if others else ''}"
            )
            raise UserError(
                f"{of} does not know {argument!r}.{suggest(key, (*words, *others))} It takes {takes}."
            )
    return said, rest


def parse_host(word: str, value: str) -> str:
    if not value:
        raise UserError(
            f"{word}= is empty: give an address of this machine, such as {word}={HERE}, which nobody else can reach."
        )
    return value


def parse_port(word: str, value: str) -> int:
    if not re.fullmatch(r"\d{1,5}", value, re.ASCII) or int(value) > 65535:
        raise UserError(
            f"{word}={value} does not fit: a port is a whole number up to 65535, or 0 for any that is free."
        )
    return int(value)


def parse_flag(word: str, value: str) -> bool:
    if value not in ("true", "false"):
        raise UserError(f"{word}={value} does not fit: {word} is true, which opens a browser, or false.")
    return value == "true"


PLACE: Mapping[str, Reader] = {"host": parse_host, "port": parse_port, "open": parse_flag}


def free_port(host: str, wanted: int) -> int:
    """The wanted port, or where it is taken the next that is free; 0 is any."""
    for port in [*range(wanted, min(wanted + TRIED, 65536)), 0] if wanted else [0]:
        try:
            with socket.create_server((host, port)) as found:
                got = found.getsockname()[1]
        except (socket.gaierror, UnicodeError):
            raise UserError(
                f"host={host} is no address of this machine: leave it out, or give {HERE} or 0.0.0.0."
            ) from None
        except OSError as error:
            why = error.strerror
            continue
        if wanted and got != wanted:
            warn(f"port {wanted} is taken: port {got} is used.")
        return got
    raise UserError(f"host={host} cannot be used ({why}): leave it out, or give {HERE} or 0.0.0.0.")


def warn_of_others(host: str, folder) -> None:
    """Say who can look on, where that is not this machine alone."""
    if host != "localhost" and not host.startswith("127."):
        warn(f"host={host}: whoever can reach this machine can use the page, and see what lies in {folder}/.")
