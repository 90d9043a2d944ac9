"""Week 07: activations, their slopes, the gated layer, and what random layers do to a gradient."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.integrate import quad

from week07 import activations as a
from week07.activations import ACTIVATIONS, Activation, SwiGLU
from week07.evidence.activations import (
    BARE,
    GATED,
    TORCH,
    Stack,
    cross_entropy,
    evaluate,
    train,
)

NAMES = list(ACTIVATIONS)
FAR = np.array([-1000.0, -100.0, -40.0, -20.0, -1e-17, 0.0, 1e-17, 20.0, 40.0, 100.0, 1000.0])


def numbers(kind=np.float64, width=64):
    return arrays(
        kind,
        array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4),
        elements=st.floats(-1000, 1000, width=width),
    )


@pytest.mark.parametrize("name", NAMES)
@given(x=numbers())
def test_values_and_slopes_equal_torchs(name, x):
    t = torch.tensor(x, requires_grad=True)
    y = TORCH[name](t)
    y.sum().backward()
    value, slope = ACTIVATIONS[name]
    np.testing.assert_allclose(value(x), y.detach().numpy(), atol=1e-13, rtol=1e-13)
    np.testing.assert_allclose(slope(x), t.grad.numpy(), atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("name", NAMES)
def test_far_out_no_warning_no_nan_and_the_dtype_stays(name, kind):
    x = FAR.astype(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value, slope = (f(x) for f in ACTIVATIONS[name])
    assert value.dtype == slope.dtype == kind
    assert np.isfinite(value).all()
    assert np.isfinite(slope).all()
    t = torch.tensor(x, requires_grad=True)
    y = TORCH[name](t)
    y.sum().backward()
    tolerance = 2e-6 if kind == np.float32 else 1e-14
    np.testing.assert_allclose(value, y.detach().numpy(), atol=tolerance, rtol=tolerance)
    np.testing.assert_allclose(slope, t.grad.numpy(), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_slope_is_the_limit_of_differences(name):
    x = np.linspace(-5, 5, 200)  # 0, where ReLU has a corner, is not among them
    value, slope = ACTIVATIONS[name]
    h = 1e-6
    np.testing.assert_allclose(slope(x), (value(x + h) - value(x - h)) / (2 * h), atol=1e-8)


def test_tails_keep_their_digits():
    x = np.array([40.0])
    assert a.d_sigmoid(x)[0] == pytest.approx(np.exp(-40.0), rel=1e-12, abs=0)
    assert a.d_tanh(x / 2)[0] == pytest.approx(4 * np.exp(-40.0), rel=1e-12, abs=0)
    assert a.softplus(-x)[0] == pytest.approx(np.exp(-40.0), rel=1e-12, abs=0)
    assert a.elu(np.array([-1e-17]))[0] == -1e-17
    # x Φ(x) at -10, Φ(-10) = 7.619853024160527e-24 (Abramowitz & Stegun's 26.2 to more digits)
    assert a.gelu(np.array([-10.0]))[0] == pytest.approx(-7.619853024160527e-23, rel=1e-12, abs=0)


def test_relu_at_zero_has_slope_zero():
    assert a.d_relu(np.zeros(1))[0] == 0


@given(st.floats(0.1, 5), st.floats(-20, 20))
def test_options(parameter, x):
    x = np.array([x])
    t = torch.tensor(x, requires_grad=True)
    for ours, slope, theirs in (
        (a.leaky_relu, a.d_leaky_relu, lambda z: F.leaky_relu(z, parameter)),
        (a.elu, a.d_elu, lambda z: F.elu(z, parameter)),
        (a.silu, a.d_silu, lambda z: z * torch.sigmoid(parameter * z)),
    ):
        y = theirs(t)
        (gradient,) = torch.autograd.grad(y.sum(), t)
        np.testing.assert_allclose(ours(x, parameter), y.detach().numpy(), atol=1e-12)
        np.testing.assert_allclose(slope(x, parameter), gradient.numpy(), atol=1e-12)


def test_silu_turns_where_the_paper_says():
    # Elfwing et al. (2018): a global minimum of about -0.28 at x ≈ -1.28
    x = np.linspace(-3, 0, 30001)
    i = a.silu(x).argmin()
    assert x[i] == pytest.approx(-1.278, abs=1e-3)
    assert a.silu(x)[i] == pytest.approx(-0.278, abs=1e-3)
    assert a.d_silu(x[i : i + 1])[0] == pytest.approx(0, abs=1e-4)


def test_the_tanh_form_is_near_gelu_and_is_not_it():
    x = np.linspace(-6, 6, 2001)
    assert 1e-4 < np.abs(a.gelu(x) - a.gelu_tanh(x)).max() < 5e-4


# ---- SwiGLU


@given(
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(1, 4),
    st.sampled_from([(), (3,), (2, 4)]),
    st.integers(0, 10**6),
)
def test_swiglu_equals_autograd(d, hidden, out, batch, seed):
    rng = np.random.default_rng(seed)
    G, U, D = (
        rng.normal(size=(d, hidden)),
        rng.normal(size=(d, hidden)),
        rng.normal(size=(hidden, out)),
    )
    x, dy = rng.normal(size=(*batch, d)), rng.normal(size=(*batch, out))
    tensors = [torch.tensor(v, requires_grad=True) for v in (x, G, U, D)]
    tx, tG, tU, tD = tensors
    y = (F.silu(tx @ tG) * (tx @ tU)) @ tD
    y.backward(torch.tensor(dy))
    layer = SwiGLU(G, U, D)
    np.testing.assert_allclose(layer.forward(x), y.detach().numpy(), atol=1e-12)
    dx, gradients = layer.backward(x, dy)
    ours = [dx, gradients["gate"], gradients["up"], gradients["down"]]
    for mine, tensor in zip(ours, tensors, strict=True):
        np.testing.assert_allclose(mine, tensor.grad.numpy(), atol=1e-11)


def test_swiglu_refuses_matrices_that_do_not_fit():
    with pytest.raises((ValueError, TypeError)):
        SwiGLU(np.ones((2, 3)), np.ones((2, 4)), np.ones((3, 1)))


# ---- random layers


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("variance", [0.25, 1.0, 4.0])
def test_mean_square_is_the_integral(name, variance):
    for f in ACTIVATIONS[name]:

        def integrand(z, f=f):
            y = f(np.array([np.sqrt(variance) * z]))[0]
            return y**2 * np.exp(-z * z / 2) / np.sqrt(2 * np.pi)

        exact = quad(integrand, -10, 0)[0] + quad(integrand, 0, 10)[0]
        assert a.gaussian_mean_square(f, variance) == pytest.approx(exact, rel=1e-5)


def test_known_values():
    assert a.gaussian_mean_square(a.relu) == pytest.approx(0.5, rel=1e-6)
    assert a.preserving_variance(a.relu) == pytest.approx(2.0, rel=1e-6)  # He et al. (2015)
    assert a.gaussian_mean_square(a.d_sigmoid, 0.0) == pytest.approx(1 / 16)
    np.testing.assert_allclose(a.gradient_factors(ACTIVATIONS["ReLU"], 2.0, 5), 1.0, rtol=1e-5)
    # a linear layer: χ is σ_w² in every layer, whatever q
    identity = Activation(lambda x: x, np.ones_like)
    np.testing.assert_allclose(a.gradient_factors(identity, 0.7, 4, q=3.0), 0.7)


def test_sigmoid_factor_moves_with_the_variance():
    factors = a.gradient_factors(ACTIVATIONS["sigmoid"], 1.0, 6)
    assert factors[0] < factors[1] < 1 / 16
    assert factors[-1] == pytest.approx(factors[-2], rel=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: a.gaussian_mean_square(a.relu, -1.0), "variance must be finite and"),
        (lambda: a.gaussian_mean_square(a.relu, nodes=1), "nodes must be at least 2, got 1"),
        (lambda: a.gradient_factors(ACTIVATIONS["tanh"], 1.0, 0), "depth must be at least 1"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- the stack of networks


@pytest.mark.parametrize("name", [*NAMES, GATED, BARE])
def test_stack_gradients_are_the_losses_differences(name):
    rng = np.random.default_rng(3)
    stack = Stack(
        name, [5, 6, 6, 3], [np.random.default_rng(s) for s in (1, 2)], bias=0.1, dtype=np.float64
    )
    x, labels = rng.normal(size=(1, 8, 5)), rng.integers(0, 3, 8)
    logits, inputs, before = stack.forward(x)
    gW, gb, _ = stack.backward(cross_entropy(logits, labels)[1], inputs, before)
    h = 1e-6
    for p, g in zip(stack.W + stack.b, gW + gb, strict=True):
        for _ in range(3):
            at = (slice(None), rng.integers(p.shape[1]), rng.integers(p.shape[2]))
            p[at] += h
            up = cross_entropy(stack.forward(x)[0], labels)[0]
            p[at] -= 2 * h
            down = cross_entropy(stack.forward(x)[0], labels)[0]
            p[at] += h
            np.testing.assert_allclose(g[at], (up - down) / (2 * h), atol=2e-7)


def test_a_network_in_a_stack_trains_as_alone():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 5)), rng.integers(0, 3, 40)

    def go(which, lrs):
        def rngs(kind):
            return [np.random.default_rng([kind, s]) for s in which]

        stack = Stack("GELU", [5, 6, 3], rngs(1), dtype=np.float64)
        return train(stack, X, y, lrs, rngs(2), 4), stack

    both, _ = go([7, 8], [0.1, 0.01])
    alone, _ = go([8], [0.01])
    np.testing.assert_allclose(both[:, 1], alone[:, 0], rtol=1e-12)


def test_diverged_runs_count_as_guessing():
    stack = Stack("ReLU", [5, 6, 10], [np.random.default_rng(0)])
    stack.W[0][:] = np.inf
    X = np.ones((4, 5), np.float32)
    loss, accuracy = evaluate(stack, X, np.zeros(4, int))
    assert loss[0] == np.inf
    assert accuracy[0] == 0.1
