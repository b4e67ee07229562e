"""Lightning callbacks, checkpoint files and the loss curve of a training run."""

from __future__ import annotations

import csv
import signal
from collections.abc import Callable
from pathlib import Path
from threading import current_thread, main_thread

from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from expkit.images.figures import render_figure
from expkit.storage.files import atomic_write


class AfterEpoch(Callback):
    """Call `show(module, epoch)` after each validation, in the main process; epochs count from 1.

    If weights are averaged, the module holds the averaged weights during this call. For that, this
    callback must come before Lightning's weight averaging, which swaps them out again.
    """

    def __init__(self, show: Callable[[LightningModule, int], None]) -> None:
        self.show = show

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self.show(pl_module, trainer.current_epoch + 1)


class Checkpoints(ModelCheckpoint):
    """Lightning's `ModelCheckpoint`, which writes only after a complete optimizer step.

    Only from there can a training resume. The checkpoint of an epoch's last step is written after
    the validation of that epoch, because Lightning would not make up for a missed validation.

    In the middle of a step, or while the averaged weights are validated, the state of the trainer
    is neither that before the step nor that after it. An exception at such a moment writes no
    checkpoint. Therefore the first Ctrl-C stops the training after the current step, and the second
    one stops it at once. With several processes Ctrl-C stops at once, because they would not agree
    on the step.
    """

    between_steps = interrupted = False
    handler = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if trainer.world_size == 1 and current_thread() is main_thread():
            self.handler = signal.signal(signal.SIGINT, self.interrupt)

    def interrupt(self, number: int, frame) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch, batch_idx: int
    ) -> None:
        self.between_steps = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs, batch, batch_idx: int
    ) -> None:
        if batch.ends_step and not trainer.is_last_batch:
            self.step_made(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch + 1 == trainer.max_epochs:
            self.interrupted = False  # training is complete, and what is left takes no time
        self.step_made(trainer, pl_module)

    def step_made(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a checkpoint if one is due; stop here if Ctrl-C was pressed."""
        self.between_steps = True
        super().on_train_batch_end(trainer, pl_module, None, None, 0)
        if self.interrupted:
            raise KeyboardInterrupt

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.between_steps = False

    def on_exception(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        exception: BaseException,
    ) -> None:
        if self.between_steps:
            super().on_exception(trainer, pl_module, exception)
        self.restore()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.restore()

    def restore(self) -> None:
        """Put back the handler that Ctrl-C had before the training."""
        if self.handler is not None:
            signal.signal(signal.SIGINT, self.handler)
            self.handler = None


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write each checkpoint atomically: the file is complete, or it does not exist.

    Lightning's own writer moves the file from another disk, which may stop half-way on a full disk.
    """

    def save_checkpoint(self, checkpoint: dict, path: str | Path, storage_options=None) -> None:
        save = super().save_checkpoint
        atomic_write(Path(path), lambda part: save(checkpoint, part, storage_options))


def write_losses(losses: list[float], path: Path) -> None:
    """Write a CSV file with one row (step, loss) for each optimizer step; steps count from 1."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("step", "loss"), *enumerate(losses, 1)])


def draw_curve(losses: list[float], epochs: list[dict[str, float]]) -> Image.Image:
    """Plot the loss of each step, its moving average over 50 steps, and each epoch's test loss."""
    import torch
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    loss_tensor = torch.tensor(losses)
    axes.plot(range(1, len(losses) + 1), losses, color="0.8", lw=0.6, label="each step")
    window = min(50, len(losses))
    axes.plot(
        range(window, len(losses) + 1),
        loss_tensor.unfold(0, window, 1).mean(1),
        color="C0",
        lw=1.4,
        label=f"mean over {window} steps",
    )
    test_rows = [row for row in epochs if "test_loss" in row]
    if test_rows:
        steps = [row["epoch"] * len(losses) / len(epochs) for row in test_rows]
        test_losses = [row["test_loss"] for row in test_rows]
        axes.plot(steps, test_losses, "o-", color="C3", ms=4, lw=1, label="test pictures")
    axes.set(xlabel="step", ylabel="loss", yscale="log", title="Loss")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    return render_figure(figure)
