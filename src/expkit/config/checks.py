"""Checks of the command line, the --help page, and messages for errors of Hydra and the machine.

This module reads YAML as text and identifies Hydra's errors by class name, so that --help needs
neither Hydra nor torch.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from textwrap import fill

from expkit.config import schema
from expkit.config.addresses import FORMER_TARGETS, current_address
from expkit.config.command_line import CommandLine, shell_quote
from expkit.config.schema import Declaration, config_folder, top_level_keys
from expkit.errors import UserError, suggest

NAMES = schema.keys_of("prompt", "path")  # keys whose values are texts, names and paths
GROUPS = {
    "task": "what is made",
    "model": "which network answers",
    "sampler": "how it goes from noise to picture",
    "grid": "which levels a sampler visits: grid@sampler.grid=karras",
    "trainer": "task=train: the recipe",
    "schedule": "task=train: how noise grows: schedule@trainer.objective.schedule=cosine",
    "data": "train, evaluate, generalize: the pictures",
    "logger": "where the run's folder is shown too",
    "estimate": "what the network is asked; nests: estimate@task.estimate.far=anagram",
    "pin": "what must stay: pin@task.pin=picture",
    "judges": "who reads the pictures: judges@model.judges=clip",
    "film": "what is kept of the way: film@task.film=frames",
    "view": "how a part of an anagram is seen: view@task.estimate.views.turned=flip",
    "experiment": "a whole command under a name",
}
USAGE = (
    (
        "expkit task=TASK [KEY=VALUE …]",
        "one run: pictures, numbers and its recipe in a folder of its own",
    ),
    ("expkit -m KEY=VALUE,VALUE …", "a sweep: one run for each combination"),
    ("expkit replay=FILE.png", "a picture, or all of a run's FOLDER, again from its recipe"),
    ("expkit dashboard", "TensorBoard and the page of the newest sweep, in a browser"),
    ("expkit app", "draw, paint and type in a browser"),
    ("python -m expkit …", "the same"),
)
COMMANDS = (
    (
        'expkit task=hybrid far="a skull" near="a rocket"',
        "a picture that is a skull from afar and a rocket close by",
    ),
    (
        'expkit task=sample prompt=["a dog","a cat"] gamma=[1,5]',
        "two prompts at two strengths of guidance, in one batch",
    ),
    ('expkit task=anagram upright="a dog" turned="a cat"', "a dog that is a cat when it is turned"),
    ("expkit model=digits task=anagram upright=6 turned=9", "the same of handwritten digits"),
    ("expkit task=inpaint estimate@task.estimate=hybrid", "tasks combine: a hybrid inside a mask"),
    ("expkit -m task=sdedit i_start=3,7,10", "a sweep: one run for each i_start"),
)


def group_options(group: str) -> dict[str, str]:
    """{option: first comment line of its file} of a group.

    Options whose names start with an underscore are omitted: only other options use them.
    """
    files = sorted(schema.group_folder(group).glob("*.yaml"))
    return {
        file.stem: first_comment(file.read_text(encoding="utf-8"))
        for file in files
        if not file.stem.startswith("_")
    }


def known_targets() -> set[str]:
    """Every `_target_` in the YAML files of conf/, or of older ones, as a present import path."""
    texts = [file.read_text(encoding="utf-8") for file in config_folder().rglob("*.yaml")]
    targets = (name for text in texts for name in re.findall(r"_target_: *[\"']?([\w.]+)", text))
    return {*FORMER_TARGETS, *map(current_address, targets)}


def first_comment(text: str) -> str:
    """The first line of a YAML file after an optional `# @package` line, without its #."""
    lines = (line for line in text.splitlines() if not line.startswith("# @package"))
    return next(lines).lstrip("# ")


def help_page() -> str:
    """The page that --help prints."""
    syntax = "KEY=VALUE, and what a value may be; a list KEY=[A,B] of a key that says batch is one"
    page = [
        "expkit: experiments with diffusion models. Every task is one equation, so tasks combine.",
        "",
        *[f"  {command:<37}{description}" for command, description in USAGE],
        "",
        "Try",
        *[f"  {command:<56} {description}" for command, description in COMMANDS],
        "",
        f"Keys  ({syntax})",
    ]
    for name, declaration in top_level_keys().items():
        if declaration.type != "[]":
            page.append(help_line(name, declaration))
    for group, description in GROUPS.items():
        options = group_options(group)
        width = max(map(len, options), default=0)
        page += ["", f"{group}  ({description})"]
        page += [f"  {name:<{width}}  {line}" for name, line in options.items()]
    page += [
        "",
        "Every other setting is in the YAML files and can be set too: "
        "trainer.epochs=2, sampler.rule.variance=large.",
        "--cfg job prints the whole configuration; hydra.run.dir=FOLDER says where to; "
        "HYDRA_FULL_ERROR=1 shows tracebacks.",
    ]
    return "\n".join(page)


def help_line(key: str, declared: Declaration) -> str:
    """The line of a key on the help page: description, type, and default if not a reference."""
    default = "" if declared.default.startswith("$") else f"  [{declared.default}]"
    batch = ", batch" if declared.batch else ""
    text = f"{declared.description}  ({declared.type}{batch}){default}"
    first = f"  {key:<14} "
    return fill(text, 130, initial_indent=first, subsequent_indent=" " * 17, break_long_words=False)


def check_overrides(arguments: Sequence[str]) -> None:
    """Check the form of overrides.

    Raises:
        UserError: An argument is not KEY=VALUE, adds a key that does not exist, or removes a key or
            group that every run needs.
    """
    check_additions(arguments)
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        name = key.lstrip("~").partition("@")[0]
        if argument.startswith("~"):
            check_removal(argument, name)
        elif not equals:
            hint = suggest(key, [*top_level_keys(), *GROUPS], " Did you mean {}=…?")
            raise UserError(
                f"{argument!r} is no KEY=VALUE.{hint} "
                "Text with spaces needs quotes around the whole of it: 'KEY=TEXT'."
            )


def check_values(line: CommandLine) -> None:
    """Check the values on the command line as far as possible without Hydra, which takes a second.

    It skips values that are not plain scalars or lists, and commands that use experiments, YAML
    files of their own or overrides of Hydra. After composition, all values are checked.

    Raises:
        UserError: A value does not fit its declaration. The message is about the first one.
    """
    prefixes = ("experiment", "hydra")
    if line.sources or any(argument.startswith(prefixes) for argument in line.overrides):
        return
    text = (config_folder() / "config.yaml").read_text(encoding="utf-8")
    overrides = {}  # if a key is repeated, its last value counts
    for argument in line.overrides:
        key, equals, value = argument.partition("=")
        if equals:
            overrides[key.lstrip("+")] = value
    defaults = dict(re.findall(r"^  - (\w+): (\w+)$", text, re.MULTILINE))
    choices = {key: option for key, option in overrides.items() if key.partition("@")[0] in GROUPS}
    declarations = schema.find_declarations(tuple((defaults | choices).items()))
    for key, value in overrides.items():
        if key not in declarations:
            continue
        with suppress(ValueError):
            scalar = schema.parse_scalar(value)
            if not declarations[key].accepts(scalar):
                raise declarations[key].refusal(key, scalar)


def check_removal(argument: str, name: str) -> None:
    """Check an argument ~KEY.

    Nested keys and Hydra's own keys may be removed; top-level keys and groups may not.
    """
    if name in GROUPS:
        options = group_options(name)
        instead = f"choose another: {name}={' or '.join(options)}"
        if "none" in options:
            instead = f"choose nothing: {name}=none"
    elif name in top_level_keys():
        declaration = top_level_keys()[name]
        noun = declaration.noun.capitalize()
        instead = f"give another value: {name}=VALUE. {noun}: {declaration.description}"
    elif "." in name or name.startswith("hydra"):
        return
    else:
        hint = suggest(name, [*top_level_keys(), *GROUPS])
        raise UserError(f"{argument}: there is no key {name!r}.{hint}")
    raise UserError(
        f"{argument}: every run has {name}, which cannot be removed. "
        f"Leave it out for what it is by itself, or {instead}"
    )


def check_additions(arguments: Sequence[str]) -> None:
    """Check arguments +KEY=VALUE: Hydra would accept any new key.

    Only options of nested groups, Lightning's arguments and Hydra's own keys may be added.
    """
    for argument in arguments:
        key, _, _ = argument.lstrip("+").partition("=")
        group, _, package = key.partition("@")
        allowed = key.startswith(("hydra", "trainer.lightning.")) or (package and group in GROUPS)
        if argument.startswith("+") and not allowed:
            reason = "keys of parts are set"
            if "." not in key and "/" not in key:
                reason = f"{unknown_key_message(key)} Keys are set"
            raise UserError(
                f"{argument}: nothing can be added to the configuration, "
                f"and {reason} without the plus: {argument.lstrip('+')}."
            )


def unknown_key_message(key: str) -> str:
    """A sentence about a key that may not exist."""
    keys = [*top_level_keys(), *GROUPS]
    if key in keys:
        return f"the key {key} is there already: write {key}=VALUE."
    return f"there is no key {key!r}.{suggest(key, keys)}"


def error_message(error: BaseException, arguments: Sequence[str]) -> str | None:
    """The message for a user about an error, or None if the error is a bug in expkit.

    Args:
        error: An error of expkit, Hydra, OmegaConf, YAML or the operating system.
        arguments: The arguments of the command.
    """
    text = str(error).strip()
    kind = type(error).__name__
    if isinstance(error, UserError):
        return text
    is_wrapper = kind in ("HydraException", "ConfigCompositionException")
    if is_wrapper and isinstance(error.__cause__, UserError):
        return str(error.__cause__)
    chain = (error, error.__cause__, error.__context__)
    causes = [type(cause).__name__ for cause in chain if cause]
    options = getattr(error, "options", None)
    if "MissingConfigException" in causes and options is not None:
        return no_option(getattr(error, "missing_cfg_file", ""), options)
    if kind in CONFIG_ERRORS:
        return CONFIG_ERRORS[kind](error, text, arguments)
    if type(error).__module__.startswith("yaml") or kind in ("UnicodeDecodeError", "ReaderError"):
        return yaml_error_message(error)
    if kind == "HydraException":
        return text.splitlines()[0] if text else None
    return system_error_message(error, text, arguments)


def system_error_message(
    error: BaseException, text: str, arguments: Sequence[str]
) -> str | None:  # fmt: skip
    """The message about folders, files, memory or numbers, or None if the error is a bug."""
    kind = type(error).__name__
    missing_path = r"provider=(hydra.searchpath).*, path=(.*) is not available\."
    if kind == "UserWarning" and (match := re.fullmatch(missing_path, text)):
        return (
            f"There is no folder {match[2]} to seek YAML in: "
            f"{match[1]}=[file://FOLDER] expects folders that are there."
        )
    if isinstance(error, OSError) and text.startswith("Invalid loaded object type"):
        return (
            f"A file of YAML that this command reads holds {text.rpartition(' ')[2]}, "
            "where keys and values are expected, KEY: VALUE."
        )
    if isinstance(error, OSError):
        return write_error_message(error, arguments)
    if isinstance(error, ValueError) and ("null byte" in text or "null character" in text):
        problem = "A path holds a NUL character, which no file's name has."
        return f"{problem} Look into the YAML that you gave."
    if kind in ("OutOfMemoryError", "MemoryError") or "can't allocate memory" in text:
        return no_memory(text, arguments)
    if isinstance(error, OverflowError) or "overflow" in text.lower():
        return (
            "A number in this command is too large to reckon with"
            f"{large_arguments(arguments)}. Give a smaller one."
        )
    return None


def write_error_message(error: OSError, arguments: Sequence[str]) -> str | None:
    """The message about a file or folder that could not be written, or None for other errors."""
    name = error.filename2 or error.filename
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"There is no space left to write {name or 'the run'}. "
            "Free some, or give another disk with hydra.run.dir=FOLDER."
        )
    if error.errno == errno.ENAMETOOLONG:
        pairs = [argument.partition("=")[::2] for argument in arguments]
        long_keys = (key for key, value in pairs if len(value) > 200 and value[:100] in str(name))
        culprit = next(long_keys, None)
        subject = f"{culprit}=… names" if culprit else "The command names"
        return (
            f"{subject} a file or folder of {len(str(name))} letters, "
            f"more than this machine allows: {str(name)[:40]}… Give a shorter one."
        )
    folders = [
        value
        for key, _, value in (argument.partition("=") for argument in arguments)
        if key in ("hydra.run.dir", "hydra.sweep.dir")
    ]
    in_folders = any(str(name) in folder for folder in folders)
    not_writable = PermissionError | FileExistsError | NotADirectoryError | IsADirectoryError
    if (isinstance(error, FileNotFoundError) and in_folders) or isinstance(error, not_writable):
        advice = "Give another folder with hydra.run.dir=FOLDER."
        return f"{name} cannot be written ({error.strerror}). {advice}"
    return None


def no_memory(text: str, arguments: Sequence[str]) -> str:
    """The message about a lack of memory, or about a size that exceeds all memory."""
    request = re.search(r"allocate (\d+) bytes", text)
    is_huge = re.search(r"Unable to allocate .*[PEZY]iB", text)
    if is_huge or (request and int(request[1]) > total_memory()):
        size = f"{int(request[1]) / 1e9:,.0f} GB" if request else "more than a petabyte"
        total = f"{total_memory() / 1e9:,.0f} GB"
        return (
            f"This asks for {size} of memory at once, and the machine has {total}: "
            f"a number is too large{large_arguments(arguments)}."
        )
    advice = "Try fewer samples, or split each forward with model.max_rows=16."
    return f"There is not enough memory. {advice}"


def total_memory() -> int:
    """The physical memory of this machine in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def large_arguments(arguments: Sequence[str]) -> str:
    """The arguments with a number of 5000 or more, in parentheses; "" if there are none."""
    large = []
    for argument in arguments:
        numbers = re.findall(r"\d+(?:_\d+)*(?:\.\d+)?(?:e\+?\d+)?", argument.partition("=")[2])
        if any(float(number) >= 5000 for number in numbers):
            large.append(argument)
    return f" ({', '.join(large)})" if large else ""


def parse_error_message(error: BaseException, arguments: Sequence[str]) -> str:
    """The message about an argument that Hydra's grammar rejects, with a form that it accepts."""
    override = getattr(error, "override", None)
    culprit = next((argument for argument in arguments if argument == override), override or "")
    key, _, value = culprit.partition("=")
    problem = f"The argument {culprit} cannot be read."
    if not re.fullmatch(r"[~+]*[\w./@:-]+", key):
        advice = "give KEY=VALUE, without spaces before the equals sign."
        return f"{problem} {key!r} is no key: {advice}"
    if value.count("${") > value.count("}"):
        return (
            f"{problem} ${{ begins what stands for another key, as ${{seed}} does, "
            "and is not closed. \\${ are the letters themselves."
        )
    if value.startswith("[") and value.count("[") > value.count("]"):
        corrected = shell_quote(f"{culprit}]")
        return f"{problem} A list that begins with [ is not closed: {corrected}"
    is_text = key.endswith(("weights", "folder", "dir", "imported", "prompt"))
    if key.lstrip("+") not in NAMES and not is_text:
        return (
            f"{problem} A list is {key}=[A,B], several values for -m are {key}=A,B, "
            f"and text with commas or brackets is '{key}=\"TEXT\"'."
        )
    corrected = shell_quote(f"{key}={text_of(value)}")
    return f"{problem} Text with commas, brackets or quotes needs quotes inside quotes: {corrected}"


def text_of(value: str) -> str:
    """Quote a text for Hydra's grammar, in place of quotes around it or at one end."""
    inner = value.strip()
    for mark in "\"'":
        is_quoted = len(inner) > 1 and inner[0] == inner[-1] == mark
        inner = inner[1:-1] if is_quoted else inner
    inner = inner[1:] if inner[:1] in ("'", '"') and inner.count(inner[0]) % 2 else inner

    def escape(match: re.Match) -> str:
        return match[1] * 2 + ("\\" + match[2] if match[2] else "")

    return '"{}"'.format(re.sub(r'(\\*)("|\Z)', escape, inner))


def interpolation_error_message(error: BaseException, text: str, arguments: Sequence[str]) -> str:
    """The message about an interpolation ${…} that cannot be resolved."""
    first = text.splitlines()[0]
    if first.startswith("UserError raised while resolving interpolation: "):
        return first.removeprefix("UserError raised while resolving interpolation: ")
    path = (re.search(r"full_key: (\S+)", text) or ["", ""])[1]
    if match := re.search(r"Environment variable '([^']*)' not found", first):
        name = match[1]
        user = f", which {path} stands for," if path else ""
        advice = f"{name}=VALUE python -m expkit … sets it; ${{oc.env:{name},VALUE}} does without"
        return f"The environment variable {name}{user} is not set: {advice}."
    if match := re.search(r"Interpolation key '([^']+)' not found", first):
        key = match[1]
        pattern = r"\$\{\s*" + re.escape(key)
        culprit = next((argument for argument in arguments if re.search(pattern, argument)), None)
        if culprit:
            hint = suggest(key, [*top_level_keys(), *GROUPS])
            return f"{culprit}: there is no key {key!r}.{hint}"
        placements = [argument for argument in arguments if "@" in argument.partition("=")[0]]
        if placements:
            problem = f"{path or 'one'} needs {key!r}, which is not there"
            advice = f"Leave out {placements[-1]}."
            return f"The parts of this command do not fit together: {problem}. {advice}"
        removal = next((argument for argument in arguments if argument.startswith("~")), None)
        advice = "Look into the YAML that you gave, or into the experiment."
        if removal:
            advice = f"Leave out {removal}."
        subject = path or "The configuration"
        return f"{subject} stands for ${{{key}}}, which is not there. {advice}"
    return f"{path + ': ' if path else ''}{first.rstrip('.')}."


def error_with_key(error: BaseException, text: str) -> str:
    """The first line of an error of OmegaConf, with the key that it is about."""
    first = text.splitlines()[0]
    path = (re.search(r"full_key: (\S+)", text) or ["", ""])[1]
    return first if not path or path in first else f"{path}: {first}"


def yaml_error_message(error: BaseException) -> str:
    """The message about a file that is not valid YAML."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    name = getattr(mark, "name", None) or getattr(error, "name", None)
    place = name or "A file of YAML that this command reads"
    if mark:
        place = f"{name}, line {mark.line + 1},"
    reason = getattr(error, "problem", None) or getattr(error, "reason", None)
    reason = reason or str(error).splitlines()[0]
    return f"{place} cannot be read as YAML: {reason}."


def no_configuration(error: BaseException, text: str) -> str:
    """The message about a missing primary YAML file (--config-name), or a missing folder."""
    name = getattr(error, "missing_cfg_file", None)
    if not name:
        return f"{text.splitlines()[0]} See --help."
    parent = re.match(r"In '([^']+)'", text)
    names = [path.stem for path in config_folder().glob("*.yaml")]
    places = re.findall(r"path=(?:file://)?([^\s\]]+)", text)
    folders = [place for place in places if "://" not in place]
    location = f" in {' or '.join(folders)}" if folders else ""
    reason = "--config-name names the first file of YAML"
    if parent:
        reason = f"it stands in the defaults of {parent[1]}.yaml"
    file = f"{str(name).removesuffix('.yaml')}.yaml"
    return f"There is no {file}{location}: {reason}.{suggest(name, names)}"


def no_option(missing: str, known: list[str]) -> str:
    """The message about an option that its group lacks.

    Args:
        missing: GROUP/OPTION.
        known: The options of the group.
    """
    group, _, name = missing.removesuffix(".yaml").rpartition("/")
    group = group.lstrip("/")
    if group == "hydra/launcher" and name in ("joblib", "submitit_local", "submitit_slurm"):
        return (
            f"hydra/launcher={name} is a package of its own, which is not installed: "
            "pip install 'expkit[cluster]'"
        )
    options = [option for option in known if not option.startswith("_")]
    hint = suggest(name, options)
    return f"There is no {group} {name!r}.{hint} There are: {', '.join(sorted(options))}."


def compose_error_message(error: BaseException, text: str, arguments: Sequence[str]) -> str:
    """The message about a configuration that Hydra cannot compose."""
    first = (text.splitlines() or ["The configuration cannot be composed"])[0]
    cause = error.__cause__
    kind = type(cause).__name__
    if cause and kind.startswith(("Interpolation", "GrammarParse")):
        return interpolation_error_message(cause, str(cause), arguments)
    if cause and kind == "ValidationError":
        return error_with_key(cause, str(cause))
    if key := getattr(cause, "full_key", None):
        parent, _, last = str(key).rpartition(".")
        removals = [argument for argument in arguments if argument.startswith("~")]
        removal = next((item for item in removals if str(key).startswith(item.lstrip("~"))), None)
        if removal:
            problem = f"{removal}: every run has {key}, which cannot be removed."
            return f"{problem} Leave this argument out."
        siblings = [str(sibling) for sibling in (getattr(cause, "parent_node", None) or [])]
        keys = siblings if parent else [*top_level_keys(), *GROUPS]
        place = f"{parent}." if parent else ""
        return f"There is no key {key!r}." + suggest(last, keys, f" Did you mean {place}{{}}?")
    if match := re.search(r"Could not override '([^']+)'", text):
        group = match[1].split("@")[0]
        hint = suggest(group, GROUPS) if group not in GROUPS else ""
        if places := re.search(r"Did you mean to override (?:one of )?(.+)\?", text):
            first_place = places[1].split(", ")[0]
            known = f"This run has {places[1]}: write {first_place}=…"
            return f"There is no group {match[1]!r} to choose from. {known}"
        if match[1] == "grid@sampler.grid":
            hint = (
                " sampler=own and sampler=ays have levels of their own: name another sampler in the same "
                "command, such as sampler=dpmpp; in a sweep over samplers, one command for each."
            )
        return f"There is no group {match[1]!r} to choose from.{hint} See --help."
    already = r"Could not (?:append|add) to config\. An item is already at '([^']+)'"
    if match := re.search(already, text):
        return f"The key {match[1]} is there already: write {match[1]}=VALUE, without the plus."
    if match := re.search(r"Sweep parameters '(.+)' requires --multirun", text):
        return f"{match[1]} stands for several values: -m sweeps them, one run for each."
    if "Ambiguous value for argument" in text:
        culprit = (re.search(r"Ambiguous value for argument '([^']+)'", text) or ["", ""])[1]
        key, _, value = culprit.partition("=")
        sweep = shell_quote(culprit)
        batch = shell_quote(f"{key}=[{value}]")
        quoted = shell_quote(f"{key}={text_of(value)}")
        advice = f"For one run each write -m {sweep}; for one batch {batch}; for one text {quoted}"
        return f"{culprit} has several values. {advice}"
    return first + (f" ({cause})" if cause else "")


def instantiation_error_message(error: BaseException, text: str) -> str:
    """The message about a node whose `_target_` cannot be called."""
    key = (re.search(r"full_key: (\S+)", text) or ["", "the configuration"])[1]
    reason = str(error.__cause__ or text.splitlines()[0]).splitlines()[0]
    return f"{key} cannot be made: {reason}."


# The messages about errors of Hydra and OmegaConf, by the name of the error's class.
CONFIG_ERRORS: dict[str, Callable[[BaseException, str, Sequence[str]], str | None]] = {
    "OverrideParseException": lambda error, text, arguments: parse_error_message(error, arguments),
    "MissingConfigException": lambda error, text, arguments: no_configuration(error, text),
    "InterpolationKeyError": interpolation_error_message,
    "InterpolationResolutionError": interpolation_error_message,
    "InterpolationToMissingValueError": interpolation_error_message,
    "GrammarParseError": interpolation_error_message,
    "ConfigCompositionException": compose_error_message,
    "MissingMandatoryValue": lambda error, text, arguments: error_with_key(error, text),
    "ValidationError": lambda error, text, arguments: error_with_key(error, text),
    "ConfigKeyError": lambda error, text, arguments: error_with_key(error, text),
    "ConfigAttributeError": lambda error, text, arguments: error_with_key(error, text),
    "UnsupportedInterpolationType": lambda error, text, arguments: error_with_key(error, text),
    "InstantiationException": lambda error, text, arguments: instantiation_error_message(
        error, text
    ),
}  # fmt: skip
