"""Percentiles against NumPy's, omitted requests, and Prometheus' buckets beside finer ones."""

import numpy as np

from shared import plots
from shared.study import Run
from week27.latencies import (
    LatencyHistogram,
    finish_times,
    histogram_quantile,
    one_at_a_time,
    with_omitted,
)

INTERVAL = 0.01  # seconds between requests
QUANTILES = (50.0, 90.0, 99.0, 99.9)


def main(run: Run) -> None:
    """Check both histograms and the queue, then judge what a waiting client and a scrape say."""
    check_histogram(run)
    check_queue(run)
    check_scrape(run)
    judge_omission(run)
    judge_buckets(run)


def rng_of(run: Run, *key: int) -> np.random.Generator:
    """A stream of its own for each seed of each part."""
    return np.random.default_rng([run.seed, *key])


def check_histogram(run: Run) -> None:
    """Percentiles over nine decades, and two histograms merged."""
    rng = rng_of(run, 1)
    parts = [10 ** rng.uniform(-6, 3, 3000), rng.lognormal(-4, 1, 5000)]
    both, histograms = np.concatenate(parts), [LatencyHistogram() for _ in range(3)]
    for histogram, values in zip(histograms, (*parts, both), strict=True):
        histogram.record(values)
    merged, _, union = histograms
    merged.merge(histograms[1])
    counts = {"kind": "consistency", "why": "whole numbers"}
    run.check("merged counts", merged.counts, union.counts, against="all at once", **counts)
    ours = [merged.percentile(q) for q in QUANTILES]
    theirs = np.percentile(both, QUANTILES, method="inverted_cdf")
    options = {"rtol": merged.relative_error, "why": "half a bucket, 1/(2S)"}
    run.check("percentiles", ours, theirs, against="numpy.percentile", **options)


def check_queue(run: Run) -> None:
    """Mean time in a queue with random arrivals and services: 1 / (μ - λ)."""
    rng, n = rng_of(run, 2), run.budget(quick=100_000, default=1_000_000)
    due, service = rng.exponential(2.0, n).cumsum(), rng.exponential(1.0, n)
    mean = (finish_times(due, service) - due).mean()
    options = {"rtol": run.budget(quick=0.1, default=0.03), "kind": "theorem"}
    why = "four standard errors of draws that hang together"
    run.check("M/M/1: time in system", mean, 2.0, against="1 / (μ - λ)", why=why, **options)


def scrape(seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds and cumulative counts, out of the text that prometheus_client serves."""
    from prometheus_client import CollectorRegistry, Histogram, generate_latest
    from prometheus_client.parser import text_string_to_metric_families

    registry = CollectorRegistry()
    histogram = Histogram("latency_seconds", "Time to answer", registry=registry)
    for value in seconds:
        histogram.observe(value)
    families = text_string_to_metric_families(generate_latest(registry).decode())
    rows = [s for family in families for s in family.samples if s.name.endswith("_bucket")]
    return np.array([float(s.labels["le"]) for s in rows]), np.array([s.value for s in rows])


def check_scrape(run: Run) -> None:
    """Buckets are cumulative and include their bound; a quantile is a straight line in one."""
    values = np.concatenate([rng_of(run, 3).lognormal(-3, 1, 500), [0.1, 0.25, 20.0]])
    bounds, cumulative = scrape(values)
    ours = [(values <= bound).sum() for bound in bounds]
    library = run.against("prometheus_client, scraped and parsed", why="whole numbers")
    library("values up to each bound", ours, cumulative)
    shares = np.linspace(0.05, 0.95, 19)
    found = [histogram_quantile(q, bounds, cumulative) for q in shares]
    line = np.interp(shares * len(values), [0, *cumulative[:-1]], [0, *bounds[:-1]])
    why = "float64 rounding"
    run.check("histogram_quantile", found, line, against="numpy.interp", atol=1e-12, why=why)


def judge_omission(run: Run) -> None:
    """A server that stalls for a second now and then, as a waiting client measures it."""
    seeds, n = run.budget(quick=2, default=10), run.budget(quick=20_000, default=100_000)
    waiting, mended, curves = [], [], {}
    shares = 100 - np.geomspace(50, 0.02, 40)
    for i in range(seeds):
        rng = rng_of(run, 4, i)
        service = rng.exponential(0.001, n) + (rng.random(n) < 0.0003) * 1.0
        due = INTERVAL * np.arange(n)
        sides = {
            "from when it was due": finish_times(due, service) - due,
            "by a client that waits": one_at_a_time(service, INTERVAL),
        }
        sides["with omitted requests"] = with_omitted(sides["by a client that waits"], INTERVAL)
        found = {}
        for name, values in sides.items():
            histogram = LatencyHistogram()
            histogram.record(values)
            found[name] = histogram.percentile(99)
            row = [histogram.percentile(q) for q in shares]
            curves.setdefault(name, []).append(row)
        true, seen, corrected = found.values()
        waiting.append(seen / true)
        mended.append(corrected / true)
    options = {
        "quick": False,
        "unit": "of the true 99th percentile",
        "note": "stalls of 1 s in 0.03 % of requests",
    }
    name = "a client that waits sees less than a tenth of the 99th percentile"
    run.claim(name, waiting, at_most=0.1, **options)
    run.falsifier("with omitted requests", mended, breaks=name)
    name = "with omitted requests the 99th percentile is right within a quarter"
    run.claim(name, mended, at_least=0.75, at_most=1.25, **options)
    with run.figure("omission", "How slow is a server that stalls?") as axes:
        labels = {"xlabel": "slower than so many requests, %", "xscale": "log", "yscale": "log"}
        labels["ylabel"] = "latency, s"
        plots.curves(axes, 100 / (100 - shares), curves, ends=False, **labels)
        ticks = {2: "50", 10: "90", 100: "99", 1000: "99.9"}
        axes.set_xticks(list(ticks), list(ticks.values()))


def judge_buckets(run: Run) -> None:
    """The 99th percentile through a scrape with the default buckets, and through ours."""
    seeds, n = run.budget(quick=3, default=20), run.budget(quick=2000, default=10_000)
    coarse, fine = [], []
    for i in range(seeds):
        rng = rng_of(run, 5, i)
        values = rng.lognormal(np.log(10 ** rng.uniform(-3, 0)), 0.3, n)  # medians: 1 ms to 1 s
        true = np.percentile(values, 99, method="inverted_cdf")
        histogram = LatencyHistogram()
        histogram.record(values)
        coarse.append(abs(histogram_quantile(0.99, *scrape(values)) / true - 1))
        fine.append(abs(histogram.percentile(99) / true - 1))
    name = "default buckets put the 99th percentile off by a tenth and more"
    run.claim(name, coarse, at_least=0.1, unit="relative", quick=False)
    run.falsifier("log-linear buckets", fine, breaks=name)
    run.metric("largest error of log-linear buckets", max(fine), "relative", rtol=None)
    run.metric("bound of log-linear buckets", histogram.relative_error, "relative")
