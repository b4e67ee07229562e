"""Declarations of configuration keys: type, range, whether a list is a batch, and a description.

Each key is declared once, in a comment after its default in conf/:

    steps: 33    #: int >= 1: updates from noise to picture
    gamma: 7     #: float, batch: guidance

Before the second colon are alternatives, separated by |, then `batch` if a list of such values is a
batch. An alternative is one of:

    int, float, bool, str, path (text that is not empty), prompt (text or a number), null,
    [] (an empty list), dict (a mapping with keys of its own),
    int >= 1, float > 0, float > 0 <= 1, float 0 .. 1, int >= 4 by 4 (a range, and a step),
    list of ALTERNATIVE, or a word that stands for itself

The check of a value, its error message and the line in --help are derived from the declaration. A
value that only refers to other keys, such as ${either:${samples},4}, gets their declarations, so it
needs none. The declarations of a composed configuration are those of the chosen files, each at the
place where it was put. Options in a user's own configuration folder can declare keys the same way.

Hydra's structured configs are not used, because they support neither ranges nor "a value or a list
of values" (unions in OmegaConf hold primitive types only). A schema library is not used, because it
would name each key in a second place, while a new prompt should be one line of YAML, and because it
would be imported at each start. This module needs only the standard library: it reads YAML as text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, reduce
from pathlib import Path

from expkit.errors import UserError

PACKAGE = Path(__file__).parents[1]
EXPERIMENT, EXPERIMENTS = "experiment", "experiments"  # a group, and the folder of its options
NOUNS = {"int": "a whole number", "float": "a number", "str": "text", "prompt": "text or a number",
         "path": "a path or a name", "null": "null", "[]": "[]",
         "dict": "a mapping of keys"}  # fmt: skip
MANY = {"int": "whole numbers", "float": "numbers", "str": "texts", "prompt": "texts or numbers"}
KIND = re.compile(
    r"(?P<list>list of )?(?P<name>\S+)"
    r"(?: (?:(?P<sign>>=?) (?P<least>\S+)(?: <= (?P<most>\S+))?|(?P<low>\S+) \.\. (?P<high>\S+)))?"
    r"(?: by (?P<step>\d+))?"
)
LINE = re.compile(r"(?P<indent> *)(?P<key>[^\s:#'\"-][^:#]*):(?: +(?P<value>.*))?")
CONSTANTS = {"null": None, "true": True, "false": False}
NUMBER = re.compile(
    r"[+-]?(?:(?:0|[1-9]\d*(?:_\d+)*)|(?:\d+\.\d*|\.\d+)(?:e[+-]?\d+)?|\d+e[+-]?\d+|inf|nan)",
    re.IGNORECASE,
)
WORD = re.compile(r"[a-z_][\w .+-]*|'[^'\\${}]*'|\"[^\"\\${}]*\"", re.IGNORECASE)
PLAIN_DEFAULT = re.compile(r"- (?:(?P<group>/[\w/]*/)?(?P<name>\w+)(?:@(?P<package>[\w.]+))?)$")


def config_folder() -> Path:
    """The folder conf/: inside an installed package, or at the top of a checkout."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parents[1] / "conf"


def experiments_folder() -> Path:
    """The folder experiments/ beside conf/, which `hydra_plugins` adds to the search path."""
    return config_folder().with_name(EXPERIMENTS)


def group_folder(group: str, folder: Path | None = None) -> Path:
    """The folder of a group's options in a folder of YAML files, by default conf/."""
    folder = folder or config_folder()
    if group == EXPERIMENT and folder == config_folder():
        return experiments_folder()
    return folder / group


@dataclass(frozen=True)
class Kind:
    """One alternative of a type.

    Attributes:
        name: int, float, bool, str, path, prompt, null, [], dict, or a word that stands for itself.
        least: The lower end of the range.
        most: The upper end of the range, which is included.
        above: Whether `least` itself is excluded.
        step: An int must be a multiple of this.
        many: Whether the value must be a list of such values that is not empty.
    """

    name: str
    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    step: int = 1
    many: bool = False

    @classmethod
    def parse(cls, text: str) -> Kind:
        match = KIND.fullmatch(text)
        if not match:
            raise ValueError(f"not a type: {text!r}")
        return cls(
            name=match["name"],
            least=float(match["least"] or match["low"] or -math.inf),
            most=float(match["high"] or match["most"] or math.inf),
            above=match["sign"] == ">",
            step=int(match["step"] or 1),
            many=bool(match["list"]),
        )

    def accepts(self, value) -> bool:
        if self.many:
            return (
                isinstance(value, Sequence)
                and not isinstance(value, str)
                and len(value) > 0
                and all(map(self.accepts_one, value))
            )
        return self.accepts_one(value)

    def accepts_one(self, value) -> bool:
        match self.name:
            case "int":
                return type(value) is int and self.holds(value) and value % self.step == 0
            case "float":
                return type(value) in (int, float) and math.isfinite(value) and self.holds(value)
            case "bool":
                return isinstance(value, bool)
            case "str":
                return isinstance(value, str)
            case "path":
                return isinstance(value, str) and bool(value.strip())
            case "prompt":
                is_number = type(value) in (int, float) and math.isfinite(value)
                return is_number or isinstance(value, str)
            case "null":
                return value is None
            case "[]":
                return isinstance(value, list) and not value
            case "dict":
                return isinstance(value, Mapping)
        return str(value) == self.name

    def holds(self, value: float) -> bool:
        """Whether a number is in the range."""
        return (value > self.least if self.above else value >= self.least) and value <= self.most

    @property
    def noun(self) -> str:
        """The type in English, such as "a whole number of 1 or more"."""
        words = f"a list of {MANY[self.name]}" if self.many else NOUNS.get(self.name, self.name)
        if self.above and self.most < math.inf:
            words += f" above {self.least:.12g} and up to {self.most:.12g}"
        elif self.most < math.inf:
            words += f" from {self.least:.12g} to {self.most:.12g}"
        elif self.least > -math.inf:
            words += f" above {self.least:.12g}" if self.above else f" of {self.least:.12g} or more"
        return words + (f", a multiple of {self.step}" if self.step > 1 else "")


@dataclass(frozen=True)
class Declaration:
    """What the value of a key may be.

    Attributes:
        type: The type as it is written in YAML.
        batch: Whether a list of such values is a batch.
        description: What the key is.
        default: The default as it is written in YAML.
    """

    type: str
    batch: bool = False
    description: str = ""
    default: str = ""

    @classmethod
    def parse(cls, text: str, default: str) -> Declaration:
        """Parse the text that follows #: on the line of a key."""
        kind, _, description = text.partition(": ")
        kind = kind.rstrip(":").strip()
        is_batch = kind.endswith(", batch")
        declaration = cls(kind.removesuffix(", batch"), is_batch, description.strip(), default)
        declaration.kinds  # noqa: B018  raises ValueError now if the type is malformed
        return declaration

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        return tuple(Kind.parse(part.strip()) for part in self.type.split("|"))

    def accepts(self, value) -> bool:
        if self.batch and isinstance(value, list):
            return bool(value) and all(map(self.accepts_one, value))
        return self.accepts_one(value)

    def accepts_one(self, value) -> bool:
        return any(kind.accepts(value) for kind in self.kinds)

    def union(self, other: Declaration) -> Declaration:
        """The declaration of a value that either of the two accepts."""
        return Declaration(f"{self.type} | {other.type}", self.batch or other.batch)

    @property
    def noun(self) -> str:
        """The alternatives in English, such as "a number or null"."""
        nouns = []
        for kind in self.kinds:
            nouns += ["true", "false"] if kind.name == "bool" else [kind.noun]
        *others, last = dict.fromkeys(nouns)
        if not others:
            return last
        comma = "," if any(" " in noun for noun in others) else ""
        return f"{', '.join(others)}{comma} or {last}"

    def refusal(self, key: str, value) -> UserError:
        """The error that says why `value` does not fit."""
        if isinstance(value, list) and not value:
            problem = f"{key}=[] is an empty list: give at least one value."
            return UserError(f"{problem} {key} is {self.noun}{self.description_suffix}.")
        wrong = value
        if self.batch and isinstance(value, list):
            wrong = next((item for item in value if not self.accepts_one(item)), value)
        hint = ""
        if isinstance(value, list) and not self.batch and "list" not in self.type:
            values = ",".join(map(format_value, value))
            hint = f" A list of it is no batch: for one run each write -m {key}={values}"
        problem = f"{key}={format_value(wrong)} does not fit"
        return UserError(f"{problem}: {key} is {self.noun}{self.description_suffix}.{hint}")

    @property
    def description_suffix(self) -> str:
        """The description in parentheses, for messages."""
        return f" ({self.description})" if self.description else ""


GROUP = Declaration("dict | null")


def format_value(value) -> str:
    """A value as a user types it, shortened to 60 characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = f"[{','.join(map(format_value, value))}]" if isinstance(value, list) else str(value)
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= 60 else f"{text[:57]}…"


def parse_entries(text: str) -> Iterator[tuple[str, str, Declaration | None]]:
    """Yield (path, value as written, declaration) of each key in a YAML text, parents first.

    The YAML must be in block style.
    """
    parents: list[tuple[int, str]] = []
    for line in text.splitlines():
        entry, _, declaration = line.partition(" #: ")
        match = LINE.fullmatch(entry.partition(" #")[0].rstrip())
        if not match:
            continue
        indent = len(match["indent"])
        key = match["key"]
        value = (match["value"] or "").strip()
        parents = [(depth, name) for depth, name in parents if depth < indent]
        path = ".".join([name for _, name in parents] + [key])
        yield path, value, Declaration.parse(declaration, value) if declaration else None
        parents.append((indent, key))


def parse_defaults(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield (group, name, package) of each entry in a defaults list that Hydra's choices omit.

    These entries are options of the file's own group.
    """
    inline = re.search(r"^defaults: \[(.*)\]$", text, re.MULTILINE)
    block = re.search(r"^defaults:\n((?: +-.*\n?)*)", text, re.MULTILINE)
    items = []
    if inline:
        items = [f"- {item.strip()}" for item in inline[1].split(",")]
    elif block:
        items = block[1].splitlines()
    for item in items:
        match = PLAIN_DEFAULT.fullmatch(item.partition(" #")[0].strip())
        if match and match["name"] != "_self_":
            yield (match["group"] or "").strip("/"), match["name"], match["package"] or ""


@cache
def read_option_file(
    group: str, name: str, package: str, folders: tuple[Path, ...]
) -> dict[str, Declaration | str | None]:
    """What the file of an option, and the options in its defaults list, say about each path.

    Returns:
        {path: its declaration, an interpolation such as "${samples}", or None for any other value}
    """
    paths = (group_folder(group, folder) / f"{name}.yaml" for folder in folders)
    file = next((path for path in paths if path.is_file()), None)
    if not file:
        return {}
    text = file.read_text(encoding="utf-8")
    prefix = "" if text.startswith("# @package _global_") else package
    entries: dict[str, Declaration | str | None] = {}
    for base_group, base_name, base_package in parse_defaults(text):
        entries |= read_option_file(base_group or group, base_name, base_package or prefix, folders)
    for inner, value, declaration in parse_entries(text):
        path = f"{prefix}.{inner}".lstrip(".")
        value = value.strip("\"'")
        is_reference = value.startswith("${")
        if declaration or (is_reference and not isinstance(entries.get(path), Declaration)):
            entries[path] = declaration or value
        elif value.startswith("{") and isinstance(entries.get(path), str):
            entries[path] = None  # a node replaces a reference to another key
        else:
            entries.setdefault(path, None)
    return entries


@cache
def top_level_keys() -> dict[str, Declaration]:
    """The declarations in conf/config.yaml: all top-level keys, and the keys of sweep."""
    entries = read_option_file("", "config", "", (config_folder(),))
    return {path: entry for path, entry in entries.items() if isinstance(entry, Declaration)}


def batch_keys() -> tuple[str, ...]:
    """The keys whose lists are batches, in the order of the axes of a sheet."""
    return tuple(key for key, declaration in top_level_keys().items() if declaration.batch)


def keys_of(*kinds: str) -> tuple[str, ...]:
    """The keys of conf/config.yaml that accept a value of at least one of these kinds."""
    return tuple(
        key
        for key, declaration in top_level_keys().items()
        if {kind.name for kind in declaration.kinds} & {*kinds}
    )


def prompt_keys() -> tuple[str, ...]:
    """The keys that hold the prompt of a part of an estimate."""
    return tuple(key for key in keys_of("prompt") if key in batch_keys())


@cache
def find_declarations(
    choices: tuple[tuple[str, str], ...], primary: str = "config", folders: tuple[Path, ...] = ()
) -> dict[str, Declaration]:
    """{path: declaration} of a composed configuration.

    Args:
        choices: Hydra's choices, (group@package, option).
        primary: The name of the primary configuration file.
        folders: Folders to search before conf/.
    """
    search_path = (*folders, config_folder())
    entries = {}
    for choice, option in (("", primary), *choices):
        group, _, package = choice.partition("@")
        package = package or group.replace("/", ".")
        option_entries = read_option_file(group, option, package, search_path)
        entries |= {
            path: entry
            for path, entry in option_entries.items()
            if isinstance(entry, Declaration) or not entries.get(path)
        }
    groups = {path[:end] for path in entries for end, letter in enumerate(path) if letter == "."}
    packages = {choice.partition("@")[2] for choice, _ in choices}
    groups |= packages - {""}
    direct = {path: entry for path, entry in entries.items() if isinstance(entry, Declaration)}
    by_reference = {
        path: follow_reference(entry, entries, groups)
        for path, entry in entries.items()
        if isinstance(entry, str) and path not in groups
    }
    by_reference = {path: entry for path, entry in by_reference.items() if entry}
    direct = dict(sorted(direct.items(), key=lambda item: "." in item[0]))
    return direct | dict(sorted(by_reference.items(), key=by_task))


def by_task(item: tuple[str, Declaration]) -> bool:
    """Sort key: keys of the task come last, so that an error names the key that the user set."""
    return item[0].startswith("task.")


def follow_reference(
    reference: str, found: Mapping, groups: Iterable[str], seen: tuple[str, ...] = ()
) -> Declaration | None:
    """The declaration of an interpolation: it accepts what any of the keys in it accepts.

    Args:
        reference: The interpolation, such as "${either:${samples},4}".
        found: The entries of all paths, as `read_option_file` returns them.
        groups: Paths that are mappings.
        seen: Names that are already being followed, to stop at cycles.

    Returns:
        None if no key in it has a declaration, or if a reference to follow has none.
    """
    declarations = []
    for name in re.findall(r"\$\{([\w.]+)\}", reference):
        entry = found.get(name)
        if isinstance(entry, Declaration):
            declarations.append(entry)
        elif isinstance(entry, str) and name not in seen:
            declarations.append(follow_reference(entry, found, groups, (*seen, name)))
        elif name in groups:
            declarations.append(GROUP)
    return reduce(Declaration.union, declarations) if declarations and all(declarations) else None


def parse_scalar(text: str):
    """Parse a scalar, or a list of scalars, as Hydra's grammar does.

    Raises:
        ValueError: The text may be anything else.
    """
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        return [parse_scalar(part) for part in text[1:-1].split(",")] if text[1:-1].strip() else []
    word = text.lower()
    if word in CONSTANTS:
        return CONSTANTS[word]
    if NUMBER.fullmatch(text):
        return int(text) if re.fullmatch(r"[+-]?\d[\d_]*", text) else float(text)
    if WORD.fullmatch(text):
        return text.strip("\"'")
    raise ValueError(text)


def check_config(config: Mapping, declared: Mapping[str, Declaration]) -> None:
    """Check every value of a resolved configuration against its declaration.

    Raises:
        UserError: A value does not fit, or a key is missing. The message is about the first one.
    """
    for path, declaration in declared.items():
        parts = path.split(".")
        node = config
        if parts[0] not in config:
            continue
        for depth, part in enumerate(parts):
            if not isinstance(node, Mapping):
                raise UserError(group_value_message(".".join(parts[:depth]), node, declared))
            if part not in node:
                name = ".".join(parts[: depth + 1])
                raise UserError(
                    f"The key {name} is missing: it was taken out of the configuration, "
                    f"and is needed. Leave out ~{name}."
                )
            node = node[part]
        if not declaration.accepts(node):
            raise declaration.refusal(path, node)


def group_value_message(key: str, value, declared: Iterable[str]) -> str:
    """The error message for a value in the place of a mapping of keys."""
    group = key.rpartition(".")[2]
    if isinstance(value, str) and (group_folder(group) / f"{value}.yaml").is_file():
        return f"{key}={value} chooses an option: write {group}@{key}={value}."
    inner = [path for path in declared if path.startswith(f"{key}.")]
    examples = ", ".join(inner[:3])
    return (
        f"{key}={format_value(value)} does not fit: {key} holds keys of its own, "
        f"such as {examples}. Give those: {inner[0]}=VALUE."
    )
