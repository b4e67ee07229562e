"""Map old import paths of `_target_` to present ones, for saved pictures and checkpoints.

When a class or function that a configuration names is moved or renamed, add its old path here only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MODULES = {
    "expkit.clips": "expkit.core.thresholding",
    "expkit.denoisers.pretrained.latents": "expkit.models.pretrained.stable_diffusion",
    "expkit.denoisers.pretrained.network": "expkit.models.pretrained.base",
    "expkit.denoisers.pretrained.pixels": "expkit.models.pretrained.deepfloyd",
    "expkit.denoisers.pretrained.worded": "expkit.models.pretrained.pictogram_unet",
    "expkit.denoisers.trained": "expkit.models.trained",
    "expkit.denoisers.unets": "expkit.models.unets",
    "expkit.embeddings": "expkit.text.embedding_store",
    "expkit.encoders": "expkit.text.encoders",
    "expkit.estimate": "expkit.core.estimate",
    "expkit.grids": "expkit.core.timesteps",
    "expkit.judges": "expkit.metrics.judges",
    "expkit.maps": "expkit.core.maps",
    "expkit.prompts": "expkit.text.prompt_embeddings",
    "expkit.readers": "expkit.metrics.classifiers",
    "expkit.result": "expkit.results.run_folder",
    "expkit.rules": "expkit.core.solvers",
    "expkit.sample": "expkit.core.sampler",
    "expkit.schedule": "expkit.core.schedules",
    "expkit.sentences": "expkit.text.sentence_prompts",
    "expkit.tasks.evaluate": "expkit.tasks.evaluation.evaluate",
    "expkit.tasks.film": "expkit.tasks.trajectory",
    "expkit.tasks.generalize": "expkit.tasks.noise_levels",
    "expkit.tasks.looks": "expkit.tasks.result_figure",
    "expkit.tasks.readings": "expkit.tasks.scoring",
    "expkit.training.data": "expkit.data.labelled_pictures",
    "expkit.training.datasets": "expkit.data.datasets",
    "expkit.training.enlarging": "expkit.training.super_resolution",
    "expkit.training.fit": "expkit.training.train",
    "expkit.training.naming": "expkit.training.classifier",
    "expkit.training.pictograms": "expkit.data.pictograms",
    "expkit.training.rates": "expkit.training.lr_schedules",
    "expkit.training.scenes": "expkit.data.captioned_scenes",
    "expkit.training.text": "expkit.training.text_to_image",
    "expkit.views": "expkit.core.views",
}
# single functions and classes: {present module and old name: present module and present name}
NAMES = {
    "expkit.core.estimate.asked": "expkit.core.estimate.conditional",
    "expkit.core.estimate.mixed": "expkit.core.estimate.composable",
    "expkit.core.estimate.within": "expkit.core.estimate.guidance_interval",
    "expkit.core.maps.Residual": "expkit.core.maps.Complement",
    "expkit.core.schedules.added": "expkit.core.schedules.variance_exploding",
    "expkit.core.schedules.pure_noise": "expkit.core.schedules.single_noise_level",
    "expkit.core.schedules.scaled": "expkit.core.schedules.linear_rescaled",
    "expkit.core.schedules.zero_terminal": "expkit.core.schedules.zero_terminal_snr",
    "expkit.data.captioned_scenes.Variety": "expkit.data.captioned_scenes.AugmentStrength",
    "expkit.models.pretrained.base.machine": "expkit.models.pretrained.base.device_spec",
    "expkit.models.pretrained.deepfloyd.encoder_of":
        "expkit.models.pretrained.deepfloyd.t5_location",
    "expkit.models.pretrained.deepfloyd.upscaler":
        "expkit.models.pretrained.deepfloyd.deepfloyd_upscaler",
    "expkit.models.pretrained.pictogram_unet.known_of":
        "expkit.models.pretrained.pictogram_unet.concepts_file",
    "expkit.models.pretrained.pictogram_unet.side_of":
        "expkit.models.pretrained.pictogram_unet.image_side",
    "expkit.models.pretrained.pictogram_unet.upscaler":
        "expkit.models.pretrained.pictogram_unet.pictogram_upscaler",
    "expkit.models.pretrained.pictogram_unet.worded":
        "expkit.models.pretrained.pictogram_unet.pictogram_denoiser",
    "expkit.models.trained.load": "expkit.models.trained.load_model",
    "expkit.models.trained.newest": "expkit.models.trained.newest_model",
    "expkit.results.run_folder.Nowhere": "expkit.results.run_folder.NullLogger",
    "expkit.tasks.pins.nothing": "expkit.tasks.pins.no_pin",
    "expkit.tasks.pins.part": "expkit.tasks.pins.pin_part",
    "expkit.tasks.pins.whole": "expkit.tasks.pins.pin_whole",
    "expkit.tasks.scoring.FromAfar": "expkit.tasks.scoring.Downsampled",
    "expkit.tasks.scoring.Reading": "expkit.tasks.scoring.Readout",
    "expkit.text.sentence_prompts.Known": "expkit.text.sentence_prompts.ConceptPrompts",
    "expkit.text.sentence_prompts.encoder_of":
        "expkit.text.sentence_prompts.sentence_encoder_location",
    "expkit.training.classifier.Composing": "expkit.training.classifier.CompositeClassification",
    "expkit.training.classifier.Naming": "expkit.training.classifier.PictogramClassification",
    "expkit.training.lr_schedules.cosine": "expkit.training.lr_schedules.cosine_decay",
    "expkit.training.objectives.Reading": "expkit.training.objectives.DigitClassification",
    "expkit.training.super_resolution.Enlarging":
        "expkit.training.super_resolution.SuperResolution",
    "expkit.training.train.Recipe": "expkit.training.train.TrainConfig",
}  # fmt: skip


def current_address(address: str) -> str:
    """The present import path of a function or class, from a path that may be old."""
    module, _, name = address.rpartition(".")
    path = f"{MODULES.get(module, module)}.{name}" if module else name
    return NAMES.get(path, path)


def update_addresses(node: Any) -> Any:
    """A copy of a configuration in which every `_target_` is a present import path."""
    if isinstance(node, Mapping):
        return {
            key: current_address(value)
            if key == "_target_" and isinstance(value, str)
            else update_addresses(value)
            for key, value in node.items()
        }
    return [update_addresses(value) for value in node] if isinstance(node, list) else node
