"""Layers at random sizes against torch.autograd, worked examples, and the tool to copy."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from enforce import plain
from hypothesis import given
from hypothesis import strategies as st

from week07.backprop_from_scratch import (
    Graph,
    chain,
    cross_entropy,
    gradient_check,
    residual,
    squared_error,
)
from week07.evidence.backprop_from_scratch import OverwritingGraph, both
from week07.layers import Add, Conv1d, Embedding, LayerNorm, Linear, Multiply, ReLU, Sigmoid, Tanh

PLAIN = plain("07", "layers")
sizes, seeds = st.integers(1, 6), st.integers(0, 999)


def agree(layer, *inputs):
    ours, theirs = both(layer, inputs, np.random.default_rng(0))
    np.testing.assert_allclose(ours, theirs, atol=1e-10)


def make(d, k, rng):
    return Linear(rng.normal(size=(d, k)), rng.normal(size=k))


def with_kink(rng, batch, d):
    x = 300 * rng.normal(size=(*batch, d, 1))
    x[..., :1, :] = 0.0
    return x


def convolution(rng, batch, d, k):
    layer = Conv1d(rng.normal(size=(k, 2, d)), rng.normal(size=k))
    return layer, rng.normal(size=(len(batch) + 1, 2, d + k))


LAYERS = {
    "linear": lambda rng, b, d, k: (make(d, k, rng), rng.normal(size=(*b, d))),
    "layer norm": lambda rng, b, d, k: (
        LayerNorm(rng.normal(size=d + 1), rng.normal(size=d + 1), 0.1),
        rng.normal(size=(*b, d + 1)),
    ),
    "embedding": lambda rng, b, d, k: (Embedding(rng.normal(size=(d, k))), rng.integers(d, size=b)),
    "convolution": convolution,
    "sigmoid": lambda rng, b, d, k: (Sigmoid(), with_kink(rng, b, d)),
    "tanh": lambda rng, b, d, k: (Tanh(), with_kink(rng, b, d)),
    "ReLU": lambda rng, b, d, k: (ReLU(), with_kink(rng, b, d)),
}


@pytest.mark.parametrize("name", LAYERS)
@given(batch=st.lists(st.integers(0, 3), max_size=2), d=sizes, k=sizes, seed=seeds)
def test_layer_equals_torch(name, batch, d, k, seed):
    agree(*LAYERS[name](np.random.default_rng(seed), tuple(batch), d, k))


def test_sigmoid_keeps_its_digits_where_it_saturates():
    y, cache = Sigmoid().forward(np.array([40.0, -40.0, 800.0]))
    slope = Sigmoid().backward(np.ones(3), cache)
    np.testing.assert_allclose(slope[:2], np.exp(-40.0), rtol=1e-12)
    assert slope[2] == 0.0
    assert np.isfinite(y).all()


def test_what_is_off_passes_nothing_back_not_even_an_infinity():
    x, dy = np.array([-1.0, 0.0, 2.0, np.nan]), np.full(4, np.inf)
    leaf = torch.tensor(x, requires_grad=True)
    torch.relu(leaf).backward(torch.tensor(dy))
    np.testing.assert_array_equal(ReLU().backward(dy, ReLU().forward(x)[1]), leaf.grad)


def test_embedding_worked_example():
    table = Embedding(np.zeros((3, 1)))
    ids = np.array([2, 0, 2])
    table.backward(np.array([[1.0], [10.0], [100.0]]), table.forward(ids)[1])
    np.testing.assert_array_equal(table.table.grad, [[10.0], [0.0], [101.0]])


@given(seed=seeds)
def test_layer_norm_pushes_neither_along_ones_nor_along_itself(seed):
    x, dy = np.random.default_rng(seed).normal(size=(2, 3, 6))
    layer = LayerNorm(np.ones(6), np.zeros(6), 1e-12)
    y, cache = layer.forward(x)
    dx = layer.backward(dy, cache)
    np.testing.assert_allclose(dx.sum(axis=1), 0, atol=1e-10)
    np.testing.assert_allclose((dx * y).sum(axis=1), 0, atol=1e-8)


def test_conv1d_worked_example():
    layer = Conv1d(np.array([[[1.0, 0.0, -1.0]]]), np.zeros(1))
    y, cache = layer.forward(np.array([[[1.0, 2.0, 4.0, 8.0]]]))
    np.testing.assert_array_equal(y, [[[-3.0, -6.0]]])
    dx = layer.backward(np.array([[[1.0, 10.0]]]), cache)
    np.testing.assert_array_equal(dx, [[[1.0, 10.0, -1.0, -10.0]]])
    np.testing.assert_array_equal(layer.W.grad, [[[21.0, 42.0, 84.0]]])


@given(n=sizes, k=sizes, scale=st.sampled_from([0.1, 3.0, 1e4]), seed=seeds)
def test_losses_equal_torch(n, k, scale, seed):
    rng = np.random.default_rng(seed)
    Z, y, target = scale * rng.normal(size=(n, k)), rng.integers(k, size=n), rng.normal(size=(n, k))
    leaf = torch.tensor(Z, requires_grad=True)
    for (loss, gradient), theirs in (
        (cross_entropy(Z, y), F.cross_entropy(leaf, torch.from_numpy(y))),
        (squared_error(Z, target), F.mse_loss(leaf, torch.from_numpy(target))),
    ):
        assert loss == pytest.approx(theirs.item(), rel=1e-10, abs=1e-10)
        expected = torch.autograd.grad(theirs, leaf)[0]
        np.testing.assert_allclose(gradient, expected, rtol=1e-10, atol=1e-12)


def test_value_read_twice_gets_a_sum():
    x = np.array([3.0, -1.0])
    square = Graph([(Multiply(), (0, 0))])  # x ⊙ x has derivative 2x
    np.testing.assert_array_equal(square.backward(np.ones(2), square.forward(x)[1]), 2 * x)
    nodes = [(Add(), (0, 0)), (Add(), (1, 1))]  # b = a + a, c = b + b is 4a
    for kind, slope in ((Graph, 4.0), (OverwritingGraph, 1.0)):
        four = kind(nodes)
        np.testing.assert_array_equal(four.backward(np.ones(2), four.forward(x)[1]), slope)


def test_same_parameter_in_two_layers():
    rng = np.random.default_rng(0)
    one, two = make(4, 4, rng), make(4, 4, rng)
    two.W = one.W
    two.parameters = (two.W, two.b)
    net = chain(one, Tanh(), two)
    assert len(net.parameters) == 3
    agree(net, rng.normal(size=(3, 4)))


def test_gradients_add_over_batches():
    rng = np.random.default_rng(0)
    layer, x, dy = make(3, 2, rng), rng.normal(size=(8, 3)), rng.normal(size=(8, 2))
    layer.backward(dy, layer.forward(x)[1])
    whole = layer.W.grad.copy()
    layer.W.grad[...] = 0
    for rows in (slice(0, 3), slice(3, 8)):
        layer.backward(dy[rows], layer.forward(x[rows])[1])
    np.testing.assert_allclose(layer.W.grad, whole, atol=1e-14)


def test_backward_leaves_the_gradient_from_above_alone():
    rng = np.random.default_rng(0)
    net = residual(residual(chain(make(3, 3, rng), ReLU())))
    dy = rng.normal(size=(2, 3))
    kept = dy.copy()
    net.backward(dy, net.forward(rng.normal(size=(2, 3)))[1])
    np.testing.assert_array_equal(dy, kept)


def test_unread_value_gets_nothing():
    rng = np.random.default_rng(0)
    unread = make(3, 3, rng)
    agree(Graph([(unread, (0,)), (Tanh(), (0,))]), rng.normal(size=(2, 3)))
    assert not unread.W.grad.any()


def test_gradient_check_finds_a_bug_and_passes_what_is_right():
    rng = np.random.default_rng(0)
    layer, x, target = make(3, 2, rng), rng.normal(size=(4, 3)), rng.normal(size=(4, 2))

    def loss():
        return squared_error(layer.forward(x)[0], target)[0]

    y, cache = layer.forward(x)
    dx = layer.backward(squared_error(y, target)[1], cache)
    pairs = [(layer.W.value, layer.W.grad), (layer.b.value, layer.b.grad), (x, dx)]
    kept = layer.W.value.copy()
    assert gradient_check(loss, pairs) < 1e-8
    np.testing.assert_array_equal(layer.W.value, kept)  # put back exactly
    assert gradient_check(loss, [(layer.W.value, 2 * layer.W.grad)]) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: Linear(np.ones((3, 2)), np.ones(2)).forward(np.ones((2, 4))), "3 features, got 4"),
        (lambda: Embedding(np.ones((5, 2))).forward(np.array([0, 5])), "ids must be between 0 and"),
        (
            lambda: Conv1d(np.ones((1, 1, 3)), np.ones(1)).forward(np.ones((1, 1, 2))),
            "at least as long as the kernel, 3, got 1 and 2",
        ),
        *[
            (
                lambda layer=layer, x=x, dy=dy: layer.backward(dy, layer.forward(*x)[1]),
                "dy must have",
            )
            for layer, x, dy in (
                (make(3, 2, np.random.default_rng(0)), [np.ones((4, 3))], np.ones((4, 1))),
                (Embedding(np.ones((3, 2))), [np.array([0, 1])], np.ones((2, 1))),
                (LayerNorm(np.ones(3), np.ones(3)), [np.ones((2, 3))], np.ones((2, 1))),
                (Conv1d(np.ones((2, 1, 2)), np.ones(2)), [np.ones((1, 1, 3))], np.ones((1, 1, 2))),
                (Multiply(), [np.ones(3)] * 2, np.ones((3, 1))),
                *[(kind(), [np.ones((3, 1))], np.ones(3)) for kind in (ReLU, Tanh, Sigmoid)],
            )
        ],
        *[
            (lambda kind=kind: kind().forward(np.ones((3, 1)), np.ones(3)), "x and y must have one")
            for kind in (PLAIN.Add, PLAIN.Multiply)
        ],
        (lambda: Linear(np.ones((3, 2)), np.ones(1)), r"b must be floats of shape \(k = 2\)"),
        (lambda: LayerNorm(np.ones(3), np.ones(1)), r"bias must be floats of shape \(d = 3\)"),
        (lambda: LayerNorm(np.ones(1), np.ones(1)).forward(np.ones((2, 3))), "1 features, got 3"),
        (lambda: squared_error(np.ones((3, 1)), np.ones(3)), "target must be floats of shape"),
        (lambda: cross_entropy(np.ones((2, 3)), np.ones((2, 1), int)), r"y must be .* \(n = 2\)"),
        (
            lambda: gradient_check(lambda: 0.0, [(np.ones((3, 1)), np.ones(3))]),
            r"its array's shape \(3, 1\), got \(3,\)",
        ),
        (lambda: Graph([(Tanh(), (1,))]), "node 1 must read values 0 to 0, got \\(1,\\)"),
        (lambda: Graph([]), "at least one layer"),
        (lambda: cross_entropy(np.ones((1, 2)), np.array([2])), "y must hold classes from 0 to 1"),
        (lambda: squared_error(np.ones((0, 2)), np.ones((0, 2))), "at least one entry"),
        (lambda: gradient_check(lambda: 0.0, [], step=0.0), "step must be positive"),
        (
            lambda: gradient_check(lambda: 0.0, [(np.ones(1, np.float32),) * 2]),
            "must be float64 to leave digits, got float32",
        ),
    ],
)
def test_wrong_input_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
