"""Where the files of a pretrained repository lie: in a folder, or on huggingface.co and its cache.

Files on this machine are used as they are; only missing files are requested from the hub.
"""

from __future__ import annotations

import hashlib
import re
import socket
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from expkit.errors import UserError
from expkit.storage.repository_errors import HOST, RepositoryErrors

ID = r"[\w-][\w.-]*/[\w.-]+"
LICENSED = ("DeepFloyd/",)  # owners whose repositories need an accepted licence
PIECE = 1 << 20


def is_id(name: str) -> bool:
    """Whether a name has the form of an id of huggingface.co: OWNER/NAME."""
    return bool(re.fullmatch(ID, name))


class RepositoryFiles(ABC):
    """The files of one repository.

    Attributes:
        source: The folder or the id, as from_pretrained takes it.
        can_download: Whether files that are not on this machine may be downloaded.
    """

    source: str
    can_download: ClassVar[bool]

    @abstractmethod
    def find_local(self, name: str) -> Path | None:
        """The path of a file that is on this machine, or None."""

    @abstractmethod
    def fetch(self, name: str) -> Path | None:
        """The local path of a file, downloaded if necessary; None if the repository lacks it."""

    @abstractmethod
    def has(self, name: str) -> bool:
        """Whether the repository has a file. Nothing is downloaded."""

    @abstractmethod
    def revision(self, parts: Sequence[str], asked: str | None = None) -> str:
        """The version of the files: see `expkit.storage.hub.Repository.revision`."""

    @abstractmethod
    def load_options(self, revision: str | None) -> dict:
        """The arguments of from_pretrained that choose a version of the files."""

    @abstractmethod
    def check_reach(self) -> None:
        """Raise UserError at once if a download cannot succeed."""


class FolderFiles(RepositoryFiles):
    """The files in a local folder."""

    can_download = False

    def __init__(self, folder: Path) -> None:
        self.folder, self.source = folder, str(folder)

    def find_local(self, name: str) -> Path | None:
        path = self.folder / name
        return path if path.is_file() else None

    def fetch(self, name: str) -> Path | None:
        return self.find_local(name)

    def has(self, name: str) -> bool:
        return self.find_local(name) is not None

    def revision(self, parts: Sequence[str], asked: str | None = None) -> str:
        return folder_fingerprint(self.folder, parts)

    def load_options(self, revision: str | None) -> dict:
        return {}

    def check_reach(self) -> None:
        pass


class HubFiles(RepositoryFiles):
    """The files of a repository on huggingface.co, some of them in the local cache of the hub.

    Args:
        source: The id of the repository.
        errors: Its errors.
    """

    can_download = True

    def __init__(self, source: str, errors: RepositoryErrors) -> None:
        self.source, self.errors = source, errors

    def find_local(self, name: str) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        path = try_to_load_from_cache(self.source, name)
        return Path(path) if isinstance(path, str) else None

    def is_known_missing(self, name: str) -> bool:
        """Whether the cache says that the repository lacks a file."""
        from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

        return try_to_load_from_cache(self.source, name) is _CACHED_NO_EXIST

    def fetch(self, name: str) -> Path | None:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import RemoteEntryNotFoundError

        path = self.find_local(name)
        if path or self.is_known_missing(name):
            return path
        self.check_reach()
        with self.errors.explained():
            try:
                return Path(hf_hub_download(self.source, name))
            except RemoteEntryNotFoundError:
                return None

    def has(self, name: str) -> bool:
        from huggingface_hub import file_exists

        if self.find_local(name):
            return True
        if self.is_known_missing(name):
            return False
        self.check_reach()
        with self.errors.explained():
            return file_exists(self.source, name)

    def revision(self, parts: Sequence[str], asked: str | None = None) -> str:
        return self.cached_commit(parts, asked) or self.newest_commit(asked)

    def cached_commit(self, parts: Sequence[str], asked: str | None = None) -> str | None:
        """The commit in the local cache of the hub, or None if it is not cached."""
        from huggingface_hub import try_to_load_from_cache

        file = Path(*parts[-1:], "config.json")
        path = try_to_load_from_cache(self.source, file.as_posix(), revision=asked)
        # the path is …/snapshots/COMMIT/PART/config.json
        return Path(path).parts[-1 - len(file.parts)] if isinstance(path, str) else None

    def newest_commit(self, asked: str | None = None) -> str:
        """The newest commit on the hub, or the full commit of a tag or an abbreviated commit."""
        from huggingface_hub import HfApi

        self.check_reach()
        with self.errors.explained():
            commit = HfApi().model_info(self.source, revision=asked, timeout=10).sha
        assert commit is not None  # of a repository's newest state or of a revision
        return commit

    def load_options(self, revision: str | None) -> dict:
        return {"revision": revision}

    def check_reach(self) -> None:
        """Raise UserError at once if a request to huggingface.co cannot succeed.

        Without this check, huggingface_hub would retry for half a minute.
        """
        from huggingface_hub import constants, get_token

        if constants.HF_HUB_OFFLINE:
            raise self.errors.unavailable("HF_HUB_OFFLINE is set")
        if self.source.startswith(LICENSED) and not get_token():
            raise self.errors.no_licence()
        if not hub_is_reachable():
            raise self.errors.unavailable(f"{HOST} cannot be reached")


def folder_fingerprint(here: Path, parts: Sequence[str]) -> str:
    """A hash of the name, size and content of every file in a folder.

    Files whose names start with a dot are skipped. For a file over 16 MB, 16 pieces of its content
    are hashed.

    Args:
        here: The folder.
        parts: The subfolders to hash; an empty sequence means all of the folder.
    """
    if missing := [part for part in parts if not (here / part).is_dir()]:
        raise UserError(
            f"The folder {here} has no {missing[0]!r} in it. "
            f"Expected one with {' and '.join(parts)}, as save_pretrained writes."
        )
    digest = hashlib.sha256()
    paths = [path for part in parts or [""] for path in (here / part).rglob("[!.]*")]
    for path in sorted(path for path in paths if path.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(here).as_posix()} {size}\n".encode())
        with path.open("rb") as file:
            for start in range(0, size, max(PIECE, size // 16)):
                file.seek(start)
                digest.update(file.read(PIECE))
    return digest.hexdigest()


def hub_is_reachable() -> bool:
    """Whether the host name huggingface.co resolves.

    True behind a proxy, where only a request can tell.
    """
    if urllib.request.getproxies().keys() & {"https", "all"}:
        return True
    try:
        socket.getaddrinfo(HOST, 443)
    except OSError:
        return False
    return True
