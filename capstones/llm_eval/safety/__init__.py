"""Toxicity and hallucination."""
