"""Errors about a pretrained repository as sentences: what is wrong, and what to try."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from expkit.errors import UserError

LOGIN = "hf auth login"
HOST = "huggingface.co"


@dataclass(frozen=True)
class RepositoryErrors:
    """The errors about one repository. The methods return them; only `explained` raises.

    Attributes:
        name: The folder or id.
        key: The configuration key that names it.
        holds: The files that it must contain.
        instead: An alternative to suggest.
    """

    name: str
    key: str
    holds: str
    instead: str

    @property
    def advice(self) -> str:
        return f"Give a folder with {self.key}=FOLDER, or try {self.instead}."

    def no_folder(self) -> UserError:
        return UserError(
            f"There is no folder {self.name}. Expected one that save_pretrained has written "
            f"({self.holds}), or a repository of "
            f"{HOST} such as DeepFloyd/IF-I-M-v1.0. {self.advice}"
        )

    def single_file(self) -> UserError:
        """The error for a file with all weights in it, such as a checkpoint of ComfyUI's."""
        return UserError(
            f"{self.name} is a single file, and expkit reads folders of diffusers. Make one of it, "
            "once, in Python, with the pipeline of its family: "
            f'StableDiffusionXLPipeline.from_single_file("{self.name}").save_pretrained("FOLDER"), '
            f"and give that with {self.key}=FOLDER."
        )

    def no_index(self) -> UserError:
        """The error for a repository that does not say which pipeline it is."""
        return UserError(
            f"{self.name} has no model_index.json, which says what pipeline of diffusers it is. "
            "Expected the folder that a pipeline's save_pretrained has written, with "
            f"model_index.json, scheduler/, and unet/ or transformer/ in it. {self.advice}"
        )

    def no_part(self, config_name: str) -> UserError:
        """The error for a part without a configuration file, such as unet/config.json."""
        return UserError(
            f"{self.name} is not a model in diffusers' format that expkit can ask: "
            f"it has no {config_name}. "
            "Expected what a pipeline's save_pretrained writes: model_index.json, and a folder with its "
            f"configuration for each part, such as {config_name}. {self.advice}"
        )

    def no_weights(
        self, part: str, file: str = "diffusion_pytorch_model.safetensors"
    ) -> UserError:  # fmt: skip
        """The error for a part without weights in the safetensors format."""
        return UserError(
            f"{self.name} has no weights in {part}/ as safetensors, and expkit unpickles nothing. "
            f"Expected {part}/{file}, "
            f"which diffusers' save_pretrained writes. {self.advice}"
        )

    def damaged_config(self, path: object, error: Exception) -> UserError:
        """The error for a configuration file that is no JSON; one of the cache may be deleted."""
        again = "delete that file, and run the command again"
        if Path(self.name).expanduser().is_dir():
            again = "copy or download that file anew"
        return UserError(f"{path} cannot be read ({error}). Get {self.name} again: {again}.")

    def no_pipeline(self) -> UserError:
        """The error for a model_index.json that names no pipeline."""
        return UserError(
            f"The model_index.json of {self.name} names no pipeline of diffusers: expected "
            f'"_class_name": "StableDiffusionPipeline", or another one. {self.advice}'
        )

    def wrong_config(self, file: str, error: Exception) -> UserError:
        """The error for a configuration of which no network or schedule can be made."""
        return UserError(
            f"{file} of {self.name} is not a configuration that diffusers takes "
            f"({first_line(error)}). Copy or download that file anew. {self.advice}"
        )

    def damaged_weights(self, path: object, error: Exception) -> UserError:
        """The error for a weights file that is truncated, or something else."""
        return UserError(
            f"{self.name} cannot be loaded: {path} is damaged or was not downloaded to its end "
            f"({first_line(error)}). Get that file again. {self.advice}"
        )

    def no_licence(self) -> UserError:
        from huggingface_hub import get_token

        reason = "nobody is logged in here"
        if get_token():
            reason = "the account that is logged in here has not"
        return UserError(
            f"{self.name} is given out only to those who have accepted its licence, and {reason}. "
            f"Accept it at https://{HOST}/{self.name}, "
            f"then run `{LOGIN}` and this command again. {self.advice}"
        )

    def not_on_hub(self) -> UserError:
        return UserError(
            f"There is no repository {self.name} on {HOST} that you may see, "
            "and no folder of that name here. "
            f"Check the name; if it is a private one, run `{LOGIN}`. {self.advice}"
        )

    def unavailable(self, why: str) -> UserError:
        """The error for files that are not on this machine and cannot be downloaded."""
        return UserError(
            f"{self.name} is not, or not wholly, on this machine, and {why}. "
            f"Run this command again online. {self.advice}"
        )

    def not_loaded(self, error: BaseException) -> UserError:
        """The sentence for an error of any type that was raised while it was loaded."""
        from huggingface_hub import errors

        no_access = (
            errors.LocalEntryNotFoundError,
            errors.OfflineModeIsEnabled,
            ConnectionError,
            socket.gaierror,
        )
        causes = list(exception_chain(error))
        if any(isinstance(cause, errors.GatedRepoError) for cause in causes):
            return self.no_licence()
        if any(isinstance(cause, errors.RepositoryNotFoundError) for cause in causes):
            return self.not_on_hub()
        if any(isinstance(cause, no_access) for cause in causes):
            return self.unavailable(f"{HOST} cannot be reached")
        return UserError(f"{self.name} cannot be loaded ({first_line(error)}). {self.advice}")

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn the errors of huggingface_hub into UserError."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            raise self.not_loaded(error) from None


def exception_chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, followed by its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def first_line(error: BaseException) -> str:
    lines = (line.strip().rstrip(".") for line in str(error).splitlines() if line.strip())
    return next(lines, type(error).__name__)
