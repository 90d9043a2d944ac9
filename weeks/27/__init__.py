"""Week 27 · Compress and serve."""
