"""Choose the settings of retrieval by cross-validation over queries.

In each of five folds the settings that are best on the other queries are tried on those left out.
What these get is what a choice of this kind is worth, and not what it got where it was made. The
families of settings were drawn after a first look at Cranfield, and are narrow.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from rag.evaluation.beir import Beir
from rag.evaluation.metrics import evaluate
from rag.evaluation.ranking import BASE, search_all
from rag.retrieval.retriever import Retriever
from rag.retrieval.settings import RetrievalSettings
from rag.store.store import Store
from shared.require import require
from shared.stats import Interval, paired_bootstrap

STEPS: dict[str, list[RetrievalSettings]] = {
    "bm25": [replace(BASE, mode="bm25")],
    "dense": [replace(BASE, mode="dense")],
    "min-max": [BASE],
    "weighted": [replace(BASE, fusion="weighted", weight=w) for w in (0.4, 0.5, 0.55, 0.6, 0.7)],
    "weighted, smoothed": [
        RetrievalSettings(weight=w, smoothing_weight=a, feedback=False)
        for w, a in product((0.5, 0.55, 0.6), (0.3, 0.6, 1.0))
    ],
    "weighted, smoothed, with feedback": [
        RetrievalSettings(weight=w, feedback_documents=n, vector_weight=v, feedback_power=p)
        for w, n, v, p in product((0.5, 0.55, 0.6), (3, 4), (1.0, 2.0), (2.0, 3.0))
    ],
    "the default": [RetrievalSettings()],
}


class Step(NamedTuple):
    """What a family of settings is worth on queries that did not choose among them.

    Attributes
    ----------
    mean
        Of the metric over all queries, each by the settings that the other folds chose.
    over_fusion
        Its difference to min-max fusion, paired, with its interval.
    best
        The settings that all queries together would choose, and what they get there.
    """

    name: str
    n_settings: int
    mean: float
    over_fusion: Interval
    best: RetrievalSettings
    best_mean: float


def tune(
    store: Store,
    collection: Beir,
    *,
    metric: str = "ndcg@10",
    folds: int = 5,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> list[Step]:
    """Judge each family of settings, cross-validated over the queries."""
    vectors = store.embedder.encode(list(collection.queries.values()))
    known: dict[RetrievalSettings, np.ndarray] = {}
    wanted = dict.fromkeys(settings for family in STEPS.values() for settings in family)
    for settings in wanted:
        run = search_all(Retriever(store, settings), collection.queries, k=10, vectors=vectors)
        values = evaluate(run, collection.qrels, [metric])
        known[settings] = np.array([values[query][metric] for query in collection.queries])
        progress(len(known), len(wanted))
    fused = known[BASE]
    steps = []
    for name, family in STEPS.items():
        table = np.array([known[settings] for settings in family])
        held_out = cross_validated(table, folds=folds, rng=np.random.default_rng(seed))
        difference = paired_bootstrap(held_out, fused, rng=np.random.default_rng(seed))
        best = int(table.mean(axis=1).argmax())
        best_mean = float(table[best].mean())
        mean = float(held_out.mean())
        steps.append(Step(name, len(family), mean, difference, family[best], best_mean))
    return steps


def as_record(steps: list[Step]) -> list[dict[str, Any]]:
    """The steps as JSON holds them; of the best settings only what is not the default."""
    default = asdict(RetrievalSettings())
    return [
        {
            "name": step.name,
            "n_settings": step.n_settings,
            "mean": step.mean,
            "over_fusion": asdict(step.over_fusion),
            "best": {k: v for k, v in asdict(step.best).items() if v != default[k]},
            "best_mean": step.best_mean,
        }
        for step in steps
    ]


def cross_validated(
    table: Float[np.ndarray, "settings queries"], *, folds: int, rng: np.random.Generator
) -> Float[np.ndarray, " queries"]:
    """By query, what the settings get there that are best on the other folds."""
    n = table.shape[1]
    require(2 <= folds <= n, f"folds must be between 2 and {n} queries", folds)
    fold = rng.permutation(np.arange(n) % folds)
    chosen = [table[:, fold != left_out].mean(axis=1).argmax() for left_out in range(folds)]
    return table[np.array(chosen)[fold], np.arange(n)]
