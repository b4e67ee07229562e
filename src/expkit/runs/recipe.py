"""The recipe of a run: a text in its folder and in each of its pictures, from which to repeat it.

It consists of
- comments at the top: the command, versions, weights, device and conventions,
- the resolved configuration of this run,
- `ran`: the task with all pictures of its batch, and which of them belong to this run.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import yaml

from expkit import __version__
from expkit.config import addresses, checks
from expkit.config.command_line import BREAKS
from expkit.errors import UserError

LIBRARIES = ("torch", "hydra-core", "pillow")
CONVENTIONS = (
    "# gamma: null + gamma (prompt − null), 0 is unconditional and 1 conditional. "
    "mask: white or transparent is repainted.\n"
    "# i_start: the index on the grid of levels at which a picture is let go; "
    "strength: what diffusers' img2img is given to start there.\n"
    "# sampler strided is the course's mode, sampler diffusers is that of diffusers.\n"
)
Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Recipe:
    """A recipe.

    Attributes:
        command: The command, quoted for a shell.
        facts: {name: value} of what may explain differences between pictures.
        config: The resolved configuration.
        ran: The task of the batch, and the pictures of this run.
    """

    command: str
    facts: Mapping[str, str]
    config: Mapping
    ran: Mapping

    @property
    def text(self) -> str:
        facts = "".join(f"# {name}: {value}\n" for name, value in self.facts.items())
        # only programs read this part; JSON is also YAML, and is written a hundred times as fast
        ran = json.dumps(self.ran, ensure_ascii=True, default=str)
        return f"# {self.command}\n{facts}{CONVENTIONS}{dump_yaml(self.config)}ran: {ran}\n"

    @classmethod
    def read(cls, text: str, where: str) -> Recipe:
        """Parse the text of a recipe.

        Args:
            text: The text.
            where: Where the text is from, for messages.

        Raises:
            UserError: The text is not a recipe, or it would call code that is not part of expkit.
        """
        head = text.partition("\n# gamma:")[0]
        facts = dict(re.findall(r"^# ([^:\n]+): (.*)$", head, re.MULTILINE))
        command = re.match(r"# (.*python -m expkit.*)", text)
        try:
            config = addresses.update_addresses(yaml.load(text, Loader))
            if command is None:
                raise ValueError("no command")
            recipe = cls(command[1], facts, config, config.pop("ran"))
            _ = recipe.ran["task"]["_target_"], recipe.ran["pictures"], recipe.config["model"]
        except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError):
            raise UserError(
                f"{where} holds no recipe of expkit's that can be made again: "
                "give a picture or a folder of a run."
            ) from None
        allowed = checks.known_targets()
        foreign = [name for name in find_targets(recipe.ran) if name not in allowed]
        if foreign:
            raise UserError(
                f"The recipe in {where} would run {foreign[0]}, "
                "which is not a part of expkit: it is not made again."
            )
        return recipe


def dump_yaml(table: Mapping) -> str:
    """Convert a table to YAML, key by key, with a cache for each key.

    In a sweep, most runs have the same value under most keys.
    """
    entries = (json.dumps({key: value}, default=str) for key, value in table.items())
    return "".join(map(_json_to_yaml, entries))


@lru_cache(maxsize=256)
def _json_to_yaml(text: str) -> str:
    table = json.loads(text)
    return yaml.dump(table, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)


def find_targets(node) -> list[str]:
    """Every `_target_` in a configuration."""
    if isinstance(node, Mapping):
        own = [str(node["_target_"])] if "_target_" in node else []
        return own + [name for value in node.values() for name in find_targets(value)]
    if isinstance(node, list):
        return [name for value in node for name in find_targets(value)]
    return []


def current_facts(model=None, read: Mapping[str, str] | None = None) -> dict[str, str]:
    """What pictures may depend on: versions, commit, weights, device, and hashes of input files.

    Args:
        model: The model, if any.
        read: {name: hash} of the input files.
    """
    facts = {**library_versions()}
    if model is not None:
        device = describe_device(str(model.device))
        facts |= {"weights": model.weights or "none", "device": device}
    hashes = {f"sha256 of {printable_name(name)}": digest for name, digest in (read or {}).items()}
    return facts | hashes


def printable_name(name: str) -> str:
    """A name that fits in a comment of a recipe: colons, line breaks and the like become %XX."""

    def escape(match: re.Match) -> str:
        return match[0] if match[0] == " " else f"%{ord(match[0]):02X}"

    return re.sub(r"[:\s]|" + BREAKS, escape, name)


def describe_device(device: str) -> str:
    """The device, with the number of threads of a CPU or the name of a CUDA GPU."""
    import torch

    kind = torch.device(device).type
    if kind == "cpu":
        return f"{device}, {torch.get_num_threads()} threads"
    return f"{device}, {torch.cuda.get_device_name(device)}" if kind == "cuda" else device


@cache
def library_versions() -> dict[str, str]:
    from importlib.metadata import version

    return {
        "expkit": __version__,
        **{name: version(name) for name in LIBRARIES},
        "Python": platform.python_version(),
        "git": git_commit() or "unknown",
    }


def git_commit() -> str | None:
    """The commit of the checkout of expkit, with "+" if files differ from it; None without git."""
    root = Path(__file__).parents[3]
    if not ((root / ".git").exists() and shutil.which("git")):
        return None
    process = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=12"],
        capture_output=True,
        text=True,
    )
    return process.stdout.strip() or None
