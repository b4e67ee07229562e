"""What a command makes, and how it is looked at."""
