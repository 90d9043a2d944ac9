r"""Pseudo-relevance feedback: the first results, taken as relevant, ask the question again.

On the side of words, RM3 mixes the query's terms with the most frequent of the results; on the side
of vectors, Rocchio moves the query towards them:

$$ p'(t) = (1 - \lambda)\, p(t \mid q) + \lambda\, p(t \mid R), \qquad
   q' = \frac{q + \beta\, \bar v_R}{\lVert q + \beta\, \bar v_R \rVert}. $$

First results that have little to do with one another are a sign that not all of them are relevant.
So $\lambda$ and $\beta$ are multiplied by a power of their *cohesion*, the mean cosine of pairs.

>>> expand({"heat": 1}, [["heat", "flow"], ["heat", "flow", "wing"]], n_terms=2, weight=0.5)
{'heat': 0.75, 'flow': 0.25}
>>> rocchio(np.array([1.0, 0.0]), np.array([[0.0, 1.0]]), weight=1.0).round(3)
array([0.707, 0.707])

Source: V. Lavrenko and W. B. Croft, "Relevance-based language models" (2001); J. Rocchio,
"Relevance feedback in information retrieval" (1971); N. Abdul-Jaleel et al., RM3 (2004).
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float


def expand(
    query: Mapping[str, float],
    documents: Sequence[Sequence[str]],
    *,
    n_terms: int = 20,
    weight: float = 0.5,
) -> dict[str, float]:
    """Weights of the query's terms and of the documents' most frequent ones.

    Parameters
    ----------
    query
        Terms and how often each is asked.
    documents
        Terms of the documents taken as relevant; each document counts the same.
    weight
        From 0, the query as it is, to 1. A query without terms is what the documents say.
    """
    shares: Counter[str] = Counter()
    for terms in documents:
        for term, n in Counter(terms).items():
            shares[term] += n / len(terms)
    best = dict(sorted(shares.items(), key=lambda item: (-item[1], item[0]))[:n_terms])
    weight = weight if query else 1.0
    expanded: Counter[str] = Counter()
    for terms, share in ((query, 1 - weight), (best, weight)):
        total = sum(terms.values())
        for term, n in terms.items():
            expanded[term] += share * n / total
    return {term: share for term, share in expanded.items() if share > 0}


def rocchio(
    query: Float[np.ndarray, " dim"], vectors: Float[np.ndarray, "n dim"], *, weight: float
) -> Float[np.ndarray, " dim"]:
    """The query, moved towards the direction of the vectors' mean; of length 1."""
    return _unit(query + weight * _unit(vectors.mean(axis=0)))


def cohesion(vectors: Float[np.ndarray, "n dim"]) -> float:
    """Mean cosine of all pairs, between 0 and 1; 0 of one vector alone."""
    n = len(vectors)
    if n < 2:
        return 0.0
    pairs = (vectors @ vectors.T)[np.triu_indices(n, 1)]
    return float(np.clip(pairs.mean(), 0, 1))


def _unit(vector: Float[np.ndarray, " dim"]) -> Float[np.ndarray, " dim"]:
    length = np.linalg.norm(vector)
    return vector / length if length > 0 else vector
