"""Week 24 · Probabilistic machine learning."""
