"""Intervals and tests against scipy, against enumeration, and against what they promise."""

import math
import re

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared.stats import (
    Interval,
    bootstrap_interval,
    mean_interval,
    paired_bootstrap,
    permutation_test,
)

numbers = st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 3))
samples = hnp.arrays(np.float64, st.integers(2, 30), elements=numbers)


@settings(deadline=None)
@given(samples, st.sampled_from([0.5, 0.9, 0.95, 0.999]))
def test_mean_interval_is_scipys(values, level):
    ours = mean_interval(values, level)
    error = scipy.stats.sem(values)
    assert ours.n == len(values)
    assert ours.mean == pytest.approx(np.mean(values), rel=1e-12, abs=1e-9)
    if error == 0:
        assert ours.low == ours.mean == ours.high
    else:
        expected = scipy.stats.t.interval(level, len(values) - 1, np.mean(values), error)
        # Rounding of a sum of 30 numbers up to 1e6.
        np.testing.assert_allclose([ours.low, ours.high], expected, rtol=1e-9, atol=1e-8)


def test_mean_interval_by_hand():
    # 1, 2, 3: mean 2, s = 1, t_2(0.975) = 4.302653
    ours = mean_interval([1, 2, 3])
    assert ours.high - ours.mean == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


def test_mean_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    draws = rng.normal(3.0, 2.0, (2000, 3))
    intervals = [mean_interval(row, 0.9) for row in draws]
    covered = np.mean([interval.low <= 3.0 <= interval.high for interval in intervals])
    # 4 standard deviations of a binomial proportion, 4 sqrt(0.9 · 0.1 / 2000) = 0.027
    assert covered == pytest.approx(0.9, abs=0.027)


@pytest.mark.parametrize("statistic", [np.mean, np.median, np.std])
def test_bootstrap_interval_is_scipys(statistic):
    values = np.random.default_rng(1).exponential(size=25)
    ours = bootstrap_interval(values, statistic, rng=np.random.default_rng(2), n_resamples=20_000)
    theirs = scipy.stats.bootstrap(
        (values,),
        statistic,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(3),
    ).confidence_interval
    assert ours.mean == statistic(values)
    # Monte-Carlo error of a 2.5 % quantile from 20,000 draws: about 0.02 standard errors each.
    spread = (theirs.high - theirs.low) / 4
    assert [ours.low, ours.high] == pytest.approx(list(theirs), abs=0.1 * spread)


def test_bootstrap_does_not_depend_on_how_it_is_chunked(monkeypatch):
    values = np.arange(10.0)
    whole = bootstrap_interval(values, rng=np.random.default_rng(0), n_resamples=101)
    monkeypatch.setattr("shared.stats._CHUNK", 70)
    assert bootstrap_interval(values, rng=np.random.default_rng(0), n_resamples=101) == whole


def test_paired_bootstrap_cancels_what_pairs_share():
    rng = np.random.default_rng(0)
    item = rng.normal(0, 100, 50)
    a = item + rng.normal(1.0, 0.1, 50)
    interval = paired_bootstrap(a, item, rng=rng)
    assert interval.n == 50
    assert 0.9 < interval.low < interval.mean < interval.high < 1.1
    assert interval.mean == pytest.approx(np.mean(a - item))
    swapped = paired_bootstrap(item, a, rng=rng)
    assert swapped.high < 0


def reference_p(a, b, paired):
    """scipy's exact p-value of |mean(a) - mean(b)|, by enumeration."""

    def statistic(x, y, axis):
        return np.abs(np.mean(x, axis=axis) - np.mean(y, axis=axis))

    kind = "samples" if paired else "independent"
    return scipy.stats.permutation_test(
        (a, b), statistic, permutation_type=kind, alternative="greater", n_resamples=np.inf
    ).pvalue


small = st.lists(st.integers(-5, 5), min_size=2, max_size=5)


@settings(max_examples=50, deadline=None)
@given(small, small)
def test_permutation_test_is_exact_when_small(a, b):
    p = permutation_test(a, b, rng=np.random.default_rng(0))
    assert p == pytest.approx(reference_p(a, b, paired=False), rel=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=6))
def test_paired_permutation_test_is_exact_when_small(pairs):
    a, b = zip(*pairs, strict=True)
    p = permutation_test(a, b, paired=True, rng=np.random.default_rng(0))
    assert p == pytest.approx(reference_p(a, b, paired=True), rel=1e-12)


def test_permutation_test_by_hand():
    # Of the 20 ways to choose 3 of 6, only the observed one and its mirror image are as extreme.
    assert permutation_test([1, 2, 3], [4, 5, 6], rng=np.random.default_rng(0)) == 2 / 20


@pytest.mark.parametrize("paired", [False, True])
def test_drawn_permutations_agree_with_all_of_them(paired):
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.8, 1, 8), rng.normal(0, 1, 8)
    exact = permutation_test(a, b, rng=rng, paired=paired, n_permutations=20_000)
    drawn = permutation_test(a, b, rng=rng, paired=paired, n_permutations=200)
    # 4 standard deviations of a proportion from 200 draws (fewer than the 256 there are if paired)
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 200) + 1 / 200)


@pytest.mark.parametrize("paired", [False, True])
def test_p_value_is_never_zero(paired):
    a, b = np.arange(40.0), np.arange(40.0) + 1000
    p = permutation_test(a, b, rng=np.random.default_rng(0), paired=paired, n_permutations=99)
    assert p == 1 / 100


@pytest.mark.parametrize("paired", [False, True])
def test_p_value_is_uniform_without_a_difference(paired):
    rng = np.random.default_rng(5)
    draws = rng.normal(size=(500, 2, 15))
    ps = np.array(
        [permutation_test(a, b, rng=rng, paired=paired, n_permutations=99) for a, b in draws]
    )
    for level in (0.05, 0.25, 0.5):
        # valid: at most level, up to 4 standard deviations; and not needlessly careful
        slack = 4 * math.sqrt(level * (1 - level) / 500)
        assert np.mean(ps <= level) == pytest.approx(level, abs=slack)


def test_ties_but_for_rounding_count():
    # The mirror image of the observed arrangement is as extreme, whatever 0.1 + 0.2 is.
    a, b = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    assert permutation_test(a, b, rng=np.random.default_rng(0)) == 2 / 20


def test_equal_samples_give_one():
    assert permutation_test([0.1, 0.2, 0.3], [0.3, 0.1, 0.2], rng=np.random.default_rng(0)) == 1
    assert permutation_test([0.1] * 30, [0.1] * 30, rng=np.random.default_rng(0)) == 1


def test_same_generator_same_result():
    a, b = np.random.default_rng(0).normal(size=(2, 30))
    results = {
        (
            permutation_test(a, b, rng=np.random.default_rng(7)),
            bootstrap_interval(a, rng=np.random.default_rng(7)),
            paired_bootstrap(a, b, rng=np.random.default_rng(7)),
        )
        for _ in range(2)
    }
    assert len(results) == 1


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval(1.31234, 1.30834, 1.31634, 3), "1.312 ± 0.004 (n = 3)"),
        (Interval(1.5, 1.5, 1.5, 4), "1.5 ± 0 (n = 4)"),
        (Interval(1 / 3, 1 / 3 - 2e-16, 1 / 3 + 2e-16, 5), "0.333333 ± 0 (n = 5)"),
        (Interval(0.0, 0.0, 0.0, 3), "0 ± 0 (n = 3)"),
        (Interval(1234.5, 1200.5, 1268.5, 5), "1234 ± 34 (n = 5)"),
        (Interval(3.2e-9, 3.1e-9, 3.3e-9, 5), "3.2e-09 ± 1e-10 (n = 5)"),
        (Interval(1.0, 0.9, 1.3, 10), "1.00 [0.90, 1.30] (n = 10)"),
        (Interval(3.5, np.nan, np.nan, 1), "3.5 (n = 1)"),
    ],
)
def test_interval_as_text(interval, text):
    assert str(interval) == text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda r: mean_interval([1.0]),
            "values must be at least 2 numbers in one row, got shape (1,)",
        ),
        (lambda r: mean_interval([[1, 2], [3, 4]]), "got shape (2, 2)"),
        (lambda r: mean_interval([1, np.nan]), "values must be finite, got nan at index 1"),
        (lambda r: mean_interval([1, 2], 95), "level must be between 0 and 1, got 95"),
        (lambda r: bootstrap_interval([], rng=r), "values must be at least 2 numbers"),
        (lambda r: bootstrap_interval([1, 2], rng=r, level=0), "level must be between 0 and 1"),
        (
            lambda r: bootstrap_interval([1, 2], rng=r, n_resamples=0),
            "n_resamples must be at least 1, got 0",
        ),
        (lambda r: paired_bootstrap([1, 2], [1, 2, 3], rng=r), "as many values, got 2 and 3"),
        (lambda r: permutation_test([1, 2], [1, np.inf], rng=r), "b must be finite, got inf"),
        (
            lambda r: permutation_test([1, 2], [1, 2, 3], rng=r, paired=True),
            "a and b must have as many values",
        ),
        (
            lambda r: permutation_test([1, 2], [1, 2], rng=r, n_permutations=0),
            "n_permutations must be at least 1",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(np.random.default_rng(0))


def test_seed_in_place_of_generator():
    with pytest.raises(TypeError, match=r"rng must be a numpy\.random\.Generator, got int"):
        permutation_test([1, 2], [3, 4], rng=0)
