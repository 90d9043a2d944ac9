"""Advantages are sums, clipping stops gains only, and three estimators of KL are three things."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from week21.evidence.policy_gradients import double_sum, edge
from week21.policy_gradients import (
    clipped_policy_loss,
    clipped_value_loss,
    entropy,
    gae,
    kl_estimate,
    kl_optimum,
    masked_mean,
    whiten,
)
from week21.small_mdp import random_mdp, walk

F64 = {"dtype": torch.float64}


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **F64)


# ---- advantages


@given(
    seed=st.integers(0, 10**6),
    time=st.integers(1, 12),
    gamma=st.floats(0, 1),
    lam=st.floats(0, 1),
)
def test_gae_is_the_sum_over_all_later_steps(seed, time, gamma, lam):
    rewards, values, following = normal(seed, 3, time, 4)
    done = normal(seed + 1, time, 4) < -0.5
    terminated = done & (normal(seed + 2, time, 4) < 0)
    delta = rewards + gamma * following * ~terminated - values
    ours = gae(rewards, values, following, terminated, done, gamma=gamma, lam=lam)
    torch.testing.assert_close(ours, double_sum(delta, done, gamma * lam), atol=1e-12, rtol=0)


def test_a_time_limit_is_not_an_end():
    """Both rows are over after the first step; only the one that was cut off is worth something."""
    done = torch.tensor([[True, True], [True, True]])
    terminated = torch.tensor([[True, False], [True, False]])
    ones = torch.ones(2, 2, **F64)
    found = gae(ones, 0 * ones, 10 * ones, terminated, done, gamma=0.5, lam=1.0)
    assert found.tolist() == [[1.0, 6.0], [1.0, 6.0]]


def test_a_value_of_nan_after_the_end_does_not_matter():
    yes = torch.ones(1, 1, dtype=torch.bool)
    one = torch.ones(1, 1)
    assert gae(one, one, one * math.nan, yes, yes).item() == 0


def test_lambda_one_with_no_values_is_the_return():
    rewards, never = normal(1, 6, 2), torch.zeros(6, 2, dtype=torch.bool)
    found = gae(rewards, 0 * rewards, 0 * rewards, never, never, gamma=1.0, lam=1.0)
    torch.testing.assert_close(found, rewards.flip(0).cumsum(0).flip(0))


# ---- means


@given(seed=st.integers(0, 10**6), n=st.integers(2, 20), extra=st.integers(0, 10))
def test_padding_changes_no_mean(seed, n, extra):
    x = normal(seed, n)
    padded = torch.cat([x, torch.full((extra,), math.nan, **F64)])
    mask = torch.arange(n + extra) < n
    torch.testing.assert_close(masked_mean(padded, mask), x.mean())
    torch.testing.assert_close(whiten(padded, mask)[:n], (x - x.mean()) / (x.std() + 1e-8))
    kept = whiten(padded, mask, shift=False)
    torch.testing.assert_close(kept[:n], whiten(x) + x.mean() / (x.std() + 1e-8))
    assert bool((kept[n:] == 0).all())


# ---- losses


def gradient(log_ratio: float, advantage: float, clip: float = 0.2) -> float:
    x = torch.tensor([log_ratio], **F64, requires_grad=True)
    old, a = torch.zeros(1, **F64), torch.tensor([advantage], **F64)
    clipped_policy_loss(x, old, a, clip=clip).backward()
    return x.grad.item()


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "moves"),
    [(0.5, 1, False), (-0.5, 1, True), (-0.5, -1, False), (0.5, -1, True), (0.1, 1, True)],
)
def test_clipping_stops_gains_and_never_losses(log_ratio, advantage, moves):
    assert gradient(log_ratio, advantage) == (-advantage * math.exp(log_ratio) if moves else 0)
    assert gradient(log_ratio, advantage, math.inf) == -advantage * math.exp(log_ratio)


@given(seed=st.integers(0, 10**6))
def test_value_clipping_takes_the_worse(seed):
    values, old, returns = normal(seed, 3, 7)
    near = old + (values - old).clamp(-0.2, 0.2)
    expected = torch.stack([(values - returns) ** 2, (near - returns) ** 2]).amax(0).mean() / 2
    torch.testing.assert_close(clipped_value_loss(values, old, returns, clip=0.2), expected)
    expected = torch.nn.functional.mse_loss(values, returns) / 2
    torch.testing.assert_close(clipped_value_loss(values, old, returns), expected)


def test_entropy():
    logits = normal(3, 4, 5)
    expected = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(entropy(logits), expected)
    assert entropy(torch.tensor([0.0, 0.0, -torch.inf])).item() == pytest.approx(math.log(2))


# ---- KL


@given(seed=st.integers(0, 10**6), n=st.integers(2, 9))
def test_what_the_estimators_are_as_values_and_as_losses(seed, n):
    logits = normal(seed, n).requires_grad_()
    log_p, log_q = logits.log_softmax(0), normal(seed + 1, n).log_softmax(0)
    p, q = log_p.exp(), log_q.exp()
    forward, reverse = (p * (log_p - log_q)).sum(), (q * (log_q - log_p)).sum()
    for kind in ("k1", "k3"):
        torch.testing.assert_close((p * kl_estimate(log_p, log_q, kind)).sum(), forward)
    for kind, exact in {"k1": 0 * forward, "k2": forward, "k3": reverse}.items():
        mean = (p.detach() * kl_estimate(log_p, log_q, kind)).sum()
        ours = torch.autograd.grad(mean, logits, retain_graph=True)[0]
        theirs = torch.autograd.grad(exact, logits, retain_graph=True)[0]
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-9)


def test_k3_keeps_its_digits_near_the_reference():
    x, zero = torch.tensor([1e-5]), torch.zeros(1)
    assert kl_estimate(x, zero, "k3").item() == pytest.approx(5e-11, rel=0.2)


@given(seed=st.integers(0, 10**6), beta=st.floats(0.05, 5))
def test_no_policy_beats_the_optimum(seed, beta):
    reference, rewards = normal(seed, 5).softmax(0), normal(seed + 1, 5)

    def objective(p):
        return (p * rewards).sum() - beta * (p * (p / reference).log()).sum()

    best = kl_optimum(reference, rewards, beta)
    exact = beta * (reference * (rewards / beta).exp()).sum().log()
    torch.testing.assert_close(objective(best), exact)
    assert objective(best) >= objective(normal(seed + 2, 5).softmax(0)) - 1e-12


# ---- the small problems, and the judge


def test_exact_values_are_what_walks_average_to():
    generator = torch.Generator().manual_seed(0)
    mdp = random_mdp(generator, n_states=3, gamma=0.8)
    policy = torch.full((3, 3), 1 / 3, **F64)
    states, actions = walk(mdp, policy, 4000, 50, generator)
    returns = (0.8 ** torch.arange(50))[:, None] * mdp.rewards[states[:-1], actions]
    error = 4 * returns.sum(0).std() / 4000**0.5
    assert abs(returns.sum(0).mean() - mdp.objective(policy)) < error
    assert mdp.visits(policy).sum() == pytest.approx(5)
    greedy = torch.nn.functional.one_hot(mdp.advantages(policy).argmax(1), 3).double()
    assert mdp.objective(policy) < mdp.objective(greedy) <= mdp.best() + 1e-9


def test_the_edge_is_over_the_better_end():
    assert edge(np.array([[2.0, 9, 1, 9, 9, 3]])).tolist() == [1.0]


# ---- wrong input

NO = torch.zeros(2, 1, dtype=torch.bool)
X = torch.zeros(2, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gae(X, X, X, NO, NO, gamma=1.5), r"gamma must lie in \[0, 1\], got 1.5"),
        (lambda: gae(X, X, X, NO, NO, lam=-1), r"lam must lie in \[0, 1\]"),
        (lambda: gae(X, X, X, ~NO, NO), "done must be True wherever terminated is"),
        (lambda: masked_mean(X, NO), "mask must be True somewhere"),
        (lambda: whiten(X[:1]), "x must have at least 2 entries that count, got 1"),
        (lambda: clipped_policy_loss(X, X, X, clip=0), "clip must be positive, got 0"),
        (lambda: clipped_value_loss(X, X, X, clip=-1), "clip must be positive"),
        (lambda: kl_optimum(X[:, 0], X[:, 0], 0.0), "beta must be positive"),
        (lambda: random_mdp(torch.Generator(), n_states=0), "n_states must be at least 1"),
        (lambda: random_mdp(torch.Generator(), n_actions=0), "n_actions must be at least 1"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
