"""Week 16 · Training efficiency."""
