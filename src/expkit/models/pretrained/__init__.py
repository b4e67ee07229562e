"""Pretrained models in diffusers' format, from a folder or from huggingface.co.

They are the pipelines of diffusers that `families` knows, DeepFloyd IF with its second stage, and
expkit's own pictogram models.

base.py            a network of a repository, and the conditions of its rows
configs.py         its schedule, prediction type and size, by its configuration
families/          one file for each family of pipelines
any_pipeline.py    the denoiser of any of them
pipeline_text.py   their text encoders
"""
