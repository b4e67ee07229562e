"""task=train: train a recipe on data with Lightning, and write the results into a run's folder."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from expkit.data.image_folders import merge_remarks
from expkit.data.labelled_pictures import Batches, Pictures, count_batches
from expkit.errors import UserError, warn
from expkit.images.sheets import stack_pages
from expkit.results.run_folder import RunFolder
from expkit.storage import devices
from expkit.storage.compiling import compile_network
from expkit.training import checkpoints, lightning_arguments
from expkit.training.lightning_arguments import batches_of
from expkit.training.objectives import Objective, count_parameters
from expkit.training.settings import training_settings


@dataclass(frozen=True, eq=False)
class TrainConfig:
    """A training recipe: all that decides what is learnt, apart from the data and the seed.

    Args:
        network: a function of (classes, channels, size) of the images that returns the network.
        objective: the loss.
        optimizer: a function of the parameters that returns the optimizer.
        rate: the learning-rate schedule, see `TrainingModule`.
        batch_size: images of a batch, in all processes together.
        ema: decay of the exponential moving average of the weights; None: no average.
        ema_from: the optimizer step from which the weights are averaged.
        show: epochs after which figures and a copy of the weights are written.
        checkpoint_every: optimizer steps between two checkpoints.
        accelerator, devices, num_nodes, strategy: arguments of Lightning's Trainer.
        precision: also Lightning's; "auto" is bfloat16 if the device has instructions for it, else
            float32.
        compile: whether the network is compiled with torch.compile.
        lightning: further arguments of Lightning's Trainer; `lightning_arguments` has the allowed
            ones.
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
        """The number of batches of one optimizer step."""
        return self.lightning.get("accumulate_grad_batches") or 1

    @property
    def uses_cuda(self) -> bool:
        """Whether `accelerator` stands for CUDA on this machine."""
        return self.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


@dataclass(frozen=True, eq=False)
class TrainingData:
    """The data of a training.

    Args:
        pictures: the source, `pictures(train=True or False) -> Pictures`.
        limit: use only the first so many training images; None: all.
        test_limit: the same for the test images.
    """

    pictures: Callable[..., Pictures]
    limit: int | None = None
    test_limit: int | None = None


@dataclass(frozen=True, eq=False)
class Train:
    """task=train: train `recipe` on `data`.

    Args:
        seed: of the initial weights, the order of images and all noise.
        resume: a checkpoint to resume from, "auto" for that of the newest unfinished run, or None.
        begin: weights to start from, see `checkpoints.init_from`, or None.

    Raises:
        UserError: both `resume` and `begin` are set.
    """

    recipe: TrainConfig
    data: TrainingData
    seed: int
    resume: str | None = None
    begin: str | None = None

    def __post_init__(self) -> None:
        if self.resume and self.begin:
            raise UserError(
                f"resume={self.resume} and begin={self.begin} exclude each other: "
                "resume goes on with a training where it stood, begin starts one from weights. "
                "Give one of them."
            )

    def __call__(self, result: RunFolder) -> None:
        if self.resume and self.resume != "auto":
            checkpoints.read_checkpoint(self.resume)
        images, held_out = self.pictures()
        network = self.network(images)
        batches = self.batches(images)
        tests = self.tests(held_out)
        training = self.training(network, batches, tests)
        checkpoint = checkpoints.find_checkpoint(self.resume, result.folder, training, result.say)
        # All settings are checked by now. Encoding the captions takes minutes, so it comes last.
        self.adapt_to(images).train(network, batches, tests, training, checkpoint, result)

    def adapt_to(self, images: Pictures) -> Train:
        """This training, with its objective adapted to the images."""
        objective = self.recipe.objective.adapt_to(images)
        return replace(self, recipe=replace(self.recipe, objective=objective))

    def training(self, network, batches: Batches, tests: Batches) -> checkpoints.Training:
        """The description with which a checkpoint must agree."""
        settings = training_settings(
            self.recipe,
            self.limits(batches, tests),
            self.precision(),
            network,
            batches.pictures,
            tests.pictures,
            self.seed,
        )
        return checkpoints.Training(settings, self.options(), batches.steps, self.recipe.epochs)

    def train(
        self,
        network,
        batches: Batches,
        tests: Batches,
        training: checkpoints.Training,
        checkpoint: Path | None,
        result: RunFolder,
    ) -> None:
        images, held_out = batches.pictures, tests.pictures
        silence_lightning()
        trainer = self.trainer(result, held_out)
        result.say(self.header(trainer, network, batches, tests))
        remarks = merge_remarks([images.remarks, held_out.remarks]).text
        if remarks:
            result.say(f"  {remarks}")
        if not checkpoint:
            result.say(f"  from the weights {self.begin}" if self.begin else "  from the beginning")
        self.check_processes(trainer, network)
        for loader in (batches, tests):
            loader.rank, loader.world = trainer.global_rank, trainer.world_size
        module = self.module(network, training)
        try:
            trainer.fit(module, batches, tests, ckpt_path=checkpoint, weights_only=True)
        except SystemExit:  # Lightning passes an interrupt on in this way
            raise KeyboardInterrupt from None
        except RuntimeError as error:
            if message := stopped_because(error):
                raise UserError(message) from None
            raise
        result.numbers |= {"data": {"train": images.facts(), "test": held_out.facts()}}
        self.report(module, images.names, result)

    def pictures(self) -> tuple[Pictures, Pictures]:
        """The images to train on, and the held-out images to test on."""
        images = self.data.pictures(train=True).first(self.data.limit)
        return images, self.data.pictures(train=False).first(self.data.test_limit)

    def batches(self, images: Pictures) -> Batches:
        """The training batches of an epoch, in random order."""
        name = "limit_train_batches"
        limit = batches_of(name, self.recipe.lightning.get(name), self.count(images))
        return Batches(
            images,
            self.recipe.batch_size,
            self.seed,
            True,
            limit=limit,
            accumulate=self.recipe.accumulate,
        )

    def tests(self, held_out: Pictures) -> Batches:
        """The test batches after each epoch, in the order of the data."""
        name = "limit_val_batches"
        limit = batches_of(name, self.recipe.lightning.get(name), self.count(held_out))
        return Batches(held_out, self.recipe.batch_size, self.seed, False, limit=limit)

    def count(self, images: Pictures) -> int:
        """The number of batches without a limit."""
        return count_batches(len(images.labels), self.recipe.batch_size)

    def limits(self, batches: Batches, tests: Batches) -> dict:
        """The arguments of Lightning that affect results; None if unset or without effect."""
        arguments: dict[str, Any] = {"accumulate_grad_batches": self.recipe.accumulate}
        for name, loader in (("limit_train_batches", batches), ("limit_val_batches", tests)):
            is_limited = len(loader) < self.count(loader.pictures)
            arguments[name] = len(loader) if is_limited else None
        for name in ("gradient_clip_val", "gradient_clip_algorithm"):
            arguments[name] = self.recipe.lightning.get(name)
        return arguments

    def options(self) -> dict:
        """The options of the optimizer, including its defaults."""
        try:
            optimizer = self.recipe.optimizer([torch.nn.Parameter(torch.zeros(1))])
            return dict(optimizer.param_groups[0])
        except (TypeError, ValueError) as error:
            raise UserError(f"trainer.optimizer cannot be made: {error}.") from None

    def precision(self) -> str:
        if self.recipe.precision != "auto":
            return self.recipe.precision
        return auto_precision("cuda" if self.recipe.uses_cuda else "cpu")

    def network(self, images: Pictures):
        """The initialized network, in channels-last memory format.

        Raises:
            UserError: the objective cannot save this network.
        """
        torch.manual_seed(self.seed)
        channels, size, _ = images.shape
        network = self.recipe.network(classes=len(images.names), channels=channels, size=size)
        self.recipe.objective.check_network(network)
        if self.begin:
            checkpoints.init_from(network, self.begin)
        if self.recipe.compile:
            compile_network(network, "trainer.compile")
        return network.to(memory_format=torch.channels_last)

    def trainer(self, result: RunFolder, held_out: Pictures):
        from lightning_fabric.utilities.exceptions import MisconfigurationException
        from pytorch_lightning import Trainer

        from expkit.training.callbacks import AtomicCheckpointIO

        recipe = self.recipe
        devices = recipe.devices
        precision: Any = self.precision()  # Trainer refuses what is no precision
        try:
            return Trainer(
                max_epochs=recipe.epochs,
                accelerator=recipe.accelerator,
                devices=devices if isinstance(devices, int | str) else [*devices],
                num_nodes=recipe.num_nodes,
                strategy=recipe.strategy,
                precision=precision,
                sync_batchnorm=recipe.uses_cuda,
                default_root_dir=result.folder,
                logger=result.logger.lightning(result),
                callbacks=self.callbacks(result, held_out),
                plugins=[AtomicCheckpointIO()],
                num_sanity_val_steps=0,
                enable_model_summary=False,
                use_distributed_sampler=False,
                **self.lightning(result),
            )
        except (MisconfigurationException, ValueError, TypeError) as error:
            raise UserError(
                f"Lightning cannot train with accelerator={recipe.accelerator}, "
                f"devices={recipe.devices}, strategy={recipe.strategy}, "
                f"precision={recipe.precision} here: {str(error).splitlines()[0]}"
            ) from None

    def lightning(self, result: RunFolder) -> dict:
        """The arguments in `recipe.lightning` for the Trainer, without limits (see `Batches`)."""
        arguments = {
            name: value
            for name, value in self.recipe.lightning.items()
            if value is not None and not name.startswith("limit_")
        }
        if "profiler" in arguments:
            arguments["profiler"] = make_profiler(arguments["profiler"], result.folder)
        return arguments

    def header(self, trainer, network, batches: Batches, tests: Batches) -> str:
        """Two lines for the terminal: network and data; steps, precision and device."""
        images = batches.pictures
        channels, height, width = images.shape
        classes = len(images.names)
        colour = " in colour" if channels == 3 else ""
        class_word = "class" if classes == 1 else "classes"
        step_word = "steps" if batches.steps > 1 else "step"
        processes = f", {trainer.world_size} processes" if trainer.world_size > 1 else ""
        train_count = batches.rows(0, len(batches))
        test_count = tests.rows(0, len(tests))
        per_step = min(self.recipe.batch_size * self.recipe.accumulate, train_count)
        per_epoch = f", {train_count:,} an epoch" if train_count < len(images.labels) else ""
        return (
            f"train: a network of {count_parameters(network):,} parameters on "
            f"{len(images.labels):,} pictures of {width} × {height}{colour}, "
            f"{classes} {class_word}; {test_count:,} held out to test on\n"
            f"  {self.recipe.epochs} epochs of {batches.steps} {step_word}, "
            f"{per_step} pictures each{per_epoch}; "
            f"{trainer.precision} on {trainer.strategy.root_device}{processes}"
        )

    def check_processes(self, trainer, network) -> None:
        """Warn if several processes on CPUs train a network with batch normalization."""
        batch_norm = torch.nn.modules.batchnorm._BatchNorm
        has_batch_norm = any(isinstance(layer, batch_norm) for layer in network.modules())
        on_cpus = trainer.strategy.root_device.type == "cpu"
        if trainer.world_size > 1 and has_batch_norm and on_cpus:
            warn(
                f"{trainer.world_size} processes on CPUs do not share the statistics of BatchNorm: "
                "each normalises by its own rows, so the model is not that of one process. "
                "trainer.network.norm=group has none."
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

    def callbacks(self, result: RunFolder, held_out: Pictures) -> list:
        from pytorch_lightning.callbacks import Callback, EMAWeightAveraging, TQDMProgressBar

        from expkit.training.callbacks import AfterEpoch, Checkpoints

        recipe = self.recipe
        callbacks: list[Callback] = [
            AfterEpoch(lambda module, epoch: self.keep(module, epoch, held_out, result))
        ]
        if recipe.ema:
            average = EMAWeightAveraging(decay=recipe.ema, update_starting_at_step=recipe.ema_from)
            callbacks.append(average)
        if recipe.lightning.get("enable_progress_bar") is not False:
            callbacks.append(TQDMProgressBar(refresh_rate=10))
        checkpoint_callback = Checkpoints(
            result.folder / "checkpoints",
            "{step:06d}",
            auto_insert_metric_name=False,
            monitor="step",
            mode="max",
            save_top_k=2,
            every_n_train_steps=recipe.checkpoint_every,
            save_on_exception=True,
        )
        return [*callbacks, checkpoint_callback]

    def keep(self, module, epoch: int, held_out: Pictures, result: RunFolder) -> None:
        """Write the weights each epoch; after the epochs `recipe.show` also a copy and figures."""
        from expkit.training.callbacks import draw_curve

        objective = self.recipe.objective
        folder = result.folder
        objective.save(module.network, folder / objective.file, held_out.names)
        if epoch not in self.recipe.show:
            return
        (folder / "epochs").mkdir(exist_ok=True)
        copy_tree(folder / objective.file, folder / "epochs" / f"{epoch:02d}_{objective.file}")
        module.flush_losses()
        figures = objective.sample_figures(module.network, held_out, self.seed)
        figures = figures | {"loss": draw_curve(module.losses, module.epochs)}
        for name, figure in figures.items():
            file = f"epochs/{epoch:02d}_{name}"
            result.picture(figure, file)
            result.logger.glimpse(result, name, folder / f"{file}.png", epoch)

    def report(self, module, names: Sequence[str], result: RunFolder) -> None:
        """Write losses, figure, weights and numbers at the end, in the main process only."""
        from expkit.training.callbacks import draw_curve, write_losses

        if not result.is_main_process:
            return
        module.flush_losses()
        write_losses(module.losses, result.folder / "losses.csv")
        curve = draw_curve(module.losses, module.epochs)
        result.picture(training_page(curve, result.folder / "epochs"))
        objective = self.recipe.objective
        objective.save(module.network, result.folder / objective.file, names)
        result.numbers |= {
            "epochs": module.epochs,
            "steps": len(module.losses),
            "seed": self.seed,
            "device": str(module.device),
            "precision": str(module.trainer.precision),
            "processes": module.trainer.world_size,
            "weights": objective.file,
            **objective.facts(module.network),
        }


def training_page(curve: Image.Image, epochs: Path) -> Image.Image:
    """The loss curve, and below it the figures in the folder `epochs`, in the order of epochs."""
    kind = "samples" if list(epochs.glob("*_samples.png")) else "denoised"
    paths = epochs.glob(f"*_{kind}.png")
    files = sorted((int(path.name.partition("_")[0]), path) for path in paths)
    pages = [(f"after epoch {epoch}", Image.open(path)) for epoch, path in files]
    return stack_pages([("", curve), *pages]) if pages else curve


def copy_tree(source: Path, target: Path) -> None:
    """Copy a file, or a folder with everything in it."""
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)


def silence_lightning() -> None:
    """Hide Lightning's advertisements and its notes to programmers from users."""
    import pytorch_lightning  # noqa: F401  its import sets the log level

    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module=name)


def make_profiler(kind: str, folder: Path):
    """Lightning's profiler, which writes the time of each part into the run's folder."""
    from pytorch_lightning.profilers import AdvancedProfiler, SimpleProfiler

    profiler = {"simple": SimpleProfiler, "advanced": AdvancedProfiler}[kind]
    return profiler(dirpath=folder, filename="profile")


def stopped_because(error: RuntimeError) -> str | None:
    """A message for the errors of trainer.lightning.detect_anomaly and deterministic; else None."""
    text = next(iter(str(error).strip().splitlines()), "")
    if "returned nan values" in text:
        return (
            f"{text} The last checkpoint is kept. "
            "Try a smaller rate (trainer.optimizer.lr=…) or trainer.precision=32-true."
        )
    if "deterministic" in text:
        return f"{text} Give trainer.lightning.deterministic=warn, or leave it out."
    return None


def auto_precision(device: str) -> str:
    """bfloat16 mixed precision if the device has instructions for it, else float32."""
    return "bf16-mixed" if devices.fast_bfloat16(device) else "32-true"
