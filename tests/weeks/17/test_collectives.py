"""Collectives: torch's results at every number of processes, odd lengths too; bytes; the model."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UserError
from week17.collectives import AlphaBeta, Ring, wire_bytes
from week17.evidence.collectives_worker import compare, send_first
from week17.processes import launch

LENGTHS = (1, 3, 10, 257)
SIZES = range(1, 5)


@pytest.fixture(scope="module")
def answers():
    return launch(compare, 4, LENGTHS, 5, timeout=200)


def each(answers, what, n, length, dtype):
    return [a[f"{what} {n} {length} {dtype}"] for a in answers[:n]]


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("move", ["all_gather", "broadcast", "all_to_all"])
def test_moving_is_exact(answers, n, length, move):
    for dtype in ("float64", "int64"):
        ours = each(answers, f"{move} ours", n, length, dtype)
        theirs = each(answers, f"{move} torch", n, length, dtype)
        assert all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("length", LENGTHS)
def test_sums(answers, n, length):
    pairs = (("all_reduce", "all_reduce"), ("tree", "all_reduce"), ("reduce_scatter",) * 2)
    for ours, theirs in pairs:
        whole = (each(answers, f"{ours} ours", n, length, "int64"),)
        whole += (each(answers, f"{theirs} torch", n, length, "int64"),)
        assert all(map(torch.equal, *whole))
        got = each(answers, f"{ours} ours", n, length, "float64")
        want = each(answers, f"{theirs} torch", n, length, "float64")
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-15, atol=4e-15)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("length", LENGTHS)
def test_all_get_the_same_bits_in_the_rings_order(answers, n, length):
    ours = each(answers, "all_reduce ours", n, length, "float64")
    order = each(answers, "all_reduce order", n, length, "float64")
    assert all(torch.equal(x, order[0]) for x in ours)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("length", LENGTHS)
def test_bytes_are_the_formulas(answers, n, length):
    padded = 8 * (length + -length % n)
    for dtype in ("float64", "int64"):
        sent = each(answers, "sent", n, length, dtype)
        assert [int(x) for x in sent] == [wire_bytes(n, padded)] * n


def test_sending_first_waits_for_ever():
    for timeout in (4.0, 12.0, 36.0):  # on a machine that stops, one may be silent
        with pytest.raises(UserError) as caught:
            launch(send_first, 3, 1000, timeout=timeout)
        if str(caught.value).startswith("all 3"):
            break
    assert str(caught.value).startswith("all 3 processes waited for one another")


@given(n=st.integers(2, 512), alpha=st.floats(1e-6, 1e-2), beta=st.floats(1e-11, 1e-7))
def test_ring_and_tree_take_the_same_time_at_the_crossover(n, alpha, beta):
    model = AlphaBeta(alpha, beta)
    m = model.crossover(n)
    assert m >= 0
    assert model.ring(n, m) == pytest.approx(model.tree(n, m))
    assert model.ring(n, 2 * m + 1) < model.tree(n, 2 * m + 1)


@given(alpha=st.floats(1e-6, 1e-3), beta=st.floats(1e-11, 1e-7))
def test_the_fit_recovers_a_line(alpha, beta):
    m = np.array([8, 800, 80_000, 8_000_000])
    model = AlphaBeta.fit(m, alpha + beta * m)
    assert model.alpha == pytest.approx(alpha, rel=1e-6)
    assert model.beta == pytest.approx(beta, rel=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Ring(None, rank=0, size=1).all_to_all(torch.ones(2, 1)), "rows must have one per"),
        (lambda: AlphaBeta.fit(np.ones(1), np.ones(1)), "n_bytes must be at least 2 sizes, got 1"),
        (lambda: AlphaBeta(1.0, 1.0).crossover(1), "size must be at least 2, got 1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
