"""A server of language models that speaks OpenAI's interface.

uv run serve smollm2
"""
