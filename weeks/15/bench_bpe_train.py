"""How long does our BPE trainer take beside Hugging Face's, in Rust? One thread each.

uv run study bench 15
"""

import os

from week15.bpe import ByteLevelBPE
from week15.libraries import hugging_face, merges_of
from week15.timing import in_turns, megabyte

VOCAB_SIZE = 4096


def bench(repeats: int = 5) -> dict:
    """Train both on a megabyte: the clock runs from the text to the merges.

    Parameters
    ----------
    repeats
        How often each is timed, in turns; one more round of both warms up.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    text, name = megabyte()
    # Whole documents would leave one thread of Rust with one string: both get the same pieces.
    texts = text.split("\n\n")
    ours, theirs = in_turns(
        [lambda: ByteLevelBPE.train(texts, VOCAB_SIZE), lambda: hugging_face(texts, VOCAB_SIZE)],
        repeats,
    )
    equal = ByteLevelBPE.train(texts, VOCAB_SIZE).merges == merges_of(
        hugging_face(texts, VOCAB_SIZE)
    )
    return {
        "name": f"BPE training, 1 MB of {name}, {VOCAB_SIZE:,} tokens, against tokenizers",
        "ours_seconds": ours,
        "reference_seconds": theirs,
        "ratio": ours / theirs,
        "limit": 20.0,
        "equal_work": "the same merges" if equal else "DIFFERENT MERGES",
    }
