"""The arguments of Lightning's Trainer that trainer.lightning.NAME=VALUE may set.

For each of the others, `REFUSED` has the reason why it is refused. With the allowed ones all
reported numbers stay correct: losses, rows, counts and rates are those of the batches that are
trained and tested on. This module imports neither torch nor Lightning.
"""

from __future__ import annotations

from collections.abc import Mapping

from expkit.config.schema import Declaration, format_value
from expkit.errors import UserError, suggest

LIMIT = Declaration(
    "int >= 1 | float > 0 <= 1",
    description="a whole number of batches, or a share of them",
)
COUNT = Declaration("int >= 1")
SWITCH = Declaration("bool")

ALLOWED: Mapping[str, Declaration] = {
    "limit_train_batches": LIMIT,
    "limit_val_batches": LIMIT,
    "accumulate_grad_batches": COUNT,
    "log_every_n_steps": COUNT,
    "gradient_clip_val": Declaration("float > 0"),
    "gradient_clip_algorithm": Declaration("norm | value"),
    "deterministic": Declaration("bool | warn"),
    "profiler": Declaration("simple | advanced"),
    "benchmark": SWITCH,
    "detect_anomaly": SWITCH,
    "enable_progress_bar": SWITCH,
    "inference_mode": SWITCH,
}

ONCE_AN_EPOCH = (
    "the network is tested once, at the end of each epoch: data.test_limit=N makes that quick"
)  # fmt: skip
SHORTER = (
    "for a short training give trainer.epochs=1 trainer.lightning.limit_train_batches=N, "
    "which makes N steps"
)  # fmt: skip
NOTHING_STOPS = "nothing stops a training before trainer.epochs are done"
NO_SUCH_LOOP = "task=train trains and tests after each epoch, and has no other loop"

REFUSED: Mapping[str, str] = {
    "accelerator": "give trainer.accelerator",
    "devices": "give trainer.devices",
    "num_nodes": "give trainer.num_nodes",
    "strategy": "give trainer.strategy",
    "precision": "give trainer.precision",
    "max_epochs": "give trainer.epochs",
    "logger": (
        "give logger=tensorboard, wandb or none; the files of a run's folder hold all that "
        "is logged"
    ),
    "default_root_dir": "give hydra.run.dir",
    "enable_checkpointing": (
        "checkpoints are what resume= goes on from: trainer.checkpoint_every=N says how many "
        "steps apart they are"
    ),
    "val_check_interval": ONCE_AN_EPOCH,
    "check_val_every_n_epoch": ONCE_AN_EPOCH,
    "num_sanity_val_steps": "nothing is tested before the first step",
    "fast_dev_run": (
        f"it keeps no weights and no numbers; {SHORTER}, and "
        "trainer.lightning.limit_val_batches=N tests on N batches"
    ),
    "max_steps": f"the rate falls over whole epochs: give trainer.epochs; {SHORTER}",
    "max_time": (
        "the rate falls over all epochs, and how many fit into a time is not known: "
        "interrupt the run, and go on with resume=auto"
    ),
    "min_epochs": NOTHING_STOPS,
    "min_steps": NOTHING_STOPS,
    "overfit_batches": "data.limit=N trains on the first N pictures only",
    "reload_dataloaders_every_n_epochs": (
        "the pictures are in memory, and their order is drawn anew for each epoch"
    ),
    "limit_test_batches": NO_SUCH_LOOP,
    "limit_predict_batches": NO_SUCH_LOOP,
    "callbacks": "what runs beside a training decides its numbers, and is expkit's own",
    "plugins": "how checkpoints are written is expkit's own",
    "use_distributed_sampler": "expkit shares each batch among the processes itself",
    "sync_batchnorm": "expkit does that wherever GPUs share a training",
    "barebones": "it keeps no numbers and no checkpoints",
    "enable_model_summary": "a run says its network's parameters itself",
    "enable_autolog_hparams": "a run's recipe.yaml has all settings",
    "model_registry": "a run keeps its weights in its own folder",
}  # fmt: skip


def check_arguments(arguments: object) -> None:
    """Check `trainer.lightning`, the mapping {name: value}.

    Raises:
        UserError: a name is unknown; an argument would make reported numbers wrong or contradict
            a key of expkit; or a value does not fit its argument.
    """
    if not isinstance(arguments, Mapping):
        raise UserError(
            f"trainer.lightning={arguments} does not fit: give arguments of Lightning's Trainer, "
            "trainer.lightning.NAME=VALUE."
        )
    for name, value in arguments.items():
        argument = f"trainer.lightning.{name}={format_value(value)}"
        if name in REFUSED:
            raise UserError(f"{argument} is not taken: {REFUSED[name]}.")
        if name not in ALLOWED:
            raise UserError(
                f"{argument}: Lightning's Trainer has no argument {name!r} that may be given here."
                f"{suggest(name, ALLOWED)} There are: {', '.join(ALLOWED)}."
            )
        if value is not None and not ALLOWED[name].accepts(value):
            raise ALLOWED[name].refusal(f"trainer.lightning.{name}", value)


def batches_of(name: str, limit: float | None, count: int) -> int:
    """How many of `count` batches remain under `limit`, the value of the argument `name`.

    Args:
        limit: None for all; an int for that many; a float for that share of them, rounded down.

    Raises:
        UserError: the limit leaves no batch.
    """
    if limit is None:
        return count
    remaining = min(count, limit) if isinstance(limit, int) else int(count * limit)
    if count and not remaining:
        raise UserError(
            f"trainer.lightning.{name}={limit} of {count} batches is none: "
            f"give {1 / count:.3g} or more, or a number of batches."
        )
    return remaining
