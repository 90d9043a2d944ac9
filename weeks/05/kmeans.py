r"""k-means and Gaussian mixtures: clusters by alternating two easy steps.

Both explain each point by one of $k$ sources. k-means gives every point to its nearest center and
moves every center to the mean of its points; neither step can raise the inertia

$$J = \sum_i \min_j \|x_i - \mu_j\|^2 .$$

A Gaussian mixture deals each point out in shares, $r_{ij} \propto \pi_j\, N(x_i; \mu_j, \Sigma_j)$,
and fits weights, means and covariances to them. That is expectation maximization (EM): the
log-likelihood never falls. Where it starts decides where either ends. k-means stands here, EM in
gaussian_mixture.py, and what tells a good clustering in clustering_scores.py.

>>> X = np.array([[0.0], [1.0], [9.0], [11.0]])
>>> model = KMeans(2, random_state=0).fit(X)
>>> print(np.sort(model.cluster_centers_[:, 0]), model.inertia_)
[ 0.5 10. ] 2.5

    uv run weeks/05/kmeans.py

Source: Lloyd, "Least squares quantization in PCM", IEEE Trans. Information Theory 28 (1982); Arthur
& Vassilvitskii, "k-means++: the advantages of careful seeding", SODA (2007); Dempster, Laird &
Rubin, "Maximum likelihood from incomplete data via the EM algorithm", J. R. Stat. Soc. B 39 (1977).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from shared.arguments import checked
from shared.require import require
from week04.estimator import Estimator, check_X


@checked
def squared_distances(
    X: Float[np.ndarray, "n d"], centers: Float[np.ndarray, "k d"]
) -> Float[np.ndarray, "n k"]:
    """|x - c|² for every point and center, as |x|² - 2 x·c + |c|²; rounding never below 0."""
    squares = (X**2).sum(axis=1)[:, None] - 2 * X @ centers.T + (centers**2).sum(axis=1)
    return np.maximum(squares, 0.0)


@checked
def kmeans_plus_plus(
    X: Float[np.ndarray, "n d"], n_clusters: int, rng: np.random.Generator, *, n_trials: int = 1
) -> Float[np.ndarray, "k d"]:
    """Draw centers from the points, each with probability ∝ squared distance to those drawn.

    Of `n_trials` candidates for each center the best stays; 1 is the paper's algorithm.

    References
    ----------
    Arthur & Vassilvitskii (2007), section 2.2; several trials: section 4.
    """
    n, must = len(X), f"n_clusters must be between 1 and n_samples = {len(X)}"
    require(1 <= n_clusters <= n, must, n_clusters)
    require(n_trials >= 1, "n_trials must be at least 1", n_trials)
    chosen = [int(rng.integers(n))]
    nearest = squared_distances(X, X[chosen])[:, 0]
    for _ in range(1, n_clusters):
        total = nearest.sum()
        # With fewer different points than clusters all distances are 0: any point will do.
        share = nearest / total if total > 0 else None
        candidates = rng.choice(n, size=n_trials, p=share)
        left = np.minimum(nearest[:, None], squared_distances(X, X[candidates]))
        best = int(left.sum(axis=0).argmin())
        chosen.append(int(candidates[best]))
        nearest = left[:, best]
    return X[chosen]


@checked
def lloyd_step(
    X: Float[np.ndarray, "n d"], centers: Float[np.ndarray, "k d"]
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "k d"]]:
    """Give each point to its nearest center (the first of several), then take means.

    A center without points moves to the point farthest from its own center, which leaves its
    cluster: the inertia falls all the same, and no mean is taken over nothing.
    """
    distances = squared_distances(X, centers)
    labels = distances.argmin(axis=1)
    counts = np.bincount(labels, minlength=len(centers))
    sums = np.zeros_like(centers)
    np.add.at(sums, labels, X)
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        farthest = np.argsort(-distances[np.arange(len(X)), labels], kind="stable")
        for j, i in zip(empty, farthest, strict=False):
            sums[labels[i]] -= X[i]
            counts[labels[i]] -= 1
            sums[j], counts[j] = X[i], 1
    # A cluster whose only point was just given away stays where it was.
    means = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centers)
    return labels, means


@checked
def inertia(
    X: Float[np.ndarray, "n d"], centers: Float[np.ndarray, "k d"], labels: Int[np.ndarray, " n"]
) -> float:
    """Sum of squared distances of the points from the centers of their clusters."""
    return float(((X - centers[labels]) ** 2).sum())


@dataclass(eq=False, repr=False)
class KMeans(Estimator):
    """k-means by Lloyd's algorithm, the best of several starts.

    Parameters
    ----------
    init
        ``"k-means++"`` (greedy, 2 + ⌊ln k⌋ trials per center), ``"random"`` points, or the initial
        centers (k, n_features).
    n_init
        Starts, of which the one with the least inertia is kept; given centers are tried once.
    tol
        Stop when the centers move by less: Σ |shift|² ≤ tol · mean variance of the features.

    Attributes
    ----------
    cluster_centers_ : (n_clusters, n_features)
    labels_ : (n_samples,)
    inertia_, inertias_
        At the end, and (n_iter_ + 1,) before each step and at the end; it never rises.

    References
    ----------
    Bishop, *Pattern Recognition and Machine Learning* (2006), section 9.1.
    """

    n_clusters: int = 8
    init: str | ArrayLike = "k-means++"
    n_init: int = 1
    max_iter: int = 300
    tol: float | int = 1e-4
    random_state: int | None = None

    kind = "clusterer"

    def fit(self, X: ArrayLike, y: object = None) -> "KMeans":
        """Find the centers; y is ignored."""
        X = check_X(X)
        n, k = len(X), self.n_clusters
        require(1 <= k <= n, f"n_clusters must be between 1 and n_samples = {n}", k)
        for name in ("n_init", "max_iter"):
            value = getattr(self, name)
            require(value >= 1, f"{name} must be at least 1", value)
        mean, rng = X.mean(axis=0), np.random.default_rng(self.random_state)
        threshold = self.tol * X.var(axis=0).mean()
        centered = X - mean  # |x|² - 2 x·c + |c|² cancels less near the origin
        n_starts = self.n_init if isinstance(self.init, str) else 1
        starts = [self._start(X, rng) for _ in range(n_starts)]
        runs = [self._run(centered, start - mean, threshold) for start in starts]
        best = min(runs, key=lambda result: result[2][-1])
        centers, self.labels_, self.inertias_ = best
        self.cluster_centers_ = centers + mean
        self.inertia_, self.n_iter_ = float(self.inertias_[-1]), len(self.inertias_) - 1
        self.n_features_in_ = X.shape[1]
        return self

    def _start(
        self, X: Float[np.ndarray, "n d"], rng: np.random.Generator
    ) -> Float[np.ndarray, "k d"]:
        k = self.n_clusters
        if not isinstance(self.init, str):
            centers = np.asarray(self.init, dtype=np.float64)
            wanted = (k, X.shape[1])
            require(centers.shape == wanted, f"init must have shape {wanted}", centers.shape)
            require(np.isfinite(centers).all(), "init must be finite", self.init)
            return centers
        known = self.init in ("k-means++", "random")
        require(known, "init must be k-means++, random or an array", repr(self.init))
        if self.init == "k-means++":
            return kmeans_plus_plus(X, k, rng, n_trials=2 + int(np.log(k)))
        return X[rng.choice(len(X), k, replace=False)]

    def _run(
        self, X: Float[np.ndarray, "n d"], centers: Float[np.ndarray, "k d"], threshold: float | int
    ) -> tuple[Float[np.ndarray, "k d"], Int[np.ndarray, " n"], Float[np.ndarray, " steps"]]:
        previous, path = None, []
        for _ in range(self.max_iter):
            labels, moved = lloyd_step(X, centers)
            path.append(inertia(X, centers, labels))
            shift, centers = ((moved - centers) ** 2).sum(), moved
            if np.array_equal(labels, previous) or shift <= threshold:
                break
            previous = labels
        labels = squared_distances(X, centers).argmin(axis=1)  # of the centers that are returned
        return centers, labels, np.array([*path, inertia(X, centers, labels)])

    def predict(self, X: ArrayLike) -> Int[np.ndarray, " n"]:
        """The nearest center of each point."""
        X = self._check_fitted_X(X)
        return squared_distances(X, self.cluster_centers_).argmin(axis=1)

    def fit_predict(self, X: ArrayLike, y: object = None) -> Int[np.ndarray, " n"]:
        """`fit`, and the labels of its points."""
        return self.fit(X).labels_


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
