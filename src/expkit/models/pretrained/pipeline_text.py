"""The text encoders of a pipeline of diffusers, as its own encode_prompt uses them."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any, ClassVar

import torch
from torch import Tensor

from expkit.errors import UserError
from expkit.models.pretrained.families import family_of
from expkit.models.pretrained.families.family import Family
from expkit.storage import devices
from expkit.storage.hub import Repository
from expkit.text.embedding_store import Embedding, Entry
from expkit.text.encoders import (
    AT_ONCE,
    Encoder,
    check_complete,
    check_finite,
    check_tokenizer,
)

TEXT_PARTS = ("tokenizer", "text_encoder")  # how the names of a pipeline's parts for text start
SMALL = "CLIP"  # in the class names of encoders that are not worth quantising


@dataclass(frozen=True)
class PipelineText(Encoder):
    """Encodes texts by `encode_prompt` of the pipeline in a folder or repository.

    The pipeline is loaded with its text encoders and tokenizers only, and freed after each use.
    Encoders that the model has left out (SD3 without T5) are treated as the pipeline does.

    Attributes:
        weights: a folder or an id of huggingface.co with a model_index.json.
        quantize: whether large encoders are loaded in 8 bit; needs bitsandbytes.
    """

    quantize: bool = False
    model: ClassVar[str] = "diffusers"

    @cached_property
    def repository(self) -> Repository:
        return Repository(str(self.weights), "model.encoder", "model_index.json, tokenizer/, text_encoder/")

    @cached_property
    def family(self) -> type[Family]:
        """The family of the pipeline.

        Raises:
            UserError: it is unknown, reads no text, or a text encoder that it needs is missing.
        """
        family = family_of(self.repository)
        if not family.reads_text:
            raise UserError(
                f"{self.weights} is a {self.pipeline_class}, which reads no text: it has nothing to encode."
            )
        if missing := [name for name in family.encoders if name not in self.parts]:
            raise UserError(
                f"{self.weights} has no {' and no '.join(missing)}, and a {self.pipeline_class} "
                "encodes no prompt without. Give a whole one with model.encoder=FOLDER, or encoded "
                "prompts with model.imported=FILE."
            )
        return family

    @property
    def pipeline_class(self) -> str:
        """The class name of the pipeline."""
        return str(self.repository.index.get("_class_name"))

    @cached_property
    def text_parts(self) -> dict[str, str]:
        """The class of each text encoder and tokenizer that the model has; tokenizers first."""
        index = self.repository.index
        kinds = {name: kind[1] for name, kind in index.items() if isinstance(kind, list)}
        return {
            name: kind
            for start in TEXT_PARTS
            for name, kind in kinds.items()
            if name.startswith(start) and kind
        }

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.text_parts)

    @property
    def at_hand(self) -> bool:
        try:
            return self.repository.at_hand(self.parts, self.revision)
        except UserError:  # no folder, or an id that cannot be reached
            return False

    @property
    def name(self) -> str:
        return f"{self.repository.called}{self.manner}"

    @cached_property
    def manner(self) -> str:
        """What a `Provenance` says of how texts are encoded."""
        return f", {self.pipeline_class}" + (", 8 bit" if self.quantize else "")

    def may_have_made(self, entry: Entry) -> bool:
        """Without its model_index.json nothing is known of the pipeline: then no embedding is its."""
        try:
            return super().may_have_made(entry)
        except UserError:
            return False

    @cached_property
    def commit(self) -> str:
        """The commit of the repository, or a hash of the folders for text and of the index."""
        commit = self.repository.revision(self.parts, self.revision)
        if not self.repository.path.is_dir():
            return commit
        index = json.dumps([commit, self.repository.index], sort_keys=True)
        return hashlib.sha256(index.encode()).hexdigest()

    @cached_property
    def longest(self) -> tuple[str, int]:
        """The tokenizer that reads most of a text, and how many tokens it reads."""
        name, length = self.family.longest(self.parts)
        if length is None:
            length = self.repository.config(name)["model_max_length"]
        return name, int(length)

    @property
    def length(self) -> int:
        return self.longest[1]

    def normal(self, text: str) -> str:
        return text

    @torch.no_grad()
    def embeddings(self, texts: Sequence[str]) -> list[Embedding]:
        embeddings = []
        with self.loaded() as pipeline:
            for start in range(0, len(texts), AT_ONCE):
                chunk = texts[start : start + AT_ONCE]
                rows = self.family.encode_prompts(pipeline, chunk)
                rows = {name: self.checked(values) for name, values in rows.items()}
                for i, text in enumerate(chunk):
                    tensors = {name: values[i].clone() for name, values in rows.items()}
                    embeddings.append(self.embedding(pipeline, text, tensors))
        return embeddings

    def checked(self, values: Tensor) -> Tensor:
        """The tensor on the CPU, in the encoder's dtype if it is floating point."""
        if not values.is_floating_point():
            return values.cpu()
        return check_finite(values.to("cpu", getattr(torch, self.precision)), self.weights)

    def embedding(self, pipeline: Any, text: str, tensors: dict[str, Tensor]) -> Embedding:
        """The embedding of a text that has these tensors."""
        name, most = self.longest
        tokenizer = getattr(pipeline, name)
        ids = tokenizer(text, verbose=False).input_ids
        cut = tokenizer.decode(ids[most - 1 : -1]) if len(ids) > most else ""
        values = tensors.pop("tokens")
        length, width = values.shape
        entry = Entry(text, self.provenance, (length, width), len(ids), cut)
        return Embedding(entry, values, tensors)

    @contextmanager
    def loaded(self) -> Iterator[Any]:
        """The pipeline with its text encoders and tokenizers; they are freed at the end."""
        self.family  # noqa: B018  # one that is unknown or reads no text is refused here
        how = self.quantization if self.quantize else {}
        with quietly():
            import diffusers

            kind = getattr(diffusers, self.pipeline_class)
            given = self.left_out(kind) | {name: self.encoder(name, how) for name in self.encoders}
            pipeline = self.repository.load(kind, self.commit, use_safetensors=True, **given)
            try:
                self.check_tokenizers(pipeline)
                yield pipeline
            finally:
                del pipeline, given
                devices.release_memory()

    def left_out(self, kind: type) -> dict[str, Any]:
        """The arguments of a pipeline's class for all that is not for text: None."""
        parameters = inspect.signature(kind.__init__).parameters.values()
        components = {name for name, of in self.repository.index.items() if isinstance(of, list)}
        arguments: dict[str, Any] = {
            one.name: None
            for one in parameters
            if one.name not in ("self", *self.text_parts)
            and (one.name in components or one.default is one.empty)
        }
        checks = "requires_safety_checker"  # a warning, if there is no checker
        return arguments | ({checks: False} if checks in {one.name for one in parameters} else {})

    @property
    def encoders(self) -> list[str]:
        """The names of the text encoders that the model has."""
        return [name for name in self.text_parts if name.startswith("text_encoder")]

    def encoder(self, name: str, how: dict[str, Any]) -> Any:
        """A text encoder on its device; `how` are the arguments that quantise a large one.

        Raises:
            UserError: weights are missing: wrong embeddings would stay in the store.
        """
        import transformers

        kind, dtype = self.text_parts[name], getattr(torch, self.precision)
        if kind not in dir(transformers):
            raise UserError(
                f"The model_index.json of {self.weights} says that {name} is a {kind}, and the "
                f"transformers that is here ({transformers.__version__}) has none: update it with "
                "`pip install -U transformers`, or give another pipeline with model.encoder=FOLDER."
            )
        self.check_safetensors(name)
        more = {} if SMALL in kind else how
        network, info = self.repository.load(
            getattr(transformers, kind), self.commit, variants=self.variants, subfolder=name,
            dtype=dtype, use_safetensors=True, output_loading_info=True, **more,
        )  # fmt: skip
        check_complete(info, self.repository.errors)
        return network.eval() if more else network.to(devices.device_of(self.device)).eval()

    def check_safetensors(self, name: str) -> None:
        """Raise UserError if a text encoder in a folder has its weights in other files only."""
        folder = self.repository.path / name
        if folder.is_dir() and not any(folder.glob("*.safetensors")):
            raise self.repository.errors.no_weights(name, "model.safetensors")

    @property
    def variants(self) -> tuple[str | None, ...]:
        """The variants of the weights in the order of preference, as diffusers names them."""
        return ("fp16", None) if self.precision == "float16" else (None, "fp16")

    @property
    def quantization(self) -> dict[str, Any]:
        """The arguments of from_pretrained for weights in 8 bit.

        Raises:
            UserError: bitsandbytes or accelerate is not installed.
        """
        if missing := [name for name in ("bitsandbytes", "accelerate") if not find_spec(name)]:
            raise UserError(
                f"model.quantize_text=true needs what is not here: run `pip install "
                f"{' '.join(missing)}`, or leave it out."
            )
        from transformers import BitsAndBytesConfig

        device = devices.device_of(self.device)
        return {
            "quantization_config": BitsAndBytesConfig(load_in_8bit=True),
            "device_map": {"": device},
        }

    def check_tokenizers(self, pipeline: Any) -> None:
        """Raise UserError if a tokenizer belongs to another encoder."""
        for name in self.encoders:
            tokenizer = getattr(pipeline, name.replace("text_encoder", "tokenizer"))
            check_tokenizer(getattr(pipeline, name), tokenizer, self.repository.errors)


@contextmanager
def quietly() -> Iterator[None]:
    """Within it, diffusers and transformers report errors only, and show no progress."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    libraries: list[Any] = [of_diffusers, of_transformers]
    before = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, verbosity in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            library.enable_progress_bar()
