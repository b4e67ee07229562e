"""What is wished on the page of `expkit app`: arguments as the command takes them, and the run that they ask for.

A run here is a run of the command: the same folder, recipe and pixels.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from expkit import command, sources
from expkit.claims import claimed
from expkit.errors import Refusal
from expkit.job import Composed, Job, run
from expkit.sweep import drawn


def sketch(sheet: Mapping | None, prompt: str, starts: list[int], gamma: float, seed: int) -> list[str]:
    return told("sdedit", image=drawn.sketch(sheet), prompt=prompt, i_start=sorted(starts), gamma=gamma, seed=seed)


def inpaint(sheet: Mapping | None, source: str, prompt: str, samples: int, gamma: float, seed: int) -> list[str]:
    mask = drawn.mask(sheet, sources.size(source))
    return told("inpaint", image=source, mask=mask, prompt=prompt, samples=samples, gamma=gamma, seed=seed)


def hybrid(far: str, near: str, sigma: float, samples: int, gamma: float, seed: int) -> list[str]:
    return told("hybrid", far=far, near=near, sigma=sigma, samples=samples, gamma=gamma, seed=seed)


def told(task: str, **values) -> list[str]:
    return [f"task={task}", *[f"{key}={value(key, wished)}" for key, wished in values.items()]]


def value(key: str, wished) -> str:
    """A value as Hydra's grammar takes it; a text stays a text whatever is in it."""
    if isinstance(wished, str):
        return text(key, wished)
    if isinstance(wished, list):
        return f"[{','.join(map(number, wished))}]"
    if wished is None:
        raise Refusal(f"{key} is empty: give it a number.")
    return number(wished)


def number(wished: float) -> str:
    return str(int(wished)) if wished == int(wished) else str(wished)


def text(key: str, wished: str) -> str:
    if "${" in wished:
        raise Refusal(f"{key}: a prompt cannot hold ${{, which stands for other keys. Leave it out.")
    plain = re.fullmatch(r"\d+|[A-Za-z][\w./-]*( \w+)*", wished, re.ASCII) and wished.lower() not in ("null", "true", "false", "inf", "nan")
    return wished if plain else '"{}"'.format(re.sub(r'(\\*)("|\Z)', lambda m: m[1] * 2 + ("\\" + m[2] if m[2] else ""), wished))


def joined(given: Sequence[str], wished: Sequence[str]) -> list[str]:
    """What is given and then what is wished; of a key in both, the wish alone."""
    keys = {argument.partition("=")[0] for argument in wished}
    return [*(argument for argument in given if argument.partition("=")[0] not in keys), *wished]


def typed(arguments: Sequence[str]) -> str:
    """The command of these arguments, as a shell takes it."""
    return " ".join(["python -m expkit", *map(shlex.quote, arguments)])


def composed(arguments: Sequence[str]):
    """The configuration of these arguments, with Hydra's own node, which ${hydra:…} speaks of from now on."""
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig

    with initialize_config_dir(config_dir=str(command.configuration()), version_base="1.3"):
        config = compose("config", [*arguments], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    return config


def made(arguments: Sequence[str]) -> Path:
    """The folder of a run with these arguments, as the command would have made it."""
    config = composed(arguments)
    folder = Path(config.hydra.run.dir)
    with claimed(folder):
        return run(Job(Composed(config), [a for a in arguments if not a.startswith("hydra")]), folder).folder
