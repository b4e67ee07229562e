"""What ${name:…} means in the YAML of conf/. Registered when Hydra scans its plugins, so also in the processes of other launchers."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from expkit.config import schema
from expkit.errors import UserError
from expkit.storage import inputs

NEWEST = "${newest:}"
READ: dict[
    str, str | None
] = {}  # environment variables that configurations have asked for in this process, None: not set


def register_resolvers() -> None:
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("short_id", lambda: uuid.uuid4().hex[:6], use_cache=True, replace=True)
    resolvers = {
        "either": lambda value, other: other if value is None else value,
        "range": lambda first, end: OmegaConf.create([*range(first, end)]),
        "chosen": lambda group, *, _root_: _root_[group],
        "said": part_prompt,
        "example": model_example,
        "prompt_of": prompt_of,
        "says": translate_caption,
        "seen": describe_image,
        "model_named": model_named,
        "identity": cell_identity,
        "newest": newest_weights,
        "oc.env": read_environment,
    }
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


def read_environment(name: str, *default):
    """OmegaConf's ${oc.env:NAME,DEFAULT}; which were asked for is kept, for they are a part of what a command is."""
    from omegaconf.resolvers import oc

    READ[name] = os.environ.get(name)
    return oc.env(name, *default)


@contextmanager
def not_recording() -> Iterator[None]:
    """What is asked for inside decides nothing that is made."""
    known = dict(READ)
    try:
        yield
    finally:
        READ.clear()
        READ.update(known)


def newest_weights():
    """The newest weights that were trained here, as a path; where there are none, what refuses once they are needed."""
    from omegaconf import OmegaConf

    lazily = OmegaConf.create({"_target_": "expkit.models.trained.newest_model"})
    if not any(Path(inputs.NEWEST).glob("*/model.safetensors")):
        return lazily  # without torch
    from expkit.models import trained

    try:
        return trained.newest_model()
    except UserError:
        return lazily


def part_prompt(*, _parent_, _root_):
    """What a part of an estimate says: the key of its own name if there is one (far, near, …), else `prompt`."""
    name = _parent_._key()
    key = name if name in schema.prompt_keys() else "prompt"
    if _root_[key] is None:
        raise UserError(f"This model has no prompt of its own for {key!r}: say one with {key}=….")
    return _root_[key]


def model_example(key: str, *, _root_):
    """What the model shows where nothing is said, if it has something: model.examples."""
    from omegaconf import OmegaConf

    return OmegaConf.select(_root_, f"model.examples.{key}")


def translate_caption(text: str, *, _root_) -> str:
    """A caption of the source write-up in words that the model knows: model.says translates it where there is a need."""
    return (_root_.model.get("says") or {}).get(text, text)


def describe_image(image, *, _root_) -> str:
    """What `image` shows, if it is one that ships and the model does better when it is told (model.seen); else its weak prompt."""
    return (_root_.model.get("seen") or {}).get(str(image), _root_.model.examples.weak)


def prompt_of(part: str, *, _root_):
    """What a part of an estimate says, if it says one thing; "" if it is made of parts itself."""
    from omegaconf import OmegaConf

    return OmegaConf.select(_root_, f"{part}.prompt", default="")


def model_named(*, _root_) -> str:
    """The chosen model, and its weights where they are said by another name."""
    from hydra.core.hydra_config import HydraConfig

    model, weights = HydraConfig.get().runtime.choices.model, _root_.model.get("weights")
    return f"{model}, weights {weights}" if isinstance(weights, str) and weights != model else model


def cell_identity(*, _root_) -> str:
    """The name of a sweep's cell: a hash of its resolved configuration."""
    from expkit.runs.job import config_hash, resolve_config

    return config_hash(resolve_config(_root_))
