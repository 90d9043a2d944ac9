"""Models that answer requests, by name."""
