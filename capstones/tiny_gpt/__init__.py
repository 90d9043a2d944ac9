"""Tiny GPT: pretrain a small language model on your own text, and trust every number."""
