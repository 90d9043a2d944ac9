"""Week 03 · Probability and information."""
