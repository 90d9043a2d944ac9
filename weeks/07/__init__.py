"""Week 07 · Networks in NumPy."""
