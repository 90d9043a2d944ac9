"""Vectors of texts by `rag`'s MiniLM, and how many tokens it read for them.

>>> vectors, n_tokens = Embedder()(["a cup of tea"])
>>> vectors.shape, n_tokens  # with the tokens that begin and end a text
((1, 384), 6)
"""

import threading
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Float

from rag.embeddings.minilm import MOST_TOKENS, MiniLM


class Embedder:
    """One request after the other; weights are read at the first one.

    Attributes
    ----------
    waiting
        Requests that are there, for whoever counts them.
    """

    name, dim = "minilm", MiniLM.dim

    def __init__(self):
        self._turn, self.waiting = threading.Lock(), 0

    @cached_property
    def _model(self) -> MiniLM:
        return MiniLM()

    @cached_property
    def _tokenizer(self):
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self._model.folder / "tokenizer.json"))
        tokenizer.enable_truncation(MOST_TOKENS)
        tokenizer.no_padding()
        return tokenizer

    def __call__(self, texts: Sequence[str]) -> tuple[Float[np.ndarray, "n dim"], int]:
        """Vectors of length 1, and the number of tokens."""
        with self._turn:
            tokens = self._tokenizer.encode_batch(list(texts))
            return self._model.encode(texts), sum(len(text.ids) for text in tokens)
