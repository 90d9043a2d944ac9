"""How long does our BPE take to encode a text beside Hugging Face's, in Rust? One thread each.

uv run study bench 15
"""

import os

from week15.bpe import ByteLevelBPE
from week15.libraries import hugging_face
from week15.timing import in_turns, megabyte

VOCAB_SIZE = 4096


def bench(repeats: int = 5) -> dict:
    """Encode a megabyte with the same merges; ours starts with an empty cache every time.

    Parameters
    ----------
    repeats
        How often each is timed, in turns; one more round of both warms up.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    text, name = megabyte()
    texts = text.split("\n\n")
    merges = ByteLevelBPE.train(texts, VOCAB_SIZE).merges
    reference = hugging_face(texts, VOCAB_SIZE)

    def encode_ours():
        tokenizer = ByteLevelBPE(merges)
        return [tokenizer.encode(text) for text in texts]

    def encode_theirs():
        return [encoding.ids for encoding in reference.encode_batch(texts)]

    ours, theirs = in_turns([encode_ours, encode_theirs], repeats)
    return {
        "name": f"BPE encoding, 1 MB of {name}, against tokenizers",
        "ours_seconds": ours,
        "reference_seconds": theirs,
        "ratio": ours / theirs,
        "limit": 30.0,
        "equal_work": "the same ids" if encode_ours() == encode_theirs() else "DIFFERENT IDS",
    }
