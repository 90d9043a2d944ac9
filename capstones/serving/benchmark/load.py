r"""A load generator: requests come when they come, not when the last one was answered.

A client that waits for an answer before it asks again asks a slow server less often, and never
measures the wait that others would have had: *coordinated omission*. Here the times of arrival of
an open load are drawn before anything is sent, a Poisson process of $\lambda$ requests per second,

$$t_i = t_{i-1} - \ln(u_i) / \lambda, \qquad u_i \sim U(0, 1],$$

and every latency counts from $t_i$, whether or not the request was sent in time. A closed load
(`clients` that ask one after another) is for throughput alone.

>>> arrivals(rate=2.0, seconds=3.0, seed=1).round(2)
array([0.54, 0.69])

Source: Tene, "How NOT to measure latency" (2013), for the omission; Schroeder, Wierman and
Harchol-Balter, "Open versus closed: a cautionary tale" (2006).
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from jaxtyping import Float

from shared.require import require

PATIENCE = 300.0  # seconds after which a client gives up
Body = Callable[[int], Mapping[str, Any]]


@dataclass
class Reply:
    """One request as its client saw it; seconds since the run began.

    Attributes
    ----------
    due
        When it was meant to be sent.
    times
        Of the pieces that held text.
    status
        HTTP's; 0 for no answer, -1 for a stream that broke or ended in an error.
    left
        Whether its client hung up, as it was told to.
    """

    due: float
    times: list[float] = field(default_factory=list)
    end: float = 0.0
    status: int = 0
    left: bool = False

    @property
    def well(self) -> bool:
        """Whether it was answered to its end."""
        return self.status == 200 and not self.left and bool(self.times)


def arrivals(*, rate: float, seconds: float, seed: int) -> Float[np.ndarray, " n"]:
    """Times of a Poisson process."""
    require(rate > 0, "rate must be positive", rate)
    require(seconds > 0, "seconds must be positive", seconds)
    gaps = np.random.default_rng(seed).exponential(1 / rate, int(3 * rate * seconds + 50))
    times = np.cumsum(gaps)
    return times[times < seconds]


async def open_load(
    url: str,
    body: Body,
    *,
    rate: float,
    seconds: float,
    seed: int = 0,
    disconnect: float = 0.0,
    key: str | None = None,
) -> list[Reply]:
    """Ask at times that depend on nobody's answer.

    Parameters
    ----------
    url
        The server's; `/v1/chat/completions` is asked.
    body
        What the i-th request says.
    disconnect
        Share of clients that hang up after their first piece of text.
    """
    due = arrivals(rate=rate, seconds=seconds, seed=seed)
    leaves = np.random.default_rng(seed + 1).random(len(due)) < disconnect
    async with _client(url, key) as client:
        start = time.perf_counter()

        async def one(i: int) -> Reply:
            await asyncio.sleep(max(0.0, start + due[i] - time.perf_counter()))
            return await _ask(client, body(i), Reply(float(due[i])), start, bool(leaves[i]))

        return list(await asyncio.gather(*(one(i) for i in range(len(due)))))


async def closed_load(
    url: str,
    body: Body,
    *,
    clients: int,
    requests: int,
    seed: int = 0,
    disconnect: float = 0.0,
    key: str | None = None,
) -> list[Reply]:
    """Let clients ask one request after another until so many were asked."""
    require(clients >= 1, "clients must be at least 1", clients)
    leaves = np.random.default_rng(seed).random(requests) < disconnect
    numbers, found = iter(range(requests)), []
    async with _client(url, key) as client:
        start = time.perf_counter()

        async def work() -> None:
            for i in numbers:
                reply = Reply(time.perf_counter() - start)
                found.append(await _ask(client, body(i), reply, start, bool(leaves[i])))

        await asyncio.gather(*(work() for _ in range(clients)))
    return found


def _client(url: str, key: str | None) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    return httpx.AsyncClient(base_url=url, timeout=PATIENCE, limits=limits, headers=headers)


async def _ask(
    client: httpx.AsyncClient, body: Mapping[str, Any], reply: Reply, start: float, leaves: bool
) -> Reply:
    done = False
    try:
        async with client.stream("POST", "/v1/chat/completions", json=dict(body)) as response:
            reply.status = response.status_code
            async for line in response.aiter_lines():
                if not line.startswith("data: "):
                    continue
                if done := line == "data: [DONE]":
                    break
                event = json.loads(line[6:])
                if "error" in event:
                    reply.status = -1
                if any(choice["delta"].get("content") for choice in event.get("choices") or ()):
                    reply.times.append(time.perf_counter() - start)
                    if leaves:
                        reply.left = True
                        break
    except httpx.HTTPError:
        reply.status = -1 if reply.status else 0
    if reply.status == 200 and not (done or reply.left):
        reply.status = -1
    reply.end = time.perf_counter() - start
    return reply


def summary(replies: Sequence[Reply], tokens: int | None = None) -> dict[str, Any]:
    """Counts, throughput, and percentiles of latencies in seconds.

    Parameters
    ----------
    tokens
        Of each answer; pieces of text are counted if not given.

    Returns
    -------
    summary
        `first` is the time to the first text from when the request was due, `between` the time
        between two pieces of one answer, `whole` that to the end. A percentile is a value that was
        seen, the least that so many do not exceed.
    """
    well = [reply for reply in replies if reply.well]
    span = max((reply.end for reply in replies), default=0.0)
    written = sum(tokens or len(reply.times) for reply in well)
    latencies = {
        "first": [reply.times[0] - reply.due for reply in well],
        "between": [gap for reply in well for gap in np.diff(reply.times).tolist()],
        "whole": [reply.end - reply.due for reply in well],
    }
    counts = {
        "n": len(replies),
        "well": len(well),
        "left": sum(reply.left for reply in replies),
        "refused": sum(reply.status == 429 for reply in replies),
    }
    counts["failed"] = len(replies) - sum(counts[name] for name in ("well", "left", "refused"))
    rates = {"tokens_per_second": written, "requests_per_second": len(well)}
    return {
        **counts,
        "seconds": span,
        **{name: value / span if span else 0.0 for name, value in rates.items()},
        **{name: _percentiles(values) for name, values in latencies.items()},
    }


def _percentiles(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    found = np.percentile(values, [50, 90, 99], method="inverted_cdf")
    return dict(zip(("p50", "p90", "p99"), found.tolist(), strict=True))
