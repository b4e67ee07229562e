"""The one LightningModule: an objective, a network, its optimizer and learning-rate schedule."""

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
    """Train `network` for `objective(network, images, labels, draws) -> loss`.

    Random numbers are a function of (seed, epoch, batch). A run that was killed and resumed
    therefore equals a run without interruption.

    Args:
        optimizer: a function of the parameters that returns the optimizer.
        rate: a function of the fraction of training done, in [0, 1), and the number of epochs, that
            returns the factor of the learning rate.
        steps: optimizer steps of one epoch. (Lightning's own count would set up the data loaders
            before the position of a resumed run is known.)
        settings: stored in each checkpoint, so that it tells which training it belongs to.

    Attributes:
        losses: the training loss of each optimizer step, averaged over its images in all processes.
        epochs: one row of numbers for each epoch.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Callable[..., Tensor],
        optimizer: Callable,
        rate: Callable,
        steps: int,
        seed: int,
        settings: dict | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings or {}
        self.network = network
        self.objective = objective
        self.optimizer = optimizer
        self.rate = rate
        self.steps = steps
        self.seed = seed
        self.losses: list[Tensor | float] = []
        self.parts: list[Tensor] = []  # the losses of the current step's batches so far
        self.epochs: list[dict[str, float]] = []
        self.tested: list[Tensor] = []
        self.count_tested = 0

    @property
    def log_interval(self) -> int:
        """The number of optimizer steps between two logged losses."""
        # Lightning sets it in a function, where no checker sees it
        return self.trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]

    def loss(self, batch: Batch, purpose: str) -> Tensor:
        """This process's loss, scaled so that its mean over all processes is the batch's loss.

        It is the sum over this process's rows, divided by the rows of all processes, times the
        number of processes.
        """
        world_size = self.trainer.world_size
        epoch = batch.epoch if purpose == "train" else 0
        generator = stream(self.seed, purpose, epoch, batch.index)
        draws = Draws(generator, batch.count, self.global_rank, world_size, self.device)
        if not len(batch.labels):  # a last batch of fewer rows than processes
            total = sum(parameter.sum() for parameter in self.network.parameters())
            assert isinstance(total, Tensor)  # a network has parameters
            return 0 * total
        loss = self.objective(self.network, batch.images, batch.labels, draws)
        return loss if world_size == 1 else loss * (len(batch.labels) * world_size / batch.count)

    def over_all(self, loss: Tensor) -> Tensor:
        """The mean over all processes, detached."""
        if self.trainer.world_size > 1:
            return self.trainer.strategy.reduce(loss.detach(), reduce_op="mean")
        return loss.detach()

    def training_step(self, batch: Batch, _: int) -> Tensor:
        loss = self.loss(batch, "train") * batch.weight
        self.parts.append(self.over_all(loss))
        if batch.ends_step:
            self.losses.append(sum(self.parts) / self.trainer.accumulate_grad_batches)
            self.parts.clear()
            if len(self.losses) % self.log_interval == 0:
                self.flush_losses()
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
        self.flush_losses()
        epoch_losses = self.losses[-self.steps :]
        self.row["train_loss"] = float(sum(epoch_losses)) / len(epoch_losses)
        self.log("train/loss_of_epoch", self.row["train_loss"], rank_zero_only=True)

    @property
    def row(self) -> dict[str, float]:
        """The numbers of the current epoch; epochs count from 1."""
        if not self.epochs or self.epochs[-1]["epoch"] != self.current_epoch + 1:
            self.epochs.append({"epoch": self.current_epoch + 1})
        return self.epochs[-1]

    def flush_losses(self) -> None:
        """Convert the losses to floats, and check that the last ones are finite.

        On a GPU this waits for the computation, so it is not done at every step.
        """
        self.losses = [float(loss) for loss in self.losses]
        if not all(map(math.isfinite, self.losses[-self.log_interval :])):
            raise UserError(
                f"The loss is no longer a number at step {len(self.losses)}. "
                "The last checkpoint is kept. "
                "Try a smaller learning rate (trainer.optimizer.lr=…) or trainer.precision=32-true."
            )

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        self.flush_losses()
        checkpoint["history"] = {
            "losses": self.losses,
            "epochs": self.epochs,
            "settings": self.settings,
        }

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        history = checkpoint["history"]
        self.losses = list(history["losses"])[: checkpoint["global_step"]]
        self.epochs = [dict(row) for row in history["epochs"]]

    def configure_optimizers(self) -> dict:
        optimizer = self.optimizer(self.network.parameters())
        self.rates = [group["lr"] for group in optimizer.param_groups]
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, self.factor), "interval": "step"},
        }

    def factor(self, step: int) -> float:
        """The factor of the learning rate after `step` optimizer steps."""
        epochs = self.trainer.max_epochs
        assert epochs is not None  # every recipe sets it
        return self.rate(step / (self.steps * epochs), epochs)

    def on_train_start(self) -> None:
        """Use the command's learning rate in a resumed training, not the checkpoint's."""
        scheduler = self.lr_schedulers()
        assert isinstance(scheduler, LambdaLR)  # the only one
        scheduler.base_lrs = [*self.rates]
        for group, rate in zip(self.trainer.optimizers[0].param_groups, self.rates, strict=True):
            group["initial_lr"] = rate
            group["lr"] = rate * self.factor(scheduler.last_epoch)
