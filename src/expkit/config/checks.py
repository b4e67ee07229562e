"""The command line: the page that --help prints, and what is said of a command that cannot be carried out.

This module reads YAML as text and speaks of Hydra's errors by their names, so that neither Hydra nor torch is imported for --help.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from textwrap import fill

from expkit.config import schema
from expkit.config.command_line import CommandLine, shell_quote
from expkit.config.schema import Declaration, config_folder, top_level_keys
from expkit.errors import UserError, suggest

NAMES = schema.keys_of("prompt", "path")  # keys whose values are texts, names and paths
GROUPS = {
    "task": "what is made",
    "model": "which network answers",
    "sampler": "how it goes from noise to picture",
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
    """The options of a group, each with the first line of its file; those that only serve others (_name) left out."""
    files = sorted((config_folder() / group).glob("*.yaml"))
    return {f.stem: first_comment(f.read_text(encoding="utf-8")) for f in files if not f.stem.startswith("_")}


def known_targets() -> set[str]:
    """Everything that the YAML of conf/ may build."""
    texts = [file.read_text(encoding="utf-8") for file in config_folder().rglob("*.yaml")]
    return {name for text in texts for name in re.findall(r"_target_: *[\"']?([\w.]+)", text)}


def first_comment(text: str) -> str:
    """The first line that is said of a YAML file, after the one that places it."""
    return next(line.lstrip("# ") for line in text.splitlines() if not line.startswith("# @package"))


def help_page() -> str:
    """The page that --help prints."""
    page = [
        "expkit: experiments with diffusion models. Every task is one equation, so tasks combine.",
        "",
        "  expkit task=TASK [KEY=VALUE …]       one run: pictures, numbers and its recipe in a folder of its own",
        "  expkit -m KEY=VALUE,VALUE …          a sweep: one run for each combination",
        "  expkit replay=FILE.png               a picture, or all of a run's FOLDER, again from its recipe",
        "  expkit dashboard                     TensorBoard and the page of the newest sweep, in a browser",
        "  expkit app                           draw, paint and type in a browser",
        "  python -m expkit …                   the same",
        "",
        "Try",
        *[f"  {command:<56} {says}" for command, says in COMMANDS],
        "",
        "Keys  (KEY=VALUE, and what a value may be; a list KEY=[A,B] of a key that says batch is one)",
        *[help_line(name, one) for name, one in top_level_keys().items() if one.type != "[]"],
    ]
    for group, says in GROUPS.items():
        known = group_options(group)
        width = max(map(len, known), default=0)
        page += ["", f"{group}  ({says})", *[f"  {name:<{width}}  {line}" for name, line in known.items()]]
    page += [
        "",
        "Every other setting is in the YAML files and can be set too: trainer.epochs=2, sampler.rule.variance=large.",
        "--cfg job prints the whole configuration; hydra.run.dir=FOLDER says where to; HYDRA_FULL_ERROR=1 shows tracebacks.",
    ]
    return "\n".join(page)


def help_line(key: str, declared: Declaration) -> str:
    """A key's line of the page: what it is, its type, and its default where that is no reference to other keys."""
    default = "" if declared.default.startswith("$") else f"  [{declared.default}]"
    said = f"{declared.words}  ({declared.type}{', batch' * declared.batch}){default}"
    return fill(said, 130, initial_indent=f"  {key:<14} ", subsequent_indent=" " * 17, break_long_words=False)


def check_overrides(arguments: Sequence[str]) -> None:
    """Refuse what is no KEY=VALUE, the removal of what every run needs, and +KEY for keys that do not exist."""
    check_additions(arguments)
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        name = key.lstrip("~").partition("@")[0]
        if argument.startswith("~"):
            check_removal(argument, name)
        elif not equals:
            near = suggest(key, [*top_level_keys(), *GROUPS], " Did you mean {}=…?")
            raise UserError(
                f"{argument!r} is no KEY=VALUE.{near} Text with spaces needs quotes around the whole of it: 'KEY=TEXT'."
            )


def check_values(line: CommandLine) -> None:
    """Refuse the first value that does not fit, where that is certain without composing the configuration, in which all are checked.

    Hydra takes a second for that. Left to it are values that are no plain scalars or lists, and commands that bring YAML of their own.
    """
    if line.sources or any(argument.startswith(("experiment", "hydra")) for argument in line.overrides):
        return
    text = (config_folder() / "config.yaml").read_text(encoding="utf-8")
    told = {
        key.lstrip("+"): value
        for key, equals, value in (one.partition("=") for one in line.overrides)
        if equals
    }  # the last counts
    chosen = {key: option for key, option in told.items() if key.partition("@")[0] in GROUPS}
    choices = dict(re.findall(r"^  - (\w+): (\w+)$", text, re.MULTILINE)) | chosen
    declared = schema.find_declarations(tuple(choices.items()))
    for key, value in told.items():
        with suppress(ValueError):
            if key in declared and not declared[key].accepts(found := schema.parse_scalar(value)):
                raise declared[key].refusal(key, found)


def check_removal(argument: str, name: str) -> None:
    """Parts that are told by their place may be removed, and what is Hydra's; whole keys and groups may not."""
    if name in GROUPS:
        instead = (
            f"choose nothing: {name}=none"
            if "none" in group_options(name)
            else f"choose another: {name}={' or '.join(group_options(name))}"
        )
    elif name in top_level_keys():
        instead = f"give another value: {name}=VALUE. {top_level_keys()[name].noun.capitalize()}: {top_level_keys()[name].words}"
    elif "." in name or name.startswith("hydra"):
        return
    else:
        raise UserError(f"{argument}: there is no key {name!r}.{suggest(name, [*top_level_keys(), *GROUPS])}")
    raise UserError(
        f"{argument}: every run has {name}, which cannot be removed. Leave it out for what it is by itself, or {instead}"
    )


def check_additions(arguments: Sequence[str]) -> None:
    """Refuse +KEY for keys that do not exist, which Hydra would take; parts of nested groups and Lightning's arguments may be added."""
    for argument in arguments:
        key, _, _ = argument.lstrip("+").partition("=")
        group, _, package = key.partition("@")
        allowed = key.startswith(("hydra", "trainer.lightning.")) or (package and group in GROUPS)
        if argument.startswith("+") and not allowed:
            why = (
                "keys of parts are set"
                if "." in key or "/" in key
                else f"{unknown_key_message(key)} Keys are set"
            )
            raise UserError(
                f"{argument}: nothing can be added to the configuration, and {why} without the plus: {argument.lstrip('+')}."
            )


def unknown_key_message(key: str) -> str:
    """A sentence about a key that may not exist."""
    known = [*top_level_keys(), *GROUPS]
    if key in known:
        return f"the key {key} is there already: write {key}=VALUE."
    return f"there is no key {key!r}.{suggest(key, known)}"


def error_message(error: BaseException, arguments: Sequence[str]) -> str | None:
    """What an error of Hydra's or of the machine means to the person who typed the command; None where it is a defect of ours."""
    text, kind = str(error).strip(), type(error).__name__
    if isinstance(error, UserError):
        return text
    causes = [type(e).__name__ for e in (error, error.__cause__, error.__context__) if e]
    if kind == "OverrideParseException":
        return parse_error_message(error, arguments)
    if kind in ("HydraException", "ConfigCompositionException") and isinstance(error.__cause__, UserError):
        return str(error.__cause__)
    if "MissingConfigException" in causes and getattr(error, "options", None) is not None:
        return no_option(error.missing_cfg_file, error.options)
    if kind == "MissingConfigException":
        return no_configuration(error, text)
    if kind in (
        "InterpolationKeyError",
        "InterpolationResolutionError",
        "InterpolationToMissingValueError",
        "GrammarParseError",
    ):
        return interpolation_error_message(error, text, arguments)
    if kind == "ConfigCompositionException":
        return compose_error_message(error, text, arguments)
    if kind in (
        "MissingMandatoryValue",
        "ValidationError",
        "ConfigKeyError",
        "ConfigAttributeError",
        "UnsupportedInterpolationType",
    ):
        return error_with_key(error, text)
    if kind == "InstantiationException":
        return instantiation_error_message(error, text)
    if type(error).__module__.startswith("yaml") or kind in ("UnicodeDecodeError", "ReaderError"):
        return yaml_error_message(error)
    if kind == "HydraException":
        return text.splitlines()[0] if text else None
    if kind == "UserWarning" and (
        match := re.fullmatch(r"provider=(hydra.searchpath).*, path=(.*) is not available\.", text)
    ):
        return f"There is no folder {match[2]} to seek YAML in: {match[1]}=[file://FOLDER] expects folders that are there."
    if isinstance(error, OSError) and text.startswith("Invalid loaded object type"):
        return f"A file of YAML that this command reads holds {text.rpartition(' ')[2]}, where keys and values are expected, KEY: VALUE."
    if isinstance(error, OSError):
        return write_error_message(error, arguments)
    if isinstance(error, ValueError) and ("null byte" in text or "null character" in text):
        return "A path holds a NUL character, which no file's name has. Look into the YAML that you gave."
    if kind in ("OutOfMemoryError", "MemoryError") or "can't allocate memory" in text:
        return no_memory(text, arguments)
    if isinstance(error, OverflowError) or "overflow" in text.lower():
        return f"A number in this command is too large to reckon with{large_arguments(arguments)}. Give a smaller one."
    return None


def write_error_message(error: OSError, arguments: Sequence[str]) -> str | None:
    """What the machine says of a file or a folder."""
    name = error.filename2 or error.filename
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"There is no space left to write {name or 'the run'}. Free some, or give another disk with hydra.run.dir=FOLDER."
    if error.errno == errno.ENAMETOOLONG:
        given = [argument.partition("=")[::2] for argument in arguments]
        told = next((key for key, value in given if len(value) > 200 and value[:100] in str(name)), None)
        where = f"{told}=… names" if told else "The command names"
        return f"{where} a file or folder of {len(str(name))} letters, more than this machine allows: {str(name)[:40]}… Give a shorter one."
    placed = [
        value
        for key, _, value in (a.partition("=") for a in arguments)
        if key in ("hydra.run.dir", "hydra.sweep.dir")
    ]
    nowhere = isinstance(error, FileNotFoundError) and any(str(name) in place for place in placed)
    if nowhere or isinstance(
        error, PermissionError | FileExistsError | NotADirectoryError | IsADirectoryError
    ):
        return f"{name} cannot be written ({error.strerror}). Give another folder with hydra.run.dir=FOLDER."
    return None


def no_memory(text: str, arguments: Sequence[str]) -> str:
    """Lack of memory, or a size that no machine has."""
    wanted = re.search(r"allocate (\d+) bytes", text)
    if re.search(r"Unable to allocate .*[PEZY]iB", text) or (wanted and int(wanted[1]) > total_memory()):
        size, there = (
            f"{int(wanted[1]) / 1e9:,.0f} GB" if wanted else "more than a petabyte",
            f"{total_memory() / 1e9:,.0f} GB",
        )
        return f"This asks for {size} of memory at once, and the machine has {there}: a number is too large{large_arguments(arguments)}."
    return "There is not enough memory. Try fewer samples, or split each forward with model.max_rows=16."


def total_memory() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def large_arguments(arguments: Sequence[str]) -> str:
    """The arguments whose numbers are remarkably large."""
    numbers = [
        (argument, re.findall(r"\d[\d_]*(?:\.\d+)?(?:e\+?\d+)?", argument.partition("=")[2]))
        for argument in arguments
    ]
    found = [argument for argument, values in numbers if any(float(value) >= 5000 for value in values)]
    return f" ({', '.join(found)})" if found else ""


def parse_error_message(error: BaseException, arguments: Sequence[str]) -> str:
    """A command line that Hydra's grammar does not take, with the offending argument as it would take it."""
    culprit = next(
        (a for a in arguments if a == getattr(error, "override", None)), getattr(error, "override", "") or ""
    )
    key, _, value = culprit.partition("=")
    said = f"The argument {culprit} cannot be read."
    if not re.fullmatch(r"[~+]*[\w./@:-]+", key):
        return f"{said} {key!r} is no key: give KEY=VALUE, without spaces before the equals sign."
    if value.count("${") > value.count("}"):
        return f"{said} ${{ begins what stands for another key, as ${{seed}} does, and is not closed. \\${{ are the letters themselves."
    if value.startswith("[") and value.count("[") > value.count("]"):
        return f"{said} A list that begins with [ is not closed: {shell_quote(f'{culprit}]')}"
    if key.lstrip("+") not in NAMES and not key.endswith(("weights", "folder", "dir", "imported", "prompt")):
        return f"{said} A list is {key}=[A,B], several values for -m are {key}=A,B, and text with commas or brackets is '{key}=\"TEXT\"'."
    return f"{said} Text with commas, brackets or quotes needs quotes inside quotes: {shell_quote(f'{key}={text_of(value)}')}"


def text_of(value: str) -> str:
    """A text as Hydra's grammar takes it whatever is in it; quotes around it or at one end were meant so."""
    inner = value.strip()
    for mark in "\"'":
        whole = len(inner) > 1 and inner[0] == inner[-1] == mark
        inner = inner[1:-1] if whole else inner
    inner = inner[1:] if inner[:1] in ("'", '"') and inner.count(inner[0]) % 2 else inner
    return '"{}"'.format(re.sub(r'(\\*)("|\Z)', lambda m: m[1] * 2 + ("\\" + m[2] if m[2] else ""), inner))


def interpolation_error_message(error: BaseException, text: str, arguments: Sequence[str]) -> str:
    """What stands for another key, ${…}, and cannot be had."""
    first = text.splitlines()[0]
    if first.startswith("UserError raised while resolving interpolation: "):
        return first.removeprefix("UserError raised while resolving interpolation: ")
    where = (re.search(r"full_key: (\S+)", text) or ["", ""])[1]
    if match := re.search(r"Environment variable '([^']*)' not found", first):
        name = match[1]
        given = f", which {where} stands for," if where else ""
        ways = f"{name}=VALUE python -m expkit … sets it; ${{oc.env:{name},VALUE}} does without"
        return f"The environment variable {name}{given} is not set: {ways}."
    if match := re.search(r"Interpolation key '([^']+)' not found", first):
        key = match[1]
        told = next((a for a in arguments if re.search(r"\$\{\s*" + re.escape(key), a)), None)
        if told:
            return f"{told}: there is no key {key!r}.{suggest(key, [*top_level_keys(), *GROUPS])}"
        if placed := [a for a in arguments if "@" in a.partition("=")[0]]:
            what = f"{where or 'one'} needs {key!r}, which is not there"
            return f"The parts of this command do not fit together: {what}. Leave out {placed[-1]}."
        removed = next((a for a in arguments if a.startswith("~")), None)
        return f"{where or 'The configuration'} stands for ${{{key}}}, which is not there. " + (
            f"Leave out {removed}."
            if removed
            else "Look into the YAML that you gave, or into the experiment."
        )
    return f"{where + ': ' if where else ''}{first.rstrip('.')}."


def error_with_key(error: BaseException, text: str) -> str:
    """An error of OmegaConf's, with the key that it is about."""
    first, where = text.splitlines()[0], (re.search(r"full_key: (\S+)", text) or ["", ""])[1]
    return first if not where or where in first else f"{where}: {first}"


def yaml_error_message(error: BaseException) -> str:
    """A file of YAML that is none."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    name = getattr(mark, "name", None) or getattr(error, "name", None)
    place = f"{name}, line {mark.line + 1}," if mark else (name or "A file of YAML that this command reads")
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).splitlines()[0]
    return f"{place} cannot be read as YAML: {reason}."


def no_configuration(error: BaseException, text: str) -> str:
    """A first file of YAML, --config-name, or a folder of it, that is not there."""
    name = getattr(error, "missing_cfg_file", None)
    if not name:
        return f"{text.splitlines()[0]} See --help."
    by = re.match(r"In '([^']+)'", text)
    known = [path.stem for path in config_folder().glob("*.yaml")]
    folders = [place for place in re.findall(r"path=(?:file://)?([^\s\]]+)", text) if "://" not in place]
    where = f" in {' or '.join(folders)}" if folders else ""
    what = (
        f"it stands in the defaults of {by[1]}.yaml" if by else "--config-name names the first file of YAML"
    )
    return f"There is no {str(name).removesuffix('.yaml')}.yaml{where}: {what}.{suggest(name, known)}"


def no_option(missing: str, known: list[str]) -> str:
    group, _, name = missing.removesuffix(".yaml").rpartition("/")
    if group.lstrip("/") == "hydra/launcher" and name in ("joblib", "submitit_local", "submitit_slurm"):
        return f"hydra/launcher={name} is a package of its own, which is not installed: pip install 'expkit[cluster]'"
    shown = [option for option in known if not option.startswith("_")]
    return f"There is no {group.lstrip('/')} {name!r}.{suggest(name, shown)} There are: {', '.join(sorted(shown))}."


def compose_error_message(error: BaseException, text: str, arguments: Sequence[str]) -> str:
    first = (text.splitlines() or ["The configuration cannot be composed"])[0]
    cause = error.__cause__
    if type(cause).__name__.startswith(("Interpolation", "GrammarParse")):
        return interpolation_error_message(cause, str(cause), arguments)
    if type(cause).__name__ == "ValidationError":
        return error_with_key(cause, str(cause))
    if key := getattr(cause, "full_key", None):
        parent, _, last = str(key).rpartition(".")
        if removed := next(
            (a for a in arguments if a.startswith("~") and str(key).startswith(a.lstrip("~"))), None
        ):
            return f"{removed}: every run has {key}, which cannot be removed. Leave this argument out."
        siblings = [str(k) for k in (getattr(cause, "parent_node", None) or [])]
        known = siblings if parent else [*top_level_keys(), *GROUPS]
        place = f"{parent}." if parent else ""
        return f"There is no key {key!r}." + suggest(last, known, f" Did you mean {place}{{}}?")
    if match := re.search(r"Could not override '([^']+)'", text):
        group = match[1].split("@")[0]
        return f"There is no group {match[1]!r} to choose from.{suggest(group, GROUPS)} See --help."
    if match := re.search(r"Could not (?:append|add) to config\. An item is already at '([^']+)'", text):
        return f"The key {match[1]} is there already: write {match[1]}=VALUE, without the plus."
    if match := re.search(r"Sweep parameters '(.+)' requires --multirun", text):
        return f"{match[1]} stands for several values: -m sweeps them, one run for each."
    if "Ambiguous value for argument" in text:
        culprit = (re.search(r"Ambiguous value for argument '([^']+)'", text) or ["", ""])[1]
        key, _, value = culprit.partition("=")
        each, batch, one = map(shell_quote, (culprit, f"{key}=[{value}]", f"{key}={text_of(value)}"))
        ways = f"For one run each write -m {each}; for one batch {batch}; for one text {one}"
        return f"{culprit} has several values. {ways}"
    return first + (f" ({cause})" if cause else "")


def instantiation_error_message(error: BaseException, text: str) -> str:
    key = (re.search(r"full_key: (\S+)", text) or ["", "the configuration"])[1]
    reason = str(error.__cause__ or text.splitlines()[0]).splitlines()[0]
    return f"{key} cannot be made: {reason}."
