"""How many queries per second beside rank_bm25's, over 100,000 chunks? One thread, in turns.

uv run study bench 12
"""

import statistics
import time

import numpy as np
from threadpoolctl import threadpool_limits

from shared.datasets import wikipedia
from week12.bm25 import BM25
from week12.preprocessing import words

CHUNKS, LENGTH, TERMS = 100_000, 32, 5


def bench(repeats: int = 20, chunks: int = CHUNKS) -> dict:
    """Ask both the same queries; medians of a query's seconds, the ten best included.

    The chunks are 32 words of Wikipedia each; a query is 5 words of one of them. Both use
    Robertson's weights. rank_bm25 keeps a negative weight's term by another rule, so queries are of
    words that less than half of the chunks have, and the scores must then agree.

    Parameters
    ----------
    repeats
        How many queries are timed.
    chunks
        How many chunks are indexed.
    """
    from rank_bm25 import BM25Okapi

    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    text = [word for article in wikipedia() for word in words(article.text)]
    chunks = min(chunks, len(text) // LENGTH)
    documents = [text[i * LENGTH : (i + 1) * LENGTH] for i in range(chunks)]
    names = [str(i) for i in range(chunks)]
    rng = np.random.default_rng(0)
    frequent = {word for document in documents[:2000] for word in set(document)}
    common = {w for w in frequent if sum(w in d for d in documents[:500]) > 100}
    queries = []
    for i in rng.permutation(chunks)[:repeats]:
        usable = sorted(set(documents[i]) - common)
        queries.append([str(word) for word in rng.permutation(usable)[:TERMS]])

    with threadpool_limits(1):
        start = time.perf_counter()
        ours = BM25("robertson").add(names, documents)
        ours.search(queries[0])
        built = time.perf_counter() - start
        start = time.perf_counter()
        theirs = BM25Okapi(documents)
        theirs_built = time.perf_counter() - start
        seconds, apart = {"ours": [], "theirs": []}, 0.0
        for query in queries:
            start = time.perf_counter()
            ours.search(query, k=10)
            seconds["ours"].append(time.perf_counter() - start)
            start = time.perf_counter()
            scores = theirs.get_scores(query)
            np.argsort(scores)[::-1][:10]
            seconds["theirs"].append(time.perf_counter() - start)
            apart = max(apart, np.abs(scores - 2.5 * ours.scores(query)).max())  # theirs has k1 + 1
    if not apart < 1e-3:
        raise RuntimeError(f"the two do not compute the same: scores are {apart:.1e} apart")
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "name": f"a query of {TERMS} words over {chunks:,} chunks, against rank_bm25, one thread"
        f" (built in {built:.1f} s, rank_bm25 in {theirs_built:.1f} s)",
        "ours_seconds": medians["ours"],
        "reference_seconds": medians["theirs"],
        "ratio": medians["ours"] / medians["theirs"],
        "limit": 0.05,
        "equal_work": f"all scores of {repeats} queries at most {apart:.0e} apart",
    }
