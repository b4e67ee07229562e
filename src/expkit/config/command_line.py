"""Parse the command line without Hydra: its own options, and the overrides KEY=VALUE."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from expkit.errors import UserError, suggest

INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
# options that say where configuration files are
PLACES = {
    "config_path": "--config-path",
    "config_name": "--config-name",
    "config_dir": "--config-dir",
}
WORDS = {
    "cfg": "--cfg",
    "package": "--package",
    "info": "--info",
    "experimental_rerun": "--experimental-rerun",
}
FLAGS = ("resolve", "run", "multirun", "shell_completion", "hydra_help", "version", "help")
ALONE = ("run", "multirun", "cfg", "info", "shell_completion")  # at most one of these in a command
# prefixes of overrides that say where and by which launcher a run is executed, not what it makes
ELSEWHERE = (
    "hydra.run.",
    "hydra.sweep.",
    "hydra.verbose",
    "hydra/launcher",
    "hydra.launcher.",
)
# prefixes of overrides about sweeps, which have no meaning for a single run
SWEEPERS = (
    "hydra/sweeper",
    "hydra.sweeper.",
    "hydra.mode",
)
# control characters, line separators, the byte order mark and surrogates
BREAKS = r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]"

QUOTED = re.compile(r"""\"(?:\\.|[^"\\])*\"|'(?:\\.|[^'\\])*'""")
PIECE = re.compile(rf"""{QUOTED.pattern}|[^,\[\]()"']+""")
TEXT = re.compile(r"(\s*)(.*?)(\s*)", re.DOTALL)


class Parser(argparse.ArgumentParser):
    """Hydra's own options, parsed as Hydra parses them. Errors are raised as UserError."""

    def __init__(self) -> None:
        super().__init__(add_help=False)
        self.add_argument("overrides", nargs="*")
        for short, name in (
            ("-h", "help"),
            ("-r", "run"),
            ("-m", "multirun"),
            ("-sc", "shell-completion"),
        ):
            self.add_argument(f"--{name}", short, action="store_true")
        for name in ("hydra-help", "version", "resolve"):
            self.add_argument(f"--{name}", action="store_true")
        self.add_argument("--cfg", "-c", choices=("job", "hydra", "all"))
        self.add_argument("--info", "-i", nargs="?", const="all", choices=INFO)
        names = (
            ("-p", "package"),
            ("-cp", "config-path"),
            ("-cn", "config-name"),
            ("-cd", "config-dir"),
        )
        for short, name in names:
            self.add_argument(f"--{name}", short)
        self.add_argument("--experimental-rerun")

    def error(self, message: str):
        if match := re.match(r"unrecognized arguments: (.*)", message):
            word = match[1].split()[0]
            key = word.lstrip("-")
            options = [name for name in self._option_string_actions if name.startswith("--")]
            is_key = "=" in key
            hint = f" Keys are set without dashes: {key}." if is_key else suggest(word, options)
            raise UserError(f"There is no option {word}.{hint} See --help.")
        raise UserError(f"{message.removeprefix('argument ')}. See --help.".replace("..", "."))


@dataclass(frozen=True)
class CommandLine:
    """A parsed command line.

    Attributes:
        options: {name: value} of Hydra's own options that were given.
        overrides: KEY=VALUE, ~KEY and +KEY=VALUE in the order they were typed.
    """

    options: Mapping[str, str | bool]
    overrides: tuple[str, ...]

    @classmethod
    def of(cls, arguments: Sequence[str]) -> CommandLine:
        """Parse arguments; options and overrides may be in any order.

        Raises:
            UserError: An option is unknown, options cannot be combined, or a folder is missing.
        """
        parsed = vars(Parser().parse_intermixed_args([*arguments]))
        overrides = tuple(map(quote_non_ascii, parsed.pop("overrides")))
        options = {name: value for name, value in parsed.items() if value not in (None, False)}
        line = cls(options, overrides)
        line.check()
        return line

    def check(self) -> None:
        modes = [name for name in ALONE if name in self.options]
        if len(modes) > 1:
            flags = " and ".join(f"--{name.replace('_', '-')}" for name in modes)
            raise UserError(
                f"{flags} do not go together: a command runs, sweeps, or shows its configuration. "
                "Leave all but one out."
            )
        if "resolve" in self.options and "cfg" not in self.options:
            raise UserError("--resolve says how --cfg shows a configuration: add --cfg job.")
        if "package" in self.options and "cfg" not in self.options:
            purpose = "--package says which part of a configuration --cfg shows"
            raise UserError(f"{purpose}: add --cfg job.")
        shells = [
            argument
            for argument in self.overrides
            if argument.startswith(("install=", "uninstall=", "query="))
        ]
        if "shell_completion" in self.options and len(shells) != 1:
            example = 'eval "$(expkit --shell-completion install=bash)"'
            problem = "--shell-completion needs one of install=SHELL and uninstall=SHELL"
            raise UserError(f"{problem}: {example}")
        for name in ("config_dir", "config_path"):
            place = self.options.get(name)
            if isinstance(place, str) and "://" not in place and not os.path.isdir(place):
                problem = "is a file" if os.path.exists(place) else "is not there"
                expected = f"{PLACES[name]} expects a folder of YAML files"
                raise UserError(f"{expected}, and {place!r} {problem}.")
        for argument in self.overrides:
            if not argument.partition("=")[0].strip():
                problem = f"An argument is {argument!r}, which has no key"
                raise UserError(f"{problem}: give KEY=VALUE, or leave it out.")

    @property
    def many(self) -> bool:
        """Whether the command is a sweep (--multirun)."""
        return "multirun" in self.options

    @property
    def typed(self) -> list[str]:
        """Equivalent arguments for Hydra: options first, then overrides; folders are absolute."""
        flags = [f"--{name.replace('_', '-')}" for name in FLAGS if name in self.options]
        places = [f"{PLACES[name]}={self.place(name)}" for name in PLACES if name in self.options]
        words = [f"{WORDS[name]}={self.options[name]}" for name in WORDS if name in self.options]
        return [*flags, *places, *words, *self.overrides]

    def place(self, name: str) -> str:
        value = str(self.options[name])
        return value if name == "config_name" or "://" in value else os.path.abspath(value)

    @property
    def sources(self) -> list[str]:
        """The options that name configuration files outside expkit's own conf/."""
        options = [
            f"{flag}={self.place(name).removesuffix('.yaml')}"
            for name, flag in PLACES.items()
            if name in self.options
        ]
        return [option for option in options if option != "--config-name=config"]

    @property
    def identity_arguments(self) -> list[str]:
        """The arguments that decide what is made: `sources`, then overrides.

        Overrides of Hydra's own configuration come first, because Hydra stores them in this order.
        """
        return self.identity_arguments_with(self.sources)

    def identity_arguments_with(self, sources: Sequence[str]) -> list[str]:
        overrides = [
            argument
            for argument in self.overrides
            if not argument.startswith(ELSEWHERE) and argument != "hydra.mode=MULTIRUN"
        ]
        others = (argument for argument in overrides if not is_hydra(argument))
        return [*sources, *filter(is_hydra, overrides), *others]


def quote_non_ascii(argument: str) -> str:
    """Quote the parts of KEY=VALUE that have non-ASCII letters, such as prompt=猫,café.

    Hydra's grammar accepts such letters in quotes only. Parts in quotes are left unchanged. So is a
    value with braces (a mapping, ${…}), a backslash or an unmatched quote outside quoted parts.
    """
    key, equals, value = argument.partition("=")
    unquoted = QUOTED.sub("", value)
    if unquoted.isascii() or set("\"'{}\\") & set(unquoted):
        return argument

    def quote(match: re.Match) -> str:
        piece = match[0]
        if piece[0] in "\"'" or piece.isascii():
            return piece
        text = TEXT.fullmatch(piece)
        assert text is not None  # it matches every text
        return text.expand(r'\1"\2"\3')

    return key + equals + PIECE.sub(quote, value)


def is_hydra(argument: str) -> bool:
    """Whether an override is of Hydra's own configuration."""
    return argument.lstrip("+~").startswith(("hydra.", "hydra/", "hydra="))


def without_hydra(arguments: Sequence[str]) -> list[str]:
    """Those of the arguments that are not of Hydra's own configuration."""
    return [argument for argument in arguments if not is_hydra(argument)]


def relative_path(path: str) -> str:
    """A path relative to the current folder if it is inside that folder, else unchanged."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def shell_command(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """The command with these arguments, quoted for a shell."""
    variables = [f"{name}={shell_quote(value)}" for name, value in (environment or {}).items()]
    return " ".join([*variables, "python -m expkit", *map(shell_quote, arguments)])


def shell_quote(argument: str) -> str:
    """Quote an argument for a shell in one line; line breaks are escaped as in bash, $'…'."""
    if not re.search(BREAKS, argument):
        return shlex.quote(argument)

    def to_octal(match: re.Match) -> str:
        return "".join(f"\\{byte:03o}" for byte in match[0].encode(errors="surrogateescape"))

    escaped = re.sub(r"[\\']", r"\\\g<0>", argument)
    return f"$'{re.sub(BREAKS, to_octal, escaped)}'"
