"""Curvature by products against dense matrices, and slices against one network at a time."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from week09.lanczos import (
    hessian_operator,
    hutchinson_trace,
    lanczos,
    power_iteration,
    random_signs,
    ritz,
    spectral_density,
)
from week09.loss_landscape import (
    line,
    losses_at,
    mean_rise,
    normalize,
    plane,
    principal_directions,
    random_direction,
    rescale,
)
from week09.vector_networks import (
    DeepNet,
    cross_entropy_of,
    descend,
    flatten,
    parameters,
    unflatten,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def symmetric(batch, p, seed=0):
    a = randn(batch, p, p, seed=seed)
    return a + a.mT


def times(matrices):
    return lambda v: torch.einsum("bpq,bq->bp", matrices, v)


def small(skip=True, seed=0, depth=4):
    """A network in float64, its weights, its data, and its loss as a function."""
    model = DeepNet(depth, 5, skip=skip, n_inputs=6, n_classes=4).double()
    theta = model.initialize(generator(seed)) + 0.05 * randn(
        sum(p.numel() for p in model.parameters()), seed=seed + 1
    )
    x, y = randn(30, 6, seed=seed + 2), torch.randint(4, (30,), generator=generator(seed + 3))
    return model, theta, x, y, cross_entropy_of(model, x, y)


# ---- products, power iteration, Lanczos


@given(st.booleans(), st.integers(0, 10**6), st.integers(1, 4))
def test_hessian_products_are_the_dense_hessians(skip, seed, batch):
    _, theta, _, _, loss = small(skip, seed)
    points = theta + 0.3 * randn(batch, len(theta), seed=seed + 9)
    v = randn(batch, len(theta), seed=seed + 10)
    expected = torch.stack(
        [torch.func.hessian(loss)(p) @ row for p, row in zip(points, v, strict=True)]
    )
    operator = hessian_operator(loss, points)
    torch.testing.assert_close(operator(v), expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(operator(v), expected, rtol=1e-9, atol=1e-10)  # again, same graph


@given(st.integers(2, 12), st.integers(1, 3), st.integers(0, 10**6))
def test_full_lanczos_finds_the_whole_spectrum(p, batch, seed):
    matrices = symmetric(batch, p, seed)
    diagonal, off, q = lanczos(times(matrices), randn(batch, p, seed=seed + 1), p)
    eye = torch.eye(p, dtype=torch.float64).expand(batch, p, p)
    torch.testing.assert_close(q @ q.mT, eye, rtol=0, atol=1e-10)
    t = torch.diag_embed(diagonal) + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
    torch.testing.assert_close(q @ matrices @ q.mT, t, rtol=0, atol=1e-8)
    values, weights = ritz(times(matrices), randn(batch, p, seed=seed + 1), p)
    torch.testing.assert_close(values, torch.linalg.eigvalsh(matrices), rtol=0, atol=1e-8)
    torch.testing.assert_close(weights.sum(1), torch.ones(batch).double())


def test_basis_stays_orthogonal_long_after_convergence():
    p = 120
    values = torch.cat([torch.tensor([1e4, -3e3]), torch.linspace(-1, 1, p - 2)]).double()
    basis = torch.linalg.qr(randn(p, p)).Q
    matrix = (basis * values @ basis.T)[None]
    _, _, q = lanczos(times(matrix), randn(1, p, seed=1), 60)
    assert (q[0] @ q[0].T - torch.eye(60)).abs().max() < 1e-10
    found, _ = ritz(times(matrix), randn(1, p, seed=1), 60)
    assert ((found - 1e4).abs() < 1).sum() == 1  # a ghost would make it two
    assert found[0, 0] == pytest.approx(-3e3)


def test_matrices_of_one_batch_may_differ_by_fourteen_orders():
    matrices = symmetric(3, 20) * torch.tensor([1e-6, 1.0, 1e8]).double()[:, None, None]
    found, _ = ritz(times(matrices), randn(3, 20, seed=1), 20)
    exact = torch.linalg.eigvalsh(matrices)
    torch.testing.assert_close(found / exact[:, -1:], exact / exact[:, -1:], rtol=0, atol=1e-9)


@pytest.mark.parametrize("values", [[2.0] * 6, [0.0] * 6, [3.0, 3.0, 3.0, -1.0, -1.0, -1.0]])
def test_an_exhausted_krylov_space_is_left_without_false_eigenvalues(values):
    matrix = torch.diag(torch.tensor(values).double())[None]
    found, weights = ritz(times(matrix), randn(1, 6), 6)
    torch.testing.assert_close(found[0], torch.tensor(sorted(values)).double(), rtol=0, atol=1e-9)
    assert weights.sum() == pytest.approx(1)


@given(st.integers(1, 6), st.integers(0, 10**6))
def test_quadrature_is_exact_up_to_degree_2k_minus_1(k, seed):
    matrix = symmetric(1, 10, seed) / 5
    v = randn(1, 10, seed=seed + 1)
    nodes, weights = ritz(times(matrix), v, k)
    unit = v[0] / v[0].norm()
    for degree in range(2 * k):
        expected = unit @ torch.linalg.matrix_power(matrix[0], degree) @ unit
        got = (weights * nodes**degree).sum()
        torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-8)


def test_power_iteration_keeps_the_sign():
    basis = torch.linalg.qr(randn(7, 7)).Q
    values = torch.tensor([-5.0, 3.0, 1.0, 0.5, 0.1, 0.0, -2.0]).double()
    matrix = (basis * values @ basis.T)[None]
    value, vector = power_iteration(times(matrix), randn(1, 7, seed=1))
    assert value.item() == pytest.approx(-5, rel=1e-9)
    assert abs(float(vector[0] @ basis[:, 0])) == pytest.approx(1, abs=1e-6)


def test_hutchinson_is_exact_for_diagonal_matrices_and_unbiased_for_others():
    probes = random_signs(4000, 6, generator())
    assert set(probes.unique().tolist()) == {-1.0, 1.0}
    diagonal = torch.diag(torch.arange(6.0).double())
    assert (hutchinson_trace(lambda v: v @ diagonal, probes) == 15).all()
    matrix = symmetric(1, 6)[0]
    estimates = hutchinson_trace(lambda v: v @ matrix, probes)
    error = float(estimates.std()) / math.sqrt(4000)
    assert float(estimates.mean()) == pytest.approx(float(matrix.trace()), abs=4 * error)
    off = matrix - torch.diag(matrix.diag())
    assert float(estimates.var()) == pytest.approx(2 * float((off**2).sum()), rel=0.1)


def test_density_integrates_to_one_and_peaks_at_the_values():
    grid = torch.linspace(-3, 6, 3001).double()
    values = torch.tensor([[0.0, 4.0], [0.0, 4.0]]).double()
    weights = torch.tensor([[0.75, 0.25], [0.65, 0.35]]).double()
    density = spectral_density(values, weights, grid, 0.1)
    assert float(torch.trapezoid(density, grid)) == pytest.approx(1, abs=1e-6)
    left = grid < 2
    assert float(torch.trapezoid(density[left], grid[left])) == pytest.approx(0.7, abs=1e-6)
    assert float(grid[density.argmax()]) == pytest.approx(0, abs=0.01)


# ---- vectors, directions


@given(st.integers(0, 10**6))
def test_every_filter_is_as_long_as_the_networks(seed):
    model, theta, *_ = small(seed=seed)
    params = unflatten(theta, parameters(model))
    direction = unflatten(random_direction(params, generator(seed)), params)
    for name, weight in params.items():
        if weight.ndim == 1:
            assert (direction[name] == 0).all()
        else:
            for d, w in zip(direction[name], weight, strict=True):
                assert float(d.norm()) == pytest.approx(float(w.norm()))


def test_filters_of_kernels_layers_and_the_whole():
    weights = {"w": randn(4, 3, 2, 2), "b": randn(4)}
    direction = {"w": randn(4, 3, 2, 2, seed=1), "b": randn(4)}
    of_channels = weights["w"].flatten(1).norm(dim=1)  # a filter is one output channel
    stretched = normalize(direction, weights)["w"].flatten(1).norm(dim=1)
    torch.testing.assert_close(stretched, of_channels)
    layer = normalize(direction, weights, "layer")
    assert float(layer["w"].norm()) == pytest.approx(float(weights["w"].norm()))
    assert not torch.allclose(layer["w"].flatten(1).norm(dim=1), of_channels)
    whole = normalize(direction, weights, "none")
    assert float(flatten(whole).norm()) == pytest.approx(1)
    assert (whole["b"] != 0).all()


def test_a_dead_filter_gets_no_direction_and_a_zero_direction_no_nan():
    weights = {"w": torch.tensor([[0.0, 0.0], [3.0, 4.0]]).double()}
    stretched = normalize({"w": torch.tensor([[1.0, 2.0], [0.0, 0.0]]).double()}, weights)["w"]
    assert torch.equal(stretched, torch.zeros(2, 2).double())


@given(st.floats(0.01, 100), st.booleans(), st.integers(0, 10**6))
def test_rescaled_twin_has_the_same_normalized_slice(factor, skip, seed):
    model, theta, x, _, loss = small(skip, seed)
    params = unflatten(theta, parameters(model))
    twin = rescale(params, "hidden.0", "hidden.1", factor)
    out = [torch.func.functional_call(model, each, (x,)) for each in (params, twin)]
    torch.testing.assert_close(out[0], out[1], rtol=1e-9, atol=1e-9)
    alphas = torch.linspace(-1, 1, 5).double()
    slices = {
        how: [
            line(loss, flatten(each), random_direction(each, generator(1), how), alphas)
            for each in (params, twin)
        ]
        for how in ("filter", "layer", "none")
    }
    torch.testing.assert_close(*slices["filter"], rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(*slices["layer"], rtol=1e-8, atol=1e-9)
    if factor > 2 or factor < 0.5:
        assert not torch.allclose(*slices["none"], rtol=1e-4)


# ---- slices


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 10**6))
def test_plane_is_one_network_at_a_time(a, b, seed):
    model, theta, x, y, loss = small(seed=seed)
    directions = randn(2, len(theta), seed=seed + 5)
    alphas, betas = torch.linspace(-1, 1, a).double(), torch.linspace(0, 2, b).double()
    drawn = plane(loss, theta, directions, alphas, betas)
    assert drawn.shape == (a, b)
    for i in range(a):
        for j in range(b):
            point = theta + alphas[i] * directions[0] + betas[j] * directions[1]
            model.load_state_dict(unflatten(point, parameters(model)))
            expected = nn.CrossEntropyLoss()(model(x), y)
            torch.testing.assert_close(drawn[i, j], expected.detach(), rtol=1e-10, atol=1e-12)


def test_chunks_change_nothing():
    _, theta, _, _, loss = small()
    points = theta + 0.1 * randn(7, len(theta))
    torch.testing.assert_close(losses_at(loss, points, chunk=3), losses_at(loss, points, chunk=64))


def test_mean_rise_is_half_radius_squared_times_curvature():
    weights = {"w": randn(3, 4)}
    center = flatten(weights)
    expected = 0.5 * 0.1**2 * 6.0 * float((weights["w"] ** 2).sum())

    def bowl(t):
        return 3.0 * ((t - center) ** 2).sum() + (t - center).sum() + 7.0

    rise = mean_rise(bowl, weights, generator(), radius=0.1, n=5)
    assert rise == pytest.approx(expected)


def test_principal_directions_are_sklearns_and_orthonormal():
    from sklearn.decomposition import PCA

    path = randn(20, 8) * torch.logspace(0, -2, 8).double()
    directions, share = principal_directions(path, path.mean(0), 3)
    reference = PCA(3).fit(path.numpy())
    np.testing.assert_allclose(share, reference.explained_variance_ratio_, rtol=1e-9)
    np.testing.assert_allclose(directions.abs().numpy(), np.abs(reference.components_), atol=1e-9)


# ---- networks and training


@pytest.mark.parametrize("skip", [True, False])
def test_deep_net_is_the_sum_written_out(skip):
    model, theta, x, *_ = small(skip, depth=6)
    params = unflatten(theta, parameters(model))
    h = F.relu(x @ params["first.weight"].T + params["first.bias"])
    for k in (0, 2):
        z = F.relu(h @ params[f"hidden.{k}.weight"].T + params[f"hidden.{k}.bias"])
        z = z @ params[f"hidden.{k + 1}.weight"].T + params[f"hidden.{k + 1}.bias"]
        h = F.relu(z + h * skip)
    expected = h @ params["last.weight"].T + params["last.bias"]
    torch.testing.assert_close(torch.func.functional_call(model, params, (x,)), expected)


@pytest.mark.parametrize(("optimizer", "lr"), [("sgd", 0.1), ("adam", 0.01)])
def test_first_steps_are_torchs_for_every_network_of_the_batch(optimizer, lr):
    model, theta, x, y, _ = small()
    starts = theta + 0.1 * randn(3, len(theta))
    # The whole data as one batch: then the order of the rows does not matter.
    options = {"batch": 30, "steps": 4, "generator": generator(), "optimizer": optimizer}
    ours = list(descend(model, starts, x, y, lr=lr, **options))
    for i, start in enumerate(starts):
        model.load_state_dict(unflatten(start, parameters(model)))
        sgd = optimizer == "sgd"
        make = torch.optim.SGD if sgd else partial(torch.optim.Adam, betas=(0.9, 0.99))
        theirs = make(model.parameters(), lr=lr)
        for after in ours:
            theirs.zero_grad()
            nn.CrossEntropyLoss()(model(x), y).backward()
            theirs.step()
            torch.testing.assert_close(after[i], flatten(parameters(model)), rtol=1e-8, atol=1e-10)


def test_rates_are_each_networks_own_and_zero_stands_still():
    model, theta, x, y, _ = small()
    options = {"lr": [0.0, 0.1], "batch": 30, "steps": 1, "generator": generator()}
    (after,) = descend(model, theta.expand(2, -1), x, y, **options)
    assert torch.equal(after[0], theta)
    assert not torch.equal(after[1], theta)


def test_cosine_warms_up_and_ends_near_zero():
    model, theta, x, y, _ = small()
    options = {"lr": 0.01, "batch": 30, "steps": 200, "generator": generator()}
    path = [theta[None], *descend(model, theta[None], x, y, schedule="cosine", **options)]
    moved = torch.cat(path).diff(dim=0).norm(dim=1)
    assert moved[0] < 0.1 * moved[40:60].max()
    assert moved[-1] < 0.01 * moved.max()


# ---- wrong input


FLAT = torch.ones(1, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DeepNet(5, 4, skip=True), "depth must be even and at least 2, got 5"),
        (lambda: lanczos(lambda v: v, FLAT, 4), "steps must be between 1 and p = 3, got 4"),
        (lambda: lanczos(lambda v: v, 0 * FLAT, 2), "start must have no row of zeros"),
        (lambda: power_iteration(lambda v: v, FLAT, steps=0), "steps must be at least 1, got 0"),
        (lambda: spectral_density(FLAT, FLAT, FLAT[0], 0.0), "width must be positive, got 0.0"),
        (lambda: normalize({"w": torch.ones(2, 2)}, {"w": FLAT}), "names and shapes of weights"),
        (
            lambda: unflatten(FLAT[0], {"w": torch.ones(2)}),
            "vector must have 2 numbers as like has",
        ),
        (lambda: rescale({}, "a", "b", -1.0), "factor must be positive, got -1.0"),
        (lambda: principal_directions(torch.ones(3, 2), FLAT[0, :2], 3), "k must be between 1"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("lr", "batch", "message"),
    [
        ([0.1, 0.2], 5, "lr must be one or 1 numbers, got 2"),
        (0.1, 31, "batch must be between 1 and n = 30, got 31"),
    ],
)
def test_wrong_training_input_is_named(lr, batch, message):
    model, theta, x, y, _ = small()
    steps = descend(model, theta[None], x, y, lr=lr, batch=batch, steps=1, generator=generator())
    with pytest.raises(ValueError, match=message):
        next(steps)
