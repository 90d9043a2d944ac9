"""Rewards from preferences: the losses are the libraries', and padding is never read."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from week14.minimal_gpt import GPT, GPTConfig
from week21 import trl_preferences as trl
from week21.dialogues import Pair, common_words, last_answer, word_features, words_of
from week21.dpo import Preference
from week21.evidence.reward_model import correlation, new_pairs
from week21.reward_model import (
    RewardModel,
    fit_linear_reward,
    preference_loss,
    preference_probability,
    soft_preference_loss,
    train,
)
from week21.toy_reviews import habits, rewards


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(seed: int = 0) -> RewardModel:
    config = GPTConfig(12, context=16, n_layers=1, n_heads=2, d_model=8)
    model = RewardModel(GPT(config, generator(seed)), generator(seed))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3)
    return model


# ---- losses


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 9), margins=st.booleans())
def test_loss_and_gradient_are_trls(seed, n, margins):
    both = (5 * torch.randn(2 * n, generator=generator(seed))).requires_grad_()
    margin = torch.rand(n, generator=generator(seed + 1)) if margins else None
    ours = preference_loss(*both.chunk(2), margin).mean()
    theirs = trl.quietly(lambda: trl.reward_loss(both, margin))
    torch.testing.assert_close(ours, theirs)
    (a,), (b,) = (torch.autograd.grad(x, both) for x in (ours, theirs))
    torch.testing.assert_close(a, b)


@given(seed=st.integers(0, 10**6), n=st.integers(1, 9))
def test_shares_are_soft_labels(seed, n):
    a, b = 5 * torch.randn(2, n, generator=generator(seed))
    share = torch.rand(n, generator=generator(seed + 1))
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(a - b, share, reduction="none")
    torch.testing.assert_close(soft_preference_loss(a, b, share), theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        preference_probability(a, b) + preference_probability(b, a), torch.ones(n)
    )


def test_a_constant_for_both_changes_nothing():
    a, b = torch.randn(2, 6, generator=generator(), dtype=torch.float64)
    torch.testing.assert_close(preference_loss(a + 7, b + 7), preference_loss(a, b))


def test_a_tie_pulls_rewards_together():
    a = torch.tensor([1.0], requires_grad=True)
    soft_preference_loss(a, torch.zeros(1), torch.tensor([0.5])).sum().backward()
    assert a.grad.item() > 0


def test_large_gaps_stay_finite():
    far = torch.tensor([1e4], requires_grad=True)
    preference_loss(torch.zeros(1), far).sum().backward()
    assert far.grad.item() == pytest.approx(1)
    assert preference_loss(torch.zeros(1), far).item() == pytest.approx(1e4)


# ---- linear rewards


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 40), k=st.integers(1, 8), l2=st.floats(0.1, 9))
def test_linear_reward_is_logistic_regression_on_differences(seed, n, k, l2):
    from sklearn.linear_model import LogisticRegression

    x = torch.randn(n, k, generator=generator(seed), dtype=torch.float64)
    model = LogisticRegression(C=1 / l2, fit_intercept=False, tol=1e-12, max_iter=10_000)
    weight = np.full(2 * n, 0.5)
    model.fit(torch.cat([x, -x]).numpy(), np.repeat([1, 0], n), sample_weight=weight)
    np.testing.assert_allclose(fit_linear_reward(x, l2=l2), model.coef_[0], atol=1e-5)


def test_pairs_that_are_all_decided_have_a_finite_weight():
    w = fit_linear_reward(torch.ones(50, 1), l2=0.01)
    assert 0 < w.item() < 20


# ---- the model


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=10), min_size=1, max_size=4))
def test_batched_and_padded_is_one_by_one(texts):
    """The text itself may hold the id that pads (0)."""
    model = small()
    lengths = torch.tensor([len(text) for text in texts])
    tokens = torch.zeros(len(texts), int(lengths.max()) + 2, dtype=torch.long)
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text)] = torch.tensor(text)
    with torch.no_grad():
        together = model(tokens, lengths)
        for value, text in zip(together, texts, strict=True):
            alone = model(torch.tensor([text]), torch.tensor([len(text)]))
            torch.testing.assert_close(value, alone[0], atol=1e-5, rtol=1e-4)


def test_the_reward_sees_the_last_token_and_nothing_after_it():
    model = small()
    tokens = torch.tensor([[3, 4, 5, 6, 0]])
    length = torch.tensor([4])
    with torch.no_grad():
        value = model(tokens, length)
        changed = model(torch.tensor([[3, 4, 5, 7, 0]]), length)
        padded = model(torch.tensor([[3, 4, 5, 6, 9]]), length)
    assert value != changed
    assert value == padded


def test_it_learns_what_is_preferred():
    """Texts with a 5 are preferred; the order in which texts come is not learned."""
    draw = np.random.default_rng(0)
    pairs = []
    for _ in range(200):
        text = draw.integers(6, 12, 3).tolist()
        pairs.append(Preference([1], [*text, 5, 2], [*text, 3, 4, 2]))
    model = small(1)
    logs = list(train(model, pairs, steps=40, batch=32, lr=1e-2, generator=generator()))
    assert logs[-1]["accuracy"] == 1
    assert logs[-1]["loss"] < 0.1 < logs[0]["loss"]


# ---- dialogues


def test_answers_and_words():
    pair = Pair("\n\nHuman: a\n\nAssistant: one\n\nHuman: b\n\nAssistant: It’s me.", "x")
    assert last_answer(pair.chosen) == "It’s me."
    assert words_of("It’s A-b") == ["it's", "a", "b"]
    assert common_words(["a b", "b c", "b c"], at_least=2) == ["b", "c"]
    assert word_features(["b b", "z"], ["b", "c"]).tolist() == [[1, 0], [0, 0]]


def test_correlation_is_one_for_the_truth_up_to_a_constant_per_prompt():
    found = 2 * rewards() + torch.tensor([[0.0], [5.0], [-3.0]])
    assert correlation(found, habits()) == pytest.approx(1, abs=1e-4)
    assert correlation(-found, habits()) == pytest.approx(-1, abs=1e-4)


def test_the_true_reward_is_calibrated():
    said, happened = new_pairs(rewards().expand(3, -1), habits(), generator())
    assert ((said > 0.5) == happened).mean() > 0.6
    assert abs(said.mean() - happened.mean()) < 0.03
    assert happened[said > 0.8].mean() > 0.8


# ---- errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit_linear_reward(torch.ones(2, 2), l2=0.0), "l2 must be positive, got 0"),
        (
            lambda: soft_preference_loss(torch.ones(1), torch.ones(1), torch.tensor([1.5])),
            r"share must lie in \[0, 1\], got 1.5",
        ),
        (
            lambda: small()(torch.zeros(1, 3).long(), torch.tensor([4])),
            r"lengths must be between 1 and 3, got \[4\]",
        ),
        (
            lambda: small()(torch.zeros(1, 3).long(), torch.tensor([0])),
            "lengths must be between 1 and 3",
        ),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
