"""The one Lightning module: an objective, a network, an optimiser and how its rate decays."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from expkit.errors import Refusal
from expkit.randomness import Draws, stream
from expkit.training.data import Batch


class Learning(LightningModule):
    """Trains `network` for `objective(network, images, labels, draws) -> loss`.

    optimizer: parameters -> optimizer. rate: a learning rate's factor as a function of training's fraction done in [0, 1) and epochs.
    steps: of the whole training (Lightning's own count would set its loaders up before a resumed position is known).
    Noise is drawn from (seed, epoch, batch), so that a run that was killed and resumed is the run that was not.
    `losses` has the training loss of every step, over all processes; `epochs` a row an epoch. `origin` is what a checkpoint says of
    the run that it belongs to.
    """

    def __init__(
        self, network: nn.Module, objective: Callable[..., Tensor], optimizer: Callable, rate: Callable, steps: int, seed: int,
        origin: dict | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.origin = origin or {}
        self.network, self.objective, self.optimizer, self.rate, self.steps, self.seed = network, objective, optimizer, rate, steps, seed
        self.losses: list[Tensor | float] = []
        self.epochs: list[dict[str, float]] = []
        self.tested: list[Tensor] = []

    def loss(self, batch: Batch, purpose: str) -> Tensor:
        """The sum over this process's rows, divided by the rows of all, times the processes: their mean is the whole batch's loss."""
        world = self.trainer.world_size
        random = stream(self.seed, purpose, batch.epoch if purpose == "train" else 0, batch.index)
        draws = Draws(random, batch.count, self.global_rank, world, self.device)
        if not len(batch.labels):  # a last batch of fewer rows than processes
            return 0 * sum(p.sum() for p in self.network.parameters())
        loss = self.objective(self.network, batch.images, batch.labels, draws)
        return loss if world == 1 else loss * (len(batch.labels) * world / batch.count)

    def over_all(self, loss: Tensor) -> Tensor:
        """The mean over all processes."""
        return self.trainer.strategy.reduce(loss.detach(), reduce_op="mean") if self.trainer.world_size > 1 else loss.detach()

    def training_step(self, batch: Batch, _: int) -> Tensor:
        loss = self.loss(batch, "train")
        self.losses.append(self.over_all(loss))
        if (self.global_step + 1) % self.trainer.log_every_n_steps == 0:
            self.settle()
            self.log("train/loss", self.losses[-1], prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, _: int) -> None:
        self.tested.append(self.over_all(self.loss(batch, "test")) * batch.count)

    def on_validation_epoch_end(self) -> None:
        count = len(self.trainer.val_dataloaders.pictures.labels)
        self.epochs.append({"epoch": self.current_epoch + 1, "test_loss": float(sum(self.tested)) / count})
        self.log("test/loss", self.epochs[-1]["test_loss"])
        self.tested.clear()

    def on_train_epoch_end(self) -> None:
        self.settle()
        steps = self.losses[-len(self.trainer.train_dataloader) :]
        row = {"train_loss": sum(steps) / len(steps)}
        self.log("train/loss_of_epoch", row["train_loss"])
        if self.epochs and self.epochs[-1]["epoch"] == self.current_epoch + 1:
            self.epochs[-1].update(row)
        else:
            self.epochs.append({"epoch": self.current_epoch + 1, **row})

    def settle(self) -> None:
        """Losses as numbers, which must be numbers: on a GPU this waits for it, so it is not done at every step."""
        self.losses = [float(x) for x in self.losses]
        if not all(map(math.isfinite, self.losses[-self.trainer.log_every_n_steps :])):
            raise Refusal(
                f"The loss is no longer a number at step {len(self.losses)}. The last checkpoint is kept. "
                "Try a smaller learning rate (trainer.optimizer.lr=…) or trainer.precision=32-true."
            )

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        self.settle()
        checkpoint["history"] = {"losses": self.losses, "epochs": self.epochs, "origin": self.origin}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.losses, self.epochs = list(checkpoint["history"]["losses"]), list(checkpoint["history"]["epochs"])

    def configure_optimizers(self) -> dict:
        optimizer = self.optimizer(self.network.parameters())
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.rate(step / self.steps, self.trainer.max_epochs))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
