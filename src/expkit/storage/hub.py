"""Pretrained weights: a folder of this machine, or a repository of huggingface.co at one commit; and what is said when they cannot be had.

A repository's parts are folders of their own (unet/config.json, text_encoder/…), or, in the oldest ones of diffusers, lie at the top
(config.json, scheduler_config.json). What is on this machine is used as it is; only what is missing is asked for. What is asked before
a run reads JSON only, and imports no torch.
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
LICENSED = (
    "DeepFloyd/",
)  # owners whose repositories are given out only to those who have accepted a licence
PIECE = 1 << 20


@dataclass(frozen=True)
class Repository:
    """What save_pretrained has written, in a folder or on the hub.

    name: a folder, or an id such as DeepFloyd/IF-I-M-v1.0. key: the key of the command line that names it. holds: what lies in it.
    instead: what else to try.
    """

    name: str
    key: str = "model.weights"
    holds: str = "model_index.json, unet/, scheduler/"
    instead: str = "the model that ships, model=digits"

    @cached_property
    def folder(self) -> Path | None:
        """The folder, or None for an id of huggingface.co; refuses what is neither."""
        if self.path.is_dir():
            return self.path
        if self.path.exists() or not re.fullmatch(ID, self.name):
            raise UserError(
                f"There is no folder {self.name}. Expected one that save_pretrained has written ({self.holds}), or a repository of "
                f"{HOST} such as DeepFloyd/IF-I-M-v1.0. {self.advice}"
            )
        return None

    @property
    def path(self) -> Path:
        return Path(self.name).expanduser().resolve()

    @property
    def called(self) -> str:
        """The id, or the folder's own name: weights stay the same when their folder is moved."""
        return self.name if re.fullmatch(ID, self.name) and not self.path.is_dir() else self.path.name

    @property
    def advice(self) -> str:
        return f"Give a folder with {self.key}=FOLDER, or try {self.instead}."

    # ---- which weights they are

    def at_hand(self, parts: Sequence[str], asked: str | None = None) -> bool:
        """Whether the weights are on this machine, as far as their configuration tells."""
        return self.path.is_dir() or bool(self.cached(parts, asked))

    def revision(self, parts: Sequence[str], asked: str | None = None) -> str:
        """A hash of a folder's `parts` (none: all of it), or a commit: the cache's, else huggingface.co's newest or the one asked for."""
        return (
            folder_fingerprint(self.folder, parts)
            if self.folder
            else self.cached(parts, asked) or self.newest(asked)
        )

    def cached(self, parts: Sequence[str], asked: str | None = None) -> str | None:
        """The commit that the cache holds, if it does."""
        from huggingface_hub import try_to_load_from_cache

        file = Path(*parts[-1:], "config.json")
        found = re.fullmatch(ID, self.name) and try_to_load_from_cache(
            self.name, file.as_posix(), revision=asked
        )
        return (
            Path(found).parts[-1 - len(file.parts)] if isinstance(found, str) else None
        )  # …/snapshots/COMMIT/PART/config.json

    def newest(self, asked: str | None = None) -> str:
        """The newest commit, or the one that a tag or a short form names."""
        from huggingface_hub import HfApi

        self.check_reach()
        with self.explained():
            return HfApi().model_info(self.name, revision=asked, timeout=10).sha

    # ---- what lies in them

    def config(self, part: str) -> dict:
        """A part's configuration; refuses a repository that lacks it."""
        found = self.optional(part)
        if found is None:
            raise UserError(
                f"{self.name} is not a model in diffusers' format that expkit can ask: it has no {part}/{NAMES.get(part, 'config.json')}. "
                f"Expected what save_pretrained writes: model_index.json, unet/config.json, scheduler/scheduler_config.json. {self.advice}"
            )
        return found

    def optional(self, part: str) -> dict | None:
        """A part's configuration, or None where there is none."""
        file = NAMES.get(part, "config.json")
        top = [file] if part in ("unet", "scheduler") else []
        path = next((path for name in [f"{part}/{file}", *top] if (path := self.file(name))), None)
        try:
            return path and json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} cannot be read ({error}). Get {self.name} again: delete that file, and run the command again."
            ) from None

    def file(self, name: str) -> Path | None:
        """A file of the repository, downloaded where need be; None where there is none."""
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import RemoteEntryNotFoundError

        here, known = self.here(name)
        if known:
            return here
        self.check_reach()
        with self.explained():
            try:
                return Path(hf_hub_download(self.name, name))
            except RemoteEntryNotFoundError:
                return None

    def here(self, name: str) -> tuple[Path | None, bool]:
        """A file where it lies on this machine, or None; and whether that settles whether there is one."""
        from huggingface_hub import try_to_load_from_cache

        if self.folder:
            path = self.folder / name
            return (path if path.is_file() else None), True
        found = try_to_load_from_cache(self.name, name)
        return (Path(found) if isinstance(found, str) else None), found is not None

    def has(self, name: str) -> bool:
        """Whether it has a file, which is not downloaded."""
        from huggingface_hub import file_exists

        here, known = self.here(name)
        if known:
            return here is not None
        self.check_reach()
        with self.explained():
            return file_exists(self.name, name)

    def where(self, part: str) -> str:
        """The folder of a part inside the repository: its own, or "" for the top."""
        return f"{part}/" if self.file(f"{part}/config.json") else ""

    def variant(self, part: str, half: bool) -> str | None:
        """Which of a part's weights to load: those in half precision ("fp16") where that is wanted or all there is, else None.

        What is on this machine goes before what would have to be downloaded.
        """
        where, order = self.where(part), ("fp16", None) if half else (None, "fp16")
        for there in (lambda name: self.here(name)[0], self.has):
            for variant in order:
                if any(there(where + name) for name in weight_file_names(variant)):
                    return variant
        raise UserError(
            f"{self.name} has no weights in {part}/ as safetensors, and expkit unpickles nothing. Expected "
            f"{part}/diffusion_pytorch_model.safetensors, which diffusers' save_pretrained writes. {self.advice}"
        )

    def check_weights(self, part: str, variant: str | None, wanted: Mapping[str, tuple[int, ...]]) -> None:
        """Refuse weights on this machine that are cut off, or lack tensors of these names and shapes; what is to be downloaded passes."""
        where, (single, index) = self.where(part), weight_file_names(variant)
        try:
            files = [where + single]
            if (listing := self.here(where + index)[0]) and not self.here(where + single)[0]:
                files = [
                    where + name
                    for name in sorted(
                        set(json.loads(listing.read_text(encoding="utf-8"))["weight_map"].values())
                    )
                ]
            shapes = [tensor_header(path) for name in files if (path := self.here(name)[0])]
        except Exception as error:  # a damaged file makes readers raise anything
            raise self.refusal(error) from None
        if len(shapes) < len(files) and not self.folder:
            return
        found = {name: shape for table in shapes for name, shape in table.items()}
        wrong = [name for name, shape in wanted.items() if found.get(name) != shape]
        if wrong:
            raise self.refusal(
                ValueError(
                    f"its weights in {part}/ are not those of the network that {part}/config.json describes: {len(wrong)} of "
                    f"{len(wanted)} tensors are missing or of another shape, {wrong[0]} for one"
                )
            )

    def load(
        self, kind: type, revision: str | None = None, variants: Sequence[str | None] = (None,), **options
    ):
        """kind.from_pretrained with the first of the variants that is on this machine, else from huggingface.co."""
        if not self.folder:
            options["revision"] = revision
        reason = None
        for offline in (True,) if self.folder else (True, False):
            if not offline:
                self.check_reach()
            for variant in variants:
                chosen = options | ({"variant": variant} if variant else {})
                try:
                    return kind.from_pretrained(
                        str(self.folder or self.name), local_files_only=offline, **chosen
                    )
                except MemoryError:
                    raise
                except (
                    Exception
                ) as error:  # files are missing, damaged or of something else, the hub is gated or far
                    reason = error
        raise self.refusal(reason)

    # ---- why they cannot be had

    def check_reach(self) -> None:
        """Refuse at once what asking huggingface.co could only end in: the library would try for half a minute."""
        from huggingface_hub import constants, get_token

        if constants.HF_HUB_OFFLINE:
            raise self.away("HF_HUB_OFFLINE is set")
        if self.name.startswith(LICENSED) and not get_token():
            raise self.unlicensed()
        if not hub_is_reachable():
            raise self.away(f"{HOST} cannot be reached")

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Whatever huggingface_hub raises, as a sentence."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            raise self.refusal(error) from None

    def refusal(self, error: BaseException) -> UserError:
        from huggingface_hub import errors

        causes = list(exception_chain(error))
        found = lambda *kinds: any(isinstance(cause, kinds) for cause in causes)
        if found(errors.GatedRepoError):
            return self.unlicensed()
        if found(errors.RepositoryNotFoundError):
            return UserError(
                f"There is no repository {self.name} on {HOST} that you may see, and no folder of that name here. "
                f"Check the name; if it is a private one, run `{LOGIN}`. {self.advice}"
            )
        if found(
            errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError, socket.gaierror
        ):
            return self.away(f"{HOST} cannot be reached")
        return UserError(f"{self.name} cannot be loaded ({first_line(error)}). {self.advice}")

    def unlicensed(self) -> UserError:
        from huggingface_hub import get_token

        why = "the account that is logged in here has not" if get_token() else "nobody is logged in here"
        return UserError(
            f"{self.name} is given out only to those who have accepted its licence, and {why}. Accept it at https://{HOST}/{self.name}, "
            f"then run `{LOGIN}` and this command again. {self.advice}"
        )

    def away(self, why: str) -> UserError:
        return UserError(
            f"{self.name} is not, or not wholly, on this machine, and {why}. Run this command again online. {self.advice}"
        )


def folder_fingerprint(here: Path, parts: Sequence[str]) -> str:
    """A hash of every file's name, size and content; of a file over 16 MB, of 16 pieces of its content."""
    if missing := [part for part in parts if not (here / part).is_dir()]:
        raise UserError(
            f"The folder {here} has no {missing[0]!r} in it. Expected one with {' and '.join(parts)}, as save_pretrained writes."
        )
    digest = hashlib.sha256()
    for path in sorted(
        path for part in parts or [""] for path in (here / part).rglob("[!.]*") if path.is_file()
    ):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(here).as_posix()} {size}\n".encode())
        with path.open("rb") as file:
            for start in range(0, size, max(PIECE, size // 16)):
                file.seek(start)
                digest.update(file.read(PIECE))
    return digest.hexdigest()


def tensor_header(path: Path) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a safetensors file's tensors; those of attention blocks as diffusers calls them today."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return {current_tensor_name(name): tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def current_tensor_name(name: str) -> str:
    """The name of a tensor today: diffusers translates those of its first versions when it loads them."""
    old = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    return re.sub(
        r"(?<=\.)(query|key|value|proj_attn)(?=\.(weight|bias)$)", lambda found: old[found[1]], name
    )


def weight_file_names(variant: str | None) -> tuple[str, str]:
    """The names under which diffusers saves weights: in one file, or as the index of several."""
    middle = f".{variant}" if variant else ""
    return (
        f"diffusion_pytorch_model{middle}.safetensors",
        f"diffusion_pytorch_model.safetensors.index{middle}.json",
    )


def exception_chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def first_line(error: BaseException) -> str:
    return next(
        (line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__
    )


def hub_is_reachable() -> bool:
    """Whether the name huggingface.co means anything here; behind a proxy only asking tells."""
    if urllib.request.getproxies().keys() & {"https", "all"}:
        return True
    try:
        socket.getaddrinfo(HOST, 443)
    except OSError:
        return False
    return True
