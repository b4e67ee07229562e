"""Random tiny pipelines of every family that model=diffusers knows, as diffusers saves them: what scripts/tiny_model makes."""

import json
from pathlib import Path

from tests import tiny, tiny_diffusers

LETTERS = [
    chr(number) for number in range(33, 127)
]  # of ASCII, for tokenizers: learnt ones differ from process to process
WIDTH = 32  # of what a text encoder answers for each token
SCALED_LINEAR = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LINEAR = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}
LATENT_BLOCKS = {
    "layers_per_block": 1,
    "block_out_channels": (16, 32),
    "norm_num_groups": 8,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "in_channels": 4,
    "out_channels": 4,
    "sample_size": 8,
}
# Some classes of ImageNet; two are called crane, there as here
ID2LABEL = {
    0: "tench, Tinca tinca",
    1: "goldfish, Carassius auratus",
    134: "crane",
    207: "golden retriever",
    281: "tabby, tabby cat",
    282: "tiger cat",
    285: "Egyptian cat",
    292: "tiger, Panthera tigris",
    388: "giant panda, panda, panda bear, coon bear, Ailuropoda melanoleuca",
    417: "balloon",
    483: "castle",
    517: "crane",
    812: "space shuttle",
    980: "volcano",
}


# ---- parts


def seeded(kind, *given, **named):
    """kind(...) with the same random weights each time, biases among them, and a soft last layer."""
    import torch

    torch.manual_seed(0)
    network = tiny_diffusers.woken(kind(*given, **named))
    for name, parameter in network.named_parameters():
        if name.startswith("proj_out"):
            parameter.data.mul_(0.3)
    return network


def clip(projected: bool = False, **size):
    """CLIP's tokenizer and text encoder, with its projection or without."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    pairs = [
        ("t", "h"),
        ("th", "e</w>"),
        ("o", "f</w>"),
        ("a", "n</w>"),
        ("d", "o"),
        ("do", "g</w>"),
        ("c", "a"),
        ("ca", "t</w>"),
    ]
    pieces = [
        *LETTERS,
        *(f"{letter}</w>" for letter in LETTERS),
        *(first + second for first, second in pairs),
        tiny.START,
        tiny.END,
    ]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=pairs, model_max_length=77)
    config = CLIPTextConfig(**{**tiny.clip_size(tokenizer, WIDTH), **size})
    return tokenizer, seeded(CLIPTextModelWithProjection if projected else CLIPTextModel, config)


def t5(length: int = 512):
    """T5's tokenizer, which cuts texts at this many tokens where nobody says another number, and encoder."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    words = [(f"▁{word}", -1.0) for word in ("a", "an", "the", "of", "photo", "dog", "cat", "painting")]
    letters = [(letter, -3.0) for letter in ("▁", *LETTERS)]
    tokenizer = T5Tokenizer(vocab=[*special, *words, *letters], extra_ids=0, model_max_length=length)
    size = {"d_model": WIDTH, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
    config = T5Config(vocab_size=len(tokenizer), feed_forward_proj="gated-gelu", **size)
    return tokenizer, seeded(T5EncoderModel, config)


def gemma2():
    """Gemma 2's tokenizer, of letters, frequent pairs and bytes, and its network."""
    from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    pairs = [
        ("t", "h"),
        ("th", "e"),
        ("i", "n"),
        ("a", "n"),
        ("e", "r"),
        ("o", "n"),
        ("r", "e"),
        ("▁", "a"),
        ("▁", "s"),
        ("▁", "the"),
    ]
    pieces = (
        special
        + [f"<0x{byte:02X}>" for byte in range(256)]
        + ["▁", *LETTERS]
        + [first + second for first, second in pairs]
    )
    tokenizer = GemmaTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)}, merges=pairs, add_bos_token=True
    )
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "query_pre_attn_scalar": 16}
    size = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, **heads}
    return tokenizer, seeded(Gemma2Model, Gemma2Config(vocab_size=len(pieces), sliding_window=64, **size))


def kl(**facts):
    """Stable Diffusion's VAE: a latent is an eighth of its picture."""
    from diffusers import AutoencoderKL

    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    size = {"block_out_channels": [8, 8, 16, 16], "norm_num_groups": 4, "latent_channels": 4}
    return seeded(AutoencoderKL, **{**blocks, **size, **facts})


def kl16(**facts):
    """The VAE of Stable Diffusion 3 and Flux: 16 channels, with a shift."""
    return kl(latent_channels=16, sample_size=64, use_quant_conv=False, use_post_quant_conv=False, **facts)


def dc(**facts):
    """Sana's autoencoder: a latent is a 32nd of its picture."""
    from diffusers import AutoencoderDC

    kinds = ("ResBlock",) * 5 + ("EfficientViTBlock",)
    channels, layers, scales = (4, 4, 8, 8, 16, 16), (1,) * 6, ((),) * 5 + ((5,),)
    encoder = {
        "encoder_block_types": kinds,
        "encoder_block_out_channels": channels,
        "encoder_layers_per_block": layers,
    }
    decoder = {
        "decoder_block_types": kinds,
        "decoder_block_out_channels": channels,
        "decoder_layers_per_block": layers,
    }
    attention = {
        "encoder_qkv_multiscales": scales,
        "decoder_qkv_multiscales": scales,
        "attention_head_dim": 8,
    }
    shape = {"latent_channels": 8, "scaling_factor": 0.41407}
    return seeded(AutoencoderDC, **{**encoder, **decoder, **attention, **shape, **facts})


# ---- families: what FAMILY may be, one function each


def sd(folder: Path) -> Path:
    """Stable Diffusion 1."""
    from diffusers import PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    tokenizer, encoder = clip()
    StableDiffusionPipeline(
        vae=kl(),
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=seeded(UNet2DConditionModel, **LATENT_BLOCKS, cross_attention_dim=WIDTH, attention_head_dim=4),
        scheduler=PNDMScheduler(**SCALED_LINEAR, skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def sdxl(folder: Path) -> Path:
    """Stable Diffusion XL, told the pooled text and sizes."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    (tokenizer, encoder), (tokenizer_2, encoder_2) = clip(), clip(projected=True, hidden_act="gelu")
    told = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + WIDTH,
    }
    attention = {
        "cross_attention_dim": 2 * WIDTH,
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
    }
    StableDiffusionXLPipeline(
        vae=kl(scaling_factor=0.13025),
        text_encoder=encoder,
        text_encoder_2=encoder_2,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=seeded(UNet2DConditionModel, **LATENT_BLOCKS, **attention, **told),
        scheduler=EulerDiscreteScheduler(**SCALED_LINEAR, timestep_spacing="leading", steps_offset=1),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


def sd3(folder: Path, without: tuple[str, ...] = ()) -> Path:
    """Stable Diffusion 3.5; `without` names text encoders to be left out."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    narrow, wide = (
        {"hidden_size": 8, "projection_dim": 8},
        {"hidden_size": 16, "projection_dim": 16, "hidden_act": "gelu"},
    )
    text = {"": clip(projected=True, **narrow), "_2": clip(projected=True, **wide), "_3": t5()}
    text = {end: pair if f"text_encoder{end}" not in without else (None, None) for end, pair in text.items()}
    told = {"joint_attention_dim": WIDTH, "caption_projection_dim": 16, "pooled_projection_dim": 8 + 16}
    attention = {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "qk_norm": "rms_norm",
        "dual_attention_layers": (0,),
    }
    shape = {
        "in_channels": 16,
        "out_channels": 16,
        "num_layers": 2,
        "sample_size": 8,
        "pos_embed_max_size": 8,
    }
    StableDiffusion3Pipeline(
        **{f"tokenizer{end}": tokenizer for end, (tokenizer, _) in text.items()},
        **{f"text_encoder{end}": encoder for end, (_, encoder) in text.items()},
        vae=kl16(scaling_factor=1.5305, shift_factor=0.0609),
        transformer=seeded(SD3Transformer2DModel, **shape, **attention, **told),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    ).save_pretrained(folder)
    return folder


def flux(folder: Path, guidance_embeds: bool = True) -> Path:
    """Flux dev, whose guidance is embedded, or Flux schnell without."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    (tokenizer, encoder), (tokenizer_2, encoder_2) = clip(), t5()
    told = {"joint_attention_dim": WIDTH, "pooled_projection_dim": WIDTH, "guidance_embeds": guidance_embeds}
    attention = {"num_attention_heads": 2, "attention_head_dim": 16, "axes_dims_rope": (4, 6, 6)}
    shape = {"in_channels": 64, "num_layers": 1, "num_single_layers": 1}
    shift = {"shift": 3.0, "use_dynamic_shifting": True} if guidance_embeds else {"shift": 1.0}
    FluxPipeline(
        text_encoder=encoder,
        tokenizer=tokenizer,
        text_encoder_2=encoder_2,
        tokenizer_2=tokenizer_2,
        vae=kl16(scaling_factor=0.3611, shift_factor=0.1159),
        transformer=seeded(FluxTransformer2DModel, **shape, **attention, **told),
        scheduler=FlowMatchEulerDiscreteScheduler(**shift),
    ).save_pretrained(folder)
    return folder


def pixart(folder: Path) -> Path:
    """PixArt-Σ."""
    from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline

    tokenizer, encoder = t5()
    PixArtSigmaPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder,
        vae=kl(scaling_factor=0.13025),
        transformer=pixart_transformer(use_additional_conditions=False),
        scheduler=DPMSolverMultistepScheduler(**LINEAR),
    ).save_pretrained(folder)
    return folder


def pixart_transformer(**facts):
    """The network of PixArt-α and -Σ."""
    from diffusers import PixArtTransformer2DModel

    attention = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "cross_attention_dim": 32,
        "caption_channels": WIDTH,
    }
    shape = {"in_channels": 4, "out_channels": 8, "num_layers": 2, "sample_size": 8}
    return seeded(PixArtTransformer2DModel, **{**attention, **shape, **facts})


def sana(folder: Path) -> Path:
    """Sana."""
    from diffusers import DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel

    tokenizer, encoder = gemma2()
    attention = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_cross_attention_heads": 2,
        "cross_attention_head_dim": 16,
    }
    shape = {
        "in_channels": 8,
        "out_channels": 8,
        "num_layers": 2,
        "cross_attention_dim": 32,
        "caption_channels": WIDTH,
        "sample_size": 8,
    }
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    SanaPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder,
        vae=dc(),
        transformer=seeded(SanaTransformer2DModel, **attention, **shape),
        scheduler=DPMSolverMultistepScheduler(**flow),
    ).save_pretrained(folder)
    return folder


def deepfloyd(folder: Path) -> Path:
    """Both stages of DeepFloyd IF, as model=deepfloyd takes them: stage_1 and stage_2."""
    from diffusers import IFPipeline, IFSuperResolutionPipeline, UNet2DConditionModel

    tokenizer, encoder = t5(length=77)
    unused = {
        "safety_checker": None,
        "feature_extractor": None,
        "watermarker": None,
        "requires_safety_checker": False,
    }
    blocks = {**tiny_diffusers.IF_BLOCKS, "encoder_hid_dim": WIDTH}
    deeper = {  # attention at 32 pixels, as in stage I
        "block_out_channels": (32, 32, 64),
        "down_block_types": ("ResnetDownsampleBlock2D",) * 2 + ("SimpleCrossAttnDownBlock2D",),
        "up_block_types": ("SimpleCrossAttnUpBlock2D",) + ("ResnetUpsampleBlock2D",) * 2,
    }
    IFPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder,
        unet=seeded(UNet2DConditionModel, **blocks, sample_size=64, in_channels=3),
        scheduler=tiny_diffusers.scheduler(**tiny_diffusers.LEARNED, sample_max_value=1.5),
        **unused,
    ).save_pretrained(folder / "stage_1")
    IFSuperResolutionPipeline(
        tokenizer=None,  # stage II reads what stage I's encoder says
        text_encoder=None,
        unet=seeded(
            UNet2DConditionModel,
            **{**blocks, **tiny_diffusers.SECOND_ONLY, **deeper},
            sample_size=128,
            in_channels=6,
        ),
        scheduler=tiny_diffusers.scheduler(**tiny_diffusers.LEARNED, sample_max_value=1.0),
        image_noising_scheduler=tiny_diffusers.scheduler(**tiny_diffusers.BETAS),
        **unused,
    ).save_pretrained(folder / "stage_2")
    return folder


def dit(folder: Path) -> Path:
    """DiT, told one of 1,000 classes, of which a few have names."""
    from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    size = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "sample_size": 8}
    DiTPipeline(
        transformer=seeded(DiTTransformer2DModel, in_channels=4, out_channels=8, **size),
        vae=kl(),
        scheduler=DDIMScheduler(**LINEAR, clip_sample=False),
    ).save_pretrained(folder)
    index = folder / "model_index.json"  # of the names save_pretrained keeps nothing
    facts = json.loads(index.read_text()) | {
        "id2label": {str(number): names for number, names in ID2LABEL.items()}
    }
    index.write_text(json.dumps(facts, indent=2))
    return folder


def ddpm(folder: Path) -> Path:
    """An unconditional DDPM of 32 pixels."""
    from diffusers import DDPMPipeline, UNet2DModel

    blocks = {
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }
    shape = {
        "sample_size": 32,
        "in_channels": 3,
        "out_channels": 3,
        "layers_per_block": 1,
        "block_out_channels": (16, 32),
    }
    steps = tiny_diffusers.scheduler(variance_type="fixed_small", clip_sample=True)
    DDPMPipeline(
        seeded(UNet2DModel, **shape, **blocks, norm_num_groups=8, attention_head_dim=8), steps
    ).save_pretrained(folder)
    return folder


FAMILIES = {
    "sd": sd,
    "sdxl": sdxl,
    "sd3": sd3,
    "flux": flux,
    "pixart": pixart,
    "sana": sana,
    "if": deepfloyd,
    "dit": dit,
    "ddpm": ddpm,
}
