"""Run jobs: from a composed configuration to output folders, alone or several runs in one batch.

A list in place of a value is a batch. Each combination of the lists is a condition (or, if paired,
the first values of all lists, then the second values, and so on), and each condition has its
samples. Runs that differ only in such values can be sampled in one batch in the same way; each of
them writes its own part. This module does not parse the command line.
"""

from __future__ import annotations

import copy
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expkit.config import schema
from expkit.config.command_line import ELSEWHERE, SWEEPERS, relative_path, shell_command
from expkit.errors import UserError
from expkit.runs import resolvers
from expkit.storage import inputs
from expkit.storage.files import short_hash
from expkit.training import lightning_arguments

if TYPE_CHECKING:
    from omegaconf import DictConfig

BATCH_KEYS = schema.batch_keys()
NOT_IDENTITY = ("logger", "sweep")  # keys that have no influence on what is made


@dataclass(frozen=True, eq=False)
class ComposedConfig:
    """A configuration as Hydra composes it, not resolved.

    Attributes:
        config: The configuration.
        hydra_config: A configuration that contains Hydra's own node, if `config` does not.
    """

    config: DictConfig
    hydra_config: Any = field(default_factory=dict)

    def resolve(self, values: Mapping) -> dict:
        """Resolve the whole configuration, except Hydra's own node, to plain values.

        Args:
            values: Values that replace those of some of `BATCH_KEYS`.
        """
        from hydra.core.hydra_config import HydraConfig

        if "hydra" in self.config:
            HydraConfig.instance().set_config(self.config)
        for key in {*self.changed, *values}:
            if key in values:
                self.copied[key] = values[key]
            else:
                self.copied[key] = copy.deepcopy(self.config._get_node(key))
        self.changed.update(values)
        return resolve_config(self.copied)

    @property
    def with_hydra(self) -> Any:
        """The configuration with Hydra's own node, or {} if that is not available."""
        return self.config if "hydra" in self.config else self.hydra_config

    @cached_property
    def declared(self) -> dict[str, schema.Declaration]:
        """{path: declaration} of its keys."""
        hydra = self.with_hydra.hydra
        sources = hydra.runtime.config_sources
        folders = tuple(Path(source.path) for source in sources if source.schema == "file")
        options = hydra.runtime.choices.items()
        choices = tuple((group, option) for group, option in options if isinstance(option, str))
        return schema.find_declarations(choices, hydra.job.config_name, folders)

    @cached_property
    def copied(self):
        """The copy that `resolve` changes: a new copy for each set of values would be slow."""
        return copy.deepcopy(self.config)

    @cached_property
    def changed(self) -> set[str]:
        """The keys of `copied` whose values are not the composed ones."""
        return set()

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that it read while it was composed and resolved, if set."""
        return {name: value for name, value in resolvers.READ.items() if value is not None}

    @cached_property
    def origin(self) -> list[str]:
        """The arguments that name its YAML files outside expkit, and overrides of Hydra's node."""
        config = self.with_hydra
        if not config:
            return []
        overrides, _ = overrides_of(config)
        prefixes = (*ELSEWHERE, *SWEEPERS)
        hydra_overrides = [item for item in overrides if not item.startswith(prefixes)]
        arguments = [*sources_of(config, relative_path), *hydra_overrides]
        # an experiment can set the mode to a sweep without an argument of the command
        is_multirun = str(config.hydra.mode or "").endswith("MULTIRUN")
        if is_multirun and "hydra.mode=MULTIRUN" not in overrides:
            return [*arguments, "hydra.mode=RUN"]
        return arguments

    @cached_property
    def digests(self) -> dict[str, str]:
        """A cache {name: hash} of input files, shared by all runs of this composition."""
        return {}

    @cached_property
    def used(self) -> frozenset[str]:
        """Those of `BATCH_KEYS` that have an influence on what is sampled.

        To find them, each key is set to a marker, and the resolved task is searched for markers.
        """
        task = self.resolve({key: f"<{key}>" for key in BATCH_KEYS})["task"]
        text = str([task.get(part) for part in ("estimate", "pin")])
        return frozenset(key for key in BATCH_KEYS if key == "seed" or f"<{key}>" in text)


@dataclass(frozen=True, eq=False)
class Job:
    """A single run.

    Attributes:
        composed: Its configuration.
        overrides: The arguments of the command for this run, except those that name YAML files.
        values: The values of `BATCH_KEYS` that differ from the composed ones.
    """

    composed: ComposedConfig
    overrides: Sequence[str]
    values: Mapping = field(default_factory=dict)

    @cached_property
    def resolved(self) -> dict:
        """The resolved configuration, checked.

        Raises:
            UserError: A value does not fit its declaration.
        """
        config = self.composed.resolve(self.values)
        schema.check_config(config, self.composed.declared)
        lightning_arguments.check_arguments((config.get("trainer") or {}).get("lightning", {}))
        return config

    @cached_property
    def inputs(self) -> dict[str, str]:
        """{name: hash} of the files and folders that the run reads."""
        return inputs.input_hashes(self.resolved, self.composed.digests)

    def check_inputs(self) -> None:
        """Check that the input files are unchanged since `inputs` was computed.

        Raises:
            UserError: A file has changed, so it is unclear which version was read.
        """
        hashes = inputs.input_hashes(self.resolved)
        names = {**self.inputs, **hashes}
        changed = [name for name in names if self.inputs.get(name) != hashes.get(name)]
        if changed:
            problem = f"{changed[0]} has changed while this was made from it."
            raise UserError(f"{problem} The same command makes it again.")

    @property
    def arguments(self) -> list[str]:
        """The arguments that repeat this run, even after newer weights have been trained."""
        model: Any = self.composed.config._get_node("model", validate_access=False)
        node = None if model is None else model._get_node("weights", validate_access=False)
        newest = []
        if node is not None and node._value() == resolvers.NEWEST:
            weights = self.resolved["model"]["weights"]
            newest = [f"model.weights={weights}"] if isinstance(weights, str) else []
        return [*self.composed.origin, *self.overrides, *newest]

    @cached_property
    def conditions(self) -> list[dict]:
        """The conditions of this run, {key: value} each.

        They are all combinations of the lists among the keys in use, or pairs of their values if
        paired.

        Raises:
            UserError: Paired lists have different lengths.
        """
        lists = {
            key: self.resolved[key]
            for key in BATCH_KEYS
            if isinstance(self.resolved[key], list) and key in self.composed.used
        }
        lengths = {key: len(values) for key, values in lists.items()}
        is_paired = self.resolved.get("paired")
        if is_paired and len(set(lengths.values())) > 1:
            listing = ", ".join(f"{key} has {length}" for key, length in lengths.items())
            raise UserError(
                "paired=true takes lists side by side, and these are not equally long: "
                f"{listing}. Give as many of each."
            )
        combinations = product(*lists.values())
        if lists and is_paired:
            combinations = zip(*lists.values(), strict=True)
        return [dict(zip(lists, values, strict=True)) for values in combinations]

    @property
    def samples(self) -> int:
        """The number of pictures of each condition."""
        return self.resolved["task"].get("samples") or 1

    @property
    def count(self) -> int:
        """The number of pictures."""
        return len(self.conditions) * self.samples

    @property
    def batches(self) -> bool:
        """Whether it can be sampled in one batch with other runs."""
        return "cells" in self.resolved["task"]


def sources_of(config, told: Callable[[str], str] = str) -> list[str]:
    """The options that name the YAML files of a composed configuration outside expkit's conf/.

    Args:
        config: The configuration, with Hydra's own node.
        told: How a path is written.
    """
    hydra = config.hydra
    sources = {source.provider: source.path for source in hydra.runtime.config_sources}
    main = sources.get("main")
    name = str(hydra.job.config_name or "config").removesuffix(".yaml")
    options = []
    if main and main != str(schema.config_folder()):
        options.append(f"--config-path={told(main)}")
    if name != "config":
        options.append(f"--config-name={name}")
    if "command-line" in sources:
        options.append(f"--config-dir={told(sources['command-line'])}")
    return options


def overrides_of(config) -> tuple[list[str], list[str]]:
    """The overrides of Hydra's own node and those of the configuration, as typed: not resolved."""
    from omegaconf import OmegaConf

    overrides: Any = OmegaConf.to_container(config.hydra.overrides, resolve=False)
    return overrides["hydra"], overrides["task"]


def resolve_config(config) -> dict:
    """Resolve the whole configuration, except Hydra's own node, to plain values."""
    from omegaconf import OmegaConf

    resolved = {}
    for key in config:
        if key == "hydra":
            continue
        with resolvers.not_recording() if key in NOT_IDENTITY else nullcontext():
            node = config[key]
            is_node = OmegaConf.is_config(node)
            resolved[key] = OmegaConf.to_container(node, resolve=True) if is_node else node
    return resolved


def config_hash(known: Mapping, read: Mapping[str, str] | None = None) -> str:
    """A hash of what is made: of the resolved configuration and of the content of its input files.

    Names of files are a part of it: the same content under another name gives another hash.

    Args:
        known: The resolved configuration.
        read: The hashes of the input files, if they are already computed.
    """
    identity = {key: value for key, value in known.items() if key not in NOT_IDENTITY}
    hashes = inputs.input_hashes(known) if read is None else read
    return short_hash(json.dumps([identity, hashes], sort_keys=True, default=str))


def user_files(read: Mapping[str, str]) -> dict[str, str]:
    """Those of the input files {name: hash} that do not ship with expkit."""
    return {name: digest for name, digest in read.items() if not inputs.is_shipped_input(name)}


def merge_batch(jobs: Sequence[Job]) -> dict:
    """The resolved configuration of a single batch with the pictures of all jobs.

    The jobs differ in the values of `BATCH_KEYS` only. Each key that varies gets a list with a
    value per picture, and `cells` is the list of conditions.
    """
    conditions = [{**job.resolved, **condition} for job in jobs for condition in job.conditions]
    list_keys = {key for job in jobs for key in job.conditions[0]}
    keys = []
    for key in BATCH_KEYS:
        differs = any(condition[key] != conditions[0][key] for condition in conditions)
        if key in list_keys or (differs and key in jobs[0].composed.used):
            keys.append(key)
    rows = [condition for condition in conditions for _ in range(jobs[0].samples)]
    lists = {key: [condition[key] for condition in rows] for key in keys}
    cells = [{key: condition[key] for key in keys} for condition in conditions]
    batch = jobs[0].composed.resolve({**jobs[0].values, **lists, "cells": cells})
    if "note" in batch["task"]:
        # the note as it was before the values became long lists
        batch["task"]["note"] = jobs[0].resolved["task"]["note"]
    return batch


def instantiate(node, **given):
    """Instantiate a node; the arguments `given` are passed unchanged.

    A UserError, OSError or KeyboardInterrupt raised by the object is not wrapped in Hydra's
    InstantiationException.

    Raises:
        UserError: The configuration lacks a required argument.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate as hydra_instantiate

    try:
        if not given:
            return hydra_instantiate(node, _convert_="all")
        rest = {key: value for key, value in node.items() if key not in given}
        try:
            return hydra_instantiate(rest, _convert_="all", _partial_=True)(**given)
        except TypeError as error:
            if match := re.match(r"(\w+)\.__init__\(\) missing .*: (.*)", str(error)):
                problem = f"{node['_target_']} needs {match[2]}, which the configuration lacks"
                raise UserError(f"{problem}: it was removed.") from None
            raise
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError | OSError | KeyboardInterrupt):
            raise error.__cause__ from None
        raise


class ModelCache:
    """Keeps objects that are slow to load from run to run: one model at a time, and its judges.

    The runs of a sweep share weights, encoded prompts and compiled graphs.
    """

    def __init__(self) -> None:
        self.kept: dict[str, tuple[str, object]] = {}
        self.uses_model = False  # whether the last task uses a model

    def __call__(self, name: str, node: Mapping):
        """The object of a resolved node; it replaces another one that has the same name."""
        signature = json.dumps(node, sort_keys=True, default=str)
        if self.kept.get(name, ("",))[0] != signature:
            self.kept.pop(name, None)
            self.kept[name] = signature, instantiate(node)
        return self.kept[name][1]

    def task(self, known: Mapping):
        """The task of a resolved configuration."""
        node, model = known["task"], known["model"]
        shared = {"model": model.get("denoiser"), "judges": model.get("judges")}
        used = {key: part for key, part in shared.items() if part and node.get(key) == part}
        self.uses_model = "model" in used
        return instantiate(node, **{key: self(key, part) for key, part in used.items()})

    def model(self):
        """The model of the last task, or None if the task needed none."""
        return self.kept["model"][1] if self.uses_model else None


resident = ModelCache()


def run_job(job: Job, folder: Path, is_main_process: bool = True, about=None):
    """Run a single job, write its folder and log it. Returns its RunFolder."""
    logger = instantiate(job.resolved["logger"])["mirror"]
    if is_main_process:
        logger.check()
    batch = merge_batch([job])
    task = resident.task(batch)
    result = open_run(job, batch, folder, 0, logger, is_main_process, about)
    task(result)
    if about:
        job.check_inputs()  # the name of a run in a sweep depends on the content of its inputs
    result.finish()
    return result


def open_run(
    job: Job,
    batch: Mapping,
    folder: Path,
    first: int,
    logger,
    is_main_process: bool = True,
    about=None,
):
    """Create the RunFolder of a run, with its recipe.

    Args:
        job: The run.
        batch: The resolved configuration of the batch that it is sampled in.
        folder: The output folder.
        first: The index in the batch of the first picture of the run.
        logger: The logger.
        is_main_process: Whether this is the main process of the run.
        about: How loggers name the run.
    """
    from expkit.results.run_folder import RunFolder
    from expkit.runs.recipe import Recipe, current_facts

    ran = {"task": batch["task"], "pictures": None}
    if job.batches:
        ran |= {
            "pictures": [first, first + job.count],
            "cells": job.conditions,
            "note": job.resolved["task"].get("note", ""),
        }
    command = shell_command(job.arguments, job.composed.environment)
    facts = current_facts(resident.model(), user_files(job.inputs))
    recipe = Recipe(command, facts, job.resolved, ran)
    return RunFolder(folder, recipe.text, logger, is_main_process, about)


def run_together(
    jobs: Sequence[Job],
    say: Callable[[str], None],
    place: Callable[[int], AbstractContextManager[Path]],
    about: Sequence,
) -> None:
    """Run several jobs in a single batch.

    Args:
        jobs: The runs.
        say: Prints a line.
        place: place(n) is a context manager in which run n is written; its value is the folder.
        about: How loggers name each run.
    """
    from expkit.tasks.sampling import RunRows

    began = time.perf_counter()
    batch = merge_batch(jobs)
    firsts = [sum(job.count for job in jobs[:number]) for number in range(len(jobs))]
    parts = []
    for first, job in zip(firsts, jobs, strict=True):
        note = job.resolved["task"].get("note", "")
        parts.append(RunRows(range(first, first + job.count), job.conditions, note))
    writers = resident.task(batch).sample_batch(parts, say)
    logger = instantiate(batch["logger"])["mirror"]
    for number, (job, first, write) in enumerate(zip(jobs, firsts, writers, strict=True)):
        with place(number) as folder:
            result = open_run(job, batch, folder, first, logger, about=about[number])
            result.began = began
            write(result)
            job.check_inputs()
            result.finish()
