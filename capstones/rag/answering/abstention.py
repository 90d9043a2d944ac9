r"""When to say that one does not know: the evidence in numbers, and one threshold.

Four features of a search, each from 0 to 1, say how good its best chunks are:

- *dense*: the best cosine;
- *lexical*: the best BM25 score as a share of what the question's terms could give at most;
- *agreement*: the share of the best chunks that both sides found;
- *coverage*: the share of the weight of the question's words that the best chunk holds, where a
  rare word weighs more, $\sum_{t \in q \cap d} \mathrm{idf}_t / \sum_{t \in q} \mathrm{idf}_t$.

The confidence is a logistic regression on them, $\sigma(w \cdot x + b)$, fitted on questions with
and without an answer by `calibrate`; those that fitted it never judge it. The threshold is the one
under which a twentieth of the fitting questions with an answer fall; `evaluation.answers` has the
curve of coverage and risk for those who want another.

>>> confidence(Evidence(0.8, 0.6, 1.0, 1.0)) > 0.5 > confidence(Evidence(0.2, 0.1, 0.0, 0.2))
True

Sources: Platt, "Probabilistic outputs for support vector machines" (1999); El-Yaniv and Wiener,
"On the foundations of noise-free selective classification" (2010), for coverage and risk.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from rag.answering.citations import content
from rag.types import Hit
from shared.require import require

# Fitted by `evaluation.questions.fit` on the dev questions: Python's manual, hybrid search, MiniLM.
WEIGHTS, BIAS, THRESHOLD = (2.52, 1.3, 1.06, 2.1), -2.55, 0.65


class Evidence(NamedTuple):
    """What a search says of its own success; each number from 0 to 1."""

    dense: float
    lexical: float
    agreement: float
    coverage: float


def evidence(
    question: str,
    hits: Sequence[Hit],
    frequency: Callable[[str], int],
    n_chunks: int,
) -> Evidence:
    """Features of a search.

    Parameters
    ----------
    hits
        The best first; their stages "dense" and "bm25" are used where they are there.
    frequency
        In how many of the store's `n_chunks` chunks a stemmed term occurs.
    """
    if not hits:
        return Evidence(0.0, 0.0, 0.0, 0.0)
    words = content(question)
    df = {term: frequency(term) for term in words}
    weights = {t: math.log1p((n_chunks - n + 0.5) / (n + 0.5)) for t, n in df.items()}
    total = sum(weights.values()) or 1.0

    def held(hit: Hit) -> float:
        there = content(f"{hit.chunk.heading} {hit.chunk.text}")
        return sum(weight for term, weight in weights.items() if term in there) / total

    sides = [{stage: hit.stages.get(stage, 0.0) for stage in ("dense", "bm25")} for hit in hits]
    both = [bool(side["dense"] > 0 and side["bm25"] > 0) for side in sides]
    return Evidence(
        dense=float(np.clip(max(side["dense"] for side in sides), 0, 1)),
        lexical=float(np.clip(max(side["bm25"] for side in sides) / total, 0, 1)),
        agreement=sum(both) / len(both),
        coverage=max(held(hit) for hit in hits[:3]),
    )


def confidence(features: Evidence, weights: Sequence[float] = WEIGHTS, bias: float = BIAS) -> float:
    """From 0 to 1: how sure it is that the chunks hold an answer."""
    return float(1 / (1 + np.exp(-(np.dot(weights, features) + bias))))


def calibrate(
    features: Float[np.ndarray, "n 4"],
    answerable: Bool[np.ndarray, " n"],
    *,
    penalty: float = 1.0,
    steps: int = 50,
) -> tuple[tuple[float, ...], float]:
    """Weights and bias of the logistic regression, by Newton's method on the penalized likelihood.

    The penalty is half the squared length of the weights, times `penalty`; the bias is free.
    """
    kinds = set(np.asarray(answerable, bool).tolist())
    require(len(kinds) == 2, "answerable must hold both kinds of questions", sorted(kinds))
    x = np.column_stack([features, np.ones(len(features))]).astype(float)
    ridge = penalty * np.diag([1.0] * (x.shape[1] - 1) + [0.0])
    w = np.zeros(x.shape[1])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-x @ w))
        gradient = x.T @ (p - answerable) + ridge @ w
        hessian = (x * (p * (1 - p))[:, None]).T @ x + ridge
        w -= np.linalg.solve(hessian, gradient)
    return tuple(w[:-1].tolist()), float(w[-1])
