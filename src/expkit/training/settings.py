"""What decides a training, as plain values, and what a resumed one does where the command now says something else.

Settings are a flat table {key: value}; keys are those of the command line, values are what JSON holds. They lie in each checkpoint.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from functools import partial, singledispatch
from types import FunctionType

from torch import Tensor, nn

from expkit.data.labelled_pictures import Pictures
from expkit.text.encoders import Encoder

REFUSED = "refused"  # going on with another value would be another training
OBEYED = "obeyed"  # from the checkpoint on, and said
FREE = "free"  # it decides nothing that is learnt: any value is taken, and none is kept in a checkpoint

# The longest key that a setting begins with decides. A setting that is not listed is refused.
ON_RESUME: Mapping[str, str] = {
    "trainer.epochs": OBEYED,  # where more than are done; the rate follows the new length
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
PRECISIONS = {
    "16": "16-mixed",
    "bf16": "bf16-mixed",
    "32": "32-true",
    "64": "64-true",
}  # Lightning's short names


def on_resume(key: str) -> str:
    """What a resumed training does with another value of this key: `REFUSED`, `OBEYED` or `FREE`."""
    known = [name for name in ON_RESUME if key == name or key.startswith(f"{name}.")]
    return ON_RESUME[max(known, key=len)] if known else REFUSED


def training_settings(
    recipe,
    lightning: Mapping,
    precision: str,
    network: nn.Module,
    images: Pictures,
    held_out: Pictures,
    seed: int,
) -> dict:
    """All that decides a training. lightning: the arguments that Lightning is given, defaults filled in."""
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    known = {
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
    return {key: value for key, value in flatten(known).items() if on_resume(key) != FREE}


def of_old(origin: Mapping, group: Mapping) -> dict:
    """The settings in a checkpoint that was written before there were any: its `origin`, and the options of its optimizer."""
    names = {"network": "network.shapes", "pictures": "pictures.sha256", "batch size": "trainer.batch_size"}
    return {names.get(key, key): value for key, value in origin.items()} | of_optimizer(group)


def of_optimizer(group: Mapping) -> dict:
    """The options of an optimizer's group of parameters as settings; its rate is the one that it began with."""
    options = {
        key: plain_values(value) for key, value in group.items() if key not in ("params", "lr", "initial_lr")
    }
    return flatten({"trainer": {"optimizer": {"lr": float(group.get("initial_lr", group["lr"])), **options}}})


def setting_differences(there: Mapping, here: Mapping) -> dict[str, tuple]:
    """{key: (value in a checkpoint, value in this command)} of what a checkpoint says otherwise."""
    return {
        key: (value, here.get(key, MISSING))
        for key, value in there.items()
        if here.get(key, MISSING) != value
    }


def describe_differences(apart: Mapping[str, tuple], most: int = 4) -> str:
    """Differences in words, both values of each."""
    said = [
        f"{key} is {short_value(a)} in the checkpoint and {short_value(b)} in this command"
        for key, (a, b) in map(only_apart, apart.items())
    ]
    return "; ".join(said[:most]) + (f"; and {len(said) - most} more" if len(said) > most else "")


def only_apart(item: tuple[str, tuple]) -> tuple[str, tuple]:
    """Of two lists of one length, what differs."""
    key, (a, b) = item
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        pairs = [(x, y) for x, y in zip(a, b, strict=True) if x != y]
        return key, ([x for x, _ in pairs], [y for _, y in pairs])
    return item


def short_value(value: object, most: int = 60) -> str:
    """A value as the command line has it, cut where it is long."""
    if isinstance(value, list):
        text = ", ".join(map(short_value, value))
    else:
        text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= most else f"{text[:most]}…"


def flatten(table: Mapping, prefix: str = "") -> dict:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    found = {}
    for key, value in table.items():
        found |= (
            flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
        )
    return found


@singledispatch
def plain_values(value: object):
    """An object as plain values: a dataclass by its fields, a function with its arguments, a tensor by its ends and a hash."""
    if is_dataclass(value):
        return {
            "_target_": qualified_name(type(value)),
            **{part.name: plain_values(getattr(value, part.name)) for part in fields(value)},
        }
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


@plain_values.register
def _(value: dict) -> dict:
    return {str(key): plain_values(part) for key, part in value.items()}


@plain_values.register(list)
@plain_values.register(tuple)
def _(value) -> list:
    return [plain_values(part) for part in value]


@plain_values.register(FunctionType)
@plain_values.register(type)
def _(value) -> dict:
    return plain_values(partial(value))


@plain_values.register
def _(value: partial) -> dict:
    """With the defaults of what was not given, as far as the function says them."""
    try:
        known = inspect.signature(value.func).parameters.values()
    except (TypeError, ValueError):
        known = ()
    defaults = {
        parameter.name: parameter.default for parameter in known if parameter.default is not parameter.empty
    }
    return {"_target_": qualified_name(value.func), **plain_values({**defaults, **value.keywords})}


@plain_values.register
def _(value: Tensor) -> str:
    """To six digits: the last bits of a schedule differ from processor to processor."""
    numbers = [f"{number:.5e}" for number in value.flatten().tolist()]
    code = hashlib.sha256(" ".join(numbers).encode()).hexdigest()[:8]
    return (
        f"{len(numbers)} numbers from {float(numbers[0]):g} to {float(numbers[-1]):g} ({code})"
        if numbers
        else "no numbers"
    )


@plain_values.register
def _(value: Encoder) -> dict:
    """By what is in its weights, wherever they lie."""
    return asdict(value.provenance)


def qualified_name(value: object) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
