"""Statistics on any samples against scipy's, laws by enumeration, rates that hold."""

import itertools
from math import comb

import numpy as np
import pytest
from enforce import plain
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from week27.monitoring import (
    Monitor,
    bin_edges,
    counts,
    distances,
    energy_test,
    ks_gap,
    ks_p_value,
    psi,
    psi_threshold,
    spent,
)

SAMPLE = st.lists(st.integers(-5, 5), min_size=1, max_size=30)


@settings(max_examples=60)
@given(SAMPLE, SAMPLE, st.booleans())
def test_ks_is_scipys_with_ties_too(a, b, ties):
    a, b = np.array(a, dtype=float), np.array(b, dtype=float)
    if not ties:
        a, b = a + np.linspace(0, 0.5, len(a)), b + np.linspace(0.01, 0.47, len(b))
    gap = ks_gap(a, b)
    found = stats.ks_2samp(a, b, method="exact")
    assert gap / (len(a) * len(b)) == pytest.approx(found.statistic, abs=1e-12)
    assert ks_p_value(gap, len(a), len(b)) == pytest.approx(found.pvalue, abs=1e-10)
    assert gap == ks_gap(b, a)


@pytest.mark.parametrize(("n", "m"), [(3, 4), (5, 5), (1, 6)])
def test_ks_p_values_by_all_orders(n, m):
    gaps = []
    for places in itertools.combinations(range(n + m), n):
        first = np.isin(np.arange(n + m), places)
        gaps.append(ks_gap(np.flatnonzero(first) * 1.0, np.flatnonzero(~first) * 1.0))
    assert len(gaps) == comb(n + m, n)
    for gap in set(gaps):
        assert ks_p_value(gap, n, m) == pytest.approx(np.mean(np.array(gaps) >= gap), abs=1e-12)
    assert ks_p_value(0, n, m) == pytest.approx(1)


def test_ks_of_large_samples_neither_overflows_nor_vanishes():
    assert ks_p_value(100_000, 2000, 1000) == pytest.approx(
        stats.ks_2samp(np.arange(2000.0), np.arange(1000.0) * 2 + 99.5, method="exact").pvalue,
        abs=1e-8,
    )


def test_bins_hold_equal_shares_and_counts_are_numpys():
    x = np.random.default_rng(0).normal(size=1000)
    edges = bin_edges(x, 8)
    assert counts(x, edges).tolist() == [125] * 8
    whole = np.round(np.random.default_rng(1).normal(size=500), 1)  # some on an edge
    edges = np.array([-0.5, 0.1, 0.7])
    expected = np.histogram(whole, [-np.inf, *edges, np.inf])[0]
    assert counts(whole, edges).tolist() == expected.tolist()


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), min_size=2, max_size=8))
def test_psi_is_both_relative_entropies(rows):
    a, b = np.array(rows).T
    p, q = (a + 0.5) / (a + 0.5).sum(), (b + 0.5) / (b + 0.5).sum()
    assert psi(a, b) == pytest.approx(stats.entropy(p, q) + stats.entropy(q, p), abs=1e-12)
    assert psi(a, b) == pytest.approx(psi(b, a), abs=1e-12)


@pytest.mark.parametrize(("n", "m"), [(2000, 300), (300, 2000)])
def test_psi_exceeds_its_threshold_at_the_level(n, m):
    rng = np.random.default_rng(n)
    flat = np.full(5, 0.2)
    found = [psi(rng.multinomial(n, flat), rng.multinomial(m, flat)) for _ in range(4000)]
    for level in (0.05, 0.2):
        rate = np.mean(np.array(found) > psi_threshold(n, m, 5, level=level))
        assert rate == pytest.approx(level, abs=4 * (level / 4000) ** 0.5)


@settings(max_examples=20)
@given(SAMPLE, SAMPLE)
def test_energy_distance_is_scipys_in_one_dimension(a, b):
    between = distances(np.array([*a, *b], dtype=float)[:, None])
    found, _ = energy_test(between, len(a), rng=np.random.default_rng(0), n_permutations=1)
    assert max(found, 0) ** 0.5 == pytest.approx(stats.energy_distance(a, b), abs=1e-6)


def test_energy_p_values_by_all_splits():
    x = np.random.default_rng(3).normal(size=(7, 2))
    x[:3] += 1.0
    between, rng = distances(x), np.random.default_rng(0)

    def energy(rows):
        rest = [i for i in range(7) if i not in rows]
        cross = between[np.ix_(rows, rest)].mean()
        return 2 * cross - between[np.ix_(rows, rows)].mean() - between[np.ix_(rest, rest)].mean()

    every = np.array([energy(list(rows)) for rows in itertools.combinations(range(7), 3)])
    found, p = energy_test(between, 3, rng=rng, n_permutations=4000)
    assert found == pytest.approx(every[0])
    assert p == pytest.approx(np.mean(every >= every[0] - 1e-12), abs=0.03)


def test_the_sample_at_hand_is_one_of_the_permutations():
    apart = distances(np.concatenate([np.zeros((20, 1)), np.full((20, 1), 9.0)]))
    _, p = energy_test(apart, 20, rng=np.random.default_rng(0), n_permutations=99)
    assert p == pytest.approx(1 / 100)
    _, p = energy_test(np.zeros((6, 6)), 3, rng=np.random.default_rng(0), n_permutations=99)
    assert p == 1.0


def test_what_is_spent_sums_to_the_level():
    parts = [spent(0.05, k) for k in range(1, 2001)]
    assert sum(parts) == pytest.approx(0.05 * (1 - 1 / 2001))
    assert parts == sorted(parts, reverse=True)


def test_a_monitor_finds_the_feature_and_spends_its_level():
    rng = np.random.default_rng(1)
    monitor = Monitor(rng.normal(size=(400, 3)), level=0.05)
    still, moved = rng.normal(size=(2, 80, 3))
    moved[:, 1] += 1.0
    assert monitor.alarms(still) == []
    assert monitor.alarms(moved) == [1]
    assert monitor.windows == 2


def test_a_monitor_divides_its_level_among_features_and_windows():
    reference = np.arange(200.0)
    window = np.arange(20.0) * 5 + 90
    p = ks_p_value(ks_gap(reference, window), 200, 20)
    # In the first window two features get a quarter of the level each, in the second a twelfth.
    for level, expected in ((4 * p * 1.001, [0, 1]), (4 * p * 0.999, [])):
        monitor = Monitor(np.stack([reference] * 2, 1), level=level)
        assert monitor.alarms(np.stack([window] * 2, 1)) == expected
        assert monitor.alarms(np.stack([window] * 2, 1)) == []


def test_what_no_test_can_be_made_of_is_refused():
    m = plain("27", "monitoring")
    rng, x, three = np.random.default_rng(0), np.arange(6.0), np.ones((3, 3))
    for call, message in (
        (lambda: m.ks_gap(x[:0], x), "a and b must hold a number each, got 0 and 6"),
        (lambda: m.ks_gap(x * np.nan, x), "a and b must be finite"),
        (lambda: m.bin_edges(x, 1), "n_bins must be at least 2, got 1"),
        (lambda: m.bin_edges(np.ones(9), 4), "reference must have values for 4 bins, got 2"),
        (lambda: m.psi(np.array([1, 0]), np.array([1, 1]), prior=0.0), "prior must be positive"),
        (lambda: m.psi_threshold(9, 9, 3, level=5), "level must be between 0 and 1, got 5"),
        (
            lambda: m.energy_test(three, 3, rng=rng),
            "first must be between 1 and 2, got 3",
        ),
        (lambda: m.energy_test(three, 1, rng=rng, n_permutations=0), "at least 1, got 0"),
        (lambda: m.spent(0.05, 0), "k must be at least 1, got 0"),
        (
            lambda: m.Monitor(x[:, None]).alarms(np.ones((3, 2))),
            "window must have 1 features, got 2",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()
