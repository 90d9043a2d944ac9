"""Rows of the benchmark: throughput and latency beside others, memory, fuzzed requests, the filter.

All servers hold the same weights (SmolLM2, float32), are asked the same, and write as many tokens
as they are asked for; each has the machine to itself while it is measured.
"""

import asyncio
import importlib.util
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from serving.benchmark import fuzz as fuzzing
from serving.benchmark.load import closed_load, open_load, summary
from serving.benchmark.servers import NAME, started

Row = dict[str, Any]
CLIENTS, TOKENS, ROUNDS = 16, 16, 3
RATE, SECONDS = 0.8, 50.0
GOALS = {
    "throughput": ("tokens per second at 16 clients at least 3 times plain FastAPI's", 3.0),
    "latency": ("99th percentile of the time to first text below LitServe's at equal load", 1.0),
    "memory": ("resident memory grows by less than 1 % over 10,000 requests", 0.01),
    "fuzz": ("no 5xx and no hang, of up to 10,000 absurd requests", 0),
}
TOPICS = (
    "rain",
    "tea",
    "bread",
    "glass",
    "bees",
    "chess",
    "clocks",
    "salt",
    "iron",
    "owls",
    "silk",
)


def asked(i: int, *, tokens: int = TOKENS) -> Mapping[str, Any]:
    """The i-th request."""
    question = f"Explain in a few sentences what {TOPICS[i % len(TOPICS)]} is, part {i}."
    return {
        "model": NAME,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
    }


def _endless(i: int) -> Mapping[str, Any]:
    return {**asked(i), "ignore_eos": True}  # the others are told so in their own code


def throughput(quick: bool = False) -> Row:
    """Sixteen clients, each asking as soon as it is answered: tokens per second."""
    kinds = ("serve",) if quick else ("serve", "fastapi", "litserve")
    lines = [_closed(kind, quick) for kind in kinds]
    found = {line["side"]: line["tokens_per_second"] for line in lines}
    there = importlib.util.find_spec("llama_cpp") is not None
    return {
        "clients": CLIENTS,
        "tokens": TOKENS,
        "lines": lines,
        "times": found["serve"] / found.get("fastapi", found["serve"]),
        "times_litserve": found["serve"] / found.get("litserve", found["serve"]),
        "llama_cpp": "installed, not measured" if there else "not installed, not measured",
    }


def _closed(kind: str, quick: bool) -> Row:
    with _started(kind, quick) as server:
        body = _endless if kind == "serve" else asked
        rounds = []
        for _ in range(1 if quick else ROUNDS + 1):
            load = closed_load(server.url, body, clients=CLIENTS, requests=CLIENTS)
            rounds.append(summary(asyncio.run(load), TOKENS))
    rounds = rounds[-ROUNDS:]  # the first one warms up
    rates = [each["tokens_per_second"] for each in rounds]
    return {
        "side": kind,
        "tokens_per_second": statistics.median(rates),
        "least": min(rates),
        "most": max(rates),
        "first": rounds[-1]["first"],
        "failed": sum(each["failed"] + each["refused"] for each in rounds),
    }


def latency(quick: bool = False) -> Row:
    """Requests that come at random: the time to first text, from when each was due."""
    lines = []
    for kind in ("serve",) if quick else ("serve", "litserve"):
        with _started(kind, quick) as server:
            body = _endless if kind == "serve" else asked
            asyncio.run(closed_load(server.url, body, clients=2, requests=2))
            load = open_load(server.url, body, rate=RATE, seconds=3.0 if quick else SECONDS, seed=7)
            lines.append({"side": kind, **summary(asyncio.run(load), TOKENS)})
    ratio = lines[0]["first"]["p99"] / lines[-1]["first"]["p99"]
    return {"rate": RATE, "tokens": TOKENS, "lines": lines, "times": ratio}


def _started(kind: str, quick: bool):
    """Ours with as many places as LitServe's batches have."""
    options = ("--max-num-seqs", str(CLIENTS)) if kind == "serve" else ()
    return started(kind, *options, model="dummy" if quick else "smollm2")


def memory(quick: bool = False) -> Row:
    """Resident memory over many requests, of which one in twenty hangs up; a tiny random model."""
    warm, n = (50, 50) if quick else (1_000, 10_000)

    def body(i: int) -> Mapping[str, Any]:
        return {**asked(i, tokens=3), "ignore_eos": True}

    with started("serve", model="dummy") as server:
        options = {"clients": CLIENTS, "disconnect": 0.05}
        asyncio.run(closed_load(server.url, body, requests=warm, **options))
        before = server.resident()
        found = summary(asyncio.run(closed_load(server.url, body, requests=n, seed=1, **options)))
        after = server.resident()
        sound = asyncio.run(_sound(server.url))
    counts = {name: found[name] for name in ("n", "well", "left", "refused", "failed", "seconds")}
    growth = after / before - 1
    return {**counts, "before": before, "after": after, "growth": growth, "sound": sound}


async def _sound(url: str) -> bool:
    import httpx

    async with httpx.AsyncClient(base_url=url) as client:
        return await fuzzing.is_sound(client)


def fuzz(quick: bool = False) -> Row:
    """Absurd requests, our own and schemathesis's, against a tiny random model."""
    requests, examples = (60, 2) if quick else (9_860, 20)
    with started("serve", model="dummy") as server:
        own = asyncio.run(fuzzing.fuzz(server.url, requests=requests, seconds=150))
        derived = fuzzing.from_schema(server.url, examples=examples)
        sound = asyncio.run(_sound(server.url))
    lines = [{"kind": "own", **own}, {"kind": "schemathesis", **derived}]
    failed = own["n_failures"] + derived["n_failures"]
    return {"lines": lines, "n": own["n"] + derived["n"], "failed": failed, "sound": sound}


def safety(quick: bool = False) -> Row:
    """What `--safety block` ends, of texts that taught neither its classifier nor its threshold."""
    from llm_eval.safety.tweets import load_tweets
    from serving.safety.policy import THRESHOLD, Safety, is_toxic
    from shared.texts import pydocs, sst2

    texts, toxic = load_tweets().of("test")
    ends = re.compile(r"(?<=[.!?])\s+")
    prose = [s for document in pydocs()[1::2] for s in ends.split(document.text) if len(s) > 30]
    sets = [
        ("tweets judged hateful or offensive", _of(texts, toxic), True),
        ("tweets judged neither", _of(texts, ~toxic), False),
        ("sentences of movie reviews (SST-2)", [row.sentence for row in sst2()["dev"]], False),
        ("sentences of Python's manual", prose, False),
    ]
    policy, lines = Safety("block", toxic=is_toxic), []
    for name, members, bad in sets:
        members = members[:20] if quick else members
        reasons = [policy.check(text) for text in members]
        lines.append({"data": name, "toxic": bad, **_share(reasons)})
    return {"threshold": THRESHOLD, "lines": lines}


def _share(reasons: Sequence[str | None]) -> Row:
    from llm_eval.statistics.estimates import wilson

    blocked, n = sum(reason is not None for reason in reasons), len(reasons)
    low, high = wilson(blocked / n, n)
    secrets = sum(reason not in (None, "toxic") for reason in reasons)
    return {"n": n, "blocked": blocked, "secrets": secrets, "low": low, "high": high}


def _of(texts: Sequence[str], chosen: Sequence[bool]) -> list[str]:
    return [text for text, here in zip(texts, chosen, strict=True) if here]
