"""Compressed models in formats that other programs load."""
