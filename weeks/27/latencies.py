r"""Latencies: percentiles in constant memory, and the requests that a slow server never got.

`LatencyHistogram` cuts each power of two into $S = 2^b$ equal buckets. The middle of a bucket is
off by at most half its width, and its width is at most a $1/S$ of anything in it:

$$ \frac{|\hat x - x|}{x} \le \frac{1}{2S} . $$

Adding counts merges two of them without loss. **Coordinated omission**: a client that waits for an
answer before it asks again sends fewest requests while the server is slowest, so its percentiles
are those of the good times. The latency that counts runs from the time a request was due.

>>> histogram = LatencyHistogram()
>>> histogram.record(np.array([0.010, 0.011, 0.012, 5.0]))
>>> [round(histogram.percentile(q), 3) for q in (50, 99)]
[0.011, 5.031]
>>> due, service = np.array([0.0, 1.0, 2.0]), np.array([2.5, 0.1, 0.1])
>>> finish_times(due, service) - due  # seen by who waits; the server says 2.5, 0.1, 0.1
array([2.5, 1.6, 0.7])
>>> with_omitted(np.array([2.5, 0.1]), 1.0)
array([2.5, 0.1, 1.5, 0.5])

    uv run weeks/27/latencies.py

Sources: Tene, "How NOT to measure latency" (2013) and
his HdrHistogram; Prometheus' documentation of `histogram_quantile`.
"""

import math

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from shared.require import require


class LatencyHistogram:
    """Counts of seconds in log-linear buckets, after HdrHistogram.

    Parameters
    ----------
    bits
        Buckets per power of two, 2^bits; `relative_error` follows.
    low, high
        Seconds between which that error holds; what lies outside counts as the nearer end.
    """

    def __init__(self, bits: int = 6, *, low: float = 1e-6, high: float = 3600.0):
        require(1 <= bits <= 20, "bits must be between 1 and 20", bits)
        require(0 < low < high < math.inf, "low must be positive and below high", low, high)
        self.parts, self.range = 2**bits, (low, high)
        self.first = int(self._place(np.array([low]))[0])
        self.counts = np.zeros(self._place(np.array([high]))[0] - self.first + 1, dtype=np.int64)

    @property
    def relative_error(self) -> float:
        """The bound on how far a percentile is off."""
        return 1 / (2 * self.parts)

    def _place(self, seconds: Float[ndarray, "n"]) -> ndarray:
        fraction, exponent = np.frexp(seconds)  # seconds = fraction 2^exponent, fraction >= 1/2
        return exponent * self.parts + ((2 * fraction - 1) * self.parts).astype(np.int64)

    def record(self, seconds: Float[ndarray, "n"]) -> None:
        """Count latencies."""
        require(np.isfinite(seconds).all(), "seconds must be finite", "a value that is not")
        require((seconds >= 0).all(), "seconds must not be negative", seconds.min(initial=0))
        places = self._place(np.clip(seconds, *self.range)) - self.first
        self.counts += np.bincount(places, minlength=len(self.counts))

    def merge(self, other: "LatencyHistogram") -> None:
        """Add another's counts: the histogram of both together."""
        same = (self.parts, self.range) == (other.parts, other.range)
        require(same, f"other must have the buckets of {self.parts, self.range}", other.range)
        self.counts += other.counts

    def percentile(self, q: float) -> float:
        """The middle of the bucket that holds the value of nearest rank, numpy's inverted CDF."""
        require(0 <= q <= 100, "q must be between 0 and 100", q)
        total = self.counts.sum()
        require(total > 0, "a percentile needs a value", "none")
        rank = max(1, math.ceil(q / 100 * total))
        place = self.first + int(np.searchsorted(self.counts.cumsum(), rank))
        exponent, part = divmod(place, self.parts)
        return math.ldexp(1 + (part + 0.5) / self.parts, exponent - 1)


def finish_times(due: Float[ndarray, "n"], service: Float[ndarray, "n"]) -> Float[ndarray, "n"]:
    """When one server that works in order is done with each request (Lindley's recursion).

    finish_i = max(due_i, finish_{i-1}) + service_i, unrolled: the latest start of a busy period
    and all work since.
    """
    require((np.diff(due) >= 0).all(), "due must not decrease", "a step back")
    work = service.cumsum()
    return work + np.maximum.accumulate(due - (work - service))


def one_at_a_time(service: Float[ndarray, "n"], interval: float) -> Float[ndarray, "asked"]:
    """What a client sees that asks once per interval, unless it still waits; then it skips.

    Parameters
    ----------
    service
        Seconds of work of the request that is due at each multiple of the interval.
    """
    require(interval > 0, "interval must be positive", interval)
    found, free = [], 0.0
    for i, seconds in enumerate(service):
        if i * interval >= free:
            found.append(seconds)
            free = i * interval + seconds
    return np.array(found)


def with_omitted(seconds: Float[ndarray, "n"], interval: float) -> Float[ndarray, "more"]:
    """With the requests that were due while another was waited for, each a little later than it.

    HdrHistogram's correction ends at the interval; the last request, due shortly before the answer,
    is one too.
    """
    require(interval > 0, "interval must be positive", interval)
    omitted = [np.arange(s - interval, 0, -interval) for s in seconds[seconds > interval]]
    return np.concatenate([seconds, *omitted])


def histogram_quantile(
    q: float, bounds: Float[ndarray, "buckets"], cumulative: Float[ndarray, "buckets"]
) -> float:
    """Prometheus' quantile: a straight line within the bucket that holds it.

    Parameters
    ----------
    bounds
        Upper bounds `le`, the last one infinite: a quantile there is the last finite bound.
    cumulative
        How many values are at most each bound.
    """
    require(0 <= q <= 1, "q must be between 0 and 1", q)
    require(bounds[-1] == np.inf, "bounds must end with infinity", bounds[-1])
    require(cumulative[-1] > 0, "cumulative must count a value", cumulative[-1])
    rank = q * cumulative[-1]
    i = int(np.searchsorted(cumulative, rank))
    if i == len(bounds) - 1:
        return float(bounds[-2])
    low, before = (bounds[i - 1], cumulative[i - 1]) if i else (0.0, 0.0)
    inside = cumulative[i] - before
    share = (rank - before) / inside if inside else 0.0
    return float(low + (bounds[i] - low) * share)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
