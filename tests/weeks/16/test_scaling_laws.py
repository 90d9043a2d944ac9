"""Costs, schedules, parabolas and the fitted law of scaling_laws.py and parametric_fit.py."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from week14.minimal_gpt import GPT, GPTConfig, train
from week16.parametric_fit import Law, Residuals, fit_law, lbfgs
from week16.scaling_laws import (
    BATCH,
    CONTEXT,
    count_weights,
    isoflop_valley,
    make_config,
    peak_scale,
    power_law,
    steps_for,
    sweep,
    sweep_fixed_schedule,
    train_run,
    training_flops,
)

LAW = Law(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
TEXT = torch.randint(7, (2000,), generator=torch.Generator().manual_seed(0))


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def points(n, noise, seed=0):
    rng = np.random.default_rng(seed)
    n_weights = np.exp(rng.uniform(np.log(7e7), np.log(1.6e10), n))
    n_tokens = np.exp(rng.uniform(np.log(5e9), np.log(5e11), n))
    return n_weights, n_tokens, LAW.loss(n_weights, n_tokens) * np.exp(noise * rng.normal(size=n))


# ---- cost


@pytest.mark.parametrize(("d_model", "n_layers"), [(8, 1), (20, 1), (64, 2)])
def test_weights_are_the_matrices_without_the_embedding(d_model, n_layers):
    model = GPT(make_config(d_model, 31, n_layers))
    named = model.named_parameters()
    n = sum(p.numel() for name, p in named if p.ndim == 2 and not name.startswith("embed"))
    assert count_weights(model.config) == n
    assert training_flops(model.config, 10) == 60 * n


# ---- training


def tiny():
    return GPT(GPTConfig(7, 8, 1, 1, 8), gen(1)).double()


def test_own_horizon_is_the_loop_of_week_14():
    ours = train_run(tiny(), TEXT, steps=8, batch_size=2, generator=gen(), lr_scale=2.0)
    options = {"steps": 8, "batch": 2, "lr_scale": 2.0, "optimizer": "muon"}
    assert list(ours) == train(tiny(), TEXT, generator=gen(), **options)


def test_zero_floor_stops_learning_after_the_horizon():
    model, seen = tiny(), []
    for _ in train_run(model, TEXT, steps=5, horizon=3, batch_size=2, generator=gen()):
        seen.append(model.head.weight.detach().clone())
    assert not torch.equal(seen[1], seen[2])
    assert torch.equal(seen[2], seen[4])


def test_sweep_gives_every_cell_its_budget():
    grid = {2e7: (8, 12), 4e7: (8,)}
    runs = list(sweep(TEXT, TEXT[:300], grid, vocab_size=7, seed=0))
    assert [(r.budget, r.d_model) for r in runs] == [(2e7, 8), (2e7, 12), (4e7, 8)]
    for r in runs:
        assert 6 * r.n_weights * r.n_tokens == pytest.approx(r.budget, rel=0.2)
        assert len(r.curve) * BATCH * CONTEXT == r.n_tokens


def test_fixed_schedule_reads_off_what_a_run_cut_there_would_have():
    """A run of one width that passes two budgets equals two runs stopped there."""
    options = {"vocab_size": 7, "seed": 0, "horizon": 6, "floor": 0.1}
    both = list(sweep_fixed_schedule(TEXT, TEXT[:300], {2e7: (8,), 4e7: (8,)}, **options))
    for r, budget in zip(both, (2e7, 4e7), strict=True):
        (alone,) = sweep_fixed_schedule(TEXT, TEXT[:300], {budget: (8,)}, **options)
        assert (r.budget, r.n_tokens, r.curve) == (budget, alone.n_tokens, alone.curve)
        assert r.loss == pytest.approx(alone.loss, rel=1e-6)
    (own,) = sweep(TEXT, TEXT[:300], {2e7: (8,)}, vocab_size=7, seed=0)
    options |= {"horizon": len(own.curve), "floor": 0.0}
    assert [own] == list(sweep_fixed_schedule(TEXT, TEXT[:300], {2e7: (8,)}, **options))


# ---- parabolas and power laws


@given(st.floats(3, 12), st.floats(0.01, 2), st.floats(0.5, 3))
def test_parabola_is_found_again(center, curvature, height):
    n = np.exp(center + np.array([-1.5, -0.4, 0.3, 1.0, 2.0]))
    valley = isoflop_valley(n, height + curvature * (np.log(n) - center) ** 2)
    assert valley.n_opt == pytest.approx(math.exp(center), rel=1e-5)
    assert valley.loss == pytest.approx(height, abs=1e-8)
    assert valley.curvature == pytest.approx(curvature, rel=1e-6)
    assert valley.interior


def test_minimum_outside_the_data_is_not_interior():
    n = np.exp(np.array([1.0, 2.0, 3.0]))
    valley = isoflop_valley(n, (np.log(n) - 5) ** 2)
    assert not valley.interior
    assert valley.n_opt == pytest.approx(math.exp(3))
    flat = isoflop_valley(n, -((np.log(n) - 2.5) ** 2))
    assert not flat.interior
    assert flat.n_opt == n[0]


@given(st.floats(-2, 2), st.floats(0.1, 1e4))
def test_power_law(exponent, factor):
    x = np.array([1e9, 3e9, 2e10, 1e11])
    found = power_law(x, factor * x**exponent)
    assert found[0] == pytest.approx(exponent, abs=1e-9)
    assert found[1] == pytest.approx(factor, rel=1e-6)


# ---- the law


@given(st.floats(17, 24))
def test_optimum_is_where_scipy_finds_it(log_budget):
    budget = 10**log_budget
    n_opt, d_opt = LAW.optimum(np.array([budget]))
    numeric = minimize_scalar(
        lambda u: float(LAW.loss(np.exp([u]), budget / 6 / np.exp([u]))[0]),
        bounds=(5, 40),
        method="bounded",
        options={"xatol": 1e-9},
    ).x
    assert math.log(n_opt[0]) == pytest.approx(numeric, abs=1e-5)
    assert 6 * n_opt[0] * d_opt[0] == pytest.approx(budget)


def test_exponent_of_the_papers_law():
    assert LAW.exponent == pytest.approx(0.4516, abs=1e-4)  # 0.28 / 0.62


@pytest.mark.parametrize(("seed", "delta"), [(0, 1e-3), (1, 0.02), (2, 0.5)])
def test_objective_and_gradient_equal_torchs(seed, delta):
    rng = np.random.default_rng(seed)
    n, d, loss = points(9, 0.05, seed)
    theta, counts = rng.normal(size=(3, 5)), rng.integers(0, 3, (3, 9)).astype(float)
    value, gradient = Residuals(n, d, loss, delta)(theta, counts)
    t = torch.tensor(theta, requires_grad=True)
    x, y = (torch.from_numpy(np.log(v) - np.log(v).mean()) for v in (n, d))
    a, alpha, b, beta, e = t.T[:, :, None]
    terms = torch.stack([a - alpha * x, b - beta * y, e.expand(3, 9)])
    target = torch.from_numpy(np.log(loss)).expand(3, 9)
    fitted, options = terms.logsumexp(0), {"reduction": "none", "delta": delta}
    huber = torch.nn.functional.huber_loss(fitted, target, **options)
    reference = (torch.from_numpy(counts) * huber).sum(-1) / delta
    reference.sum().backward()
    np.testing.assert_allclose(value, reference.detach(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(gradient, t.grad, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("shift", [1.0, 1e6])
def test_centering_is_undone(shift):
    n, d, loss = points(6, 0.0)
    residuals = Residuals(n * shift, d, loss)
    theta = np.array([[0.2, 0.4, -0.3, 0.2, 0.1]])
    law = residuals.law(theta[0])
    a, alpha, b, beta, e = theta[0]
    x, y = np.log(n * shift), np.log(d)
    direct = np.exp(a - alpha * (x - x.mean())) + np.exp(b - beta * (y - y.mean())) + np.exp(e)
    np.testing.assert_allclose(law.loss(n * shift, d), direct)


def test_huber_loss_shrugs_off_a_broken_run():
    n, d, loss = points(40, 0.0)
    loss[3] *= 2
    robust, squares = (fit_law(n, d, loss, delta=delta)[0].exponent for delta in (1e-3, 10.0))
    assert robust == pytest.approx(LAW.exponent, abs=2e-3)
    assert abs(squares - LAW.exponent) > 5e-3


def test_bootstrap_surrounds_the_truth():
    _, draws = fit_law(*points(60, 0.01), n_resamples=30, rng=np.random.default_rng(0))
    found = np.array([fit.exponent for fit in draws])
    assert len(draws) == 30
    assert found.std() > 1e-3
    assert np.quantile(found, 0.025) < LAW.exponent < np.quantile(found, 0.975)


# ---- L-BFGS


def rosenbrock(x, data):
    a, b = x.T
    return (1 - a) ** 2 + 100 * (b - a**2) ** 2, np.stack(
        [-2 * (1 - a) - 400 * a * (b - a**2), 200 * (b - a**2)], -1
    )


def test_lbfgs_on_rosenbrock_and_rows_do_not_mix():
    starts = np.array([[-1.2, 1.0], [0.0, 0.0], [1.0, 1.0]])
    x, _ = lbfgs(rosenbrock, starts, np.zeros((3, 1)))
    np.testing.assert_allclose(x, 1.0, atol=1e-5)
    for i in range(3):
        alone, _ = lbfgs(rosenbrock, starts[i : i + 1], np.zeros((1, 1)))
        np.testing.assert_allclose(alone[0], x[i], atol=1e-6)


# ---- wrong input


def broken(index, value):
    data = points(8, 0.0)
    data[index][2] = value
    return Residuals(*data)


def run_of(**options):
    return list(train_run(tiny(), TEXT, generator=gen(), **options))


WRONG = [
    (lambda: steps_for(1.0, make_config(16, 31)), "budget must pay for a step"),
    (lambda: peak_scale(0), "steps must be at least 1, got 0"),
    (lambda: run_of(steps=0), "steps and horizon must be at least 1, got 0"),
    (lambda: run_of(steps=1, horizon=0), "steps and horizon must be at least 1"),
    (lambda: run_of(steps=1, floor=1.5), "floor must be between 0 and 1, got 1.5"),
    (lambda: isoflop_valley(np.array([1.0, 1.0, 2.0]), np.ones(3)), "different sizes, got 2"),
    (lambda: power_law(np.ones(2), -np.ones(2)), "must be positive"),
    (lambda: fit_law(*points(8, 0.01), n_resamples=3), "n_resamples = 3 needs an rng"),
    (lambda: broken(0, -1.0), "n_weights must be positive and finite"),
    (lambda: broken(1, 0.0), "n_tokens must be positive and finite"),
    (lambda: broken(2, math.nan), "loss must be positive and finite"),
    (lambda: Residuals(*points(4, 0.0)), "at least 5 runs, got 4"),
    (lambda: Residuals(*points(6, 0.0), delta=0.0), "delta must be positive, got 0.0"),
]


@pytest.mark.parametrize(("call", "match"), WRONG)
def test_wrong_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()
