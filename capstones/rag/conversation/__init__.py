"""Sessions: what was said, kept, summed up and forgotten."""
