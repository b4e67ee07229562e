"""Weights on disk: safetensors files that say what they are, and the model cards of those that ship. Nothing is unpickled."""

from __future__ import annotations

import json
import os
import re
import uuid
from pathlib import Path

import torch
from torch import Tensor

from expkit.errors import UserError
from expkit.storage.files import sha256
from expkit.storage.inputs import WEIGHTS


def cache_folder() -> Path:
    """Where expkit keeps what is dear to make again."""
    if given := os.environ.get("EXPKIT_CACHE"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "expkit"


def write_weights(
    path: Path, tensors: dict[str, Tensor], facts: dict, dtype: torch.dtype = torch.float32
) -> None:
    """Write tensors, those of float32 as `dtype`, and facts, in one move: the file is whole or it is not there."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    kept = {
        k: v.detach().cpu().to(dtype if v.dtype == torch.float32 else v.dtype).contiguous()
        for k, v in tensors.items()
    }
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        save_file(kept, part, metadata={"expkit": json.dumps(facts)})
        part.chmod(0o644)
        os.replace(part, path)
    except (SafetensorError, OSError) as error:
        if number := re.search(r"os error (\d+)", str(error)):  # a full disk, as safetensors says it
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
        raise
    finally:
        part.unlink(missing_ok=True)


def read_weights(path: Path, promised: str | None, made_by: str) -> tuple[dict[str, Tensor], dict]:
    """The tensors and facts of a file that `made_by` has written.

    Raises UserError where it is missing, damaged, or not the one whose sha256 was promised.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(
            f"There are no weights at {path}. Expected a model.safetensors that {made_by} has written."
        )
    if promised and sha256(path) != promised:
        raise UserError(
            f"The weights {path} are damaged: expected the sha256 on their model card ({promised[:12]}…), and theirs is another. "
            f"Install expkit again, or give others that {made_by} has written."
        )
    try:
        with safe_open(path, framework="pt") as file:
            return {k: file.get_tensor(k) for k in file.keys()}, _facts(file)  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise unreadable_error(path, error, made_by) from None


def read_facts(path: Path, made_by: str) -> dict:
    """The facts of a file alone: its tensors stay on the disk."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return _facts(file)
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise unreadable_error(path, error, made_by) from None


def _facts(file) -> dict:
    return json.loads((file.metadata() or {})["expkit"])


def unreadable_error(path: Path, error: Exception, made_by: str) -> UserError:
    reason = str(error).partition("\n")[0]
    return UserError(
        f"The weights {path} cannot be read ({reason}). Expected a model.safetensors that {made_by} has written."
    )


def shipped_weights(name: str) -> tuple[Path, str]:
    """A file of weights that ships with expkit, and the sha256 that its model card promises."""
    return WEIGHTS / f"{name}.safetensors", model_card(name)["sha256"]


def model_card(name: str) -> dict:
    """The model card of weights that ship: how they were made, and how good they are."""
    path = WEIGHTS / f"{name}.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        facts["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"The model card {path} is missing or damaged; it ships with expkit. Install expkit again."
        ) from None
    return facts
