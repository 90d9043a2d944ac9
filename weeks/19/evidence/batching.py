"""The scheduler against each request alone; what it costs; queues by three policies on SmolLM2."""

import itertools
import statistics
import time

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from shared import plots
from shared.errors import UserError
from shared.study import PositiveInt, Run
from week18.llama3 import Llama
from week18.smollm2 import smollm2
from week18.transformers_twin import transformers_twin
from week19.batching import (
    Cost,
    Job,
    by_batches,
    continuously,
    lindley,
    poisson,
    used_places,
)
from week19.kv_cache import KVCache, generate
from week19.sampling import Sampler
from week19.scheduler import Request, Scheduler
from week19.twins import small_llama, transformers_greedy

SIZE, PATIENCE = 8, 0.5  # rows; seconds that a dynamic batch waits
ASSUMED = Cost(fixed=0.06, row=0.008, token=0.002)  # for the quick run, which measures nothing
QUESTIONS = (
    "What is the capital of France?",
    "Name three colors.",
    "What is two plus two?",
    "Why is the sky blue?",
    "Write one sentence about the sea.",
    "Who wrote Hamlet?",
    "What is a prime number?",
    "Translate 'good morning' into French.",
)


def main(run: Run, *, jobs: PositiveInt = 600, seeds: PositiveInt = 5) -> None:
    """Check the scheduler and the queues, measure what a pass costs, and compare the policies.

    Parameters
    ----------
    jobs
        Requests of each simulated queue.
    seeds
        Queues of each kind.
    """
    check_scheduler(run)
    check_queues(run)
    draw_pool(run)
    cost = ASSUMED
    if run.budget(quick=False, default=True):
        try:
            model, tokenizer = smollm2()
        except UserError as missing:  # the queues are then those of an assumed machine
            run.say(f"{missing}; the costs of a pass are assumed")
        else:
            cost = measure(run, model)
            serve(run, model, tokenizer)
    compare(run, cost, run.budget(quick=60, default=jobs), run.budget(quick=2, default=seeds))


# ---- checks


def requests(seed: int, n: int = 10, *, start: int = 9, **options) -> list[Request]:
    """Prompts that begin alike and go on differently, for answers of different lengths."""
    rng = np.random.default_rng(seed)
    common = rng.integers(61, size=start).tolist()
    tails = [rng.integers(61, size=rng.integers(1, 9)).tolist() for _ in range(n)]
    lengths = rng.integers(1, 25, n).tolist()
    return [
        Request(common + tail, m, seed=i, **options)
        for i, (tail, m) in enumerate(zip(tails, lengths, strict=True))
    ]


def flat(rows: list[list[int]]) -> list[int]:
    """All tokens, with -1 after each answer."""
    return [token for row in rows for token in (*row, -1)]


def run_all(scheduler: Scheduler, all_requests: list[Request]) -> list[list[int]]:
    """New tokens of each request, two of which come at each step."""
    left, numbers = list(all_requests), []
    while left or not scheduler.idle:
        numbers += [scheduler.submit(request) for request in left[:2]]
        del left[:2]
        scheduler.step()
    return [scheduler.finished[number] for number in numbers]


def check_scheduler(run: Run) -> None:
    """Tokens in a crowd, with too few blocks for it, are those of each request alone."""
    model = small_llama(run.seed)
    theirs, rows = transformers_twin(model), requests(run.seed)
    scheduler = Scheduler(model, n_blocks=12, block_size=4, max_batch=4)
    found = run_all(scheduler, rows)
    alone = [
        transformers_greedy(theirs, [row.prompt], row.max_new_tokens).sequences[0].tolist()
        for row in rows
    ]
    expected = [tokens[len(row.prompt) :] for tokens, row in zip(alone, rows, strict=True)]
    exact = run.against("transformers generate, each alone", why="tokens are equal or not")
    exact("greedy tokens of 10 requests", flat(found), flat(expected))
    run.metric("preemptions in that run", scheduler.preemptions)
    scheduler.forget()
    run.check(
        "free blocks at the end",
        scheduler.pool.n_free,
        12,
        against="the whole pool",
        kind="theorem",
        why="counted",
    )
    rows = requests(run.seed + 1, choose=Sampler(temperature=0.9, top_p=0.95))
    drawn = run_all(Scheduler(model, n_blocks=12, block_size=4, max_batch=4), rows)
    alone = [write_alone(model, row) for row in rows]
    same = {"kind": "consistency", "why": "tokens are equal or not"}
    run.check("drawn tokens", flat(drawn), flat(alone), against="each alone, same seed", **same)


def write_alone(model: Llama, request: Request) -> list[int]:
    """What a request gets when it is the only one, in a cache of one piece."""
    own = [torch.Generator().manual_seed(request.seed)]
    options = {"choose": request.choose, "generator": own[0]}
    steps = generate(model, [request.prompt], request.max_new_tokens, **options)
    return [int(token) for token in steps]


def check_queues(run: Run) -> None:
    """One place is a queue with one server; a static batch's use by enumeration."""
    rng, cost = np.random.default_rng(run.seed), Cost(0.1, 0.01, 0.002)
    jobs = poisson(2.0, 300, rng, prompts=range(1, 40), lengths=range(1, 8))
    arrivals = np.array([job.arrival for job in jobs])
    service = np.array([cost.read(job.prompt) + job.new * cost.step(1) for job in jobs])
    expected = arrivals + lindley(arrivals, service) + service
    queue = run.against("Lindley's recursion", kind="theorem", atol=1e-9, why="float64 rounding")
    queue("one place, continuous", continuously(jobs, cost, size=1).finish, expected)
    queue("one place, batches", by_batches(jobs, cost, size=1).finish, expected)
    equal, s = poisson(5.0, 200_000, rng, prompts=[1], lengths=[1]), 0.1
    times = np.array([job.arrival for job in equal])
    wait = lindley(times, np.full(len(times), s)).mean()
    run.check(
        "mean wait at half load",
        wait,
        0.5 * s / (2 * (1 - 0.5)),
        against="Pollaczek and Khinchine's formula",
        kind="theorem",
        rtol=0.05,
        why="Monte Carlo, 200,000 requests whose waits are correlated",
    )
    lengths = [1, 2, 2, 7]
    longest = np.mean([max(row) for row in itertools.product(lengths, repeat=3)])
    run.check(
        "places used by static batches of 3",
        used_places(lengths, 3),
        np.mean(lengths) / longest,
        against="all 64 batches",
        kind="theorem",
        atol=1e-12,
        why="float64 rounding",
    )


# ---- what a pool too small costs


def draw_pool(run: Run) -> None:
    """Tokens read, as the pool shrinks, with and without sharing beginnings."""
    model, rows = small_llama(run.seed), requests(run.seed + 2, 12, start=24)
    sizes = run.budget(quick=(16, 48), default=(16, 20, 24, 32, 40, 48, 64))
    read: dict[str, list[int]] = {"beginnings shared": [], "each for itself": []}
    for n_blocks in sizes:
        for name, sharing in zip(read, (True, False), strict=True):
            options = {"n_blocks": n_blocks, "block_size": 4, "max_batch": 8}
            scheduler = Scheduler(model, sharing=sharing, **options)
            run_all(scheduler, rows)
            read[name].append(scheduler.read)
    alone = sum(len(row.prompt) + row.max_new_tokens - 1 for row in rows)
    for name, values in read.items():
        run.metric(f"tokens read, largest pool, {name}", values[-1])
        run.metric(f"tokens read, smallest pool, {name}", values[0])
    with run.figure("pool", "What does a small pool of blocks cost?") as axes:
        labels = {"xlabel": "blocks of 4 tokens", "ylabel": "tokens that the model reads"}
        reference = {"each request once": alone}
        plots.curves(axes, sizes, read, marker="o", reference=reference, **labels)


# ---- SmolLM2


def measure(run: Run, model: Llama, repeats: int = 5) -> Cost:
    """Medians of what a pass takes, and the straight line through them."""
    rows, prompts = (1, 2, 4, 8), (32, 128)

    @torch.inference_mode()
    def seconds(batch: int, new: int, past: int) -> float:
        times = []
        for _ in range(repeats + 1):
            cache = KVCache.for_model(model, batch, past + new)
            cache.advance(past)
            tokens: Tensor = torch.ones(batch, new, dtype=torch.long)
            start = time.perf_counter()
            model(tokens, cache=cache)
            times.append(time.perf_counter() - start)
        return statistics.median(times[1:])

    steps = [seconds(n, 1, 64) for n in run.progress(rows, "costs")]
    row, fixed = np.polyfit(rows, steps, 1)
    token = (seconds(1, prompts[1], 0) - seconds(1, prompts[0], 0)) / (prompts[1] - prompts[0])
    cost = Cost(fixed=max(fixed, 1e-4), row=max(row, 0.0), token=max(token, 0.0))
    for name, value in (("pass", cost.fixed), ("row", cost.row), ("prompt token", cost.token)):
        run.metric(f"SmolLM2: milliseconds per {name}", 1000 * value, "ms", rtol=None)
    return cost


def serve(run: Run, model: Llama, tokenizer) -> None:
    """Eight questions to SmolLM2, one after the other and together."""
    asked = [
        Request(tokenizer.chat([{"role": "user", "content": q}]), 16, stop=[tokenizer.end])
        for q in QUESTIONS
    ]
    speed, answers = {}, {}
    for places in (1, SIZE):
        scheduler = Scheduler(model, n_blocks=64, max_batch=places)
        start = time.perf_counter()
        numbers = [scheduler.submit(request) for request in asked]
        while not scheduler.idle:
            scheduler.step()
        answers[places] = [scheduler.finished[number] for number in numbers]
        written = sum(map(len, answers[places]))
        speed[places] = written / (time.perf_counter() - start)
        run.metric(f"SmolLM2: tokens per second, {places} at a time", speed[places], rtol=None)
    run.metric("SmolLM2: prompt tokens found in the pool", scheduler.shared)
    same = {"kind": "consistency", "why": "tokens are equal or not"}
    both = (flat(answers[places]) for places in (SIZE, 1))
    run.check("SmolLM2's answers together", *both, against="one after the other", **same)
    for question, tokens in zip(QUESTIONS[:3], answers[SIZE], strict=False):
        run.say(f"{question} {tokenizer.decode(tokens)!r}")


# ---- policies


def compare(run: Run, cost: Cost, n: int, seeds: int) -> None:
    """Throughput when there is always work, and waiting against the rate of arrival."""
    lengths, prompts = (4, 8, 16, 32, 64, 128), (16, 32, 64)
    most = SIZE / (np.mean(lengths) * cost.step(SIZE))  # requests per second, all places full
    policies = {
        "static": lambda jobs: by_batches(jobs, cost, size=SIZE),
        "dynamic": lambda jobs: by_batches(jobs, cost, size=SIZE, patience=PATIENCE),
        "continuous": lambda jobs: continuously(jobs, cost, size=SIZE),
    }

    def queue(rate: float, seed: int, answers=lengths):
        rng = np.random.default_rng(run.seed + seed)
        return poisson(rate, n, rng, prompts=prompts, lengths=answers)

    def gain(answers) -> list[float]:
        """Tokens per second of continuous over static batches when all come at once."""
        queues = [queue(1e6 * most, seed, answers) for seed in range(seeds)]
        both = [[policies[name](jobs).finish.max() for jobs in queues] for name in policies]
        return [static / own for static, own in zip(both[0], both[2], strict=True)]

    late = {"rtol": None}
    rule = "under full load more tokens per second than static batches"
    run.claim(rule, gain(lengths), at_least=1.5, unit="times", **late)
    run.falsifier("answers of equal length", gain([42]), breaks=rule)
    run.metric("places used by static batches", 100 * used_places(lengths, SIZE), "%")

    loads = run.budget(quick=(0.2, 0.8), default=(0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8))
    last: dict[str, list] = {name: [] for name in policies}
    begin: dict[str, list] = {name: [] for name in policies}
    for name, policy in policies.items():
        for seed in range(seeds):
            served = [(jobs := queue(load * most, seed), policy(jobs)) for load in loads]
            last[name].append([slowest(jobs, one.finish) for jobs, one in served])
            begin[name].append([slowest(jobs, one.first) for jobs, one in served])
    half = len(loads) // 2
    sooner = [np.log(np.array(begin[name])[:, half]) for name in ("dynamic", "continuous")]
    rule = "at medium load the first token comes sooner than with dynamic batches"
    run.claim(rule, sooner[0] - sooner[1], at_least=np.log(2), unit="log ratio of p99", **late)
    title = "How long does one request in a hundred wait?"
    with run.figure("load", title, columns=2, size=(10.5, 4.2)) as both:
        for axes, values, what in zip(both, (begin, last), ("first", "last"), strict=True):
            labels = {"xlabel": "load (1: all places always full)", "yscale": "log"}
            labels |= {"ylabel": f"99th percentile until the {what} token (s)"}
            plots.curves(axes, loads, values, marker="o", **labels)


def slowest(jobs: list[Job], times: Float[np.ndarray, " jobs"]) -> float:
    """99th percentile of the seconds since arrival."""
    return float(np.percentile(times - np.array([job.arrival for job in jobs]), 99))
