"""Sweeps: many runs of one command, and the page that shows them."""
