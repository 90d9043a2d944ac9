"""Queues by three policies, against waiting by hand and against each other."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from week19.batching import Cost, Job, by_batches, continuously, lindley, poisson, used_places

jobs_of = st.lists(
    st.builds(Job, st.floats(0, 20), st.integers(1, 50), st.integers(1, 9)), min_size=1, max_size=12
).map(lambda jobs: sorted(jobs, key=lambda job: job.arrival))
costs = st.builds(Cost, st.floats(0.01, 2), st.floats(0, 1), st.floats(0, 0.1))


@given(jobs_of, costs, st.integers(1, 5), st.floats(0, 5))
def test_nobody_is_served_before_it_came_nor_faster_than_alone(jobs, cost, size, patience):
    for served in (
        by_batches(jobs, cost, size=size, patience=patience),
        continuously(jobs, cost, size=size),
    ):
        for job, first, finish in zip(jobs, served.first, served.finish, strict=True):
            read = job.arrival + cost.read(job.prompt)
            assert first >= read + cost.step(1) - 1e-9
            assert finish >= read + job.new * cost.step(1) - 1e-9
            assert first <= finish


@given(jobs_of, costs)
def test_one_place_is_one_queue_whatever_the_patience(jobs, cost):
    finish = [by_batches(jobs, cost, size=1, patience=p).finish for p in (0.0, 3.0)]
    finish.append(continuously(jobs, cost, size=1).finish)
    np.testing.assert_allclose(finish, [finish[0]] * 3, atol=1e-9)


@given(st.integers(1, 6), st.lists(st.integers(1, 9), min_size=1, max_size=12))
def test_a_batch_ends_with_its_longest(size, lengths):
    jobs = [Job(0.0, 1, n) for n in lengths]
    groups = [lengths[i : i + size] for i in range(0, len(lengths), size)]
    ends = np.cumsum([max(group) for group in groups])
    expected = np.repeat(ends, [len(group) for group in groups])
    np.testing.assert_allclose(by_batches(jobs, Cost(1.0), size=size).finish, expected)


def test_a_dynamic_batch_waits_as_long_as_its_first_request_has_patience():
    jobs = [Job(0.0, 1, 1), Job(1.0, 1, 1), Job(9.0, 1, 1)]
    for patience, expected in ((0.5, [1.5, 2.5, 10]), (2.0, [3, 3, 10]), (99, [10, 10, 10])):
        served = by_batches(jobs, Cost(1.0), size=3, patience=patience)
        np.testing.assert_allclose(served.finish, expected)


def test_who_comes_during_a_token_enters_after_it():
    jobs = [Job(0.0, 1, 3), Job(0.5, 3, 1)]
    served = continuously(jobs, Cost(1.0, row=0.5, token=0.25), size=2)
    # 1.5 for a token alone; then 1 + 2 · 0.25 to read the other prompt, and 2 for both together
    np.testing.assert_allclose(served.first, [1.5, 5.0])
    np.testing.assert_allclose(served.finish, [6.5, 5.0])


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(1, 4))
def test_used_places_by_enumeration(lengths, size):
    longest = np.mean([max(row) for row in itertools.product(lengths, repeat=size)])
    assert used_places(lengths, size) == pytest.approx(np.mean(lengths) / longest)


def test_requests_come_at_their_rate():
    jobs = poisson(4.0, 4000, np.random.default_rng(0), prompts=[3], lengths=[1, 2])
    assert jobs[-1].arrival == pytest.approx(1000, rel=0.06)  # 4 standard errors of 1.6 %
    assert {job.new for job in jobs} == {1, 2}
    gaps = np.diff([job.arrival for job in jobs])
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.1)  # exponential


def test_lindley_by_hand():
    waits = lindley(np.array([0.0, 1.0, 10.0]), np.array([3.0, 1.0, 1.0]))
    assert waits.tolist() == [0.0, 2.0, 0.0]


@pytest.mark.parametrize("policy", [by_batches, continuously])
@pytest.mark.parametrize(
    ("jobs", "size", "message"),
    [
        ([], 1, "jobs must hold at least one, got none"),
        ([Job(0, 1, 1)], 0, "size must be at least 1, got 0"),
        ([Job(0, 1, 0)], 1, "new must be at least 1 for each job"),
        ([Job(1, 1, 1), Job(0, 1, 1)], 1, "jobs must come in the order of their arrival"),
    ],
)
def test_wrong_input(policy, jobs, size, message):
    with pytest.raises(ValueError, match=message):
        policy(jobs, Cost(1.0), size=size)


def test_wrong_rates():
    with pytest.raises(ValueError, match="rate must be above 0, got 0"):
        poisson(0, 1, np.random.default_rng(0), prompts=[1], lengths=[1])
    with pytest.raises(ValueError, match="patience must be at least 0, got -1"):
        by_batches([Job(0, 1, 1)], Cost(1.0), size=1, patience=-1)


def test_the_judge_counts_seconds_of_the_slower_over_the_faster(tmp_path):
    from shared import records
    from shared.run import Run
    from week19.evidence import batching as evidence

    run = Run(records.ROOT / "weeks/19/batching.py", mode="quick", out=tmp_path, quiet=True)
    evidence.compare(run, evidence.ASSUMED, n=40, seeds=2)
    load, sooner = run.claims
    assert load["mean"] > load["at_least"] > run.falsifiers[0]["mean"] == pytest.approx(1)
    assert sooner["mean"] > sooner["at_least"]
