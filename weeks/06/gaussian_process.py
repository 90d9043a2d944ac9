r"""Regression by a Gaussian process: a mean at every point, and how much to trust it.

Before any observation the values at any points are jointly normal with mean zero and covariance
$v\,R$, where the correlation $R$ falls with distance. Given observations $y$ with noise $\lambda$,
and $K = v\,R + \lambda I$, the value at a new point with covariances $k$ to them has

$$\mu = k^\top K^{-1} y, \qquad \sigma^2 = v - k^\top K^{-1} k .$$

>>> process = GaussianProcess(length_scale=1.0).fit(np.zeros((1, 1)), np.array([2.0]))
>>> mean, std = process.predict(np.array([[0.0], [1.0], [19.0]]))
>>> mean.round(2), std.round(2)  # where it was seen, near by, far off
(array([2.  , 1.05, 0.  ]), array([0.  , 0.85, 1.  ]))

Source: Rasmussen and Williams, *Gaussian Processes for Machine Learning* (2006), algorithm 2.1 and
equations 4.14 to 4.17.
"""

import itertools
import math

import numpy as np
from jaxtyping import Float

from shared.require import require

Points = Float[np.ndarray, "n d"]


def kernel_matrix(
    a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"], *, length_scale: float
) -> Float[np.ndarray, "n m"]:
    r"""Correlation of two points at distance r, in units of the length scale.

    Matérn's of order 5/2, twice differentiable: $(1 + s + s^2/3) e^{-s}$ with $s = \sqrt5 r$.

    References
    ----------
    Rasmussen and Williams (2006), equation 4.17.
    """
    require(length_scale > 0, "length_scale must be positive", length_scale)
    squared = ((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=-1) / length_scale**2
    s = np.sqrt(5 * squared)
    return (1 + s + s**2 / 3) * np.exp(-s)


class GaussianProcess:
    """Regression by a Gaussian process with mean zero.

    Parameters
    ----------
    length_scale
        Distance over which values are alike.
    variance
        Variance of the values before any is seen.
    noise
        Variance of each observation's error.

    References
    ----------
    Rasmussen and Williams (2006), algorithm 2.1.
    """

    def __init__(self, length_scale: float = 1.0, variance: float = 1.0, noise: float = 1e-6):
        for name, value in (("length_scale", length_scale), ("variance", variance)):
            require(value > 0, f"{name} must be positive", value)
        require(noise >= 0, "noise must be at least 0", noise)
        self.length_scale, self.variance, self.noise = length_scale, variance, noise

    def fit(self, X: Points, y: Float[np.ndarray, " n"]) -> "GaussianProcess":
        """Factor the covariance of the observations."""
        if len(y) == 0 or not (np.isfinite(X).all() and np.isfinite(y).all()):
            raise ValueError("X and y must hold at least one sample, and finite numbers only")
        K = self.variance * self._correlation(X, X) + self.noise * np.eye(len(X))
        # A Cholesky factor and two triangular solves, never an inverse: K is nearly singular as
        # soon as two trials are close.
        self.L_ = np.linalg.cholesky(K + 1e-12 * self.variance * np.eye(len(X)))
        self.X_, self.alpha_ = X, np.linalg.solve(self.L_.T, np.linalg.solve(self.L_, y))
        self.log_marginal_likelihood_ = float(
            -0.5 * y @ self.alpha_
            - np.log(np.diag(self.L_)).sum()
            - 0.5 * len(y) * math.log(2 * math.pi)
        )
        return self

    def predict(self, X: Points) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Mean and standard deviation of the function (without the noise) at each point."""
        fitted = hasattr(self, "L_")
        require(fitted, "GaussianProcess must be fitted before use: call fit(X, y) first")
        columns = self.X_.shape[1]
        require(X.shape[1] == columns, f"X must have {columns} columns as in fit", X.shape[1])
        cross = self.variance * self._correlation(self.X_, X)
        v = np.linalg.solve(self.L_, cross)
        variance = self.variance - (v**2).sum(axis=0)
        return cross.T @ self.alpha_, np.sqrt(variance.clip(min=0))

    def _correlation(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return kernel_matrix(a, b, length_scale=self.length_scale)


def fit_by_likelihood(
    X: Points,
    y: Float[np.ndarray, " n"],
    *,
    length_scales: Float[np.ndarray, " s"],
    noise_ratios: Float[np.ndarray, " r"],
) -> GaussianProcess:
    r"""Return the process whose hyper-parameters make the observations likeliest.

    Writing $K = v\,(R + \lambda I)$, the best variance for a given length scale and noise ratio λ
    is $y^\top (R + \lambda I)^{-1} y / n$ (the derivative of the log-likelihood vanishes there),
    so only those two are searched.
    """
    best = None
    for length_scale, ratio in itertools.product(length_scales.tolist(), noise_ratios.tolist()):
        unit = GaussianProcess(length_scale, 1.0, ratio).fit(X, y)
        variance = max(float(y @ unit.alpha_) / len(y), 1e-12)
        process = GaussianProcess(length_scale, variance, ratio * variance).fit(X, y)
        if best is None or process.log_marginal_likelihood_ > best.log_marginal_likelihood_:
            best = process
    if best is None:
        raise ValueError("length_scales and noise_ratios must hold at least one value each")
    return best
