"""The recipe of a run: the text that lies in its folder and inside each of its pictures, and from which it can be made again.

a head of comments: the command, versions, weights, device, conventions
the resolved configuration of this run, and last
ran: what was built from it, the task with all pictures of its batch, and which of them are this run's
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
CONVENTIONS = """# gamma: null + gamma (prompt − null), 0 is unconditional and 1 conditional. mask: white or transparent is repainted.
# i_start: the index on the grid of levels at which a picture is let go; strength: what diffusers' img2img is given to start there.
# sampler strided is the course's mode, sampler diffusers is that of diffusers.
"""
Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Recipe:
    """command: as a shell takes it. facts: what a difference may come from. config: resolved. ran: the task, and its pictures."""

    command: str
    facts: Mapping[str, str]
    config: Mapping
    ran: Mapping

    @property
    def text(self) -> str:
        facts = "".join(f"# {name}: {value}\n" for name, value in self.facts.items())
        ran = json.dumps(
            self.ran, ensure_ascii=True, default=str
        )  # which is YAML too, for machines, and written a hundred times as fast
        return f"# {self.command}\n{facts}{CONVENTIONS}{dump_yaml(self.config)}ran: {ran}\n"

    @classmethod
    def read(cls, text: str, where: str) -> Recipe:
        """A recipe's text; refuses what is none, or what would build anything but expkit's own parts."""
        facts = dict(re.findall(r"^# ([^:\n]+): (.*)$", text.partition("\n# gamma:")[0], re.MULTILINE))
        first = re.match(r"# (.*python -m expkit.*)", text)
        try:
            config = addresses.update_addresses(yaml.load(text, Loader))
            known = cls(first[1], facts, config, config.pop("ran"))
            known.ran["task"]["_target_"], known.ran["pictures"], known.config["model"]
        except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError):
            raise UserError(
                f"{where} holds no recipe of expkit's that can be made again: give a picture or a folder of a run."
            ) from None
        if strange := [name for name in find_targets(known.ran) if name not in checks.known_targets()]:
            raise UserError(
                f"The recipe in {where} would run {strange[0]}, which is not a part of expkit: it is not made again."
            )
        return known


def dump_yaml(table: Mapping) -> str:
    """As YAML, key by key: most of the cells of a sweep have the same under most keys."""
    return "".join(_dumped(json.dumps({key: value}, default=str)) for key, value in table.items())


@lru_cache(maxsize=256)
def _dumped(text: str) -> str:
    return yaml.dump(json.loads(text), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)


def find_targets(node) -> list[str]:
    """Everything that the nodes of a configuration would call."""
    if isinstance(node, Mapping):
        own = [str(node["_target_"])] if "_target_" in node else []
        return own + [name for value in node.values() for name in find_targets(value)]
    return [name for value in node for name in find_targets(value)] if isinstance(node, list) else []


def current_facts(model=None, read: Mapping[str, str] | None = None) -> dict[str, str]:
    """What pictures may depend on: versions, the commit, the weights and where they ran, and hashes of what was read, by name."""
    facts = {**library_versions()}
    if model is not None:
        facts |= {"weights": model.weights or "none", "device": describe_device(str(model.device))}
    return facts | {f"sha256 of {printable_name(name)}": told for name, told in (read or {}).items()}


def printable_name(name: str) -> str:
    """A name in one line, that a head of comments can hold."""
    return re.sub(
        r"[:\s]|" + BREAKS, lambda letter: letter[0] if letter[0] == " " else f"%{ord(letter[0]):02X}", name
    )


def describe_device(device: str) -> str:
    """The device, and how many threads work on it where it is a CPU."""
    import torch

    return (
        f"{device}, {torch.get_num_threads()} threads"
        if device == "cpu"
        else f"{device}, {torch.cuda.get_device_name()}"
    )


@cache
def library_versions() -> dict[str, str]:
    from importlib.metadata import version

    found = {
        "expkit": __version__,
        **{name: version(name) for name in LIBRARIES},
        "Python": platform.python_version(),
    }
    return found | {"git": git_commit() or "unknown"}


def git_commit() -> str | None:
    """The commit of the checkout that expkit runs from, with + where files differ from it."""
    where = Path(__file__).parents[3]
    if not ((where / ".git").exists() and shutil.which("git")):
        return None
    asked = subprocess.run(
        ["git", "-C", str(where), "describe", "--always", "--dirty=+", "--abbrev=12"],
        capture_output=True,
        text=True,
    )
    return asked.stdout.strip() or None
