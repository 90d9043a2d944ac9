"""k-means and EM beside scikit-learn, and how many clusters two scores find."""

import warnings

import numpy as np
from jaxtyping import Float, Int

from shared import datasets, plots
from shared.study import Run
from week01.pca import PCA
from week05.clustering_scores import silhouette
from week05.gaussian_mixture import GaussianMixture, m_step
from week05.kmeans import KMeans

Points = tuple[Float[np.ndarray, "n d"], Int[np.ndarray, " n"]]
FALLS = "EM never lowers the likelihood"


# ---- data


def digits_in(n_dimensions: int, n: int | None = None) -> Points:
    """Handwritten digits, their first principal components, and their labels."""
    images, labels = datasets.digits()
    X = PCA(n_dimensions).fit_transform(images.reshape(len(images), -1).astype(float))
    return X[:n], labels[:n]


def blobs(centers: Float[np.ndarray, "k d"], size: int, rng: np.random.Generator) -> Points:
    """Round clusters of standard deviation 1, `size` points each."""
    labels = np.repeat(np.arange(len(centers)), size)
    return centers[labels] + rng.normal(size=(len(labels), centers.shape[1])), labels


def stretched(rng: np.random.Generator) -> Points:
    """Three parallel cigars, each 3 long and 0.35 wide (standard deviations), 3 apart."""
    X, labels = blobs(np.zeros((3, 2)), 150, rng)
    turn = np.array([[0.8, 0.6], [-0.6, 0.8]])
    return (X * [3.0, 0.35] + np.array([[0, -3.0], [0, 0], [0, 3.0]])[labels]) @ turn, labels


# ---- checks


def check_kmeans(run: Run, X: Float[np.ndarray, "n d"]) -> None:
    """From the same centers the same centers, in as many steps."""
    from sklearn.cluster import KMeans as Reference

    start = X[np.random.default_rng(run.seed).choice(len(X), 10, replace=False)]
    far = start.copy()
    far[3] += 1e3  # no point is nearest to it
    why = "rounding of means of values up to 50"
    equal = run.against("sklearn.cluster.KMeans", atol=1e-10, why=why)
    for name, init in (("", start), (" when one starts without points", far)):
        ours = KMeans(10, init=init, tol=0).fit(X)
        theirs = Reference(10, init=init, n_init=1, tol=0, algorithm="lloyd").fit(X)
        equal(f"digits: centers{name}", ours.cluster_centers_, theirs.cluster_centers_)
        equal(f"digits: steps{name}", ours.n_iter_, theirs.n_iter_, atol=0)


def check_mixture(run: Run, X: Float[np.ndarray, "n d"]) -> None:
    """The same EM path as scikit-learn's."""
    from sklearn.mixture import GaussianMixture as Reference

    start = m_step(X, np.eye(10)[KMeans(10, random_state=0).fit(X).labels_])
    steps = run.budget(quick=5, default=60)
    options = {"tol": 1e-9, "max_iter": steps}
    ours = GaussianMixture(10, init=start, **options).fit(X)
    options |= {"weights_init": start.weights, "means_init": start.means}
    theirs = Reference(10, precisions_init=np.linalg.inv(start.covariances), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that so few steps do not converge is meant
        theirs.fit(X)
    why = "rounding, through as many EM steps; means and deviations are of size 10"
    equal = run.against("sklearn.mixture.GaussianMixture", atol=1e-10, why=why)
    for name, atol in (("weights_", 1e-10), ("means_", 1e-8), ("covariances_", 1e-7)):
        both = getattr(ours, name), getattr(theirs, name)
        equal(f"digits in 8-D after {steps} EM steps: {name}", *both, atol=atol)
    equal("digits in 8-D: BIC", ours.bic(X), theirs.bic(X), atol=0, rtol=1e-12)


def likelihood_never_falls(run: Run, X: Float[np.ndarray, "n d"], seeds: int) -> None:
    """From random shares, far from any optimum, without regularization."""
    steps, least = run.budget(quick=5, default=60), []
    for seed in range(seeds):
        shares = np.random.default_rng([run.seed, seed]).dirichlet(np.ones(10), len(X))
        start = m_step(X, shares, 0)
        model = GaussianMixture(10, tol=0, reg_covar=0, max_iter=steps, init=start)
        least.append(np.diff(model.fit(X).lower_bounds_).min())
    note = f"least change in {steps - 1} steps"
    options = {"each": True, "unit": "nats per point", "note": note, "rtol": None}
    run.claim(FALLS, least, at_least=-1e-10, **options)


# ---- how many?


def choosing_k(run: Run, digits: Float[np.ndarray, "n d"], seeds: int) -> None:
    """BIC and silhouette over k, where five clusters are true and where nobody knows."""
    truth, size = 5, run.budget(quick=20, default=80)
    ks = np.arange(*run.budget(quick=(4, 7), default=(2, 10)))
    angle = 2 * np.pi * np.arange(truth) / truth
    centers = 5.0 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    rows = []
    for seed in range(seeds):
        X, _ = blobs(centers, size, np.random.default_rng([run.seed, 50, seed]))
        rows.append([scores(X, int(k), seed) for k in ks])
    bic, score = np.array(rows).transpose(2, 0, 1)
    for name, right in (
        ("BIC", ks[bic.argmin(axis=1)] == truth),
        ("silhouette", ks[score.argmax(axis=1)] == truth),
    ):
        name = f"{name} finds the number of clusters where they are round and apart"
        unit = f"of the draws, true k = {truth}"
        run.claim(name, right, at_least=0.9, unit=unit, quick=False)
    many = np.array(run.budget(quick=[2, 6], default=[2, 4, 6, 8, 10, 12, 15, 20, 25, 30]))
    real = np.array([scores(digits, int(k), 0) for k in many]).T
    run.metric("digits: k by BIC", many[real[0].argmin()], rtol=0.3)
    run.metric("digits: k by silhouette", many[real[1].argmax()], rtol=0.3)
    title = "How many clusters? Clear on five round ones, a matter of taste on digits"
    layout = {"rows": 2, "columns": 2, "size": (8.0, 5.2), "sharex": "col"}
    real = real[:, None]  # one fit for each k
    with run.figure("choosing_k", title, **layout) as axes:
        for column, caption, x, (top, bottom), n, true_k in (
            (axes[:, 0], f"five clusters, {seeds} draws", ks, (bic, score), truth * size, truth),
            (axes[:, 1], "digits in 8-D, ten classes", many, real, len(digits), 10),
        ):
            excess = (top - top.min(axis=1, keepdims=True)) / n
            plots.curves(column[0], x, {"": excess}, ylabel="BIC above its least\n(nats per point)")
            plots.curves(column[1], x, {"": bottom}, ylabel="silhouette", xlabel="k")
            column[0].set_title(caption, fontsize=10.5, weight="normal")
            for ax in column:
                ax.axvline(true_k, color=plots.REFERENCE, linestyle="--", linewidth=1)


def scores(X: Float[np.ndarray, "n d"], k: int, seed: int) -> tuple[float, float]:
    """BIC of a Gaussian mixture with k components, silhouette of k means."""
    kmeans = KMeans(k, n_init=3, random_state=seed).fit(X)
    mixture = GaussianMixture(k, random_state=seed, n_init=2).fit(X)
    return mixture.bic(X), silhouette(X, kmeans.labels_)
