"""Training of networks with PyTorch Lightning."""
