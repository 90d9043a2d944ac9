"""Scores, orders and pace of a curriculum."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from week14.minimal_gpt import GPT, GPTConfig, evaluate
from week14.ngram import WittenBell
from week16.curriculum import arrange, batches, difficulty, mean_loss, pool_fraction, train


def text(n, seed=0, vocab=5):
    return np.random.default_rng(seed).integers(0, vocab, n)


# ---- difficulty


@given(order=st.integers(1, 4), length=st.integers(4, 9), n=st.integers(1, 6))
def test_difficulty_is_each_windows_own_mean(order, length, n):
    windows, counted = text(n * length, 1).reshape(n, length), text(200)
    model = WittenBell(order, 5).fit(counted)
    expected = [-model.log_probs(w).mean() for w in windows]
    np.testing.assert_allclose(
        difficulty(windows, counted, order=order, vocab_size=5), expected, atol=1e-12
    )


# ---- order


@given(scores=st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_orders_are_permutations_sorted_as_said(scores):
    scores = np.array(scores, dtype=float)
    rng = np.random.default_rng(0)
    for order in ("all at once", "easy first", "hard first", "random pool"):
        assert sorted(arrange(scores, order, rng)) == list(range(len(scores)))
    assert (np.diff(scores[arrange(scores, "easy first", rng)]) >= 0).all()
    assert (np.diff(scores[arrange(scores, "hard first", rng)]) <= 0).all()


def test_random_pool_ignores_the_scores():
    scores = np.arange(50.0)
    a = arrange(scores, "random pool", np.random.default_rng(3))
    b = arrange(-scores, "random pool", np.random.default_rng(3))
    assert (a == b).all()
    assert (a != np.arange(50)).any()


# ---- pace


def test_pace_by_hand():
    assert pool_fraction(0, 100) == pytest.approx(0.2)
    assert pool_fraction(30, 100) == pytest.approx(0.6)
    assert pool_fraction(60, 100) == 1.0
    assert pool_fraction(99, 100) == 1.0
    assert pool_fraction(0, 10, start=0.3, until=0.0) == 1.0


def test_draws_stay_in_the_pool_and_reach_all_of_it():
    arranged = np.random.default_rng(1).permutation(100)
    rank = np.argsort(arranged)
    seen = list(batches(arranged, steps=50, batch_size=64, rng=np.random.default_rng(0)))
    assert len(seen) == 50
    for step, rows in enumerate(seen):
        limit = round(pool_fraction(step, 50) * 100)
        assert rank[rows].max() < limit
    assert rank[seen[0]].max() >= 15  # of 20: 64 draws
    assert len(np.unique(np.concatenate(seen[30:]))) == 100
    whole = next(
        batches(arranged, steps=1, batch_size=400, rng=np.random.default_rng(0), whole=True)
    )
    assert len(np.unique(whole)) > 90


WRONG = [
    (lambda rng: pool_fraction(0, 5, start=0.0), r"start must be in \(0, 1\], got 0"),
    (lambda rng: pool_fraction(0, 5, until=2.0), r"until must be in \[0, 1\], got 2"),
    (lambda rng: pool_fraction(5, 5), "step must be between 0 and steps - 1 = 4, got 5"),
    (lambda rng: next(batches(np.arange(3), steps=2, batch_size=0, rng=rng)), "at least 1, got 0"),
    (lambda rng: next(batches(np.arange(0), steps=2, batch_size=1, rng=rng)), "one window"),
    (lambda rng: difficulty(np.ones((2, 6), int), text(9), order=7, vocab_size=5), "7 long, got 6"),
    (lambda rng: arrange(np.ones(3), "shortest first", rng), "order"),
]


@pytest.mark.parametrize(("call", "match"), WRONG)
def test_wrong_input(call, match):
    with pytest.raises((ValueError, TypeError), match=match):
        call(np.random.default_rng(0))


# ---- training


def small(seed=0):
    return GPT(GPTConfig(5, 8, 1, 2, 8), torch.Generator().manual_seed(seed))


def test_mean_loss_equals_week_14s():
    model, tokens = small(), torch.from_numpy(text(8 * 6 + 1))
    windows = torch.stack([tokens[i : i + 9] for i in range(0, 48, 8)])
    assert mean_loss(model, windows).mean().item() == pytest.approx(
        evaluate(model, tokens, window=8), abs=1e-5
    )
    assert mean_loss(model, windows).shape == (6,)


def test_training_learns():
    windows = torch.from_numpy(np.tile([0, 1, 2], 30)[:81].reshape(9, 9))
    order = batches(np.arange(9), steps=60, batch_size=8, rng=np.random.default_rng(0))
    losses = list(train(small(), windows, order, steps=60, lr=3e-2))
    assert losses[0] == pytest.approx(math.log(5), abs=0.1)
    assert losses[-1] < 0.3


def test_rate_falls_to_zero():
    model, windows = small(), torch.from_numpy(text(90).reshape(10, 9))
    points = [torch.nn.utils.parameters_to_vector(model.parameters())]
    options = {"batch_size": 8, "rng": np.random.default_rng(0), "whole": True}
    for _ in train(model, windows, batches(np.arange(10), steps=20, **options), steps=20, lr=1e-2):
        points.append(torch.nn.utils.parameters_to_vector(model.parameters()))
    moved = torch.stack(points).diff(dim=0).abs().amax(dim=1)
    assert moved[-1] < 0.2 * moved[0]
