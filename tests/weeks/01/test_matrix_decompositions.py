"""Week 01: QR, Jacobi eigenvalues and SVD, projection, least squares."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from week01.matrix_decompositions import (
    eigh_jacobi,
    householder_qr,
    least_squares,
    project,
    solve_triangular,
    svd_jacobi,
    with_condition,
)
from week01.pivoted_qr import pivoted_qr

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 9)


def hilbert(n):
    i = np.arange(n)
    return 1.0 / (i[:, None] + i + 1.0)


def random_matrix(m, n, seed, rank=None):
    rng = np.random.default_rng(seed)
    if rank is None:
        return rng.normal(size=(m, n))
    return rng.normal(size=(m, rank)) @ rng.normal(size=(rank, n))


MATRICES = {
    "wide": random_matrix(5, 30, 1),
    "rank 2 of 6": random_matrix(9, 6, 3, rank=2),
    "wide, rank 2": random_matrix(4, 9, 4, rank=2),
    "hilbert": hilbert(10),
    "zero": np.zeros((4, 3)),
    "row": random_matrix(1, 6, 5),
    "column": random_matrix(6, 1, 6),
    "zero column": random_matrix(6, 3, 7) * [1.0, 0.0, 1.0],
    "repeated column": np.repeat(random_matrix(6, 2, 8), 2, axis=1),
    "identity": np.eye(5),
    "ones": np.ones((5, 4)),
    "huge": 1e300 * random_matrix(5, 4, 9),
    "tiny": 1e-300 * random_matrix(5, 4, 10),
    "ill-conditioned": with_condition(12, 6, 1e13, np.random.default_rng(11)),
}


@pytest.fixture(params=MATRICES, ids=MATRICES.keys())
def A(request):
    matrix = MATRICES[request.param].copy()
    yield matrix
    np.testing.assert_array_equal(matrix, MATRICES[request.param], "the argument was changed")


def assert_orthonormal(Q):
    np.testing.assert_allclose(Q.T @ Q, np.eye(Q.shape[1]), atol=1e-13)


def size_of(A):
    return max(np.abs(A).max(), 1e-320) * np.sqrt(A.size)


def test_qr_is_a_qr_factorization(A):
    Q, R = householder_qr(A)
    k = min(A.shape)
    assert Q.shape == (A.shape[0], k)
    assert R.shape == (k, A.shape[1])
    assert_orthonormal(Q)
    np.testing.assert_array_equal(R, np.triu(R))
    np.testing.assert_allclose(Q @ R, A, rtol=0, atol=1e-14 * size_of(A))


def test_qr_equals_numpy_signs_included(A):
    Q, R = householder_qr(A)
    expected_Q, expected_R = np.linalg.qr(A)
    if np.array_equal(A[:, 0], A[:, 1 % A.shape[1]]) and A.shape == (6, 4):
        return  # a repeated column leaves the rows of R below it to rounding
    np.testing.assert_allclose(R, expected_R, rtol=0, atol=1e-13 * size_of(A))
    if np.linalg.matrix_rank(A / size_of(A)) == min(A.shape) and A.shape != (10, 10):
        kappa = np.linalg.cond(A / size_of(A))
        np.testing.assert_allclose(Q, expected_Q, atol=1e-14 * kappa)


def test_qr_does_not_cancel():
    # v = x - |x| e₁ would lose all digits here: x is almost along e₁ already.
    A = np.array([[1.0, 2.0], [1e-9, 1.0], [1e-9, 3.0]])
    Q, R = householder_qr(A)
    assert_orthonormal(Q)
    np.testing.assert_allclose(Q @ R, A, atol=1e-15)


def test_svd_is_a_singular_value_decomposition(A):
    U, sigma, Vt = svd_jacobi(A)
    k = min(A.shape)
    assert (U.shape, sigma.shape, Vt.shape) == ((len(A), k), (k,), (k, A.shape[1]))
    assert_orthonormal(U)
    assert_orthonormal(Vt.T)
    assert (sigma >= 0).all()
    assert (np.diff(sigma) <= 0).all()
    np.testing.assert_allclose((U * sigma) @ Vt, A, rtol=0, atol=1e-14 * size_of(A))


@given(sizes, sizes, seeds)
def test_svd_property(m, n, seed):
    A = random_matrix(m, n, seed)
    U, sigma, Vt = svd_jacobi(A)
    np.testing.assert_allclose(sigma, np.linalg.svd(A, compute_uv=False), atol=1e-13)
    np.testing.assert_allclose((U * sigma) @ Vt, A, atol=1e-13)
    np.testing.assert_allclose(svd_jacobi(A.T)[1], sigma, atol=1e-13)


def test_small_singular_values_are_relatively_accurate():
    # diag(1, 1e-12, 1e-24) between rotations of the plane that keep the columns' scales.
    D = np.array([1e-24, 1.0, 1e-12])
    B = np.array([[1.0, 0.5, 0.25], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
    sigma = svd_jacobi(B * D)[1]
    np.testing.assert_allclose(np.prod(sigma), np.prod(D), rtol=1e-14)  # |det B| = 1


def assert_eigh_equals_numpy(S):
    values, V = eigh_jacobi(S)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(S), atol=1e-13)
    assert_orthonormal(V)
    np.testing.assert_allclose(S @ V, V * values, atol=1e-13)


def test_eigh_equals_numpy(A):
    assert_eigh_equals_numpy((A / size_of(A)) @ (A / size_of(A)).T - 0.3 * np.eye(len(A)))


@given(st.integers(1, 12), seeds)
def test_eigh_property(n, seed):
    A = random_matrix(n, n, seed) / n
    assert_eigh_equals_numpy(A + A.T)


@given(st.integers(1, 8), seeds)
def test_solve_triangular(n, seed):
    R = np.triu(random_matrix(n, n, seed)) + 3 * np.eye(n)
    b = random_matrix(n, 2, seed + 1)
    expected = np.linalg.solve(R, b)
    np.testing.assert_allclose(solve_triangular(R, b), expected, atol=1e-11)
    np.testing.assert_allclose(solve_triangular(R, b[:, 0]), expected[:, 0], atol=1e-11)


@given(sizes, sizes, seeds)
def test_least_squares_equals_numpy(m, n, seed):
    A, b = random_matrix(m, n, seed, rank=min(m, n, 3)), random_matrix(m, 3, seed + 1)
    expected = np.linalg.lstsq(A, b, rcond=1e-6)[0]
    scale = 1e-9 * (1 + np.abs(expected).max())
    for rcond in (None, 1e-6):
        np.testing.assert_allclose(least_squares(A, b, rcond), expected, atol=scale)
        np.testing.assert_allclose(least_squares(A, b[:, 0], rcond), expected[:, 0], atol=scale)


@given(sizes, sizes, sizes, seeds)
def test_pivoted_qr_equals_scipy_and_sees_the_rank(m, n, rank, seed):
    A = random_matrix(m, n, seed, rank=min(m, n, rank))
    R, order = pivoted_qr(np.column_stack([A, A[:, 0]]), n)
    theirs, columns = scipy.linalg.qr(A, mode="r", pivoting=True)
    assert len(R) == min(m, n, rank)
    assert order[: len(R)].tolist() == columns[: len(R)].tolist()
    np.testing.assert_allclose(R[:, :n].T @ R[:, :n], A[:, order].T @ A[:, order], atol=1e-11)
    np.testing.assert_allclose(abs(np.diag(R)), abs(np.diag(theirs))[: len(R)], rtol=1e-7)
    np.testing.assert_allclose(R[:, n], R[:, order.tolist().index(0)], atol=1e-12)


def test_least_squares_of_the_rank_deficient_has_least_norm():
    A, b = MATRICES["rank 2 of 6"], random_matrix(9, 1, 4)[:, 0]
    x = least_squares(A, b)
    np.testing.assert_allclose(x, np.linalg.pinv(A) @ b, atol=1e-12)
    null = np.linalg.svd(A)[2][2:]
    np.testing.assert_allclose(null @ x, 0.0, atol=1e-13)


def test_project_is_the_orthogonal_projection(A):
    A = A / size_of(A)
    b = random_matrix(len(A), 2, 8)
    p = project(A, b)
    if A.shape in ((10, 10), (12, 6)):  # ill-conditioned: only the geometry is determined
        np.testing.assert_allclose(A.T @ (b - p), 0.0, atol=1e-12)
    else:
        np.testing.assert_allclose(p, A @ np.linalg.pinv(A) @ b, atol=1e-12)
    np.testing.assert_allclose(project(A, p), p, atol=1e-12)


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("A must be finite, got 1 NaN or inf", lambda: svd_jacobi(np.array([[np.nan]]))),
        ("A must be a matrix with at least one", lambda: householder_qr(np.zeros((0, 0)))),
        ("A must be symmetric", lambda: eigh_jacobi(np.array([[1.0, 2.0], [3.0, 4.0]]))),
        (
            r"R must have a non-zero diagonal, got R\[1, 1\] = 0",
            lambda: solve_triangular(np.diag([1.0, 0.0]), np.ones(2)),
        ),
        (
            "rcond must be at least 0 and below 1, got -1",
            lambda: least_squares(np.eye(2), np.ones(2), rcond=-1.0),
        ),
        (
            "b must be finite, got 1 NaN or inf",
            lambda: least_squares(np.eye(2), np.array([1.0, np.inf])),
        ),
    ],
)
def test_bad_input_is_named(message, call):
    with pytest.raises(ValueError, match=message):
        call()
