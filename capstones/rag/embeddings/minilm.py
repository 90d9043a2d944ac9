"""MiniLM as an embedder: week 14's encoder with real weights, one vector per text or per token.

>>> model = MiniLM()
>>> tea, coffee, car = model.encode(["a cup of tea", "a mug of coffee", "the car is broken"])
>>> bool(tea @ coffee > tea @ car)
True

A text is cut at its first 256 tokens, as the model was trained: about a thousand characters of
English. Chunks should be shorter than that.
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from shared.pretrained import minilm

if TYPE_CHECKING:
    import torch

BATCH = 32
MOST_TOKENS = 256


class MiniLM:
    """all-MiniLM-L6-v2 from its package. Weights are read at the first text, not before."""

    name = "minilm"
    dim = 384

    def __init__(self):
        self.folder = minilm()

    @cached_property
    def digest(self) -> str:
        """Of the weights and the tokenizer."""
        whole = hashlib.sha256(f"mean of {MOST_TOKENS} tokens".encode())
        for name in ("model.safetensors", "tokenizer.json"):
            with (self.folder / name).open("rb") as stream:
                whole.update(hashlib.file_digest(stream, "sha256").digest())
        return whole.hexdigest()

    @cached_property
    def _model(self):
        from rag.embeddings.fused import fused
        from week14.minilm import load_bert

        return fused(load_bert(self.folder).eval())

    @cached_property
    def _tokenizer(self):
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        tokenizer.enable_truncation(MOST_TOKENS)
        tokenizer.enable_padding()
        return tokenizer

    def encode(self, texts: Sequence[str]) -> Float[np.ndarray, "n dim"]:
        """Mean of the last hidden states, of length 1."""
        vectors = np.empty((len(texts), self.dim), np.float32)
        for places, states, keep in self._states(texts):
            mean = (states * keep[..., None]).sum(dim=1) / keep.sum(dim=1, keepdim=True)
            vectors[places] = mean / mean.norm(dim=1, keepdim=True)
        return vectors

    def token_vectors(self, texts: Sequence[str]) -> list[Float[np.ndarray, "tokens dim"]]:
        """Each token's last hidden state, of length 1; without [CLS] and [SEP]."""
        found: list = [None] * len(texts)
        for places, states, keep in self._states(texts):
            states = states / states.norm(dim=2, keepdim=True)
            for place, vectors, n in zip(places, states, keep.sum(dim=1), strict=True):
                found[place] = vectors[1 : n - 1].numpy().copy()
        return found

    def _states(
        self, texts: Sequence[str]
    ) -> Iterator[tuple[np.ndarray, "torch.Tensor", "torch.Tensor"]]:
        """Batches of texts of like length: their places, hidden states, where no padding is."""
        import torch

        order = np.argsort([len(text) for text in texts], kind="stable")
        for start in range(0, len(order), BATCH):
            places = order[start : start + BATCH]
            encoded = self._tokenizer.encode_batch([texts[i] for i in places])
            tokens = torch.tensor([text.ids for text in encoded])
            keep = torch.tensor([text.attention_mask for text in encoded], dtype=torch.bool)
            with torch.inference_mode():
                yield places, self._model(tokens, keep=keep), keep
