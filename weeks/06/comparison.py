r"""Which of two models is better, judged on splits whose training sets overlap.

The $J$ differences of score share training data and are not independent: the variance of their
mean is not $S^2 / J$, with $S^2$ the variance of one, but nearer

$$\Big(\frac1J + \frac{n_\mathrm{test}}{n_\mathrm{train}}\Big)\, S^2 .$$

>>> a, b = np.array([0.75, 1.0, 0.75, 1.0]), np.array([0.5, 0.5, 0.75, 0.75])
>>> plain = corrected_resampled_ttest(a, b, test_share=0)
>>> corrected = corrected_resampled_ttest(a, b, test_share=0.25)  # 1/4 + 1/4: twice the variance
>>> plain.difference, round(plain.t / corrected.t, 6)
(0.25, 1.414214)
>>> round(plain.p, 2), round(corrected.p, 2)
(0.09, 0.18)

Source: Nadeau and Bengio, "Inference for the generalization error" (2003), section 3.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from shared.arguments import checked
from shared.require import require
from week06.cross_validation import Score, Target


@dataclass(frozen=True)
class Comparison:
    """Mean difference a - b, its interval, Student's t and the two-sided p-value."""

    difference: float
    low: float
    high: float
    t: float
    p: float


@checked
def corrected_resampled_ttest(
    a: Float[np.ndarray, " splits"],
    b: Float[np.ndarray, " splits"],
    *,
    test_share: float,
    level: float = 0.95,
) -> Comparison:
    r"""Compare two models scored on the same splits, whose training sets overlap.

    Parameters
    ----------
    a, b
        Scores; a[i] and b[i] on the same split.
    test_share
        n_test / n_train; 0 gives the plain paired t-test, which takes the splits for independent.
    level
        Coverage of the interval.

    References
    ----------
    Nadeau and Bengio (2003), section 3.1, with ρ = n_test / (n_test + n_train): the variance of the
    mean of J differences is estimated by (1/J + n_test / n_train) S².
    """
    from scipy.special import stdtr, stdtrit

    require(len(a) >= 2, "a and b must hold at least 2 splits", len(a))
    require(test_share >= 0, "test_share must be n_test / n_train, at least 0", test_share)
    require(0 < level < 1, "level must be between 0 and 1", level)
    difference, n = a - b, len(a)
    mean = float(difference.mean())
    error = math.sqrt((1 / n + test_share) * float(difference.var(ddof=1)))
    if error == 0:  # the same difference everywhere: no spread to judge by
        t, p = (0.0, 1.0) if mean == 0 else (math.copysign(math.inf, mean), 0.0)
    else:
        t = mean / error
        p = float(2 * stdtr(n - 1, -abs(t)))
    half = float(stdtrit(n - 1, (1 + level) / 2)) * error
    return Comparison(mean, mean - half, mean + half, t, p)


@checked
def bootstrap_difference(
    y_true: Target,
    pred_a: Target,
    pred_b: Target,
    score: Score,
    *,
    rng: np.random.Generator,
    n_resamples: int = 1000,
) -> Float[np.ndarray, " resamples"]:
    """Differences of score, a - b, over test samples drawn with replacement, the same for both.

    Their quantiles are an interval for *these two fitted models*; how much another training set
    would change, they cannot say.
    """
    require(len(y_true) >= 2, "y_true must hold at least 2 samples", len(y_true))
    require(n_resamples >= 1, "n_resamples must be at least 1", n_resamples)
    draws = (rng.integers(0, len(y_true), len(y_true)) for _ in range(n_resamples))
    return np.array(
        [score(y_true[i], pred_a[i]) - score(y_true[i], pred_b[i]) for i in draws], dtype=float
    )
