"""UNets that expkit trained, each as one self-describing file.

`model.safetensors` holds the network's tensors under `network.`, its noise schedule as
`schedule.alpha` and `schedule.sigma`, and a `ModelSpec` in its metadata. Nothing is unpickled.
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
    """The metadata of a weights file: the arguments of its network, what it predicts, its classes.

    Attributes:
        hidden, timed, classes, channels, size, norm, product: arguments of `UNet`.
        kind: the prediction type: eps, v, x0 or flow.
        low, high: the range of the image values in training.
        names: the names of the classes.
        continuous: whether the schedule has real-valued levels. Files that lack this entry have
            integer levels.
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
        """The metadata of this network."""
        sizes = (net.hidden, net.timed, net.classes, net.channels, net.size)
        return cls(*sizes, kind, low, high, net.norm, net.product, tuple(names))

    def network(self) -> UNet:
        """A new network with these arguments, without trained weights."""
        sizes = (self.hidden, self.timed, self.classes, self.channels, self.size)
        return UNet(*sizes, self.norm, self.product)


def save_model(
    path: Path, network: UNet, schedule: Schedule, facts: ModelSpec,
    dtype: torch.dtype = torch.float32,
) -> None:  # fmt: skip
    """Write network, schedule and metadata atomically as one file.

    Args:
        path: the file to write.
        network: the trained network.
        schedule: its noise schedule; it stays float64.
        facts: the metadata; `continuous` is taken from the schedule.
        dtype: of the float32 tensors in the file.
    """
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {"schedule.alpha": schedule.alpha, "schedule.sigma": schedule.sigma}
    spec = asdict(replace(facts, continuous=schedule.continuous))
    weights_io.write_weights(path, tensors, spec, dtype)


def read_model(path: Path, sha256: str | None = None) -> tuple[UNet, Schedule, ModelSpec]:
    """Read what `save_model` wrote.

    Args:
        path: the file.
        sha256: the hash that the file must have, or None.

    Raises:
        UserError: the file is missing or damaged, or has another hash.
    """
    tensors, facts = weights_io.read_weights(path, sha256, MADE_BY)
    weights = {
        name.removeprefix("network."): tensor
        for name, tensor in tensors.items()
        if name.startswith("network.")
    }
    try:
        spec = ModelSpec(**facts)
        network = spec.network()
        network.load_state_dict(weights)
        alpha, sigma = tensors["schedule.alpha"], tensors["schedule.sigma"]
        return network, Schedule(alpha, sigma, spec.continuous), spec
    except (TypeError, KeyError, RuntimeError) as error:
        raise weights_io.unreadable_error(path, error, MADE_BY) from None


CAST = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


class TrainedUNet(Denoiser):
    """A UNet as a denoiser; its prompts are its class names and the null prompt.

    Args:
        network: the UNet.
        schedule: the noise schedule that it was trained on.
        facts: the metadata of its weights.
        device: where it runs.
        precision: name of the dtype of its convolutions and linear layers.
        compile: whether to use torch.compile.
    """

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
        self.schedule = schedule
        self.range, self.prediction_type = (facts.low, facts.high), facts.kind
        self.can_sample = facts.timed
        self.classes = tuple(facts.names[: facts.classes])
        self.facts = facts
        self.device, self.precision = torch.device(device), getattr(torch, precision)
        network = network.to(self.device, memory_format=torch.channels_last)
        self.network = network.eval().requires_grad_(False)
        for module in self.network.modules():
            if isinstance(module, CAST):
                module.to(self.precision)  # cast once; autocast would cast in every forward
        self.ask = torch.compile(self.network) if compile else self.network

    def canonical_prompt(self, prompt: str) -> str:
        if self.classes:
            return find_class(prompt, self.classes)
        return null_only(prompt, "was not told classes when it was trained")

    def labels(self, prompts: Sequence[str]) -> Tensor:
        """One-hot rows (R, classes); zero for the null prompt."""
        null = len(self.classes)
        index = [self.classes.index(prompt) if prompt else null for prompt in prompts]
        return F.one_hot(torch.tensor(index), null + 1)[:, :null].float()

    @torch.inference_mode()
    def predict(self, x: Tensor, t: float, prompts: Sequence[str]) -> Prediction:
        label = self.labels([self.canonical_prompt(prompt) for prompt in prompts]).to(self.device)
        time = torch.full((len(x), 1), self.schedule.time(t), device=self.device, dtype=x.dtype)
        x = x.to(self.device).contiguous(memory_format=torch.channels_last)
        half = self.precision in (torch.bfloat16, torch.float16)
        with torch.autocast(self.device.type, self.precision, enabled=half):
            native = self.ask(x, time, label.to(x.dtype))
        return Prediction(native.to(x.dtype))


def newest_model(folder: str = NEWEST) -> str:
    """The weights of the newest class-conditioned UNet that was trained below `folder`.

    Raises:
        UserError: there is none.
    """
    paths = Path(folder).glob("*/model.safetensors")
    for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True):
        if knows_classes(path):
            return str(path)
    raise UserError(
        f"No UNet that is told classes has been trained in {folder}. Train one with "
        "python -m expkit task=train trainer=class_conditional, or say where its weights are with "
        "model.weights=FILE."
    )


def knows_classes(path: Path) -> bool:
    """Whether a file holds the weights of a UNet that is conditioned on time and class."""
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
    """A trained UNet as a denoiser.

    Args:
        weights: a file, or the name of weights that ship with expkit; the sha256 of the latter is
            checked against their model card.
        device: auto, cpu, cuda or mps.
        precision: auto, float32, bfloat16 or float16.
        compile: whether to use torch.compile.
        max_rows: the largest number of rows in one forward; None: no limit.

    Raises:
        UserError: the weights are missing or damaged, or device or precision are not available.
    """
    is_shipped = (weights_io.WEIGHTS / f"{weights}.json").is_file()
    path, card_sha256 = weights_io.shipped_weights(weights) if is_shipped else (Path(weights), None)
    network, schedule, facts = read_model(path, card_sha256)
    device = device_of(device)
    dtype = precision_of(precision, device, "model.precision")
    model = TrainedUNet(network, schedule, facts, device, dtype, compile)
    model.weights = card_sha256 or sha256(path)
    return ChunkedRows(model, max_rows) if max_rows else model
