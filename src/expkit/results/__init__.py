"""The output folder of a run, exclusive claims on it, and loggers."""
