"""Every layer and random graphs of them against torch.autograd and finite differences."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
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
from week07.evidence.backprop_from_scratch import OverwritingGraph, both_gradients, random_network
from week07.layers import Add, Conv1d, Embedding, LayerNorm, Linear, Multiply, ReLU, Sigmoid, Tanh

sizes, seeds = st.integers(1, 6), st.integers(0, 999)


def agree(layer, *inputs, seed=0, atol=1e-10):
    y, expected, ours, theirs = both_gradients(layer, inputs, np.random.default_rng(seed))
    np.testing.assert_allclose(y, expected, atol=atol)
    np.testing.assert_allclose(ours, theirs, atol=atol)


def make(d, k, rng):
    return Linear(rng.normal(size=(d, k)), rng.normal(size=k))


@given(batch=st.lists(st.integers(0, 3), max_size=2), d=sizes, k=sizes, seed=seeds)
def test_linear(batch, d, k, seed):
    rng = np.random.default_rng(seed)
    agree(make(d, k, rng), rng.normal(size=(*batch, d)), seed=seed)


@pytest.mark.parametrize("layer", [Sigmoid(), Tanh(), ReLU()], ids=["sigmoid", "tanh", "relu"])
@given(scale=st.sampled_from([0.1, 3.0, 300.0]), seed=seeds)
def test_activation(layer, scale, seed):
    x = scale * np.random.default_rng(seed).normal(size=(3, 4))
    x[0, 0] = 0.0  # the kink
    agree(layer, x, seed=seed)


def test_sigmoid_keeps_its_digits_where_it_saturates():
    y, cache = Sigmoid().forward(np.array([40.0, -40.0, 800.0]))
    slope = Sigmoid().backward(np.ones(3), cache)
    np.testing.assert_allclose(slope[:2], np.exp(-40.0), rtol=1e-12)
    assert slope[2] == 0.0
    assert np.isfinite(y).all()


@given(n=sizes, d=st.integers(2, 6), seed=seeds)
def test_layer_norm(n, d, seed):
    rng = np.random.default_rng(seed)
    layer = LayerNorm(rng.normal(size=d), rng.normal(size=d), 0.1)
    agree(layer, rng.normal(size=(n, 2, d)), seed=seed)


@given(n=st.integers(0, 8), vocab=sizes, d=sizes, seed=seeds)
def test_embedding_adds_up_repeated_indices(n, vocab, d, seed):
    rng = np.random.default_rng(seed)
    agree(Embedding(rng.normal(size=(vocab, d))), rng.integers(vocab, size=n), seed=seed)


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


@given(
    n=sizes, channels=sizes, out=sizes, size=st.integers(1, 4), extra=st.integers(0, 5), seed=seeds
)
def test_conv1d(n, channels, out, size, extra, seed):
    rng = np.random.default_rng(seed)
    layer = Conv1d(rng.normal(size=(out, channels, size)), rng.normal(size=out))
    agree(layer, rng.normal(size=(n, channels, size + extra)), seed=seed)


def test_conv1d_worked_example():
    layer = Conv1d(np.array([[[1.0, 0.0, -1.0]]]), np.zeros(1))
    y, cache = layer.forward(np.array([[[1.0, 2.0, 4.0, 8.0]]]))
    np.testing.assert_array_equal(y, [[[-3.0, -6.0]]])
    dx = layer.backward(np.array([[[1.0, 10.0]]]), cache)
    np.testing.assert_array_equal(dx, [[[1.0, 10.0, -1.0, -10.0]]])
    np.testing.assert_array_equal(layer.W.grad, [[[21.0, 42.0, 84.0]]])


@given(n=sizes, k=sizes, scale=st.sampled_from([0.1, 3.0, 1e4]), seed=seeds)
def test_cross_entropy(n, k, scale, seed):
    rng = np.random.default_rng(seed)
    Z, y = scale * rng.normal(size=(n, k)), rng.integers(k, size=n)
    leaf = torch.tensor(Z, requires_grad=True)
    expected = F.cross_entropy(leaf, torch.from_numpy(y))
    loss, gradient = cross_entropy(Z, y)
    assert loss == pytest.approx(expected.item(), rel=1e-10, abs=1e-10)
    np.testing.assert_allclose(gradient, torch.autograd.grad(expected, leaf)[0], atol=1e-12)


@given(n=sizes, k=sizes, seed=seeds)
def test_squared_error(n, k, seed):
    Y, T = np.random.default_rng(seed).normal(size=(2, n, k))
    leaf = torch.tensor(Y, requires_grad=True)
    expected = F.mse_loss(leaf, torch.from_numpy(T))
    loss, gradient = squared_error(Y, T)
    assert loss == pytest.approx(expected.item())
    np.testing.assert_allclose(gradient, torch.autograd.grad(expected, leaf)[0], atol=1e-12)


@given(depth=st.integers(1, 10), seed=seeds)
def test_random_graphs(depth, seed):
    rng = np.random.default_rng(seed)
    net = random_network(rng, depth=depth)
    x = rng.normal(size=(2, 5))
    y, expected, ours, theirs = both_gradients(net, (x,), rng)
    np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(ours, theirs, atol=1e-10 * (1 + np.abs(theirs).max()))


def test_value_read_twice_gets_a_sum():
    # x ⊙ x has derivative 2x; b = a + a, c = b + b is 4a
    square = Graph([(Multiply(), (0, 0))])
    x = np.array([3.0, -1.0])
    _, cache = square.forward(x)
    np.testing.assert_array_equal(square.backward(np.ones(2), cache), 2 * x)
    four = Graph([(Add(), (0, 0)), (Add(), (1, 1))])
    _, cache = four.forward(x)
    np.testing.assert_array_equal(four.backward(np.ones(2), cache), [4.0, 4.0])
    broken = OverwritingGraph([(Add(), (0, 0)), (Add(), (1, 1))])
    np.testing.assert_array_equal(broken.backward(np.ones(2), cache), [1.0, 1.0])


def test_shared_layer_collects_from_every_use():
    rng = np.random.default_rng(0)
    shared = make(4, 4, rng)
    net = chain(shared, Tanh(), shared, Tanh(), shared)
    assert len(net.parameters) == 2
    agree(net, rng.normal(size=(3, 4)))


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
    net = Graph([(unread, (0,)), (Tanh(), (0,))])
    agree(net, rng.normal(size=(2, 3)))
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


def test_gradient_check_at_a_kink():
    x = np.array([0.0])
    layer = ReLU()
    gradient = layer.backward(np.ones(1), layer.forward(x)[1])
    assert gradient[0] == 0.0
    assert gradient_check(lambda: layer.forward(x)[0].item(), [(x, gradient)]) == 1.0


def test_wrong_input_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="x must have 3 features, got 4"):
        make(3, 2, rng).forward(np.ones((2, 4)))
    with pytest.raises(ValueError, match="ids must be between 0 and 4, got 0 to 5"):
        Embedding(np.ones((5, 2))).forward(np.array([0, 5]))
    with pytest.raises(ValueError, match="at least as long as the kernel, 3, got 2"):
        Conv1d(np.ones((1, 1, 3)), np.ones(1)).forward(np.ones((1, 1, 2)))
    with pytest.raises(ValueError, match="node 1 must read values 0 to 0, got \\(1,\\)"):
        Graph([(Tanh(), (1,))])
    with pytest.raises(ValueError, match="at least one layer"):
        Graph([])
    with pytest.raises(ValueError, match="y must hold classes from 0 to 1"):
        cross_entropy(np.ones((1, 2)), np.array([2]))
    with pytest.raises(ValueError, match="at least one entry"):
        squared_error(np.ones((0, 2)), np.ones((0, 2)))
    with pytest.raises(ValueError, match="step must be positive"):
        gradient_check(lambda: 0.0, [], step=0.0)
    with pytest.raises(ValueError, match="must be float64 to leave digits, got float32"):
        gradient_check(lambda: 0.0, [(np.ones(1, np.float32), np.ones(1, np.float32))])
    with pytest.raises(TypeError):
        Add().forward(np.ones(2), np.ones(3))
