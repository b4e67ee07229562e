"""Pictures with labels or captions, for training and for comparison."""
