r"""Logistic regression: class probabilities from a linear score, by gradient descent and Newton.

The log-odds are linear in x. With one-hot targets $Y$ and $P = \mathrm{softmax}(X W^\top)$ the
penalized mean loss, its gradient and its Hessian (block of classes k, l) are

$$L = -\frac1n \sum_i \ln P_{i,y_i} + \frac{|w|^2}{2 C n}, \quad
  \nabla L = \frac{(P - Y)^\top X}{n} + \frac{w}{C n}, \quad
  H_{kl} = \frac1n X^\top \mathrm{diag}(P_k (\delta_{kl} - P_l)) X + \frac{\delta_{kl}}{C n} I .$$

$H$ is positive semi-definite, so every minimum is the global one. Two classes need one score.

>>> X, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array(["no", "no", "yes", "yes"])
>>> model = LogisticRegression().fit(X, y)
>>> print(model.coef_.round(3), model.predict_proba(np.array([[1.5], [2.0]])).round(3)[:, 1])
[[0.958]] [0.5   0.618]

    uv run weeks/04/logistic_regression.py

Source: Bishop, *Pattern Recognition and Machine Learning* (2006), sections 4.3.2 to 4.3.4;
Albert and Anderson, Biometrika 71 (1984), for separable data.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import ArrayLike

from shared.arguments import checked
from shared.require import require
from week01.matrix_decompositions import least_squares
from week04.estimator import Classifier, check_classes, check_X_y


@checked
def softmax(Z: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """exp(Z) / its row sums; the row's maximum comes off first, so that exp cannot overflow."""
    E = np.exp(Z - Z.max(axis=1, keepdims=True))
    return E / E.sum(axis=1, keepdims=True)


@checked
def probabilities(
    X: Float[np.ndarray, "n q"], W: Float[np.ndarray, "rows q"]
) -> Float[np.ndarray, "n k"]:
    """Class probabilities: one row of W per class, or a single row for the second of two."""
    Z = X @ W.T
    return softmax(np.column_stack([np.zeros(len(X)), Z]) if len(W) == 1 else Z)


@checked
def loss_and_gradient(
    W: Float[np.ndarray, "rows q"],
    X: Float[np.ndarray, "n q"],
    Y: Float[np.ndarray, "n k"],
    penalty: Float[np.ndarray, " q"],
) -> tuple[float, Float[np.ndarray, "rows q"]]:
    """Mean log loss plus Σ penalty w² / 2, and its gradient.

    Parameters
    ----------
    Y
        One-hot targets.
    penalty
        One number per column of X: 1 / (C n), and 0 for the column of ones.
    """
    Z = X @ W.T
    if len(W) == 1:
        Z = np.column_stack([np.zeros(len(X)), Z])
    shifted = Z - Z.max(axis=1, keepdims=True)
    # ln Σ exp, not ln of the probability: that one is ln 0 for a sample far on the wrong side.
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    loss = -np.sum(Y * log_p) / len(X) + np.sum(penalty * W**2) / 2
    errors = (np.exp(log_p) - Y)[:, -len(W) :]
    return float(loss), errors.T @ X / len(X) + penalty * W


@checked
def hessian(
    W: Float[np.ndarray, "rows q"], X: Float[np.ndarray, "n q"], penalty: Float[np.ndarray, " q"]
) -> Float[np.ndarray, "rows*q rows*q"]:
    """Second derivatives of the same loss, with W read row by row."""
    P = probabilities(X, W)[:, -len(W) :]
    rows, q = W.shape
    H = np.zeros((rows, q, rows, q))
    for k in range(rows):
        for j in range(k, rows):
            curvature = P[:, k] * ((k == j) - P[:, j])
            H[k, :, j] = X.T @ (curvature[:, None] * X) / len(X)
            H[j, :, k] = H[k, :, j].T
        H[k, :, k] += np.diag(penalty)
    return H.reshape(rows * q, rows * q)


@checked
def newton_step(
    W: Float[np.ndarray, "rows q"],
    X: Float[np.ndarray, "n q"],
    Y: Float[np.ndarray, "n k"],
    penalty: Float[np.ndarray, " q"],
) -> Float[np.ndarray, "rows q"]:
    """H⁻¹ times the gradient: what to subtract from W."""
    rows, q = W.shape
    H = hessian(W, X, penalty)
    _, gradient = loss_and_gradient(W, X, Y, penalty)
    if rows > 1:
        # Adding the same vector to the weights of all classes changes nothing, so H is singular
        # there. The gradient has no part in that direction: stiffening it leaves the step alone.
        H += np.kron(np.ones((rows, rows)), np.eye(q)) * np.trace(H) / len(H)
    try:
        return np.linalg.solve(H, gradient.ravel()).reshape(rows, q)
    except np.linalg.LinAlgError:  # a column that repeats another, without a penalty
        return np.linalg.lstsq(H, gradient.ravel())[0].reshape(rows, q)


@checked
def irls_step(
    w: Float[np.ndarray, " q"], X: Float[np.ndarray, "n q"], y: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " q"]:
    """Next weights for two classes, by least squares: Newton's step in another coat.

    Rows are weighted by √(p(1 - p)), and the target is the working response Xw + (y - p)/(p(1-p)).

    References
    ----------
    Bishop (2006), equations 4.99 and 4.103.
    """
    p = probabilities(X, w[None])[:, 1]
    r = np.sqrt(p * (1 - p))
    return least_squares(r[:, None] * X, r * (X @ w) + (y - p) / r)


@checked
def gradient_descent(
    W: Float[np.ndarray, "rows q"],
    X: Float[np.ndarray, "n q"],
    Y: Float[np.ndarray, "n k"],
    penalty: Float[np.ndarray, " q"],
    *,
    lr: float | None = None,
    steps: int = 100,
    tol: float = 0.0,
) -> Float[np.ndarray, "steps rows q"]:
    """Weights before the first and after every step, until the gradient is at most tol.

    The default rate is 1 / L with L a bound on H's largest eigenvalue: |X|² / 4n for two
    classes, |X|² / 2n for more, plus the penalty. It never makes the loss rise.
    """
    if lr is None:
        bound = (0.25 if len(W) == 1 else 0.5) * np.linalg.norm(X, 2) ** 2 / len(X)
        lr = 1.0 / (bound + penalty.max())
    path = [W]
    for _ in range(steps):
        _, gradient = loss_and_gradient(W, X, Y, penalty)
        if np.abs(gradient).max() <= tol:
            break
        W = W - lr * gradient
        path.append(W)
    return np.array(path)


@dataclass(kw_only=True, eq=False, repr=False)
class LogisticRegression(Classifier):
    """Logistic regression with an L2 penalty; for more than two classes, softmax.

    Parameters
    ----------
    C
        Inverse of the penalty, as in scikit-learn: the loss is C Σ log loss + |w|² / 2, here
        divided by C n. ``inf`` for none. The intercept is never penalized.
    solver
        ``"newton"`` (with step halving) or ``"gd"``.
    fit_intercept
        Whether the scores have an offset.
    lr
        For ``"gd"``; None for 1 / (a bound on the curvature), which cannot overshoot.
    max_iter, tol
        Stop once the largest entry of the gradient of the mean loss is at most tol.

    Attributes
    ----------
    coef_ : (1, n_features) or (n_classes, n_features), intercept_ : (1,) or (n_classes,)
    classes_ : (n_classes,)
    n_iter_ : int
    converged_ : bool
    """

    C: float = 1.0
    solver: str = "newton"
    fit_intercept: bool = True
    lr: float | None = None
    max_iter: int = 1000
    tol: float = 1e-8

    def fit(self, X: ArrayLike, y: ArrayLike) -> "LogisticRegression":
        """Minimize the penalized log loss.

        Warns
        -----
        UserWarning
            If max_iter steps were not enough.
        """
        X, y = check_X_y(X, y, classes=True)
        solvers = ("newton", "gd")
        require(
            self.solver in solvers, f"solver must be one of {', '.join(solvers)}", repr(self.solver)
        )
        require(self.C > 0, "C must be greater than 0", self.C)
        for name in ("max_iter", "lr"):
            value = getattr(self, name)
            positive = value is None or 0 < value < np.inf
            require(positive, f"{name} must be finite and greater than 0", value)
        self.classes_, index = check_classes(y)
        (n, p), k = X.shape, len(self.classes_)
        self.n_features_in_ = p
        X = np.column_stack([X, np.ones(n)]) if self.fit_intercept else X
        penalty = np.full(X.shape[1], 1.0 / (self.C * n))
        penalty[p:] = 0.0
        W, Y = np.zeros((1 if k == 2 else k, X.shape[1])), np.eye(k)[index]
        if self.solver == "gd":
            options = {"lr": self.lr, "steps": self.max_iter, "tol": self.tol}
            path = gradient_descent(W, X, Y, penalty, **options)
            W, self.n_iter_ = path[-1], len(path) - 1
        else:
            W, self.n_iter_ = self._newton(W, X, Y, penalty)
        gradient = loss_and_gradient(W, X, Y, penalty)[1]
        self.converged_ = bool(np.abs(gradient).max() <= self.tol)
        if not self.converged_:
            warnings.warn(
                f"no convergence in {self.n_iter_} steps: the gradient is"
                f" {np.abs(gradient).max():.1e}, tol = {self.tol:g}. Scale the features, or allow"
                " more steps",
                stacklevel=3,
            )
        self.coef_ = W[:, :p]
        self.intercept_ = W[:, p] if self.fit_intercept else np.zeros(len(W))
        return self

    def _newton(self, W: np.ndarray, X: np.ndarray, Y: np.ndarray, penalty: np.ndarray):
        for steps in range(self.max_iter):
            loss, gradient = loss_and_gradient(W, X, Y, penalty)
            if np.abs(gradient).max() <= self.tol:
                return W, steps
            step = newton_step(W, X, Y, penalty)
            # Far from the minimum a full step may overshoot: halve it until the loss falls.
            descent, size = float(np.sum(gradient * step)), 1.0
            while size > 1e-10 and not (
                loss_and_gradient(W - size * step, X, Y, penalty)[0] <= loss - 1e-4 * size * descent
            ):
                size /= 2
            if size <= 1e-10:  # rounding: the loss cannot be told from its minimum
                return W, steps
            W = W - size * step
        return W, self.max_iter

    def decision_function(self, X: ArrayLike) -> Shaped[np.ndarray, "m *k"]:
        """Scores: log-odds of the second of two classes, or one column per class."""
        Z = self._check_fitted_X(X) @ self.coef_.T + self.intercept_
        return Z[:, 0] if Z.shape[1] == 1 else Z

    def predict_proba(self, X: ArrayLike) -> Float[np.ndarray, "m k"]:
        """Probability of each class, in the order of `classes_`."""
        Z = self.decision_function(X)
        return softmax(np.column_stack([np.zeros(len(Z)), Z]) if Z.ndim == 1 else Z)

    def predict(self, X: ArrayLike) -> Shaped[np.ndarray, " m"]:
        """The class of largest probability."""
        Z = self.decision_function(X)
        return self.classes_[(Z > 0).astype(int) if Z.ndim == 1 else Z.argmax(axis=1)]


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
