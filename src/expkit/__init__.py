"""Experiments with diffusion models: every task is one equation, so tasks combine."""

import logging

__version__ = "0.1.0"

# the program that imports expkit decides whether messages are shown
logging.getLogger(__name__).addHandler(logging.NullHandler())
