"""Stationary functions against closed forms, and what must hold on the way to them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import quad

from week02.calculus_of_variations import (
    GRAVITY,
    cycloid,
    first_variation,
    free_energy,
    functional,
    graded,
    maximize_free_energy,
    midpoint,
    minimize_path,
    quadrature,
    second_variation,
    slide_time,
)
from week02.finite_differences import finite_difference
from week02.gradients_and_jacobians import exp, sqrt

LENGTH = midpoint(lambda x, y, slope: sqrt(1.0 + slope * slope))
MIXED = midpoint(lambda x, y, slope: exp(-x) * slope**2 + y * y * slope + x * y**3)


@settings(max_examples=8)
@given(n=st.integers(3, 6), seed=st.integers(0, 99))
def test_variations_equal_finite_differences(n, seed):
    rng = np.random.default_rng(seed)
    x, y = np.sort(rng.uniform(size=n)) + np.arange(n), 0.3 + rng.uniform(size=n)

    def inner(v):
        moved = y.copy()
        moved[1:-1] = v
        return moved

    for segment in (MIXED, slide_time, LENGTH):
        first = finite_difference(lambda v, s=segment: functional(s, x, inner(v)), y[1:-1])[0]
        np.testing.assert_allclose(first_variation(segment, x, y), first, atol=1e-8)
        second = finite_difference(
            lambda v, s=segment: list(first_variation(s, x, inner(v))), y[1:-1]
        )
        np.testing.assert_allclose(second_variation(segment, x, y), second, atol=1e-7)


def test_first_variation_is_the_euler_lagrange_expression():
    # L = y'²/2 - y³: ∂L/∂y - d/dx ∂L/∂y' = -3y² - y''; y = sin x
    x = np.linspace(0.0, 1.0, 2001)
    segment = midpoint(lambda x, y, slope: 0.5 * slope * slope - y**3)
    found = first_variation(segment, x, np.sin(x)) / (x[1] - x[0])
    expected = -3.0 * np.sin(x) ** 2 + np.sin(x)
    np.testing.assert_allclose(found, expected[1:-1], atol=1e-6)


@settings(max_examples=10)
@given(st.floats(-2, 2), st.floats(-2, 2), st.integers(3, 15), st.integers(0, 99))
def test_the_shortest_path_is_straight(y0, y1, n, seed):
    rng = np.random.default_rng(seed)
    x = np.sort(rng.uniform(size=n)) + 0.1 * np.arange(n)
    y = np.r_[y0, rng.normal(size=n - 2), y1]
    line = y0 + (y1 - y0) * (x - x[0]) / (x[-1] - x[0])
    np.testing.assert_allclose(minimize_path(LENGTH, x, y), line, atol=1e-7)


def test_midpoint_rule_has_order_two():
    errors = []
    for n in (11, 21, 41):
        x = np.linspace(0.0, 1.0, n)
        soap_film = midpoint(lambda x, y, slope: y * sqrt(1.0 + slope * slope))
        y = minimize_path(soap_film, x, np.linspace(1.0, math.cosh(1.0), n))
        errors.append(np.abs(y - np.cosh(x)).max())
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4.0, rel=0.1)


@given(x_end=st.floats(0.1, 20.0), y_end=st.floats(0.1, 20.0))
def test_cycloid_ends_where_it_should(x_end, y_end):
    radius, t = cycloid(x_end, y_end)
    assert radius * (t - math.sin(t)) == pytest.approx(x_end, rel=1e-6)
    assert radius * (1.0 - math.cos(t)) == pytest.approx(y_end, rel=1e-6)
    assert 0.0 < t < 2.0 * math.pi


def test_slide_time_from_rest():
    seconds = slide_time(0.0, 0.0, 3.0, 4.0)  # 5 m at acceleration 0.8 g
    assert seconds == pytest.approx(math.sqrt(2.0 * 5.0 / (0.8 * GRAVITY)), rel=1e-14)
    by_quadrature = quad(lambda s: 1.0 / math.sqrt(2.0 * GRAVITY * (1.0 + 0.8 * s)), 0.0, 5.0)[0]
    assert slide_time(0.0, 1.0, 3.0, 5.0) == pytest.approx(by_quadrature, rel=1e-10)


@given(sigma=st.floats(0.3, 3.0), mean=st.floats(-2.0, 2.0), seed=st.integers(0, 99))
def test_largest_entropy_with_mean_and_variance_is_gaussian(sigma, mean, seed):
    x, weights = quadrature(mean - 9 * sigma, mean + 9 * sigma, 120)
    start = np.random.default_rng(seed).uniform(0.01, 1.0, size=120)
    moments, targets = np.array([x**0, x, x**2]), np.array([1.0, mean, sigma**2 + mean**2])
    p = maximize_free_energy(weights, np.zeros(120), moments, targets, start=start)[-1]
    np.testing.assert_allclose(p, stats.norm(mean, sigma).pdf(x), atol=1e-9 / sigma)


@given(a=st.integers(1, 5), b=st.integers(1, 5), heads=st.integers(0, 9), tosses=st.integers(9, 12))
def test_largest_elbo_is_at_the_posterior(a, b, heads, tosses):
    z, weights = quadrature(0.0, 1.0, 120)
    joint = stats.beta(a, b).logpdf(z) + stats.binom.logpmf(heads, tosses, z)
    q = maximize_free_energy(weights, joint, np.ones((1, 120)), np.ones(1))[-1]
    posterior = stats.beta(a + heads, b + tosses - heads).pdf(z)
    np.testing.assert_allclose(q, posterior, atol=1e-9)
    evidence = stats.betabinom(tosses, a, b).logpmf(heads)
    assert free_energy(q, weights, joint) == pytest.approx(evidence, abs=1e-10)


def test_temperature_sharpens():
    # the maximizer is proportional to exp(reward / temperature)
    x, weights = quadrature(-6.0, 6.0, 150)
    path = maximize_free_energy(
        weights, -(x**2) / 2, np.ones((1, 150)), np.ones(1), temperature=0.25
    )
    np.testing.assert_allclose(path[-1], stats.norm(scale=0.5).pdf(x), atol=1e-8)


X, Y = np.linspace(0.0, 1.0, 5), np.ones(5)
PROBLEM = (Y, Y, np.ones((1, 5)), np.ones(1))


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "3 numbers, strictly increasing", lambda: minimize_path(LENGTH, -X, Y)),
        (ValueError, "3 numbers, strictly increasing", lambda: functional(LENGTH, X[:2], Y[:2])),
        (ValueError, "y must have finite ends", lambda: minimize_path(LENGTH, X, Y * np.nan)),
        (
            ArithmeticError,
            "no stationary path in max_iterations = 1",
            lambda: minimize_path(MIXED, X, Y, max_iterations=1),
        ),
        (ValueError, "x_end and y_end must be positive", lambda: cycloid(1.0, 0.0)),
        (ValueError, "n must be at least 3, got 2", lambda: graded(1.0, 2)),
        (ValueError, "low must be below high", lambda: quadrature(1.0, 0.0, 5)),
        (
            ValueError,
            "temperature must be positive, got 0",
            lambda: maximize_free_energy(*PROBLEM, temperature=0.0),
        ),
        (
            ValueError,
            "start must be positive everywhere",
            lambda: maximize_free_energy(*PROBLEM, start=np.zeros(5)),
        ),
    ],
)
def test_bad_input_is_named(error, message, call):
    with pytest.raises(error, match=message):
        call()


def test_impossible_moments_give_no_density():
    z, weights = quadrature(0.0, 1.0, 20)
    with pytest.raises(ArithmeticError, match="no density found"):  # its mean would be 2
        maximize_free_energy(weights, 0 * z, np.array([z**0, z]), np.array([1.0, 2.0]))
