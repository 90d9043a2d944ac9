"""Week 09: methods against matrix powers and torch, theorems against their closed forms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from week09.convergence import (
    bent_gradient,
    best_parameters,
    conjugate_gradient,
    gradient_descent,
    heavy_ball,
    iteration_matrix,
    nesterov,
    noise_floor,
    polyak_average,
    sgd,
    steps_until,
    take,
    worst_function,
)

seeds = st.integers(0, 2**32 - 1)
kappas = st.floats(1.0, 1e4)
METHODS = ("gradient descent", "heavy ball", "nesterov")


def quadratic(seed, n, kappa=30.0):
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.normal(size=(n, n)))[0]
    return q * np.geomspace(1.0, kappa, n) @ q.T, rng.normal(size=n)


@given(st.integers(1, 6), seeds, st.floats(0.001, 0.1), st.floats(0.0, 0.95))
def test_points_are_powers_of_the_iteration_matrix(n, seed, lr, momentum):
    hessian, x0 = quadratic(seed, n)
    start = np.concatenate([x0, x0])
    for ahead, method in ((False, heavy_ball), (True, nesterov)):
        step = iteration_matrix(hessian, lr, momentum, ahead)
        expected = [(np.linalg.matrix_power(step, k) @ start)[:n] for k in range(8)]
        points = take(method(hessian.__matmul__, x0, lr, momentum=momentum), 7)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(points / scale, np.array(expected) / scale, atol=1e-10)


@given(kappas)
def test_rates_are_spectral_radii(kappa):
    curvatures = np.diag(np.linspace(2.0, 2.0 * kappa, 7))
    for name in METHODS:
        lr, momentum, rate = best_parameters(name, 2.0, 2.0 * kappa)
        step = iteration_matrix(curvatures, lr, momentum, name == "nesterov")
        assert np.abs(np.linalg.eigvals(step)).max() == pytest.approx(rate, abs=1e-6)


@given(st.integers(1, 12), seeds)
def test_conjugate_gradients_end_after_n_steps(n, seed):
    hessian, b = quadratic(seed, n, 10.0)
    points = take(conjugate_gradient(hessian.__matmul__, b, np.zeros(n)), n + 5)
    np.testing.assert_allclose(hessian @ points[n], b, atol=1e-9)
    assert np.isfinite(points).all()


def test_conjugate_gradients_at_the_solution_stay():
    points = take(conjugate_gradient(lambda x: 2 * x, np.array([4.0]), np.array([2.0])), 3)
    np.testing.assert_array_equal(points, np.full((4, 1), 2.0))


@pytest.mark.parametrize("k", [1, 2, 5, 20])
def test_worst_function_leaves_the_closed_form(k):
    n = 2 * k + 1
    A, b = worst_function(n, 3.0)
    assert np.linalg.eigvalsh(A)[-1] <= 3.0
    solution = np.linalg.solve(A, b)
    np.testing.assert_allclose(solution, 1 - np.arange(1, n + 1) / (n + 1), atol=1e-12)

    def gap(x):
        return x @ A @ x / 2 - b @ x + b @ solution / 2

    lower = 3 * 3.0 * (solution @ solution) / (32 * (k + 1) ** 2)
    best = take(conjugate_gradient(A.__matmul__, b, np.zeros(n)), k)[-1]
    assert gap(best) == pytest.approx(3.0 / 8 * (1 / (k + 1) - 1 / (n + 1)))
    for points in (
        gradient_descent(lambda x: A @ x - b, np.zeros(n), 1 / 3.0),
        nesterov(lambda x: A @ x - b, np.zeros(n), 1 / 3.0),
    ):
        last = take(points, k)[-1]
        assert (last[k:] == 0).all()  # news travels one link a step
        assert gap(last) >= gap(best) >= lower


def test_nesterov_without_m_uses_the_growing_momentum():
    x = take(nesterov(lambda x: x, np.array([1.0]), 0.1), 2)[:, 0]
    t2 = (1 + 5**0.5) / 2
    t3 = (1 + (1 + 4 * t2**2) ** 0.5) / 2
    np.testing.assert_allclose(x[:2], [1.0, 0.9])
    assert x[2] == pytest.approx(0.9 * (0.9 + (1 - 1) / t2 * -0.1))
    third = take(nesterov(lambda x: x, np.array([1.0]), 0.1), 3)[3, 0]
    assert third == pytest.approx(0.9 * (x[2] + (t2 - 1) / t3 * (x[2] - x[1])))


def test_bent_gradient_has_slopes_between_1_and_25_and_no_jumps():
    x = np.linspace(-3, 4, 7001)
    slopes = np.diff(bent_gradient(x)) / np.diff(x)
    assert slopes.min() >= 1 - 1e-9
    assert slopes.max() <= 25 + 1e-9


@given(st.floats(0.01, 1.9), st.floats(0.0, 0.95))
def test_noise_floor_solves_the_lyapunov_equation(lr, momentum):
    from scipy.linalg import solve_discrete_lyapunov

    for curvature in (0.3, 1.0):
        step = iteration_matrix(np.array([[curvature]]), lr, momentum)
        stationary = solve_discrete_lyapunov(step, np.diag([lr**2 * 0.49, 0.0]))[0, 0]
        ours = noise_floor(np.array([curvature]), lr, 0.7, momentum)[0]
        assert ours == pytest.approx(stationary, rel=1e-6)


def test_sgd_reaches_the_floor():
    rng = np.random.default_rng(0)
    eigenvalues = np.array([0.5, 1.0])
    points = sgd(eigenvalues.__mul__, np.zeros((400, 2)), np.full(300, 0.4), 2.0, rng, 0.5)
    measured = points[100:].var(axis=(0, 1))
    np.testing.assert_allclose(measured, noise_floor(eigenvalues, 0.4, 2.0, 0.5), rtol=0.06)


@given(st.integers(1, 20), st.integers(1, 3), seeds)
def test_polyak_average(k, n, seed):
    points = np.random.default_rng(seed).normal(size=(k + 1, n))
    averages = polyak_average(points)
    np.testing.assert_array_equal(averages[0], points[0])
    for i in range(1, k + 1):
        np.testing.assert_allclose(averages[i], points[1 : i + 1].mean(0), atol=1e-12)


def test_steps_until():
    halving = gradient_descent(lambda x: x, np.ones(1), 0.5)
    assert steps_until(halving, lambda x: x[0] <= 1 / 8, 100) == 3
    assert steps_until(gradient_descent(lambda x: 0 * x, np.ones(1), 0.5), lambda x: False, 7) == 7


ONE = np.ones(1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: heavy_ball(abs, ONE, -1.0, 0.5), "lr must be greater than 0, got -1"),
        (lambda: nesterov(abs, ONE, 0.1, 1.0), r"momentum must lie in \[0, 1\), got 1"),
        (lambda: best_parameters("heavy ball", 2.0, 1.0), "< m <= L, got m = 2.0 and L = 1.0"),
        (lambda: best_parameters("adam", 1.0, 2.0), "method must be .*, got 'adam'"),
        (lambda: noise_floor(ONE, 2.0, 1.0), "lr must be below .* = 2, got 2"),
        (lambda: worst_function(0), "n must be at least 1, got 0"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
