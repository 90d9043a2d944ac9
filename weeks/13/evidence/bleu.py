"""BLEU of resampled captions from the counts of each, so that a bootstrap costs only sums."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from sacrebleu.metrics import BLEU

from shared.stats import Interval


def counts(written: Sequence[str], references: Sequence[str]) -> Float[np.ndarray, "n 10"]:
    """Matches and totals of 1- to 4-grams, length, and reference's length, per caption."""
    metric = BLEU(effective_order=True)  # which changes a sentence's score, not its counts
    scores = [metric.sentence_score(w, [r]) for w, r in zip(written, references, strict=True)]
    return np.array([[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in scores], dtype=float)


def bleu(sums: Float[np.ndarray, "10"]) -> float:
    """Corpus BLEU (sacrebleu's formula) of summed counts."""
    correct, total, (length, reference) = sums[:4].tolist(), sums[4:8].tolist(), sums[8:].tolist()
    lengths = {"sys_len": int(length), "ref_len": int(reference)}
    return BLEU.compute_bleu(correct, total, **lengths, smooth_method="exp").score


def gain(
    a: Float[np.ndarray, "n 10"],
    b: Float[np.ndarray, "n 10"],
    rng: np.random.Generator,
    n_resamples: int = 1000,
) -> Interval:
    """BLEU of a minus BLEU of b with its percentile interval; captions are drawn in pairs."""
    n = len(a)
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=n_resamples)
    gains = [bleu(x) - bleu(y) for x, y in zip(drawn @ a, drawn @ b, strict=True)]
    low, high = np.percentile(gains, [2.5, 97.5])
    mean = bleu(a.sum(axis=0)) - bleu(b.sum(axis=0))
    return Interval(mean, min(mean, low), max(mean, high), n)
