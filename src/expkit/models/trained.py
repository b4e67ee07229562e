"""UNets trained by expkit, as one self-describing file.

`model.safetensors` holds the network's tensors under `network.`, its schedule as `schedule.alpha` and `schedule.sigma`, and what
else is needed to ask it in its metadata. Nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expkit.core.denoiser import ChunkedRows, Denoiser, Prediction
from expkit.core.schedules import Schedule
from expkit.errors import UserError
from expkit.models.unets import UNet
from expkit.storage import weights_io
from expkit.storage.devices import device_of, precision_of
from expkit.storage.files import sha256
from expkit.storage.inputs import NEWEST
from expkit.text.class_names import DIGITS, find_class, null_only

MADE_BY = "task=train"


@dataclass(frozen=True)
class ModelSpec:
    """What a file of weights says of itself: the network's arguments, what it answers, and the names of the classes it was shown.

    continuous: of its schedule; files that do not say it have levels that are integers.
    """

    hidden: int
    timed: bool
    classes: int
    channels: int
    size: int
    kind: str
    low: float
    high: float
    norm: str = "batch"
    product: bool = False
    names: Sequence[str] = DIGITS
    continuous: bool = False

    @classmethod
    def of(cls, net: UNet, kind: str, low: float, high: float, names: Sequence[str]) -> ModelSpec:
        made = (net.hidden, net.timed, net.classes, net.channels, net.size)
        return cls(*made, kind, low, high, net.norm, net.product, tuple(names))

    def network(self) -> UNet:
        return UNet(self.hidden, self.timed, self.classes, self.channels, self.size, self.norm, self.product)


def save_model(
    path: Path, network: UNet, schedule: Schedule, facts: ModelSpec, dtype: torch.dtype = torch.float32
) -> None:
    """Write network, schedule and facts as one file, in one move; the schedule stays float64."""
    tensors = {f"network.{k}": v for k, v in network.state_dict().items()}
    told = asdict(replace(facts, continuous=schedule.continuous))
    weights_io.write_weights(
        path, tensors | {"schedule.alpha": schedule.alpha, "schedule.sigma": schedule.sigma}, told, dtype
    )


def read_model(path: Path, sha256: str | None = None) -> tuple[UNet, Schedule, ModelSpec]:
    """What `save_model` wrote; refuses a file that is missing, damaged, or not the one whose sha256 was promised."""
    tensors, facts = weights_io.read_weights(path, sha256, MADE_BY)
    weights = {k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")}
    try:
        known = ModelSpec(**facts)
        network = known.network()
        network.load_state_dict(weights)
        return (
            network,
            Schedule(tensors["schedule.alpha"], tensors["schedule.sigma"], known.continuous),
            known,
        )
    except (TypeError, KeyError, RuntimeError) as error:
        raise weights_io.unreadable_error(path, error, MADE_BY) from None


CAST = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


class TrainedUNet(Denoiser):
    """A UNet asked for the classes that it was trained on; one that was told none knows the null prompt only."""

    def __init__(
        self,
        network: UNet,
        schedule: Schedule,
        facts: ModelSpec,
        device: str = "cpu",
        precision: str = "float32",
        compile: bool = False,
    ) -> None:
        self.shape = (facts.channels, facts.size, facts.size)
        self.schedule, self.range, self.prediction_type = schedule, (facts.low, facts.high), facts.kind
        self.can_sample = facts.timed
        self.classes = tuple(facts.names[: facts.classes])
        self.facts, self.device, self.precision = facts, torch.device(device), getattr(torch, precision)
        self.network = network.to(self.device, memory_format=torch.channels_last).eval().requires_grad_(False)
        for part in self.network.modules():
            if isinstance(part, CAST):
                part.to(self.precision)  # as autocast would, in every forward
        self.ask = torch.compile(self.network) if compile else self.network

    def canonical_prompt(self, prompt: str) -> str:
        return (
            find_class(prompt, self.classes)
            if self.classes
            else null_only(prompt, "was not told classes when it was trained")
        )

    def labels(self, prompts: Sequence[str]) -> Tensor:
        """One-hot rows (R, classes); zero for the null prompt."""
        null = len(self.classes)
        return F.one_hot(torch.tensor([self.classes.index(p) if p else null for p in prompts]), null + 1)[
            :, :null
        ].float()

    @torch.inference_mode()
    def predict(self, x: Tensor, t: float, prompts: Sequence[str]) -> Prediction:
        label = self.labels([self.canonical_prompt(p) for p in prompts]).to(self.device)
        u = torch.full((len(x), 1), self.schedule.time(t), device=self.device, dtype=x.dtype)
        x = x.to(self.device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(
            self.device.type, self.precision, enabled=self.precision in (torch.bfloat16, torch.float16)
        ):
            native = self.ask(x, u, label.to(x.dtype))
        return Prediction(native.to(x.dtype))


def newest_model(folder: str = NEWEST) -> str:
    """The weights of the newest training below `folder` of a UNet that is told classes."""
    found = sorted(
        Path(folder).glob("*/model.safetensors"), key=lambda path: path.stat().st_mtime, reverse=True
    )
    if path := next((path for path in found if knows_classes(path)), None):
        return str(path)
    raise UserError(
        f"No UNet that is told classes has been trained in {folder}. Train one with python -m expkit task=train "
        "trainer=class_conditional, or say where its weights are with model.weights=FILE."
    )


def knows_classes(path: Path) -> bool:
    """Whether a file holds the weights of a UNet that is told classes, and the time."""
    try:
        facts = ModelSpec(**weights_io.read_facts(path, MADE_BY))
    except (UserError, TypeError):
        return False
    return facts.timed and facts.classes > 0


def load_model(
    weights: str = "digits",
    device: str = "auto",
    precision: str = "auto",
    compile: bool = False,
    max_rows: int | None = None,
) -> Denoiser:
    """A trained UNet as a denoiser; weights: a file, or the name of some that ship, whose sha256 is checked against their card."""
    ships = (weights_io.WEIGHTS / f"{weights}.json").is_file()
    path, promised = weights_io.shipped_weights(weights) if ships else (Path(weights), None)
    network, schedule, facts = read_model(path, promised)
    place = device_of(device)
    model = TrainedUNet(
        network, schedule, facts, place, precision_of(precision, place, "model.precision"), compile
    )
    model.weights = promised or sha256(path)
    return ChunkedRows(model, max_rows) if max_rows else model
