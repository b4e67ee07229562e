"""Pictures with labels or captions, to train on and to compare with."""
