"""task=train: a recipe, data, and a run's folder, through Lightning."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from PIL import Image

from expkit import devices
from expkit.errors import Refusal, warn
from expkit.result import Result
from expkit.sheets import stacked
from expkit.training import checkpoints
from expkit.training.data import Batches, Pictures
from expkit.training.folders import joined
from expkit.training.objectives import Objective, parameters


@dataclass(frozen=True, eq=False)
class Recipe:
    """All that decides what is learnt, apart from data and seed.

    network: (classes, channels, size) of the pictures -> Module. rate: see `Learning`. ema: decay of the averaged weights, or None.
    show: epochs after which there are pictures and a copy of the weights. compile: whether the network is compiled first.
    accelerator, devices, num_nodes, strategy, precision and what is in `lightning` are arguments of Lightning's Trainer; precision
    "auto" is bfloat16 where the machine has instructions for it. batch_size is that of all processes together.
    """

    network: Callable
    objective: Objective
    optimizer: Callable
    rate: Callable
    batch_size: int
    epochs: int
    ema: float | None = None
    ema_from: int = 0
    show: Sequence[int] = (1, 5, 20)
    checkpoint_every: int = 200
    accelerator: str = "auto"
    devices: int | str | Sequence[int] = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "auto"
    compile: bool = False
    lightning: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "checkpoint_every"):
            if not getattr(self, name) >= 1:
                raise Refusal(f"trainer.{name}={getattr(self, name)} does not fit: it is a whole number of 1 or more.")


@dataclass(frozen=True, eq=False)
class Data:
    """Where pictures come from: `pictures(train=…) -> Pictures`; `limit` and `test_limit` keep the first so many."""

    pictures: Callable[..., Pictures]
    limit: int | None = None
    test_limit: int | None = None


@dataclass(frozen=True, eq=False)
class Train:
    """Train `recipe` on `data`.

    resume: a checkpoint, "auto" for the newest unfinished run's, or None. begin: weights to begin with, see `checkpoints.begin`, or None.
    """

    recipe: Recipe
    data: Data
    seed: int
    resume: str | None = None
    begin: str | None = None

    def __call__(self, result: Result) -> None:
        images, held_out = self.pictures()
        network = self.network(images)  # first: it refuses weights that do not fit at once, and captions take minutes to encode
        self.told(images).train(network, images, held_out, result)

    def told(self, images: Pictures) -> Train:
        """With an objective that knows of what the pictures are."""
        return replace(self, recipe=replace(self.recipe, objective=self.recipe.objective.told(images)))

    def train(self, network, images: Pictures, held_out: Pictures, result: Result) -> None:
        origin = checkpoints.origin(network, images, self.recipe.batch_size, self.seed)
        checkpoint = checkpoints.find(self.resume, result.folder, origin)
        hush()
        trainer = self.trainer(result, held_out)
        result.say(self.header(trainer, network, images, held_out))
        if remarks := joined([images.remarks, held_out.remarks]).text:
            result.say(f"  {remarks}")
        start = f"from the weights {self.begin}" if self.begin else "from the beginning"
        result.say(f"  resuming from {checkpoint}" if checkpoint else f"  {start}")
        self.check_processes(trainer, network)
        size, share = self.recipe.batch_size, {"rank": trainer.global_rank, "world": trainer.world_size}
        batches, tests = Batches(images, size, self.seed, True, **share), Batches(held_out, size, self.seed, False, **share)
        module = self.module(network, len(batches), origin)
        try:
            trainer.fit(module, batches, tests, ckpt_path=checkpoint, weights_only=True)
        except SystemExit:  # Lightning's way of passing an interrupt on
            raise KeyboardInterrupt from None
        result.numbers |= {"data": {"train": images.facts(), "test": held_out.facts()}}
        self.report(module, images.names, result)

    def pictures(self) -> tuple[Pictures, Pictures]:
        """Those to train on and those held out to test on."""
        images = self.data.pictures(train=True).first(self.data.limit)
        return images, self.data.pictures(train=False).first(self.data.test_limit)

    def network(self, images: Pictures):
        torch.manual_seed(self.seed)
        channels, size, _ = images.shape
        network = self.recipe.network(classes=len(images.names), channels=channels, size=size)
        if self.begin:
            checkpoints.begin(network, self.begin)
        if self.recipe.compile:
            network.compile()
        return network.to(memory_format=torch.channels_last)

    def trainer(self, result: Result, held_out: Pictures):
        from lightning_fabric.utilities.exceptions import MisconfigurationException
        from pytorch_lightning import Trainer

        from expkit.training.callbacks import Whole

        recipe = self.recipe
        try:
            return Trainer(
                max_epochs=recipe.epochs,
                accelerator=recipe.accelerator,
                devices=recipe.devices,
                num_nodes=recipe.num_nodes,
                strategy=recipe.strategy,
                precision=precision() if recipe.precision == "auto" else recipe.precision,
                sync_batchnorm=torch.cuda.is_available(),
                default_root_dir=result.folder,
                logger=result.mirror.lightning(result),
                callbacks=self.callbacks(result, held_out),
                plugins=[Whole()],
                num_sanity_val_steps=0,
                enable_model_summary=False,
                use_distributed_sampler=False,
                **recipe.lightning,
            )
        except (MisconfigurationException, ValueError, TypeError) as error:
            raise Refusal(
                f"Lightning cannot train with accelerator={recipe.accelerator}, devices={recipe.devices}, strategy={recipe.strategy}, "
                f"precision={recipe.precision} here: {str(error).splitlines()[0]}"
            ) from None

    def header(self, trainer, network, images: Pictures, held_out: Pictures) -> str:
        count, classes, (channels, height, width) = len(images.labels), len(images.names), images.shape
        processes = f", {trainer.world_size} processes" if trainer.world_size > 1 else ""
        return (
            f"train: a network of {parameters(network):,} parameters on {count:,} pictures of {width} × {height}"
            f"{' in colour' * (channels == 3)}, {classes} class{'es' * (classes != 1)}; {len(held_out.labels):,} held out to test on\n"
            f"  {self.recipe.epochs} epochs of {-(-count // self.recipe.batch_size)} steps, {self.recipe.batch_size} pictures each; "
            f"{trainer.precision} on {trainer.strategy.root_device}{processes}"
        )

    def check_processes(self, trainer, network) -> None:
        batch_norm = any(isinstance(part, torch.nn.modules.batchnorm._BatchNorm) for part in network.modules())
        if trainer.world_size > 1 and batch_norm and not torch.cuda.is_available():
            warn(
                f"{trainer.world_size} processes on CPUs do not share the statistics of BatchNorm: each normalises by its own rows, so the "
                "model is not that of one process. trainer.network.norm=group has none."
            )

    def module(self, network, steps_of_an_epoch: int, origin: dict):
        from expkit.training.module import Learning

        recipe, steps = self.recipe, steps_of_an_epoch * self.recipe.epochs
        return Learning(network, recipe.objective, recipe.optimizer, recipe.rate, steps, self.seed, origin)

    def callbacks(self, result: Result, held_out: Pictures) -> list:
        from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint, TQDMProgressBar

        from expkit.training.callbacks import AfterEpoch

        recipe = self.recipe
        average = [EMAWeightAveraging(decay=recipe.ema, update_starting_at_step=recipe.ema_from)] if recipe.ema else []
        saves = ModelCheckpoint(
            result.folder / "checkpoints", "{step:06d}", auto_insert_metric_name=False, monitor="step", mode="max", save_top_k=2,
            every_n_train_steps=recipe.checkpoint_every, save_on_exception=True,
        )  # fmt: skip
        after = AfterEpoch(lambda module, epoch: self.keep(module, epoch, held_out, result))
        return [after, *average, saves, TQDMProgressBar(refresh_rate=10)]

    def keep(self, module, epoch: int, held_out: Pictures, result: Result) -> None:
        """The weights after each epoch; at some of them a copy, and pictures of what they can do."""
        from expkit.training.callbacks import draw_curve

        objective, folder = self.recipe.objective, result.folder
        objective.save(module.network, folder / objective.file, held_out.names)
        if epoch not in self.recipe.show:
            return
        (folder / "epochs").mkdir(exist_ok=True)
        copy(folder / objective.file, folder / "epochs" / f"{epoch:02d}_{objective.file}")
        module.settle()
        shown = objective.shown(module.network, held_out, self.seed) | {"loss": draw_curve(module.losses, module.epochs)}
        for name, picture in shown.items():
            file = f"epochs/{epoch:02d}_{name}"
            result.picture(picture, file)
            result.mirror.glimpse(result, name, folder / f"{file}.png", epoch)

    def report(self, module, names: Sequence[str], result: Result) -> None:
        from expkit.training.callbacks import draw_curve, write_losses

        if not result.leads:
            return
        module.settle()
        write_losses(module.losses, result.folder / "losses.csv")
        result.picture(page(draw_curve(module.losses, module.epochs), result.folder / "epochs"))
        self.recipe.objective.save(module.network, result.folder / self.recipe.objective.file, names)
        result.numbers |= {
            "epochs": module.epochs,
            "steps": len(module.losses),
            "seed": self.seed,
            "device": str(module.device),
            "precision": str(module.trainer.precision),
            "processes": module.trainer.world_size,
            "weights": self.recipe.objective.file,
            **self.recipe.objective.facts(module.network),
        }


def page(curve: Image.Image, epochs: Path) -> Image.Image:
    """The curve, and under it what the network could do after each of the shown epochs."""
    wanted = "samples" if list(epochs.glob("*_samples.png")) else "denoised"
    found = sorted((int(path.name.partition("_")[0]), path) for path in epochs.glob(f"*_{wanted}.png"))
    shown = [(f"after epoch {epoch}", Image.open(path)) for epoch, path in found]
    return stacked([("", curve), *shown]) if shown else curve


def copy(source: Path, target: Path) -> None:
    """Of a file, or of a folder and all that is in it."""
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)


def hush() -> None:
    """Lightning's advertisements and notes to programmers are not for who trains."""
    import pytorch_lightning  # noqa: F401  it sets its own level

    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module=name)


def precision() -> str:
    """bf16 where the machine has instructions for it, else float32."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return "bf16-mixed" if devices.fast_bfloat16(device) else "32-true"
