"""Week 04: bias, variance, splits, double descent."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from week04.bias_variance import (
    Decomposition,
    decompose,
    double_descent_risk,
    polynomial,
    relu_features,
    train_validation_test_split,
    weak_features_error,
)

seeds = st.integers(0, 2**32 - 1)


@given(st.integers(2, 20), st.integers(1, 8), seeds)
def test_identity_is_exact(runs, points, seed):
    rng = np.random.default_rng(seed)
    predictions, truth = rng.normal(size=(runs, points)), rng.normal(size=points)
    parts = decompose(predictions, truth, 0.25)
    assert parts.total == pytest.approx(((predictions - truth) ** 2).mean() + 0.25)
    assert min(parts) >= 0


def test_worked_example():
    """Fits 1 and 3 of a truth of 0: bias 2, deviation 1."""
    parts = decompose(np.array([[1.0], [3.0]]), np.zeros(1), 0.5)
    assert parts == Decomposition(4.0, 1.0, 0.5)
    assert parts.total == 5.5


@given(st.integers(10, 200), seeds)
def test_splits_are_disjoint_and_whole(n, seed):
    parts = train_validation_test_split(n, (0.6, 0.2, 0.2), np.random.default_rng(seed))
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(n))
    assert [len(part) for part in parts[:2]] == [round(0.6 * n), round(0.2 * n)]


def test_split_is_random_and_repeatable():
    first, again, other = (
        train_validation_test_split(50, (0.5, 0.25, 0.25), np.random.default_rng(seed))[0]
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert set(first) != set(other)
    assert set(first) != set(range(25))


def test_relu_features():
    X = np.random.default_rng(0).normal(size=(2000, 10))
    F = relu_features(X, 2000, np.random.default_rng(1))
    assert F.shape == (2000, 2000)
    assert F.min() == 0
    np.testing.assert_allclose((F > 0).mean(), 0.5, atol=0.03)
    np.testing.assert_allclose((F**2).mean(), 0.5, rtol=0.05)  # half the variance of Xw


@pytest.mark.parametrize(
    ("n", "p", "n_all"), [(20, 5, 40), (20, 0, 40), (20, 32, 40), (10, 60, 60)]
)
def test_risk_equals_simulation(n, p, n_all):
    rng = np.random.default_rng([n, p])
    errors = [weak_features_error(n, p, n_all, 0.1, rng) for _ in range(150)]
    spread = np.std(errors, ddof=1) / np.sqrt(len(errors))
    assert abs(np.mean(errors) - double_descent_risk(n, p, n_all, 0.1)) < 4 * spread + 1e-9


def test_risk_has_its_peak_at_n_and_known_ends():
    assert double_descent_risk(20, 0, 40, 0.3) == pytest.approx(1.3)
    assert double_descent_risk(20, 20, 40, 0.3) == float("inf")
    assert double_descent_risk(20, 10, 10, 0.5) == pytest.approx(0.5 * (1 + 10 / 9))
    after = [double_descent_risk(20, p, 400, 0.0) for p in range(22, 200)]
    assert (np.diff(after) < 0).all()


RNG, THIRDS = np.random.default_rng(0), (0.6, 0.2, 0.2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: decompose(np.zeros((1, 3)), np.zeros(3), 0.0), "at least 2 rows, got 1"),
        (lambda: decompose(np.eye(2), np.zeros(2), -1.0), "noise_variance .* at least 0, got -1"),
        (lambda: polynomial(np.zeros(3), -1), "degree must be at least 0, got -1"),
        (lambda: train_validation_test_split(9, (0.5, 0.5, 0.5), RNG), "positive and sum to 1"),
        (lambda: train_validation_test_split(2, THIRDS, RNG), "n must be large enough"),
        (lambda: relu_features(np.eye(2), 0, RNG), "n_features must be at least 1, got 0"),
        (lambda: double_descent_risk(5, 4, 3, 0.0), "p must be between 0 and n_all = 3, got 4"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
