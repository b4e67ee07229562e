"""Read and write safetensors files with metadata, and model cards. Nothing is unpickled."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import torch
from torch import Tensor

from expkit.errors import UserError
from expkit.storage.files import atomic_write, sha256
from expkit.storage.inputs import WEIGHTS


def cache_folder() -> Path:
    """The folder for results that are expensive to compute again."""
    if folder := os.environ.get("EXPKIT_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "expkit"


def write_weights(
    path: Path, tensors: dict[str, Tensor], facts: dict, dtype: torch.dtype = torch.float32
) -> None:
    """Write tensors and metadata atomically: the file is complete or absent.

    Args:
        path: The safetensors file.
        tensors: Tensors by name. Those of float32 are written as `dtype`.
        facts: Metadata, stored in the file as JSON.
        dtype: The dtype on disk of float32 tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    converted = {}
    for name, tensor in tensors.items():
        target = dtype if tensor.dtype == torch.float32 else tensor.dtype
        converted[name] = tensor.detach().cpu().to(target).contiguous()

    def write(temporary: Path) -> None:
        save_file(converted, temporary, metadata={"expkit": json.dumps(facts)})
        temporary.chmod(0o644)

    try:
        atomic_write(path, write)
    except (SafetensorError, OSError) as error:
        # safetensors reports a full disk as text that contains the error number
        if number := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
        raise


def read_weights(
    path: Path,
    expected_sha256: str | None,
    made_by: str,
) -> tuple[dict[str, Tensor], dict]:
    """The tensors and metadata of a file that `write_weights` wrote.

    Args:
        path: The safetensors file.
        expected_sha256: The expected SHA-256, or None to skip the check.
        made_by: The command that writes such files, for messages.

    Raises:
        UserError: The file is missing or damaged, or its SHA-256 is not the expected one.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        expected = f"a model.safetensors that {made_by} has written"
        raise UserError(f"There are no weights at {path}. Expected {expected}.")
    if expected_sha256 and sha256(path) != expected_sha256:
        raise UserError(
            f"The weights {path} are damaged: expected the sha256 on their model card "
            f"({expected_sha256[:12]}…), and theirs is another. "
            f"Install expkit again, or give others that {made_by} has written."
        )
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, _read_metadata(file)
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise unreadable_weights_error(path, error, made_by) from None


def read_facts(path: Path, made_by: str) -> dict:
    """The metadata of a weights file. Tensors are not loaded."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return _read_metadata(file)
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise unreadable_weights_error(path, error, made_by) from None


def _read_metadata(file) -> dict:
    return json.loads((file.metadata() or {})["expkit"])


def unreadable_weights_error(path: Path, error: Exception, made_by: str) -> UserError:
    reason = str(error).partition("\n")[0]
    return UserError(
        f"The weights {path} cannot be read ({reason}). "
        f"Expected a model.safetensors that {made_by} has written."
    )


def shipped_weights(name: str) -> tuple[Path, str]:
    """The path of weights that ship with expkit, and the SHA-256 on their model card."""
    return WEIGHTS / f"{name}.safetensors", model_card(name)["sha256"]


def model_card(name: str) -> dict:
    """The model card of weights that ship with expkit: how they were made, and how good they are.

    Raises:
        UserError: The card is missing or damaged.
    """
    path = WEIGHTS / f"{name}.json"
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        card["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        problem = f"The model card {path} is missing or damaged; it ships with expkit."
        raise UserError(f"{problem} Install expkit again.") from None
    return card
