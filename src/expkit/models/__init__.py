"""Denoisers: exact ones, UNets that expkit trained, and pretrained models in diffusers' format."""
