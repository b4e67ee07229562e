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

from expkit.data.image_folders import merge_remarks
from expkit.data.labelled_pictures import Batches, Pictures, count_batches
from expkit.errors import UserError, warn
from expkit.images.sheets import stack_pages
from expkit.results.run_folder import Result
from expkit.storage import devices
from expkit.training import checkpoints, lightning_arguments
from expkit.training.lightning_arguments import batches_of
from expkit.training.objectives import Objective, count_parameters
from expkit.training.settings import training_settings


@dataclass(frozen=True, eq=False)
class TrainConfig:
    """All that decides what is learnt, apart from data and seed.

    network: (classes, channels, size) of the pictures -> Module. rate: see `TrainingModule`. ema: decay of the averaged weights, or None.
    show: epochs after which there are pictures and a copy of the weights. compile: whether the network is compiled first.
    accelerator, devices, num_nodes, strategy, precision and what is in `lightning` are arguments of Lightning's Trainer; precision
    "auto" is bfloat16 where the machine has instructions for it; which others may be given, `lightning_arguments` says. batch_size is
    that of all processes together.
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
        lightning_arguments.check_arguments(self.lightning)

    @property
    def accumulate(self) -> int:
        """Batches of one optimizer step."""
        return self.lightning.get("accumulate_grad_batches") or 1


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

    recipe: TrainConfig
    data: Data
    seed: int
    resume: str | None = None
    begin: str | None = None

    def __post_init__(self) -> None:
        if self.resume and self.begin:
            raise UserError(
                f"resume={self.resume} and begin={self.begin} exclude each other: resume goes on with a training where it stood, begin "
                "starts one from weights. Give one of them."
            )

    def __call__(self, result: Result) -> None:
        if self.resume and self.resume != "auto":
            checkpoints.read_checkpoint(self.resume)
        images, held_out = self.pictures()
        network = self.network(images)
        batches, tests = self.batches(images), self.tests(held_out)
        training = self.training(network, batches, tests)
        checkpoint = checkpoints.find_checkpoint(self.resume, result.folder, training, result.say)
        # What does not fit is refused by now: captions, which take minutes to encode, come last.
        self.told(images).train(network, batches, tests, training, checkpoint, result)

    def told(self, images: Pictures) -> Train:
        """With an objective that knows of what the pictures are."""
        return replace(self, recipe=replace(self.recipe, objective=self.recipe.objective.told(images)))

    def training(self, network, batches: Batches, tests: Batches) -> checkpoints.Training:
        """What a checkpoint must agree with."""
        limits, pictures = self.limits(batches, tests), (batches.pictures, tests.pictures)
        known = training_settings(self.recipe, limits, self.precision(), network, *pictures, self.seed)
        return checkpoints.Training(known, self.options(), batches.steps, self.recipe.epochs)

    def train(
        self,
        network,
        batches: Batches,
        tests: Batches,
        training: checkpoints.Training,
        checkpoint: Path | None,
        result: Result,
    ) -> None:
        images, held_out = batches.pictures, tests.pictures
        silence_lightning()
        trainer = self.trainer(result, held_out)
        result.say(self.header(trainer, network, batches, tests))
        if remarks := merge_remarks([images.remarks, held_out.remarks]).text:
            result.say(f"  {remarks}")
        if not checkpoint:
            result.say(f"  from the weights {self.begin}" if self.begin else "  from the beginning")
        self.check_processes(trainer, network)
        for part in (batches, tests):
            part.rank, part.world = trainer.global_rank, trainer.world_size
        module = self.module(network, training)
        try:
            trainer.fit(module, batches, tests, ckpt_path=checkpoint, weights_only=True)
        except SystemExit:  # Lightning's way of passing an interrupt on
            raise KeyboardInterrupt from None
        except RuntimeError as error:
            if said := stopped_because(error):
                raise UserError(said) from None
            raise
        result.numbers |= {"data": {"train": images.facts(), "test": held_out.facts()}}
        self.report(module, images.names, result)

    def pictures(self) -> tuple[Pictures, Pictures]:
        """Those to train on and those held out to test on."""
        images = self.data.pictures(train=True).first(self.data.limit)
        return images, self.data.pictures(train=False).first(self.data.test_limit)

    def batches(self, images: Pictures) -> Batches:
        """The batches of an epoch."""
        limit = batches_of(
            "limit_train_batches", self.recipe.lightning.get("limit_train_batches"), self.count(images)
        )
        return Batches(
            images, self.recipe.batch_size, self.seed, True, limit=limit, accumulate=self.recipe.accumulate
        )

    def tests(self, held_out: Pictures) -> Batches:
        """The batches that are tested on after each epoch."""
        limit = batches_of(
            "limit_val_batches", self.recipe.lightning.get("limit_val_batches"), self.count(held_out)
        )
        return Batches(held_out, self.recipe.batch_size, self.seed, False, limit=limit)

    def count(self, images: Pictures) -> int:
        return count_batches(len(images.labels), self.recipe.batch_size)

    def limits(self, batches: Batches, tests: Batches) -> dict:
        """Those of Lightning's arguments that decide numbers, None for what was not given or leaves all."""
        clip = {
            name: self.recipe.lightning.get(name) for name in ("gradient_clip_val", "gradient_clip_algorithm")
        }
        left = {"limit_train_batches": batches, "limit_val_batches": tests}
        limits = {
            name: len(part) if len(part) < self.count(part.pictures) else None for name, part in left.items()
        }
        return {"accumulate_grad_batches": self.recipe.accumulate, **limits, **clip}

    def options(self) -> dict:
        """The options of the optimizer, the defaults of what was not given among them."""
        try:
            return dict(self.recipe.optimizer([torch.nn.Parameter(torch.zeros(1))]).param_groups[0])
        except (TypeError, ValueError) as error:
            raise UserError(f"trainer.optimizer cannot be made: {error}.") from None

    def precision(self) -> str:
        return auto_precision() if self.recipe.precision == "auto" else self.recipe.precision

    def network(self, images: Pictures):
        torch.manual_seed(self.seed)
        channels, size, _ = images.shape
        network = self.recipe.network(classes=len(images.names), channels=channels, size=size)
        if self.begin:
            checkpoints.init_from(network, self.begin)
        if self.recipe.compile:
            network.compile()
        return network.to(memory_format=torch.channels_last)

    def trainer(self, result: Result, held_out: Pictures):
        from lightning_fabric.utilities.exceptions import MisconfigurationException
        from pytorch_lightning import Trainer

        from expkit.training.callbacks import AtomicCheckpointIO

        recipe = self.recipe
        try:
            return Trainer(
                max_epochs=recipe.epochs,
                accelerator=recipe.accelerator,
                devices=recipe.devices,
                num_nodes=recipe.num_nodes,
                strategy=recipe.strategy,
                precision=self.precision(),
                sync_batchnorm=torch.cuda.is_available(),
                default_root_dir=result.folder,
                logger=result.mirror.lightning(result),
                callbacks=self.callbacks(result, held_out),
                plugins=[AtomicCheckpointIO()],
                num_sanity_val_steps=0,
                enable_model_summary=False,
                use_distributed_sampler=False,
                **self.lightning(result),
            )
        except (MisconfigurationException, ValueError, TypeError) as error:
            raise UserError(
                f"Lightning cannot train with accelerator={recipe.accelerator}, devices={recipe.devices}, strategy={recipe.strategy}, "
                f"precision={recipe.precision} here: {str(error).splitlines()[0]}"
            ) from None

    def lightning(self, result: Result) -> dict:
        """What is given to Lightning's Trainer of `recipe.lightning`: limits are those of our own batches."""
        given = {
            name: value
            for name, value in self.recipe.lightning.items()
            if value is not None and not name.startswith("limit_")
        }
        if "profiler" in given:
            given["profiler"] = make_profiler(given["profiler"], result.folder)
        return given

    def header(self, trainer, network, batches: Batches, tests: Batches) -> str:
        images, (channels, height, width) = batches.pictures, batches.pictures.shape
        classes = len(images.names)
        processes = f", {trainer.world_size} processes" if trainer.world_size > 1 else ""
        shown, tested = batches.rows(0, len(batches)), tests.rows(0, len(tests))
        each = min(self.recipe.batch_size * self.recipe.accumulate, shown)
        return (
            f"train: a network of {count_parameters(network):,} parameters on {len(images.labels):,} pictures of {width} × {height}"
            f"{' in colour' * (channels == 3)}, {classes} class{'es' * (classes != 1)}; {tested:,} held out to test on\n"
            f"  {self.recipe.epochs} epochs of {batches.steps} step{'s' * (batches.steps > 1)}, {each} pictures each"
            f"{f', {shown:,} an epoch' if shown < len(images.labels) else ''}; "
            f"{trainer.precision} on {trainer.strategy.root_device}{processes}"
        )

    def check_processes(self, trainer, network) -> None:
        batch_norm = any(
            isinstance(part, torch.nn.modules.batchnorm._BatchNorm) for part in network.modules()
        )
        if trainer.world_size > 1 and batch_norm and not torch.cuda.is_available():
            warn(
                f"{trainer.world_size} processes on CPUs do not share the statistics of BatchNorm: each normalises by its own rows, so the "
                "model is not that of one process. trainer.network.norm=group has none."
            )

    def module(self, network, training: checkpoints.Training):
        from expkit.training.lightning_module import TrainingModule

        recipe = self.recipe
        return TrainingModule(
            network,
            recipe.objective,
            recipe.optimizer,
            recipe.rate,
            training.steps,
            self.seed,
            dict(training.settings),
        )

    def callbacks(self, result: Result, held_out: Pictures) -> list:
        from pytorch_lightning.callbacks import EMAWeightAveraging, TQDMProgressBar

        from expkit.training.callbacks import AfterEpoch, Checkpoints

        recipe = self.recipe
        average = (
            [EMAWeightAveraging(decay=recipe.ema, update_starting_at_step=recipe.ema_from)]
            if recipe.ema
            else []
        )
        saves = Checkpoints(
            result.folder / "checkpoints", "{step:06d}", auto_insert_metric_name=False, monitor="step", mode="max", save_top_k=2,
            every_n_train_steps=recipe.checkpoint_every, save_on_exception=True,
        )  # fmt: skip
        after = AfterEpoch(lambda module, epoch: self.keep(module, epoch, held_out, result))
        bar = (
            [TQDMProgressBar(refresh_rate=10)]
            if recipe.lightning.get("enable_progress_bar") is not False
            else []
        )
        return [after, *average, *bar, saves]

    def keep(self, module, epoch: int, held_out: Pictures, result: Result) -> None:
        """The weights after each epoch; at some of them a copy, and pictures of what they can do."""
        from expkit.training.callbacks import draw_curve

        objective, folder = self.recipe.objective, result.folder
        objective.save(module.network, folder / objective.file, held_out.names)
        if epoch not in self.recipe.show:
            return
        (folder / "epochs").mkdir(exist_ok=True)
        copy_tree(folder / objective.file, folder / "epochs" / f"{epoch:02d}_{objective.file}")
        module.settle()
        shown = objective.shown(module.network, held_out, self.seed) | {
            "loss": draw_curve(module.losses, module.epochs)
        }
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
        result.picture(training_page(draw_curve(module.losses, module.epochs), result.folder / "epochs"))
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


def training_page(curve: Image.Image, epochs: Path) -> Image.Image:
    """The curve, and under it what the network could do after each of the shown epochs."""
    wanted = "samples" if list(epochs.glob("*_samples.png")) else "denoised"
    found = sorted((int(path.name.partition("_")[0]), path) for path in epochs.glob(f"*_{wanted}.png"))
    shown = [(f"after epoch {epoch}", Image.open(path)) for epoch, path in found]
    return stack_pages([("", curve), *shown]) if shown else curve


def copy_tree(source: Path, target: Path) -> None:
    """Of a file, or of a folder and all that is in it."""
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)


def silence_lightning() -> None:
    """Lightning's advertisements and notes to programmers are not for who trains."""
    import pytorch_lightning  # noqa: F401  it sets its own level

    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module=name)


def make_profiler(kind: str, folder: Path):
    """Lightning's, which writes how long each part took into the run's folder."""
    from pytorch_lightning.profilers import AdvancedProfiler, SimpleProfiler

    return {"simple": SimpleProfiler, "advanced": AdvancedProfiler}[kind](dirpath=folder, filename="profile")


def stopped_because(error: RuntimeError) -> str | None:
    """A sentence for what trainer.lightning.detect_anomaly and deterministic find; None for any other error."""
    text = next(iter(str(error).strip().splitlines()), "")
    if "returned nan values" in text:
        return f"{text} The last checkpoint is kept. Try a smaller rate (trainer.optimizer.lr=…) or trainer.precision=32-true."
    if "deterministic" in text:
        return f"{text} Give trainer.lightning.deterministic=warn, or leave it out."
    return None


def auto_precision() -> str:
    """bf16 where the machine has instructions for it, else float32."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return "bf16-mixed" if devices.fast_bfloat16(device) else "32-true"
