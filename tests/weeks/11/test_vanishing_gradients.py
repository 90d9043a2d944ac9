import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from week11.lstm_gru import LSTM
from week11.vanishing_gradients import (
    LSTM1997,
    adding_problem,
    influence,
    lstm_as_step,
    scaled_orthogonal,
)


@given(width=st.integers(1, 5), steps=st.integers(1, 30), seed=st.integers(0, 99))
def test_influence_is_the_norm_of_autograds_whole_jacobian(width, steps, seed):
    generator = torch.Generator().manual_seed(seed)
    U = torch.randn(width, width, generator=generator, dtype=torch.float64)
    b = torch.randn(width, generator=generator, dtype=torch.float64)
    start = torch.randn(1, width, generator=generator, dtype=torch.float64)

    def step(h):
        return torch.tanh(h @ U.T + b)

    def end(h):
        for _ in range(steps):
            h = step(h)
        return h

    whole = torch.autograd.functional.jacobian(end, start).reshape(width, width)
    expected = whole.norm() / width**0.5
    torch.testing.assert_close(influence(step, start, steps)[-1], expected, rtol=1e-8, atol=1e-300)


def test_a_tiny_influence_is_not_rounded_to_zero():
    shrink = influence(lambda h: 1e-10 * h, torch.zeros(1, 2, dtype=torch.float64), 30)
    torch.testing.assert_close(shrink[-1].log10(), torch.tensor(-300.0).double())


@given(width=st.integers(1, 8), scale=st.floats(0.1, 2))
def test_scaled_orthogonal(width, scale):
    U = scaled_orthogonal(width, scale, torch.Generator().manual_seed(0))
    torch.testing.assert_close(U @ U.T, scale**2 * torch.eye(width).double())


@pytest.mark.parametrize("kind", [LSTM, LSTM1997])
def test_lstm_as_step_is_the_network(kind):
    torch.manual_seed(0)
    lstm, x, state = kind(2, 3), torch.randn(1, 2), torch.zeros(1, 6)
    for _ in range(4):
        state = lstm_as_step(lstm, x)(state)
    _, (h, c) = lstm(x.expand(1, 4, 2))
    torch.testing.assert_close(state, torch.cat([h[0], c[0]], dim=-1))


@given(length=st.integers(2, 9))
def test_adding_problem(length):
    x, y = adding_problem(50, length, torch.Generator().manual_seed(0))
    assert x.shape == (50, length, 2)
    marks = x[..., 1]
    assert (marks[:, : length // 2].sum(1) == 1).all()
    assert (marks[:, length // 2 :].sum(1) == 1).all()
    assert marks[:, 0].any()
    assert marks[:, -1].any()
    torch.testing.assert_close(y, (x[..., 0] * marks).sum(1))


def test_always_answering_one_costs_a_sixth():
    _, y = adding_problem(100_000, 10, torch.Generator().manual_seed(0))
    assert abs((y - 1).square().mean() - 1 / 6) < 0.003  # five standard errors


def test_bad_input():
    with pytest.raises(ValueError, match="length must be at least 2, got 1"):
        adding_problem(1, 1, torch.Generator())
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        influence(lambda h: h, torch.zeros(1, 1), 0)
