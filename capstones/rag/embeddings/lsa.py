r"""Latent semantic analysis: an embedder with no model to download, learned from the texts.

Texts are rows of week 12's TF-IDF table $X$; its best approximation of rank $d$ is
$U_d \Sigma_d V_d^T$, and a text's vector is its row times $V_d$, divided by its length. Terms that
occur beside the same others come to lie close.

>>> model = LSA(dim=2).fit(["tea and milk", "coffee and milk", "car and road", "car and wheel"])
>>> tea, coffee, car = model.encode(["tea", "coffee", "car"])
>>> bool(tea @ coffee > 0.9 and abs(tea @ car) < 0.1)
True

Source: Deerwester et al., "Indexing by latent semantic analysis" (1990); the truncated SVD as in
Halko, Martinsson and Tropp, "Finding structure with randomness" (2011), section 4.5.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.sparse import csr_array

from shared import artifacts
from shared.require import require
from week12.preprocessing import terms
from week12.tfidf import CountVectorizer, TfidfTransformer


def top_directions(table: csr_array, k: int) -> Float[np.ndarray, "term k"]:
    """The k first right singular vectors, by subspace iteration from a random start.

    With 10 vectors to spare and 4 rounds, in which small singular values fade by their 8th power.
    """
    width = min(k + 10, *table.shape)
    basis = np.random.default_rng(0).standard_normal((table.shape[1], width))
    for _ in range(4):
        basis = np.linalg.qr(table.T @ np.linalg.qr(table @ basis)[0])[0]
    return basis @ np.linalg.svd(table @ basis, full_matrices=False)[2][:k].T


class LSA:
    """TF-IDF and a truncated SVD, learned once: by `fit`, at a store's first ingest.

    Parameters
    ----------
    dim
        Length of a vector; less if the texts have not so many dimensions.
    """

    name = "lsa"
    digest = ""  # until fitted

    def __init__(self, dim: int = 256):
        require(dim >= 1, "dim must be at least 1", dim)
        self.dim = dim

    def fit(self, texts: Sequence[str]) -> "LSA":
        """Learn terms, their weights and the directions."""
        counter = CountVectorizer(terms, min_df=1 if len(texts) < 1000 else 2)
        counts = counter.fit_transform(texts)
        tfidf = TfidfTransformer(sublinear_tf=True).fit(counts)
        table = tfidf.transform(counts)
        directions = top_directions(table, min(self.dim, *table.shape))
        return self._set(counter.terms, tfidf.idf, directions.astype(np.float32))

    def _set(self, vocabulary: list[str], idf: np.ndarray, directions: np.ndarray) -> "LSA":
        self._counter, self._tfidf = CountVectorizer(terms), TfidfTransformer(sublinear_tf=True)
        self._counter.terms = vocabulary
        self._counter.vocabulary = {term: i for i, term in enumerate(vocabulary)}
        self._tfidf.idf, self._directions = idf, np.ascontiguousarray(directions)
        self.dim = directions.shape[1]
        parts = (json.dumps(vocabulary).encode(), idf.tobytes(), self._directions.tobytes())
        self.digest = hashlib.sha256(b"\0".join(parts)).hexdigest()
        return self

    def encode(self, texts: Sequence[str]) -> Float[np.ndarray, "n dim"]:
        """Vectors of length 1; of a text without a known term, zero, which resembles nothing."""
        require(self.digest, "LSA must be fitted before use: call fit first")
        table = self._tfidf.transform(self._counter.transform(list(texts)))
        vectors = np.asarray(table @ self._directions, np.float32)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)

    def save(self, folder: Path) -> None:
        """Write what was learned, as an artifact."""
        tensors = {"idf": self._tfidf.idf, "directions": self._directions}
        words = {"terms.json": json.dumps(self._counter.terms).encode()}
        artifacts.save_tensors(folder, tensors, metadata={"kind": "lsa"}, files=words)

    @classmethod
    def load(cls, folder: Path) -> "LSA":
        """Read what `save` wrote; every byte is verified."""
        tensors, artifact = artifacts.load_tensors(folder)
        if artifact.metadata.get("kind") != "lsa":
            raise artifacts.ArtifactError(f"artifact {artifact.path} is no LSA")
        vocabulary = json.loads(artifact.files["terms.json"])
        return cls()._set(vocabulary, tensors["idf"], tensors["directions"])
