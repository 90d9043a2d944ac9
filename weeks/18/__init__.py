"""Week 18 · Modern architectures."""
