"""Estimates against scipy, closed forms and simulation; prompts against brute force."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_eval.statistics.estimates import (
    bootstrap_estimate,
    mean_estimate,
    minimum_detectable,
    wilson,
)
from llm_eval.statistics.sensitivity import prompt_numbers, sensitivity
from llm_eval.types import Number

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30)
BITS = st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=30)


@given(VALUES)
def test_standard_error_and_interval_are_scipys(values):
    from scipy import stats

    of = mean_estimate([*values, 0.5])
    values = np.array([*values, 0.5])
    assert of.value == pytest.approx(values.mean())
    assert of.stderr == pytest.approx(stats.sem(values), abs=1e-9)
    if np.isin(values, (0, 1)).all() or of.stderr == 0:
        return
    low, high = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
    assert (of.low, of.high) == pytest.approx((low, high), rel=1e-9, abs=1e-6)


@given(BITS, st.sampled_from([0.8, 0.95, 0.99]))
def test_the_interval_of_a_share_is_scipys_wilson(bits, level):
    from scipy.stats import binomtest

    of = mean_estimate(bits, level=level)
    theirs = binomtest(int(sum(bits)), len(bits)).proportion_ci(level, method="wilson")
    assert (of.low, of.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert wilson(of.value, len(bits), level) == (of.low, of.high)


@given(VALUES, st.data())
def test_clusters_are_the_literal_formula(values, data):
    names = data.draw(
        st.lists(st.sampled_from("abcde"), min_size=len(values), max_size=len(values))
    )
    of = mean_estimate(values, clusters=names)
    mean, n = sum(values) / len(values), len(values)
    if len(set(names)) < 2:
        assert of.stderr is None
        return
    total = 0.0
    for name in set(names):  # Miller (2024), equation 4: sums over all pairs within a cluster
        members = [x for x, y in zip(values, names, strict=True) if y == name]
        total += sum((x - mean) * (y - mean) for x in members for y in members)
    count = len(set(names))
    expected = math.sqrt(max(0.0, total * count / (count - 1))) / n
    assert of.stderr == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_clusters_of_one_are_none():
    values = [0.2, 0.7, 0.1, 0.9]
    assert mean_estimate(values, clusters=range(4)) == mean_estimate(values)


def test_the_bootstrap_is_scipys():
    from scipy import stats

    rng = np.random.default_rng(0)
    values = rng.gamma(2.0, size=60).tolist()
    ours = bootstrap_estimate(values, np.median, n_resamples=4000)
    theirs = stats.bootstrap((values,), np.median, n_resamples=4000, method="percentile", rng=1)
    low, high = theirs.confidence_interval
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=0.05)
    assert ours.stderr == pytest.approx(theirs.standard_error, rel=0.1)
    assert ours == bootstrap_estimate(values, np.median, n_resamples=4000)


def test_the_bootstrap_draws_clusters_whole():
    """Ten copies of each of eight documents know no more than eight documents."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=8)
    once = bootstrap_estimate(values.tolist(), np.mean, n_resamples=2000)
    copies = np.repeat(values, 10).tolist()
    names = np.repeat(np.arange(8), 10).tolist()
    of = bootstrap_estimate(copies, np.mean, clusters=names, n_resamples=2000)
    assert of.stderr == pytest.approx(once.stderr, rel=0.1)
    naive = bootstrap_estimate(copies, np.mean, n_resamples=2000)
    assert naive.stderr < of.stderr / 2


def test_coverage_at_twenty_documents():
    """Wilson's interval holds the truth in 93 % or more at each p; the normal one does not."""
    from scipy.stats import binom

    k = np.arange(21)
    ours = np.array([mean_estimate([1.0] * int(i) + [0.0] * int(20 - i)) for i in k])
    half = 1.96 * np.sqrt(k / 20 * (1 - k / 20) / 20)
    for p in (0.1, 0.25, 0.5, 0.75, 0.9):
        chance = binom.pmf(k, 20, p)  # exact: every outcome with its probability
        inside = np.array([of.low <= p <= of.high for of in ours])
        assert chance[inside].sum() >= 0.93
    normal = (k / 20 - half <= 0.1) & (k / 20 + half >= 0.1)
    assert binom.pmf(k, 20, 0.1)[normal].sum() < 0.9


def test_coverage_with_clusters():
    """Documents of a passage share its luck: naive intervals miss the truth in most draws."""
    rng = np.random.default_rng(0)
    hits = {"clustered": 0, "naive": 0}
    names = np.repeat(np.arange(25), 8).tolist()
    for _ in range(300):
        values = (np.repeat(rng.normal(size=25), 8) + rng.normal(size=200) / 2).tolist()
        for name, clusters in (("clustered", names), ("naive", None)):
            of = mean_estimate(values, clusters=clusters)
            hits[name] += of.low <= 0 <= of.high
    assert hits["clustered"] >= 0.92 * 300
    assert hits["naive"] <= 0.65 * 300


def test_what_is_detectable_is_detected_in_four_of_five():
    rng = np.random.default_rng(0)
    draws = rng.normal(minimum_detectable(0.03), 0.03, 20_000)
    assert np.mean(np.abs(draws) > 1.959964 * 0.03) == pytest.approx(0.8, abs=0.01)


def test_estimates_of_too_little():
    assert mean_estimate([0.5]).stderr is None
    assert bootstrap_estimate([0.5], np.mean).low is None
    assert mean_estimate([1, 0], clusters="aa").low is None
    with pytest.raises(ValueError, match="values must be at least one"):
        mean_estimate([])
    with pytest.raises(ValueError, match="clusters must be as many as values, 2, got 1"):
        mean_estimate([1, 0], clusters="a")


# ---- prompts


def table(rng, n, k, p=0.5):
    return {f"p{j}": {str(i): float(rng.random() < p) for i in range(n)} for j in range(k)}


def test_worst_mean_and_best_are_of_common_documents():
    values = {"": {"a": 1, "b": 0, "c": 0}, "x": {"a": 1, "b": 1}, "y": {"b": 0, "a": 0, "d": 1}}
    of = sensitivity(values)
    assert (of.worst.value, of.mean.value, of.best.value, of.spread.value) == (0, 0.5, 1, 1)
    assert (of.worst_prompt, of.best_prompt, of.mean.n) == ("y", "x", 2)
    lower = sensitivity(values, higher_is_better=False)
    assert (lower.worst.value, lower.best.value, lower.best_prompt) == (1, 0, "y")
    with pytest.raises(ValueError, match="at least two prompts, got 1"):
        sensitivity({"": {"a": 1}})
    with pytest.raises(ValueError, match="a document that all prompts have"):
        sensitivity({"": {"a": 1}, "x": {"b": 1}})


@pytest.mark.parametrize("higher", [True, False])
def test_the_best_of_equal_prompts_is_known_to_be_too_good(higher):
    """Prompts are alike; on average the bootstrap finds most of what the best's luck was."""
    rng = np.random.default_rng(0)
    luck, optimism = [], []
    for _ in range(40):
        of = sensitivity(table(rng, 50, 6), higher_is_better=higher, n_resamples=200)
        luck.append(of.best.value - 0.5 if higher else 0.5 - of.best.value)
        optimism.append(of.optimism)
    assert 0.04 < np.mean(luck) < 0.15
    assert 0.4 * np.mean(luck) < np.mean(optimism) < 1.2 * np.mean(luck)


def test_prompts_are_paired():
    """What a document does to all prompts alike is no spread."""
    rng = np.random.default_rng(0)
    hard = rng.random(100)
    values = {p: {str(i): x + d for i, x in enumerate(hard)} for p, d in (("", 0), ("x", 0.01))}
    of = sensitivity(values)
    assert (of.spread.low, of.spread.high) == pytest.approx((0.01, 0.01))
    assert of.best.high - of.best.low > 0.05
    clustered = sensitivity(values, clusters={str(i): i // 50 for i in range(100)})
    assert clustered.best.stderr != of.best.stderr
    assert sensitivity(values, clusters=dict.fromkeys(map(str, range(100)), 1)).mean.low is None


def test_prompts_as_numbers():
    values = table(np.random.default_rng(0), 20, 3)
    number = Number("t", "loss", 0.5, 0.1, 0.4, 0.6, 22, 1, False, "s")
    found = {n.metric: n for n in prompt_numbers(values, number)}
    assert list(found) == [f"loss_{name}_prompt" for name in ("worst", "mean", "best", "spread")]
    means = [np.mean(list(of.values())) for of in values.values()]
    assert found["loss_best_prompt"].value == min(means)
    assert {n.failed for n in found.values()} == {3}
    neither = Number("t", "gap", 0.5, 0.1, 0.4, 0.6, 20, 0, None, "s")
    assert [n.metric for n in prompt_numbers(values, neither)] == [
        "gap_mean_prompt",
        "gap_spread_prompt",
    ]


def test_a_share_over_clusters_is_no_point_and_no_less_than_nothing():
    for right in (0.0, 1.0):
        found = mean_estimate([right] * 6, clusters="aabbcc")
        assert (found.low, found.high) == wilson(right, 3)
    spread = mean_estimate([1, 1, 0, 0], clusters="aabb")
    assert (spread.low, spread.high) == (0.0, 1.0)
