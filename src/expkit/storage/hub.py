"""Pretrained weights in a local folder, or in a repository on huggingface.co at one commit.

The parts of a repository are subfolders (unet/config.json, text_encoder/…). In the oldest
repositories of diffusers they are at the top (config.json, scheduler_config.json). The checks
before a run read JSON only, and do not import torch.

repository_files.py    where its files lie: in a folder, in the cache of the hub, or on the hub
network_weights.py     which of them are the weights of a network
repository_errors.py   its errors as sentences
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

from expkit.storage.network_weights import NetworkWeights
from expkit.storage.repository_errors import RepositoryErrors
from expkit.storage.repository_files import FolderFiles, HubFiles, RepositoryFiles, is_id

INDEX = "model_index.json"
CONFIG_NAMES = {
    "scheduler": "scheduler_config.json",
    "image_noising_scheduler": "scheduler_config.json",
    "tokenizer": "tokenizer_config.json",
    "tokenizer_2": "tokenizer_config.json",
    "tokenizer_3": "tokenizer_config.json",
}


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

    @property
    def errors(self) -> RepositoryErrors:
        return RepositoryErrors(self.name, self.key, self.holds, self.instead)

    @property
    def path(self) -> Path:
        return Path(self.name).expanduser().resolve()

    @property
    def called(self) -> str:
        """The id, or the last component of the folder: moving the folder does not change it."""
        return self.name if is_id(self.name) and not self.path.is_dir() else self.path.name

    @cached_property
    def files(self) -> RepositoryFiles:
        """Its files.

        Raises:
            UserError: The name is neither that of a folder nor an id of huggingface.co.
        """
        if self.path.is_dir():
            return FolderFiles(self.path)
        if self.path.is_file():
            raise self.errors.single_file()
        if self.path.exists() or not is_id(self.name):
            raise self.errors.no_folder()
        return HubFiles(self.name, self.errors)

    def weights(self, part: str) -> NetworkWeights:
        """The weights of a part, such as "unet"."""
        return NetworkWeights(part, self.files, self.errors)

    def at_hand(self, parts: Sequence[str], asked: str | None = None) -> bool:
        """Whether the weights are on this machine, judged by their configuration files alone."""
        if self.path.is_dir() or not is_id(self.name):
            return self.path.is_dir()
        return HubFiles(self.name, self.errors).cached_commit(parts, asked) is not None

    def revision(self, parts: Sequence[str], asked: str | None = None) -> str:
        """The version of the weights: a hash of the folder, or a commit.

        Args:
            parts: Subfolders to hash; an empty sequence means all of the folder.
            asked: A commit, tag or branch on the hub. None: the cached commit, else the newest one.
        """
        return self.files.revision(parts, asked)

    @cached_property
    def index(self) -> dict:
        """Its model_index.json: the class of the pipeline, and those of the pipeline's parts.

        Raises:
            UserError: The repository has none, or it cannot be read.
        """
        path = self.files.fetch(INDEX)
        if path is None:
            raise self.errors.no_index()
        return self.read_json(path)

    def read_json(self, path: Path) -> dict:
        """A JSON file with an object in it; raises UserError if it is damaged."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise ValueError(f"expected an object in braces, not a {type(content).__name__}")
            return content
        except (OSError, ValueError) as error:
            raise self.errors.damaged_config(path, error) from None

    def config(self, part: str) -> dict:
        """The configuration of a part.

        Raises:
            UserError: The repository has no such part.
        """
        config = self.optional(part)
        if config is None:
            raise self.errors.no_part(f"{part}/{CONFIG_NAMES.get(part, 'config.json')}")
        return config

    def optional(self, part: str) -> dict | None:
        """The configuration of a part, or None if the repository has no such part."""
        file = CONFIG_NAMES.get(part, "config.json")
        candidates = [f"{part}/{file}"]
        if part in ("unet", "scheduler"):
            candidates.append(file)
        path = next(filter(None, map(self.files.fetch, candidates)), None)
        return self.read_json(path) if path else None

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
        options |= self.files.load_options(revision)
        reasons: list[BaseException] = []
        offline_first = (True, False) if self.files.can_download else (True,)
        for is_offline, variant in product(offline_first, variants):
            if not is_offline:
                self.files.check_reach()
                if variant == variants[0]:
                    reasons.clear()
            arguments = options | ({"variant": variant} if variant else {})
            arguments["local_files_only"] = is_offline
            try:
                return kind.from_pretrained(self.files.source, **arguments)
            except MemoryError:
                raise
            # missing or damaged files, files of another kind, a gated repository or no network
            except Exception as error:
                reasons.append(error)
        # that a variant is not there says less than what is wrong with one that is
        telling = [reason for reason in reasons if "no file named" not in str(reason)]
        raise self.errors.not_loaded((telling or reasons)[0])
