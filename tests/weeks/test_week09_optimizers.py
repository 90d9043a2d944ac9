"""AdamW and Muon against torch.optim, option by option."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from week09.optimizers import AdamW, Muon, Optimizer, orthogonalize, trajectory


def quadratic(weight):
    target = torch.linspace(-1, 1, weight.numel(), dtype=weight.dtype).view_as(weight)
    curvature = torch.logspace(0, 2, weight.numel(), dtype=weight.dtype).view_as(weight)
    return (curvature * (weight - target) ** 2).sum()


def both(ours, theirs, shape=(4, 6), steps=30):
    paths = []
    for make in (ours, theirs):
        weight = torch.randn(shape, dtype=torch.float64, generator=torch.manual_seed(3))
        weight.requires_grad_()
        paths.append(trajectory(make([weight]), weight, quadratic, steps))
    return paths


@given(
    lr=st.floats(1e-4, 0.3),
    beta1=st.floats(0, 0.99),
    beta2=st.floats(0.8, 0.9999),  # below, m / |g| amplifies rounding where g crosses zero
    eps=st.sampled_from([1e-8, 1e-3]),
    weight_decay=st.sampled_from([0.0, 0.1]),
)
def test_adamw_follows_torch(lr, beta1, beta2, eps, weight_decay):
    options = {"lr": lr, "betas": (beta1, beta2), "eps": eps, "weight_decay": weight_decay}
    ours, theirs = both(lambda p: AdamW(p, **options), lambda p: torch.optim.AdamW(p, **options))
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7)


def test_adamw_default_options_are_torchs():
    ours, theirs = both(AdamW, torch.optim.AdamW)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_first_adam_step_has_length_lr_whatever_the_gradient():
    optimizer = AdamW([torch.zeros(3, requires_grad=True)], lr=0.1)
    step = optimizer.update(torch.tensor([1e-3, -1.0, 1e3]), {})
    torch.testing.assert_close(step, torch.tensor([0.1, -0.1, 0.1]), rtol=1e-4, atol=0)


@given(
    shape=st.sampled_from([(4, 6), (6, 4), (5, 5), (1, 7), (7, 1)]),
    momentum=st.floats(0, 0.99),
    weight_decay=st.sampled_from([0.0, 0.1]),
)
def test_muon_follows_torch(shape, momentum, weight_decay):
    options = {"lr": 0.03, "momentum": momentum, "weight_decay": weight_decay}
    ours, theirs = both(
        lambda p: Muon(p, **options, dtype=torch.bfloat16),
        lambda p: torch.optim.Muon(p, **options),
        shape,
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@given(rows=st.integers(1, 20), columns=st.integers(1, 20), scale=st.sampled_from([1e-6, 1.0, 1e6]))
def test_orthogonalize_keeps_singular_vectors_and_evens_values(rows, columns, scale):
    matrix = torch.randn(rows, columns, dtype=torch.float64, generator=torch.manual_seed(rows))
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    result = orthogonalize(scale * matrix, dtype=torch.float64)
    mapped = u.T @ result @ vt.T
    torch.testing.assert_close(mapped, torch.diag(mapped.diag()), rtol=0, atol=1e-9)
    large = s / s.norm() > 0.05
    assert ((mapped.diag()[large] > 0.6) & (mapped.diag()[large] < 1.3)).all()


def test_orthogonalize_of_zero_is_zero():
    assert (orthogonalize(torch.zeros(3, 4)) == 0).all()


def test_parameters_without_gradient_are_left_alone():
    used, unused = torch.ones(2, 2, requires_grad=True), torch.ones(2, 2, requires_grad=True)
    optimizer = AdamW([used, unused], weight_decay=0.5)
    used.sum().backward()
    optimizer.step()
    assert (unused == 1).all()
    assert (used != 1).all()
    optimizer.zero_grad()
    assert used.grad is None


def test_tall_matrices_move_further():
    tall = Muon([torch.zeros(32, 8, requires_grad=True)], lr=1.0)
    gradient = torch.randn(32, 8, generator=torch.manual_seed(0))
    step = tall.update(gradient, {})
    assert math.isclose(float(step.norm()), 2 * float(orthogonalize(gradient).norm()), rel_tol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: AdamW([]), "params must hold at least one tensor"),
        (lambda p: AdamW(p, lr=-1.0), "lr must be at least 0, got -1.0"),
        (lambda p: AdamW(p, weight_decay=-0.1), "weight_decay must be at least 0, got -0.1"),
        (lambda p: AdamW(p, betas=(0.9, 1.0)), r"betas must lie in \[0, 1\)"),
        (lambda p: Muon(p, momentum=1.0), r"momentum must lie in \[0, 1\), got 1.0"),
        (lambda p: Muon([torch.zeros(3)]), r"params must be matrices, got .* \(3,\)"),
    ],
)
def test_bad_options_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make([torch.zeros(2, 2, requires_grad=True)])


def test_base_class_has_no_step_of_its_own():
    weight = torch.ones(2, 2, requires_grad=True)
    weight.sum().backward()
    with pytest.raises(NotImplementedError):
        Optimizer([weight], lr=0.1, weight_decay=0.0).step()


def test_parameters_do_not_share_state():
    pairs = []
    for make in (AdamW, torch.optim.AdamW):
        weights = [torch.full((2, 2), v, requires_grad=True) for v in (1.0, -3.0)]
        optimizer = make(weights, lr=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            sum(quadratic(w) for w in weights).backward()
            optimizer.step()
        pairs.append(torch.stack([w.detach() for w in weights]))
    torch.testing.assert_close(*pairs)
