"""UNets that expkit trained, each as one self-describing file.

`model.safetensors` holds the network's tensors under `network.`, its noise schedule as
`schedule.alpha` and `schedule.sigma`, and a `ModelSpec` in its metadata. Nothing is unpickled.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expkit.config import addresses
from expkit.core.denoiser import Denoiser, Prediction, limit_rows
from expkit.core.schedules import Schedule
from expkit.errors import UserError
from expkit.models.unets import Network
from expkit.storage import weights_io
from expkit.storage.compiling import compile_network
from expkit.storage.devices import device_of, precision_of
from expkit.storage.files import sha256
from expkit.storage.inputs import NEWEST
from expkit.text.class_names import DIGITS, find_class, null_only

MADE_BY = "task=train"
UNET_ARGUMENTS = ("hidden", "timed", "classes", "channels", "size", "norm", "product")


@dataclass(frozen=True)
class ModelSpec:
    """The metadata of a weights file: what builds its network again, what it predicts, its classes.

    Attributes:
        network: the address of the network's class, a subclass of `Network`.
        arguments: the arguments of its constructor.
        kind: the prediction type: eps, v, x0 or flow.
        low, high: the range of the image values in training.
        names: the names of the classes.
        continuous: whether the schedule has real-valued levels.
    """

    network: str
    arguments: Mapping[str, Any]
    kind: str
    low: float
    high: float
    names: Sequence[str] = DIGITS
    continuous: bool = False

    @classmethod
    def of(
        cls, net: Network, kind: str, low: float, high: float, names: Sequence[str],
    ) -> ModelSpec:  # fmt: skip
        """The metadata of this network."""
        address = f"{type(net).__module__}.{type(net).__qualname__}"
        return cls(address, dict(net.arguments), kind, low, high, tuple(names))

    @classmethod
    def read(cls, metadata: Mapping[str, Any]) -> ModelSpec:
        """The metadata of a file. Older files list the arguments of `UNet` beside the rest.

        Raises:
            TypeError: an entry is missing or unknown.
        """
        if "arguments" in metadata:
            return cls(**metadata)
        arguments = {key: metadata[key] for key in UNET_ARGUMENTS if key in metadata}
        others = {key: metadata[key] for key in metadata if key not in arguments}
        return cls("expkit.models.UNet", arguments, **others)

    def build(self) -> Network:
        """A new network with these arguments, without trained weights.

        Raises:
            UserError: the address names no class that is a `Network`; nothing else is called.
        """
        # a network of one's own need not be among the names of `expkit.models`
        candidates = (addresses.current_address(self.network), self.network)
        network = next(filter(None, map(find_object, candidates)), None)
        if not (isinstance(network, type) and issubclass(network, Network)):
            raise UserError(
                f"These weights are of a network {self.network}, and there is none of that name: "
                "install what defines it. It must be a subclass of expkit.models.Network."
            )
        return network(**self.arguments)


def find_object(address: str) -> Any:
    """What an import path names; None if there is none of that name."""
    module, _, name = address.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return None


def save_model(
    path: Path, network: Network, schedule: Schedule, spec: ModelSpec,
    dtype: torch.dtype = torch.float32,
) -> None:  # fmt: skip
    """Write network, schedule and metadata atomically as one file.

    Args:
        path: the file to write.
        network: the trained network.
        schedule: its noise schedule; it stays float64.
        spec: the metadata; `continuous` is taken from the schedule.
        dtype: of the float32 tensors in the file.
    """
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {"schedule.alpha": schedule.alpha, "schedule.sigma": schedule.sigma}
    metadata = asdict(replace(spec, continuous=schedule.continuous))
    weights_io.write_weights(path, tensors, metadata, dtype)


def read_model(path: Path, sha256: str | None = None) -> tuple[Network, Schedule, ModelSpec]:
    """Read what `save_model` wrote.

    Args:
        path: the file.
        sha256: the hash that the file must have, or None.

    Raises:
        UserError: the file is missing or damaged, or has another hash.
    """
    tensors, metadata = weights_io.read_weights(path, sha256, MADE_BY)
    weights = {
        name.removeprefix("network."): tensor
        for name, tensor in tensors.items()
        if name.startswith("network.")
    }
    try:
        spec = ModelSpec.read(metadata)
        network = spec.build()
        network.load_state_dict(weights)
        alpha, sigma = tensors["schedule.alpha"], tensors["schedule.sigma"]
        return network, Schedule(alpha, sigma, spec.continuous), spec
    except (TypeError, KeyError, RuntimeError) as error:
        raise weights_io.unreadable_weights_error(path, error, MADE_BY) from None


CAST = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


class TrainedUNet(Denoiser):
    """A trained network as a denoiser; its prompts are its class names and the null prompt.

    Args:
        network: the network.
        schedule: the noise schedule that it was trained on.
        spec: the metadata of its weights.
        device: where it runs.
        precision: name of the dtype of its convolutions and linear layers.
        compile: whether to use torch.compile.
    """

    def __init__(
        self,
        network: Network,
        schedule: Schedule,
        spec: ModelSpec,
        device: str = "cpu",
        precision: str = "float32",
        compile: bool = False,
    ) -> None:
        self.shape = (network.channels, network.size, network.size)
        self.schedule = schedule
        self.range, self.prediction_type = (spec.low, spec.high), spec.kind
        self.can_sample = network.timed
        self.class_prompts = tuple(spec.names[: network.classes])
        self.spec = spec
        self.device, self.precision = torch.device(device), getattr(torch, precision)
        self.network = network.to(self.device).eval().requires_grad_(False)
        fast: Any = self.network.for_inference()  # torch's stubs have no call with a format alone
        self.ask = fast.requires_grad_(False).to(memory_format=torch.channels_last)
        for module in self.ask.modules():
            if isinstance(module, CAST):
                module.to(self.precision)  # cast once; autocast would cast in every forward
        if compile:
            compile_network(self.ask)
        self.label_rows: Callable[[tuple[str, ...]], Tensor] = lru_cache(maxsize=8)(self.labels)

    def canonical_prompt(self, prompt: str) -> str:
        if self.class_prompts:
            return find_class(prompt, self.class_prompts)
        return null_only(prompt, "was not told classes when it was trained")

    def labels(self, prompts: Sequence[str]) -> Tensor:
        """One-hot rows (R, classes); zero for the null prompt."""
        null = len(self.class_prompts)
        index = [self.class_prompts.index(prompt) if prompt else null for prompt in prompts]
        return F.one_hot(torch.tensor(index), null + 1)[:, :null].float().to(self.device)

    @torch.inference_mode()
    def predict(self, x: Tensor, t: float, prompts: Sequence[str]) -> Prediction:
        label = self.label_rows(tuple(self.canonical_prompt(prompt) for prompt in prompts))
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
        with torch.device("meta"):
            network = ModelSpec.read(weights_io.read_facts(path, MADE_BY)).build()
    except (UserError, TypeError):
        return False
    return network.timed and network.classes > 0


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
    network, schedule, spec = read_model(path, card_sha256)
    device = device_of(device)
    dtype = precision_of(precision, device, "model.precision")
    model = TrainedUNet(network, schedule, spec, device, dtype, compile)
    model.weights = card_sha256 or sha256(path)
    return limit_rows(model, max_rows)
