"""Build and run a task from a configuration; build a configuration from a saved picture."""
