r"""Batching requests: wait for a full batch, wait a little, or let everybody in at each token.

A pass of the model costs $a + b\,r$ for $r$ rows, and all of them share $a$, mostly the reading of
the weights. Answers have different lengths $n_i$. A **static** batch of $B$ starts when it is full
and ends with its longest answer, so that of its $B \max_i n_i$ places only

$$ \frac{\sum_i n_i}{B \max_i n_i} \;\approx\;
   \frac{\mathbb{E}[n]}{\mathbb{E}[\max(n_1, \dots, n_B)]} $$

are used. A **dynamic** one starts at the latest some patience after its first request. A
**continuous** one has no end: at each token those that have ended leave and those that wait enter
(`scheduler.py` is that, with the model and its cache). Here time is computed and nothing else, so
that an hour of requests takes a second.

>>> jobs, cost = [Job(0.0, 0, 1), Job(0.0, 0, 3)], Cost(fixed=1.0)
>>> by_batches(jobs, cost, size=2).finish  # both are handed over when the longer one has ended
array([3., 3.])
>>> continuously(jobs, cost, size=2).finish
array([1., 3.])

    uv run weeks/19/batching.py

Sources: Yu et al., "Orca: a distributed serving system for transformer-based generative models"
(2022), sections 2 and 3; Lindley, "The theory of queues with a single server" (1952).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from shared.require import require


@dataclass(frozen=True)
class Job:
    """A request: when it comes (s), the tokens of its prompt, and those of its answer."""

    arrival: float
    prompt: int
    new: int


@dataclass(frozen=True)
class Cost:
    """Seconds of a pass: `fixed`, and more per `row` of one token, or per `token` of a prompt.

    Prompts are read one by one, and reading one costs `fixed` too.
    """

    fixed: float
    row: float = 0.0
    token: float = 0.0

    def step(self, rows: int) -> float:
        """One token for each of the rows."""
        return self.fixed + self.row * rows

    def read(self, prompt: int) -> float:
        """A prompt; all but its last token, which the first step reads."""
        return self.fixed + self.token * (prompt - 1) if prompt > 1 else 0.0


@dataclass(frozen=True)
class Served:
    """When each job got its first token and its last (s), in the order of the jobs."""

    first: Float[np.ndarray, " jobs"]
    finish: Float[np.ndarray, " jobs"]


def _sorted(jobs: Sequence[Job], size: int) -> list[Job]:
    require(len(jobs) >= 1, "jobs must hold at least one", "none")
    require(size >= 1, "size must be at least 1", size)
    jobs = list(jobs)
    require(min(job.new for job in jobs) >= 1, "new must be at least 1 for each job", "less")
    in_order = all(a.arrival <= b.arrival for a, b in pairwise(jobs))
    require(in_order, "jobs must come in the order of their arrival", "another order")
    return jobs


def by_batches(
    jobs: Sequence[Job], cost: Cost, *, size: int, patience: float = float("inf")
) -> Served:
    """Static batches, or dynamic ones that wait for at most `patience` seconds.

    A batch starts when the server is free and the batch is full, or its first request has waited
    that long, or nobody else will come. Its answers are handed over together.
    """
    jobs, clock, done = _sorted(jobs, size), 0.0, 0
    first, finish = np.empty(len(jobs)), np.empty(len(jobs))
    require(patience >= 0, "patience must be at least 0", patience)
    while done < len(jobs):
        full = jobs[min(done + size, len(jobs)) - 1].arrival
        clock = max(clock, min(full, jobs[done].arrival + patience))
        batch = [job for job in jobs[done : done + size] if job.arrival <= clock]
        clock += sum(cost.read(job.prompt) for job in batch)
        rows = slice(done, done + len(batch))
        longest = max(job.new for job in batch)
        first[rows] = finish[rows] = clock + longest * cost.step(len(batch))
        clock, done = finish[done], rows.stop
    return Served(first, finish)


def continuously(jobs: Sequence[Job], cost: Cost, *, size: int) -> Served:
    """At each token those that ended leave, and those that wait enter, up to `size` at a time."""
    jobs, clock, entered = _sorted(jobs, size), 0.0, 0
    first, finish = np.full(len(jobs), np.nan), np.empty(len(jobs))
    running: dict[int, int] = {}  # tokens still to come
    while entered < len(jobs) or running:
        if not running:
            clock = max(clock, jobs[entered].arrival)
        while entered < len(jobs) and len(running) < size and jobs[entered].arrival <= clock:
            clock += cost.read(jobs[entered].prompt)
            running[entered] = jobs[entered].new
            entered += 1
        clock += cost.step(len(running))
        for i in list(running):
            running[i] -= 1
            first[i] = clock if np.isnan(first[i]) else first[i]
            if running[i] == 0:
                finish[i] = clock
                del running[i]
    return Served(first, finish)


def poisson(
    rate: float, n: int, rng: np.random.Generator, *, prompts: Sequence[int], lengths: Sequence[int]
) -> list[Job]:
    """`n` jobs at random times, `rate` per second; prompts and answers drawn from those given."""
    require(rate > 0, "rate must be above 0", rate)
    times = np.cumsum(rng.exponential(1 / rate, n))
    drawn = (rng.choice(np.asarray(values), n) for values in (prompts, lengths))
    return [Job(float(t), int(p), int(m)) for t, p, m in zip(times, *drawn, strict=True)]


def lindley(
    arrivals: Float[np.ndarray, " jobs"], service: Float[np.ndarray, " jobs"]
) -> Float[np.ndarray, " jobs"]:
    """Seconds that each job waits for one server, first come first served (Lindley's recursion)."""
    waits = np.zeros(len(arrivals))
    for i in range(1, len(arrivals)):
        waits[i] = max(0.0, waits[i - 1] + service[i - 1] - (arrivals[i] - arrivals[i - 1]))
    return waits


def used_places(lengths: Sequence[int], size: int) -> float:
    """Share of a static batch's places that hold a token, if answers are drawn from `lengths`."""
    values, counts = np.unique(np.asarray(lengths), return_counts=True)
    below = np.concatenate([[0.0], np.cumsum(counts) / counts.sum()]) ** size  # P(max <= value)
    return float(np.mean(lengths) / (values @ np.diff(below)))


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
