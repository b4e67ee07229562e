"""The command line: Hydra's own options, and the KEY=VALUE that it calls overrides. Parsed before Hydra is imported."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from expkit.errors import UserError, suggest

INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
PLACES = {
    "config_path": "--config-path",
    "config_name": "--config-name",
    "config_dir": "--config-dir",
}  # where configurations are from
WORDS = {
    "cfg": "--cfg",
    "package": "--package",
    "info": "--info",
    "experimental_rerun": "--experimental-rerun",
}
FLAGS = ("resolve", "run", "multirun", "shell_completion", "hydra_help", "version", "help")
ALONE = ("run", "multirun", "cfg", "info", "shell_completion")  # of which one command has one
ELSEWHERE = (
    "hydra.run.",
    "hydra.sweep.",
    "hydra.verbose",
    "hydra/launcher",
    "hydra.launcher.",
)  # where and by what, not what
SWEEPERS = (
    "hydra/sweeper",
    "hydra.sweeper.",
    "hydra.mode",
)  # what is done with several, which one run has no use for
BREAKS = r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]"  # control characters and what YAML takes for the end of a line

QUOTED = re.compile(r"""\"(?:\\.|[^"\\])*\"|'(?:\\.|[^'\\])*'""")
PIECE = re.compile(rf"""{QUOTED.pattern}|[^,\[\]()"']+""")
TEXT = re.compile(r"(\s*)(.*?)(\s*)", re.DOTALL)


class Parser(argparse.ArgumentParser):
    """Hydra's options, as Hydra reads them; errors are refusals."""

    def __init__(self) -> None:
        super().__init__(add_help=False)
        self.add_argument("overrides", nargs="*")
        for short, name in (("-h", "help"), ("-r", "run"), ("-m", "multirun"), ("-sc", "shell-completion")):
            self.add_argument(f"--{name}", short, action="store_true")
        for name in ("hydra-help", "version", "resolve"):
            self.add_argument(f"--{name}", action="store_true")
        self.add_argument("--cfg", "-c", choices=("job", "hydra", "all"))
        self.add_argument("--info", "-i", nargs="?", const="all", choices=INFO)
        names = (("-p", "package"), ("-cp", "config-path"), ("-cn", "config-name"), ("-cd", "config-dir"))
        for short, name in names:
            self.add_argument(f"--{name}", short)
        self.add_argument("--experimental-rerun")

    def error(self, message: str):
        if match := re.match(r"unrecognized arguments: (.*)", message):
            word = match[1].split()[0]
            key = word.lstrip("-")
            known = [name for name in self._option_string_actions if name.startswith("--")]
            near = f" Keys are set without dashes: {key}." if "=" in key else suggest(word, known)
            raise UserError(f"There is no option {word}.{near} See --help.")
        raise UserError(f"{message.removeprefix('argument ')}. See --help.".replace("..", "."))


@dataclass(frozen=True)
class CommandLine:
    """options: {name: value} of Hydra's own options that are given. overrides: KEY=VALUE, ~KEY and +KEY=VALUE, in typed order."""

    options: Mapping[str, str | bool]
    overrides: tuple[str, ...]

    @classmethod
    def of(cls, arguments: Sequence[str]) -> CommandLine:
        """Options and overrides may stand in any order. Folders and the like are checked; what cannot go together is refused."""
        found = vars(Parser().parse_intermixed_args([*arguments]))
        overrides = tuple(map(quote_non_ascii, found.pop("overrides")))
        line = cls({name: value for name, value in found.items() if value not in (None, False)}, overrides)
        line.check()
        return line

    def check(self) -> None:
        if len(several := [name for name in ALONE if name in self.options]) > 1:
            told = " and ".join(f"--{name.replace('_', '-')}" for name in several)
            raise UserError(
                f"{told} do not go together: a command runs, sweeps, or shows its configuration. Leave all but one out."
            )
        if "resolve" in self.options and "cfg" not in self.options:
            raise UserError("--resolve says how --cfg shows a configuration: add --cfg job.")
        if "package" in self.options and "cfg" not in self.options:
            raise UserError("--package says which part of a configuration --cfg shows: add --cfg job.")
        shells = [
            argument
            for argument in self.overrides
            if argument.startswith(("install=", "uninstall=", "query="))
        ]
        if "shell_completion" in self.options and len(shells) != 1:
            example = 'eval "$(expkit --shell-completion install=bash)"'
            raise UserError(f"--shell-completion needs one of install=SHELL and uninstall=SHELL: {example}")
        for name in ("config_dir", "config_path"):
            place = self.options.get(name)
            if place is not None and "://" not in place and not os.path.isdir(place):
                what = "is a file" if os.path.exists(place) else "is not there"
                raise UserError(f"{PLACES[name]} expects a folder of YAML files, and {place!r} {what}.")
        for argument in self.overrides:
            if not argument.partition("=")[0].strip():
                raise UserError(
                    f"An argument is {argument!r}, which has no key: give KEY=VALUE, or leave it out."
                )

    @property
    def many(self) -> bool:
        return "multirun" in self.options

    @property
    def typed(self) -> list[str]:
        """Arguments that mean the same, as Hydra takes them: options first, folders from the root."""
        flags = [f"--{name.replace('_', '-')}" for name in FLAGS if name in self.options]
        places = [f"{flag}={self.place(name)}" for name, flag in PLACES.items() if name in self.options]
        return [
            *flags,
            *places,
            *(f"{flag}={self.options[name]}" for name, flag in WORDS.items() if name in self.options),
            *self.overrides,
        ]

    def place(self, name: str) -> str:
        value = str(self.options[name])
        return value if name == "config_name" or "://" in value else os.path.abspath(value)

    @property
    def sources(self) -> list[str]:
        """Where its configurations come from, other than from expkit's own conf/."""
        told = [
            f"{flag}={self.place(name).removesuffix('.yaml')}"
            for name, flag in PLACES.items()
            if name in self.options
        ]
        return [option for option in told if option != "--config-name=config"]

    @property
    def asked(self) -> list[str]:
        """What decides what is made: sources, and then overrides; Hydra's own first, for that is how Hydra keeps them."""
        return self.asked_of(self.sources)

    def asked_of(self, sources: Sequence[str]) -> list[str]:
        kept = [
            argument
            for argument in self.overrides
            if not argument.startswith(ELSEWHERE) and argument != "hydra.mode=MULTIRUN"
        ]
        return [*sources, *filter(is_hydra, kept), *(argument for argument in kept if not is_hydra(argument))]


def quote_non_ascii(argument: str) -> str:
    """KEY=VALUE with quotes around what has letters beyond ASCII, which Hydra's grammar takes in quotes alone: prompt=猫,café.

    What is quoted already, has escapes of its own, or braces (a mapping, ${…}), stays as it is.
    """
    key, equals, value = argument.partition("=")
    bare = QUOTED.sub("", value)
    if bare.isascii() or set("\"'{}\\") & set(bare):
        return argument
    whole = lambda piece: (
        piece if piece[0] in "\"'" or piece.isascii() else TEXT.fullmatch(piece).expand(r'\1"\2"\3')
    )
    return key + equals + PIECE.sub(lambda match: whole(match[0]), value)


def is_hydra(argument: str) -> bool:
    """Whether an override is of Hydra's own configuration."""
    return argument.lstrip("+~").startswith(("hydra.", "hydra/", "hydra="))


def relative_path(path: str) -> str:
    """A path as it is told from here, where it lies below."""
    inner = os.path.relpath(path)
    return path if inner.startswith("..") else inner


def shell_command(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """The command of these arguments, as a shell takes it."""
    told = [f"{name}={shell_quote(value)}" for name, value in (environment or {}).items()]
    return " ".join([*told, "python -m expkit", *map(shell_quote, arguments)])


def shell_quote(argument: str) -> str:
    """In one line: what would break it is written as bash does, $'…'."""
    if not re.search(BREAKS, argument):
        return shlex.quote(argument)
    told = re.sub(r"[\\']", r"\\\g<0>", argument)
    return "$'{}'".format(
        re.sub(
            BREAKS, lambda m: "".join(f"\\{byte:03o}" for byte in m[0].encode(errors="surrogateescape")), told
        )
    )
