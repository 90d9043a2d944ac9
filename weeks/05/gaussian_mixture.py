r"""Gaussian mixtures by expectation maximization: k-means with shapes, sizes and doubt.

The density of a point is $p(x) = \sum_j \pi_j\, N(x; \mu_j, \Sigma_j)$. The E-step asks which
component it came from, $r_{ij} = \pi_j N(x_i; \mu_j, \Sigma_j) / p(x_i)$; the M-step fits each
component to its share of the data, with $n_j = \sum_i r_{ij}$:

$$\pi_j = \frac{n_j}{n}, \qquad \mu_j = \frac1{n_j} \sum_i r_{ij} x_i, \qquad
  \Sigma_j = \frac1{n_j} \sum_i r_{ij} (x_i - \mu_j)(x_i - \mu_j)^\top .$$

>>> X = np.array([[0.0], [1.0], [9.0], [11.0]])
>>> model = GaussianMixture(2, random_state=0).fit(X)
>>> print(np.sort(model.means_[:, 0]).round(6), model.weights_)
[ 0.5 10. ] [0.5 0.5]

Source: Dempster, Laird & Rubin (1977), title in `kmeans.py`; Bishop, *Pattern Recognition and
Machine Learning* (2006), section 9.2.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy.linalg import solve_triangular

from shared.arguments import checked
from shared.require import require
from week04.estimator import Estimator, check_X
from week05.kmeans import KMeans


class Mixture(NamedTuple):
    """Parameters of a Gaussian mixture."""

    weights: Float[np.ndarray, " k"]
    means: Float[np.ndarray, "k d"]
    covariances: Float[np.ndarray, "k d d"]


@checked
def log_sum_exp(a: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
    """Log of each row's sum of exponentials, shifted by its largest so that none overflows."""
    top = a.max(axis=1)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):  # the log of nothing is -inf, and right
        return top + np.log(np.exp(a - top[:, None]).sum(axis=1))


@checked
def log_joint(X: Float[np.ndarray, "n d"], mixture: Mixture) -> Float[np.ndarray, "n k"]:
    """Log of π_j N(x_i; μ_j, Σ_j).

    With Σ = L Lᵀ the squared Mahalanobis distance is |L⁻¹ (x - μ)|² and ln |Σ| = 2 Σ ln L_ii.

    Raises
    ------
    ValueError
        If a covariance is not positive definite: a component has collapsed.
    """
    d, columns = X.shape[1], []
    for j, (weight, mean, covariance) in enumerate(zip(*mixture, strict=True)):
        try:
            L = np.linalg.cholesky(covariance)
        except np.linalg.LinAlgError as error:
            raise ValueError(
                f"covariance of component {j} is not positive definite: it has collapsed on too"
                " few points; use a larger reg_covar or fewer components"
            ) from error
        z = solve_triangular(L, (X - mean).T, lower=True)
        log_density = (
            -0.5 * (d * np.log(2 * np.pi) + (z**2).sum(axis=0)) - np.log(L.diagonal()).sum()
        )
        columns.append(np.log(weight) + log_density)
    return np.stack(columns, axis=1)


@checked
def e_step(X: Float[np.ndarray, "n d"], mixture: Mixture) -> tuple[Float[np.ndarray, "n k"], float]:
    """Responsibilities, and the mean log-likelihood of a point.

    References
    ----------
    Bishop (2006), eqs. 9.23 and 9.28.
    """
    joint = log_joint(X, mixture)
    total = log_sum_exp(joint)
    return np.exp(joint - total[:, None]), float(total.mean())


@checked
def m_step(
    X: Float[np.ndarray, "n d"], shares: Float[np.ndarray, "n k"], reg_covar: float | int = 1e-6
) -> Mixture:
    """Weights, means and covariances that fit the shares best, reg_covar added to the diagonals.

    References
    ----------
    Bishop (2006), eqs. 9.24 to 9.27.
    """
    sizes = shares.sum(axis=0) + 10 * np.finfo(float).eps  # a component may lose all its points
    means = shares.T @ X / sizes[:, None]
    covariances = np.empty((len(sizes), X.shape[1], X.shape[1]))
    for j, (size, mean) in enumerate(zip(sizes, means, strict=True)):
        centered = X - mean
        covariances[j] = (shares[:, j] * centered.T) @ centered / size
        covariances[j].flat[:: X.shape[1] + 1] += reg_covar
    return Mixture(sizes / sizes.sum(), means, covariances)


@dataclass(eq=False, repr=False)
class GaussianMixture(Estimator):
    """Mixture of Gaussians with full covariances, by EM.

    Parameters
    ----------
    tol
        Stop when the mean log-likelihood rises by less, in nats per point.
    reg_covar
        Added to the diagonal of every covariance, in squared units of X.
    n_init
        Starts with different seeds, of which the likeliest is kept.
    init_params
        ``"kmeans"`` starts from its clusters, mistakes included; ``"random_from_data"`` from tiny
        components on points drawn at random.
    init
        Where to start instead: a `Mixture`.

    Attributes
    ----------
    weights_, means_, covariances_
        (k,), (k, n_features), (k, n_features, n_features).
    lower_bounds_ : (n_iter_,)
        Mean log-likelihood before each step, in nats; without reg_covar it never falls.

    References
    ----------
    Bishop (2006), sections 9.2.2 and 9.4.
    """

    n_components: int = 1
    tol: float | int = 1e-3
    reg_covar: float | int = 1e-6
    max_iter: int = 100
    n_init: int = 1
    init_params: str = "kmeans"
    init: Mixture | None = None
    random_state: int | None = None

    kind = "clusterer"

    def fit(self, X: ArrayLike, y: object = None) -> "GaussianMixture":
        """Find the parameters; y is ignored."""
        X = check_X(X, min_samples=2)
        n, k = len(X), self.n_components
        require(1 <= k <= n, f"n_components must be between 1 and n_samples = {n}", k)
        require(self.reg_covar >= 0, "reg_covar must be at least 0", self.reg_covar)
        known = self.init_params in ("kmeans", "random_from_data")
        must = "init_params must be kmeans or random_from_data"
        require(known, must, repr(self.init_params))
        for name in ("n_init", "max_iter"):
            value = getattr(self, name)
            require(value >= 1, f"{name} must be at least 1", value)
        rng = np.random.default_rng(self.random_state)
        runs = [self._run(X, self._start(X, rng)) for _ in range(1 if self.init else self.n_init)]
        mixture, path, self.converged_ = max(runs, key=lambda result: result[1][-1])
        self.weights_, self.means_, self.covariances_ = mixture
        self.lower_bounds_, self.n_iter_ = np.array(path), len(path)
        self.lower_bound_ = path[-1]
        self.n_features_in_ = X.shape[1]
        return self

    def _start(self, X: Float[np.ndarray, "n d"], rng: np.random.Generator) -> Mixture:
        k, d = self.n_components, X.shape[1]
        if self.init is None and self.init_params == "random_from_data":
            shares = np.zeros((len(X), k))
            shares[rng.choice(len(X), k, replace=False), np.arange(k)] = 1.0
            return m_step(X, shares, max(self.reg_covar, 1e-6))  # a point has no variance
        if self.init is None:
            labels = KMeans(k, random_state=int(rng.integers(2**31))).fit(X).labels_
            return m_step(X, np.eye(k)[labels], self.reg_covar)
        mixture = Mixture(*(np.asarray(part, dtype=np.float64) for part in self.init))
        shapes, wanted = tuple(part.shape for part in mixture), ((k,), (k, d), (k, d, d))
        require(shapes == wanted, f"init must have the shapes {wanted}", shapes)
        weights, means, covariances = mixture
        proper = (weights > 0).all() and np.isclose(weights.sum(), 1) and np.isfinite(means).all()
        require(proper, "init must have positive weights of sum 1 and finite means", weights)
        mirrored = np.allclose(covariances, covariances.transpose(0, 2, 1))
        require(mirrored, "init must have symmetric covariances")
        return mixture

    def _run(
        self, X: Float[np.ndarray, "n d"], mixture: Mixture
    ) -> tuple[Mixture, list[float], bool]:
        path = []
        for _ in range(self.max_iter):
            shares, log_likelihood = e_step(X, mixture)
            mixture = m_step(X, shares, self.reg_covar)
            path.append(log_likelihood)
            if len(path) > 1 and abs(path[-1] - path[-2]) < self.tol:
                return mixture, path, True
        return mixture, path, False

    def _mixture(self) -> Mixture:
        return Mixture(self.weights_, self.means_, self.covariances_)

    def score_samples(self, X: ArrayLike) -> Float[np.ndarray, " n"]:
        """Log-density of each point, in nats."""
        X = self._check_fitted_X(X)
        return log_sum_exp(log_joint(X, self._mixture()))

    def score(self, X: ArrayLike, y: object = None) -> float:
        """Mean log-density of a point, in nats; y is ignored."""
        return float(self.score_samples(X).mean())

    def predict_proba(self, X: ArrayLike) -> Float[np.ndarray, "n k"]:
        """Responsibilities of the components for each point; rows sum to 1."""
        X = self._check_fitted_X(X)
        return e_step(X, self._mixture())[0]

    def predict(self, X: ArrayLike) -> Int[np.ndarray, " n"]:
        """The component with the largest responsibility."""
        X = self._check_fitted_X(X)
        return log_joint(X, self._mixture()).argmax(axis=1)

    def bic(self, X: ArrayLike) -> float:
        """Bayesian information criterion, p ln n - 2 ln L in nats: small is good.

        References
        ----------
        Schwarz, "Estimating the dimension of a model", Annals of Statistics 6 (1978).
        """
        X = self._check_fitted_X(X)
        k, d = self.means_.shape
        parameters = (k - 1) + k * d + k * d * (d + 1) // 2
        return float(parameters * np.log(len(X)) - 2 * len(X) * self.score(X))
