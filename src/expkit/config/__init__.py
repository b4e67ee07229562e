"""The configuration and the command line as text. Nothing in this package imports Hydra."""
