r"""Rank the best results again, by something too slow for all of them.

*Late interaction* compares token by token: each token of the query with the likest of the document,

$$ s(q, d) = \frac{1}{|q|} \sum_{i \in q} \max_{j \in d} q_i \cdot d_j . $$

A *cross-encoder* reads query and document together.

>>> query = np.eye(2, 3)
>>> late_interaction(query, [np.eye(2, 3), np.eye(1, 3), np.zeros((0, 3))])
array([1. , 0.5, 0. ])

Source: O. Khattab and M. Zaharia, "ColBERT" (2020), equation 3; here of a model that was trained
for one vector per text.
"""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from shared.errors import UserError


def late_interaction(
    query: Float[np.ndarray, "tokens dim"], documents: Sequence[Float[np.ndarray, "_ dim"]]
) -> Float[np.ndarray, " n"]:
    """Mean over the query's tokens of the greatest inner product; 0 where there is no token."""
    if len(query) == 0 or len(documents) == 0:
        return np.zeros(len(documents))
    found = [
        (tokens @ query.T).max(axis=0, initial=-1).mean() if len(tokens) else 0.0
        for tokens in documents
    ]
    return np.array(found, np.float64)


def cross_encoder(folder: str, query: str, texts: Sequence[str]) -> Float[np.ndarray, " n"]:
    """Scores of a sentence-transformers cross-encoder, which only this process reads once."""
    return np.asarray(_load(folder).predict([(query, text) for text in texts]), np.float64)


@functools.lru_cache(maxsize=1)
def _load(folder: str):
    from sentence_transformers import CrossEncoder

    try:
        return CrossEncoder(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise UserError(f"{folder} is not a readable cross-encoder: {why}") from error
