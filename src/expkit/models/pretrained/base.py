"""Pretrained networks: loaded when first used, released when another needs the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from expkit.core.denoiser import Denoiser
from expkit.errors import UserError
from expkit.models.pretrained.configs import prediction_type_of, schedule_of
from expkit.models.pretrained.inference import prepare_for_inference
from expkit.models.pretrained.light_import import only_what_networks_need
from expkit.storage.compiling import compile_network
from expkit.storage.devices import device_of, precision_of, release_memory
from expkit.storage.hub import Repository

HAAR = "HaarUNet2DConditionModel"
# Where the configuration of a network says how wide the tokens are that it takes: the first of these.
WIDTHS = ("encoder_hid_dim", "caption_channels", "joint_attention_dim", "cross_attention_dim")


@dataclass(frozen=True)
class DeviceSpec:
    """Where and how a network runs; `device_spec` resolves "auto".

    Attributes:
        device: the device's name.
        dtype: of the weights and of the network's input.
        offload: whether layers stay in the CPU's memory and move to the device only while they run.
        compile: whether to use torch.compile.
    """

    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    offload: bool = False
    compile: bool = False

    def place(self, module: torch.nn.Module) -> torch.nn.Module:
        """The module on the device, offloaded or compiled as specified."""
        module = offload_layers(module, self.device) if self.offload else module.to(self.device)
        if self.compile:
            compile_network(module)
        return module


def device_spec(
    device: str = "auto", dtype: str = "auto", offload: bool = False, compile: bool = False
) -> DeviceSpec:
    """The `DeviceSpec` for these settings.

    Args:
        device: auto, cpu, cuda or mps.
        dtype: auto, float32, bfloat16 or float16. On CUDA auto is float16; elsewhere bfloat16 if
            the hardware has instructions for it, else float32.
        offload: whether layers stay in the CPU's memory while they do not run; needs accelerate.
        compile: whether to use torch.compile.

    Raises:
        UserError: the device is not available, or the dtype is unknown.
    """
    device = device_of(device)
    return DeviceSpec(device, dtype_of(dtype, device), offload, compile)


def network_class(kind: str):
    """The class of this name: from diffusers, or expkit's own class in diffusers' format."""
    import diffusers

    if kind == HAAR:
        from expkit.models.pretrained.haar import HaarUNet2DConditionModel

        return HaarUNet2DConditionModel
    return getattr(diffusers, kind)


def dtype_of(name: str, device: str) -> torch.dtype:
    """The dtype of this name; "auto" on CUDA is float16, in which the weights are published."""
    if name == "auto" and device.startswith("cuda"):
        return torch.float16
    return getattr(torch, precision_of(name, device))


def offload_layers(module: torch.nn.Module, device: str) -> torch.nn.Module:
    """The module with its layers offloaded to the CPU's memory by accelerate."""
    try:
        from accelerate import cpu_offload
    except ImportError:
        raise UserError(
            "model.offload=true needs the library accelerate: run `pip install accelerate`, "
            "or leave it out."
        ) from None  # fmt: skip
    return cpu_offload(module, torch.device(device))


class RandomOnCPU(TorchFunctionMode):
    """Within it, torch.randn ignores the default device: on "meta" it would import sympy."""

    def __torch_function__(self, func, types, args=(), kwargs=None) -> Any:
        given = dict(kwargs or {})
        if func is torch.randn:
            given.setdefault("device", "cpu")
        return func(*args, **given)


class LoadedNetwork:
    """One network of a repository, loaded at its first call.

    Its first input is cast to the network's dtype; an output in half precision becomes float32.

    Args:
        repository: where the weights are.
        part: the part of the repository, such as "unet" or "vae".
        kind: name of the network's class, in diffusers or `HAAR`.
        machine: where and how it runs.
    """

    def __init__(self, repository: Repository, part: str, kind: str, machine: DeviceSpec) -> None:
        self.repository, self.part, self.kind, self.machine = repository, part, kind, machine
        self.weights = repository.weights(part)
        # Raises UserError if the repository has no weights.
        self.variant = self.weights.choose_variant(machine.dtype == torch.float16)
        self.module: torch.nn.Module | None = None
        self.checked = False

    def loaded(self) -> torch.nn.Module:
        """The network on its device, in evaluation mode and without gradients."""
        if self.module is None:
            network = self.read().eval().requires_grad_(False)
            machine = self.machine
            prepare_for_inference(network, machine.device, machine.dtype)
            self.module = machine.place(network)
        return self.module

    def imports(self) -> AbstractContextManager[None]:
        """Within it, a network that will not be compiled is imported in half the time."""
        return nullcontext() if self.machine.compile else only_what_networks_need()

    def read(self) -> torch.nn.Module:
        """The network as from_pretrained loads it."""
        with self.imports():
            kind = network_class(self.kind)
        from diffusers.utils import is_accelerate_available

        return self.repository.load(
            kind,
            variants=[self.variant],
            subfolder=self.weights.subfolder,
            torch_dtype=self.machine.dtype,
            use_safetensors=True,
            low_cpu_mem_usage=is_accelerate_available(),
        )

    def check(self) -> None:
        """Raise UserError if the files are damaged or do not match the configuration.

        Nothing is loaded or downloaded.
        """
        if self.module is not None or self.checked:
            return
        network = self.without_weights()
        shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
        self.weights.check(self.variant, shapes)
        self.checked = True

    def without_weights(self) -> torch.nn.Module:
        """The network that the configuration describes, on the device "meta".

        Raises:
            UserError: diffusers makes no network of this configuration.
        """
        config = self.repository.config(self.part)
        with self.imports(), torch.device("meta"), RandomOnCPU():
            kind: Any = network_class(self.kind)
            try:
                return kind.from_config(config)
            except (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError) as error:
                file = f"{self.part}/config.json"
                raise self.repository.errors.wrong_config(file, error) from None

    def cast(self, x: Tensor) -> Tensor:
        """x on the network's device and in its dtype."""
        # The Haar network takes float32: it scales its input and then casts it itself.
        dtype = torch.float32 if self.kind == HAAR else self.machine.dtype
        return x.to(self.machine.device, dtype)

    def __call__(self, x: Tensor, *given, **named) -> Tensor:
        module = self.loaded()
        with torch.inference_mode():
            output = module(self.cast(x), *given, return_dict=False, **named)[0]
        return output.to(torch.promote_types(output.dtype, torch.float32))

    def release(self) -> None:
        """Drop the network and free its memory."""
        self.module = None
        release_memory()


class Conditions:
    """Maps prompts to the tensors of their rows, on the network's device and in its dtype.

    They are cached, because the steps of a run use the same prompts.

    Args:
        embeddings: a `prompt_embeddings.Embeddings`.
        width: D of the tokens that the network takes; None: any.
        machine: device and dtype. What is not floating point keeps its dtype.
        needs: the names of the tensors that the network takes.
        pooled_width: P of the pooled text that the network takes; None: any.
    """

    def __init__(
        self, embeddings, width: int | None, machine: DeviceSpec, needs: Sequence[str] = ("tokens",),
        pooled_width: int | None = None,
    ) -> None:  # fmt: skip
        self.embeddings, self.width, self.machine, self.needs = embeddings, width, machine, needs
        self.pooled_width = pooled_width
        self.stacked: Callable[[tuple[str, ...]], dict[str, Tensor]]
        self.release()

    def __call__(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        return self.stacked(tuple(prompts))

    def stack(self, prompts: tuple[str, ...]) -> dict[str, Tensor]:
        """The tensors of the rows of these prompts, without the cache."""
        rows = self.embeddings.conditions(prompts)
        self.check(rows)
        return {name: self.place(values) for name, values in rows.items()}

    def place(self, values: Tensor) -> Tensor:
        """The tensor on the network's device, in its dtype if it is floating point."""
        dtype = self.machine.dtype if values.is_floating_point() else values.dtype
        return values.to(self.machine.device, dtype)

    def check(self, rows: Mapping[str, Tensor]) -> None:
        """Raise UserError if a tensor is missing, or is not as wide as it must be."""
        if missing := [name for name in self.needs if name not in rows]:
            raise UserError(
                f"The embeddings of these prompts are without {' and '.join(missing)}, which this "
                "model takes: they come from another text encoder. Leave model.imported out, or "
                "give what task=embed has written with this model."
            )
        self.check_width(rows["tokens"].shape[-1])
        if self.pooled_width and "pooled" in rows:
            self.check_width(rows["pooled"].shape[-1], self.pooled_width, "The pooled embeddings")

    def check_width(
        self, width: int, wanted: int | None = None, what: str = "The embeddings"
    ) -> None:  # fmt: skip
        """Raise UserError if the network does not take `what` of this width.

        wanted: the width that it takes; None: that of its tokens.
        """
        wanted = wanted or self.width
        if wanted and width != wanted:
            raise UserError(
                f"{what} of these prompts are {width} wide, and this model was trained on "
                f"{wanted}: they come from another text encoder. Give this model's own with "
                "model.encoder=…, or what that has encoded with model.imported=FILE."
            )

    def release(self) -> None:
        """Empty the cache."""
        self.stacked = lru_cache(maxsize=8)(self.stack)


class Pretrained(Denoiser):
    """A network in diffusers' format, with the schedule and prediction type of its configuration.

    Args:
        repository: the model.
        kind: name of the network's class.
        machine: where and how it runs.
        part: the folder of the network: "unet" or "transformer".
    """

    def __init__(
        self, repository: Repository, kind: str, machine: DeviceSpec, part: str = "unet"
    ) -> None:  # fmt: skip
        config = repository.config("scheduler")
        self.schedule, self.prediction_type = schedule_of(config), prediction_type_of(config)
        self.sample_max_value = config.get("sample_max_value", 1.0)
        self.learns_variance = config.get("variance_type") == "learned_range"
        self.device = torch.device(machine.device)
        self.network = LoadedNetwork(repository, part, kind, machine)

    @cached_property
    def weights(self) -> str:
        return self.network.repository.revision([self.network.part])

    def prepare(self, prompts: Iterable[str]) -> None:
        super().prepare(prompts)
        self.check_weights()

    def check_weights(self) -> None:
        self.network.check()

    def release(self) -> None:
        self.network.release()


class TextConditioned(Pretrained):
    """A model that is conditioned on texts.

    Args:
        repository: the model.
        config: the configuration of its network.
        embeddings: a `prompt_embeddings.Embeddings`; None if the model reads no text.
        machine: where and how it runs.
        part: the folder of the network.
        needs: the names of the tensors of a condition.
    """

    def __init__(
        self, repository: Repository, config: Mapping[str, Any], embeddings, machine: DeviceSpec,
        part: str = "unet", needs: Sequence[str] = ("tokens",),
    ) -> None:  # fmt: skip
        super().__init__(repository, config["_class_name"], machine, part)
        self.embeddings: Any = embeddings
        pooled_width = config.get("pooled_projection_dim")
        self.conditions = Conditions(embeddings, width_of(config), machine, needs, pooled_width)

    def canonical_prompt(self, prompt: str) -> str:
        return self.embeddings.canonical_prompt(prompt)

    def substitutions(self, prompts: Iterable[str]) -> list[str]:
        return self.embeddings.substitutions(prompts) if self.embeddings else []

    def prepare(self, prompts: Iterable[str]) -> None:
        """Encode the prompts that have no condition yet, after all cheap checks.

        The first forward loads the network, so encoders and network are never in memory together.
        """
        texts = [self.canonical_prompt(prompt) for prompt in prompts]
        if self.embeddings:
            self.embeddings.prepare(texts, self.make_room)
            self.conditions.check(self.embeddings.conditions(texts[:1]))
        self.check_weights()

    def make_room(self) -> None:
        """Before encoders are loaded: release the networks, and check what needs no encoding."""
        self.release()
        self.check_weights()

    def release(self) -> None:
        super().release()
        self.conditions.release()


def width_of(config: Mapping[str, Any]) -> int | None:
    """The width of the tokens that a network takes, by its configuration; None: unknown."""
    widths = (config.get(key) for key in WIDTHS)
    return next((width for width in widths if isinstance(width, int)), None)
