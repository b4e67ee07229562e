"""The command line: the page that --help prints, and what is said of a command that cannot be carried out.

This module reads YAML as text and speaks of Hydra's errors by their names, so that neither Hydra nor torch is imported for --help.
"""

from __future__ import annotations

import re
from textwrap import fill

from expkit.errors import Refusal, nearest
from expkit.schema import Declaration, configuration, keys

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
    ('expkit task=hybrid far="a skull" near="a rocket"', "a picture that is a skull from afar and a rocket close by"),
    ('expkit task=sample prompt=["a dog","a cat"] gamma=[1,5]', "two prompts at two strengths of guidance, in one batch"),
    ('expkit task=anagram upright="a dog" turned="a cat"', "a dog that is a cat when it is turned"),
    ("expkit model=digits task=anagram upright=6 turned=9", "the same of handwritten digits"),
    ("expkit task=inpaint estimate@task.estimate=hybrid", "tasks combine: a hybrid inside a mask"),
    ("expkit -m task=sdedit i_start=3,7,10", "a sweep: one run for each i_start"),
)


def options(group: str) -> dict[str, str]:
    """The options of a group, each with the first line of its file; those that only serve others (_name) left out."""
    files = sorted((configuration() / group).glob("*.yaml"))
    return {f.stem: head(f.read_text(encoding="utf-8")) for f in files if not f.stem.startswith("_")}


def targets() -> set[str]:
    """Everything that the YAML of conf/ may build."""
    texts = [file.read_text(encoding="utf-8") for file in configuration().rglob("*.yaml")]
    return {name for text in texts for name in re.findall(r"_target_: *[\"']?([\w.]+)", text)}


def head(text: str) -> str:
    """The first line that is said of a YAML file, after the one that places it."""
    return next(line.lstrip("# ") for line in text.splitlines() if not line.startswith("# @package"))


def manual() -> str:
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
        *[line(name, one) for name, one in keys().items() if one.type != "[]"],
    ]
    for group, says in GROUPS.items():
        known = options(group)
        width = max(map(len, known), default=0)
        page += ["", f"{group}  ({says})", *[f"  {name:<{width}}  {line}" for name, line in known.items()]]
    page += [
        "",
        "Every other setting is in the YAML files and can be set too: trainer.epochs=2, sampler.rule.variance=large.",
        "--cfg job prints the whole configuration; hydra.run.dir=FOLDER says where to; HYDRA_FULL_ERROR=1 shows tracebacks.",
    ]
    return "\n".join(page)


def line(key: str, declared: Declaration) -> str:
    """A key's line of the page: what it is, its type, and its default where that is no reference to other keys."""
    default = "" if declared.default.startswith("$") else f"  [{declared.default}]"
    said = f"{declared.words}  ({declared.type}{', batch' * declared.batch}){default}"
    return fill(said, 130, initial_indent=f"  {key:<14} ", subsequent_indent=" " * 17, break_long_words=False)


def check_additions(arguments: list[str]) -> None:
    """Refuse +KEY for keys that do not exist, which Hydra would take; parts of nested groups and Lightning's arguments may be added."""
    for argument in arguments:
        key, _, _ = argument.lstrip("+").partition("=")
        group, _, package = key.partition("@")
        allowed = key.startswith(("hydra", "trainer.lightning.")) or (package and group in GROUPS)
        if argument.startswith("+") and not allowed:
            raise Refusal(
                f"{argument}: nothing can be added to the configuration, and {unknown(key)} Keys are set without the plus: KEY=VALUE."
            )


def unknown(key: str) -> str:
    """A sentence about a key that may not exist."""
    known = [*keys(), *GROUPS]
    if key in known:
        return f"the key {key} is there already: write {key}=VALUE."
    return f"there is no key {key!r}.{nearest(key, known)}"


def sentence(error: BaseException, arguments: list[str]) -> str | None:
    """What an error of Hydra's or of the machine means to the person who typed the command; None where it is a defect of ours."""
    text, kind = str(error).strip(), type(error).__name__
    if isinstance(error, Refusal):
        return text
    causes = [type(e).__name__ for e in (error, error.__cause__, error.__context__) if e]
    if kind == "OverrideParseException":
        return unparsed(error, arguments)
    if "MissingConfigException" in causes and getattr(error, "options", None) is not None:
        return no_option(error.missing_cfg_file, error.options)
    if kind == "ConfigCompositionException":
        return uncomposed(error, text)
    if kind == "InterpolationKeyError":
        return f"The parts of this command do not fit together: {text.splitlines()[0]}. Leave out the last @ override and try again."
    if kind == "InterpolationResolutionError":
        return text.splitlines()[0].removeprefix("Refusal raised while resolving interpolation: ")
    if kind in ("MissingMandatoryValue", "ValidationError", "ConfigKeyError", "ConfigAttributeError"):
        return text.splitlines()[0]
    if kind == "InstantiationException":
        return uninstantiated(error, text)
    if isinstance(error, OSError) and error.errno in (28, 122):
        full = error.filename2 or error.filename or "the run"
        return f"There is no space left to write {full}. Free some, or give another disk with hydra.run.dir=FOLDER."
    placed = [value for key, _, value in (a.partition("=") for a in arguments) if key in ("hydra.run.dir", "hydra.sweep.dir")]
    nowhere = isinstance(error, FileNotFoundError) and any(str(error.filename) in place for place in placed)
    if nowhere or isinstance(error, PermissionError | FileExistsError | NotADirectoryError | IsADirectoryError):
        return f"{error.filename} cannot be written ({error.strerror}). Give another folder with hydra.run.dir=FOLDER."
    if kind in ("OutOfMemoryError", "MemoryError") or "can't allocate memory" in text:
        return "There is not enough memory. Try fewer samples, or split each forward with model.max_rows=16."
    return None


def unparsed(error: BaseException, arguments: list[str]) -> str:
    """A command line that Hydra's grammar does not take, with the offending argument quoted as it does."""
    culprit = next((a for a in arguments if a == getattr(error, "override", None)), getattr(error, "override", "") or "")
    key, _, value = culprit.partition("=")
    inner = value.strip("\"'").replace('"', '\\"')
    return f"The argument {culprit} cannot be read. Text with commas or brackets needs quotes inside quotes: '{key}=\"{inner}\"'"


def no_option(missing: str, known: list[str]) -> str:
    group, _, name = missing.removesuffix(".yaml").rpartition("/")
    if group.lstrip("/") == "hydra/launcher" and name in ("joblib", "submitit_local", "submitit_slurm"):
        return f"hydra/launcher={name} is a package of its own, which is not installed: pip install 'expkit[cluster]'"
    shown = [option for option in known if not option.startswith("_")]
    return f"There is no {group.lstrip('/')} {name!r}.{nearest(name, shown)} There are: {', '.join(sorted(shown))}."


def uncomposed(error: BaseException, text: str) -> str:
    first = (text.splitlines() or ["The configuration cannot be composed"])[0]
    cause = error.__cause__
    if full := getattr(cause, "full_key", None):
        parent, _, last = str(full).rpartition(".")
        siblings = [str(k) for k in (getattr(cause, "parent_node", None) or [])]
        known = siblings if parent else [*keys(), *GROUPS]
        place = f"{parent}." if parent else ""
        return f"There is no key {full!r}." + nearest(last, known, f" Did you mean {place}{{}}?")
    if match := re.search(r"Could not override '([^']+)'", text):
        group = match[1].split("@")[0]
        return f"There is no group {match[1]!r} to choose from.{nearest(group, GROUPS)} See --help."
    if match := re.search(r"Could not (?:append|add) to config\. An item is already at '([^']+)'", text):
        return f"The key {match[1]} is there already: write {match[1]}=VALUE, without the plus."
    if "Ambiguous value for argument" in text:
        culprit = (re.search(r"Ambiguous value for argument '([^']+)'", text) or ["", ""])[1]
        key, _, value = culprit.partition("=")
        ways = f"For one run each write -m {culprit}; for one batch {key}=[{value}]; for one text '{key}=\"{value}\"'"
        return f"{culprit} has several values. {ways}"
    return first + (f" ({cause})" if cause else "")


def uninstantiated(error: BaseException, text: str) -> str:
    key = (re.search(r"full_key: (\S+)", text) or ["", "the configuration"])[1]
    reason = str(error.__cause__ or text.splitlines()[0]).splitlines()[0]
    return f"{key} cannot be made: {reason}."
