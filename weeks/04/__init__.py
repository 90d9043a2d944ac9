"""Week 04 · Linear models."""
