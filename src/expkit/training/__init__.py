"""Training networks, with Lightning."""
