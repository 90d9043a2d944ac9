"""Week 09 · Optimization and regularization."""
