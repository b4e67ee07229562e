"""Training of networks with PyTorch Lightning."""

from typing import TYPE_CHECKING

from expkit.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from expkit.training.classifier import CompositeClassification as CompositeClassification
    from expkit.training.classifier import PictogramClassification as PictogramClassification
    from expkit.training.lr_schedules import constant_lr as constant_lr
    from expkit.training.lr_schedules import cosine_lr as cosine_lr
    from expkit.training.lr_schedules import exponential_lr as exponential_lr
    from expkit.training.objectives import Diffusion as Diffusion
    from expkit.training.objectives import DigitClassification as DigitClassification
    from expkit.training.super_resolution import SuperResolution as SuperResolution
    from expkit.training.text_to_image import TextDiffusion as TextDiffusion
    from expkit.training.train import Train as Train
    from expkit.training.train import TrainConfig as TrainConfig
    from expkit.training.train import TrainingData as TrainingData

EXPORTS = {
    "CompositeClassification": "classifier",
    "PictogramClassification": "classifier",
    "constant_lr": "lr_schedules",
    "cosine_lr": "lr_schedules",
    "exponential_lr": "lr_schedules",
    "Diffusion": "objectives",
    "DigitClassification": "objectives",
    "SuperResolution": "super_resolution",
    "TextDiffusion": "text_to_image",
    "Train": "train",
    "TrainConfig": "train",
    "TrainingData": "train",
}
lazy_exports(__name__, EXPORTS)
