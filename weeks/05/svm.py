r"""Support vector machines: the widest margin, found two variables at a time.

Among all lines that separate two classes take the one farthest from both. With slack for points
on the wrong side and a kernel $k(x, z) = \phi(x) \cdot \phi(z)$ for lines that are not straight,
what remains is a quadratic program in one weight for each sample,

$$\max_\alpha \sum_i \alpha_i - \tfrac12 \sum_{ij} \alpha_i \alpha_j y_i y_j k(x_i, x_j)
  \quad\text{subject to}\quad 0 \le \alpha_i \le C, \;\; \sum_i \alpha_i y_i = 0 .$$

Sequential minimal optimization solves it for two $\alpha$ at a time, which has a closed form. Many
$\alpha$ end at 0: the classifier $\mathrm{sign}(\sum_i \alpha_i y_i k(x_i, x) + b)$ rests on the
others, the support vectors. The solver stands in smo.py.

>>> X, y = np.array([[0.0], [1.0], [3.0], [4.0]]), np.array(["left", "left", "right", "right"])
>>> machine = SVC(C=1e6, kernel="linear").fit(X, y)
>>> machine.support_.tolist(), machine.decision_function([[1.0], [3.0]]).round(6).tolist()
([1, 2], [-1.0, 1.0])

    uv run weeks/05/svm.py

Source: Cortes & Vapnik, "Support-vector networks", Machine Learning 20 (1995); Platt, "Fast
training of support vector machines using SMO" (1998); Fan, Chen & Lin, "Working set selection using
second order information", JMLR 6 (2005), the algorithm of LIBSVM.
"""

import itertools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy.typing import ArrayLike

from shared.require import require
from week04.estimator import Classifier, check_classes, check_X_y
from week05.smo import kernel_matrix, objectives, smo


@dataclass(eq=False, repr=False)
class SVC(Classifier):
    """Kernel support vector classifier; several classes by one machine for each pair.

    Parameters
    ----------
    C
        Price of a unit of slack: large means few mistakes and a narrow margin.
    gamma
        A number, ``"scale"`` for 1 / (n_features · variance of X) or ``"auto"`` for 1 / n_features.
    leaps
        Whether all free α may move at once where two-variable steps crawl (`leap` in smo.py).
    decision_function_shape
        With three classes or more, ``"ovr"`` gives one column per class (votes, ties broken by
        confidence) and ``"ovo"`` one per pair.

    Attributes
    ----------
    classes_, n_features_in_
    support_ : (n_SV,)
        Rows of X with α > 0 in any machine, ordered by class and then by row.
    support_vectors_ : (n_SV, n_features)
    dual_coef_ : (n_pairs, n_SV)
        y α of every machine. With two classes the second is the positive one; in a machine for
        classes a < b of several, a is.
    intercept_, n_iter_, dual_objective_, violation_ : (n_pairs,)

    References
    ----------
    Cortes & Vapnik (1995), section 3; Bishop, *Pattern Recognition and Machine Learning* (2006),
    sections 7.1.1 to 7.1.3.
    """

    C: float | int = 1.0
    kernel: str = "rbf"
    degree: float | int = 3
    gamma: float | int | str = "scale"
    coef0: float | int = 0.0
    tol: float | int = 1e-3
    max_iter: int = 1_000_000
    selection: str = "second order"
    leaps: bool = True
    decision_function_shape: str = "ovr"

    def fit(self, X: ArrayLike, y: ArrayLike) -> "SVC":
        """Train one machine for each pair of classes.

        The whole kernel matrix is held, and as many distances: 600 MB for 5,000 samples.
        """
        X, y = check_X_y(X, y, classes=True)
        self.classes_, indices = check_classes(y)
        shape = self.decision_function_shape
        require(shape in ("ovr", "ovo"), "decision_function_shape must be ovr or ovo", repr(shape))
        self.n_features_in_ = X.shape[1]
        self._gamma = self._resolve_gamma(X)
        K = self._kernel(X, X)
        self._pairs = list(itertools.combinations(range(len(self.classes_)), 2))
        coefficients, solutions, duals = np.zeros((len(self._pairs), len(X))), [], []
        for row, (a, b) in zip(coefficients, self._pairs, strict=True):
            chosen = np.concatenate([np.flatnonzero(indices == a), np.flatnonzero(indices == b)])
            signs = np.where(indices[chosen] == a, 1.0, -1.0)
            names = ("tol", "max_iter", "selection", "leaps")
            options = {name: getattr(self, name) for name in names}
            solution = smo(K.take(chosen, axis=0).take(chosen, axis=1), signs, self.C, **options)
            row[chosen] = signs * solution.alpha
            solutions.append(solution)
            duals.append(objectives(solution.alpha, solution.errors, signs, self.C)[1])
        by_class = np.argsort(indices, kind="stable")
        self.support_ = by_class[(coefficients[:, by_class] != 0).any(axis=0)]
        self.support_vectors_ = X[self.support_]
        flip = -1.0 if len(self.classes_) == 2 else 1.0
        self.dual_coef_ = flip * coefficients[:, self.support_]
        self.intercept_ = flip * np.array([s.bias for s in solutions])
        self.n_iter_ = np.array([s.n_iter for s in solutions])
        self.violation_ = np.array([s.violation for s in solutions])
        self.dual_objective_ = np.array(duals)
        return self

    def decision_function(self, X: ArrayLike) -> Float[np.ndarray, "n *columns"]:
        """Signed outputs, ±1 on the margins: (n,) for two classes, else as the shape asks."""
        outputs = self._outputs(X)
        if len(self.classes_) == 2:
            return outputs[:, 0]
        return outputs if self.decision_function_shape == "ovo" else self._by_class(outputs)

    def predict(self, X: ArrayLike) -> Shaped[np.ndarray, " n"]:
        """Class by the sign of the output, or by the vote of the pairs (first class if tied)."""
        outputs = self._outputs(X)
        if len(self.classes_) == 2:
            return self.classes_[(outputs[:, 0] > 0).astype(int)]
        return self.classes_[self._votes(outputs).argmax(axis=1)]

    def _outputs(self, X: ArrayLike) -> Float[np.ndarray, "n n_pairs"]:
        X = self._check_fitted_X(X)
        return self._kernel(X, self.support_vectors_) @ self.dual_coef_.T + self.intercept_

    def _votes(self, outputs: Float[np.ndarray, "n n_pairs"]) -> Int[np.ndarray, "n n_classes"]:
        votes = np.zeros((len(outputs), len(self.classes_)), dtype=np.int64)
        for column, (a, b) in zip(outputs.T, self._pairs, strict=True):
            votes[:, a] += column > 0
            votes[:, b] += column <= 0
        return votes

    def _by_class(
        self, outputs: Float[np.ndarray, "n n_pairs"]
    ) -> Float[np.ndarray, "n n_classes"]:
        """Votes plus the summed outputs squeezed into (-1/3, 1/3): they decide ties only."""
        confidence = np.zeros((len(outputs), len(self.classes_)))
        for column, (a, b) in zip(outputs.T, self._pairs, strict=True):
            confidence[:, a] += column
            confidence[:, b] -= column
        return self._votes(outputs) + confidence / (3 * (np.abs(confidence) + 1))

    def _resolve_gamma(self, X: Float[np.ndarray, "n n_features"]) -> float:
        if isinstance(self.gamma, str):
            known = self.gamma in ("scale", "auto")
            require(known, "gamma must be a number, scale or auto", repr(self.gamma))
            variance = X.var() if self.gamma == "scale" else 1.0
            return 1.0 / (X.shape[1] * variance) if variance > 0 else 1.0
        return float(self.gamma)

    def _kernel(
        self, A: Float[np.ndarray, "m p"], B: Float[np.ndarray, "n p"]
    ) -> Float[np.ndarray, "m n"]:
        return kernel_matrix(
            A, B, self.kernel, gamma=self._gamma, degree=self.degree, coef0=self.coef0
        )


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
