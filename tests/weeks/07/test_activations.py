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
from week07.evidence.activations import BATCH, GATED, TORCH, Networks

NAMES = list(ACTIVATIONS)
FAR = np.array([-1000.0, -100.0, -40.0, -20.0, -1e-17, 0.0, 1e-17, 20.0, 40.0, 100.0, 1000.0])
SHAPES = array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)


@pytest.mark.parametrize("name", NAMES)
@given(x=arrays(np.float64, SHAPES, elements=st.floats(-1000, 1000)))
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
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value, slope = (f(FAR.astype(kind)) for f in ACTIVATIONS[name])
    assert value.dtype == slope.dtype == kind
    assert np.isfinite([value, slope]).all()


@pytest.mark.parametrize("name", NAMES)
def test_whole_numbers_are_numbers_and_nan_is_torchs(name):
    whole, row = np.arange(-3, 4), [-1.0, 0.0, 2.0, np.nan]
    t = torch.tensor(row, dtype=torch.float64, requires_grad=True)
    y = TORCH[name](t)
    y.sum().backward()
    for f, theirs in zip(ACTIVATIONS[name], (y.detach(), t.grad), strict=True):
        np.testing.assert_array_equal(f(whole.tolist()), f(whole.astype(float)))
        np.testing.assert_allclose(f(np.array(row)), theirs, atol=1e-13)


def test_tails_keep_their_digits():
    x = np.array([40.0])
    assert a.d_sigmoid(x)[0] == pytest.approx(np.exp(-40.0), rel=1e-12, abs=0)
    assert a.d_tanh(x / 2)[0] == pytest.approx(4 * np.exp(-40.0), rel=1e-12, abs=0)
    assert a.softplus(-x)[0] == pytest.approx(np.exp(-40.0), rel=1e-12, abs=0)
    assert a.elu(np.array([-1e-17]))[0] == -1e-17
    # x Φ(x) at -10, Φ(-10) = 7.619853024160527e-24 (Abramowitz & Stegun's 26.2 to more digits)
    assert a.gelu(np.array([-10.0]))[0] == pytest.approx(-7.619853024160527e-23, rel=1e-12, abs=0)


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


def test_the_tanh_form_is_near_gelu_and_is_not_it():
    x = np.linspace(-6, 6, 2001)
    assert 1e-4 < np.abs(a.gelu(x) - a.gelu_tanh(x)).max() < 5e-4


BATCHES = st.sampled_from([(), (3,), (2, 4)])


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), BATCHES, st.integers(0, 10**6))
def test_swiglu_equals_autograd(d, hidden, out, batch, seed):
    rng = np.random.default_rng(seed)
    matrices = [rng.normal(size=shape) for shape in ((d, hidden), (d, hidden), (hidden, out))]
    x, dy = rng.normal(size=(*batch, d)), rng.normal(size=(*batch, out))
    tensors = tx, tG, tU, tD = [torch.tensor(v, requires_grad=True) for v in (x, *matrices)]
    y = (F.silu(tx @ tG) * (tx @ tU)) @ tD
    y.backward(torch.tensor(dy))
    layer = SwiGLU(*matrices)
    np.testing.assert_allclose(layer.forward(x), y.detach().numpy(), atol=1e-12)
    dx, gradients = layer.backward(x, dy)
    ours = [dx, gradients["gate"], gradients["up"], gradients["down"]]
    for mine, tensor in zip(ours, tensors, strict=True):
        np.testing.assert_allclose(mine, tensor.grad.numpy(), atol=1e-11)


# ---- random layers


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("variance", [0.25, 4.0])
def test_mean_square_is_the_integral(name, variance):
    for f in ACTIVATIONS[name]:

        def integrand(z, f=f):
            y = f(np.array([np.sqrt(variance) * z]))[0]
            return y**2 * np.exp(-z * z / 2) / np.sqrt(2 * np.pi)

        exact = quad(integrand, -10, 0)[0] + quad(integrand, 0, 10)[0]
        assert a.gaussian_mean_square(f, variance) == pytest.approx(exact, rel=1e-5)


def test_known_values():
    assert a.preserving_variance(a.relu) == pytest.approx(2.0, rel=1e-6)  # He et al. (2015)
    assert a.gaussian_mean_square(a.d_sigmoid, 0.0) == pytest.approx(1 / 16)
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
        (lambda: a.gated_backward(np.ones((3, 1)), np.ones(3), np.ones(3)), "b must be floats of"),
        (
            lambda: SwiGLU(np.ones((2, 3)), np.ones((2, 3)), np.ones((2, 2))),
            "down must .*hidden = 3",
        ),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- the networks of the experiments


@pytest.mark.parametrize("name", ["softplus", GATED])
def test_a_network_among_others_trains_as_alone_in_torch(name):
    rng = np.random.default_rng(0)
    X, y = torch.tensor(rng.normal(size=(40, 5))), torch.tensor(rng.integers(0, 3, 40))
    lr, steps, options = 0.1, 4, {"dtype": torch.float64}
    nets = Networks(name, [5, 6, 8, 3], [np.random.default_rng(s) for s in (1, 2)], **options)
    widths = [(5, 8), (4, 12), (6, 3)] if name == GATED else [(5, 6), (6, 8), (8, 3)]  # 6/√2, 8/√2
    assert [tuple(W.shape[1:]) for W in nets.params[::2]] == widths
    assert [tuple(b.shape) for b in nets.params[1::2]] == [(2, 1, m) for _, m in widths]
    assert nets.forward(X)[0].shape == (2, 40, 3)
    params = [p[1].clone().detach().requires_grad_() for p in nets.params]
    ours = nets.train(X, y, [0.01, lr], [np.random.default_rng(s) for s in (3, 4)], steps)
    sgd, rng, theirs = torch.optim.SGD(params, lr=lr, momentum=0.9), np.random.default_rng(4), []
    for step in range(steps):
        rows = rng.integers(0, len(X), BATCH)
        h = X[rows]
        for W, b in zip(params[:-2:2], params[1:-2:2], strict=True):
            z = h @ W + b
            if name == GATED:
                gate, up = z.chunk(2, -1)
                h = F.rms_norm(F.silu(gate) * up, gate.shape[-1:], eps=1e-6)
            else:
                h = TORCH[name](z)
        loss = F.cross_entropy(h @ params[-2] + params[-1], y[rows])
        sgd.zero_grad()
        loss.backward()
        sgd.param_groups[0]["lr"] = lr * (1 - step / steps)
        sgd.step()
        theirs.append(loss.item())
    np.testing.assert_allclose(ours[:, 1], theirs, rtol=1e-10)


def test_diverged_networks_count_as_guessing():
    nets = Networks("ReLU", [5, 6, 10], [np.random.default_rng(0)])
    nets.params[0].data[:] = np.inf
    loss, accuracy = nets.evaluate(torch.ones(4, 5), torch.zeros(4, dtype=torch.int64))
    assert loss[0] == np.inf
    assert accuracy[0] == 0.1
