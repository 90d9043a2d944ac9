"""Schedules against torch.optim.lr_scheduler, step by step, and their edges."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from week09.schedules import (
    cosine,
    exponential,
    linear,
    one_cycle,
    sequential,
    step_decay,
    warmup,
    warmup_cosine,
    warmup_stable_decay,
)


def rates(make, steps):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler, found = make(optimizer), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


# arguments, ours, torch's
PAIRS = {
    "warmup": (
        {"steps": st.integers(1, 30), "start": st.floats(0.01, 1.0)},
        lambda t, steps, start: warmup(t, steps=steps, start=start),
        lambda o, steps, start: lr_scheduler.LinearLR(o, start, total_iters=steps),
    ),
    "linear": (
        {"steps": st.integers(1, 30), "final": st.floats(0.0, 1.0)},
        lambda t, steps, final: linear(t, steps=steps, final=final),
        lambda o, steps, final: lr_scheduler.LinearLR(o, 1.0, final, total_iters=steps),
    ),
    "step_decay": (
        {"every": st.integers(1, 12), "gamma": st.floats(0.05, 1.0)},
        lambda t, every, gamma: step_decay(t, every=every, gamma=gamma),
        lambda o, every, gamma: lr_scheduler.StepLR(o, every, gamma),
    ),
    "exponential": (
        {"gamma": st.floats(0.5, 1.0)},
        lambda t, gamma: exponential(t, gamma=gamma),
        lr_scheduler.ExponentialLR,
    ),
    "sequential": (
        {"first": st.integers(1, 15), "second": st.integers(1, 15)},
        lambda t, first, second: sequential(
            t,
            parts=[
                lambda s: warmup(s, steps=first, start=0.1),
                lambda s: exponential(s, gamma=0.9),
                lambda s: 0.25 * linear(s, steps=8),
            ],
            milestones=[first, first + second],
        ),
        lambda o, first, second: lr_scheduler.SequentialLR(
            o,
            [
                lr_scheduler.LinearLR(o, 0.1, total_iters=first),
                lr_scheduler.ExponentialLR(o, 0.9),
                lr_scheduler.LinearLR(o, 0.25, 0.0, total_iters=8),
            ],
            [first, first + second],
        ),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
@given(data=st.data())
def test_is_torchs(name, data):
    arguments, ours, theirs = PAIRS[name]
    options = data.draw(st.fixed_dictionaries(arguments))
    expected = rates(lambda o: theirs(o, **options), 40)
    found = [ours(t, **options) for t in range(40)]
    assert found == pytest.approx(expected, abs=1e-12, rel=1e-10)


@given(st.integers(10, 60), st.floats(0.15, 0.85), st.floats(1, 50), st.floats(1, 1e5))
def test_one_cycle_is_torchs(steps, rising, div, final_div):
    common = {"div_factor": div, "final_div_factor": final_div}
    found = [one_cycle(t, steps=steps, rising=rising, **common) for t in range(steps)]
    expected = rates(
        lambda o: lr_scheduler.OneCycleLR(o, 1.0, steps, pct_start=rising, **common), steps
    )
    assert found == pytest.approx(expected, abs=1e-12, rel=1e-10)


@given(st.integers(0, 20), st.integers(1, 40), st.floats(0, 1))
def test_warmup_cosine_is_its_two_parts(rise, fall, final):
    steps = rise + fall
    values = [warmup_cosine(t, steps=steps, warmup_steps=rise, final=final) for t in range(steps)]
    assert values[:rise] == pytest.approx([t / rise for t in range(rise)])
    expected = rates(lambda o: lr_scheduler.CosineAnnealingLR(o, fall, eta_min=final), fall)
    assert values[rise:] == pytest.approx(expected, abs=1e-9)
    assert warmup_cosine(steps + 9, steps=steps, warmup_steps=rise, final=final) == final


@given(st.integers(0, 15), st.integers(0, 20), st.integers(1, 15), st.floats(0, 1))
def test_warmup_stable_decay_has_three_parts(rise, stable, fall, final):
    steps = rise + stable + fall
    options = {"steps": steps, "warmup_steps": rise, "decay_steps": fall, "final": final}
    values = [warmup_stable_decay(t, **options) for t in range(steps + 1)]
    assert values[:rise] == pytest.approx([t / rise for t in range(rise)])
    assert values[rise : rise + stable + 1] == [1.0] * (stable + 1)
    drops = [(1 - final) * k / fall for k in range(fall + 1)]
    assert values[rise + stable :] == pytest.approx([1 - d for d in drops])


def test_defaults_are_torchs():
    for ours, theirs in (
        (lambda t: step_decay(t, every=3), lambda o: lr_scheduler.StepLR(o, 3)),
        (lambda t: one_cycle(t, steps=20), lambda o: lr_scheduler.OneCycleLR(o, 1.0, 20)),
        (lambda t: linear(t, steps=20), lambda o: lr_scheduler.LinearLR(o, 1.0, 0.0, 20)),
        (lambda t: cosine(t, steps=20), lambda o: lr_scheduler.CosineAnnealingLR(o, 20)),
    ):
        assert [ours(t) for t in range(20)] == pytest.approx(rates(theirs, 20), abs=1e-9)
    assert [warmup(t, steps=4) for t in range(5)] == [0, 0.25, 0.5, 0.75, 1]


def test_all_stay_where_they_end():
    assert warmup(99, steps=3) == 1.0
    assert cosine(4, steps=3, final=0.2) == pytest.approx(0.2)
    assert linear(99, steps=3, final=0.2) == pytest.approx(0.2)
    assert one_cycle(999, steps=20) == pytest.approx(1 / (25 * 1e4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: warmup(-1, steps=3), "step must be at least 0, got -1"),
        (lambda: warmup(0, steps=0), "steps must be at least 1, got 0"),
        (lambda: warmup(0, steps=2, start=1.5), r"start must lie in \[0, 1\], got 1.5"),
        (lambda: cosine(0, steps=2, final=-0.1), r"final must lie in \[0, 1\], got -0.1"),
        (lambda: step_decay(0, every=0), "every must be at least 1, got 0"),
        (lambda: exponential(0, gamma=1.1), r"gamma must lie in \[0, 1\], got 1.1"),
        (lambda: one_cycle(0, steps=4, rising=0.25), "cover more than one of steps = 4, got 0.25"),
        (lambda: one_cycle(0, steps=4, rising=1.0), r"rising must lie in \(0, 1\)"),
        (lambda: one_cycle(0, steps=30, final_div_factor=0.5), "at least 1, got 25.0 and 0.5"),
        (lambda: sequential(0, parts=[float] * 2, milestones=[0]), r"from above 0, got \[0\]"),
        (lambda: warmup_cosine(0, steps=5, warmup_steps=-1), "to below steps = 5, got -1"),
        (
            lambda: warmup_stable_decay(0, steps=5, warmup_steps=-1, decay_steps=3),
            "warmup_steps must be at least 0, got -1",
        ),
        (lambda: one_cycle(0, steps=3), "cover more than one of steps = 3, got 0.3"),
        (lambda: one_cycle(0, steps=30, div_factor=0.5), "must be at least 1, got 0.5 and"),
        (lambda: sequential(0, parts=[], milestones=[3]), "one fewer than the 0 parts, got 1"),
        (
            lambda: sequential(0, parts=[float] * 3, milestones=[3, 3]),
            r"milestones must increase from above 0, got \[3, 3\]",
        ),
        (
            lambda: warmup_cosine(0, steps=5, warmup_steps=5),
            "warmup_steps must be from 0 to below steps = 5, got 5",
        ),
        (
            lambda: warmup_stable_decay(0, steps=5, warmup_steps=3, decay_steps=3),
            r"must be at most steps = 5, got 3 \+ 3",
        ),
    ],
)
def test_bad_options_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
