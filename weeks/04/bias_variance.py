r"""Under- and overfitting, taken apart: bias, variance, noise, and what comes after the peak.

Fit the same model to many training sets. With $f$ the truth and $\hat f_D$ the fit to data $D$,

$$E\big[(y - \hat f_D(x))^2\big] = \underbrace{(E_D \hat f_D - f)^2}_{\text{bias}^2}
  + \underbrace{E_D (\hat f_D - E_D \hat f_D)^2}_{\text{variance}}
  + \underbrace{\sigma^2}_{\text{noise}} .$$

The identity needs $y$ to be new: on the training points the error is too small by
$2 \sigma^2 p / n$. Past the point where the model fits the data exactly, the error falls again.

>>> fits = np.array([[1.0, 2.0], [3.0, 2.0]])  # two training sets, two test points
>>> parts = decompose(fits, truth=np.array([1.0, 2.0]), noise_variance=0.25)
>>> parts.bias_squared, parts.variance, parts.total
(0.5, 0.5, 1.25)

    uv run weeks/04/bias_variance.py

Source: Geman, Bienenstock and Doursat, Neural Computation 4 (1992), section 3; Belkin, Hsu and Xu,
"Two models of double descent for weak features", SIAM J. Math. Data Science 2 (2020), theorem 1.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from shared.arguments import checked
from shared.require import require
from week01.matrix_decompositions import least_squares


class Decomposition(NamedTuple):
    """Means over the points of bias², variance and noise; their sum is the expected error."""

    bias_squared: float
    variance: float
    noise: float

    @property
    def total(self) -> float:
        """bias² + variance + noise."""
        return self.bias_squared + self.variance + self.noise


@checked
def decompose(
    predictions: Float[np.ndarray, "runs points"],
    truth: Float[np.ndarray, " points"],
    noise_variance: float,
) -> Decomposition:
    """Split the expected squared error of fits to several training sets.

    Parameters
    ----------
    predictions
        One row per training set, one column per test point.
    truth
        The mean of y at each test point, without noise.
    """
    require(len(predictions) >= 2, "predictions must have at least 2 rows", len(predictions))
    require(noise_variance >= 0, "noise_variance must be at least 0", noise_variance)
    mean = predictions.mean(axis=0)
    # The variance with `runs` in the denominator: with runs - 1 the sum is no identity.
    variance = ((predictions - mean) ** 2).mean()
    return Decomposition(float(((mean - truth) ** 2).mean()), float(variance), noise_variance)


@checked
def polynomial(x: Float[np.ndarray, " n"], degree: int) -> Float[np.ndarray, "n p"]:
    """Legendre polynomials of degree 0 to `degree` on [-1, 1]: powers, but well conditioned."""
    require(degree >= 0, "degree must be at least 0", degree)
    return np.polynomial.legendre.legvander(x, degree)


def train_validation_test_split(
    n: int, fractions: tuple[float, float, float], rng: np.random.Generator
) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " validation"], Int[np.ndarray, " test"]]:
    """Indices of three disjoint random parts of n samples.

    Fit on the first, choose on the second, and look at the third once.
    """
    shares = min(fractions) > 0 and np.isclose(sum(fractions), 1.0)
    require(shares, "fractions must be positive and sum to 1", fractions)
    first = round(fractions[0] * n)
    second = first + round(fractions[1] * n)
    enough = 0 < first < second < n
    require(enough, f"n must be large enough for three parts of {fractions}", n)
    order = rng.permutation(n)
    return order[:first], order[first:second], order[second:]


@checked
def relu_features(
    X: Float[np.ndarray, "n d"], n_features: int, rng: np.random.Generator
) -> Float[np.ndarray, "n p"]:
    """Random features max(0, Xw): a layer of a network that is drawn and never trained."""
    require(n_features >= 1, "n_features must be at least 1", n_features)
    W = rng.normal(size=(X.shape[1], n_features)) / np.sqrt(X.shape[1])
    return np.maximum(X @ W, 0.0)


def double_descent_risk(n: int, p: int, n_all: int, noise_variance: float) -> float:
    """Expected squared error of least squares on p of n_all Gaussian features, |w| = 1.

    The weights left out act as noise. At n - 1 <= p <= n + 1 the expectation is infinite.

    References
    ----------
    Belkin, Hsu and Xu (2020), theorem 1 and corollary 1: the p features are a random choice.
    """
    require(0 <= p <= n_all, f"p must be between 0 and n_all = {n_all}", p)
    seen = p / n_all
    noise = 1 - seen + noise_variance
    if p <= n - 2:
        return noise * (1 + p / (n - p - 1))
    if p <= n + 1:
        return float("inf")
    return seen * (1 - n / p) + noise * (1 + n / (p - n - 1))


def weak_features_error(
    n: int, p: int, n_all: int, noise_variance: float, rng: np.random.Generator
) -> float:
    """Squared error of one fit in that model: the expectation over new data is a closed form."""
    w = rng.normal(size=n_all)
    w /= np.linalg.norm(w)
    X = rng.normal(size=(n, n_all))
    y = X @ w + np.sqrt(noise_variance) * rng.normal(size=n)
    estimate = np.zeros(n_all)
    if p:
        estimate[:p] = least_squares(X[:, :p], y)
    return float(np.sum((estimate - w) ** 2) + noise_variance)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
