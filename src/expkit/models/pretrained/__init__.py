"""Pretrained models in diffusers' format, from a folder or from huggingface.co.

They are DeepFloyd IF, unconditional DDPMs, Stable Diffusion and expkit's own pictogram models.
"""
