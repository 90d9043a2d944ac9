"""Exponents and tuning of papers/2022-chinchilla."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_scripts import load

from shared import records

paper = load(records.ROOT / "papers/2022-chinchilla/reproduce.py")


def valleys(exponent, shift=0.0):
    """Four budgets with exact parabolas whose minima follow the exponent."""
    budgets = np.array([1e9, 2e9, 4e9, 8e9])
    best = 2000 * (budgets / 1e9) ** exponent
    n = best[:, None] * np.exp(np.array([-1.0, -0.5, 0.0, 0.5, 1.0]) + shift)
    return budgets, n, 2.0 + 0.1 * np.log(n / best[:, None]) ** 2


@given(st.floats(0.1, 0.9), st.floats(-0.5, 0.5))
def test_exponent_of_exact_parabolas(exponent, shift):
    a, best, interior = paper.isoflop_exponent(*valleys(exponent, shift))
    assert a == pytest.approx(exponent, abs=1e-6)
    assert best[0] == pytest.approx(2000, rel=1e-6)
    assert interior


def test_one_minimum_outside_spoils_the_verdict():
    budgets, n, loss = valleys(0.5)
    loss[1] = np.log(n[1])
    loss[1, 0] -= 1
    assert not paper.isoflop_exponent(budgets, n, loss)[2]


def test_synthetic_valleys_follow_the_law():
    budgets, n, loss = paper.synthetic_valleys(0.0, np.random.default_rng(0))
    a, best, interior = paper.isoflop_exponent(budgets, n, loss)
    assert interior
    assert a == pytest.approx(0.28 / 0.62, abs=0.01)
    np.testing.assert_allclose(best, n[:, 2], rtol=0.1)


@given(st.integers(-3, 3))
def test_bracket_walks_to_the_best_power_of_two(power):
    tried = []

    def loss_of(factor):
        tried.append(factor)
        return (np.log2(factor) - power) ** 2

    assert paper.bracket(loss_of) == (2.0**power, True)
    assert len(tried) == len(set(tried)) <= 6


def test_bracket_gives_up_and_says_so():
    best, inside = paper.bracket(lambda factor: -factor, most=5)
    assert (best, inside) == (8.0, False)


def test_known_law_is_found_at_small_noise():
    runs = paper.synthetic_runs(120, 0.001, np.random.default_rng(0))
    law, _ = paper.fit_law(*runs)
    assert law.exponent == pytest.approx(0.28 / 0.62, abs=0.01)
    n_weights, n_tokens, loss = runs
    # the falsifier of the estimator: without the pairing of loss and run nothing is found
    blind, _ = paper.fit_law(n_weights, n_tokens, np.random.default_rng(1).permutation(loss))
    assert abs(blind.exponent - 0.28 / 0.62) > 0.02
