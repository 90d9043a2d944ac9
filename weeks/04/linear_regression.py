r"""Linear regression: maximum likelihood three ways, and ridge.

If $y = X w + b + \varepsilon$ with Gaussian noise, the likeliest weights are least squares',

$$ w = \arg\min |X w - y|^2 , \qquad X^\top X w = X^\top y . $$

A Gaussian prior on the weights adds a penalty, $|X w - y|^2 + \alpha |w|^2$: ridge regression. What
the posterior knows beyond its maximum stands in bayesian_regression.py.

>>> X, y = np.array([[0.0], [1.0], [2.0]]), np.array([1.0, 3.0, 5.0])
>>> line, ridge = LinearRegression().fit(X, y), Ridge(alpha=2.0).fit(X, y)
>>> print(line.coef_.round(6), round(line.intercept_, 6), ridge.coef_.round(6), ridge.intercept_)
[2.] 1.0 [1.] 2.0

    uv run weeks/04/linear_regression.py

Source: Bishop, *Pattern Recognition and Machine Learning* (2006), sections 3.1 and 3.3; Robbins and
Monro, "A stochastic approximation method" (1951).
"""

from dataclasses import KW_ONLY, dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from shared.arguments import checked
from shared.require import require
from week01.matrix_decompositions import EPS, least_squares
from week04.estimator import Estimator, Regressor, check_X, check_X_y


class StandardScaler(Estimator):
    """Give every column mean 0 and variance 1 in the data of `fit`, and only there.

    Attributes
    ----------
    mean_, scale_ : (n_features,)
        Taken from the training data and used for all data ever after. A constant column has
        scale 1. The variance is the one with n in the denominator, as in scikit-learn.
    """

    def fit(self, X: ArrayLike, y: object = None) -> "StandardScaler":
        """Remember the mean and standard deviation of each column; y is not looked at."""
        X = check_X(X)
        self.n_features_in_ = X.shape[1]
        self.mean_ = X.mean(axis=0)
        deviation = np.sqrt(np.mean((X - self.mean_) ** 2, axis=0))
        constant = deviation <= 10 * EPS * np.abs(X).max(axis=0)  # rounding of the mean
        self.scale_ = np.where(constant, 1.0, deviation)
        return self

    def transform(self, X: ArrayLike) -> Float[np.ndarray, "m p"]:
        """(X - mean of the training data) / standard deviation of the training data."""
        return (self._check_fitted_X(X) - self.mean_) / self.scale_

    def fit_transform(self, X: ArrayLike, y: object = None) -> Float[np.ndarray, "n p"]:
        """`fit` and `transform` of the same data."""
        return self.fit(X).transform(X)


@checked
def sgd_steps(
    X: Float[np.ndarray, "n q"],
    y: Float[np.ndarray, " n"],
    *,
    lr: float,
    epochs: int,
    batch_size: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "steps q"]:
    """Weights after every step of SGD on the mean of (Xw - y)² / 2, starting from zero.

    The rate falls as lr / (1 + epoch), so that its sum diverges and that of its squares does not
    (Robbins and Monro, 1951). The gradient is the mean over the batch: with the sum instead, the
    right rate would depend on the batch size.
    """
    w, path = np.zeros(X.shape[1]), []
    for epoch in range(epochs):
        order = rng.permutation(len(X))
        for start in range(0, len(X), batch_size):
            batch = order[start : start + batch_size]
            gradient = X[batch].T @ (X[batch] @ w - y[batch]) / len(batch)
            w = w - lr / (1 + epoch) * gradient
            path.append(w)
        hint = f"{lr}: the weights overflow; features of one scale allow a larger one"
        require(np.isfinite(w @ w), "lr must be small enough for SGD to converge", hint)
    return np.array(path)


@checked
def centered(
    X: Float[np.ndarray, "n p"], y: Float[np.ndarray, " n"], intercept: bool = True
) -> tuple[Float[np.ndarray, "n p"], Float[np.ndarray, " n"], Float[np.ndarray, " p"], float]:
    """X and y minus their means, and these: the likeliest plane passes through them."""
    x_mean, y_mean = (X.mean(axis=0), y.mean()) if intercept else (np.zeros(X.shape[1]), 0.0)
    return X - x_mean, y - y_mean, x_mean, float(y_mean)


@dataclass(kw_only=True, eq=False, repr=False)
class LinearRegression(Regressor):
    """Maximum likelihood under Gaussian noise, which is least squares.

    Parameters
    ----------
    solver
        ``"qr"`` (the shortest solution if there are many), ``"normal"`` (XᵀX w = Xᵀy, which
        squares the condition number) or ``"sgd"``.
    lr, epochs, batch_size, random_state
        For SGD only.

    Attributes
    ----------
    coef_ : (n_features,), intercept_ : float
    noise_variance_ : float
        The likeliest variance of the noise, residual sum of squares / n. It is biased low:
        see `bias_variance.py`.
    """

    solver: str = "qr"
    fit_intercept: bool = True
    lr: float = 0.1
    epochs: int = 20
    batch_size: int = 32
    random_state: int = 0

    def fit(self, X: ArrayLike, y: ArrayLike) -> "LinearRegression":
        """Find the likeliest weights."""
        X, y = check_X_y(X, y)
        solvers, must = ("qr", "normal", "sgd"), "must be finite and greater than 0"
        require(
            self.solver in solvers, f"solver must be one of {', '.join(solvers)}", repr(self.solver)
        )
        sgd = {name: getattr(self, name) for name in ("lr", "epochs", "batch_size")}
        for name, value in sgd.items():
            require(0 < value < np.inf, f"{name} {must}", value)
        Xc, yc, x_mean, y_mean = centered(X, y, self.fit_intercept)
        if self.solver == "qr":
            self.coef_ = least_squares(Xc, yc)
        elif self.solver == "normal":
            self.coef_ = least_squares(Xc.T @ Xc, Xc.T @ yc)
        else:
            rng = np.random.default_rng(self.random_state)
            self.coef_ = sgd_steps(Xc, yc, rng=rng, **sgd)[-1]
        self.n_features_in_ = X.shape[1]
        self.intercept_ = float(y_mean - x_mean @ self.coef_)
        self.noise_variance_ = float(np.mean((yc - Xc @ self.coef_) ** 2))
        return self

    def predict(self, X: ArrayLike) -> Float[np.ndarray, " m"]:
        """X w + b."""
        return self._check_fitted_X(X) @ self.coef_ + self.intercept_


@dataclass(eq=False, repr=False)
class Ridge(Regressor):
    """Least squares with penalty alpha |w|²: the likeliest weights under a Gaussian prior.

    The penalty is p more rows of data, √alpha on the diagonal, that say "this weight is 0": what
    one believes beforehand enters like observations. The intercept is not penalized.
    """

    alpha: float = 1.0
    _: KW_ONLY
    fit_intercept: bool = True

    def fit(self, X: ArrayLike, y: ArrayLike) -> "Ridge":
        """Find the weights, by QR of the data and the prior's rows."""
        X, y = check_X_y(X, y)
        require(0 <= self.alpha < np.inf, "alpha must be finite and at least 0", self.alpha)
        Xc, yc, x_mean, y_mean = centered(X, y, self.fit_intercept)
        if self.alpha > 0:
            prior = np.sqrt(self.alpha) * np.eye(X.shape[1])
            Xc, yc = np.vstack([Xc, prior]), np.append(yc, np.zeros(len(prior)))
        self.coef_ = least_squares(Xc, yc)
        self.n_features_in_ = X.shape[1]
        self.intercept_ = float(y_mean - x_mean @ self.coef_)
        return self

    def predict(self, X: ArrayLike) -> Float[np.ndarray, " m"]:
        """X w + b."""
        return self._check_fitted_X(X) @ self.coef_ + self.intercept_


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
