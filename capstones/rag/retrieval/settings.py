"""How to search: every choice with its number.

The defaults were chosen on the Cranfield collection, cross-validated over its queries by
`rag.evaluation.tuning`.

>>> RetrievalSettings().smooths, RetrievalSettings(mode="bm25").smooths
(True, False)
>>> RetrievalSettings(mode="sparse")
Traceback (most recent call last):
shared.errors.UserError: mode must be bm25, dense or hybrid, got 'sparse'
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shared.errors import UserError
from shared.require import require

Mode = Literal["bm25", "dense", "hybrid"]
Fusion = Literal["minmax", "rrf", "weighted"]


@dataclass(frozen=True)
class RetrievalSettings:
    """Settings of a search.

    Attributes
    ----------
    mode
        Words, vectors, or both.
    fusion
        Of both: minmax, rrf, or weighted, which is minmax with `weight` for the vectors and the
        rest for the words.
    smoothing, feedback
        Whether to; None does in hybrid mode, so that the other modes stay what they are called.
    smoothing_weight, smoothing_neighbors, smoothing_power
        See `rag.retrieval.smoothing`.
    feedback_documents
        How many of the best results are taken as relevant.
    feedback_terms
        How many of their terms are added to the query.
    term_weight, vector_weight
        How much their terms and vectors count if they were all the same; see
        `rag.retrieval.feedback` for how it falls with their cohesion.
    feedback_power
        How fast it falls; 0 is feedback for every query alike.
    rerank
        none, mmr, late (interaction of tokens), or the folder of a cross-encoder.
    rerank_weight
        Share of the re-ranker's score, from 0 to 1, in the last ranking.
    rerank_depth
        How many results are ranked again.
    mmr_lambda
        1 is relevance alone, 0 variety alone.
    k
        How many results a search has.
    depth
        How many are taken from each index.
    """

    mode: Mode = "hybrid"
    fusion: Fusion = "weighted"
    weight: float = 0.55
    smoothing: bool | None = None
    smoothing_weight: float = 0.6
    smoothing_neighbors: int = 3
    smoothing_power: float = 2.0
    feedback: bool | None = None
    feedback_documents: int = 3
    feedback_terms: int = 20
    term_weight: float = 1.0
    vector_weight: float = 1.0
    feedback_power: float = 3.0
    rerank: str = "none"
    rerank_weight: float = 0.5
    rerank_depth: int = 50
    mmr_lambda: float = 0.5
    k: int = 10
    depth: int = 100

    def __post_init__(self):
        _one_of("mode", self.mode, "bm25", "dense", "hybrid")
        _one_of("fusion", self.fusion, "minmax", "rrf", "weighted")
        if not Path(self.rerank).is_dir():
            _one_of("rerank", self.rerank, "none", "mmr", "late", "the folder of a cross-encoder")
        for name in ("weight", "rerank_weight", "mmr_lambda", "term_weight"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"{name} must be between 0 and 1", value, error=UserError)
        for name in ("smoothing_weight", "smoothing_power", "vector_weight", "feedback_power"):
            value = getattr(self, name)
            finite = 0 <= value < float("inf")
            require(finite, f"{name} must be finite and at least 0", value, error=UserError)
        counts = ("smoothing_neighbors", "feedback_documents", "feedback_terms", "rerank_depth")
        for name in (*counts, "k", "depth"):
            value = getattr(self, name)
            require(value >= 1, f"{name} must be at least 1", value, error=UserError)

    @property
    def smooths(self) -> bool:
        """Whether scores are smoothed."""
        return self.mode == "hybrid" if self.smoothing is None else self.smoothing

    @property
    def feeds_back(self) -> bool:
        """Whether the first results change the query."""
        return self.mode == "hybrid" if self.feedback is None else self.feedback


def _one_of(name: str, value: str, *known: str) -> None:
    must = f"{name} must be {', '.join(known[:-1])} or {known[-1]}"
    require(value in known, must, repr(value), error=UserError)
