"""Map old import paths of `_target_` to present ones, for saved pictures and checkpoints.

A configuration names classes and functions as names of a package: `expkit.tasks.Sampling`. So one
that moves between the modules of its package keeps its address. When one is renamed or leaves its
package, add its old path here only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MODULES = {
    "expkit.clips": "expkit.core.thresholding",
    "expkit.denoisers.pretrained.latents": "expkit.models.pretrained.families.stable_diffusion",
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
# single functions and classes: {path by a present module or package and an old name: present path}
NAMES = {
    "expkit.core.estimate.asked": "expkit.core.conditional",
    "expkit.core.estimate.mixed": "expkit.core.composable",
    "expkit.core.estimate.within": "expkit.core.guidance_interval",
    "expkit.core.maps.Residual": "expkit.core.Complement",
    "expkit.core.schedules.added": "expkit.core.variance_exploding",
    "expkit.core.schedules.pure_noise": "expkit.core.single_noise_level",
    "expkit.core.schedules.scaled": "expkit.core.linear_rescaled",
    "expkit.core.schedules.zero_terminal": "expkit.core.zero_terminal_snr",
    "expkit.core.timesteps.full": "expkit.core.all_levels",
    "expkit.data.captioned_scenes.Variety": "expkit.data.AugmentStrength",
    "expkit.data.datasets.folder": "expkit.data.image_folder",
    "expkit.data.datasets.ideal": "expkit.data.ideal_denoiser",
    "expkit.data.pictograms.pictograms": "expkit.data.emoji_pictograms",
    "expkit.metrics.classifiers.Plain": "expkit.metrics.PlainClassifier",
    "expkit.metrics.classifiers.Residual": "expkit.metrics.ResidualClassifier",
    "expkit.metrics.classifiers.Strided": "expkit.metrics.StridedClassifier",
    "expkit.metrics.judges.distance_of": "expkit.metrics.judge_distance",
    "expkit.metrics.judges.first": "expkit.metrics.first_digit_judge",
    "expkit.metrics.judges.second": "expkit.metrics.second_digit_judge",
    "expkit.metrics.judges.shipped": "expkit.metrics.shipped_judge",
    "expkit.models.pretrained.base.machine": "expkit.models.device_spec",
    "expkit.models.pretrained.deepfloyd.encoder_of": "expkit.models.t5_location",
    "expkit.models.pretrained.deepfloyd.unconditional": "expkit.models.unconditional_ddpm",
    "expkit.models.pretrained.deepfloyd.upscaler": "expkit.models.deepfloyd_upscaler",
    "expkit.models.pretrained.pictogram_unet.known_of": "expkit.models.concepts_file",
    "expkit.models.pretrained.pictogram_unet.second_unet": "expkit.models.upscaler_unet",
    "expkit.models.pretrained.pictogram_unet.side_of": "expkit.models.image_side",
    "expkit.models.pretrained.pictogram_unet.unet": "expkit.models.text_conditioned_unet",
    "expkit.models.pretrained.pictogram_unet.upscaler": "expkit.models.pictogram_upscaler",
    "expkit.models.pretrained.pictogram_unet.worded": "expkit.models.pictogram_denoiser",
    "expkit.models.trained.load": "expkit.models.load_model",
    "expkit.models.trained.newest": "expkit.models.newest_model",
    "expkit.models.unets.class_conditioned": "expkit.models.class_conditioned_unet",
    "expkit.models.unets.single_step": "expkit.models.single_step_unet",
    "expkit.models.unets.time_conditioned": "expkit.models.time_conditioned_unet",
    "expkit.results.run_folder.Nowhere": "expkit.results.NullLogger",
    "expkit.tasks.pins.around_mask": "expkit.tasks.pin_around_mask",
    "expkit.tasks.pins.nothing": "expkit.tasks.no_pin",
    "expkit.tasks.pins.part": "expkit.tasks.pin_part",
    "expkit.tasks.pins.whole": "expkit.tasks.pin_whole",
    "expkit.tasks.scoring.FromAfar": "expkit.tasks.Downsampled",
    "expkit.tasks.scoring.Reading": "expkit.tasks.Readout",
    "expkit.text.sentence_prompts.Known": "expkit.text.ConceptPrompts",
    "expkit.text.sentence_prompts.encoder_of": "expkit.text.sentence_encoder_location",
    "expkit.training.classifier.Composing": "expkit.training.CompositeClassification",
    "expkit.training.classifier.Naming": "expkit.training.PictogramClassification",
    "expkit.training.lr_schedules.constant": "expkit.training.constant_lr",
    "expkit.training.lr_schedules.cosine": "expkit.training.cosine_lr",
    "expkit.training.lr_schedules.cosine_decay": "expkit.training.cosine_lr",
    "expkit.training.lr_schedules.tenth": "expkit.training.exponential_lr",
    "expkit.training.objectives.Reading": "expkit.training.DigitClassification",
    "expkit.training.super_resolution.Enlarging": "expkit.training.SuperResolution",
    "expkit.training.train.Data": "expkit.training.TrainingData",
    "expkit.training.train.Recipe": "expkit.training.TrainConfig",
}  # fmt: skip
# what no configuration names any more, and older pictures do
FORMER_TARGETS = ("expkit.tasks.Downsampled", "expkit.tasks.Readout")
# a path with a module between the package and the name
ROOMS = "core|data|metrics|models|results|tasks|text|training"
IN_MODULE = re.compile(rf"^(expkit\.(?:{ROOMS}))\..+\.(\w+)$")


def current_address(address: str) -> str:
    """The present import path of a function or class, from a path that may be old."""
    module, _, name = address.rpartition(".")
    path = f"{MODULES.get(module, module)}.{name}" if module else name
    path = NAMES.get(path, path)
    exported = IN_MODULE.sub(r"\1.\2", path)
    return NAMES.get(exported, exported)


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
