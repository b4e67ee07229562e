"""What is wished on the page of `expkit app`: arguments as the command takes them, and the run that they ask for.

A run here is a run of the command: the same folder, recipe and pixels.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from expkit.app import uploads
from expkit.config import schema
from expkit.errors import UserError
from expkit.images import sources
from expkit.results.claims import claimed_folder
from expkit.runs.job import ComposedConfig, Job, run_job


def sketch_overrides(
    sheet: Mapping | None, prompt: str, starts: list[int], gamma: float, seed: int
) -> list[str]:
    return task_overrides(
        "sdedit",
        image=uploads.save_sketch(sheet),
        prompt=prompt,
        i_start=sorted(starts),
        gamma=gamma,
        seed=seed,
    )


def inpaint_overrides(
    sheet: Mapping | None, source: str, prompt: str, samples: int, gamma: float, seed: int
) -> list[str]:
    mask = uploads.save_mask(sheet, sources.image_size(source))
    return task_overrides(
        "inpaint", image=source, mask=mask, prompt=prompt, samples=samples, gamma=gamma, seed=seed
    )


def hybrid_overrides(far: str, near: str, sigma: float, samples: int, gamma: float, seed: int) -> list[str]:
    return task_overrides("hybrid", far=far, near=near, sigma=sigma, samples=samples, gamma=gamma, seed=seed)


def task_overrides(task: str, **values) -> list[str]:
    return [f"task={task}", *[f"{key}={format_value(key, wished)}" for key, wished in values.items()]]


def format_value(key: str, wished) -> str:
    """A value as Hydra's grammar takes it; a text stays a text whatever is in it."""
    if isinstance(wished, str):
        return format_text(key, wished)
    if isinstance(wished, list):
        return f"[{','.join(map(format_number, wished))}]"
    if wished is None:
        raise UserError(f"{key} is empty: give it a number.")
    return format_number(wished)


def format_number(wished: float) -> str:
    return str(int(wished)) if wished == int(wished) else str(wished)


def format_text(key: str, wished: str) -> str:
    if "${" in wished:
        raise UserError(f"{key}: a prompt cannot hold ${{, which stands for other keys. Leave it out.")
    plain = re.fullmatch(r"\d+|[A-Za-z][\w./-]*( \w+)*", wished, re.ASCII) and wished.lower() not in (
        "null",
        "true",
        "false",
        "inf",
        "nan",
    )
    return (
        wished
        if plain
        else '"{}"'.format(re.sub(r'(\\*)("|\Z)', lambda m: m[1] * 2 + ("\\" + m[2] if m[2] else ""), wished))
    )


def merge_overrides(given: Sequence[str], wished: Sequence[str]) -> list[str]:
    """What is given and then what is wished; of a key in both, the wish alone."""
    keys = {argument.partition("=")[0] for argument in wished}
    return [*(argument for argument in given if argument.partition("=")[0] not in keys), *wished]


def format_command(arguments: Sequence[str]) -> str:
    """The command of these arguments, as a shell takes it."""
    return " ".join(["python -m expkit", *map(shlex.quote, arguments)])


def compose_config(arguments: Sequence[str]):
    """The configuration of these arguments, with Hydra's own node, which ${hydra:…} speaks of from now on."""
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig

    with initialize_config_dir(config_dir=str(schema.config_folder()), version_base="1.3"):
        config = compose("config", [*arguments], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    return config


def run_folder_for(arguments: Sequence[str]) -> Path:
    """The folder of a run with these arguments, as the command would have made it."""
    config = compose_config(arguments)
    folder = Path(config.hydra.run.dir)
    with claimed_folder(folder):
        return run_job(
            Job(ComposedConfig(config), [a for a in arguments if not a.startswith("hydra")]), folder
        ).folder
