"""task=train: a recipe, data, and a run's folder, through Lightning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from expkit import devices
from expkit.errors import Refusal
from expkit.result import Result
from expkit.training.objectives import Objective

if TYPE_CHECKING:
    from expkit.training.data import Pictures


@dataclass(frozen=True, eq=False)
class Recipe:
    """All that decides what is learnt, apart from data and seed.

    network: () -> Module. ema: decay of the averaged weights, or None. lightning: arguments of Lightning's Trainer.
    """

    network: Callable
    objective: Objective
    optimizer: Callable
    rate: Callable
    batch_size: int
    epochs: int
    ema: float | None = None
    ema_from: int = 0
    show: tuple[int, ...] = (1, 5, 20)
    checkpoint_every: int = 200
    lightning: dict = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Data:
    """Where pictures come from: `pictures(train=…) -> Pictures`; `limit` and `test_limit` keep the first so many."""

    pictures: Callable[..., Pictures]
    limit: int | None = None
    test_limit: int | None = None


@dataclass(frozen=True, eq=False)
class Train:
    """Train `recipe` on `data`; `resume` is a checkpoint, "auto" for the newest unfinished run's, or None."""

    recipe: Recipe
    data: Data
    seed: int
    resume: str | None = None

    def __call__(self, result: Result) -> None:
        checkpoint = find_checkpoint(self.resume, result.folder)
        result.say(f"resuming from {checkpoint}" if checkpoint else "training from the beginning")
        trainer = self.trainer(result)
        batches, held_out = self.batches(trainer.global_rank, trainer.world_size)
        module = self.module(len(batches))
        try:
            trainer.fit(module, batches, held_out, ckpt_path=checkpoint, weights_only=True)
        except SystemExit:  # Lightning's way of passing an interrupt on
            raise KeyboardInterrupt from None
        self.report(module, result)

    def trainer(self, result: Result):
        from pytorch_lightning import Trainer

        return Trainer(
            max_epochs=self.recipe.epochs,
            default_root_dir=result.folder,
            logger=result.mirror.lightning(result),
            callbacks=self.callbacks(result),
            num_sanity_val_steps=0,
            enable_model_summary=False,
            **{"precision": precision(), **self.recipe.lightning},
        )

    def batches(self, rank: int, world: int):
        """Those to train on and those held out to test on."""
        from expkit.training.data import Batches

        images = self.data.pictures(train=True).first(self.data.limit)
        held_out = self.data.pictures(train=False).first(self.data.test_limit)
        size = self.recipe.batch_size
        return Batches(images, size, self.seed, True, rank, world), Batches(held_out, size, self.seed, False, rank, world)

    def module(self, steps_of_an_epoch: int):
        from expkit.training.module import Learning

        torch.manual_seed(self.seed)
        recipe, steps = self.recipe, steps_of_an_epoch * self.recipe.epochs
        network = recipe.network().to(memory_format=torch.channels_last)
        return Learning(network, recipe.objective, recipe.optimizer, recipe.rate, steps, self.seed)

    def callbacks(self, result: Result) -> list:
        from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint, TQDMProgressBar

        from expkit.training.callbacks import AfterEpoch

        recipe = self.recipe
        average = [EMAWeightAveraging(decay=recipe.ema, update_starting_at_step=recipe.ema_from)] if recipe.ema else []
        saves = ModelCheckpoint(
            result.folder / "checkpoints", "{step}", monitor="step", mode="max", save_top_k=2,
            every_n_train_steps=recipe.checkpoint_every, save_on_exception=True,
        )  # fmt: skip
        return [AfterEpoch(lambda module, epoch: self.keep(module, epoch, result)), *average, saves, TQDMProgressBar(refresh_rate=10)]

    def keep(self, module, epoch: int, result: Result) -> None:
        """The weights after each epoch, and at some of them a picture of what they can do."""
        self.recipe.objective.save(module.network, result.folder / "model.safetensors")
        picture = self.recipe.objective.picture(module.network, self.seed) if epoch in self.recipe.show else None
        if picture:
            result.picture(picture, f"samples_epoch_{epoch}")

    def report(self, module, result: Result) -> None:
        from expkit.training.callbacks import draw_curve, write_losses

        module.settle()
        write_losses(module.losses, result.folder / "losses.csv")
        result.picture(draw_curve(module.losses, module.epochs))
        self.recipe.objective.save(module.network, result.folder / "model.safetensors")
        result.numbers |= {
            "epochs": module.epochs,
            "steps": len(module.losses),
            "seed": self.seed,
            "device": str(module.device),
            "precision": str(module.trainer.precision),
            "weights": "model.safetensors",
            **self.recipe.objective.facts(module.network),
        }


def precision() -> str:
    """bf16 where the machine has instructions for it, else float32."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return "bf16-mixed" if devices.fast_bfloat16(device) else "32-true"


def find_checkpoint(resume: str | None, folder: Path) -> Path | None:
    """The checkpoint that `resume` names: a file, or with "auto" the newest readable one of the unfinished runs beside `folder`."""
    if not resume:
        return None
    if resume != "auto":
        if not readable(Path(resume)):
            raise Refusal(
                f"The checkpoint {resume} is missing or damaged. Expected a .ckpt file of expkit's, or resume=auto for the newest."
            )
        return Path(resume)
    unfinished = [p for p in folder.parent.glob("*/checkpoints/*.ckpt") if not (p.parents[1] / "numbers.json").exists()]
    return next((p for p in sorted(unfinished, key=lambda p: p.stat().st_mtime, reverse=True) if readable(p)), None)


def readable(path: Path) -> bool:
    try:
        return "history" in torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises many kinds for a file that was cut off
        return False
