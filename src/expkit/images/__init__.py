"""Load and save images, combine them into sheets, animations and figures, and draw any script."""
