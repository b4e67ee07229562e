"""Experiments with diffusion models: every task is one equation, so tasks combine."""

__version__ = "0.1.0"
