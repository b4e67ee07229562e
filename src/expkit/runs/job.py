"""Runs: from a composed configuration to folders, one run alone or several in one batch. Knows no command line.

A list instead of a value is a batch: every combination of the lists (or, paired, the first of each, the second, …) is a wish, and
every wish has its samples. Several runs that differ in
such values only are a batch in the same way, and each writes its own part of it.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path

from expkit.config import schema
from expkit.config.command_line import ELSEWHERE, SWEEPERS, relative_path, shell_command
from expkit.errors import UserError
from expkit.runs import resolvers
from expkit.storage import inputs
from expkit.training import lightning_arguments

BATCH_KEYS = schema.batch_keys()
NOT_IDENTITY = ("logger", "sweep")  # what has no say in what is made


@dataclass(frozen=True, eq=False)
class ComposedConfig:
    """A configuration as Hydra composes it, not resolved. Hydra's own node is in it, or in `beside`."""

    config: Mapping
    beside: Mapping = field(default_factory=dict)

    def known(self, values: Mapping) -> dict:
        """The whole of it as plain values, less Hydra's own node, with these for some of `BATCH_KEYS`."""
        from hydra.core.hydra_config import HydraConfig

        if "hydra" in self.config:
            HydraConfig.instance().set_config(self.config)
        for key in {*self.changed, *values}:
            self.copied[key] = values[key] if key in values else copy.deepcopy(self.config._get_node(key))
        self.changed.update(values)
        return resolve_config(self.copied)

    @property
    def whole(self) -> Mapping:
        """The configuration with Hydra's own node in it, where it is known."""
        return self.config if "hydra" in self.config else self.beside

    @cached_property
    def declared(self) -> dict[str, schema.Declaration]:
        """What its keys may be, {path: declaration}."""
        known = self.whole.hydra
        folders = tuple(
            Path(source.path) for source in known.runtime.config_sources if source.schema == "file"
        )
        choices = tuple(
            (group, option) for group, option in known.runtime.choices.items() if isinstance(option, str)
        )
        return schema.find_declarations(choices, known.job.config_name, folders)

    @cached_property
    def copied(self):
        """What values are put into: copying it for each set of them would take most of the time."""
        return copy.deepcopy(self.config)

    @cached_property
    def changed(self) -> set[str]:
        """The keys of the copy that are not as they were composed."""
        return set()

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that were asked for when it was composed and resolved, and are set."""
        return {name: value for name, value in resolvers.READ.items() if value is not None}

    @cached_property
    def origin(self) -> list[str]:
        """The arguments that say where its YAML comes from, beside expkit's own: Hydra's options, and what is set of Hydra's node."""
        if not (config := self.whole):
            return []
        hydra, _ = overrides_of(config)
        told = [
            *sources_of(config, relative_path),
            *(a for a in hydra if not a.startswith((*ELSEWHERE, *SWEEPERS))),
        ]
        own = str(config.hydra.mode or "").endswith("MULTIRUN") and "hydra.mode=MULTIRUN" not in hydra
        return [*told, "hydra.mode=RUN"] if own else told  # where an experiment says by itself that it sweeps

    @cached_property
    def digests(self) -> dict[str, str]:
        """Hashes of the files that were read so far, by name: runs of one composition name the same."""
        return {}

    @cached_property
    def used(self) -> frozenset[str]:
        """Those of `BATCH_KEYS` that have a say in what is sampled: a mark put in their place turns up there."""
        marked = self.known({key: f"<{key}>" for key in BATCH_KEYS})["task"]
        text = str([marked.get(part) for part in ("estimate", "pin")])
        return frozenset(key for key in BATCH_KEYS if key == "seed" or f"<{key}>" in text)


@dataclass(frozen=True, eq=False)
class Job:
    """A run. told: the arguments of the command that is this run alone, less those that say where its YAML comes from.

    values: those of `BATCH_KEYS` that are not as they were composed.
    """

    composed: ComposedConfig
    told: Sequence[str]
    values: Mapping = field(default_factory=dict)

    @cached_property
    def resolved(self) -> dict:
        known = self.composed.known(self.values)
        schema.check_config(known, self.composed.declared)
        lightning_arguments.check_arguments((known.get("trainer") or {}).get("lightning", {}))
        return known

    @cached_property
    def inputs(self) -> dict[str, str]:
        """{name: a hash of what it means} of the files and folders that are read."""
        return inputs.input_hashes(self.resolved, self.composed.digests)

    def check_inputs(self) -> None:
        """Refuse files that are not what they were when this run was asked for: what was made is of the one or of the other."""
        now = inputs.input_hashes(self.resolved)
        if changed := [name for name in {**self.inputs, **now} if self.inputs.get(name) != now.get(name)]:
            raise UserError(
                f"{changed[0]} has changed while this was made from it. The same command makes it again."
            )

    @property
    def arguments(self) -> list[str]:
        """All that have to be typed for this run, also when there are newer weights."""
        model = self.composed.config._get_node("model", validate_access=False)
        weights = None if model is None else model._get_node("weights", validate_access=False)
        newest = (
            weights is not None
            and weights._value() == resolvers.NEWEST
            and isinstance(self.resolved["model"]["weights"], str)
        )
        return [
            *self.composed.origin,
            *self.told,
            *([f"model.weights={self.resolved['model']['weights']}"] if newest else []),
        ]

    @cached_property
    def wishes(self) -> list[dict]:
        """What distinguishes the wishes of this run: every combination of the lists among the keys that have a say, or these in pairs."""
        used = {
            key: self.resolved[key]
            for key in BATCH_KEYS
            if isinstance(self.resolved[key], list) and key in self.composed.used
        }
        lengths = {key: len(values) for key, values in used.items()}
        if self.resolved.get("paired") and len(set(lengths.values())) > 1:
            said = ", ".join(f"{key} has {length}" for key, length in lengths.items())
            raise UserError(
                f"paired=true takes lists side by side, and these are not equally long: {said}. Give as many of each."
            )
        combined = (
            zip(*used.values(), strict=True)
            if used and self.resolved.get("paired")
            else product(*used.values())
        )
        return [dict(zip(used, values, strict=True)) for values in combined]

    @property
    def samples(self) -> int:
        return self.resolved["task"].get("samples") or 1

    @property
    def count(self) -> int:
        """Its pictures."""
        return len(self.wishes) * self.samples

    @property
    def batches(self) -> bool:
        """Whether it can share a batch with others."""
        return "cells" in self.resolved["task"]


def sources_of(config, told: Callable[[str], str] = str) -> list[str]:
    """The options that say where a composed configuration's YAML comes from, other than from expkit's own conf/."""
    hydra = config.hydra
    sources = {source.provider: source.path for source in hydra.runtime.config_sources}
    main, name = sources.get("main"), str(hydra.job.config_name or "config").removesuffix(".yaml")
    found = [f"--config-path={told(main)}"] if main and main != str(schema.config_folder()) else []
    found += [f"--config-name={name}"] if name != "config" else []
    return found + ([f"--config-dir={told(sources['command-line'])}"] if "command-line" in sources else [])


def overrides_of(config) -> tuple[list[str], list[str]]:
    """What Hydra was told of itself, and what of the configuration, as it was typed: ${…} in it are not resolved."""
    from omegaconf import OmegaConf

    told = OmegaConf.to_container(config.hydra.overrides, resolve=False)
    return told["hydra"], told["task"]


def resolve_config(config) -> dict:
    """The whole configuration as plain values, less Hydra's own node."""
    from omegaconf import OmegaConf

    found = {}
    for key in config:
        if key != "hydra":
            with resolvers.not_recording() if key in NOT_IDENTITY else nullcontext():
                found[key] = (
                    OmegaConf.to_container(node, resolve=True)
                    if OmegaConf.is_config(node := config[key])
                    else node
                )
    return found


def config_hash(known: Mapping, read: Mapping[str, str] | None = None) -> str:
    """A hash of what is made: the resolved configuration, and what is in the files and folders that it names.

    Equal content under another name is another identity. read: the hashes of those files, where they are known already.
    """
    said = {key: value for key, value in known.items() if key not in NOT_IDENTITY}
    told = json.dumps(
        [said, inputs.input_hashes(known) if read is None else read], sort_keys=True, default=str
    )
    return hashlib.blake2b(told.encode(), digest_size=6).hexdigest()


def user_files(read: Mapping[str, str]) -> dict[str, str]:
    """Of what is read, what does not ship with expkit."""
    return {name: told for name, told in read.items() if not inputs.is_shipped(name)}


def merge_batch(jobs: Sequence[Job]) -> dict:
    """The resolved configuration of one batch with the pictures of all jobs, which differ in the values of `BATCH_KEYS` only.

    Each key that varies has one value a picture, and `cells` says what distinguishes the wishes.
    """
    wishes = [{**job.resolved, **wish} for job in jobs for wish in job.wishes]
    listed = {key for job in jobs for key in job.wishes[0]}
    varied = [
        key
        for key in BATCH_KEYS
        if key in listed or (any(w[key] != wishes[0][key] for w in wishes) and key in jobs[0].composed.used)
    ]
    each = {key: [wish[key] for wish in wishes for _ in range(jobs[0].samples)] for key in varied}
    cells = [{key: wish[key] for key in varied} for wish in wishes]
    batch = jobs[0].composed.known({**jobs[0].values, **each, "cells": cells})
    if "note" in batch["task"]:
        batch["task"]["note"] = jobs[0].resolved["task"]["note"]  # as it reads before the lists become long
    return batch


def instantiate(node, **given):
    """The object of a node, with what is given as it is. A refusal inside is passed on as it is, not wrapped in Hydra's."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        if not given:
            return instantiate(node, _convert_="all")
        rest = {key: value for key, value in node.items() if key not in given}
        try:
            return instantiate(rest, _convert_="all", _partial_=True)(**given)
        except TypeError as error:
            if match := re.match(r"(\w+)\.__init__\(\) missing .*: (.*)", str(error)):
                raise UserError(
                    f"{node['_target_']} needs {match[2]}, which the configuration lacks: it was removed."
                ) from None
            raise
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError | OSError | KeyboardInterrupt):
            raise error.__cause__ from None
        raise


class ModelCache:
    """What is dear to load, kept from run to run: one model at a time, and its judges.

    A sweep's runs share weights, encoded prompts and compiled graphs.
    """

    def __init__(self) -> None:
        self.kept: dict[str, tuple[str, object]] = {}

    def __call__(self, name: str, node: Mapping):
        """The object of a resolved node, which is kept until another is asked for under this name."""
        told = json.dumps(node, sort_keys=True, default=str)
        if self.kept.get(name, ("",))[0] != told:
            self.kept.pop(name, None)
            self.kept[name] = told, instantiate(node)
        return self.kept[name][1]

    def task(self, known: Mapping):
        """The task of a resolved configuration."""
        node, model = known["task"], known["model"]
        shared = {"model": model.get("denoiser"), "judges": model.get("judges")}
        return instantiate(
            node, **{key: self(key, part) for key, part in shared.items() if part and node.get(key) == part}
        )

    def model(self):
        """The model of the last task, if it asked for one."""
        return self.kept.get("model", ("", None))[1]


resident = ModelCache()


def run_job(job: Job, folder: Path, leads: bool = True, about=None):
    """One run alone, written into its folder and mirrored; its Result."""
    mirror = instantiate(job.resolved["logger"])["mirror"]
    if leads:
        mirror.check()
    batch = merge_batch([job])
    task = resident.task(batch)
    result = open_run(job, batch, folder, 0, mirror, leads, about)
    task(result)
    if about:
        job.check_inputs()  # a cell is named by what it was made from
    result.finish()
    return result


def open_run(job: Job, batch: Mapping, folder: Path, first: int, mirror, leads: bool = True, about=None):
    """What a run is written into; its recipe says how it was asked for, and which pictures of which batch are its own."""
    from expkit.results.run_folder import Result
    from expkit.runs.recipe import Recipe, current_facts

    ran = {"task": batch["task"], "pictures": None}
    if job.batches:
        ran |= {
            "pictures": [first, first + job.count],
            "cells": job.wishes,
            "note": job.resolved["task"].get("note", ""),
        }
    command = shell_command(job.arguments, job.composed.environment)
    recipe = Recipe(command, current_facts(resident.model(), user_files(job.inputs)), job.resolved, ran)
    return Result(folder, recipe.text, mirror, leads, about)


def run_together(
    jobs: Sequence[Job], say: Callable[[str], None], place: Callable[[int], object], about: Sequence
) -> None:
    """Several runs in one batch. place(n): a context in which the n-th is written, whose value is its folder."""
    from expkit.tasks.sampling import Part

    began, batch = time.perf_counter(), merge_batch(jobs)
    firsts = [sum(job.count for job in jobs[:number]) for number in range(len(jobs))]
    shares = [(range(first, first + job.count), job) for first, job in zip(firsts, jobs, strict=True)]
    parts = [Part(rows, job.wishes, job.resolved["task"].get("note", "")) for rows, job in shares]
    writers = resident.task(batch).together(parts, say)
    mirror = instantiate(batch["logger"])["mirror"]
    for number, (job, first, write) in enumerate(zip(jobs, firsts, writers, strict=True)):
        with place(number) as folder:
            result = open_run(job, batch, folder, first, mirror, about=about[number])
            result.began = began
            write(result)
            job.check_inputs()
            result.finish()
