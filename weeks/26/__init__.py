"""Week 26 · Video and 3D."""
