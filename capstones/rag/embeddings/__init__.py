"""Texts as vectors of length 1."""
