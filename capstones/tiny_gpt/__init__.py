"""Tiny GPT: pretrain a small language model on your own text, and trust every number."""

from shared.signals import at_once

at_once("tiny-gpt")
