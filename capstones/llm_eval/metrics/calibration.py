r"""Does a model's confidence mean anything? Of the answers it is 70 % sure of, are 70 % right?

Confidence is what the model gives its favorite answer, by the softmax over all answers. Documents
are put into bins by it, and

$$\mathrm{ECE} = \sum_b \frac{n_b}{n} \, |\mathrm{acc}(b) - \mathrm{conf}(b)| .$$

Binned over few documents this is above 0 for a perfect model too, which `expected_error` says.

>>> said, right = np.array([0.9, 0.9, 0.6, 0.6]), np.array([1, 1, 1, 0])
>>> round(calibration_error(right, said), 4)  # 0.1 too modest, and 0.1 too bold
0.1
>>> round(expected_error(said), 1)
0.2

Source: Guo et al., "On calibration of modern neural networks" (2017), equation 3; Nixon et al.,
"Measuring calibration in deep learning" (2019), for bins of equal mass; Brier (1950).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from llm_eval.metrics.choices import best, brier, probabilities
from llm_eval.statistics.estimates import bootstrap_estimate, mean_estimate
from llm_eval.types import Number, Sample
from week06.probabilities import calibration_error

N_BINS = 10
N_RESAMPLES = 400


def calibration(
    samples: Sequence[Sample], *, task: str, signature: str, seed: int = 0
) -> list[Number]:
    """Summary of multiple-choice samples: error of confidence, in two binnings, and its curve.

    Numbers are `ece` (bins of equal width), `ece_mass` (of equally many documents), `brier`,
    `confidence` (its mean) and, as groups of `accuracy_of_confidence`, each bin's share of right
    answers; what was said there stands in the note. Resampled documents repeat, which adds to an
    error that is above 0 by chance, so that their quantiles may leave the value out: the interval
    is the value ± 1.96 of their standard deviations, not below 0.
    """
    kept = [s for s in samples if not s.error]
    judged = [_confidence(s) for s in kept]
    clusters = [s.cluster or s.id for s in kept]
    template = samples[0].template if samples else ""

    def number(metric, estimate, better=None, group="", note=""):
        parts = (None, None, None, None, 0)
        if estimate is not None:
            parts = (estimate.value, estimate.stderr, estimate.low, estimate.high, estimate.n)
        words = f"{signature}|softmax over choices|bins:{N_BINS}"
        found = Number(task, metric, *parts, len(samples) - len(kept), better, words)
        return Number(**found.as_json() | {"group": group, "template": template, "note": note})

    if not kept:
        return [number(name, None, False) for name in ("ece", "ece_mass", "brier")]
    said = np.array([confidence for confidence, _ in judged])
    numbers, resampling = [], {"seed": seed, "n_resamples": N_RESAMPLES}
    for name, strategy in (("ece", "uniform"), ("ece_mass", "quantile")):
        estimate = bootstrap_estimate(judged, _error(strategy), clusters=clusters, **resampling)
        if half := 1.96 * (estimate.stderr or 0.0):
            low, high = max(0.0, estimate.value - half), estimate.value + half
            estimate = replace(estimate, low=low, high=high)
        floor = expected_error(said, strategy=strategy, seed=seed)
        note = f"a perfectly calibrated model would have {floor:.3f} on as many documents"
        numbers.append(number(name, estimate, False, note=note))
    distances = [brier(_logprobs(s), s.target) for s in kept if isinstance(s.target, int)]
    if len(distances) == len(kept):
        numbers.append(number("brier", mean_estimate(distances, clusters=clusters), False))
    numbers.append(number("confidence", mean_estimate(said.tolist(), clusters=clusters)))
    bins = _bins(said)
    for b in np.unique(bins):
        inside = np.flatnonzero(bins == b)
        right = [judged[i][1] for i in inside]
        estimate = mean_estimate(right, clusters=[clusters[i] for i in inside])
        group = f"{b / N_BINS:.1f} to {(b + 1) / N_BINS:.1f}"
        note = f"said {said[inside].mean():.3f}"
        numbers.append(number("accuracy_of_confidence", estimate, group=group, note=note))
    return numbers


def expected_error(
    said: Float[np.ndarray, " n"],
    *,
    n_bins: int = N_BINS,
    strategy: Literal["uniform", "quantile"] = "uniform",
    seed: int = 0,
    n_draws: int = 200,
) -> float:
    """ECE, on average, of a model that is right exactly as often as it says."""
    rng = np.random.default_rng(seed)
    draws = (rng.random((n_draws, len(said))) < said).astype(np.int64)
    errors = [calibration_error(row, said, n_bins=n_bins, strategy=strategy) for row in draws]
    return float(np.mean(errors))


def _error(strategy: str):
    def error(judged: Sequence[tuple[float, float]]) -> float:
        said, right = np.array(judged).T.copy()
        return calibration_error(right.astype(np.int64), said, n_bins=N_BINS, strategy=strategy)

    return error


def _bins(said: np.ndarray) -> np.ndarray:
    """Which bin of equal width each is in; as in `calibration_curve`, its upper edge belongs."""
    return np.searchsorted(np.linspace(0, 1, N_BINS + 1)[1:-1], said)


def _logprobs(sample: Sample) -> list[float]:
    return [response.logprob for response in sample.responses]


def _confidence(sample: Sample) -> tuple[float, float]:
    """What the model gave its favorite, and 1 if that is right."""
    logprobs = _logprobs(sample)
    favorite = best(logprobs)
    right = [sample.target] if isinstance(sample.target, int) else sample.target
    return min(1.0, probabilities(logprobs)[favorite]), float(favorite in right)
