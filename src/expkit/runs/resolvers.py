"""The resolvers ${name:…} that the YAML in conf/ uses.

They are registered when Hydra scans its plugins, so also in the processes of other launchers.
"""

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
# environment variables that configurations have read in this process; None if not set
READ: dict[str, str | None] = {}


def register_resolvers() -> None:
    from omegaconf import OmegaConf

    new_id = lambda: uuid.uuid4().hex[:6]
    OmegaConf.register_new_resolver("short_id", new_id, use_cache=True, replace=True)
    resolvers = {
        "either": lambda value, other: other if value is None else value,
        "range": lambda first, end: OmegaConf.create([*range(first, end)]),
        "said": part_prompt,
        "example": model_example,
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
    """OmegaConf's ${oc.env:NAME,DEFAULT}, which also records in READ that the variable was read.

    The variables that a configuration reads are a part of the command.
    """
    from omegaconf.resolvers import oc

    READ[name] = os.environ.get(name)
    return oc.env(name, *default)


@contextmanager
def not_recording() -> Iterator[None]:
    """Restore READ after the block: what is read in it has no influence on the output."""
    before = dict(READ)
    try:
        yield
    finally:
        READ.clear()
        READ.update(before)


def newest_weights():
    """The path of the newest weights that were trained on this machine.

    If there are none, returns a node that raises UserError once it is instantiated.
    """
    from omegaconf import OmegaConf

    failing_node = OmegaConf.create({"_target_": "expkit.models.newest_model"})
    if not any(Path(inputs.NEWEST).glob("*/model.safetensors")):
        return failing_node  # without importing torch
    from expkit.models import trained

    try:
        return trained.newest_model()
    except UserError:
        return failing_node


def part_prompt(*, _parent_, _root_):
    """The prompt of a part of an estimate.

    It is the value of the key of that name (far, near, …) if there is one, else of `prompt`.
    """
    name = _parent_._key()
    key = name if name in schema.prompt_keys() else "prompt"
    if _root_[key] is None:
        raise UserError(f"This model has no prompt of its own for {key!r}: say one with {key}=….")
    return _root_[key]


def model_example(key: str, *, _root_):
    """The model's default for a key, from model.examples, or None."""
    from omegaconf import OmegaConf

    return OmegaConf.select(_root_, f"model.examples.{key}")


def translate_caption(text: str, *, _root_) -> str:
    """A caption of the source write-up, replaced by words that the model knows (model.says)."""
    return (_root_.model.get("says") or {}).get(text, text)


def describe_image(image, *, _root_) -> str:
    """A caption of an image that ships with expkit (model.seen), or the model's weak prompt.

    Some models do better with a caption.
    """
    return (_root_.model.get("seen") or {}).get(str(image), _root_.model.examples.weak)


def model_named(*, _root_) -> str:
    """The name of the chosen model, and its weights if they have another name."""
    from hydra.core.hydra_config import HydraConfig

    model = HydraConfig.get().runtime.choices["model"]
    weights = _root_.model.get("weights")
    return f"{model}, weights {weights}" if isinstance(weights, str) and weights != model else model


def cell_identity(*, _root_) -> str:
    """The name of a run in a sweep: a hash of its resolved configuration."""
    from expkit.runs.job import config_hash, resolve_config

    return config_hash(resolve_config(_root_))
