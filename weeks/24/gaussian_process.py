r"""Gaussian processes: regression with a distribution over functions, exact by one Cholesky factor.

Values of $f$ at any points are jointly normal with covariance $k$; what is observed is $f$ plus
noise, $y = f(X) + \varepsilon$, $\varepsilon \sim N(0, \sigma^2)$. With $K_y = K + \sigma^2 I$ and
$a = K_y^{-1} y$, conditioning gives at new points

$$E[f_*] = K_{*X}\, a, \qquad \mathrm{Cov}[f_*] = K_{**} - K_{*X} K_y^{-1} K_{X*} .$$

Kernel and noise are chosen by the marginal likelihood, which pays for flexibility by itself:

$$\ln p(y) = -\tfrac12 y^\top a - \tfrac12 \ln |K_y| - \tfrac n2 \ln 2\pi, \qquad
  \frac{\partial \ln p(y)}{\partial \vartheta} = \tfrac12 \mathrm{tr}\Big((a a^\top - K_y^{-1})
  \frac{\partial K_y}{\partial \vartheta}\Big) .$$

>>> one = GaussianProcess(RBF(1.0), 0.1).fit(np.zeros((1, 1)), np.array([1.0]))
>>> latent, observed = one.predict(np.zeros((1, 1))), one.predict(np.zeros((1, 1)), noisy=True)
>>> print(f"{latent.mean[0]:.4f} {latent.variance[0]:.4f} {observed.variance[0]:.4f}")
0.9091 0.0909 0.1909

    uv run weeks/24/gaussian_process.py

Source: Rasmussen & Williams, *Gaussian Processes for Machine Learning* (2006), chapters 2 and 5.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.linalg import cho_solve, solve_triangular
from scipy.optimize import minimize

from shared.arguments import checked
from shared.require import require
from week24.kernels import RBF, Inputs, Kernel

__all__ = ["RBF", "GaussianProcess", "Prediction", "factor", "log_marginal_likelihood"]


class Prediction(NamedTuple):
    """Mean and variance at each point."""

    mean: Float[np.ndarray, " n"]
    variance: Float[np.ndarray, " n"]

    def log_density(self, y: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Of each value by itself, in nats."""
        squares = np.square(y - self.mean) / self.variance
        return -0.5 * (squares + np.log(2 * np.pi * self.variance))


def factor(matrix: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """Its Cholesky factor L, lower triangular; nothing is added to the diagonal.

    Raises
    ------
    ValueError
        If the matrix is not positive definite to rounding.
    """
    try:
        return np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        smallest = np.linalg.eigvalsh(matrix)[0]
        raise ValueError(
            "covariance must be positive definite, got a smallest eigenvalue of"
            f" {smallest:.1e}; points that nearly coincide need more noise"
        ) from None


@checked
def log_marginal_likelihood(
    kernel: Kernel, noise: float, X: Inputs, y: Float[np.ndarray, " n"]
) -> tuple[float, Float[np.ndarray, " p"]]:
    """ln p(y) in nats, and its gradient by the kernel's theta and the log of the noise's variance.

    References
    ----------
    Rasmussen & Williams (2006), eqs. 2.30 and 5.9.
    """
    n = len(y)
    L = factor(kernel(X, X) + noise * np.eye(n))
    a = cho_solve((L, True), y)
    value = -0.5 * y @ a - np.log(L.diagonal()).sum() - n / 2 * np.log(2 * np.pi)
    inner = np.outer(a, a) - cho_solve((L, True), np.eye(n))
    by_kernel = np.einsum("ij,pij->p", inner, kernel.gradient(X)) / 2
    return float(value), np.append(by_kernel, noise * np.trace(inner) / 2)


@dataclass
class GaussianProcess:
    """Regression with a kernel and noise of a variance.

    Parameters
    ----------
    kernel, noise
        In the units of y, or of standardized y if `normalize`.
    normalize
        Fit (y − mean) / sd, and give predictions in y's own units.
    """

    kernel: Kernel
    noise: float
    normalize: bool = False

    def __post_init__(self):
        require(self.noise > 0, "noise must be positive", self.noise)

    def fit(self, X: Inputs, y: Float[np.ndarray, " n"]) -> "GaussianProcess":
        """Condition on data; kernel and noise stay as they are."""
        self.X, self.shift, self.scale = X, 0.0, 1.0
        if self.normalize:
            self.shift, self.scale = float(y.mean()), float(y.std())
            require(self.scale > 0, "y must vary if normalize is set", self.scale)
        self.y = (y - self.shift) / self.scale
        self.L = factor(self.kernel(X, X) + self.noise * np.eye(len(y)))
        self.a = cho_solve((self.L, True), self.y)
        return self

    def optimize(
        self, X: Inputs, y: Float[np.ndarray, " n"], *, most: int = 200
    ) -> "GaussianProcess":
        """Kernel and noise with the largest marginal likelihood near the present ones; then fit.

        The likelihood has several peaks: other starts may end higher.
        """
        self.fit(X, y)

        def loss(theta):
            kernel, noise = self.kernel.with_theta(theta[:-1]), float(np.exp(theta[-1]))
            try:
                value, slope = log_marginal_likelihood(kernel, noise, X, self.y)
            except ValueError:  # parameters at which the matrix is singular: step back
                return 1e25, np.zeros_like(theta)
            return -value, -slope

        first = np.append(self.kernel.theta, np.log(self.noise))
        bounds = [(t - 12, t + 12) for t in first]
        found = minimize(
            loss, first, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": most}
        )
        self.kernel = self.kernel.with_theta(found.x[:-1])
        self.noise = float(np.exp(found.x[-1]))
        return self.fit(X, y)

    def predict(self, X: Inputs, *, noisy: bool = False) -> Prediction:
        """Mean and variance of f at new points, or of what would be observed there if `noisy`.

        Raises
        ------
        ValueError
            If a variance is negative by more than rounding: clipping it would hide that the
            factor is worthless.
        """
        across, prior = self.kernel(X, self.X), self.kernel.diagonal(X)
        explained = np.square(solve_triangular(self.L, across.T, lower=True)).sum(axis=0)
        variance = prior - explained
        rounding = 1e-9 * prior.max()
        least = variance.min()
        require(least > -rounding, "variance must not be negative beyond rounding", least)
        variance = np.maximum(variance, 0.0) + (self.noise if noisy else 0.0)
        return Prediction(self.shift + self.scale * across @ self.a, self.scale**2 * variance)

    def covariance(self, X: Inputs) -> Float[np.ndarray, "n n"]:
        """Of f at new points, all with all: what draws of whole functions need."""
        white = solve_triangular(self.L, self.kernel(X, self.X).T, lower=True)
        return self.scale**2 * (self.kernel(X, X) - white.T @ white)

    def log_evidence(self) -> float:
        """ln p(y), in nats of y's own units."""
        value = log_marginal_likelihood(self.kernel, self.noise, self.X, self.y)[0]
        return value - len(self.y) * np.log(self.scale)

    def leave_one_out(self) -> Prediction:
        """What the other observations say about each, with parameters kept: nothing is refitted.

        References
        ----------
        Rasmussen & Williams (2006), eq. 5.12.
        """
        precision = cho_solve((self.L, True), np.eye(len(self.y))).diagonal()
        mean = self.y - self.a / precision
        return Prediction(self.shift + self.scale * mean, self.scale**2 / precision)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
