r"""Bayesian linear regression: the whole posterior over weights, and the evidence.

With Gaussian noise of variance $1/\alpha$ and a Gaussian prior $w \sim N(0, I/\lambda)$ the
posterior and the evidence are closed forms:

$$w \mid y \sim N(m, S), \quad S^{-1} = \lambda I + \alpha X^\top X, \quad m = \alpha S X^\top y,
  \qquad p(y) = N(y \mid 0,\ I/\alpha + X X^\top/\lambda).$$

Its maximum is ridge regression with penalty $\lambda/\alpha$; the evidence picks both precisions
from the training data alone. What it is worth is measured by linear_regression.py.

>>> X, y = np.array([[0.0], [1.0], [2.0]]), np.array([1.0, 3.0, 5.0])
>>> model = BayesianLinearRegression(noise_precision=1.0, weight_precision=2.0).fit(X, y)
>>> print(model.coef_.round(6), model.predict_std(np.array([[1.0], [9.0]])).round(2))
[1.] [1.15 4.16]

Source: Bishop, *Pattern Recognition and Machine Learning* (2006), sections 3.3 and 3.5, with his α
and β called λ and α here, as in scikit-learn; MacKay, "Bayesian interpolation", Neural Computation
4 (1992).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from shared.arguments import checked
from shared.require import require
from week01.matrix_decompositions import EPS, svd_jacobi
from week04.estimator import Regressor, check_X_y
from week04.linear_regression import centered


@checked
def posterior_mean(
    s: Float[np.ndarray, " r"], d: Float[np.ndarray, " r"], alpha: float | int, lam: float | int
) -> tuple[Float[np.ndarray, " r"], float]:
    """m in the basis of the singular vectors, from X = U diag(s) Vᵀ and d = Uᵀy; and γ.

    γ = Σ αs²/(λ + αs²) counts the weights that the data determine (Bishop, equation 3.91).
    """
    share = alpha * s**2 / (lam + alpha * s**2)
    return alpha * s * d / (lam + alpha * s**2), float(np.sum(share))


@dataclass(kw_only=True, eq=False, repr=False)
class BayesianLinearRegression(Regressor):
    r"""The posterior over weights; both precisions by maximizing the evidence.

    Parameters
    ----------
    noise_precision, weight_precision
        α and λ. A number fixes it; None finds it by MacKay's updates
        λ ← γ / |m|², α ← (n - γ) / |y - Xm|², γ = Σ αs²/(λ + αs²).
    max_iter, tol
        The updates stop when both change by less than tol, relatively.

    Attributes
    ----------
    coef_, covariance_, intercept_
        m, S, and the mean of the intercept, which has a flat prior.
    alpha_, lambda_ : float
        The precisions; lambda_ / alpha_ is the ridge penalty that they amount to.
    log_evidence_ : float
        ln p(y) of the centered data at these precisions.
    gamma_ : float
        How many weights the data determine, of n_features.

    References
    ----------
    Bishop (2006), equations 3.53, 3.54, 3.86, 3.92 and 3.95.
    """

    noise_precision: float | None = None
    weight_precision: float | None = None
    max_iter: int = 1000
    tol: float = 1e-10

    def fit(self, X: ArrayLike, y: ArrayLike) -> "BayesianLinearRegression":
        """Find the posterior and, where they are not given, the precisions."""
        X, y = check_X_y(X, y, min_samples=2)
        for name in ("noise_precision", "weight_precision", "max_iter"):
            value = getattr(self, name)
            positive = value is None or 0 < value < np.inf
            require(positive, f"{name} must be finite and greater than 0", value)
        n, p = X.shape
        Xc, yc, self.x_mean_, y_mean = centered(X, y)
        # In the basis of the singular vectors posterior and evidence are sums over s.
        U, s, Vt = svd_jacobi(Xc)
        d = U.T @ yc
        outside = max(float(yc @ yc - d @ d), 0.0)  # what no weights can explain
        spread = float(np.mean(yc**2)) or 1.0
        alpha, lam = self.noise_precision or 1.0 / spread, self.weight_precision or 1.0
        for step in range(1, self.max_iter + 1):
            before, self.n_iter_ = (alpha, lam), step
            m, gamma = posterior_mean(s, d, alpha, lam)
            error = outside + float(np.sum((d - s * m) ** 2))
            # Data without noise, or without signal, would push a precision to infinity.
            if self.weight_precision is None:
                lam = min(max(gamma, EPS) / max(float(m @ m), EPS**2 * spread), 1e12)
            if self.noise_precision is None:
                alpha = min(max(n - gamma, EPS) / max(error, EPS * spread), 1e14 / spread)
            if np.allclose((alpha, lam), before, rtol=self.tol, atol=0.0):
                break
        m, self.gamma_ = posterior_mean(s, d, alpha, lam)
        precision, error = lam + alpha * s**2, outside + float(np.sum((d - s * m) ** 2))
        self.alpha_, self.lambda_ = float(alpha), float(lam)
        self.n_samples_, self.n_features_in_ = n, p
        self.coef_ = Vt.T @ m
        self.covariance_ = (Vt.T / precision) @ Vt
        if len(s) < p:  # directions that the data never reach keep the prior's variance 1 / λ
            self.covariance_ += (np.eye(p) - Vt.T @ Vt) / lam
        self.intercept_ = float(y_mean - self.x_mean_ @ self.coef_)
        determinants = len(s) * np.log(lam) - np.log(precision).sum()
        squares = alpha * error + lam * (m @ m)
        self.log_evidence_ = float(determinants + n * np.log(alpha / (2 * np.pi)) - squares) / 2
        return self

    def predict(self, X: ArrayLike) -> Float[np.ndarray, " m"]:
        """Mean of the predictive distribution."""
        return self._check_fitted_X(X) @ self.coef_ + self.intercept_

    def predict_std(self, X: ArrayLike) -> Float[np.ndarray, " m"]:
        """Standard deviation of a new observation: noise, intercept and weights together.

        The intercept's own 1 / (nα) belongs to it (Gelman et al., *Bayesian Data Analysis*, 3rd
        ed. (2013), section 14.2); scikit-learn's BayesianRidge leaves it out.
        """
        X = self._check_fitted_X(X) - self.x_mean_
        weights = np.einsum("ij,jk,ik->i", X, self.covariance_, X)
        return np.sqrt((1 + 1 / self.n_samples_) / self.alpha_ + np.maximum(weights, 0.0))
