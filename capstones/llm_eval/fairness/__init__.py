"""Bias and fairness: what a model does differently for different people."""
