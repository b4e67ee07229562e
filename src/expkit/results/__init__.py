"""A run's folder, its loggers, and who may write there."""
