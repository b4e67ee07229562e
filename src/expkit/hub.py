"""Pretrained weights: a folder of this machine, or a repository of the Hugging Face hub at one commit.

What is on this machine is used as it is; the hub is asked only for what is missing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from expkit.errors import Refusal

PIECE = 1 << 20


def folder(weights: str | Path) -> Path | None:
    """The folder that `weights` names, or None where it is a repository's id."""
    path = Path(weights).expanduser()
    return path.resolve() if path.is_dir() else None


def name(weights: str | Path) -> str:
    """The repository's id, or a folder's own name: weights stay the same when their folder is moved."""
    repository = re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", str(weights))
    return str(weights) if repository and not folder(weights) else Path(weights).expanduser().resolve().name


def revision(weights: str | Path, parts: Sequence[str], asked: str | None = None) -> str:
    """Which weights these are: a hash of a folder's `parts` (none: all of it), a repository's commit, cached or the hub's."""
    here = folder(weights)
    return fingerprint(here, parts) if here else cached(str(weights), parts, asked) or newest(str(weights), asked)


def at_hand(weights: str | Path, parts: Sequence[str], asked: str | None = None) -> bool:
    """Whether the weights are on this machine, as far as their configuration tells."""
    return bool(folder(weights) or cached(str(weights), parts, asked))


def fingerprint(here: Path, parts: Sequence[str]) -> str:
    """A hash of every file's name, size and content; of a file over 16 MB, of 16 pieces of its content."""
    if missing := [part for part in parts if not (here / part).is_dir()]:
        raise Refusal(f"The folder {here} has no {missing[0]!r} in it. Expected one with {' and '.join(parts)}, as save_pretrained writes.")
    digest = hashlib.sha256()
    for path in sorted(path for part in parts or [""] for path in (here / part).rglob("[!.]*") if path.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(here).as_posix()} {size}\n".encode())
        with path.open("rb") as file:
            for start in range(0, size, max(PIECE, size // 16)):
                file.seek(start)
                digest.update(file.read(PIECE))
    return digest.hexdigest()


def cached(repository: str, parts: Sequence[str], asked: str | None = None) -> str | None:
    """The commit of a repository that the cache holds, if it does."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        file = Path(*parts[-1:], "config.json")
        found = try_to_load_from_cache(repository, file.as_posix(), revision=asked)
    except HFValidationError:
        return None
    return Path(found).parts[-1 - len(file.parts)] if isinstance(found, str) else None  # …/snapshots/COMMIT/PART/config.json


def newest(repository: str, asked: str | None = None) -> str:
    """The hub's newest commit, or the one that a tag or a short form names."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    try:
        return HfApi().model_info(repository, revision=asked, timeout=10).sha
    except HFValidationError:
        raise Refusal(f"There are no weights at {repository}: it is neither a folder nor the id of a repository, OWNER/NAME.") from None
    except Exception as error:  # the network's errors are of many kinds
        raise absent(repository, error) from None


def load(kind, weights: str | Path, revision: str | None = None, variants: Sequence[str | None] = (None,), **options):
    """kind.from_pretrained with the first of the variants that is on this machine, else from the hub; refuses what cannot be had."""
    here, reason = folder(weights), None
    for offline in (True,) if here else (True, False):
        for variant in variants:
            chosen = options | ({"variant": variant} if variant else {}) | ({} if here else {"revision": revision})
            try:
                return kind.from_pretrained(str(here or weights), local_files_only=offline, **chosen)
            except MemoryError:
                raise
            except Exception as error:  # files are missing, damaged or of something else, the hub is gated or far
                reason = error
    raise absent(weights, reason)


def absent(weights: str | Path, error: Exception | None) -> Refusal:
    reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).rstrip(". ")
    if here := folder(weights):
        return Refusal(f"The weights in {here} cannot be read ({reason}). Expected a folder that save_pretrained has written.")
    return Refusal(
        f"The weights {weights} are not on this machine and cannot be had from the hub ({reason}). If their page asks for it, accept the "
        "licence there and log in with `hf auth login`; or name a folder that holds them."
    )
