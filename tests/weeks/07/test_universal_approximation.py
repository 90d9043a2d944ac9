"""Week 07: exact ReLU networks against their theorems, and trained stacks against torch."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from week07.evidence.universal_approximation import train_stack
from week07.universal_approximation import (
    ReLUNetwork,
    count_pieces,
    interpolator,
    sawtooth,
    shape_of,
    square,
    tent,
)

X = np.linspace(0, 1, 4097)


def random_network(sizes, seed):
    rng = np.random.default_rng(seed)
    pairs = list(pairwise(sizes))
    return ReLUNetwork(
        [rng.normal(size=(m, n)) for n, m in pairs], [rng.normal(size=m) for _, m in pairs]
    )


@given(st.lists(st.integers(1, 5), min_size=0, max_size=3), st.integers(0, 10**6))
def test_forward_equals_torch(hidden, seed):
    net = random_network([1, *hidden, 1], seed)
    layers = []
    for W, b in zip(net.weights, net.biases, strict=True):
        linear = nn.Linear(W.shape[1], W.shape[0], dtype=torch.float64)
        linear.weight.data, linear.bias.data = torch.tensor(W), torch.tensor(b)
        layers += [linear, nn.ReLU()]
    torch_net = nn.Sequential(*layers[:-1])
    expected = torch_net(torch.tensor(X)[:, None])[:, 0].detach().numpy()
    np.testing.assert_allclose(net(X), expected, atol=1e-10)
    assert net.n_parameters == sum(p.numel() for p in torch_net.parameters())
    assert net.n_units == sum(hidden)


@given(st.integers(1, 60), st.floats(-5, 5), st.floats(0.1, 4), st.integers(0, 10**6))
def test_interpolator_equals_numpys(n, low, length, seed):
    rng = np.random.default_rng(seed)
    a, b, c = rng.normal(size=3)

    def f(x):
        return a * np.sin(3 * x) + b * x * x + c

    knots = np.linspace(low, low + length, n + 1)
    x = np.linspace(low, low + length, 301)
    net = interpolator(f, n, low, low + length)
    np.testing.assert_allclose(net(x), np.interp(x, knots, f(knots)), atol=1e-8)
    assert net.n_units == n


@pytest.mark.parametrize("n", [4, 16, 64, 256])
def test_error_within_the_theorems_bound_and_attained_for_a_parabola(n):
    error = np.abs(interpolator(np.square, n)(X) - X**2).max()
    assert error <= 2 / (8 * n**2) * (1 + 1e-9)
    assert error == pytest.approx(1 / (4 * n**2), rel=1e-6)


@pytest.mark.parametrize("k", range(1, 9))
def test_sawtooth_is_the_tent_folded(k):
    expected = X
    for _ in range(k):
        expected = tent(expected)
    np.testing.assert_allclose(sawtooth(k)(X), expected, atol=1e-11)
    assert sawtooth(k).n_units == 2 * k


@pytest.mark.parametrize("m", range(1, 9))
def test_square_is_exact_at_its_knots(m):
    knots = np.linspace(0, 1, 2**m + 1)
    np.testing.assert_allclose(square(m)(knots), knots**2, atol=1e-12)
    assert square(m).n_units == 3 * m


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(0, 10**6))
def test_pieces_equal_a_fine_grids(hidden, seed):
    net = random_network([1, *hidden, 1], seed)
    bound = np.prod([h + 1 for h in hidden])
    pieces = count_pieces(net, -3.0, 3.0)
    assert 1 <= pieces <= bound
    x = np.linspace(-3, 3, 60001)
    bent = np.abs(np.diff(net(x), 2)) > 1e-7 * (1 + np.abs(net(x)).max())
    runs = int(bent[0]) + int(np.sum(bent[1:] & ~bent[:-1]))
    assert runs <= pieces - 1  # bends closer than the grid, or tiny ones, it does not see


def test_pieces_of_one_layer_by_hand():
    net = ReLUNetwork(
        [np.ones((3, 1)), np.ones((1, 3))], [np.array([-0.2, -0.5, -2.0]), np.zeros(1)]
    )
    assert count_pieces(net) == 3  # bends at 0.2 and 0.5; the one at 2 lies outside
    assert count_pieces(net, 0.0, 3.0) == 4


@given(st.lists(st.integers(1, 6), min_size=0, max_size=4), st.integers(0, 10**6))
def test_without_relu_all_is_one_line(hidden, seed):
    net = random_network([1, *hidden, 1], seed)
    line = net.linearized()
    h = X[None]
    for W, b in zip(net.weights, net.biases, strict=True):
        h = W @ h + b[:, None]
    scale = 1 + np.abs(h).max()
    np.testing.assert_allclose(line(X) / scale, h[0] / scale, atol=1e-12)
    assert line.n_units == 0
    assert count_pieces(line) == 1


@given(st.integers(1, 6), st.integers(50, 2000))
def test_shapes_have_about_as_many_parameters(n_hidden, n_parameters):
    sizes = shape_of(n_hidden, n_parameters)
    assert sizes[0] == sizes[-1] == 1
    assert len(sizes) == n_hidden + 2
    count = random_network(sizes, 0).n_parameters
    w = sizes[1]
    step = 2 * n_hidden * w + 5  # what one more unit a layer adds, at most
    assert abs(count - n_parameters) <= step


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interpolator(np.square, 0), "n must be at least 1, got 0"),
        (lambda: interpolator(np.square, 3, 1.0, 1.0), "low must be less than high"),
        (lambda: square(2)(np.ones((3, 1))), r"x must be floats of shape \(n\), got float64"),
        (lambda: sawtooth(0), "k must be at least 1, got 0"),
        (lambda: square(0), "m must be at least 1, got 0"),
        (lambda: count_pieces(sawtooth(1), 1.0, 0.0), "low must be less than high"),
        (lambda: shape_of(0, 100), "n_hidden must be at least 1"),
        (lambda: shape_of(3, 5), "n_parameters enough for width 1"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_network_in_a_stack_trains_as_alone_in_torch():
    y, sizes, lr, steps = tent(np.linspace(0, 1, 20)), [1, 5, 1], 0.05, 6
    ours, start = train_stack(y, sizes, [0.01, lr], [3, 4], steps)
    g = torch.Generator().manual_seed(4)
    W1 = torch.randn(1, 5, generator=g) * np.sqrt(2)
    b1 = (torch.rand(1, 5, generator=g) * 2 - 1) * W1.abs()
    W2, b2 = torch.randn(5, 1, generator=g) * np.sqrt(2 / 5), torch.rand(1, 1, generator=g) * 2 - 1
    params = [nn.Parameter(p) for p in (W1, b1, W2, 0.1 * b2)]
    adam = torch.optim.Adam(params, lr=lr, betas=(0.9, 0.99))
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    x, target = torch.linspace(-1, 1, 20)[:, None], torch.tensor(y, dtype=torch.float32)
    errors = []
    for _ in range(steps + 1):
        h = (x @ params[0] + params[1]).relu() @ params[2] + params[3]
        error = (h[:, 0] - target).square().mean()
        errors.append(error.item() ** 0.5)
        adam.zero_grad()
        error.backward()
        adam.step()
        decay.step()
    np.testing.assert_allclose([start[1], ours[1]], [errors[0], errors[-1]], rtol=1e-4)
