"""Byte-level BPE by Hugging Face's library, for whoever compares with ours.

>>> reference = hugging_face(["low low lower"], 258)
>>> merges_of(reference)
[(b'l', b'o'), (b'lo', b'w')]

    uv run study bench 15
"""

import json
from collections.abc import Sequence
from typing import Any

from week15.merges import printable_bytes


def hugging_face(texts: Sequence[str], vocab_size: int, **options: Any) -> Any:
    """A byte-level BPE as `tokenizers` trains it; options are its trainer's."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    reference = Tokenizer(models.BPE())
    reference.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = {"initial_alphabet": alphabet, "show_progress": False, **options}
    reference.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocab_size, **options))
    return reference


def merges_of(reference: Any) -> list[tuple[bytes, bytes]]:
    """The merges of such a tokenizer, as bytes."""
    byte_of = {char: byte for byte, char in printable_bytes().items()}
    return [
        tuple(bytes(byte_of[char] for char in half) for half in pair)
        for pair in json.loads(reference.to_str())["model"]["merges"]
    ]
