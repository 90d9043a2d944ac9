"""A page and an API on the loopback address."""
