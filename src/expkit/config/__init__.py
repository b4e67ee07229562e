"""The configuration as text: what may be set, and what a command line asks for, before Hydra is imported."""
