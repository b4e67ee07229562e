"""Families of text-to-image models of diffusers, one file each; `family.py` has what they share.

A family is imported only when a model of it is used. To add one, write its file with a subclass of
`Family`, and name its pipelines in `MODULES`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from expkit.errors import UserError, suggest

if TYPE_CHECKING:
    from expkit.models.pretrained.families.family import Family
    from expkit.storage.hub import Repository

# The module of each pipeline of diffusers, as model_index.json names it.
MODULES = {
    "StableDiffusionPipeline": "stable_diffusion",
    "StableDiffusionImg2ImgPipeline": "stable_diffusion",
    "StableDiffusionXLPipeline": "stable_diffusion_xl",
    "StableDiffusionXLImg2ImgPipeline": "stable_diffusion_xl",
    "StableDiffusion3Pipeline": "sd3",
    "FluxPipeline": "flux",
    "PixArtSigmaPipeline": "pixart",
    "PixArtAlphaPipeline": "pixart",
    "SanaPipeline": "sana",
    "IFPipeline": "deepfloyd_if",
    "DiTPipeline": "dit",
    "DDPMPipeline": "ddpm",
    "DDIMPipeline": "ddpm",
}


def family_of(repository: Repository) -> type[Family]:
    """The family of a repository, by the pipeline that its model_index.json names.

    Raises:
        UserError: there is no model_index.json, or expkit does not know its pipeline.
    """
    pipeline = repository.index.get("_class_name")
    if not pipeline or not isinstance(pipeline, str):
        raise repository.errors.no_pipeline()
    if pipeline not in MODULES:
        raise unknown_pipeline(repository.name, pipeline)
    return family_in(MODULES[pipeline], pipeline)


def family_in(module: str, pipeline: str) -> type[Family]:
    """The family of a pipeline in one of the modules of this folder."""
    from expkit.models.pretrained.families.family import Family

    definitions = vars(import_module(f"{__name__}.{module}")).values()
    families = (one for one in definitions if isinstance(one, type) and issubclass(one, Family))
    return next(one for one in families if pipeline in getattr(one, "pipelines", ()))


def unknown_pipeline(name: str, pipeline: str) -> UserError:
    """The error for a pipeline that expkit does not know."""
    advice = suggest(pipeline, MODULES)
    if "Inpaint" in pipeline:
        advice = " task=inpaint works with the text-to-image model that it was made of: give that."
    elif is_of_diffusers(pipeline):  # no misspelling, but what takes or makes something else
        advice = " It is no pipeline from text or a class alone to a picture: give one that is."
    return UserError(
        f"{name} is a {pipeline}, and model=diffusers does not know how to ask it."
        f"{advice} It knows {', '.join(MODULES)}."
    )


def is_of_diffusers(pipeline: str) -> bool:
    """Whether diffusers has a class of this name; it is not imported."""
    import diffusers

    return pipeline in dir(diffusers)
