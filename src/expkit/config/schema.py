"""One declaration of each key: its type, its range, whether a list of it is a batch, and what it is. It stands beside the default in conf/:

    steps: 33    #: int >= 1: updates from noise to picture
    gamma: 7     #: float, batch: guidance

Before the second colon stand alternatives, parted by |, and `batch` where a list of such values is a batch. An alternative is

    int, float, bool, str, path (a text that is not empty), prompt (a text or a number), null, [] (an empty list), dict (keys of its own),
    int >= 1, float > 0, float > 0 <= 1, float 0 .. 1, int >= 4 by 4 (a range, and what it is a multiple of),
    list of ALTERNATIVE, or a word for itself

The check, its sentence and the line in --help come from it. A value that only refers to others, such as ${either:${samples},4}, has the
declarations of those, so wiring needs none. Of a composed configuration the declarations are those of the files that were chosen, each
where it was placed; options of a user's own folder of configurations may declare their keys in the same way.

Why not Hydra's structured configs: they know neither ranges nor "a value or a list of values" (OmegaConf's unions hold primitive types
only). Why not a library of schemas: it would be a second place that names each key, when a new prompt is to be one line of YAML, and it
would be imported at each start. Nothing is imported here but the standard library: YAML is read as text.
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
NOUNS = {"int": "a whole number", "float": "a number", "str": "text", "prompt": "text or a number",
         "path": "a path or a name", "null": "null", "[]": "[]", "dict": "a mapping of keys"}  # fmt: skip
MANY = {"int": "whole numbers", "float": "numbers", "str": "texts", "prompt": "texts or numbers"}
KIND = re.compile(
    r"(?P<list>list of )?(?P<name>\S+)"
    r"(?: (?:(?P<sign>>=?) (?P<least>\S+)(?: <= (?P<most>\S+))?|(?P<low>\S+) \.\. (?P<high>\S+)))?(?: by (?P<step>\d+))?"
)
LINE = re.compile(r"(?P<indent> *)(?P<key>[^\s:#'\"-][^:#]*):(?: +(?P<value>.*))?")
CONSTANTS = {"null": None, "true": True, "false": False}
NUMBER = re.compile(
    r"[+-]?(?:(?:0|[1-9]\d*(?:_\d+)*)|(?:\d+\.\d*|\.\d+)(?:e[+-]?\d+)?|\d+e[+-]?\d+|inf|nan)", re.IGNORECASE
)
WORD = re.compile(r"[a-z_][\w .+-]*|'[^'\\${}]*'|\"[^\"\\${}]*\"", re.IGNORECASE)
PLAIN_DEFAULT = re.compile(r"- (?:(?P<group>/[\w/]*/)?(?P<name>\w+)(?:@(?P<package>[\w.]+))?)$")


def config_folder() -> Path:
    """The folder of conf/: inside an installed package, or at the top of a checkout."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parents[1] / "conf"


@dataclass(frozen=True)
class Kind:
    """One alternative of a type. least, most: its range; above: whether `least` itself is outside; step: what it is a multiple of."""

    name: str
    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    step: int = 1
    many: bool = False

    @classmethod
    def parse(cls, text: str) -> Kind:
        found = KIND.fullmatch(text)
        if not found:
            raise ValueError(f"not a type: {text!r}")
        least, most = found["least"] or found["low"] or -math.inf, found["high"] or found["most"] or math.inf
        return cls(
            found["name"],
            float(least),
            float(most),
            found["sign"] == ">",
            int(found["step"] or 1),
            bool(found["list"]),
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
                return isinstance(value, str) or (type(value) in (int, float) and math.isfinite(value))
            case "null":
                return value is None
            case "[]":
                return isinstance(value, list) and not value
            case "dict":
                return isinstance(value, Mapping)
        return str(value) == self.name

    def holds(self, value: float) -> bool:
        return (value > self.least if self.above else value >= self.least) and value <= self.most

    @property
    def noun(self) -> str:
        """In English: a whole number of 1 or more"""
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
    """What a key may be. type: as it is written; batch: whether a list of values is a batch; words: what the key is; default: in YAML."""

    type: str
    batch: bool = False
    words: str = ""
    default: str = ""

    @classmethod
    def parse(cls, text: str, default: str) -> Declaration:
        """text: what follows #: on a key's line."""
        of, _, words = text.partition(": ")
        of = of.rstrip(":").strip()
        declared = cls(of.removesuffix(", batch"), of.endswith(", batch"), words.strip(), default)
        declared.kinds  # noqa: B018  a declaration that cannot be read is found at once
        return declared

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        return tuple(Kind.parse(part.strip()) for part in self.type.split("|"))

    def accepts(self, value) -> bool:
        if self.batch and isinstance(value, list):
            return bool(value) and all(map(self.accepts_one, value))
        return self.accepts_one(value)

    def accepts_one(self, value) -> bool:
        return any(kind.accepts(value) for kind in self.kinds)

    def joined(self, other: Declaration) -> Declaration:
        """What fits one or the other."""
        return Declaration(f"{self.type} | {other.type}", self.batch or other.batch)

    @property
    def noun(self) -> str:
        *first, last = dict.fromkeys(
            noun
            for kind in self.kinds
            for noun in (("true", "false") if kind.name == "bool" else (kind.noun,))
        )
        return f"{', '.join(first)}{',' * any(' ' in one for one in first)} or {last}" if first else last

    def refusal(self, key: str, value) -> UserError:
        """Why `value` does not fit."""
        if isinstance(value, list) and not value:
            return UserError(
                f"{key}=[] is an empty list: give at least one value. {key} is {self.noun}{self.said}."
            )
        wrong = (
            next((one for one in value if not self.accepts_one(one)), value)
            if self.batch and isinstance(value, list)
            else value
        )
        alone = ""
        if isinstance(value, list) and not self.batch and "list" not in self.type:
            alone = f" A list of it is no batch: for one run each write -m {key}={','.join(map(format_value, value))}"
        return UserError(f"{key}={format_value(wrong)} does not fit: {key} is {self.noun}{self.said}.{alone}")

    @property
    def said(self) -> str:
        return f" ({self.words})" if self.words else ""


GROUP = Declaration("dict | null")


def format_value(value) -> str:
    """A value as it is typed, shortened."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = f"[{','.join(map(format_value, value))}]" if isinstance(value, list) else str(value)
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= 60 else f"{text[:57]}…"


def parse_entries(text: str) -> Iterator[tuple[str, str, Declaration | None]]:
    """(path, value as it is written, declaration) of each key of a YAML file in block style, its parents before it."""
    parents: list[tuple[int, str]] = []
    for line in text.splitlines():
        told, _, declared = line.partition(" #: ")
        found = LINE.fullmatch(told.partition(" #")[0].rstrip())
        if not found:
            continue
        indent, key, value = len(found["indent"]), found["key"], (found["value"] or "").strip()
        parents = [(depth, name) for depth, name in parents if depth < indent]
        path = ".".join([name for _, name in parents] + [key])
        yield path, value, Declaration.parse(declared, value) if declared else None
        parents.append((indent, key))


def parse_defaults(text: str) -> Iterator[tuple[str, str, str]]:
    """(group, name, package) of the entries of a defaults list that Hydra's choices do not name: options of the file's own group."""
    inline = re.search(r"^defaults: \[(.*)\]$", text, re.MULTILINE)
    block = re.search(r"^defaults:\n((?: +-.*\n?)*)", text, re.MULTILINE)
    items = (
        [f"- {item.strip()}" for item in inline[1].split(",")]
        if inline
        else block[1].splitlines()
        if block
        else []
    )
    for item in items:
        found = PLAIN_DEFAULT.fullmatch(item.partition(" #")[0].strip())
        if found and found["name"] != "_self_":
            yield (found["group"] or "").strip("/"), found["name"], found["package"] or ""


@cache
def of_file(
    group: str, name: str, package: str, folders: tuple[Path, ...]
) -> dict[str, Declaration | str | None]:
    """What an option's file, and those of its group that it begins with, say of each path: a declaration, an interpolation or nothing."""
    file = next((path for folder in folders if (path := folder / group / f"{name}.yaml").is_file()), None)
    if not file:
        return {}
    text = file.read_text(encoding="utf-8")
    placed = "" if text.startswith("# @package _global_") else package
    found: dict[str, Declaration | str | None] = {}
    for other, base, where in parse_defaults(text):
        found |= of_file(other or group, base, where or placed, folders)
    for inner, value, declared in parse_entries(text):
        path, value = f"{placed}.{inner}".lstrip("."), value.strip("\"'")
        if declared or (value.startswith("${") and not isinstance(found.get(path), Declaration)):
            found[path] = declared or value
        elif value.startswith("{") and isinstance(found.get(path), str):
            found[path] = None  # a node now, where there was a reference to another key
        else:
            found.setdefault(path, None)
    return found


@cache
def top_level_keys() -> dict[str, Declaration]:
    """The declarations of conf/config.yaml, of all keys at the top and of those of sweep."""
    found = of_file("", "config", "", (config_folder(),))
    return {path: declared for path, declared in found.items() if isinstance(declared, Declaration)}


def batch_keys() -> tuple[str, ...]:
    """The keys whose lists are batches, in the order of a sheet's axes."""
    return tuple(key for key, declared in top_level_keys().items() if declared.batch)


def keys_of(*kinds: str) -> tuple[str, ...]:
    """The keys of conf/config.yaml whose values may be of one of these kinds."""
    return tuple(
        key for key, declared in top_level_keys().items() if {kind.name for kind in declared.kinds} & {*kinds}
    )


def prompt_keys() -> tuple[str, ...]:
    """The keys that say what a part of an estimate asks for."""
    return tuple(key for key in keys_of("prompt") if key in batch_keys())


@cache
def find_declarations(
    choices: tuple[tuple[str, str], ...], primary: str = "config", folders: tuple[Path, ...] = ()
) -> dict[str, Declaration]:
    """{path: declaration} of a composed configuration.

    choices: Hydra's, (group@package, option); primary: the name of the first file; folders: where files are looked for before conf/.
    """
    places, found = (*folders, config_folder()), {}
    for choice, option in (("", primary), *choices):
        group, _, package = choice.partition("@")
        of = of_file(group, option, package or group.replace("/", "."), places)
        found |= {
            path: one for path, one in of.items() if isinstance(one, Declaration) or not found.get(path)
        }
    groups = {path[:end] for path in found for end, letter in enumerate(path) if letter == "."}
    groups |= {package for choice, _ in choices if (package := choice.partition("@")[2])}
    declared = {path: one for path, one in found.items() if isinstance(one, Declaration)}
    references = {path: one for path, one in found.items() if isinstance(one, str) and path not in groups}
    referred = {
        path: one for path, text in references.items() if (one := follow_reference(text, found, groups))
    }
    return dict(sorted(declared.items(), key=lambda item: "." in item[0])) | dict(
        sorted(referred.items(), key=by_task)
    )


def by_task(item: tuple[str, Declaration]) -> bool:
    """What a task is given by reference stands last: a sentence names the key that was set."""
    return item[0].startswith("task.")


def follow_reference(
    reference: str, found: Mapping, groups: Iterable[str], seen: tuple[str, ...] = ()
) -> Declaration | None:
    """The declaration of what an interpolation refers to: what fits any of the keys that are named in it; None where none has one."""
    each = []
    for name in re.findall(r"\$\{([\w.]+)\}", reference):
        one = found.get(name)
        if isinstance(one, Declaration):
            each.append(one)
        elif isinstance(one, str) and name not in seen:
            each.append(follow_reference(one, found, groups, (*seen, name)))
        elif name in groups:
            each.append(GROUP)
    return reduce(Declaration.joined, each) if each and all(each) else None


def parse_scalar(text: str):
    """A value as Hydra's grammar reads it, as far as it is a scalar or a list of such; raises ValueError where it may be anything else."""
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        return [parse_scalar(part) for part in text[1:-1].split(",")] if text[1:-1].strip() else []
    if (word := text.lower()) in CONSTANTS:
        return CONSTANTS[word]
    if NUMBER.fullmatch(text):
        return int(text) if re.fullmatch(r"[+-]?\d[\d_]*", text) else float(text)
    if WORD.fullmatch(text):
        return text.strip("\"'")
    raise ValueError(text)


def check_config(config: Mapping, declared: Mapping[str, Declaration]) -> None:
    """Refuse the first value of a resolved configuration that its declaration does not accept."""
    for path, one in declared.items():
        node, parts = config, path.split(".")
        if parts[0] not in config:
            continue
        for depth, part in enumerate(parts):
            if not isinstance(node, Mapping):
                raise UserError(group_value_message(".".join(parts[:depth]), node, declared))
            if part not in node:
                name = ".".join(parts[: depth + 1])
                raise UserError(
                    f"The key {name} is missing: it was taken out of the configuration, and is needed. Leave out ~{name}."
                )
            node = node[part]
        if not one.accepts(node):
            raise one.refusal(path, node)


def group_value_message(key: str, value, declared: Iterable[str]) -> str:
    """A sentence about a value in the place of a group of keys."""
    inner = [path for path in declared if path.startswith(f"{key}.")]
    some = ", ".join(inner[:3])
    return f"{key}={format_value(value)} does not fit: {key} holds keys of its own, such as {some}. Give those: {inner[0]}=VALUE."
