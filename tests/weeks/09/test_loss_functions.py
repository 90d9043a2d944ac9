"""Week 09: losses and gradients against torch's, and what padding must not do."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from week09.loss_functions import (
    IGNORE,
    absolute,
    cross_entropy,
    hinge,
    huber,
    info_nce,
    kl_divergence,
    logistic,
    squared,
)

seeds = st.integers(0, 2**32 - 1)


def same(ours, at, theirs):
    """Value and gradient as torch's."""
    t = torch.tensor(at, requires_grad=True)
    loss = theirs(t)
    loss.backward()
    np.testing.assert_allclose(ours[0], loss.item(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(ours[1], t.grad.numpy(), rtol=1e-9, atol=1e-12)


@given(st.integers(1, 9), seeds, st.floats(0.1, 3.0))
def test_losses_of_errors(n, seed, delta):
    rng = np.random.default_rng(seed)
    x, y = 3 * rng.normal(size=n), rng.normal(size=n)
    target = torch.tensor(y)
    same(squared(x, y), x, lambda t: F.mse_loss(t, target))
    same(absolute(x, y), x, lambda t: F.l1_loss(t, target))
    same(huber(x, y, delta), x, lambda t: F.huber_loss(t, target, delta=delta))


@given(st.integers(1, 9), seeds, st.floats(0.0, 4.0))
def test_losses_of_margins(n, seed, gamma):
    m = 4 * np.random.default_rng(seed).normal(size=n)
    same(hinge(m), m, lambda t: F.relu(1 - t).mean())
    same(logistic(m), m, lambda t: F.soft_margin_loss(t, torch.ones_like(t)))
    same(logistic(m, gamma), m, lambda t: ((1 - t.sigmoid()) ** gamma * -F.logsigmoid(t)).mean())


@given(st.integers(1, 7), st.integers(1, 6), seeds, st.floats(0.0, 1.0))
def test_cross_entropy(n, k, seed, smoothing):
    rng = np.random.default_rng(seed)
    z, labels = 3 * rng.normal(size=(n, k)), rng.integers(0, k, n)
    labels[rng.random(n) < 0.3] = IGNORE
    labels[0] = k - 1
    target = torch.tensor(labels)
    same(
        cross_entropy(z, labels, smoothing),
        z,
        lambda t: F.cross_entropy(t, target, label_smoothing=smoothing),
    )


@given(st.integers(1, 7), st.integers(1, 6), seeds)
def test_kl_divergence(n, k, seed):
    rng = np.random.default_rng(seed)
    z, target = rng.normal(size=(n, k)), rng.dirichlet(np.ones(k), n)
    target[0] = np.eye(k)[0]  # zeros in a target cost nothing
    soft = torch.tensor(target)
    same(
        kl_divergence(z, target),
        z,
        lambda t: F.kl_div(t.log_softmax(1), soft, reduction="batchmean"),
    )


@given(st.integers(1, 7), st.integers(1, 4), seeds)
def test_info_nce(n, d, seed):
    a, b = np.random.default_rng(seed).normal(size=(2, n, d))
    other = torch.tensor(b)
    same(info_nce(a, b, 0.5), a, lambda t: F.cross_entropy(t @ other.T / 0.5, torch.arange(n)))


def test_padding_drops_out_of_sum_and_count():
    z = np.random.default_rng(0).normal(size=(4, 3))
    loss, grad = cross_entropy(z, np.array([2, IGNORE, 0, IGNORE]), 0.1)
    short, short_grad = cross_entropy(z[::2], np.array([2, 0]), 0.1)
    assert loss == pytest.approx(short)
    np.testing.assert_allclose(grad[::2], short_grad)
    assert (grad[1::2] == 0).all()


def test_large_logits_do_not_overflow():
    loss, grad = cross_entropy(np.array([[1e4, 0.0, -1e4]]), np.array([1]))
    assert loss == 1e4
    np.testing.assert_allclose(grad, [[1.0, -1.0, 0.0]])
    loss, grad = logistic(np.array([-1e4, 1e4]), 2.0)
    assert loss == 5e3
    np.testing.assert_allclose(grad, [-0.5, 0.0])


Z = np.zeros((2, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cross_entropy(Z, np.array([0, 3])), r"must lie in 0\.\.2 or be -100, got 3"),
        (lambda: cross_entropy(Z, np.array([IGNORE] * 2)), "at least one that is not -100"),
        (lambda: cross_entropy(Z, np.array([0, 1]), 1.5), r"smoothing must .*\[0, 1\], got 1.5"),
        (lambda: huber(Z[0], Z[0], 0.0), "delta must be greater than 0, got 0"),
        (lambda: logistic(Z[0], -1.0), "gamma must be at least 0, got -1"),
        (lambda: squared(Z[:, :1], Z[:, 0]), r"prediction must be floats of shape \(n\), got"),
        (lambda: huber(Z[0], Z[0, :2]), r"target must be floats of shape \(n = 3\), got"),
        (lambda: cross_entropy(Z, np.array([0])), r"labels must be integers of shape \(n = 2\)"),
        (lambda: cross_entropy(Z, Z[:, 0]), r"labels must be integers .* got float64 of"),
        (lambda: kl_divergence(Z, Z[:1]), r"target must be floats of shape \(n = 2, k = 3\)"),
        (lambda: info_nce(Z, Z[:, :2]), r"b must be floats of shape \(n = 2, d = 3\)"),
        (lambda: info_nce(Z, Z, 0.0), "temperature must be greater than 0, got 0"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
