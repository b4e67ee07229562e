"""From a configuration to a task, and from a picture back to its configuration."""
