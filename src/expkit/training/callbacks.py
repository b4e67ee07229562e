"""What is kept while a network learns: its weights after each epoch, the curve of its loss."""

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
    """Calls `show(module, epoch)` after each validation, in the first process, where the averaged weights, if any, stand in the module.

    It must stand before Lightning's weight averaging, which takes them out again.
    """

    def __init__(self, show: Callable[[LightningModule, int], None]) -> None:
        self.show = show

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self.show(pl_module, trainer.current_epoch + 1)


class Checkpoints(ModelCheckpoint):
    """Lightning's checkpoints, each at the end of an optimizer step, an epoch's last step after the epoch's test, so that it can be gone on
    from: Lightning would not make up for a test that was missed.

    Amid a step, or while the averaged weights are tested, what the trainer holds is neither the state before nor the one after: what an
    exception leaves then is not written. So the first Ctrl-C ends a training after the step that is being made, and the second at once.
    Several processes stop at once: they would not agree on the step.
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
            self.interrupted = False  # all is trained: what is left takes no time
        self.step_made(trainer, pl_module)

    def step_made(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a checkpoint if it is time for one; stop here if that was asked for."""
        self.between_steps = True
        super().on_train_batch_end(trainer, pl_module, None, None, 0)
        if self.interrupted:
            raise KeyboardInterrupt

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.between_steps = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self.between_steps:
            super().on_exception(trainer, pl_module, exception)
        self.restore()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.restore()

    def restore(self) -> None:
        """Give Ctrl-C back its own meaning."""
        if self.handler is not None:
            signal.signal(signal.SIGINT, self.handler)
            self.handler = None


class AtomicCheckpointIO(TorchCheckpointIO):
    """A checkpoint is whole or it is not there: Lightning's own moves it from another disk, which may end half-way on a full one."""

    def save_checkpoint(self, checkpoint: dict, path: str | Path, storage_options=None) -> None:
        atomic_write(
            Path(path),
            lambda part: super(AtomicCheckpointIO, self).save_checkpoint(checkpoint, part, storage_options),
        )


def write_losses(losses: list[float], path: Path) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("step", "loss"), *enumerate(losses, 1)])


def draw_curve(losses: list[float], epochs: list[dict[str, float]]) -> Image.Image:
    """The loss of every step, its mean over 50 steps, and the loss of each epoch on test pictures."""
    import torch
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    steps = torch.tensor(losses)
    axes.plot(range(1, len(losses) + 1), losses, color="0.8", lw=0.6, label="each step")
    width = min(50, len(losses))
    axes.plot(
        range(width, len(losses) + 1),
        steps.unfold(0, width, 1).mean(1),
        color="C0",
        lw=1.4,
        label=f"mean over {width} steps",
    )
    tested = [(e["epoch"] * len(losses) / len(epochs), e["test_loss"]) for e in epochs if "test_loss" in e]
    if tested:
        axes.plot(*zip(*tested, strict=True), "o-", color="C3", ms=4, lw=1, label="test pictures")
    axes.set(xlabel="step", ylabel="loss", yscale="log", title="Loss")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    return render_figure(figure)
