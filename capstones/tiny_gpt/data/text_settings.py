"""What is made of a text: chosen once, for `prepare` as for a training that prepares its text."""

from dataclasses import dataclass
from typing import Literal

from cyclopts import Parameter

from shared.require import require
from shared.study import PositiveInt

__all__ = ["TextSettings"]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """What is made of a text.

    Attributes
    ----------
    tokenizer
        Characters (for texts of less than a few megabytes), bytes, or byte-level BPE learned from
        the training documents.
    vocab_size
        Of the BPE.
    dedup
        Remove copies (exact), near-copies too (minhash), or nothing.
    near_duplicate
        Jaccard similarity of five-word shingles from which a document is a near-copy.
    val_fraction
        Share of the validation split.
    split
        hash: by a hash of each document; tail: the last part of the text; auto: hash from 20
        documents on, if that holds out enough.
    """

    tokenizer: Literal["char", "byte", "bpe"] = "bpe"
    vocab_size: PositiveInt = 1024
    dedup: Literal["off", "exact", "minhash"] = "minhash"
    near_duplicate: float = 0.8
    val_fraction: float = 0.1
    split: Literal["auto", "hash", "tail"] = "auto"

    def __post_init__(self):
        share, near = self.val_fraction, self.near_duplicate
        require(0 < share < 1, "val_fraction must be between 0 and 1", share)
        # Below, 128 hashes cannot find nearly all.
        require(0.04 <= near < 1, "near_duplicate must be between 0.04 and 1", near)
        for name, known in (
            ("tokenizer", ("char", "byte", "bpe")),
            ("dedup", ("off", "exact", "minhash")),
            ("split", ("auto", "hash", "tail")),
        ):
            value = getattr(self, name)
            require(value in known, f"{name} must be one of {', '.join(known)}", repr(value))
