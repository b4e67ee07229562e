"""Everything that answers as a denoiser."""
