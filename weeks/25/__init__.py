"""Week 25 · Vision and language."""
