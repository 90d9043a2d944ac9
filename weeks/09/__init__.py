"""Week 09 · Optimisation and regularisation."""
