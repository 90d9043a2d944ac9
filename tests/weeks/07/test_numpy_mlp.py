"""The network in NumPy against torch, its symmetries, and its starts."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from week07.numpy_mlp import (
    MLP,
    accuracy,
    forward,
    initialize,
    log_softmax,
    loss_and_gradients,
    predict_proba,
    train,
)

sizes, seeds = st.integers(1, 7), st.integers(0, 999)


def draw(seed, n=20, pixels=6, hidden=5, classes=3):
    rng = np.random.default_rng(seed)
    net = initialize(pixels, hidden, classes, rng, "float64")
    net.b1 += 0.1 * rng.normal(size=hidden)
    return net, rng.normal(size=(n, pixels)), rng.integers(classes, size=n)


def in_torch(net):
    return [torch.tensor(a, requires_grad=True) for a in net.arrays()]


def torch_loss(parameters, X, y):
    W1, b1, W2, b2 = parameters
    Z = torch.relu(torch.from_numpy(X) @ W1 + b1) @ W2 + b2
    return F.cross_entropy(Z, torch.from_numpy(y))


@given(n=sizes, pixels=sizes, hidden=sizes, classes=sizes, seed=seeds)
def test_loss_and_gradients_equal_torch(n, pixels, hidden, classes, seed):
    net, X, y = draw(seed, n, pixels, hidden, classes)
    loss, gradients = loss_and_gradients(net, X, y)
    leaves = in_torch(net)
    expected = torch_loss(leaves, X, y)
    assert loss == pytest.approx(expected.item(), abs=1e-12)
    for ours, theirs in zip(gradients.arrays(), torch.autograd.grad(expected, leaves), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("batch_size", [20, 6])  # 6 does not divide 20
def test_steps_equal_torch(momentum, batch_size):
    net, X, y = draw(1)
    leaves = in_torch(net)
    options = {"epochs": 3, "batch_size": batch_size, "lr": 0.2, "momentum": momentum}
    losses = train(net, X, y, **options, rng=np.random.default_rng(5))
    sgd = torch.optim.SGD(leaves, lr=0.2, momentum=momentum)
    decay = torch.optim.lr_scheduler.LinearLR(sgd, 1.0, 0.0, total_iters=len(losses))
    rng, reference = np.random.default_rng(5), []
    for _ in range(3):
        order = rng.permutation(len(X))
        for start in range(0, len(X), batch_size):
            rows = order[start : start + batch_size]
            loss = torch_loss(leaves, X[rows], y[rows])
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            decay.step()
            reference.append(loss.item())
    np.testing.assert_allclose(losses, reference, atol=1e-12)
    for ours, theirs in zip(net.arrays(), leaves, strict=True):
        np.testing.assert_allclose(ours, theirs.detach(), atol=1e-12)


def test_gradient_of_a_mean_ignores_repeated_rows():
    net, X, y = draw(2)
    once = loss_and_gradients(net, X, y)[1]
    twice = loss_and_gradients(net, np.vstack([X, X]), np.append(y, y))[1]
    for a, b in zip(once.arrays(), twice.arrays(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-14)


@given(seed=seeds)
def test_permuting_hidden_units_changes_nothing(seed):
    net, X, _ = draw(seed)
    p = np.random.default_rng(seed).permutation(5)
    other = MLP(net.W1[:, p], net.b1[p], net.W2[p], net.b2)
    np.testing.assert_allclose(forward(net, X)[1], forward(other, X)[1], atol=1e-12)


def test_lists_are_arrays():
    net, X, y = draw(1)
    assert loss_and_gradients(net, X.tolist(), y.tolist())[0] == loss_and_gradients(net, X, y)[0]
    assert accuracy(net, X, y) == np.mean(predict_proba(net, X.tolist()).argmax(axis=1) == y)


def test_equal_units_stay_equal():
    _, X, y = draw(3)
    net = MLP(np.full((6, 5), 0.1), np.zeros(5), np.full((5, 3), 0.1), np.zeros(3))
    train(net, X, y, epochs=20, batch_size=5, rng=np.random.default_rng(0))
    assert np.ptp(net.W1, axis=1).max() < 1e-12
    assert np.ptp(net.W2, axis=0).max() < 1e-12
    assert np.ptp(net.W2, axis=1).max() > 0.1  # the classes do differ


def test_zero_weights_learn_the_frequencies_only():
    _, X, _ = draw(4, n=40)
    y = np.repeat([0, 1, 2], [24, 12, 4])
    net = MLP(np.zeros((6, 5)), np.zeros(5), np.zeros((5, 3)), np.zeros(3))
    train(net, X, y, epochs=400, batch_size=40, lr=0.5, rng=np.random.default_rng(0))
    assert not net.W1.any()
    assert not net.W2.any()
    np.testing.assert_allclose(predict_proba(net, X[:1])[0], [0.6, 0.3, 0.1], atol=1e-3)


def test_initial_weights_keep_the_variance():
    rng = np.random.default_rng(0)
    net, X = initialize(400, 300, 200, rng), rng.normal(size=(500, 400)).astype("float32")
    H, Z = forward(net, X)
    assert (H**2).mean() == pytest.approx(1.0, rel=0.05)  # He: half of variance 2 survives
    assert Z.var() == pytest.approx(1.0, rel=0.1)
    assert net.W1.dtype == Z.dtype == np.float32


def test_float32_stays_float32_and_copy_is_independent():
    net = initialize(4, 3, 2, np.random.default_rng(0))
    kept = net.copy()
    X, y = np.ones((4, 4), np.float32), np.array([0, 1, 0, 1])
    train(net, X, y, epochs=1, batch_size=2, rng=np.random.default_rng(0))
    assert all(a.dtype == np.float32 for a in net.arrays())
    assert not np.array_equal(net.W1, kept.W1) or not np.array_equal(net.b2, kept.b2)


def test_log_softmax_of_huge_scores_is_finite():
    out = log_softmax(np.array([[1e4, 0.0], [-1e4, 1e4]]))
    np.testing.assert_array_equal(out, [[0, -1e4], [-2e4, 0]])


RNG = np.random.default_rng(0)
NET, X, Y = draw(0)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: forward(NET, np.ones((2, 7))), "X must have 6 columns, as W1 has rows, got 7"),
        (lambda: loss_and_gradients(NET, X[:2], np.array([0, 3])), "between 0 and 2, got 0 and 3"),
        (lambda: loss_and_gradients(NET, X[:0], Y[:0]), "at least one row"),
        *[
            (lambda f=f, y=y: f(NET, X, y), r"y must be integers of shape \(n = 20\), got int64 of")
            for f in (
                loss_and_gradients,
                accuracy,
                lambda *a: train(*a, epochs=1, rng=np.random.default_rng(0)),
            )
            for y in (Y[:, None], Y[:1], Y[:5])
        ],
        (lambda: train(NET, X, Y, epochs=0, rng=RNG), "epochs must be at least 1, got 0"),
        (lambda: train(NET, X, Y, epochs=1, momentum=1.0, rng=RNG), "lr must be > 0 and momentum"),
        (lambda: initialize(3, 0, 2, RNG), "hidden must be at least 1, got 0"),
    ],
)
def test_wrong_input_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
