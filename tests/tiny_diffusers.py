"""Pretrained models of a few thousand numbers, made of the same mechanisms as the real ones and saved by diffusers itself."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

WIDTH, LENGTH, SIDE = 24, 5, 16
IF_BLOCKS = {
    "layers_per_block": 1,
    "block_out_channels": (32, 64),
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "cross_attention_dim": 32,
    "encoder_hid_dim": WIDTH,
    "attention_head_dim": 8,
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 2,
    "cross_attention_norm": "group_norm",
    "resnet_time_scale_shift": "scale_shift",
    "act_fn": "gelu",
    "out_channels": 6,
}
SECOND_ONLY = {
    "class_embed_type": "timestep",
    "mid_block_scale_factor": 1.414,
    "time_embedding_act_fn": "gelu",
    "time_embedding_dim": 32,
}
BETAS = {"beta_schedule": "squaredcos_cap_v2"}
LEARNED = {
    **BETAS,
    "variance_type": "learned_range",
    "thresholding": True,
    "dynamic_thresholding_ratio": 0.95,
}


class Words:
    """Embeddings as `expkit.text.prompt_embeddings` gives them, made from the text itself; `prepared` has what was prepared."""

    padded = False

    def __init__(
        self, width: int = WIDTH, length: int = LENGTH, known: dict[str, Tensor] | None = None, **unused
    ) -> None:
        self.width, self.length, self.known, self.prepared = width, length, known or {}, []

    def canonical_prompt(self, prompt: str) -> str:
        return prompt

    def substitutions(self, prompts) -> list[str]:
        return []

    def prepare(self, texts, make_room=None) -> None:
        self.prepared += texts

    def __call__(self, text: str) -> Tensor:
        made = torch.randn(
            self.length, self.width, generator=torch.Generator().manual_seed(sum(map(ord, text)))
        )
        return self.known.get(text, made)

    def rows(self, texts) -> Tensor:
        return torch.stack([self(text) for text in texts])

    def conditions(self, texts) -> dict[str, Tensor]:
        return {"tokens": self.rows(texts)}


def thresholded(x0: Tensor, denoiser) -> Tensor:
    """Dynamic thresholding (Saharia et al. 2022, §2.3)."""
    s = x0.flatten(1).abs().quantile(0.95, 1).clamp(1, denoiser.sample_max_value).view(-1, 1, 1, 1)
    return x0.clamp(-s, s) / s


def scheduler(**facts):
    from diffusers import DDPMScheduler

    return DDPMScheduler(1000, **facts)


def unet2d_condition(**facts):
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return woken(UNet2DConditionModel(**facts))


def woken(network):
    """With biases drawn too, so that nothing in it is idle, and a soft last layer: it amplifies rounding less, as trained ones do."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1)
            if name.startswith("conv_out"):
                parameter.mul_(0.3)
    return network.eval()


def first(folder: Path, **facts) -> Path:
    """Stage I of DeepFloyd IF."""
    from diffusers import IFPipeline

    unet = unet2d_condition(**{**IF_BLOCKS, "sample_size": SIDE, "in_channels": 3, **facts})
    parts = {
        "text_encoder": None,
        "tokenizer": None,
        "safety_checker": None,
        "feature_extractor": None,
        "watermarker": None,
    }
    steps = scheduler(**LEARNED, sample_max_value=1.5)
    IFPipeline(unet=unet, scheduler=steps, **parts, requires_safety_checker=False).save_pretrained(folder)
    return folder


def told(folder: Path) -> Path:
    """Stage I with a T5 encoder beside it, which reads letters."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    torch.manual_seed(0)
    letters = ["<pad>", "</s>", "<unk>", "\N{LOWER ONE EIGHTH BLOCK}", *map(chr, range(97, 123))]
    size = {"d_model": WIDTH, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    T5EncoderModel(T5Config(vocab_size=len(letters), **size)).eval().save_pretrained(folder / "text_encoder")
    T5Tokenizer(vocab=[(letter, -1.0) for letter in letters], extra_ids=0).save_pretrained(
        folder / "tokenizer"
    )
    return first(folder)


def second(folder: Path, **facts) -> Path:
    """Stage II of DeepFloyd IF, for pictures twice as large."""
    from diffusers import IFSuperResolutionPipeline

    unet = unet2d_condition(
        **{**IF_BLOCKS, **SECOND_ONLY, "sample_size": 2 * SIDE, "in_channels": 6, **facts}
    )
    parts = {
        "text_encoder": None,
        "tokenizer": None,
        "safety_checker": None,
        "feature_extractor": None,
        "watermarker": None,
    }
    steps = {
        "scheduler": scheduler(**LEARNED, sample_max_value=1.0),
        "image_noising_scheduler": scheduler(**BETAS),
    }
    IFSuperResolutionPipeline(unet=unet, **steps, **parts, requires_safety_checker=False).save_pretrained(
        folder
    )
    return folder


def unconditional(folder: Path, out_channels: int = 3, **facts) -> Path:
    """A DDPM as google/ddpm-cat-256 is one."""
    from diffusers import DDPMPipeline, UNet2DModel

    torch.manual_seed(0)
    blocks = {
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }
    shape = {
        "sample_size": SIDE,
        "in_channels": 3,
        "out_channels": out_channels,
        "layers_per_block": 1,
        "block_out_channels": (32, 64),
    }
    DDPMPipeline(woken(UNet2DModel(**shape, **blocks)), scheduler(**facts)).save_pretrained(folder)
    return folder


def stable_diffusion(folder: Path, steps) -> Path:
    """A latent model, with this scheduler."""
    from diffusers import StableDiffusionPipeline

    unet = unet2d_condition(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(32, 64), cross_attention_dim=WIDTH,
        attention_head_dim=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    parts = {"text_encoder": None, "tokenizer": None, "safety_checker": None, "feature_extractor": None}
    pipe = StableDiffusionPipeline(
        vae=autoencoder(), unet=unet, scheduler=steps, **parts, requires_safety_checker=False
    )
    pipe.save_pretrained(folder)
    return folder


def autoencoder():
    from diffusers import AutoencoderKL

    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    return woken(AutoencoderKL(block_out_channels=[32, 32], latent_channels=4, norm_num_groups=8, **blocks))
