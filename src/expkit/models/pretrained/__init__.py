"""Pretrained models in diffusers' format, from a folder or from huggingface.co: DeepFloyd IF, unconditional DDPMs, Stable Diffusion."""
