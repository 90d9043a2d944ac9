"""Rules, bootstrap and tuning of papers/2022-chinchilla."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.stats import Interval

PAPER = Path(__file__).parents[2] / "papers" / "2022-chinchilla"


def load():
    spec = importlib.util.spec_from_file_location(
        "reproduce_2022_chinchilla", PAPER / "reproduce.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


paper = load()
MATTER = paper.front_matter((PAPER / "README.md").read_text(encoding="utf-8"))
RULE = next(rule for rule in MATTER["rules"] if rule["name"] == "the exponent on text")


@pytest.mark.parametrize(
    ("low", "high", "interior", "verdict"),
    [
        (0.40, 0.60, True, "reproduced"),
        (0.30, 0.70, True, "reproduced"),
        (0.40, 0.60, False, "inconclusive"),
        (0.40, 0.71, True, "inconclusive"),
        (0.29, 0.60, True, "inconclusive"),
        (0.20, 0.90, True, "inconclusive"),
        (0.71, 0.90, True, "not reproduced"),
        (0.05, 0.29, True, "not reproduced"),
    ],
)
def test_verdicts(low, high, interior, verdict):
    assert paper.judge(Interval((low + high) / 2, low, high, 3), RULE, interior) == verdict


def test_rule_is_the_planned_one():
    assert (RULE["least"], RULE["most"], RULE["rival"]) == (0.3, 0.7, 0.73)
    assert next(iter(MATTER["rules"]))["most"] == 0.01


def test_a_rival_within_the_bounds_is_not_excluded():
    rule = {"least": 0.3, "most": 0.8, "rival": 0.73}
    assert paper.judge(Interval(0.6, 0.5, 0.75, 3), rule, True) == "inconclusive"
    assert paper.judge(Interval(0.6, 0.5, 0.7, 3), rule, True) == "reproduced"
    with pytest.raises(ValueError, match="least must not exceed most, got 1 and 0"):
        paper.judge(Interval(0.6, 0.5, 0.7, 3), {"least": 1, "most": 0, "rival": 2}, True)


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


def test_bootstrap_is_as_wide_as_the_seeds_scatter():
    budgets, n, loss = valleys(0.5)
    rng = np.random.default_rng(0)
    same = np.stack([loss] * 3)
    draws = paper.bootstrap_exponents(budgets, n, same, rng=rng, n_resamples=20)
    np.testing.assert_allclose(draws, 0.5, atol=1e-6)
    noisy = same + 0.02 * rng.normal(size=same.shape)
    draws = paper.bootstrap_exponents(budgets, n, noisy, rng=rng, n_resamples=200)
    alone = [paper.isoflop_exponent(budgets, n, loss + 0.02 * rng.normal(size=loss.shape))[0]
             for _ in range(300)]  # fmt: skip
    # the mean of three seeds, resampled: sqrt(2/3) of the standard error, itself 1/sqrt(3)
    assert 0.2 < draws.std() / np.std(alone) < 0.9


def test_resampling_draws_whole_values_of_their_own_cell():
    loss = np.arange(24.0).reshape(3, 2, 4)
    drawn = np.array([paper.resample_seeds(loss, np.random.default_rng(s)) for s in range(200)])
    assert drawn.shape == (200, 2, 4)
    np.testing.assert_allclose(drawn.mean(0), loss.mean(0), atol=1.6)
    one_seed = paper.resample_seeds(loss[:1], np.random.default_rng(0))
    np.testing.assert_array_equal(one_seed, loss[0])
    assert len({tuple(np.round((d - d[0, 0]).ravel(), 9)) for d in drawn}) > 50


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


def test_front_matter_is_asked_for():
    with pytest.raises(ValueError, match="front matter"):
        paper.front_matter("# No rules")
