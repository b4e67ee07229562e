"""File paths, hashes and atomic writes."""

from __future__ import annotations

import errno
import hashlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path


def path_of(name: str) -> str:
    """Expand a path that a user typed: `~` and file: URLs. The file need not exist."""
    if name.lower().startswith("file:"):
        from urllib.parse import unquote, urlsplit

        try:
            name = unquote(urlsplit(name).path)
        except ValueError:  # not a valid URL
            return name
    return os.path.expanduser(name)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def short_hash(data: str | bytes, size: int = 6) -> str:
    """A hash of a text or of bytes, of 2 * size hexadecimal digits, for names of files."""
    data = data.encode() if isinstance(data, str) else data
    return hashlib.blake2b(data, digest_size=size).hexdigest()


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a hidden file in the same folder, then rename it to `path`.

    The file at `path` is complete or absent.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def without_replacing(path: Path, write: Callable[[Path], object]) -> None:
    """Like `atomic_write`, but never replace an existing file.

    Raises:
        FileExistsError: `path` exists, even if it was created while `write` ran.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    try:
        write(temporary)
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            if os.path.lexists(path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
