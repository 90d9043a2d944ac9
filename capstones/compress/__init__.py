"""Compression: a smaller language model, and what it cost, measured.

uv run compress quantize smollm2 -o runs/smaller --method gptq --bits 4
"""

from shared.signals import at_once

at_once("compress")
