"""Every layer's gradients against torch.autograd, and the invariants that classic bugs break."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from week02.matrix_calculus import (
    attention,
    attention_backward,
    batch_norm,
    batch_norm_backward,
    cross_entropy,
    cross_entropy_backward,
    layer_norm,
    layer_norm_backward,
    linear,
    linear_backward,
    softmax,
    softmax_backward,
    softmax_jacobian,
)

sizes, seeds = st.integers(1, 6), st.integers(0, 999)


def draw(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in shapes]


def agree(theirs, inputs, output, backward, seed, atol=1e-9):
    """Output and gradients against torch's, for one random gradient from above."""
    leaves = [torch.tensor(x, requires_grad=True) for x in inputs]
    expected = theirs(*leaves)
    np.testing.assert_allclose(output, expected.detach(), atol=atol, rtol=1e-9)
    dY = np.random.default_rng(seed + 1).normal(size=expected.shape)
    found = backward(dY)
    for ours, theirs_gradient in zip(
        found, torch.autograd.grad(expected, leaves, torch.tensor(dY)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs_gradient, atol=atol, rtol=1e-9)


@given(n=st.integers(0, 6), d=sizes, k=sizes, seed=seeds)
def test_linear(n, d, k, seed):
    X, W, b = draw(seed, (n, d), (k, d), k)
    agree(F.linear, (X, W, b), linear(X, W, b), lambda dY: linear_backward(dY, X, W), seed)


@given(n=sizes, k=sizes, scale=st.sampled_from([0.1, 3.0, 1e3]), seed=seeds)
def test_softmax(n, k, scale, seed):
    (Z,) = draw(seed, (n, k))
    Z *= scale
    P = softmax(Z)
    agree(lambda Z: Z.softmax(-1), (Z,), P, lambda dY: (softmax_backward(dY, P),), seed)


@given(k=sizes, seed=seeds)
def test_softmax_jacobian(k, seed):
    (z,) = draw(seed, k)
    J = softmax_jacobian(z)
    expected = torch.autograd.functional.jacobian(lambda z: z.softmax(0), torch.tensor(z))
    np.testing.assert_allclose(J, expected, atol=1e-12)
    np.testing.assert_allclose(J.sum(axis=0), 0.0, atol=1e-15)  # probabilities sum to one
    np.testing.assert_allclose(J.sum(axis=1), 0.0, atol=1e-15)  # a shift changes nothing
    rows = softmax_backward(np.eye(k), np.tile(softmax(z), (k, 1)))
    np.testing.assert_allclose(rows, J, atol=1e-15)


@given(n=sizes, k=sizes, scale=st.sampled_from([0.1, 3.0, 1e4]), seed=seeds)
def test_cross_entropy(n, k, scale, seed):
    (Z,) = draw(seed, (n, k))
    Z, targets = Z * scale, np.random.default_rng(seed).integers(k, size=n)
    agree(
        lambda Z: F.cross_entropy(Z, torch.tensor(targets)),
        (Z,),
        np.array(cross_entropy(Z, targets)),
        lambda dY: (dY * cross_entropy_backward(Z, targets),),
        seed,
    )


def test_cross_entropy_of_a_hopeless_prediction_is_finite():
    Z = np.array([[0.0, 1000.0]])
    assert cross_entropy(Z, np.array([0])) == 1000.0
    np.testing.assert_array_equal(cross_entropy_backward(Z, np.array([0])), [[-1.0, 1.0]])


@given(n=sizes, d=st.integers(2, 6), eps=st.sampled_from([1e-5, 0.1]), seed=seeds)
def test_layer_norm(n, d, eps, seed):
    X, gain, bias = draw(seed, (n, d), d, d)
    agree(
        lambda X, gain, bias: F.layer_norm(X, (d,), gain, bias, eps),
        (X, gain, bias),
        layer_norm(X, gain, bias, eps=eps),
        lambda dY: layer_norm_backward(dY, X, gain, eps=eps),
        seed,
        atol=1e-7 if eps < 0.1 else 1e-9,  # two near-equal features: 1/σ up to 300
    )


@given(n=st.integers(2, 7), d=sizes, eps=st.sampled_from([1e-5, 0.1]), seed=seeds)
def test_batch_norm(n, d, eps, seed):
    X, gain, bias = draw(seed, (n, d), d, d)
    agree(
        lambda X, gain, bias: F.batch_norm(X, None, None, gain, bias, training=True, eps=eps),
        (X, gain, bias),
        batch_norm(X, gain, bias, eps=eps),
        lambda dY: batch_norm_backward(dY, X, gain, eps=eps),
        seed,
        atol=1e-7 if eps < 0.1 else 1e-9,
    )


@given(seed=seeds)
def test_norms_push_neither_along_the_mean_nor_along_the_scale(seed):
    X, dY, gain = draw(seed, (6, 5), (6, 5), 5)
    for backward, axis in ((layer_norm_backward, 1), (batch_norm_backward, 0)):
        dX = backward(dY, X, gain, eps=1e-12)[0]
        size = np.abs(dX).sum(axis=axis)
        assert (np.abs(dX.sum(axis=axis)) < 1e-12 * size + 1e-12).all()
        assert (np.abs((dX * X).sum(axis=axis)) < 1e-8 * size + 1e-8).all()


@given(m=sizes, n=sizes, d=sizes, v=sizes, masked=st.booleans(), seed=seeds)
def test_attention(m, n, d, v, masked, seed):
    Q, K, V = draw(seed, (m, d), (n, d), (n, v))
    mask = np.random.default_rng(seed).random((m, n)) < 0.5 if masked else np.ones((m, n), bool)
    mask[:, 0] = True
    Y, P = attention(Q, K, V, mask)
    agree(
        lambda Q, K, V: F.scaled_dot_product_attention(Q, K, V, attn_mask=torch.tensor(mask)),
        (Q, K, V),
        Y,
        lambda dY: attention_backward(dY, Q, K, V, P),
        seed,
    )
    if not masked:
        np.testing.assert_array_equal(Y, attention(Q, K, V)[0])


X, ONE = np.ones((2, 3)), np.ones(3)


@pytest.mark.parametrize(
    ("message", "call"),
    [
        (r"between 0 and 2, got \[0 3\]", lambda: cross_entropy(X, np.array([0, 3]))),
        (r"between 0 and 2, got \[ 0 -1\]", lambda: cross_entropy_backward(X, np.array([0, -1]))),
        ("Z must have at least one row", lambda: cross_entropy(X[:0], np.zeros(0, int))),
        ("Z must have a finite largest entry", lambda: softmax(np.full((1, 2), -np.inf))),
        ("eps must be positive, got 0", lambda: layer_norm(X, ONE, ONE, eps=0.0)),
        (r"X must not be empty, got shape \(0, 3\)", lambda: batch_norm(X[:0], ONE, ONE)),
        ("mask must leave every query a key", lambda: attention(X, X, X, np.eye(2) > 1)),
        ("K must have at least one row", lambda: attention(X, X[:0], X[:0])),
    ],
)
def test_bad_input_is_named(message, call):
    with pytest.raises(ValueError, match=message):
        call()
