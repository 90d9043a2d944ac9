"""Schedules are complete, idle as long as the formula says, and give one process's gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from week17.answers import ask
from week17.pipeline_parallel import bubble, peak_inputs, schedule, simulate
from week17.pipeline_runs import (
    accumulated_step,
    clocked_bubble,
    merged,
    pipeline_steps,
    whole_step,
)

CASES = [
    {"seed": 1, "name": name, "world": world, "n_micro": n_micro, "n_pieces": v, "n_rows": rows}
    for name, world, n_micro, v, rows in (
        ("gpipe", 1, 3, 1, 7),
        ("gpipe", 2, 4, 1, 7),
        ("gpipe", 3, 5, 1, 11),
        ("1f1b", 2, 5, 1, 7),
        ("1f1b", 3, 2, 1, 5),
        ("interleaved", 2, 4, 2, 7),
        ("interleaved", 3, 3, 2, 5),
    )
]
CLOCKS = [
    {"world": 3, "name": name, "n_micro": 4, "forward": forward}
    for name in ("gpipe", "1f1b")
    for forward in ([1.0, 1.0, 1.0], [1.0, 2.0, 0.5])
]


@pytest.fixture(scope="module")
def results():
    return ask(pipeline_steps, 3, CASES, CLOCKS, timeout=240)


@pytest.mark.parametrize("i", range(len(CASES)))
def test_gradients_are_those_of_one_process(results, i):
    parts = [result["ours"][i] for result in results[: CASES[i]["world"]]]
    for reference in (whole_step(CASES[i]), accumulated_step(CASES[i])):
        torch.testing.assert_close(merged(parts), merged([reference]), rtol=0, atol=1e-12)
        assert sum(p["loss"] for p in parts) == pytest.approx(reference["loss"], abs=1e-12)
    tasks = schedule(*(CASES[i][k] for k in ("name", "world", "n_micro", "n_pieces")))
    assert [p["most"] for p in parts] == [peak_inputs(own) for own in tasks]


@pytest.mark.parametrize("i", range(len(CLOCKS)))
def test_messages_take_the_time_that_is_simulated(results, i):
    parts, case = [result["clocks"][i] for result in results], CLOCKS[i]
    tasks, forward = schedule(case["name"], 3, case["n_micro"]), case["forward"]
    assert clocked_bubble(parts) == pytest.approx(bubble(tasks, forward), abs=1e-12)
    end = max(done.end for done in simulate(tasks, forward))
    assert max(part["end"] for part in parts) == pytest.approx(end)


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 3))
def test_bubble(k, groups, v):
    m = k * groups
    plain = (k - 1) / (m + k - 1)
    assert bubble(schedule("gpipe", k, m)) == pytest.approx(plain, abs=1e-12)
    assert bubble(schedule("1f1b", k, m)) == pytest.approx(plain, abs=1e-12)
    thin = (k - 1) / (v * m + k - 1)
    assert bubble(schedule("interleaved", k, m, v)) == pytest.approx(thin, abs=1e-12)


@given(st.integers(1, 6), st.integers(1, 9))
def test_what_is_remembered(k, m):
    assert [peak_inputs(own) for own in schedule("gpipe", k, m)] == [m] * k
    expected = [min(m, k - p) for p in range(k)]
    assert [peak_inputs(own) for own in schedule("1f1b", k, m)] == expected


@given(st.sampled_from(["gpipe", "1f1b", "interleaved"]), st.integers(1, 5), st.integers(1, 3))
def test_each_pass_is_done_once_and_after_its_source(name, k, groups):
    v = 2 if name == "interleaved" else 1
    tasks = schedule(name, k, k * groups, v)
    for own in tasks:
        assert len(own) == len(set(own)) == 2 * k * groups * v
    for a in (d for d in simulate(tasks) if d.process == 0):
        assert a.end > a.start


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: schedule("gpipe", 0, 3), "n_processes must be at least 1, got 0"),
        (lambda: schedule("1f1b", 2, 0), "n_micro must be at least 1, got 0"),
        (lambda: schedule("1f1b", 2, 2, 2), "n_pieces must be 1 with 1f1b, got 2"),
        (lambda: schedule("interleaved", 2, 3, 2), "n_micro must be a multiple of 2, got 3"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_schedule_that_waits_for_ever_is_refused():
    tasks = schedule("1f1b", 2, 2)
    with pytest.raises(ValueError, match="none waits for ever"):
        simulate([tasks[0], tasks[1][::-1]])
