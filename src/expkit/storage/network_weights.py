"""Which weights files of a pretrained repository are loaded: their variant, and whether they fit.

A network's weights are one safetensors file, or several with an index. Both exist as they were
trained, in half precision (the variant "fp16"), or as both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import NamedTuple

from expkit.storage.repository_errors import RepositoryErrors
from expkit.storage.repository_files import RepositoryFiles


class WeightFileNames(NamedTuple):
    """The file names of diffusers for weights.

    Attributes:
        single: The file, if all weights are in one file.
        index: The index, if they are in several files.
    """

    single: str
    index: str

    @classmethod
    def of(cls, variant: str | None, prefix: str = "") -> WeightFileNames:
        """The names of a variant's files, below the path `prefix` of their folder."""
        middle = f".{variant}" if variant else ""
        return cls(
            f"{prefix}diffusion_pytorch_model{middle}.safetensors",
            f"{prefix}diffusion_pytorch_model.safetensors.index{middle}.json",
        )


@dataclass(frozen=True)
class NetworkWeights:
    """The weights of one network of a repository.

    Attributes:
        part: The part of the repository, such as "unet".
        files: The files of the repository.
        errors: Its errors.
    """

    part: str
    files: RepositoryFiles
    errors: RepositoryErrors

    @cached_property
    def subfolder(self) -> str | None:
        """The folder of the part in the repository; None if its files are at the top."""
        return self.part if self.files.fetch(f"{self.part}/config.json") else None

    def file_names(self, variant: str | None) -> WeightFileNames:
        """The names of a variant's files in the repository."""
        return WeightFileNames.of(variant, f"{self.subfolder}/" if self.subfolder else "")

    def choose_variant(self, half: bool) -> str | None:
        """The variant to load: "fp16" for half precision, else None.

        Weights on this machine are preferred to weights that would have to be downloaded.

        Args:
            half: Whether half precision is preferred. The other variant is used if only it exists.

        Raises:
            UserError: There are no weights in the safetensors format.
        """
        variants = ("fp16", None) if half else (None, "fp16")
        for exists, variant in product((self.files.find_local, self.files.has), variants):
            if any(exists(name) for name in self.file_names(variant)):
                return variant
        raise self.errors.no_weights(self.part)

    def check(self, variant: str | None, wanted: Mapping[str, tuple[int, ...]]) -> None:
        """Check the weights that are on this machine; weights to be downloaded pass.

        Args:
            variant: The variant that `choose_variant` returned.
            wanted: The expected shape of each tensor by name.

        Raises:
            UserError: A file is truncated, or tensors are missing or of another shape.
        """
        names = self.file_names(variant)
        try:
            paths = [self.files.find_local(name) for name in self.loaded_names(names)]
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise self.errors.damaged_weights(names.index, error) from None
        shapes = {}
        for path in filter(None, paths):
            try:
                shapes |= tensor_shapes([path])
            except Exception as error:  # on a damaged file, readers raise errors of any type
                raise self.errors.damaged_weights(path, error) from None
        if None in paths and self.files.can_download:
            return
        wrong = [name for name, shape in wanted.items() if shapes.get(name) != shape]
        if wrong:
            problem = (
                f"its weights in {self.part}/ are not those of the network that "
                f"{self.part}/config.json describes: {len(wrong)} of "
                f"{len(wanted)} tensors are missing or of another shape, {wrong[0]} for one"
            )
            raise self.errors.not_loaded(ValueError(problem))

    def loaded_names(self, names: WeightFileNames) -> list[str]:
        """The names of the weights files that are loaded: the single one, or those of the index."""
        index = self.files.find_local(names.index)
        if not index or self.files.find_local(names.single):
            return [names.single]
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        folder = Path(names.index).parent
        return [(folder / name).as_posix() for name in sorted(set(weight_map.values()))]


def tensor_shapes(paths: list[Path]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in safetensors files, by its present name in diffusers."""
    from safetensors import safe_open

    shapes = {}
    for path in paths:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118
                shapes[current_tensor_name(name)] = tuple(file.get_slice(name).get_shape())
    return shapes


def current_tensor_name(name: str) -> str:
    """The present name of a tensor: diffusers renames those of its first versions on loading."""
    renames = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    pattern = r"(?<=\.)(query|key|value|proj_attn)(?=\.(weight|bias)$)"
    return re.sub(pattern, lambda match: renames[match[1]], name)
