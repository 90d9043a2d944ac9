"""Week 01: principal components and the best low-rank approximation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA as Reference

from week01.pca import PCA, low_rank

seeds = st.integers(0, 2**32 - 1)


def cloud(n, d, seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 5 * rng.normal(size=d)


ATTRIBUTES = "mean_ components_ explained_variance_ explained_variance_ratio_ singular_values_"


@given(st.integers(3, 12), st.integers(1, 8), seeds)
def test_equals_sklearn(n, d, seed):
    X, new = np.split(cloud(n + 5, d, seed), [n])
    k = 1 + seed % min(n - 1, d)
    ours, reference = PCA(k).fit(X), Reference(k, svd_solver="full").fit(X)
    for name in ATTRIBUTES.split():
        theirs = getattr(reference, name)
        np.testing.assert_allclose(getattr(ours, name), theirs, atol=1e-6, err_msg=name)
    Z = reference.transform(new)
    np.testing.assert_allclose(ours.transform(new), Z, atol=1e-6)
    np.testing.assert_allclose(ours.inverse_transform(Z), reference.inverse_transform(Z), atol=1e-6)
    assert ours.n_components_ == k


def test_constant_data_has_no_variance():
    pca = PCA(2).fit(np.full((5, 3), 7.0))
    np.testing.assert_array_equal(pca.explained_variance_, 0.0)
    np.testing.assert_array_equal(pca.explained_variance_ratio_, 0.0)
    np.testing.assert_allclose(pca.inverse_transform(pca.transform(np.full((1, 3), 7.0))), 7.0)


@given(st.integers(2, 8), st.integers(2, 8), seeds)
def test_low_rank_is_optimal(m, n, seed):
    A = np.random.default_rng(seed).normal(size=(m, n))
    sigma = np.linalg.svd(A, compute_uv=False)
    for rank in range(1, min(m, n) + 1):
        B = low_rank(A, rank)
        assert np.linalg.matrix_rank(B) <= rank
        tail = np.sqrt((sigma[rank:] ** 2).sum())
        np.testing.assert_allclose(np.linalg.norm(A - B), tail, atol=1e-12)


X = cloud(10, 8, 0)
K = r"n_components must be between 1 and min\(n_samples, n_features\) = 8, got "


@pytest.mark.parametrize(
    ("message", "call"),
    [
        (K + "20", lambda: PCA(20).fit(X)),
        (K + "0", lambda: PCA(0).fit(X)),
        ("X must have at least 2 rows to have a variance, got 1", lambda: PCA().fit(X[:1])),
        ("X must be finite, got 80 NaN or inf", lambda: PCA().fit(X * np.nan)),
        ("X must have 8 columns as in fit, got 7", lambda: PCA().fit(X).transform(X[:, :7])),
        ("Z must have 2 columns, got shape", lambda: PCA(2).fit(X).inverse_transform(X)),
        ("PCA must be fitted before use", lambda: PCA().transform(X)),
        (r"rank must be between 1 and min\(A.shape\) = 8, got 9", lambda: low_rank(X, 9)),
    ],
)
def test_bad_input_is_named(message, call):
    with pytest.raises(ValueError, match=message):
        call()
