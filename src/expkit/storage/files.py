"""Files: what they hold, told in a few letters, and how they come to be there whole."""

from __future__ import annotations

import errno
import hashlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path


def path_of(name: str) -> str:
    """The path that a person has written: with ~, or as a file: address. Nothing need be there."""
    if name.lower().startswith("file:"):
        from urllib.parse import unquote, urlsplit

        try:
            name = unquote(urlsplit(name).path)
        except ValueError:  # an address that is none
            return name
    return os.path.expanduser(name)


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """The file is whole or it is not there."""
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def without_replacing(path: Path, write: Callable[[Path], object]) -> None:
    """As `atomic_write`; raise FileExistsError where something has this name, also where it comes while `write` writes."""
    part = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    try:
        write(part)
        try:
            os.link(part, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without such links
            if os.path.lexists(path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
