"""Evaluation of language models whose every number can be defended.

uv run llm-eval run
"""
