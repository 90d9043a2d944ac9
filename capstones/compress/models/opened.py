"""A model that was opened."""

from dataclasses import dataclass
from pathlib import Path

from compress.models.tokenizers import Tokenizer
from week18.llama3 import Llama


@dataclass(frozen=True)
class OpenedModel:
    """A model, ready to be compressed or used.

    Attributes
    ----------
    model
        In float32, on the CPU; its weights are its own, so that they may be changed.
    name
        What it was opened as.
    digest
        SHA-256 of its weights as they were stored.
    folder
        Where it lies; None where that is one file.
    """

    model: Llama
    tokenizer: Tokenizer
    name: str
    digest: str
    folder: Path | None = None
