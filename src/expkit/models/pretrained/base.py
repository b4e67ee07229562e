"""A network of a repository: loaded when it is first asked, dropped when its memory is wanted for another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from expkit.core.denoiser import ChunkedRows, Denoiser
from expkit.errors import UserError
from expkit.models.pretrained.configs import kind_of, schedule_of
from expkit.storage.devices import device_of, precision_of, release_memory
from expkit.storage.hub import Repository

HAAR = "HaarUNet2DConditionModel"


@dataclass(frozen=True)
class DeviceSpec:
    """Where and how a network runs; "auto" is made a fact by `machine`.

    offload: its layers wait in the CPU's memory, and each is on the device only while it works. compile: torch.compile.
    """

    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    offload: bool = False
    compile: bool = False

    def place(self, module: torch.nn.Module) -> torch.nn.Module:
        module = offload_layers(module, self.device) if self.offload else module.to(self.device)
        return torch.compile(module) if self.compile else module


def machine(
    device: str = "auto", dtype: str = "auto", offload: bool = False, compile: bool = False
) -> DeviceSpec:
    place = device_of(device)
    return DeviceSpec(place, dtype_of(dtype, place), offload, compile)


def network_class(kind: str):
    """The class of this name: diffusers', or ours in its format."""
    import diffusers

    if kind == HAAR:
        from expkit.models.pretrained.haar import HaarUNet2DConditionModel

        return HaarUNet2DConditionModel
    return getattr(diffusers, kind)


def dtype_of(name: str, device: str) -> torch.dtype:
    """Half precision on a GPU, for which the weights are published; elsewhere what the machine has instructions for."""
    return (
        torch.float16
        if name == "auto" and device.startswith("cuda")
        else getattr(torch, precision_of(name, device))
    )


def offload_layers(module: torch.nn.Module, device: str) -> torch.nn.Module:
    try:
        from accelerate import cpu_offload
    except ImportError:
        raise UserError(
            "model.offload=true needs the library accelerate: run `pip install accelerate`, or leave it out."
        ) from None
    return cpu_offload(module, torch.device(device))


class Network:
    """Part `part` of a repository as diffusers' class `kind`. Only its input is cast; what it answers in half precision becomes float32."""

    def __init__(self, repository: Repository, part: str, kind: str, machine: DeviceSpec) -> None:
        self.repository, self.part, self.kind, self.machine = repository, part, kind, machine
        self.variant = repository.variant(
            part, machine.dtype == torch.float16
        )  # refuses where there are no weights
        self.module: torch.nn.Module | None = None
        self.checked = False

    def loaded(self) -> torch.nn.Module:
        if self.module is None:
            self.module = self.machine.place(self.read().eval().requires_grad_(False))
        return self.module

    def read(self) -> torch.nn.Module:
        from diffusers.utils import is_accelerate_available

        return self.repository.load(
            network_class(self.kind),
            variants=[self.variant],
            subfolder=self.repository.where(self.part).rstrip("/") or None,
            torch_dtype=self.machine.dtype,
            use_safetensors=True,
            low_cpu_mem_usage=is_accelerate_available(),
        )

    def check(self) -> None:
        """Refuse files that are damaged, or do not hold what the configuration describes. Nothing is loaded or downloaded."""
        if self.module is not None or self.checked:
            return
        with torch.device("meta"):
            network = network_class(self.kind).from_config(self.repository.config(self.part))
        wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
        self.repository.check_weights(self.part, self.variant, wanted)
        self.checked = True

    def cast(self, x: Tensor) -> Tensor:
        whole = self.kind == HAAR  # casts its input itself, when it has been scaled
        return x.to(self.machine.device, torch.float32 if whole else self.machine.dtype)

    def __call__(self, x: Tensor, *given, **named) -> Tensor:
        module = self.loaded()
        with torch.inference_mode():
            answer = module(self.cast(x), *given, return_dict=False, **named)[0]
        return answer.to(torch.promote_types(answer.dtype, torch.float32))

    def release(self) -> None:
        self.module = None
        release_memory()


class Rows:
    """Prompts as rows of embeddings (R, L, D) where the network wants them; kept from step to step while the prompts are the same."""

    def __init__(self, embeddings, width: int | None, machine: DeviceSpec) -> None:
        self.embeddings, self.width, self.machine = embeddings, width, machine
        self.stacked: Callable[[tuple[str, ...]], Tensor] = lru_cache(maxsize=8)(self.stack)

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        return self.stacked(tuple(prompts))

    def stack(self, prompts: tuple[str, ...]) -> Tensor:
        rows = self.embeddings.rows(prompts)
        self.check(rows.shape[-1])
        return rows.to(self.machine.device, self.machine.dtype)

    def check(self, width: int) -> None:
        """Refuse embeddings that are so wide where the network takes others."""
        if self.width and width != self.width:
            raise UserError(
                f"The embeddings of these prompts are {width} wide, and this model was trained on {self.width}: they come from "
                "another text encoder. Give this model's own with model.encoder=…, or what that has encoded with model.imported=FILE."
            )

    def release(self) -> None:
        self.stacked = lru_cache(maxsize=8)(self.stack)


class Pretrained(Denoiser):
    """What a scheduler's configuration says, and a UNet that is loaded when it is first asked."""

    def __init__(self, repository: Repository, kind: str, machine: DeviceSpec) -> None:
        config = repository.config("scheduler")
        self.schedule, self.prediction_type, self.sample_max_value = (
            schedule_of(config),
            kind_of(config),
            config.get("sample_max_value", 1.0),
        )
        self.learned = config.get("variance_type") == "learned_range"
        self.device, self.network = torch.device(machine.device), Network(repository, "unet", kind, machine)

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
    """A model that is told in words what to show.

    embeddings: `prompts.Embeddings`.
    """

    def __init__(self, repository: Repository, width: int | None, embeddings, machine: DeviceSpec) -> None:
        super().__init__(repository, repository.config("unet")["_class_name"], machine)
        self.embeddings, self.rows = embeddings, Rows(embeddings, width, machine)

    def canonical_prompt(self, prompt: str) -> str:
        return self.embeddings.canonical_prompt(prompt)

    def taken(self, prompts: Iterable[str]) -> list[str]:
        return self.embeddings.taken(prompts)

    def told(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """What a network is told of its rows' prompts."""
        rows = self.rows([self.canonical_prompt(prompt) for prompt in prompts])
        return {"encoder_hidden_states": rows} | (
            {"encoder_attention_mask": (rows != 0).any(-1)} if self.embeddings.padded else {}
        )

    def prepare(self, prompts: Iterable[str]) -> None:
        """Encodes the prompts, where need be, after all that is cheap to check.

        The UNet is loaded afterwards, by the first forward, so that both are never held at once.
        """
        known = [self.canonical_prompt(prompt) for prompt in prompts]
        self.embeddings.prepare(known, self.make_room)
        self.rows.check(self.embeddings(known[0]).shape[-1])
        self.check_weights()

    def make_room(self) -> None:
        """Before an encoder is loaded: let go of the network, and refuse what encoding could not mend."""
        self.network.release()
        for width in self.embeddings.widths:
            self.rows.check(width)
        self.check_weights()

    def release(self) -> None:
        super().release()
        self.rows.release()


def limit_rows(model: Denoiser, max_rows: int | None) -> Denoiser:
    """The model, asked at most so many rows at a time."""
    return ChunkedRows(model, max_rows) if max_rows else model
