"""Sweeps: many runs of one command, in shared batches where possible, and their contact sheets."""
