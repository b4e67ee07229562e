"""Denoisers: exact ones, UNets that expkit trained, and pretrained models in diffusers' format."""

from typing import TYPE_CHECKING

from expkit.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from expkit.models.pretrained.any_pipeline import diffusers_model as diffusers_model
    from expkit.models.pretrained.base import device_spec as device_spec
    from expkit.models.pretrained.deepfloyd import deepfloyd as deepfloyd
    from expkit.models.pretrained.deepfloyd import deepfloyd_upscaler as deepfloyd_upscaler
    from expkit.models.pretrained.deepfloyd import t5_location as t5_location
    from expkit.models.pretrained.families.ddpm import unconditional_ddpm as unconditional_ddpm
    from expkit.models.pretrained.families.stable_diffusion import stable_diffusion as stable_diffusion
    from expkit.models.pretrained.own_sampler import own_sampler as own_sampler
    from expkit.models.pretrained.pictogram_unet import concepts_file as concepts_file
    from expkit.models.pretrained.pictogram_unet import haar_unet as haar_unet
    from expkit.models.pretrained.pictogram_unet import image_side as image_side
    from expkit.models.pretrained.pictogram_unet import pictogram_denoiser as pictogram_denoiser
    from expkit.models.pretrained.pictogram_unet import pictogram_upscaler as pictogram_upscaler
    from expkit.models.pretrained.pictogram_unet import text_conditioned_unet as text_conditioned_unet
    from expkit.models.pretrained.pictogram_unet import upscaler_unet as upscaler_unet
    from expkit.models.pretrained.pipeline_text import PipelineText as PipelineText
    from expkit.models.trained import load_model as load_model
    from expkit.models.trained import newest_model as newest_model
    from expkit.models.unets import Network as Network
    from expkit.models.unets import UNet as UNet
    from expkit.models.unets import class_conditioned_unet as class_conditioned_unet
    from expkit.models.unets import single_step_unet as single_step_unet
    from expkit.models.unets import time_conditioned_unet as time_conditioned_unet

EXPORTS = {
    "diffusers_model": "pretrained.any_pipeline",
    "device_spec": "pretrained.base",
    "deepfloyd": "pretrained.deepfloyd",
    "deepfloyd_upscaler": "pretrained.deepfloyd",
    "t5_location": "pretrained.deepfloyd",
    "unconditional_ddpm": "pretrained.families.ddpm",
    "stable_diffusion": "pretrained.families.stable_diffusion",
    "own_sampler": "pretrained.own_sampler",
    "concepts_file": "pretrained.pictogram_unet",
    "haar_unet": "pretrained.pictogram_unet",
    "image_side": "pretrained.pictogram_unet",
    "pictogram_denoiser": "pretrained.pictogram_unet",
    "pictogram_upscaler": "pretrained.pictogram_unet",
    "text_conditioned_unet": "pretrained.pictogram_unet",
    "upscaler_unet": "pretrained.pictogram_unet",
    "PipelineText": "pretrained.pipeline_text",
    "load_model": "trained",
    "newest_model": "trained",
    "Network": "unets",
    "UNet": "unets",
    "class_conditioned_unet": "unets",
    "single_step_unet": "unets",
    "time_conditioned_unet": "unets",
}
lazy_exports(__name__, EXPORTS)
