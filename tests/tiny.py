"""Pretrained text encoders of a few thousand numbers, saved as the real ones are: folders with `tokenizer` and `text_encoder`."""

from __future__ import annotations

from pathlib import Path

import torch

SENTENCES = (
    "an oil painting of a snowy mountain village",
    "a photo of the amalfi cost",
    "a photo of a hipster barista",
    "an oil painting of people around a campfire",
    "a lithograph of waterfalls and a skull",
    "a man wearing a hat, a dog, a cat, a rocket ship and a pencil of high quality",
)
START, END = "<|startoftext|>", "<|endoftext|>"


def tiny_t5(folder: Path, width: int = 32, seed: int = 0) -> Path:
    """T5's encoder as DeepFloyd IF has it, `width` wide."""
    from transformers import T5Config, T5EncoderModel

    tokenizer = t5_tokenizer()
    size = {
        "d_model": width,
        "d_kv": 8,
        "d_ff": 2 * width,
        "num_layers": 2,
        "num_heads": 4,
        "dropout_rate": 0.0,
    }
    config = T5Config(vocab_size=len(tokenizer), feed_forward_proj="gated-gelu", **size)
    return saved(folder, tokenizer, T5EncoderModel, config, seed)


def t5_tokenizer():
    """Unigram pieces learnt from a few sentences."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import T5Tokenizer

    learner = Tokenizer(models.Unigram())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    learner.train_from_iterator(
        SENTENCES, trainers.UnigramTrainer(vocab_size=150, special_tokens=special, unk_token="<unk>")
    )
    pieces = sorted(learner.get_vocab().items(), key=lambda piece: piece[1])
    return T5Tokenizer(
        vocab=[(piece, -0.1 * rank) for piece, rank in pieces], extra_ids=0, model_max_length=77
    )


def tiny_clip_text(folder: Path, width: int = 32, seed: int = 0) -> Path:
    """CLIP's text encoder as Stable Diffusion has it, `width` wide."""
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = clip_tokenizer()
    return saved(folder, tokenizer, CLIPTextModel, CLIPTextConfig(**clip_size(tokenizer, width)), seed)


def clip_size(tokenizer, width: int) -> dict:
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    size = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    return {"vocab_size": len(tokenizer), "projection_dim": width, **size, **special}


def clip_tokenizer():
    """Byte pairs learnt from a few sentences."""
    import json

    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = sorted(set("abcdefghijklmnopqrstuvwxyz,.0123456789"))
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=[START, END], initial_alphabet=alphabet, end_of_word_suffix="</w>"
    )
    learner.train_from_iterator(SENTENCES, trainer)
    model = json.loads(learner.to_str())["model"]
    words = [
        START,
        END,
        *sorted(set(model["vocab"]) - {START, END}),
    ]  # its own numbers differ from process to process
    numbers = {word: number for number, word in enumerate(words)}
    return CLIPTokenizer(vocab=numbers, merges=[tuple(pair) for pair in model["merges"]], model_max_length=77)


def tiny_clip(folder: Path, size: int = 32, seed: int = 0) -> Path:
    """All of CLIP, for pictures of `size` pixels, with its processor."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    tokenizer = clip_tokenizer()
    pictures = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = {**pictures, "image_size": size, "patch_size": 8, "projection_dim": 32}
    torch.manual_seed(seed)
    CLIPModel(
        CLIPConfig(text_config=clip_size(tokenizer, 32), vision_config=vision, projection_dim=32)
    ).save_pretrained(folder)
    square = {"height": size, "width": size}
    CLIPProcessor(
        CLIPImageProcessor(size={"shortest_edge": size}, crop_size=square), tokenizer
    ).save_pretrained(folder)
    return folder


def tiny_siglip(folder: Path, size: int = 32, seed: int = 0) -> Path:
    """SigLIP, for pictures of `size` pixels; its tokenizer is CLIP's, the real one needs sentencepiece."""
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel, SiglipProcessor

    tokenizer = clip_tokenizer()
    tokenizer.model_max_length = 16
    half = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    words = {**half, "vocab_size": len(tokenizer), "max_position_embeddings": 16, "projection_size": 32}
    vision = {**half, "image_size": size, "patch_size": 8}
    torch.manual_seed(seed)
    network = SiglipModel(SiglipConfig(text_config=words, vision_config=vision))
    with torch.no_grad():
        network.logit_scale.fill_(2.0), network.logit_bias.fill_(-3.0)
    network.save_pretrained(folder)
    square = {"height": size, "width": size}
    SiglipProcessor(SiglipImageProcessor(size=square), tokenizer).save_pretrained(folder)
    return folder


def saved(folder: Path, tokenizer, kind, config, seed: int) -> Path:
    torch.manual_seed(seed)
    kind(config).save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    return folder
