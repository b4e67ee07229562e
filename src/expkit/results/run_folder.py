"""The output folder of a run. Its files are the source of truth; loggers copy them elsewhere.

picture.png      the main picture, with labels; like every PNG, it contains the recipe as text
pictures/*.png   each picture without labels, at its own size
numbers.json     the measurements
recipe.yaml      the resolved config, versions, git commit, and what was sampled in the same batch
look.json        what the page of a sweep can show: starting picture, frames, readings
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import shutil
import struct
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor

from expkit.errors import UserError
from expkit.images import image_io, labels
from expkit.results.claims import LOOK, NO_SPACE, NUMBERS, OTHER, RECIPE, unwritable_error
from expkit.storage.files import atomic_write

LOGGER = logging.getLogger("expkit")
# the event file of a sweep; a sweep that is continued overwrites it
COLUMNS = "events.out.tfevents.0.columns"
LONGEST = 128  # characters in the name of a run of W&B


class RunLogger(ABC):
    """Copies the folder of a finished run to another place, such as TensorBoard."""

    @abstractmethod
    def show(self, result: RunFolder) -> None: ...

    @abstractmethod
    def lightning(self, result: RunFolder):
        """A Lightning logger that logs a training run while it runs, or False."""

    @abstractmethod
    def glimpse(self, result: RunFolder, name: str, path: Path, epoch: int) -> None:
        """Log a picture file of a training run; those of the same name form a series of epochs."""

    def check(self) -> None:  # noqa: B027
        """Raise UserError before the run starts if logging cannot work."""

    def sweep(  # noqa: B027
        self,
        folder: Path,
        swept: Mapping[str, Sequence],
        numbers: Sequence[str],
    ) -> None:
        """Log once for a sweep its values, {key: values}, and the names of its numbers."""


class RunInfo(NamedTuple):
    """What a logger needs to know of a run: its name, its sweep, and its values, {key: value}."""

    name: str
    sweep: str = ""
    swept: Mapping = {}


class RunFolder:
    """The output folder of a run, to which a task writes. The constructor writes recipe.yaml.

    Args:
        folder: The folder.
        recipe: The text of recipe.yaml.
        logger: The logger.
        is_main_process: False for all processes of a distributed training except one. They print,
            write and log nothing.
        about: How loggers name the run; by default, the name of the folder.

    Raises:
        UserError: The folder already contains a run, or cannot be written.
    """

    def __init__(
        self,
        folder: Path | str,
        recipe: str = "",
        logger: RunLogger | None = None,
        is_main_process: bool = True,
        about: RunInfo | None = None,
    ) -> None:
        self.about = about or RunInfo(Path(folder).name)
        self.folder = Path(folder)
        self.recipe = recipe
        self.logger = logger if logger and is_main_process else NullLogger()
        self.numbers: dict = {}
        self.look: dict = {}
        self.is_main_process = is_main_process
        self.began = time.perf_counter()
        if not is_main_process:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno in NO_SPACE:
                raise
            raise unwritable_error(self.folder, error) from None
        try:
            with (self.folder / RECIPE).open("x", encoding="utf-8") as file:
                file.write(recipe)
        except FileExistsError:
            raise UserError(f"The folder {self.folder} already holds a run. {OTHER}") from None

    def say(self, text: str) -> None:
        """Log a text, in the main process only."""
        if self.is_main_process:
            LOGGER.info(text)

    def save_images(
        self,
        images: Tensor,
        name: str = "{:03d}",
        folder: str = "pictures",
    ) -> list[str]:
        """Save each image without labels, as pictures/NNN.png.

        Args:
            images: (B, C, H, W) in [0, 1].
            name: The format of the file name, without its suffix.
            folder: The subfolder.

        Returns:
            The names of the files, relative to the run's folder.
        """
        (self.folder / folder).mkdir(exist_ok=True)
        names = [f"{folder}/{name.format(number)}.png" for number in range(len(images))]
        for file, image in zip(names, images, strict=True):
            image_io.save_png(image_io.as_image(image), self.folder / file, self.recipe, file)
        return names

    def picture(self, image: Image.Image, name: str = "picture") -> None:
        """Save an image as NAME.png."""
        image_io.save_png(image, self.folder / f"{name}.png", self.recipe)

    def finish(self) -> None:
        """Write numbers.json, then pass the folder to the logger.

        numbers.json is the last file and is written atomically: it marks a finished run.
        """
        if not self.is_main_process:
            return
        self.numbers = {"seconds": round(time.perf_counter() - self.began, 3), **self.numbers}
        if self.look:
            self.note(LOOK, self.look)
        self.note(NUMBERS, self.numbers)
        self.logger.show(self)

    def note(self, name: str, table: dict) -> None:
        """Write a table as the JSON file of this name, atomically."""
        text = json.dumps(table, indent=1) + "\n"
        path = self.folder / name
        atomic_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def scalars(self) -> dict[str, float]:
        """The numeric values of `numbers`; keys of nested tables are joined with /."""
        return flatten_scalars(self.numbers)

    def pngs(self) -> dict[str, Path]:
        """{name: path} of the pictures to log: labelled ones first, then up to 64 of pictures/."""
        paths = [
            *(path for path in self.folder.glob("*.png") if path.stem != "frames"),
            *sorted(self.folder.glob("pictures/*.png"))[:64],
        ]
        return {str(path.relative_to(self.folder).with_suffix("")): path for path in paths}


def flatten_scalars(numbers: Mapping) -> dict[str, float]:
    """The numeric values of a nested table; keys of nested tables are joined with /."""
    return dict(_iterate_scalars("", numbers))


def _iterate_scalars(prefix: str, table: Mapping):
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _iterate_scalars(f"{prefix}{key}/", value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{key}", value


class NullLogger(RunLogger):
    """logger=none: logs nothing."""

    def show(self, result: RunFolder) -> None:
        pass

    def lightning(self, result: RunFolder):
        return False

    def glimpse(self, result: RunFolder, name: str, path: Path, epoch: int) -> None:
        pass


class TensorBoard(RunLogger):
    """logger=tensorboard: writes pictures, numbers and the recipe as an event file.

    The event file is in the run's folder. Not written with tensorboardX or torch: their writers
    encode pictures again (36 and 90 times as long for a run of five pictures), and a file that is
    not finished already has its final name.
    """

    def show(self, result: RunFolder) -> None:
        summaries = _messages("summary")
        Summary, SummaryMetadata = summaries.Summary, summaries.SummaryMetadata
        text = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        code = f"```\n{result.recipe}\n```".encode()
        recipe = _messages("tensor").TensorProto(dtype=7, string_val=[code])
        values = [Summary.Value(tag="recipe", metadata=text, tensor=recipe)]
        for tag, number in result.scalars().items():
            values.append(Summary.Value(tag=tag, simple_value=number))
        for tag, path in result.pngs().items():
            values.append(Summary.Value(tag=tag, image=_image_summary(path)))
        self.write(result.folder, values + self.row(result.about), 0)

    def row(self, about: RunInfo) -> list:
        """A run of a sweep as a row of the HParams tab; empty for a single run."""
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb

        if not about.sweep:
            return []
        return list(hparams_pb(logger_value(about.swept), trial_id=about.name).value)

    def sweep(self, folder: Path, swept: Mapping[str, Sequence], numbers: Sequence[str]) -> None:
        """Write the columns of the HParams tab, which otherwise shows those of one run only."""
        from tensorboard.plugins.hparams import summary_v2 as hparams

        columns = {}
        for key, values in swept.items():
            columns[key] = [logger_value({key: value})[key] for value in values]
        params = []
        for key, values in columns.items():
            domain = hparams.Discrete(values) if of_one_kind(values) else None
            params.append(hparams.HParam(key, domain))
        config = hparams.hparams_config_pb(params, [hparams.Metric(name) for name in numbers])
        self.write(folder, config.value, 0, COLUMNS)

    def lightning(self, result: RunFolder):
        from pytorch_lightning.loggers import TensorBoardLogger

        return TensorBoardLogger(result.folder, name="", version="tensorboard")

    def glimpse(self, result: RunFolder, name: str, path: Path, epoch: int) -> None:
        Summary = _messages("summary").Summary
        self.write(result.folder, [Summary.Value(tag=name, image=_image_summary(path))], epoch)

    def write(self, folder: Path, values: Sequence, step: int, name: str = "") -> None:
        """Write an event file atomically, under a new name unless `name` is given."""
        Event, Summary = _messages("event").Event, _messages("summary").Summary
        log_folder = folder / "tensorboard"
        log_folder.mkdir(exist_ok=True)
        name = name or f"events.out.tfevents.{time.time():.6f}.{uuid.uuid4().hex}"
        data = b""
        for event in (
            {"file_version": "brain.Event:2"},
            {"step": step, "summary": Summary(value=values)},
        ):
            data += event_record(Event(wall_time=time.time(), **event).SerializeToString())
        atomic_write(log_folder / name, lambda temporary: temporary.write_bytes(data))


def event_record(data: bytes) -> bytes:
    """A record of an event file: length, checksum, data, checksum.

    TensorBoard's own writer computes checksums in Python: 0.38 s instead of 0.3 ms for 1.5 MB.
    """
    length = struct.pack("<Q", len(data))
    length_crc = struct.pack("<I", masked_crc(length))
    return length + length_crc + data + struct.pack("<I", masked_crc(data))


def masked_crc(data: bytes) -> int:
    from crc32c import crc32c

    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def logger_value(swept: Mapping) -> dict[str, float | str]:
    """Convert the values of a table to types that loggers accept: numbers and strings."""
    return {key: as_number(value) for key, value in swept.items()}


def as_number(value) -> float | str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return labels.format_label(value)


def of_one_kind(values: Sequence) -> bool:
    return len({type(value) for value in values}) == 1


def _messages(name: str) -> Any:
    """A module of TensorBoard's messages; protobuf makes its classes at import: no stub has them."""
    return importlib.import_module(f"tensorboard.compat.proto.{name}_pb2")


def _image_summary(path: Path):
    Summary = _messages("summary").Summary
    width, height = Image.open(path).size
    data = path.read_bytes()
    return Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=data)


def not_logged(error: Exception, kept: str = "") -> UserError:
    return UserError(
        f"Weights & Biases did not start ({str(error).splitlines()[0]}).{kept} "
        "Log in with `wandb login`, or give logger.mode=offline or logger=none."
    )


def materialize_links(folder: Path) -> None:
    """Replace links to files, such as the logs of W&B, by copies, so that the folder can be moved.

    Other links are removed.
    """
    for link in [path for path in folder.rglob("*") if path.is_symlink()]:
        source = link.resolve()
        link.unlink()
        if source.is_file():
            shutil.copyfile(source, link)


def without_environment(ours: Mapping[str, Mapping]) -> dict:
    """Merge the settings of each X in {X: settings} for which no variable WANDB_X is set."""
    return {
        key: value
        for name, settings in ours.items()
        if not os.environ.get(f"WANDB_{name}")
        for key, value in settings.items()
    }


class WandB(RunLogger):
    """logger=wandb: logs each run of expkit as a run of Weights & Biases.

    Other variables of W&B have an effect too: for example, WANDB_DIR replaces the run's folder.

    Args:
        project: None means WANDB_PROJECT or W&B's own settings files, else "expkit".
        mode: None means WANDB_MODE or W&B's own settings files, else "online".
    """

    def __init__(self, project: str | None = None, mode: str | None = None) -> None:
        self.project = project
        self.mode = mode
        self.run = None

    def settings(self, result: RunFolder) -> dict:
        """The arguments of wandb.init.

        The command takes precedence, then the settings of W&B, then the defaults of expkit.
        """
        import wandb

        wandb_settings = wandb.setup().settings
        about = result.about
        defaults = {
            "PROJECT": {"project": wandb_settings.project or "expkit"},
            "NAME": {"name": labels.file_name(about.name, LONGEST)},
            "RUN_GROUP": {"group": about.sweep or None},
            "DIR": {"dir": result.folder.resolve()},
        }
        quiet = {"SILENT": {"silent": True}, "CONSOLE": {"console": "off"}}
        command = {"project": self.project, "mode": self.mode}
        return {
            **without_environment(defaults),
            **{key: value for key, value in command.items() if value},
            # without links, the folder can be moved
            "settings": wandb.Settings(symlink=False, **without_environment(quiet)),
            "config": {**logger_value(about.swept), "recipe": result.recipe},
        }

    def start_run(self, result: RunFolder):
        """The run of W&B. It is started if necessary: a training run logs from its start."""
        import wandb
        from wandb.errors import CommError, UsageError

        try:
            self.run = self.run or wandb.init(reinit="create_new", **self.settings(result))
        except (UsageError, CommError) as error:
            raise not_logged(error, f" Files of the run are kept in {result.folder}.") from None
        return self.run

    def check(self) -> None:
        """Log in, if the run is to be logged online."""
        import wandb
        from wandb.errors import CommError, UsageError

        if (self.mode or wandb.setup().settings.mode or "online") != "online":
            return
        try:
            wandb.login(verify=False)
        except (UsageError, CommError) as error:
            raise not_logged(error) from None

    def show(self, result: RunFolder) -> None:
        import wandb

        run = self.start_run(result)
        try:
            run.log({tag.replace("/", "."): number for tag, number in result.scalars().items()})
            pngs = result.pngs()
            run.log({tag: wandb.Image(Image.open(path), caption=tag) for tag, path in pngs.items()})
            if not run.disabled:
                shutil.copyfile(result.folder / RECIPE, Path(run.dir) / RECIPE)
                run.save(str(Path(run.dir) / RECIPE), base_path=run.dir, policy="now")
        finally:
            run.finish()
            materialize_links(Path(run.dir).parent)
            self.run = None

    def lightning(self, result: RunFolder):
        from pytorch_lightning.loggers import WandbLogger

        return WandbLogger(experiment=self.start_run(result))

    def glimpse(self, result: RunFolder, name: str, path: Path, epoch: int) -> None:
        import wandb

        run = self.start_run(result)
        image = wandb.Image(Image.open(path), caption=f"after epoch {epoch}")
        run.log({name: image, "epoch": epoch})
