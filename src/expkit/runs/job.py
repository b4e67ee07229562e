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
from itertools import accumulate, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from expkit.config import schema
from expkit.config.addresses import update_addresses
from expkit.config.command_line import ELSEWHERE, SWEEPERS, relative_path, shell_command
from expkit.errors import UserError
from expkit.runs import resolvers
from expkit.storage import inputs
from expkit.storage.files import short_hash
from expkit.training import lightning_arguments

if TYPE_CHECKING:
    from omegaconf import DictConfig

BATCH_KEYS = schema.batch_keys()
NOT_IDENTITY = ("logger", "sweep", "threads")  # keys that have no influence on what is made


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
        overrides = overrides_of(config).hydra
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
        values = {key: self.resolved[key] for key in BATCH_KEYS}
        lists = {key: value for key, value in values.items() if isinstance(value, list)}
        lists = {key: value for key, value in lists.items() if key in self.composed.used}
        if lists and self.resolved.get("paired"):
            check_equal_lengths(lists)
            combinations = zip(*lists.values(), strict=True)
        else:
            combinations = product(*lists.values())
        return [dict(zip(lists, combination, strict=True)) for combination in combinations]

    @property
    def samples(self) -> int:
        """The number of pictures of each condition."""
        return self.resolved["task"].get("samples") or 1

    @property
    def count(self) -> int:
        """The number of pictures."""
        return len(self.conditions) * self.samples

    @property
    def note(self) -> str:
        """The line in which the task describes this run; "" if it has none."""
        return self.resolved["task"].get("note", "")

    @property
    def batches(self) -> bool:
        """Whether it can be sampled in one batch with other runs."""
        return "cells" in self.resolved["task"]


def check_equal_lengths(lists: Mapping[str, Sequence]) -> None:
    """Raise UserError if lists that are paired, {key: values}, have different lengths."""
    lengths = {key: len(values) for key, values in lists.items()}
    if len(set(lengths.values())) > 1:
        listing = ", ".join(f"{key} has {length}" for key, length in lengths.items())
        raise UserError(
            "paired=true takes lists side by side, and these are not equally long: "
            f"{listing}. Give as many of each."
        )


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


class Overrides(NamedTuple):
    """The overrides of Hydra's own node and those of the configuration."""

    hydra: list[str]
    task: list[str]


def overrides_of(config) -> Overrides:
    """The overrides of a composed configuration as typed: not resolved."""
    from omegaconf import OmegaConf

    overrides: Any = OmegaConf.to_container(config.hydra.overrides, resolve=False)
    return Overrides(overrides["hydra"], overrides["task"])


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

    Names of files are a part of it: the same content under another name gives another hash. Every
    `_target_` counts as its present import path.

    Args:
        known: The resolved configuration.
        read: The hashes of the input files, if they are already computed.
    """
    identity = {key: value for key, value in known.items() if key not in NOT_IDENTITY}
    hashes = inputs.input_hashes(known) if read is None else read
    parts = [update_addresses(identity), hashes]
    return short_hash(json.dumps(parts, sort_keys=True, default=str))


def user_files(read: Mapping[str, str]) -> dict[str, str]:
    """Those of the input files {name: hash} that do not ship with expkit."""
    return {name: digest for name, digest in read.items() if not inputs.is_shipped_input(name)}


def merge_batch(jobs: Sequence[Job]) -> dict:
    """The resolved configuration of a single batch with the pictures of all jobs.

    The jobs differ in the values of `BATCH_KEYS` only. Each key that varies gets a list with a
    value per picture, and `cells` is the list of conditions.
    """
    first = jobs[0]
    conditions = [values for job in jobs for values in condition_values(job)]
    keys = varying_keys(jobs, conditions)
    cells = [{key: values[key] for key in keys} for values in conditions]
    picture_values = [values for values in cells for _ in range(first.samples)]
    lists = {key: [values[key] for values in picture_values] for key in keys}
    batch = first.composed.resolve({**first.values, **lists, "cells": cells})
    if "note" in batch["task"]:
        # the note as it was before the values became long lists
        batch["task"]["note"] = first.resolved["task"]["note"]
    return batch


def condition_values(job: Job) -> list[dict]:
    """The values of `BATCH_KEYS` under each condition of a job."""
    values = {key: job.resolved[key] for key in BATCH_KEYS}
    return [{**values, **condition} for condition in job.conditions]


def varying_keys(jobs: Sequence[Job], conditions: Sequence[Mapping]) -> list[str]:
    """Those of `BATCH_KEYS` that vary within a batch.

    Args:
        jobs: The runs of the batch.
        conditions: The values of `BATCH_KEYS` under each condition of the batch.

    Returns:
        The keys of lists, and the keys in use whose value is not the same under all conditions.
    """
    list_keys = {key for job in jobs for key in job.conditions[0]}
    differing_keys = [key for key in BATCH_KEYS if differs(key, conditions)]
    used_keys = [key for key in differing_keys if key in jobs[0].composed.used]
    return [key for key in BATCH_KEYS if key in list_keys or key in used_keys]


def differs(key: str, conditions: Sequence[Mapping]) -> bool:
    """Whether the value of a key is not the same under all conditions."""
    return any(values[key] != conditions[0][key] for values in conditions)


def picture_ranges(jobs: Sequence[Job]) -> list[range]:
    """The indices in their common batch of the pictures of each job."""
    ends = list(accumulate(job.count for job in jobs))
    return [range(end - job.count, end) for job, end in zip(jobs, ends, strict=True)]


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
        constructor = hydra_instantiate(rest, _convert_="all", _partial_=True)
        return constructor(**given)
    except TypeError as error:
        missing = re.match(r"\w+\.__init__\(\) missing .*: (?P<names>.*)", str(error))
        if not (given and missing):
            raise
        problem = f"{node['_target_']} needs {missing['names']}, which the configuration lacks"
        raise UserError(f"{problem}: it was removed.") from None
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError | OSError | KeyboardInterrupt):
            raise error.__cause__ from None
        raise


class CachedObject(NamedTuple):
    """An object, and the text of the node that it was instantiated from."""

    signature: str
    value: object


class ModelCache:
    """Keeps objects that are slow to load from run to run: one model at a time, and its judges.

    The runs of a sweep share weights, encoded prompts and compiled graphs.
    """

    def __init__(self) -> None:
        self.kept: dict[str, CachedObject] = {}
        self.uses_model = False  # whether the last task uses a model

    def __call__(self, name: str, node: Mapping):
        """The object of a resolved node; it replaces another one that has the same name."""
        signature = json.dumps(node, sort_keys=True, default=str)
        if name in self.kept and self.kept[name].signature != signature:
            del self.kept[name]  # before the other one is loaded: both may not fit in memory
        if name not in self.kept:
            self.kept[name] = CachedObject(signature, instantiate(node))
        return self.kept[name].value

    def task(self, known: Mapping):
        """The task of a resolved configuration."""
        use_threads(known.get("threads"))
        node, model = known["task"], known["model"]
        shared = {"model": model.get("denoiser"), "judges": model.get("judges")}
        used = {key: part for key, part in shared.items() if part and node.get(key) == part}
        self.uses_model = "model" in used
        return instantiate(node, **{key: self(key, part) for key, part in used.items()})

    def model(self):
        """The model of the last task, or None if the task needed none."""
        return self.kept["model"].value if self.uses_model else None


def use_threads(count: int | None) -> None:
    """Let torch use so many threads of the CPU; None: as many as it uses now."""
    if count:
        import torch

        torch.set_num_threads(count)


resident = ModelCache()


def run_job(job: Job, folder: Path, is_main_process: bool = True, about=None):
    """Run a single job, write its folder and log it. Returns its RunFolder."""
    logger = instantiate(job.resolved["logger"])["mirror"]
    if is_main_process:
        logger.check()
    batch = merge_batch([job])
    task = resident.task(batch)
    (pictures,) = picture_ranges([job])
    result = open_run(job, batch, pictures, folder, logger, is_main_process, about)
    task(result)
    if about:
        job.check_inputs()  # the name of a run in a sweep depends on the content of its inputs
    result.finish()
    return result


def open_run(
    job: Job,
    batch: Mapping,
    pictures: range,
    folder: Path,
    logger,
    is_main_process: bool = True,
    about=None,
):
    """Create the RunFolder of a run, with its recipe.

    Args:
        job: The run.
        batch: The resolved configuration of the batch that it is sampled in.
        pictures: The indices in the batch of the pictures of the run.
        folder: The output folder.
        logger: The logger.
        is_main_process: Whether this is the main process of the run.
        about: How loggers name the run.
    """
    from expkit.results.run_folder import RunFolder
    from expkit.runs.recipe import Recipe, current_facts

    ran = {"task": batch["task"], "pictures": None}
    if job.batches:
        ran |= {
            "pictures": [pictures.start, pictures.stop],
            "cells": job.conditions,
            "note": job.note,
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
    rows = picture_ranges(jobs)
    runs = [RunRows(rows[n], job.conditions, job.note) for n, job in enumerate(jobs)]
    writers = resident.task(batch).sample_batch(runs, say)
    logger = instantiate(batch["logger"])["mirror"]
    for n, (job, write) in enumerate(zip(jobs, writers, strict=True)):
        with place(n) as folder:
            result = open_run(job, batch, rows[n], folder, logger, about=about[n])
            result.began = began
            write(result)
            job.check_inputs()
            result.finish()
