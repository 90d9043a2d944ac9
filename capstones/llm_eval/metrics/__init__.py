"""Metrics of texts, choices and probabilities; each compared with its library."""
