"""The inputs on the page of `expkit app` as arguments of the command, and the runs of these.

Such a run equals that of the command: the same folder, recipe and pixels.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from expkit.app import uploads
from expkit.config import schema
from expkit.config.command_line import without_hydra
from expkit.errors import UserError
from expkit.images import sources
from expkit.results.claims import claimed_folder
from expkit.runs.job import ComposedConfig, Job, run_job


def sketch_overrides(
    sheet: Mapping | None,
    prompt: str,
    starts: list[int],
    gamma: float,
    seed: int,
) -> list[str]:
    """The arguments of the tab Sketch: SDEdit from the drawing, at each chosen i_start."""
    return task_overrides(
        "sdedit",
        image=uploads.save_sketch(sheet),
        prompt=prompt,
        i_start=sorted(starts),
        gamma=gamma,
        seed=seed,
    )


def inpaint_overrides(
    sheet: Mapping | None,
    source: str,
    prompt: str,
    samples: int,
    gamma: float,
    seed: int,
) -> list[str]:
    """The arguments of the tab Inpaint: inpainting of `source` where the sheet is painted."""
    mask = uploads.save_mask(sheet, sources.image_size(source))
    return task_overrides(
        "inpaint", image=source, mask=mask, prompt=prompt, samples=samples, gamma=gamma, seed=seed
    )


def hybrid_overrides(
    far: str,
    near: str,
    sigma: float,
    samples: int,
    gamma: float,
    seed: int,
) -> list[str]:
    """The arguments of the tab Hybrid: one picture with another prompt from afar than close by."""
    return task_overrides(
        "hybrid",
        far=far,
        near=near,
        sigma=sigma,
        samples=samples,
        gamma=gamma,
        seed=seed,
    )


def task_overrides(task: str, **values) -> list[str]:
    """The arguments of a task with these values."""
    arguments = [f"{key}={format_hydra_value(key, value)}" for key, value in values.items()]
    return [f"task={task}", *arguments]


def format_hydra_value(key: str, wished) -> str:
    """A value in Hydra's grammar. A text stays a text, whatever it contains.

    Raises:
        UserError: if the value is None, or a text with ${.
    """
    if isinstance(wished, str):
        return format_text(key, wished)
    if isinstance(wished, list):
        return f"[{','.join(map(format_number, wished))}]"
    if wished is None:
        raise UserError(f"{key} is empty: give it a number.")
    return format_number(wished)


def format_number(wished: float) -> str:
    """A number as text; a whole number without a decimal point."""
    return str(int(wished)) if wished == int(wished) else str(wished)


def format_text(key: str, wished: str) -> str:
    """A text in Hydra's grammar: plain words as they are, anything else in double quotes.

    Raises:
        UserError: if the text contains ${.
    """
    if "${" in wished:
        reason = "a prompt cannot hold ${, which stands for other keys. Leave it out."
        raise UserError(f"{key}: {reason}")
    looks_plain = re.fullmatch(r"\d+|[A-Za-z][\w./-]*( \w+)*", wished, re.ASCII)
    if looks_plain and wished.lower() not in ("null", "true", "false", "inf", "nan"):
        return wished

    def escape(match: re.Match) -> str:
        # Backslashes before a quote or the end are doubled, and the quote is escaped
        quote = "\\" + match[2] if match[2] else ""
        return match[1] * 2 + quote

    return '"{}"'.format(re.sub(r'(\\*)("|\Z)', escape, wished))


def merge_overrides(given: Sequence[str], wished: Sequence[str]) -> list[str]:
    """The arguments `given` and then `wished`; a key in both has only the value in `wished`."""
    keys = {argument.partition("=")[0] for argument in wished}
    return [*(argument for argument in given if argument.partition("=")[0] not in keys), *wished]


def format_command(arguments: Sequence[str]) -> str:
    """The shell command of these arguments."""
    return " ".join(["python -m expkit", *map(shlex.quote, arguments)])


def compose_config(arguments: Sequence[str]):
    """Compose the configuration of these arguments, with Hydra's own node.

    From then on, ${hydra:…} refers to this configuration.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig

    with initialize_config_dir(config_dir=str(schema.config_folder()), version_base="1.3"):
        config = compose("config", [*arguments], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    return config


def run_folder_for(arguments: Sequence[str]) -> Path:
    """Run these arguments as the command does, and return the folder of the run."""
    config = compose_config(arguments)
    folder = Path(config.hydra.run.dir)
    with claimed_folder(folder):
        job = Job(ComposedConfig(config), without_hydra(arguments))
        return run_job(job, folder).folder
