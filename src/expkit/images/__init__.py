"""Pictures in and out, and what is made of several: sheets, animations, figures, with text in any script."""
