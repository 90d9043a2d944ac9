"""How good a run is, by the definitions of trec_eval.

A run names, by query, the documents found and their scores; qrels name, by query, the documents
judged and their grades. What a run leaves out counts 0, a query too.

>>> run = {"q1": {"a": 0.9, "b": 0.5}, "q2": {"c": 1.0, "d": 1.0}}
>>> qrels = {"q1": {"b": 1}, "q2": {"d": 2, "x": 1}, "q3": {"a": 1}}
>>> values = evaluate(run, qrels, ["mrr", "recall@1"])
>>> values["q1"], values["q2"], values["q3"]  # of equal scores the later name is first
({'mrr': 0.5, 'recall@1': 0.0}, {'mrr': 1.0, 'recall@1': 0.5}, {'mrr': 0.0, 'recall@1': 0.0})
>>> means(values)
{'mrr': 0.5, 'recall@1': 0.16666666666666666}
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from shared.errors import UserError
from shared.require import require
from week12 import ranking

Run = Mapping[str, Mapping[str, float]]
Qrels = Mapping[str, Mapping[str, int]]
Values = dict[str, dict[str, float]]

METRICS = ("ndcg@10", "map", "mrr", "recall@10", "recall@100", "P@10")


def evaluate(run: Run, qrels: Qrels, metrics: Sequence[str] = METRICS) -> Values:
    """Each metric of each judged query.

    Parameters
    ----------
    run
        Scores by document by query; queries without judgments are passed over.
    qrels
        Grades by document by query; a document is relevant if its grade is above 0.
    metrics
        ``ndcg``, ``map``, ``mrr``, ``recall`` or ``P``, of the first k with ``@k``.

    Raises
    ------
    UserError
        A metric is another.
    ValueError
        A score is not finite.
    """
    measures = {name: _measure(name) for name in metrics}
    values: Values = {}
    for query, grades in qrels.items():
        found = order(run.get(query, {}))
        relevant = {document: grade for document, grade in grades.items() if grade > 0}
        values[query] = {
            name: measure(found, relevant) if relevant else 0.0
            for name, measure in measures.items()
        }
    return values


def means(values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric over the queries."""
    require(values, "values must hold at least one query", "none")
    names = next(iter(values.values()))
    return {name: float(np.mean([of[name] for of in values.values()])) for name in names}


def order(scores: Mapping[str, float]) -> list[str]:
    """Documents, the best first, as trec_eval orders them.

    It holds scores as float32: what differs by less is a tie, and of equals the later name is
    first.
    """
    rounded = np.array(list(scores.values()), np.float32)
    require(np.isfinite(rounded).all(), "scores of a run must be finite", "others")
    return ranking.trec_order(dict(zip(scores, rounded.tolist(), strict=True)))


def collapse(documents: Iterable[str], scores: Iterable[float]) -> dict[str, float]:
    """The score of each document, which is that of its best chunk."""
    best: dict[str, float] = {}
    for document, score in zip(documents, scores, strict=True):
        best[document] = max(float(score), best.get(document, -np.inf))
    return best


def _measure(name: str) -> Callable[[list[str], Mapping[str, int]], float]:
    form = re.fullmatch(r"(ndcg|map|mrr|recall|P)(?:@([1-9]\d*))?", name)
    if form is None or name in ("P", "recall"):
        known = "ndcg, map, mrr, ndcg@K, map@K, mrr@K, recall@K or P@K"
        raise UserError(f"metrics must be {known}, got {name!r}")
    kind, k = form[1], int(form[2]) if form[2] else None

    def measure(found: list[str], relevant: Mapping[str, int]) -> float:
        first = found[:k]
        hits = [i for i, document in enumerate(first, 1) if document in relevant]
        if kind == "ndcg":
            return ranking.ndcg(first, relevant, k or len(found) + len(relevant))
        if kind == "map":
            return ranking.average_precision(first, relevant)
        if kind == "mrr":
            return 1 / hits[0] if hits else 0.0
        return len(hits) / (len(relevant) if kind == "recall" else k)

    return measure
