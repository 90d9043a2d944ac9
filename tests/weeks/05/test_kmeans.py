"""Week 05: k-means, Gaussian mixtures, and scores of a clustering."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.cluster import KMeans as ReferenceKMeans
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.mixture import GaussianMixture as ReferenceMixture

from week05.clustering_scores import adjusted_rand_index, silhouette
from week05.gaussian_mixture import GaussianMixture, Mixture, log_joint, log_sum_exp, m_step
from week05.kmeans import KMeans, inertia, kmeans_plus_plus, lloyd_step, squared_distances

seeds = st.integers(0, 2**32 - 1)


def cloud(n, d, seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) * rng.uniform(0.5, 2, d) + rng.integers(0, 3, (n, 1)) * 3.0


# ---- k-means


@given(st.integers(6, 40), st.integers(1, 5), st.sampled_from([0, 1e-3, 1e-1]), seeds)
def test_equals_sklearn_from_the_same_centers(n, k, tol, seed):
    X = cloud(n, 3, seed)
    start = X[np.random.default_rng(seed).choice(n, k, replace=False)]
    ours = KMeans(k, init=start, tol=tol).fit(X)
    reference = ReferenceKMeans(k, init=start, n_init=1, tol=tol).fit(X)
    np.testing.assert_allclose(ours.cluster_centers_, reference.cluster_centers_, atol=1e-10)
    np.testing.assert_array_equal(ours.labels_, reference.labels_)
    np.testing.assert_allclose(ours.inertia_, reference.inertia_, rtol=1e-9, atol=1e-9)
    assert ours.n_iter_ == reference.n_iter_
    np.testing.assert_array_equal(ours.predict(X), ours.labels_)


def test_center_without_points_moves_as_in_sklearn():
    X = cloud(60, 2, 1)
    start = np.vstack([X[:3], [[1e3, 1e3]]])
    labels, moved = lloyd_step(X, start)
    farthest = squared_distances(X, start).min(axis=1).argmax()
    np.testing.assert_array_equal(moved[3], X[farthest])
    np.testing.assert_allclose(
        moved[labels[farthest]],
        X[(labels == labels[farthest]) & (np.arange(60) != farthest)].mean(axis=0),
    )
    assert len(np.unique(KMeans(4, init=start, tol=0).fit(X).labels_)) == 4


@given(st.integers(5, 40), st.integers(1, 3), st.integers(1, 5), seeds)
def test_inertia_never_rises(n, d, k, seed):
    X = cloud(n, d, seed)
    model = KMeans(k, init="random", tol=0, random_state=seed % 1000).fit(X)
    assert (np.diff(model.inertias_) <= 1e-9).all()
    np.testing.assert_allclose(
        model.inertia_, inertia(X, model.cluster_centers_, model.labels_), rtol=1e-9, atol=1e-20
    )


def test_every_point_its_own_cluster_and_all_points_the_same():
    X = np.arange(5.0)[:, None]
    assert KMeans(5, random_state=0).fit(X).inertia_ == pytest.approx(0, abs=1e-20)
    same = KMeans(3, random_state=0).fit(np.full((6, 2), 7.0))
    np.testing.assert_array_equal(same.cluster_centers_, 7.0)
    assert same.inertia_ == 0


def test_best_of_several_starts_is_kept():
    X = cloud(200, 2, 3)
    single = KMeans(8, init="random", random_state=4).fit(X).inertia_
    assert KMeans(8, init="random", n_init=10, random_state=4).fit(X).inertia_ <= single


def test_far_from_the_origin():
    X = cloud(100, 2, 5)
    here, there = (KMeans(3, init=X[:3] + s).fit(X + s) for s in (0.0, 1e7))
    np.testing.assert_array_equal(here.labels_, there.labels_)
    np.testing.assert_allclose(there.inertia_, here.inertia_, rtol=1e-6)


def test_plus_plus_draws_by_squared_distance():
    """From 0 the others at 1, 2 and 3 follow with probabilities 1/14, 4/14 and 9/14."""
    X = np.array([[0.0], [1.0], [2.0], [3.0]])
    second = []
    for seed in range(8000):
        chosen = kmeans_plus_plus(X, 2, np.random.default_rng(seed))
        if chosen[0, 0] == 0:
            second.append(chosen[1, 0])
    shares = np.bincount(np.array(second, dtype=int), minlength=4) / len(second)
    # four standard deviations of a share of 2,000 draws
    np.testing.assert_allclose(shares, np.array([0, 1, 4, 9]) / 14, atol=4 * 0.5 / 2000**0.5)


def test_plus_plus_with_fewer_different_points_than_centers():
    X = np.repeat([[0.0], [1.0]], 5, axis=0)
    assert set(kmeans_plus_plus(X, 4, np.random.default_rng(0))[:, 0]) == {0.0, 1.0}


# ---- mixtures


def start_of(X, k, seed):
    return m_step(X, np.random.default_rng(seed).dirichlet(np.ones(k), len(X)), 1e-6)


@given(st.integers(30, 80), st.integers(1, 3), st.integers(1, 3), seeds)
def test_em_equals_sklearn_from_the_same_start(n, d, k, seed):
    X = cloud(n, d, seed)
    start = start_of(X, k, seed)
    ours = GaussianMixture(k, tol=1e-3, init=start).fit(X)
    options = {"weights_init": start.weights, "means_init": start.means}
    options |= {"precisions_init": np.linalg.inv(start.covariances)}
    reference = ReferenceMixture(k, tol=1e-3, **options).fit(X)
    assert ours.n_iter_ == reference.n_iter_
    assert ours.converged_ == reference.converged_
    for name in ("weights_", "means_", "covariances_", "lower_bound_"):
        np.testing.assert_allclose(
            getattr(ours, name), getattr(reference, name), rtol=1e-6, atol=1e-7, err_msg=name
        )
    np.testing.assert_allclose(ours.score_samples(X), reference.score_samples(X), atol=1e-6)
    np.testing.assert_allclose(ours.predict_proba(X), reference.predict_proba(X), atol=1e-6)
    np.testing.assert_array_equal(ours.predict(X), reference.predict(X))
    np.testing.assert_allclose(ours.bic(X), reference.bic(X), rtol=1e-8)


def test_density_equals_scipy():
    rng = np.random.default_rng(0)
    X, A = rng.normal(size=(20, 3)), rng.normal(size=(2, 3, 3))
    covariances = A @ A.transpose(0, 2, 1) + np.eye(3)
    mixture = Mixture(np.array([0.3, 0.7]), rng.normal(size=(2, 3)), covariances)
    parts = zip(*mixture, strict=True)
    expected = [np.log(w) + multivariate_normal(m, c).logpdf(X) for w, m, c in parts]
    np.testing.assert_allclose(log_joint(X, mixture), np.transpose(expected))


def test_far_points_do_not_underflow():
    X = cloud(50, 2, 1)
    model = GaussianMixture(2, random_state=0).fit(X)
    shares = model.predict_proba([[1e4, -1e4]])
    assert np.isfinite(model.score_samples([[1e4, -1e4]])).all()
    np.testing.assert_allclose(shares.sum(), 1.0)


@given(st.integers(1, 5), st.integers(1, 5), st.floats(-1000, 1000), seeds)
def test_log_sum_exp_equals_scipy(n, k, shift, seed):
    a = np.random.default_rng(seed).normal(size=(n, k)) * 30 + shift
    a[0] = -np.inf  # the log of nothing
    np.testing.assert_allclose(log_sum_exp(a), logsumexp(a, axis=1), rtol=1e-12, atol=1e-12)


def test_likeliest_of_several_starts_is_kept():
    X = cloud(150, 2, 8)
    options = {"random_state": 0, "init_params": "random_from_data"}
    one = GaussianMixture(5, **options).fit(X).lower_bound_
    assert GaussianMixture(5, n_init=8, **options).fit(X).lower_bound_ >= one


def test_regularization_keeps_a_component_from_collapsing():
    X = np.append(cloud(40, 2, 9), [[0.0, 50.0]], axis=0)
    means, covariances = np.stack([X[:-1].mean(axis=0), X[-1]]), np.stack([np.cov(X.T), np.eye(2)])
    start = Mixture(np.array([0.9, 0.1]), means, covariances)
    with pytest.raises(ValueError, match=r"component 1 is not positive definite: it has collapsed"):
        GaussianMixture(2, reg_covar=0, init=start).fit(X)
    held = GaussianMixture(2, reg_covar=0.01, init=start).fit(X)
    np.testing.assert_allclose(held.covariances_[1], 0.01 * np.eye(2), atol=1e-12)


# ---- scores


@given(st.integers(4, 30), st.integers(2, 3), seeds)
def test_silhouette_equals_sklearn(n, k, seed):
    X, labels = cloud(n, 2, seed), np.random.default_rng(seed).integers(0, k, n)
    labels[:2] = [0, 1]
    if len(np.unique(labels)) < n:
        np.testing.assert_allclose(silhouette(X, labels), silhouette_score(X, labels), atol=1e-7)


@given(st.integers(2, 30), st.integers(1, 4), st.integers(1, 4), seeds)
def test_adjusted_rand_index_equals_sklearn(n, j, k, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, j, n), rng.integers(0, k, n)
    np.testing.assert_allclose(adjusted_rand_index(a, b), adjusted_rand_score(a, b), atol=1e-12)


X = cloud(10, 2, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: KMeans(11).fit(X), "n_clusters must be between 1 and n_samples = 10, got 11"),
        (lambda: KMeans(2, n_init=0).fit(X), "n_init must be at least 1, got 0"),
        (lambda: KMeans(2, init="first").fit(X), r"init must be k-means\+\+, random or an array"),
        (lambda: KMeans(2, init=X[:3]).fit(X), r"init must have shape \(2, 2\), got \(3, 2\)"),
        (lambda: KMeans(2).predict(X), "must be fitted before use"),
        (lambda: KMeans(2).fit(X * np.nan), "NaN or inf"),
        (lambda: mixture(0), "n_components must be between 1 and n_samples = 10, got 0"),
        (lambda: mixture(1, reg_covar=-1.0), "reg_covar must be at least 0, got -1"),
        (lambda: mixture(1, init_params="x"), "init_params must be kmeans or random_from_data"),
        (lambda: mixture(2, init=start_of(X, 3, 0)), "init must have the shapes"),
        (lambda: mixture(2, init=start(weights=[0.5, 0.9])), "init must have positive weights"),
        (lambda: mixture(2, init=start(weights=[1.5, -0.5])), "init must have positive weights"),
        (lambda: mixture(2, init=start(means=X[:2] * np.nan)), "sum 1 and finite means"),
        (lambda: mixture(2, init=start(covariances=[[[1, 0], [1, 1]]] * 2)), "init must have sym"),
        (lambda: KMeans(2, init=X[:2] * np.nan).fit(X), "init must be finite, got"),
        (lambda: GaussianMixture(2).predict(X), "must be fitted before use"),
        (lambda: silhouette(X, np.zeros(10)), "labels must name between 2 and n_samples - 1 = 9"),
        (lambda: adjusted_rand_index(X[:1, 0], X[:1, 0]), "a and b must have at least 2 labels"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def start(**changed):
    return start_of(X, 2, 0)._replace(**{k: np.array(v) for k, v in changed.items()})


def mixture(k, **options):
    return GaussianMixture(k, **options).fit(X)
