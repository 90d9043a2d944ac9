r"""Linear regression three ways: maximum likelihood, ridge, and the whole posterior.

If $y = X w + b + \varepsilon$ with Gaussian noise of variance $1/\alpha$, the likeliest weights are
those of least squares. A Gaussian prior $w \sim N(0, I/\lambda)$ turns them into ridge regression
with penalty $\lambda/\alpha$, and the posterior and the evidence are closed forms:

$$w \mid y \sim N(m, S), \quad S^{-1} = \lambda I + \alpha X^\top X, \quad m = \alpha S X^\top y,
  \qquad p(y) = N(y \mid 0,\ I/\alpha + X X^\top/\lambda).$$

    uv run weeks/04/linear_regression.py

Source: Bishop, *Pattern Recognition and Machine Learning* (2006), sections 3.1, 3.3 and 3.5;
MacKay, "Bayesian interpolation", Neural Computation 4 (1992).
"""

import numpy as np
from jaxtyping import Float

from week01.matrix_decompositions import (
    EPS,
    householder_qr,
    least_squares,
    solve_triangular,
    svd_jacobi,
)
from week04.estimator import Estimator, Regressor, check_X, check_X_y


class StandardScaler(Estimator):
    """Give every column mean 0 and variance 1 in the data of `fit`, and only there.

    Attributes
    ----------
    mean_, scale_ : (n_features,)
        Taken from the training data and used for all data ever after. A constant column has
        scale 1. The variance is the one with n in the denominator, as in scikit-learn.
    """

    def fit(self, X: Float[np.ndarray, "n p"], y: object = None) -> "StandardScaler":
        """Remember the mean and standard deviation of each column; y is not looked at."""
        X = check_X(X)
        self.n_features_in_ = X.shape[1]
        self.mean_ = X.mean(axis=0)
        deviation = np.sqrt(np.mean((X - self.mean_) ** 2, axis=0))
        constant = deviation <= 10 * EPS * np.abs(X).max(axis=0)  # rounding of the mean
        self.scale_ = np.where(constant, 1.0, deviation)
        return self

    def transform(self, X: Float[np.ndarray, "m p"]) -> Float[np.ndarray, "m p"]:
        """(X - mean of the training data) / standard deviation of the training data."""
        return (self._check_fitted_X(X) - self.mean_) / self.scale_

    def fit_transform(
        self, X: Float[np.ndarray, "n p"], y: object = None
    ) -> Float[np.ndarray, "n p"]:
        """`fit` and `transform` of the same data."""
        return self.fit(X).transform(X)


def minimum_norm(
    A: Float[np.ndarray, "n p"], b: Float[np.ndarray, "n *k"]
) -> Float[np.ndarray, "p *k"]:
    """Least squares by QR; among many solutions the shortest.

    With fewer rows than columns, Aᵀ = Q R and x = Q R⁻ᵀ b lies in the row space, which is what
    makes it the shortest. Without full rank R cannot be inverted and the SVD takes over.
    """
    wide = A.shape[0] < A.shape[1]
    Q, R = householder_qr(A.T if wide else A)
    diagonal = np.abs(np.diag(R))
    if diagonal.min() <= max(A.shape) * EPS * diagonal.max():
        return least_squares(A, b)
    if wide:  # Rᵀ is a lower triangle: read backwards, an upper one
        return Q @ solve_triangular(R.T[::-1, ::-1], b[::-1])[::-1]
    return solve_triangular(R, Q.T @ b)


def sgd_steps(
    X: Float[np.ndarray, "n q"],
    y: Float[np.ndarray, " n"],
    *,
    learning_rate: float,
    n_epochs: int,
    batch_size: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "steps q"]:
    r"""Weights after every step of SGD on the mean of (Xw - y)² / 2, starting from zero.

    The rate falls as η / (1 + epoch), so that Σ η diverges and Σ η² does not
    (Robbins and Monro, 1951). The gradient is the mean over the batch: with the sum instead, the
    right learning rate would depend on the batch size.
    """
    w, path = np.zeros(X.shape[1]), []
    for epoch in range(n_epochs):
        order = rng.permutation(len(X))
        for start in range(0, len(X), batch_size):
            batch = order[start : start + batch_size]
            gradient = X[batch].T @ (X[batch] @ w - y[batch]) / len(batch)
            w = w - learning_rate / (1 + epoch) * gradient
            path.append(w)
        if not np.isfinite(w @ w):
            raise ValueError(
                f"learning_rate must be small enough for SGD to converge, got {learning_rate}: the"
                " weights overflow; features of one scale allow a larger one"
            )
    return np.array(path)


class LinearRegression(Regressor):
    """Maximum likelihood under Gaussian noise, which is least squares.

    Parameters
    ----------
    solver
        ``"qr"`` (the shortest solution if there are many), ``"normal"`` (XᵀX w = Xᵀy, which
        squares the condition number) or ``"sgd"``.
    fit_intercept
        Whether the model has an offset.
    learning_rate, n_epochs, batch_size, random_state
        For SGD only.

    Attributes
    ----------
    coef_ : (n_features,), intercept_ : float
    noise_variance_ : float
        The likeliest variance of the noise, residual sum of squares / n. It is biased low:
        see `bias_variance.py`.
    """

    def __init__(
        self,
        *,
        solver: str = "qr",
        fit_intercept: bool = True,
        learning_rate: float = 0.1,
        n_epochs: int = 20,
        batch_size: int = 32,
        random_state: int = 0,
    ):
        self.solver, self.fit_intercept = solver, fit_intercept
        self.learning_rate, self.n_epochs, self.batch_size = learning_rate, n_epochs, batch_size
        self.random_state = random_state

    def fit(self, X: Float[np.ndarray, "n p"], y: Float[np.ndarray, " n"]) -> "LinearRegression":
        """Find the likeliest weights."""
        X, y = check_X_y(X, y)
        _one_of("solver", self.solver, ("qr", "normal", "sgd"))
        Xc, yc, x_mean, y_mean = _centered(X, y, self.fit_intercept)
        if self.solver == "qr":
            self.coef_ = minimum_norm(Xc, yc)
        elif self.solver == "normal":
            self.coef_ = minimum_norm(Xc.T @ Xc, Xc.T @ yc)
        else:
            _positive("learning_rate", self.learning_rate)
            _positive("n_epochs", self.n_epochs)
            _positive("batch_size", self.batch_size)
            self.coef_ = sgd_steps(
                Xc,
                yc,
                learning_rate=self.learning_rate,
                n_epochs=self.n_epochs,
                batch_size=self.batch_size,
                rng=np.random.default_rng(self.random_state),
            )[-1]
        self.n_features_in_ = X.shape[1]
        self.intercept_ = float(y_mean - x_mean @ self.coef_)
        self.noise_variance_ = float(np.mean((yc - Xc @ self.coef_) ** 2))
        return self

    def predict(self, X: Float[np.ndarray, "m p"]) -> Float[np.ndarray, " m"]:
        """X w + b."""
        return self._check_fitted_X(X) @ self.coef_ + self.intercept_


class Ridge(Regressor):
    """Least squares with penalty alpha |w|²: the likeliest weights under a Gaussian prior.

    The penalty is p more rows of data, √alpha on the diagonal, that say "this weight is 0": what
    one believes beforehand enters like observations. The intercept is not penalized.
    """

    def __init__(self, alpha: float = 1.0, *, fit_intercept: bool = True):
        self.alpha, self.fit_intercept = alpha, fit_intercept

    def fit(self, X: Float[np.ndarray, "n p"], y: Float[np.ndarray, " n"]) -> "Ridge":
        """Find the weights, by QR of the data and the prior's rows."""
        X, y = check_X_y(X, y)
        if not 0 <= self.alpha < np.inf:
            raise ValueError(f"alpha must be finite and at least 0, got {self.alpha}")
        Xc, yc, x_mean, y_mean = _centered(X, y, self.fit_intercept)
        prior = np.sqrt(self.alpha) * np.eye(X.shape[1])
        self.coef_ = (
            minimum_norm(np.vstack([Xc, prior]), np.append(yc, np.zeros(len(prior))))
            if self.alpha > 0
            else minimum_norm(Xc, yc)
        )
        self.n_features_in_ = X.shape[1]
        self.intercept_ = float(y_mean - x_mean @ self.coef_)
        return self

    def predict(self, X: Float[np.ndarray, "m p"]) -> Float[np.ndarray, " m"]:
        """X w + b."""
        return self._check_fitted_X(X) @ self.coef_ + self.intercept_


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
        How many weights the data determine, of n_features (Bishop, equation 3.91).

    References
    ----------
    Bishop (2006), equations 3.53, 3.54, 3.86, 3.92 and 3.95.
    """

    def __init__(
        self,
        *,
        noise_precision: float | None = None,
        weight_precision: float | None = None,
        max_iter: int = 1000,
        tol: float = 1e-10,
    ):
        self.noise_precision, self.weight_precision = noise_precision, weight_precision
        self.max_iter, self.tol = max_iter, tol

    def fit(
        self, X: Float[np.ndarray, "n p"], y: Float[np.ndarray, " n"]
    ) -> "BayesianLinearRegression":
        """Find the posterior and, where they are not given, the precisions."""
        X, y = check_X_y(X, y, min_samples=2)
        for name in ("noise_precision", "weight_precision"):
            if getattr(self, name) is not None:
                _positive(name, getattr(self, name))
        _positive("max_iter", self.max_iter)
        n, p = X.shape
        Xc, yc, self.x_mean_, y_mean = _centered(X, y, True)
        # In the basis of the singular vectors posterior and evidence are sums over s.
        U, s, Vt = svd_jacobi(Xc)
        d = U.T @ yc
        outside = max(float(yc @ yc - d @ d), 0.0)  # what no weights can explain
        spread = float(np.mean(yc**2)) or 1.0
        alpha = self.noise_precision or 1.0 / spread
        lam = self.weight_precision or 1.0
        for step in range(1, self.max_iter + 1):
            before, self.n_iter_ = (alpha, lam), step
            m = alpha * s * d / (lam + alpha * s**2)
            error = outside + float(np.sum((d - s * m) ** 2))
            gamma = float(np.sum(alpha * s**2 / (lam + alpha * s**2)))
            # Data without noise, or without signal, would push a precision to infinity.
            if self.weight_precision is None:
                lam = min(max(gamma, EPS) / max(float(m @ m), EPS**2 * spread), 1e12)
            if self.noise_precision is None:
                alpha = min(max(n - gamma, EPS) / max(error, EPS * spread), 1e14 / spread)
            if np.allclose((alpha, lam), before, rtol=self.tol, atol=0.0):
                break
        precision = lam + alpha * s**2
        m = alpha * s * d / precision
        self.n_features_in_, self.alpha_, self.lambda_ = p, float(alpha), float(lam)
        self.gamma_ = float(np.sum(alpha * s**2 / precision))
        self.coef_ = Vt.T @ m
        self.covariance_ = (Vt.T / precision) @ Vt
        if len(s) < p:  # directions that the data never reach keep the prior's variance 1 / λ
            self.covariance_ += (np.eye(p) - Vt.T @ Vt) / lam
        self.intercept_ = float(y_mean - self.x_mean_ @ self.coef_)
        error = outside + float(np.sum((d - s * m) ** 2))
        self.log_evidence_ = float(
            len(s) * np.log(lam) - np.log(precision).sum() + n * np.log(alpha / (2 * np.pi))
            - alpha * error - lam * (m @ m)
        ) / 2  # fmt: skip
        self.n_samples_ = n
        return self

    def predict(self, X: Float[np.ndarray, "m p"]) -> Float[np.ndarray, " m"]:
        """Mean of the predictive distribution."""
        return self._check_fitted_X(X) @ self.coef_ + self.intercept_

    def predict_std(self, X: Float[np.ndarray, "m p"]) -> Float[np.ndarray, " m"]:
        """Standard deviation of a new observation: noise, intercept and weights together.

        The intercept's own 1 / (nα) belongs to it (Gelman et al., *Bayesian Data Analysis*, 3rd
        ed. (2013), section 14.2); scikit-learn's BayesianRidge leaves it out.
        """
        X = self._check_fitted_X(X) - self.x_mean_
        weights = np.einsum("ij,jk,ik->i", X, self.covariance_, X)
        return np.sqrt((1 + 1 / self.n_samples_) / self.alpha_ + np.maximum(weights, 0.0))


def _centered(X: np.ndarray, y: np.ndarray, intercept: bool):
    """Subtract the means: the likeliest plane passes through them, whatever its slope."""
    x_mean, y_mean = (X.mean(axis=0), y.mean()) if intercept else (np.zeros(X.shape[1]), 0.0)
    return X - x_mean, y - y_mean, x_mean, y_mean


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}")


def _positive(name: str, value: float | int) -> None:
    if not 0 < value < np.inf:
        raise ValueError(f"{name} must be finite and greater than 0, got {value}")


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
