"""Who reads pictures, and how close two sets of them are."""
