"""Continuous batching: whatever the pool, the company and the order, each gets its own tokens."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from week19.kv_cache import generate
from week19.sampling import Sampler, greedy
from week19.scheduler import Request, Scheduler
from week19.twins import small_llama

MODEL = small_llama(0)
prompts = st.lists(st.integers(0, 3), min_size=1, max_size=9)  # few tokens: many beginnings agree


def alone(request):
    own = torch.Generator().manual_seed(request.seed)
    steps = generate(
        MODEL,
        [request.prompt],
        request.max_new_tokens,
        choose=request.choose,
        stop=request.stop,
        generator=own,
    )
    return [int(token) for token in steps]


def finish(scheduler):
    while not scheduler.idle:
        assert scheduler.step()  # each step gives somebody a token: nothing hangs


@given(
    st.lists(
        st.tuples(
            prompts,
            st.integers(1, 8),
            st.sampled_from([greedy, Sampler(temperature=1.3)]),
            st.integers(0, 99),
            st.sampled_from([(), (7, 20)]),
        ),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, 6),
    st.sampled_from([1, 2, 4]),
    st.integers(1, 4),
    st.booleans(),
    st.data(),
)
@settings(max_examples=25)
def test_tokens_are_those_of_each_alone(drawn, spare, block_size, max_batch, sharing, data):
    requests = [Request(*values) for values in drawn]
    need = max(-(-(len(r.prompt) + r.max_new_tokens - 1) // block_size) for r in requests)
    options = {"block_size": block_size, "max_batch": max_batch, "sharing": sharing}
    scheduler, numbers = Scheduler(MODEL, n_blocks=need + spare, **options), []
    for request in requests:
        numbers.append(scheduler.submit(request))
        if data.draw(st.booleans()):
            scheduler.step()
    finish(scheduler)
    assert [scheduler.finished[n] for n in numbers] == [alone(r) for r in requests]
    scheduler.forget()
    assert scheduler.pool.n_free == need + spare


def test_a_dry_pool_sends_the_youngest_away_and_nothing_is_lost():
    requests = [Request([i, i + 1, i + 2], 12, Sampler(), seed=i) for i in range(3)]
    scheduler = Scheduler(MODEL, n_blocks=8, block_size=2, max_batch=3)
    numbers = [scheduler.submit(request) for request in requests]
    seen = []
    while not scheduler.idle:
        scheduler.step()
        seen.append(list(scheduler.running))
    assert scheduler.preemptions > 0
    assert all(row == sorted(row) for row in seen)  # who came first is never overtaken for long
    assert next(i for i, row in enumerate(seen) if numbers[0] not in row) == 11  # nor sent away
    assert [scheduler.finished[n] for n in numbers] == [alone(r) for r in requests]


def test_a_common_beginning_is_read_once():
    beginning = list(range(8))
    scheduler = Scheduler(MODEL, n_blocks=20, block_size=4)
    first = scheduler.submit(Request([*beginning, 9], 1))
    finish(scheduler)
    assert (scheduler.read, scheduler.shared) == (9, 0)
    second = scheduler.submit(Request([*beginning, 10], 1))
    finish(scheduler)
    assert (scheduler.read, scheduler.shared) == (10, 8)
    again = scheduler.submit(Request(beginning, 1))  # all of it is there: one token is read anyway
    finish(scheduler)
    assert (scheduler.read, scheduler.shared) == (14, 12)
    for number, last in ((first, [9]), (second, [10]), (again, [])):
        assert scheduler.finished[number] == alone(Request([*beginning, *last], 1))


def test_cancel_frees_the_blocks_of_what_runs_and_waits():
    scheduler = Scheduler(MODEL, n_blocks=6, block_size=2, max_batch=1, sharing=False)
    runs, waits, other = (scheduler.submit(Request([1, 2, 3], 5)) for _ in range(3))
    scheduler.step()
    scheduler.cancel(runs)
    assert scheduler.pool.n_free == 6
    scheduler.cancel(waits)
    finish(scheduler)
    assert list(scheduler.finished) == [other]
    with pytest.raises(ValueError, match=f"number must be of a request that waits.*got {runs}"):
        scheduler.cancel(runs)


def test_first_come_first_served():
    scheduler = Scheduler(MODEL, n_blocks=8, block_size=2, max_batch=2)
    numbers = [scheduler.submit(Request([1] * n, 2)) for n in (6, 9, 1, 1)]
    order = []
    while not scheduler.idle:
        scheduler.step()
        order += [n for n in scheduler.running if n not in order]
        order += [n for n in scheduler.finished if n not in order]
    assert order == numbers  # the short ones do not slip past the long one


def test_padding_of_a_batch_is_never_seen():
    long, short = Request(list(range(20)), 3), Request([5], 3)
    scheduler = Scheduler(MODEL, n_blocks=20, block_size=4)
    scheduler.pool._k.fill_(torch.nan)  # what nobody wrote
    scheduler.pool._v.fill_(torch.nan)
    numbers = [scheduler.submit(long), scheduler.submit(short)]
    finish(scheduler)
    assert [scheduler.finished[n] for n in numbers] == [alone(long), alone(short)]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request([], 1), "prompt must hold at least one token, got none"),
        (Request([61], 1), r"prompt must hold tokens from 0 to 60, got 61\.\.61"),
        (Request([1], 0), "max_new_tokens must be at least 1, got 0"),
        (Request([1] * 10, 8), "prompt and new tokens must fit in the pool of 16, got 17"),
        (Request([1] * 2000, 80), "prompt and new tokens must fit in context = 2048, got 2079"),
    ],
)
def test_what_could_never_run_is_refused(request_, message):
    scheduler = Scheduler(MODEL, n_blocks=8, block_size=2)
    with pytest.raises(ValueError, match=message):
        scheduler.submit(request_)
    assert scheduler.idle


def test_nobody_fits_into_no_batch():
    with pytest.raises(ValueError, match="max_batch must be at least 1, got 0"):
        Scheduler(MODEL, n_blocks=8, max_batch=0)
