"""The perceptron's bound, its margin, and the problems that it cannot learn."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from week07.perceptron import augment, errors, fit, max_margin, novikoff_bound, predict

XOR = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), np.array([-1, 1, 1, -1])
seeds = st.integers(0, 999)


def draw(seed, n, d, gap=0.1):
    """Separable examples: the side of a random plane, none nearer than the gap."""
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=d)
    X = rng.normal(size=(n, d))
    side = X @ normal + 0.3
    y = np.where(side > 0, 1, -1)
    return X + gap * y[:, None] * normal / np.linalg.norm(normal), y


@given(n=st.integers(2, 25), d=st.integers(1, 6), seed=seeds)
def test_mistakes_stay_within_the_bound(n, d, seed):
    X, y = draw(seed, n, d)
    found = fit(X, y, max_epochs=100_000)
    assert found.converged
    assert found.mistakes <= novikoff_bound(X, y)
    assert errors(found.weights, X, y) == 0
    assert found.mistakes == len(found.path) - 1


def test_orthogonal_examples_use_the_bound_up():
    X, y = 1000.0 * np.eye(7), np.array([1, -1, 1, 1, -1, -1, 1])
    assert fit(X, y).mistakes == 7
    assert novikoff_bound(X, y) == pytest.approx(7, abs=1e-4)


def test_worked_example_by_hand():
    # two points, (1) → +1 and (-1) → -1: one mistake on each, then none
    found = fit(np.array([[1.0], [-1.0]]), np.array([1, -1]))
    np.testing.assert_array_equal(found.path, [[0, 0], [1, 1], [2, 0]])
    np.testing.assert_array_equal(found.mistakes_per_epoch, [2, 0])
    np.testing.assert_array_equal(found.average, [1.75, 0.25])  # of (1, 1), then (2, 0) thrice


@given(rate=st.sampled_from([0.25, 2.0, 8.0]), seed=seeds)
def test_lr_only_scales(rate, seed):
    X, y = draw(seed, 12, 3)
    one, other = fit(X, y), fit(X, y, lr=rate)
    np.testing.assert_array_equal(one.mistakes_per_epoch, other.mistakes_per_epoch)
    np.testing.assert_array_equal(rate * one.path, other.path)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::5])
def test_xor_cycles_in_any_order(order):
    found = fit(XOR[0][list(order)], XOR[1][list(order)], max_epochs=60)
    assert not found.converged
    ends = found.path[np.cumsum(found.mistakes_per_epoch)]
    assert len(np.unique(ends, axis=0)) < 20


def test_every_truth_table_but_xor_is_learned():
    for table in itertools.product([-1, 1], repeat=4):
        y = np.array(table)
        is_xor = y[0] == y[3] != y[1] == y[2]
        assert fit(XOR[0], y, max_epochs=100).converged == (not is_xor)
        assert (max_margin(XOR[0], y).gamma > 0) == (not is_xor)


def test_mixture_proves_xor_inseparable():
    found = max_margin(*XOR)
    assert found.gamma == 0.0
    assert novikoff_bound(*XOR) == np.inf
    np.testing.assert_allclose(found.mixture, 0.25, atol=1e-12)
    np.testing.assert_allclose(found.mixture @ (augment(XOR[0]) * XOR[1][:, None]), 0, atol=1e-12)


@given(n=st.integers(1, 15), d=st.integers(1, 4), seed=seeds)
def test_margin_equals_its_dual(n, d, seed):
    X, y = draw(seed, n, d)
    found = max_margin(X, y)
    Z = augment(X) * y[:, None]
    assert np.linalg.norm(found.mixture @ Z) == pytest.approx(found.gamma, rel=1e-7)
    assert (found.mixture >= 0).all()
    assert found.mixture.sum() == pytest.approx(1)
    assert np.linalg.norm(found.weights) == pytest.approx(1)


@given(seed=seeds)
def test_separable_exactly_if_a_linear_program_says_so(seed):
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(8, 2)), rng.choice([-1, 1], 8)
    Z = augment(X) * y[:, None]
    program = linprog(np.zeros(3), A_ub=-Z, b_ub=-np.ones(8), bounds=(None, None))
    assert (max_margin(X, y).gamma > 0) == (program.status == 0)


def test_margin_of_two_points():
    # ±2 on a line: z = (2, 1) and (2, -1); the plane w = (1, 0) is 2 away from both
    found = max_margin(np.array([[2.0], [-2.0]]), np.array([1, -1]))
    assert found.gamma == pytest.approx(2)
    np.testing.assert_allclose(found.weights, [1, 0], atol=1e-12)


@given(seed=seeds)
def test_pocket_is_the_best_on_the_path(seed):
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(20, 2)), rng.choice([-1, 1], 20)
    found = fit(X, y, max_epochs=5, pocket=True)
    fewest = min(errors(w, X, y) for w in found.path)
    assert errors(found.pocket, X, y) == fewest


def test_labels_of_another_shape_are_refused():
    X, y = np.ones((3, 2)), np.ones((3, 1), int)
    for f in (max_margin, lambda X, y: errors(np.ones(3), X, y)):
        with pytest.raises(ValueError, match=r"y must be integers of shape \(n = 3\)"):
            f(X, y)


def test_point_on_the_line_is_a_mistake():
    assert errors(np.zeros(2), np.array([[1.0]]), np.array([1])) == 1
    assert predict(np.zeros(2), np.array([[1.0]]))[0] == -1


@pytest.mark.parametrize(
    ("X", "y", "options", "match"),
    [
        ([[0.0], [0.0]], [0, 1], {}, "y must be \\+1 or -1, got 0"),
        (np.zeros((0, 1)), [], {}, "at least one row, got none"),
        ([[0.0], [1.0]], [[1], [-1]], {}, r"y must be integers of shape \(n = 2\), got int64 of"),
        ([[0.0], [1.0]], [1], {}, r"y must be integers of shape \(n = 2\), got int64 of"),
        ([[np.nan]], [1], {}, "X must be finite"),
        ([[0.0]], [1], {"max_epochs": 0}, "max_epochs must be at least 1"),
        ([[0.0]], [1], {"lr": 0.0}, "lr must be positive"),
    ],
)
def test_wrong_input_is_refused(X, y, options, match):
    with pytest.raises(ValueError, match=match):
        fit(np.array(X), np.array(y, int), **options)
