"""task=train: a recipe, data, and a run's folder, through Lightning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

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
        from pytorch_lightning import Trainer

        from expkit.training.callbacks import draw_curve, write_losses
        from expkit.training.data import Batches
        from expkit.training.module import Learning

        checkpoint = find_checkpoint(self.resume, result.folder)
        result.say(f"resuming from {checkpoint}" if checkpoint else "training from the beginning")
        torch.manual_seed(self.seed)
        images = self.data.pictures(train=True).first(self.data.limit)
        held_out = self.data.pictures(train=False).first(self.data.test_limit)
        options = {"precision": precision(), **self.recipe.lightning}
        trainer = Trainer(
            max_epochs=self.recipe.epochs,
            default_root_dir=result.folder,
            logger=result.lightning_logger(),
            callbacks=self.callbacks(result),
            num_sanity_val_steps=0,
            enable_model_summary=False,
            **options,
        )
        rank, world = trainer.global_rank, trainer.world_size
        batches = Batches(images, self.recipe.batch_size, self.seed, True, rank, world)
        steps = len(batches) * self.recipe.epochs
        recipe = self.recipe
        module = Learning(recipe.network(), recipe.objective, recipe.optimizer, recipe.rate, steps, self.seed)
        module.network.to(memory_format=torch.channels_last)
        trainer.fit(
            module,
            batches,
            Batches(held_out, self.recipe.batch_size, self.seed, False, rank, world),
            ckpt_path=checkpoint,
            weights_only=True,
        )
        module.settle()
        write_losses(module.losses, result.folder / "losses.csv")
        draw_curve(module.losses, module.epochs, result.folder / "picture.png")
        self.keep(module, result)
        if trainer.interrupted:
            raise KeyboardInterrupt
        result.numbers |= {"epochs": module.epochs, "steps": len(module.losses), **self.recipe.objective.facts(module.network)}
        result.numbers |= {"precision": str(options["precision"]), "weights": "model.safetensors"}

    def callbacks(self, result: Result) -> list:
        from pytorch_lightning.callbacks import (
            EMAWeightAveraging,
            ModelCheckpoint,
            TQDMProgressBar,
        )

        from expkit.training.callbacks import AfterEpoch

        keep = AfterEpoch(lambda module, epoch: self.keep(module, result))
        average = [EMAWeightAveraging(decay=self.recipe.ema)] if self.recipe.ema else []
        saves = ModelCheckpoint(
            result.folder / "checkpoints", "{step}", monitor="step", mode="max", save_top_k=2,
            every_n_train_steps=self.recipe.checkpoint_every,
        )
        return [keep, *average, saves, TQDMProgressBar(refresh_rate=10)]

    def keep(self, module, result: Result) -> None:
        self.recipe.objective.save(module.network, result.folder / "model.safetensors")


def precision() -> str:
    """bf16 where the machine has instructions for it, else float32: emulated it is twice as slow."""
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    return "bf16-mixed" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "32-true"


def find_checkpoint(resume: str | None, folder: Path) -> Path | None:
    """The checkpoint that `resume` names: a file, or with "auto" the newest readable one of the unfinished runs beside `folder`."""
    if not resume:
        return None
    if resume != "auto":
        if not readable(Path(resume)):
            raise Refusal(f"The checkpoint {resume} is missing or damaged. Expected a .ckpt file of expkit's, or resume=auto for the newest.")
        return Path(resume)
    unfinished = [p for p in folder.parent.glob("*/checkpoints/*.ckpt") if not (p.parents[1] / "numbers.json").exists()]
    return next((p for p in sorted(unfinished, key=lambda p: p.stat().st_mtime, reverse=True) if readable(p)), None)


def readable(path: Path) -> bool:
    try:
        return "history" in torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises many kinds for a file that was cut off
        return False
