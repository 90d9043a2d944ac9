"""What a table looks like: pages and pictures."""
