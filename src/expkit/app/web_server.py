"""What `expkit dashboard` and `expkit app` share: arguments of their own, and a free port."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Collection, Mapping, Sequence

from expkit.errors import UserError, suggest, warn

HERE = "127.0.0.1"
TRIED = 100  # how many ports are tried, from the wanted one on

# Parses the value of an argument: (key, text) -> value; raises UserError if the text does not fit
Reader = Callable[[str, str], object]


def parse_words(
    of: str,
    arguments: Sequence[str],
    words: Mapping[str, Reader],
    others: Collection[str] = (),
) -> tuple[dict, list[str]]:
    """Split arguments into those of the server and those of the runs.

    Args:
        of: the name of the command, for error messages.
        arguments: KEY=VALUE.
        words: {key: parser of its value} of the server's own arguments.
        others: the keys of the runs' arguments. Arguments for keys inside these are runs' too.

    Returns:
        {key: value} of the server's own arguments, and the arguments of the runs.

    Raises:
        UserError: if an argument is neither, or its value does not fit.
    """
    values: dict = {}
    run_arguments: list[str] = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and key in words:
            values[key] = words[key](key, value)
        elif equals and others and (key in others or re.search(r"[.@+~]", key)):
            run_arguments.append(argument)
        elif key == "share":
            raise UserError(
                "share: the page is never put on the internet. "
                "host=0.0.0.0 shows it to the machines of your own network."
            )
        else:
            suggestion = suggest(key, (*words, *others))
            keys = ", ".join(f"{word}=" for word in words)
            keys += " and KEY=VALUE for its runs" if others else ""
            raise UserError(f"{of} does not know {argument!r}.{suggestion} It takes {keys}.")
    return values, run_arguments


def parse_host(word: str, value: str) -> str:
    """An address, which must not be empty."""
    if not value:
        raise UserError(
            f"{word}= is empty: give an address of this machine, such as {word}={HERE}, "
            "which nobody else can reach."
        )
    return value


def parse_port(word: str, value: str) -> int:
    """A port from 0 to 65535."""
    if not re.fullmatch(r"\d{1,5}", value, re.ASCII) or int(value) > 65535:
        expected = "a port is a whole number up to 65535, or 0 for any that is free."
        raise UserError(f"{word}={value} does not fit: {expected}")
    return int(value)


def parse_flag(word: str, value: str) -> bool:
    """true or false."""
    if value not in ("true", "false"):
        expected = f"{word} is true, which opens a browser, or false."
        raise UserError(f"{word}={value} does not fit: {expected}")
    return value == "true"


PLACE: Mapping[str, Reader] = {"host": parse_host, "port": parse_port, "open": parse_flag}


def free_port(host: str, wanted: int) -> int:
    """The wanted port, or the next free one if it is taken. A wanted port of 0 is any free port.

    Gradio's own search (server_port=None) starts only at a default, tries 127.0.0.1 whatever the
    host is, and ends in an error of its own for port 0 or for a host that is not of this machine.

    Raises:
        UserError: if `host` is not an address of this machine, or cannot be used.
    """
    remedy = f"leave it out, or give {HERE} or 0.0.0.0."
    candidates = [*range(wanted, min(wanted + TRIED, 65536)), 0] if wanted else [0]
    for candidate in candidates:
        try:
            with socket.create_server((host, candidate)) as server:
                port = server.getsockname()[1]
        except (socket.gaierror, UnicodeError):
            raise UserError(f"host={host} is no address of this machine: {remedy}") from None
        except OSError as error:
            reason = error.strerror
            continue
        if wanted and port != wanted:
            warn(f"port {wanted} is taken: port {port} is used.")
        return port
    raise UserError(f"host={host} cannot be used ({reason}): {remedy}")


def warn_of_others(host: str, folder) -> None:
    """Warn if other machines can reach this address: they can use the page and read `folder`."""
    if host != "localhost" and not host.startswith("127."):
        consequence = "whoever can reach this machine can use the page, and see what lies in"
        warn(f"host={host}: {consequence} {folder}/.")
