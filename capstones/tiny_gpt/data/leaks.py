"""How much of the validation text training has seen, after all that was done against it.

The third measure of `week15.corpus.find_leaks` (the other two are `Corpus.exact_leaks` and
`Corpus.near_leaks`): the share of 13-word runs of the validation documents that occur in training,
also where they are quoted inside of a longer text. The runs of the validation split alone are held,
as a sorted array of hashes; if they are too many, those whose hash a power of two divides.

Sources: Brown et al., "Language models are few-shot learners" (2020), appendix C.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt64

from tiny_gpt.data.duplicates import Corpus, Span, texts_of
from tiny_gpt.data.workers import Workers
from week15.deduplication import shingles

__all__ = ["overlap"]

MAX_RUNS = 20_000_000  # 160 MB
RUN_WORDS = 13
END = (None, [])  # after the last chunk


@dataclass(frozen=True)
class Runs:
    """13-word runs of texts: those of each, or which of the wanted ones are among them.

    Only hashes that `modulus` divides are looked at. `wanted` is a file of sorted hashes; the
    answer is one array of places in it.
    """

    texts: Path
    modulus: int = 1
    wanted: Path | None = None

    def __call__(self, spans: Sequence[Span]) -> list[np.ndarray]:
        found = [
            runs[runs % np.uint64(self.modulus) == 0]
            for runs in (shingles(text, RUN_WORDS) for text in texts_of(self.texts, spans))
        ]
        if self.wanted is None:
            return found
        if not (size := self.wanted.stat().st_size):
            return [np.zeros(0, dtype=np.int64)]
        wanted = np.memmap(self.wanted, dtype=np.uint64, mode="r", shape=(size // 8,))
        runs = np.concatenate(found)
        at = np.minimum(np.searchsorted(wanted, runs), len(wanted) - 1)
        return [np.unique(at[wanted[at] == runs])]


def overlap(
    corpus: Corpus,
    pool: Workers,
    chunk_bytes: int,
    progress: Callable[[str, int, int | None], None],
) -> dict[str, Any]:
    """The share of 13-word runs of validation documents that training has (`week15.corpus`)."""
    modulus, wanted = _wanted(corpus, pool, chunk_bytes)
    path = corpus.texts.with_name("runs")
    wanted.tofile(path)
    seen = np.zeros(len(wanted), dtype=bool)
    total = corpus.one("SELECT sum(bytes) FROM pieces WHERE split = 'train'")
    done = 0
    for chunk, (hits,) in pool.map(
        Runs(corpus.texts, modulus, path), corpus.chunks("train", chunk_bytes)
    ):
        seen[hits] = True
        done += sum(span.n_bytes for span in chunk)
        progress("check for leaks", done, total)

    n_runs = n_seen = 0
    worst: list[tuple[float, int, int]] = []
    position = 0
    for _, found in pool.map(Runs(corpus.texts, modulus), corpus.chunks("val", chunk_bytes)):
        for runs in found:
            hits = int(seen[np.searchsorted(wanted, runs)].sum())
            n_runs, n_seen = n_runs + len(runs), n_seen + hits
            if hits:
                worst = sorted([*worst, (-hits / len(runs), position, len(runs))])[:5]
            position += 1
    name = (
        "SELECT d.name FROM pieces p JOIN documents d ON d.id = p.document "
        "WHERE p.split = 'val' ORDER BY p.id LIMIT 1 OFFSET ?"
    )
    return {
        "runs": n_runs,
        "runs_sampled_one_in": modulus,
        "share_of_runs_in_training": n_seen / n_runs if n_runs else 0.0,
        "worst_documents": [
            {"name": corpus.one(name, at), "runs": n, "share": -share} for share, at, n in worst
        ],
    }


def _wanted(
    corpus: Corpus, pool: Workers, chunk_bytes: int
) -> tuple[int, UInt64[np.ndarray, " n"]]:
    """The different 13-word runs of the validation split, or a sample by hash, sorted."""
    modulus, wanted = 1, np.zeros(0, dtype=np.uint64)
    waiting: list[np.ndarray] = []
    for _, found in chain(pool.map(Runs(corpus.texts), corpus.chunks("val", chunk_bytes)), [END]):
        waiting += found
        if found and sum(map(len, waiting)) < len(wanted):
            continue  # sorting is worth while when there is as much to add as there is
        # How the runs come in chunks does not change the outcome: a power of two that is needed
        # for some of them is needed for all.
        wanted, waiting = np.unique(np.concatenate([wanted, *waiting])), []
        wanted = wanted[wanted % np.uint64(modulus) == 0]
        while len(wanted) > MAX_RUNS:
            modulus *= 2
            wanted = wanted[wanted % np.uint64(modulus) == 0]
    return modulus, wanted
