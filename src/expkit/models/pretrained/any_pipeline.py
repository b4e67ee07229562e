"""The denoiser of any pipeline of diffusers that expkit knows."""

from __future__ import annotations

from expkit.core.denoiser import Denoiser, limit_rows
from expkit.errors import UserError
from expkit.models.pretrained.base import DeviceSpec
from expkit.models.pretrained.families import family_of
from expkit.models.pretrained.families.family import Family
from expkit.models.pretrained.pipeline_text import PipelineText
from expkit.storage.hub import Repository


def diffusers_model(
    embeddings, machine: DeviceSpec, weights: str, size: int | None = None,
    max_rows: int | None = None, guidance: float | None = None,
) -> Denoiser:  # fmt: skip
    """The denoiser of model=diffusers, of the family that model_index.json names.

    Args:
        embeddings: a `prompt_embeddings.Embeddings` of a `PipelineText`.
        machine: where and how it runs.
        weights: a folder, or an id of huggingface.co.
        size: side of its images in pixels; None: the size that it was trained on.
        max_rows: the largest number of rows in one forward; None: no limit.
        guidance: the strength that a network such as Flux dev's has as an input; None: its default.

    Raises:
        UserError: expkit does not know this pipeline, cannot read its files, or a guidance is given
            to a network without that input, or the encoder is that of another family.
    """
    repository = Repository(str(weights))
    family = family_of(repository)
    check_encoder(getattr(embeddings, "encoder", None), repository, family)
    model = family(repository, embeddings, machine, size)
    if guidance is not None:
        model.embed_guidance(guidance)
    return limit_rows(model, max_rows)


def check_encoder(encoder: object, repository: Repository, family: type[Family]) -> None:
    """Raise UserError if an encoder of another pipeline, on this machine, is of another family."""
    if (
        not isinstance(encoder, PipelineText)
        or not family.reads_text
        or str(encoder.weights) == repository.name
        or not encoder.at_hand
    ):
        return
    if family_of(encoder.repository) is not family:
        raise UserError(
            f"model.encoder={encoder.weights} is a {encoder.pipeline_class}, and {repository.name} is "
            f"a {repository.index['_class_name']}: what one encodes the other cannot read. Leave "
            "model.encoder out, or give a pipeline of the same family."
        )
