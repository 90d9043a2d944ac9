"""The stacked step, the statistic and the verdict of papers/2024-muon."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_scripts import load

from shared import records
from week09.muon import Muon
from week09.optimizers import AdamW
from week14.minimal_gpt import GPT, GPTConfig, next_token_loss, random_batch

CONFIG = GPTConfig(13, 8, 1, 2, 8)


paper = load(records.ROOT / "papers/2024-muon/reproduce.py")


def tokens(n=400):
    return torch.randint(13, (n,), generator=torch.Generator().manual_seed(0))


def alone(arm, lr, seed, steps, decay):
    """One model under week 09's optimizers, in a plain loop."""
    model = GPT(CONFIG, torch.Generator().manual_seed(seed))
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    held = {id(p) for p in matrices} if arm == "muon" else set()
    rest = [p for p in model.parameters() if id(p) not in held]
    used = [AdamW(rest, lr=lr, betas=(0.9, 0.95), weight_decay=decay)]
    if arm == "muon":
        used.append(Muon(matrices, lr=lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))
    g = torch.Generator().manual_seed(1000 + seed)
    for step in range(steps):
        x, y = random_batch(tokens(), 3, 8, g)
        for o in used:
            o.zero_grad()
            o.lr = lr * paper.schedule(step, steps)
        next_token_loss(model(x), y).backward()
        for o in used:
            o.step()
    return model


@pytest.mark.parametrize("arm", ["adamw", "muon"])
def test_a_run_in_a_stack_is_the_run_alone(arm):
    validation = tokens(99)[:99].view(11, 9)
    lrs, seeds = [0.02, 0.005], [1, 2]
    options = {"lrs": lrs, "seeds": seeds, "steps": 6, "batch": 3, "weight_decay": 0.1}
    losses = paper.train_stack(CONFIG, tokens(), validation, arm=arm, **options)
    for loss, lr, seed in zip(losses, lrs, seeds, strict=True):
        model = alone(arm, lr, seed, 6, 0.1)
        with torch.no_grad():
            expected = next_token_loss(model(validation[:, :-1]), validation[:, 1:]).item()
        assert loss == pytest.approx(expected, abs=2e-5)


@given(st.integers(2, 12), st.integers(2, 12), st.integers(0, 10**6))
def test_both_directions_have_adamws_size(m, n, seed):
    g = torch.Generator().manual_seed(seed)
    M = torch.randn(2, m, n, generator=g)
    exact = paper.direction(M, "muon", coefficients=(1.5, -0.5, 0.0), steps=60)
    frobenius = paper.direction(M, "frobenius")
    rms = frobenius.square().mean(dim=(1, 2)).sqrt()
    torch.testing.assert_close(rms, torch.full((2,), 0.2), atol=1e-5, rtol=1e-5)
    full = torch.linalg.svdvals(M).min() > 0.05
    if full:  # min(m, n) singular values of 1 make a root mean square of 1/√max(m, n)
        rms = exact.square().mean(dim=(1, 2)).sqrt()
        torch.testing.assert_close(rms, torch.full((2,), 0.2), atol=1e-3, rtol=1e-3)
    cosine = torch.nn.functional.cosine_similarity(frobenius.flatten(1), M.flatten(1))
    torch.testing.assert_close(cosine, torch.ones(2))


def test_direction_of_a_matrix_with_known_svd():
    q = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))[0]
    M = (q * torch.tensor([5.0, 2.0, 1.0, 0.5, 0.2, 0.1])) @ q.T
    got = paper.direction(M[None], "muon", coefficients=(1.5, -0.5, 0.0), steps=60)[0]
    torch.testing.assert_close(got, 0.2 * 6**0.5 * torch.eye(6), atol=1e-4, rtol=0)


def test_schedule_rises_and_falls_to_almost_zero():
    factors = [paper.schedule(step, 50) for step in range(50)]
    assert factors[0] == pytest.approx(0.2)
    assert max(factors) == 1.0
    assert factors.index(1.0) == 4
    assert (np.diff(factors[4:]) < 0).all()
    assert 0 < factors[-1] < 0.05


BUDGETS = np.array([100, 200, 400])


@pytest.mark.parametrize(
    ("losses", "target", "ratio"),
    [
        ([3.0, 2.0, 1.0], 1.0, 1.0),
        ([3.0, 2.0, 1.0], 2.0, 2.0),
        ([3.0, 2.0, 1.0], 1.5, 2**0.5),
        ([3.0, 2.0, 1.0], 3.5, 4.0),
        ([3.0, 2.0, 1.0], 0.9, 0.0),
        ([2.0, 3.0, 1.0], 2.5, 4.0),
    ],
)
def test_steps_ratio(losses, target, ratio):
    assert paper.steps_ratio(np.array(losses), BUDGETS, target) == pytest.approx(ratio)


def test_steps_ratio_wants_ascending_budgets():
    with pytest.raises(ValueError, match=r"budgets must ascend, one per loss, got \[2, 1\]"):
        paper.steps_ratio(np.array([1.0, 2.0]), np.array([2, 1]), 1.0)


def test_overhead_by_hand():
    config = GPTConfig(10, 8, 1, 1, 4)
    # four 4×4 at 4·64 + 2·64, two 4×16 at 4·256 + 2·64, five rounds; 6 · 192 weights a token
    expected = 5 * (4 * 384 + 2 * 1152) / (6 * 192 * 100)
    assert paper.flops_overhead(config, 100) == pytest.approx(expected)


def test_wrong_arms_and_rates_are_refused():
    params = {"w": torch.zeros(1, 2, 2, requires_grad=True)}
    with pytest.raises(ValueError, match="arm must be one of adamw, muon, frobenius, got 'sgd'"):
        paper.StackedOptimizer(params, torch.ones(1), "sgd", set())
    with pytest.raises(ValueError, match="lr must be positive, got -1"):
        paper.StackedOptimizer(params, -torch.ones(1), "muon", set())
