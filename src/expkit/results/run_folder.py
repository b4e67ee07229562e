"""A run's folder: pictures, numbers, recipe. Files are the truth; loggers mirror them.

picture.png      what to look at, labelled; the recipe is inside it as text, as in every PNG
pictures/*.png   each picture bare, at its own size
numbers.json     what was measured
recipe.yaml      the resolved config, versions, git commit, and what was sampled with it in one batch
look.json        how the page of a sweep can show it: what it started from, frames, readings
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from expkit.errors import UserError
from expkit.images import image_io, labels
from expkit.results.claims import NO_SPACE, OTHER, unwritable_error
from expkit.storage.files import atomic_write

COLUMNS = "events.out.tfevents.0.columns"  # of a sweep: written anew by the sweep that goes on
LONGEST = 128  # characters of the name of a run of W&B


class RunLogger(ABC):
    """Shows a finished run's folder somewhere else."""

    @abstractmethod
    def show(self, result: Result) -> None: ...

    @abstractmethod
    def lightning(self, result: Result):
        """The same for a training run, while it runs: a logger of Lightning's, or False."""

    @abstractmethod
    def glimpse(self, result: Result, name: str, path: Path, epoch: int) -> None:
        """Show a picture's file of a training run while it runs; those of one name are a series over its epochs."""

    def check(self) -> None:  # noqa: B027
        """Refuse what cannot be shown there, before the run begins."""

    def sweep(self, folder: Path, swept: Mapping[str, Sequence], numbers: Sequence[str]) -> None:  # noqa: B027
        """Say once for all runs of a sweep what was swept, {key: values}, and which numbers they have."""


class RunInfo(NamedTuple):
    """What a mirror should know of a run: its name, the sweep it belongs to, and what was swept, {key: value}."""

    name: str
    sweep: str = ""
    swept: Mapping = {}


class Result:
    """What a task writes into. The folder is claimed when it is made: one that holds a run is refused.

    leads: False in all but one of the processes that share a training: they say, write and mirror nothing. about: what mirrors call it.
    """

    def __init__(
        self,
        folder: Path | str,
        recipe: str = "",
        mirror: RunLogger | None = None,
        leads: bool = True,
        about: RunInfo | None = None,
    ) -> None:
        self.about = about or RunInfo(Path(folder).name)
        self.folder, self.recipe, self.mirror = (
            Path(folder),
            recipe,
            mirror if mirror and leads else NullLogger(),
        )
        self.numbers: dict = {}
        self.look: dict = {}
        self.leads, self.began = leads, time.perf_counter()
        if not leads:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno in NO_SPACE:
                raise
            raise unwritable_error(self.folder, error) from None
        try:
            with (self.folder / "recipe.yaml").open("x", encoding="utf-8") as file:
                file.write(recipe)
        except FileExistsError:
            raise UserError(f"The folder {self.folder} already holds a run. {OTHER}") from None

    def say(self, text: str) -> None:
        if self.leads:
            print(text, file=sys.stderr, flush=True)

    def bare(self, images: Tensor, name: str = "{:03d}", folder: str = "pictures") -> list[str]:
        """Write each of (B, C, H, W) in [0, 1] as pictures/NNN.png; their names."""
        (self.folder / folder).mkdir(exist_ok=True)
        names = [f"{folder}/{name.format(number)}.png" for number in range(len(images))]
        for file, image in zip(names, images, strict=True):
            image_io.save_png(image_io.as_image(image), self.folder / file, self.recipe, file)
        return names

    def picture(self, image: Image.Image, name: str = "picture") -> None:
        image_io.save_png(image, self.folder / f"{name}.png", self.recipe)

    def finish(self) -> None:
        """Write the numbers, last and in one move: a folder with numbers.json is a finished run. Then mirror the folder."""
        if not self.leads:
            return
        self.numbers = {"seconds": round(time.perf_counter() - self.began, 3), **self.numbers}
        if self.look:
            self.note("look", self.look)
        self.note("numbers", self.numbers)
        self.mirror.show(self)

    def note(self, name: str, table: dict) -> None:
        """Write NAME.json, in one move."""
        write = json.dumps(table, indent=1) + "\n"
        atomic_write(self.folder / f"{name}.json", lambda part: part.write_text(write, encoding="utf-8"))

    def scalars(self) -> dict[str, float]:
        """The numbers that are numbers, those of nested tables under joined names."""
        return flatten_scalars(self.numbers)

    def pngs(self) -> dict[str, Path]:
        """The pictures to show, the labelled one first."""
        found = [
            *(p for p in self.folder.glob("*.png") if p.stem != "frames"),
            *sorted(self.folder.glob("pictures/*.png"))[:64],
        ]
        return {str(p.relative_to(self.folder).with_suffix("")): p for p in found}


def flatten_scalars(numbers: Mapping) -> dict[str, float]:
    """Those that are numbers, of nested tables under joined names."""
    return dict(_scalars("", numbers))


def _scalars(prefix: str, table: dict):
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _scalars(f"{prefix}{key}/", value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{key}", value


class NullLogger(RunLogger):
    """logger=none"""

    def show(self, result: Result) -> None:
        pass

    def lightning(self, result: Result):
        return False

    def glimpse(self, result: Result, name: str, path: Path, epoch: int) -> None:
        pass


class TensorBoard(RunLogger):
    """logger=tensorboard: pictures, numbers and the recipe as an event file in the run's folder, written without torch."""

    def show(self, result: Result) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto

        text = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        recipe = TensorProto(dtype=7, string_val=[f"```\n{result.recipe}\n```".encode()])
        values = [Summary.Value(tag="recipe", metadata=text, tensor=recipe)]
        values += [Summary.Value(tag=tag, simple_value=number) for tag, number in result.scalars().items()]
        values += [Summary.Value(tag=tag, image=_encoded(path)) for tag, path in result.pngs().items()]
        self.write(result.folder, values + self.row(result.about), 0)

    def row(self, about: RunInfo) -> list:
        """A cell of a sweep as a row of the HParams tab."""
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb

        return list(hparams_pb(logger_value(about.swept), trial_id=about.name).value) if about.sweep else []

    def sweep(self, folder: Path, swept: Mapping[str, Sequence], numbers: Sequence[str]) -> None:
        """The columns of the HParams tab, which shows those of one run only unless they are all named."""
        from tensorboard.plugins.hparams.summary_v2 import Discrete, HParam, Metric, hparams_config_pb

        columns = {
            key: [logger_value({key: value})[key] for value in values] for key, values in swept.items()
        }
        params = [
            HParam(key, Discrete(values) if of_one_kind(values) else None) for key, values in columns.items()
        ]
        config = hparams_config_pb(params, [Metric(name) for name in numbers])
        self.write(folder, config.value, 0, COLUMNS)

    def lightning(self, result: Result):
        from pytorch_lightning.loggers import TensorBoardLogger

        return TensorBoardLogger(result.folder, name="", version="tensorboard")

    def glimpse(self, result: Result, name: str, path: Path, epoch: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self.write(result.folder, [Summary.Value(tag=name, image=_encoded(path))], epoch)

    def write(self, folder: Path, values: Sequence, step: int, name: str = "") -> None:
        """Write an events file in one move, as a new one or as this one."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        place = folder / "tensorboard"
        place.mkdir(exist_ok=True)
        name = name or f"events.out.tfevents.{time.time():.6f}.{uuid.uuid4().hex}"
        events = ({"file_version": "brain.Event:2"}, {"step": step, "summary": Summary(value=values)})
        data = b"".join(
            event_record(Event(wall_time=time.time(), **event).SerializeToString()) for event in events
        )
        atomic_write(place / name, lambda part: part.write_bytes(data))


def event_record(data: bytes) -> bytes:
    """A record of an event file: length, checksum, data, checksum. TensorBoard's own writer sums in Python, which takes far longer."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc(length)) + data + struct.pack("<I", masked_crc(data))


def masked_crc(data: bytes) -> int:
    from crc32c import crc32c

    found = crc32c(data)
    return ((found >> 15 | found << 17) + 0xA282EAD8) & 0xFFFFFFFF


def logger_value(swept: Mapping) -> dict[str, float | str]:
    """Values as loggers take them: numbers and words."""
    return {key: as_number(value) for key, value in swept.items()}


def as_number(value) -> float | str:
    return (
        float(value)
        if isinstance(value, int | float) and not isinstance(value, bool)
        else labels.format_label(value)
    )


def of_one_kind(values: Sequence) -> bool:
    return len({type(value) for value in values}) == 1


def _encoded(path: Path):
    from tensorboard.compat.proto.summary_pb2 import Summary

    size = Image.open(path).size
    return Summary.Image(width=size[0], height=size[1], colorspace=3, encoded_image_string=path.read_bytes())


def not_logged(error: Exception, kept: str = "") -> UserError:
    return UserError(
        f"Weights & Biases did not start ({str(error).splitlines()[0]}).{kept} "
        "Log in with `wandb login`, or give logger.mode=offline or logger=none."
    )


def materialize_links(folder: Path) -> None:
    """Put files in the place of links to files, such as W&B's logs, so that the folder can be moved; remove links to nothing."""
    for link in [path for path in folder.rglob("*") if path.is_symlink()]:
        source = link.resolve()
        link.unlink()
        if source.is_file():
            shutil.copyfile(source, link)


def without_environment(ours: Mapping[str, Mapping]) -> dict:
    """Those of {X: settings} for which there is no variable WANDB_X."""
    return {
        key: value
        for name, settings in ours.items()
        if not os.environ.get(f"WANDB_{name}")
        for key, value in settings.items()
    }


class WandB(RunLogger):
    """logger=wandb: one run of Weights & Biases a run of expkit.

    project, mode: None for what WANDB_PROJECT and WANDB_MODE or W&B's own files of settings say, else expkit and online. Its other
    variables hold too: WANDB_DIR, say, in place of the run's folder.
    """

    def __init__(self, project: str | None = None, mode: str | None = None) -> None:
        self.project, self.mode, self.run = project, mode, None

    def settings(self, result: Result) -> dict:
        """What W&B is begun with: what the command says, and of our own what nothing of W&B's says otherwise."""
        import wandb

        known, about = wandb.setup().settings, result.about
        ours = {
            "PROJECT": {"project": known.project or "expkit"},
            "NAME": {"name": labels.file_name(about.name, LONGEST)},
            "RUN_GROUP": {"group": about.sweep or None},
            "DIR": {"dir": result.folder.resolve()},
        }
        quiet = {"SILENT": {"silent": True}, "CONSOLE": {"console": "off"}}
        chosen = {key: value for key, value in {"project": self.project, "mode": self.mode}.items() if value}
        return {
            **without_environment(ours),
            **chosen,
            "settings": wandb.Settings(
                symlink=False, **without_environment(quiet)
            ),  # a folder with links could not be moved
            "config": {**logger_value(about.swept), "recipe": result.recipe},
        }

    def begun(self, result: Result):
        """The run, begun where it has not: a training run logs into it from the start."""
        import wandb

        try:
            self.run = self.run or wandb.init(reinit="create_new", **self.settings(result))
        except (wandb.errors.UsageError, wandb.errors.CommError) as error:
            raise not_logged(error, f" Files of the run are kept in {result.folder}.") from None
        return self.run

    def check(self) -> None:
        """Log in, where the run is to be shown online."""
        import wandb

        if (self.mode or wandb.setup().settings.mode or "online") != "online":
            return
        try:
            wandb.login(verify=False)
        except (wandb.errors.UsageError, wandb.errors.CommError) as error:
            raise not_logged(error) from None

    def show(self, result: Result) -> None:
        import wandb

        run = self.begun(result)
        try:
            run.log({tag.replace("/", "."): number for tag, number in result.scalars().items()})
            run.log({tag: wandb.Image(Image.open(path), caption=tag) for tag, path in result.pngs().items()})
            if not run.disabled:
                shutil.copyfile(result.folder / "recipe.yaml", Path(run.dir) / "recipe.yaml")
                run.save(str(Path(run.dir) / "recipe.yaml"), base_path=run.dir, policy="now")
        finally:
            run.finish()
            materialize_links(Path(run.dir).parent)
            self.run = None

    def lightning(self, result: Result):
        from pytorch_lightning.loggers import WandbLogger

        return WandbLogger(experiment=self.begun(result))

    def glimpse(self, result: Result, name: str, path: Path, epoch: int) -> None:
        import wandb

        self.begun(result).log(
            {name: wandb.Image(Image.open(path), caption=f"after epoch {epoch}"), "epoch": epoch}
        )
