"""The settings that decide a training, and what a resumed training does when they have changed.

Settings are a flat table {key: value}. The keys are those of the command line, the values are plain
JSON values. Each checkpoint stores them.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from functools import partial, singledispatch
from types import FunctionType
from typing import Any

from torch import Tensor, nn

from expkit.config.addresses import current_address
from expkit.data.labelled_pictures import Pictures
from expkit.text.encoders import Encoder

REFUSED = "refused"  # with another value it would be another training
OBEYED = "obeyed"  # the new value applies from the checkpoint on, and the user is told
FREE = "free"  # does not affect what is learnt: any value is accepted, and checkpoints store none

# The longest key that equals a setting's key or is a prefix of it decides.
# A setting without such a key is refused.
ON_RESUME: Mapping[str, str] = {
    # more epochs than are done already; the learning rate follows the new length
    "trainer.epochs": OBEYED,
    "trainer.optimizer": REFUSED,
    "trainer.optimizer.lr": OBEYED,
    "trainer.rate": OBEYED,
    "trainer.objective": REFUSED,
    "trainer.network": REFUSED,
    "trainer.batch_size": REFUSED,
    "trainer.ema": REFUSED,
    "trainer.ema_from": REFUSED,
    "trainer.precision": REFUSED,
    "trainer.show": FREE,
    "trainer.checkpoint_every": FREE,
    "trainer.accelerator": FREE,
    "trainer.devices": FREE,
    "trainer.num_nodes": FREE,
    "trainer.strategy": FREE,
    "trainer.compile": FREE,
    "trainer.lightning.accumulate_grad_batches": REFUSED,
    "trainer.lightning.gradient_clip_val": REFUSED,
    "trainer.lightning.gradient_clip_algorithm": REFUSED,
    "trainer.lightning.limit_train_batches": REFUSED,
    "trainer.lightning.limit_val_batches": OBEYED,
    "trainer.lightning.log_every_n_steps": FREE,
    "trainer.lightning.deterministic": FREE,
    "trainer.lightning.profiler": FREE,
    "trainer.lightning.benchmark": FREE,
    "trainer.lightning.detect_anomaly": FREE,
    "trainer.lightning.enable_progress_bar": FREE,
    "trainer.lightning.inference_mode": FREE,
    "seed": REFUSED,
    "pictures": REFUSED,
    "test pictures": OBEYED,
    "network": REFUSED,
}
MISSING = "not set"
# Lightning's short names
PRECISIONS = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}


def on_resume(key: str) -> str:
    """The rule for a value of this key that differs on resume: `REFUSED`, `OBEYED` or `FREE`."""
    matches = [name for name in ON_RESUME if key == name or key.startswith(f"{name}.")]
    return ON_RESUME[max(matches, key=len)] if matches else REFUSED


def training_settings(
    recipe,
    lightning: Mapping,
    precision: str,
    network: nn.Module,
    images: Pictures,
    held_out: Pictures,
    seed: int,
) -> dict:
    """All settings that decide a training, as a flat table without those that are `FREE`.

    Args:
        recipe: the `TrainConfig`.
        lightning: the arguments of Lightning's Trainer, with defaults filled in.
        precision: the resolved precision, not "auto".
        images: the training data.
        held_out: the test data.
    """
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    settings = {
        "trainer": {
            **plain_values(recipe),
            "precision": PRECISIONS.get(str(precision), str(precision)),
            "lightning": plain_values(lightning),
        },
        "seed": seed,
        "pictures": {
            "count": len(images.labels),
            "shape": [*images.shape],
            "classes": [*images.names],
            "sha256": images.sha256[:12],
        },
        "test pictures": {"count": len(held_out.labels), "sha256": held_out.sha256[:12]},
        "network": {"shapes": hashlib.sha256(repr(shapes).encode()).hexdigest()[:12]},
    }
    return {key: value for key, value in flatten(settings).items() if on_resume(key) != FREE}


def of_old(origin: Mapping, group: Mapping) -> dict:
    """The settings of a checkpoint from an earlier version, which did not store settings.

    Args:
        origin: the table `origin` that such a checkpoint has.
        group: the options of its optimizer.
    """
    names = {
        "network": "network.shapes",
        "pictures": "pictures.sha256",
        "batch size": "trainer.batch_size",
    }
    return {names.get(key, key): value for key, value in origin.items()} | of_optimizer(group)


def of_optimizer(group: Mapping) -> dict:
    """The options of an optimizer's parameter group as settings, with its initial learning rate."""
    options: dict[str, Any] = {"lr": float(group.get("initial_lr", group["lr"]))}
    for key, value in group.items():
        if key not in ("params", "lr", "initial_lr"):
            options[key] = plain_values(value)
    return flatten({"trainer": {"optimizer": options}})


def setting_differences(there: Mapping, here: Mapping) -> dict[str, tuple]:
    """The checkpoint's settings (`there`) that differ from the command's (`here`).

    Returns:
        {key: (value in the checkpoint, value in the command)}
    """
    return {
        key: (value, here.get(key, MISSING))
        for key, value in there.items()
        if here.get(key, MISSING) != value
    }


def describe_differences(apart: Mapping[str, tuple], most: int = 4) -> str:
    """Differences as text with both values of each; at most `most` of them, then a count."""
    phrases = [
        f"{key} is {short_value(old)} in the checkpoint and {short_value(new)} in this command"
        for key, (old, new) in map(only_apart, apart.items())
    ]
    more = f"; and {len(phrases) - most} more" if len(phrases) > most else ""
    return "; ".join(phrases[:most]) + more


def only_apart(item: tuple[str, tuple]) -> tuple[str, tuple]:
    """Reduce two lists of equal length to the elements that differ; other values stay unchanged."""
    key, (old, new) = item
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [pair for pair in zip(old, new, strict=True) if pair[0] != pair[1]]
        return key, ([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    return item


def short_value(value: object, most: int = 60) -> str:
    """A value as it is written on the command line, cut after `most` characters."""
    if isinstance(value, list):
        text = ", ".join(map(short_value, value))
    elif value is None:
        text = "null"
    elif isinstance(value, bool):
        text = str(value).lower()
    else:
        text = str(value)
    return text if len(text) <= most else f"{text[:most]}…"


def flatten(table: Mapping, prefix: str = "") -> dict:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    flat = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


@singledispatch
def plain_values(value: object) -> Any:
    """An object as plain JSON values.

    A dataclass becomes a dict of its fields, a function or class a dict of its arguments, a tensor
    a text with its first and last number and a hash.
    """
    if is_dataclass(value):
        return {
            "_target_": qualified_name(type(value)),
            **{item.name: plain_values(getattr(value, item.name)) for item in fields(value)},
        }
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


@plain_values.register
def _(value: dict) -> dict:
    return {str(key): plain_values(item) for key, item in value.items()}


@plain_values.register(list)
@plain_values.register(tuple)
def _(value) -> list:
    return [plain_values(item) for item in value]


@plain_values.register(FunctionType)
@plain_values.register(type)
def _(value) -> dict:
    return plain_values(partial(value))


@plain_values.register
def _(value: partial) -> dict:
    """The keyword arguments, and the defaults of the others as far as the signature shows them."""
    try:
        parameters = inspect.signature(value.func).parameters.values()
    except (TypeError, ValueError):
        parameters = ()
    defaults = {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.default is not parameter.empty
    }
    return {"_target_": qualified_name(value.func), **plain_values({**defaults, **value.keywords})}


@plain_values.register
def _(value: Tensor) -> str:
    """Rounded to six digits, because the last bits of a schedule differ between processors."""
    numbers = [f"{number:.5e}" for number in value.flatten().tolist()]
    if not numbers:
        return "no numbers"
    digest = hashlib.sha256(" ".join(numbers).encode()).hexdigest()[:8]
    first, last = float(numbers[0]), float(numbers[-1])
    return f"{len(numbers)} numbers from {first:g} to {last:g} ({digest})"


@plain_values.register
def _(value: Encoder) -> dict:
    """Identified by the content of its weights, not by their location."""
    return asdict(value.provenance)


def qualified_name(value: object) -> str:
    """The import path of a function or class, or of an object's class, as a `_target_` has it."""
    name = getattr(value, "__qualname__", type(value).__qualname__)
    return current_address(f"{getattr(value, '__module__', '')}.{name}")
