"""Week 01: exact references and least squares by QR and by the normal equations."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from week01.conditioning import (
    exact_least_squares,
    exact_singular_values,
    least_squares_normal,
    least_squares_qr,
)
from week01.matrix_decompositions import with_condition

seeds = st.integers(0, 2**32 - 1)


@given(st.integers(1, 4), st.integers(0, 5), seeds)
def test_all_agree_on_easy_problems(n, extra, seed):
    rng = np.random.default_rng(seed)
    A, b = with_condition(n + extra, n, 5.0, rng), rng.normal(size=n + extra)
    expected = np.linalg.lstsq(A, b)[0]
    for solve in (exact_least_squares, least_squares_qr, least_squares_normal):
        np.testing.assert_allclose(solve(A, b), expected, atol=1e-12)


def test_exact_is_exact():
    # 3 x = 1 in the least-squares sense has the double nearest to 1/3 as its solution.
    assert exact_least_squares(np.array([[3.0]]), np.array([1.0]))[0] == 1 / 3
    A = np.array([[1.0, 1.0], [1e-9, 0.0], [0.0, 1e-9]])  # Läuchli: AᵀA is singular in doubles
    b = A @ np.array([1.0, 2.0])
    np.testing.assert_allclose(exact_least_squares(A, b), [1.0, 2.0], rtol=1e-6)


def test_exact_singular_values():
    np.testing.assert_allclose(exact_singular_values(np.diag([3.0, -1e-20])), [3.0, 1e-20], 1e-15)
    A = np.random.default_rng(0).normal(size=(4, 4))
    np.testing.assert_allclose(exact_singular_values(A), np.linalg.svd(A)[1], rtol=1e-13)
