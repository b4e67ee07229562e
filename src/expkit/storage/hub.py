"""Pretrained weights in a local folder, or in a repository on huggingface.co at one commit.

The parts of a repository are subfolders (unet/config.json, text_encoder/…). In the oldest
repositories of diffusers they are at the top (config.json, scheduler_config.json). Files on this
machine are used as they are; only missing files are requested from the hub. The checks before a run
read JSON only, and do not import torch.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from expkit.errors import UserError

LOGIN = "hf auth login"
HOST = "huggingface.co"
NAMES = {"scheduler": "scheduler_config.json", "image_noising_scheduler": "scheduler_config.json"}
ID = r"[\w-][\w.-]*/[\w.-]+"
LICENSED = ("DeepFloyd/",)  # owners whose repositories need an accepted licence
PIECE = 1 << 20


@dataclass(frozen=True)
class Repository:
    """Weights that save_pretrained wrote, in a folder or on the hub.

    Attributes:
        name: A folder, or an id such as DeepFloyd/IF-I-M-v1.0.
        key: The configuration key that names it, for messages.
        holds: The files that it must contain, for messages.
        instead: An alternative to suggest, for messages.
    """

    name: str
    key: str = "model.weights"
    holds: str = "model_index.json, unet/, scheduler/"
    instead: str = "the model that ships, model=digits"

    @cached_property
    def folder(self) -> Path | None:
        """The local folder, or None if the name is an id of huggingface.co.

        Raises:
            UserError: The name is neither.
        """
        if self.path.is_dir():
            return self.path
        if self.path.exists() or not re.fullmatch(ID, self.name):
            raise UserError(
                f"There is no folder {self.name}. Expected one that save_pretrained has written "
                f"({self.holds}), or a repository of "
                f"{HOST} such as DeepFloyd/IF-I-M-v1.0. {self.advice}"
            )
        return None

    @property
    def path(self) -> Path:
        return Path(self.name).expanduser().resolve()

    @property
    def called(self) -> str:
        """The id, or the last component of the folder: moving the folder does not change it."""
        is_id = re.fullmatch(ID, self.name) and not self.path.is_dir()
        return self.name if is_id else self.path.name

    @property
    def advice(self) -> str:
        return f"Give a folder with {self.key}=FOLDER, or try {self.instead}."

    # ---- the version of the weights

    def at_hand(self, parts: Sequence[str], asked: str | None = None) -> bool:
        """Whether the weights are on this machine, judged by their configuration files alone."""
        return self.path.is_dir() or bool(self.cached(parts, asked))

    def revision(self, parts: Sequence[str], asked: str | None = None) -> str:
        """The version of the weights: a hash of the folder, or a commit.

        Args:
            parts: Subfolders to hash; an empty sequence means all of the folder.
            asked: A commit, tag or branch on the hub. None: the cached commit, else the newest one.
        """
        if self.folder:
            return folder_fingerprint(self.folder, parts)
        return self.cached(parts, asked) or self.newest(asked)

    def cached(self, parts: Sequence[str], asked: str | None = None) -> str | None:
        """The commit in the local cache of the hub, or None if it is not cached."""
        from huggingface_hub import try_to_load_from_cache

        file = Path(*parts[-1:], "config.json")
        path = re.fullmatch(ID, self.name) and try_to_load_from_cache(
            self.name, file.as_posix(), revision=asked
        )
        # the path is …/snapshots/COMMIT/PART/config.json
        return Path(path).parts[-1 - len(file.parts)] if isinstance(path, str) else None

    def newest(self, asked: str | None = None) -> str:
        """The newest commit on the hub, or the full commit of a tag or an abbreviated commit."""
        from huggingface_hub import HfApi

        self.check_reach()
        with self.explained():
            commit = HfApi().model_info(self.name, revision=asked, timeout=10).sha
        assert commit is not None  # of a repository's newest state or of a revision
        return commit

    # ---- the files of the repository

    def config(self, part: str) -> dict:
        """The configuration of a part.

        Raises:
            UserError: The repository has no such part.
        """
        config = self.optional(part)
        if config is None:
            raise UserError(
                f"{self.name} is not a model in diffusers' format that expkit can ask: "
                f"it has no {part}/{NAMES.get(part, 'config.json')}. "
                "Expected what save_pretrained writes: model_index.json, unet/config.json, "
                f"scheduler/scheduler_config.json. {self.advice}"
            )
        return config

    def optional(self, part: str) -> dict | None:
        """The configuration of a part, or None if the repository has no such part."""
        file = NAMES.get(part, "config.json")
        candidates = [f"{part}/{file}"]
        if part in ("unet", "scheduler"):
            candidates.append(file)
        path = next(filter(None, map(self.file, candidates)), None)
        try:
            return path and json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} cannot be read ({error}). "
                f"Get {self.name} again: delete that file, and run the command again."
            ) from None

    def file(self, name: str) -> Path | None:
        """The local path of a file, downloaded if necessary; None if the repository lacks it."""
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import RemoteEntryNotFoundError

        path, is_certain = self.find_locally(name)
        if is_certain:
            return path
        self.check_reach()
        with self.explained():
            try:
                return Path(hf_hub_download(self.name, name))
            except RemoteEntryNotFoundError:
                return None

    def find_locally(self, name: str) -> tuple[Path | None, bool]:
        """Look for a file on this machine only.

        Returns:
            Its path or None; and whether it is certain that the repository has or lacks the file.
        """
        from huggingface_hub import try_to_load_from_cache

        if self.folder:
            path = self.folder / name
            return (path if path.is_file() else None), True
        result = try_to_load_from_cache(self.name, name)
        return (Path(result) if isinstance(result, str) else None), result is not None

    def has(self, name: str) -> bool:
        """Whether the repository has a file. Nothing is downloaded."""
        from huggingface_hub import file_exists

        path, is_certain = self.find_locally(name)
        if is_certain:
            return path is not None
        self.check_reach()
        with self.explained():
            return file_exists(self.name, name)

    def where(self, part: str) -> str:
        """The path prefix of a part in the repository: "PART/", or "" if it is at the top."""
        return f"{part}/" if self.file(f"{part}/config.json") else ""

    def variant(self, part: str, half: bool) -> str | None:
        """The variant of a part's weights to load: "fp16" for half precision, else None.

        Weights on this machine are preferred to weights that would have to be downloaded.

        Args:
            part: The part, such as "unet".
            half: Whether half precision is preferred. The other variant is used if only it exists.

        Raises:
            UserError: There are no weights in the safetensors format.
        """
        prefix = self.where(part)
        variants = ("fp16", None) if half else (None, "fp16")
        for exists in (lambda name: self.find_locally(name)[0], self.has):
            for variant in variants:
                if any(exists(prefix + name) for name in weight_file_names(variant)):
                    return variant
        raise UserError(
            f"{self.name} has no weights in {part}/ as safetensors, and expkit unpickles nothing. "
            f"Expected {part}/diffusion_pytorch_model.safetensors, "
            f"which diffusers' save_pretrained writes. {self.advice}"
        )

    def check_weights(
        self,
        part: str,
        variant: str | None,
        wanted: Mapping[str, tuple[int, ...]],
    ) -> None:
        """Check the weights of a part that are on this machine; weights to be downloaded pass.

        Args:
            part: The part, such as "unet".
            variant: The variant that `variant` returned.
            wanted: The expected shape of each tensor by name.

        Raises:
            UserError: A file is truncated, or tensors are missing or of another shape.
        """
        prefix = self.where(part)
        single, index = weight_file_names(variant)
        try:
            files = [prefix + single]
            index_path = self.find_locally(prefix + index)[0]
            if index_path and not self.find_locally(prefix + single)[0]:
                weight_map = json.loads(index_path.read_text(encoding="utf-8"))["weight_map"]
                files = [prefix + name for name in sorted(set(weight_map.values()))]
            paths = [self.find_locally(name)[0] for name in files]
            headers = [tensor_header(path) for path in paths if path]
        except Exception as error:  # on a damaged file, readers raise errors of any type
            raise self.refusal(error) from None
        if len(headers) < len(files) and not self.folder:
            return
        shapes = {name: shape for header in headers for name, shape in header.items()}
        wrong = [name for name, shape in wanted.items() if shapes.get(name) != shape]
        if wrong:
            raise self.refusal(
                ValueError(
                    f"its weights in {part}/ are not those of the network that {part}/config.json "
                    f"describes: {len(wrong)} of "
                    f"{len(wanted)} tensors are missing or of another shape, {wrong[0]} for one"
                )
            )

    def load(
        self,
        kind: type,
        revision: str | None = None,
        variants: Sequence[str | None] = (None,),
        **options,
    ):
        """Call kind.from_pretrained with the first variant that loads.

        All variants are tried on this machine first, then on huggingface.co.

        Args:
            kind: A class of diffusers or transformers.
            revision: The commit to load from the hub; unused for a folder.
            variants: Variants of the weights in the order of preference, at least one.
            **options: Further arguments of from_pretrained.

        Raises:
            UserError: No variant could be loaded.
            ValueError: `variants` is empty.
        """
        if not variants:
            raise ValueError(f"{self.name}: no variant of its weights to load")
        if not self.folder:
            options["revision"] = revision
        reason: BaseException | None = None
        for offline in (True,) if self.folder else (True, False):
            if not offline:
                self.check_reach()
            for variant in variants:
                arguments = options | ({"variant": variant} if variant else {})
                try:
                    return kind.from_pretrained(
                        str(self.folder or self.name), local_files_only=offline, **arguments
                    )
                except MemoryError:
                    raise
                # missing or damaged files, files of another kind, a gated repository or no network
                except Exception as error:
                    reason = error
        assert reason is not None  # of the last variant
        raise self.refusal(reason)

    # ---- errors

    def check_reach(self) -> None:
        """Raise UserError at once if a request to huggingface.co cannot succeed.

        Without this check, huggingface_hub would retry for half a minute.
        """
        from huggingface_hub import constants, get_token

        if constants.HF_HUB_OFFLINE:
            raise self.unavailable_error("HF_HUB_OFFLINE is set")
        if self.name.startswith(LICENSED) and not get_token():
            raise self.licence_error()
        if not hub_is_reachable():
            raise self.unavailable_error(f"{HOST} cannot be reached")

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn the errors of huggingface_hub into UserError."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            raise self.refusal(error) from None

    def refusal(self, error: BaseException) -> UserError:
        from huggingface_hub import errors

        causes = list(exception_chain(error))
        caused_by = lambda *kinds: any(isinstance(cause, kinds) for cause in causes)
        if caused_by(errors.GatedRepoError):
            return self.licence_error()
        if caused_by(errors.RepositoryNotFoundError):
            return UserError(
                f"There is no repository {self.name} on {HOST} that you may see, "
                "and no folder of that name here. "
                f"Check the name; if it is a private one, run `{LOGIN}`. {self.advice}"
            )
        if caused_by(
            errors.LocalEntryNotFoundError,
            errors.OfflineModeIsEnabled,
            ConnectionError,
            socket.gaierror,
        ):
            return self.unavailable_error(f"{HOST} cannot be reached")
        return UserError(f"{self.name} cannot be loaded ({first_line(error)}). {self.advice}")

    def licence_error(self) -> UserError:
        from huggingface_hub import get_token

        reason = "nobody is logged in here"
        if get_token():
            reason = "the account that is logged in here has not"
        return UserError(
            f"{self.name} is given out only to those who have accepted its licence, and {reason}. "
            f"Accept it at https://{HOST}/{self.name}, "
            f"then run `{LOGIN}` and this command again. {self.advice}"
        )

    def unavailable_error(self, why: str) -> UserError:
        return UserError(
            f"{self.name} is not, or not wholly, on this machine, and {why}. "
            f"Run this command again online. {self.advice}"
        )


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


def tensor_header(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in a safetensors file, by its present name in diffusers."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    return {current_tensor_name(name): tuple(shape) for name, shape in shapes.items()}


def current_tensor_name(name: str) -> str:
    """The present name of a tensor: diffusers renames those of its first versions on loading."""
    renames = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    pattern = r"(?<=\.)(query|key|value|proj_attn)(?=\.(weight|bias)$)"
    return re.sub(pattern, lambda match: renames[match[1]], name)


def weight_file_names(variant: str | None) -> tuple[str, str]:
    """The file names of diffusers for weights: as a single file, and as the index of several."""
    middle = f".{variant}" if variant else ""
    return (
        f"diffusion_pytorch_model{middle}.safetensors",
        f"diffusion_pytorch_model.safetensors.index{middle}.json",
    )


def exception_chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, followed by its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def first_line(error: BaseException) -> str:
    lines = (line.strip().rstrip(".") for line in str(error).splitlines() if line.strip())
    return next(lines, type(error).__name__)


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
