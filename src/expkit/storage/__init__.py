"""What lies on disk, or on a hub, and where a network runs."""
