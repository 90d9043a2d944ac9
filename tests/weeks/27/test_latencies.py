"""Percentiles within the bound on any numbers; queues step by step; quantiles in buckets."""

import numpy as np
import pytest
from enforce import plain
from hypothesis import given, settings
from hypothesis import strategies as st

from week27.evidence.latencies import scrape
from week27.latencies import (
    LatencyHistogram,
    finish_times,
    histogram_quantile,
    one_at_a_time,
    with_omitted,
)

SECONDS = st.lists(st.floats(1e-6, 3600), min_size=1, max_size=40)


def recorded(seconds, **options):
    histogram = LatencyHistogram(**options)
    histogram.record(np.array(seconds))
    return histogram


@settings(max_examples=100)
@given(SECONDS, st.floats(0, 100), st.integers(1, 8))
def test_percentiles_are_within_the_bound(seconds, q, bits):
    histogram = recorded(seconds, bits=bits)
    expected = np.percentile(seconds, q, method="inverted_cdf")
    assert histogram.relative_error == 0.5 / 2**bits
    assert abs(histogram.percentile(q) / expected - 1) <= histogram.relative_error * (1 + 1e-9)


@settings(max_examples=30)
@given(SECONDS, SECONDS)
def test_merged_is_recorded_together(a, b):
    both = recorded(a)
    both.merge(recorded(b))
    assert (both.counts == recorded(a + b).counts).all()
    assert both.counts.sum() == len(a) + len(b)


def test_powers_of_two_begin_a_bucket():
    for value in (2.0**-10, 0.5, 1.0, 8.0):
        low, same, high = (
            recorded([v]).percentile(50) for v in (value * 0.9999, value, value * 1.001)
        )
        assert low < value < same == high


def test_what_lies_outside_is_the_nearer_end():
    histogram = recorded([0.0, 1e-9, 1e6])
    assert histogram.percentile(0) == pytest.approx(1e-6, rel=0.01)
    assert histogram.percentile(100) == pytest.approx(3600, rel=0.01)
    assert len(histogram.counts) == len(LatencyHistogram().counts)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0, 3)), min_size=1, max_size=20))
def test_the_queue_is_the_recursion(rows):
    gaps, service = np.array(rows).T
    due, free, expected = gaps.cumsum(), 0.0, []
    for when, seconds in zip(due, service, strict=True):
        free = max(when, free) + seconds
        expected.append(free)
    np.testing.assert_allclose(finish_times(due, service), expected, atol=1e-12)


def test_a_waiting_client_skips_what_was_due():
    service = np.array([0.5, 3.2, 9.0, 9.0, 9.0, 0.1, 0.2])
    assert one_at_a_time(service, 1.0).tolist() == [0.5, 3.2, 0.1, 0.2]
    # Due at 2, 3 and 4, answered at once when the server is free at 4.2.
    assert with_omitted(np.array([0.5, 3.2]), 1.0) == pytest.approx([0.5, 3.2, 2.2, 1.2, 0.2])
    assert with_omitted(np.array([1.0, 2.0]), 1.0).tolist() == [1.0, 2.0, 1.0]


def test_omitted_requests_are_those_of_a_queue_without_work():
    service = np.zeros(12)
    service[[1, 7]] = 3.3, 2.5
    true = finish_times(np.arange(12.0), service) - np.arange(12.0)
    mended = with_omitted(one_at_a_time(service, 1.0), 1.0)
    np.testing.assert_allclose(np.sort(mended), np.sort(true), atol=1e-12)


def test_quantiles_are_straight_within_a_bucket():
    bounds, cumulative = np.array([1.0, 2.0, 4.0, np.inf]), np.array([2.0, 2.0, 10.0, 12.0])
    for q, expected in (
        (0.0, 0.0),
        (1 / 12, 0.5),
        (2 / 12, 1.0),
        (6 / 12, 3.0),
        (10 / 12, 4.0),
        (1.0, 4.0),
    ):
        assert histogram_quantile(q, bounds, cumulative) == pytest.approx(expected)


def test_a_scrape_counts_up_to_and_with_each_bound():
    bounds, cumulative = scrape(np.array([0.005, 0.0051, 0.1, 99.0]))
    assert dict(zip(bounds, cumulative, strict=True))[0.005] == 1
    assert dict(zip(bounds, cumulative, strict=True))[0.1] == 3
    assert (bounds[-1], cumulative[-1]) == (np.inf, 4)


def test_bad_input_is_named():
    m = plain("27", "latencies")
    histogram, x = m.LatencyHistogram(), np.array([1.0, 2.0])
    for call, message in (
        (lambda: m.LatencyHistogram(0), "bits must be between 1 and 20, got 0"),
        (lambda: m.LatencyHistogram(low=2, high=1), "low must be positive and below high"),
        (lambda: histogram.record(-x), "seconds must not be negative"),
        (lambda: histogram.record(x / 0), "seconds must be finite"),
        (lambda: histogram.percentile(101), "q must be between 0 and 100, got 101"),
        (lambda: m.LatencyHistogram().percentile(50), "a percentile needs a value"),
        (lambda: histogram.merge(m.LatencyHistogram(3)), "other must have the buckets"),
        (lambda: m.finish_times(x[::-1], x), "due must not decrease"),
        (lambda: m.one_at_a_time(x, 0), "interval must be positive, got 0"),
        (lambda: m.with_omitted(x, -1), "interval must be positive, got -1"),
        (lambda: m.histogram_quantile(2, x, x), "q must be between 0 and 1, got 2"),
        (lambda: m.histogram_quantile(0.5, x, x), "bounds must end with infinity, got 2"),
        (lambda: m.histogram_quantile(0.5, x / 0, 0 * x), "cumulative must count a value"),
    ):
        with np.errstate(divide="ignore"), pytest.raises(ValueError, match=message):
            call()
