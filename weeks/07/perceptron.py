r"""The perceptron: learn only from mistakes, and stop after at most $R^2/\gamma^2$ of them.

A unit says +1 or -1 by the side of a line that an example lies on. If it is wrong, the example is
added to the weights with the sign of its label $y = \pm 1$; if it is right, nothing happens:

$$ y\,(w^\top x + b) \le 0 \quad \Longrightarrow \quad w \leftarrow w + \eta\, y\, x, \qquad
   b \leftarrow b + \eta\, y . $$

If some unit vector separates all $(x, 1)$ with margin $\gamma$, and none is longer than $R$, the
number of mistakes is at most $R^2/\gamma^2$, whatever the order and the dimension. If none does,
as for exclusive or, the mistakes never end.

>>> X = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
>>> conjunction = np.array([-1, -1, -1, 1])
>>> learned = fit(X, conjunction)
>>> learned.converged, learned.mistakes, round(novikoff_bound(X, conjunction))
(True, 18, 51)
>>> fit(X, np.array([-1, 1, 1, -1])).converged  # exclusive or
False

    uv run weeks/07/perceptron.py

Source: F. Rosenblatt, *The Perceptron* (Psychological Review 65, 1958); A. Novikoff, *On
Convergence Proofs for Perceptrons* (1962), theorem 1; Y. Freund and R. Schapire, *Large Margin
Classification Using the Perceptron Algorithm* (Machine Learning 37, 1999), section 3, for the
average; S. Gallant, *Perceptron-Based Learning Algorithms* (1990), section III, for the pocket.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from shared.arguments import checked
from shared.require import require


@dataclass(frozen=True, eq=False)
class PerceptronFit:
    """What a run over the examples leaves behind.

    Attributes
    ----------
    path
        The weights, bias last, at the start and after each mistake.
    mistakes_per_epoch
        How many of the n examples were on the wrong side when they came, by epoch.
    average
        Mean of the weights that each example met after it was learned from, bias last.
    pocket
        The weights with the fewest errors on all examples, among those of `path`.
    """

    path: Float[np.ndarray, "updates d"]
    mistakes_per_epoch: Int[np.ndarray, " epochs"]
    average: Float[np.ndarray, " d"]
    pocket: Float[np.ndarray, " d"]

    @property
    def weights(self) -> Float[np.ndarray, " d"]:
        """The last weights, bias last."""
        return self.path[-1]

    @property
    def mistakes(self) -> int:
        """Mistakes of all epochs."""
        return int(self.mistakes_per_epoch.sum())

    @property
    def converged(self) -> bool:
        """Whether the last epoch passed without a mistake."""
        return bool(self.mistakes_per_epoch[-1] == 0)


def augment(X: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "n d"]:
    """Append a constant 1, so that the bias is one more weight."""
    return np.column_stack([X, np.ones(len(X))])


@checked
def errors(
    weights: Float[np.ndarray, " d"], X: Float[np.ndarray, "n p"], y: Int[np.ndarray, " n"]
) -> int:
    """How many examples are not strictly on their side; one on the line counts as an error."""
    return int(np.sum(y * (augment(X) @ weights) <= 0))


@checked
def predict(weights: Float[np.ndarray, " d"], X: Float[np.ndarray, "n p"]) -> Int[np.ndarray, " n"]:
    """Sides of the line: +1, or -1 for what is below it or on it."""
    return np.where(augment(X) @ weights > 0, 1, -1)


@checked
def fit(
    X: Float[np.ndarray, "n p"],
    y: Int[np.ndarray, " n"],
    *,
    max_epochs: int = 1000,
    lr: float = 1.0,
    pocket: bool = False,
) -> PerceptronFit:
    """Go through the examples in the order given, again and again, until an epoch has no mistake.

    Parameters
    ----------
    X, y
        Examples, one per row, and their labels +1 or -1.
    lr
        η; from zero weights it only scales them and changes no decision.
    pocket
        Whether to keep the best weights so far, at n more dot products per mistake.

    Raises
    ------
    ValueError
        Labels other than ±1, examples that are not finite or none, a parameter out of range.

    References
    ----------
    Rosenblatt (1958); Freund and Schapire (1999), figure 1.
    """
    _validate(X, y)
    require(max_epochs >= 1, "max_epochs must be at least 1", max_epochs)
    require(0 < lr < np.inf, "lr must be positive and finite", lr)
    Z = augment(X)
    w, total = np.zeros(Z.shape[1]), np.zeros(Z.shape[1])
    path, mistakes = [w.copy()], []
    best, fewest = w.copy(), len(y)
    for _ in range(max_epochs):
        mistakes.append(0)
        for z, label in zip(Z, y, strict=True):
            # ≤, not <: zero weights would be "right" about everything and never move.
            if label * (z @ w) <= 0:
                w += lr * label * z
                mistakes[-1] += 1
                path.append(w.copy())
                if pocket and (count := errors(w, X, y)) < fewest:
                    best, fewest = w.copy(), count
            total += w  # every example has a vote, also for weights that it left alone
        if mistakes[-1] == 0:
            break
    seen = len(mistakes) * len(y)
    return PerceptronFit(np.array(path), np.array(mistakes), total / seen, best if pocket else w)


@dataclass(frozen=True, eq=False)
class Margin:
    """The widest margin, or the proof that there is none.

    Attributes
    ----------
    gamma
        Distance of the nearest (x, 1) from the best plane through the origin; 0 if no plane
        separates.
    weights
        Unit normal of that plane, bias last; zeros if there is none.
    mixture
        Weights α ≥ 0, Σα = 1, of the examples: the mean of y (x, 1) under α has length `gamma`.
        If that is 0, no w can be on the right side of all: Σ α y (x, 1)·w would be both 0 and > 0.
    """

    gamma: float
    weights: Float[np.ndarray, " d"]
    mixture: Float[np.ndarray, " n"]


@checked
def max_margin(X: Float[np.ndarray, "n p"], y: Int[np.ndarray, " n"]) -> Margin:
    """The largest γ in Novikoff's theorem: the distance of the hull of y (x, 1) from the origin.

    By duality the widest margin equals the shortest vector that a mixture of the y (x, 1) can
    make. That is a least-squares problem with α ≥ 0, solved exactly by Lawson and Hanson's method.

    References
    ----------
    Lawson and Hanson, *Solving Least Squares Problems* (1974), chapter 23, problem LDP.
    """
    from scipy.optimize import nnls

    _validate(X, y)
    Z = augment(X) * y[:, None]
    size = np.linalg.norm(Z, axis=1).max()
    # minimize |Zᵀu|² + (1 - Σu)²; the residual's last entry is > 0 exactly if a plane separates
    system = np.vstack([Z.T / size, np.ones(len(Z))])
    target = np.append(np.zeros(Z.shape[1]), 1.0)
    u, _ = nnls(system, target, maxiter=30 * len(Z))
    mixture = u / u.sum()
    residual = target - system @ u
    if np.linalg.norm(residual) < 1e-8:
        return Margin(0.0, np.zeros(Z.shape[1]), mixture)
    direction = -residual[:-1]
    direction = direction / np.linalg.norm(direction)
    return Margin(float((Z @ direction).min()), direction, mixture)


@checked
def novikoff_bound(X: Float[np.ndarray, "n p"], y: Int[np.ndarray, " n"]) -> float:
    """R²/γ², the most mistakes that `fit` can make; infinite if nothing separates the labels."""
    gamma = max_margin(X, y).gamma
    radius = np.linalg.norm(augment(X), axis=1).max()
    return float((radius / gamma) ** 2) if gamma > 0 else np.inf


def _validate(X: np.ndarray, y: np.ndarray) -> None:
    require(len(X), "X must have at least one row, got none")
    require(np.isfinite(X).all(), "X must be finite, got a NaN or an infinity")
    wrong = np.setdiff1d(y, [-1, 1])
    require(not wrong.size, "y must be +1 or -1", *wrong[:1])


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
