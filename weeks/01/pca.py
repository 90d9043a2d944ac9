r"""Principal component analysis: the best low-rank view of a cloud of points.

Center the data and take its SVD, $X - \mathbf{1}\bar x^\top = U \Sigma V^\top$. The rows of
$V^\top$ are the directions of largest variance, $\sigma_i^2 / (n - 1)$ the variances, and
$U \Sigma$ the coordinates. Cutting after $k$ terms leaves the smallest error that any rank-$k$
matrix can have (Eckart and Young):

$$\min_{\mathrm{rank}\, B \le k} \|A - B\|_F^2 = \sum_{i > k} \sigma_i^2 .$$

    >>> X = np.array([[2.0, 0.0], [0.0, 1.0], [-2.0, 0.0], [0.0, -1.0]])
    >>> pca = PCA(1).fit(X)
    >>> pca.components_.round(3), pca.explained_variance_ratio_.round(3)
    (array([[1., 0.]]), array([0.8]))
    >>> pca.transform(np.array([[3.0, 5.0]]))
    array([[3.]])

    uv run weeks/01/pca.py

Source: Eckart and Young (Psychometrika 1, 1936); Bishop, *Pattern Recognition and Machine
Learning* (2006), section 12.1; Trefethen and Bau, *Numerical Linear Algebra* (1997), theorem 5.9.
"""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from shared.arguments import checked
from shared.require import require
from week01.matrix_decompositions import svd_jacobi


class PCA:
    """Linear projection onto the directions of largest variance.

    Parameters
    ----------
    n_components
        How many directions to keep; all min(n_samples, n_features) by default.

    Attributes
    ----------
    components_ : (n_components, n_features)
        Orthonormal rows, by descending variance. The entry of largest magnitude in each row is
        positive, which settles the sign as scikit-learn does (`svd_flip` on the rows of Vᵀ).
    explained_variance_, explained_variance_ratio_, singular_values_ : (n_components,)
        Variance (n - 1 in the denominator), its share of the total, and σ.
    mean_ : (n_features,)
        What is subtracted from the data, at `fit` and ever after.
    n_components_ : int

    References
    ----------
    Bishop (2006), section 12.1.1 (maximum variance) and 12.1.2 (minimum error).
    """

    def __init__(self, n_components: int | None = None):
        self.n_components = n_components

    @checked
    def fit(self, X: Float[np.ndarray, "n_samples n_features"]) -> "PCA":
        """Find mean and directions.

        Raises
        ------
        ValueError
            If X has fewer than two rows, or n_components does not fit its shape.
        """
        X = _samples(X)
        n_samples, n_features = X.shape
        require(n_samples >= 2, "X must have at least 2 rows to have a variance", n_samples)
        most = min(n_samples, n_features)
        k = most if self.n_components is None else self.n_components
        limits = f"n_components must be between 1 and min(n_samples, n_features) = {most}"
        require(1 <= k <= most, limits, k)
        self.mean_ = X.mean(axis=0)
        _, sigma, Vt = svd_jacobi(X - self.mean_)
        variance = sigma**2 / (n_samples - 1)
        total = variance.sum()
        largest = np.take_along_axis(Vt, np.abs(Vt).argmax(axis=1, keepdims=True), axis=1)
        self.n_components_ = k
        self.components_ = (Vt * np.sign(largest))[:k]
        self.singular_values_ = sigma[:k]
        self.explained_variance_ = variance[:k]
        # The share is of the whole variance, kept or not; constant data has none to share.
        self.explained_variance_ratio_ = variance[:k] / total if total > 0 else np.zeros(k)
        return self

    @checked
    def transform(
        self, X: Float[np.ndarray, "n n_features"]
    ) -> Float[np.ndarray, "n n_components"]:
        """Coordinates of X along the components, with the mean seen at `fit` taken off."""
        self._check_fitted()
        X = _samples(X)
        n_features = len(self.mean_)
        require(X.shape[1] == n_features, f"X must have {n_features} columns as in fit", X.shape[1])
        return (X - self.mean_) @ self.components_.T

    @checked
    def fit_transform(
        self, X: Float[np.ndarray, "n_samples n_features"]
    ) -> Float[np.ndarray, "n_samples n_components"]:
        """`fit` and `transform` of the same data."""
        return self.fit(X).transform(X)

    @checked
    def inverse_transform(
        self, Z: Float[np.ndarray, "n n_components"]
    ) -> Float[np.ndarray, "n n_features"]:
        """Points of the original space from coordinates: the nearest ones the components reach."""
        self._check_fitted()
        Z = np.asarray(Z, dtype=np.float64)
        fits = Z.ndim == 2 and Z.shape[1] == self.n_components_
        require(fits, f"Z must have {self.n_components_} columns", f"shape {Z.shape}")
        return Z @ self.components_ + self.mean_

    def _check_fitted(self) -> None:
        fitted = hasattr(self, "components_")
        require(fitted, "PCA must be fitted before use: call fit(X) first")


@checked
def low_rank(A: Float[np.ndarray, "m n"], rank: int) -> Float[np.ndarray, "m n"]:
    """The closest matrix of at most the given rank, in the Frobenius and the spectral norm.

    References
    ----------
    Trefethen and Bau, theorems 5.8 and 5.9.
    """
    A = _samples(A, "A")
    most = min(A.shape)
    require(1 <= rank <= most, f"rank must be between 1 and min(A.shape) = {most}", rank)
    U, sigma, Vt = svd_jacobi(A)
    return (U[:, :rank] * sigma[:rank]) @ Vt[:rank]


def _samples(X: ArrayLike, name: str = "X") -> Float[np.ndarray, "n n_features"]:
    X = np.asarray(X, dtype=np.float64)
    matrix, bad = X.ndim == 2 and X.size > 0, int((~np.isfinite(X)).sum())
    require(matrix, f"{name} must be a matrix with at least one entry", f"shape {X.shape}")
    require(bad == 0, f"{name} must be finite", f"{bad} NaN or inf")
    return X


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
