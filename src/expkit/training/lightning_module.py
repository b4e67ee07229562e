"""The one Lightning module: an objective, a network, an optimiser and how its rate decays."""

from __future__ import annotations

import math
from collections.abc import Callable

from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from expkit.core.rng import Draws, stream
from expkit.data.labelled_pictures import Batch
from expkit.errors import UserError


class TrainingModule(LightningModule):
    """Trains `network` for `objective(network, images, labels, draws) -> loss`.

    optimizer: parameters -> optimizer. rate: a learning rate's factor as a function of training's fraction done in [0, 1) and epochs.
    steps: optimizer steps of an epoch (Lightning's own count would set its loaders up before a resumed position is known).
    Noise is drawn from (seed, epoch, batch), so that a run that was killed and resumed is the run that was not.
    `losses` has the training loss of every optimizer step, the mean over its pictures in all processes; `epochs` a row an epoch.
    `settings` is what a checkpoint says of the training that it belongs to.
    """

    def __init__(
        self, network: nn.Module, objective: Callable[..., Tensor], optimizer: Callable, rate: Callable, steps: int, seed: int,
        settings: dict | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.settings = settings or {}
        self.network, self.objective, self.optimizer, self.rate, self.steps, self.seed = (
            network,
            objective,
            optimizer,
            rate,
            steps,
            seed,
        )
        self.losses: list[Tensor | float] = []
        self.parts: list[Tensor] = []  # of the loss of the step that is being made
        self.epochs: list[dict[str, float]] = []
        self.tested: list[Tensor] = []
        self.count_tested = 0

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
        return (
            self.trainer.strategy.reduce(loss.detach(), reduce_op="mean")
            if self.trainer.world_size > 1
            else loss.detach()
        )

    def training_step(self, batch: Batch, _: int) -> Tensor:
        loss = self.loss(batch, "train") * batch.weight
        self.parts.append(self.over_all(loss))
        if batch.ends_step:
            self.losses.append(sum(self.parts) / self.trainer.accumulate_grad_batches)
            self.parts.clear()
            if len(self.losses) % self.trainer.log_every_n_steps == 0:
                self.settle()
                self.log("train/loss", self.losses[-1], prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, _: int) -> None:
        self.tested.append(self.over_all(self.loss(batch, "test")) * batch.count)
        self.count_tested += batch.count

    def on_validation_epoch_end(self) -> None:
        self.row["test_loss"] = float(sum(self.tested)) / self.count_tested
        self.log("test/loss", self.row["test_loss"], rank_zero_only=True)
        self.tested.clear()
        self.count_tested = 0

    def on_train_epoch_end(self) -> None:
        self.settle()
        steps = self.losses[-self.steps :]
        self.row["train_loss"] = sum(steps) / len(steps)
        self.log("train/loss_of_epoch", self.row["train_loss"], rank_zero_only=True)

    @property
    def row(self) -> dict[str, float]:
        """What is known of the current epoch, counted from 1."""
        if not self.epochs or self.epochs[-1]["epoch"] != self.current_epoch + 1:
            self.epochs.append({"epoch": self.current_epoch + 1})
        return self.epochs[-1]

    def settle(self) -> None:
        """Losses as numbers, which must be numbers: on a GPU this waits for it, so it is not done at every step."""
        self.losses = [float(x) for x in self.losses]
        if not all(map(math.isfinite, self.losses[-self.trainer.log_every_n_steps :])):
            raise UserError(
                f"The loss is no longer a number at step {len(self.losses)}. The last checkpoint is kept. "
                "Try a smaller learning rate (trainer.optimizer.lr=…) or trainer.precision=32-true."
            )

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        self.settle()
        checkpoint["history"] = {"losses": self.losses, "epochs": self.epochs, "settings": self.settings}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        history, steps = checkpoint["history"], checkpoint["global_step"]
        self.losses, self.epochs = list(history["losses"])[:steps], [dict(row) for row in history["epochs"]]

    def configure_optimizers(self) -> dict:
        optimizer = self.optimizer(self.network.parameters())
        self.rates = [group["lr"] for group in optimizer.param_groups]
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, self.factor), "interval": "step"},
        }

    def factor(self, step: int) -> float:
        """Of the learning rate, after so many optimizer steps."""
        epochs = self.trainer.max_epochs
        return self.rate(step / (self.steps * epochs), epochs)

    def on_train_start(self) -> None:
        """A resumed training has the rate of its command, not that of the checkpoint."""
        scheduler = self.lr_schedulers()
        scheduler.base_lrs = [*self.rates]
        for group, rate in zip(self.trainer.optimizers[0].param_groups, self.rates, strict=True):
            group["initial_lr"], group["lr"] = rate, rate * self.factor(scheduler.last_epoch)
