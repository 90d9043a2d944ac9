"""Speculative text follows the target, exactly; what it costs follows the formula."""

import numpy as np
import pytest
import torch
from enforce import plain
from hypothesis import given
from hypothesis import strategies as st

from week19 import markov_texts
from week19.evidence.speculative_decoding import kept_places
from week19.speculative_decoding import (
    expected_speedup,
    expected_tokens,
    generate,
    residual,
    speculative_generate,
    verify,
    with_temperature,
)


def rows(seed: int, *shape: int) -> torch.Tensor:
    """Random distributions, some with zeros."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(*shape, generator=generator, dtype=torch.float64)
    x = torch.where(x < 0.2, 0.0, x)
    x[..., 0] += 0.01
    return x / x.sum(-1, keepdim=True)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- the rule


@given(seed=st.integers(0, 10**6), vocab=st.integers(1, 9))
def test_one_guess_gives_the_target_exactly(seed, vocab):
    """q(x) min(1, p/q) + rejected · r(x) = p(x), for every token."""
    p, q = rows(seed, vocab), rows(seed + 1, vocab)
    kept = torch.minimum(p, q)
    law = kept + (1 - kept.sum()) * residual(p, q)
    torch.testing.assert_close(law, p, atol=1e-14, rtol=0)


def test_verify_stops_at_the_first_rejection():
    """Guess 2 is impossible for the target: only guess 1 may count, though guess 3 would fit."""
    p = torch.full((1, 4, 3), 1 / 3)
    p[0, 1] = torch.tensor([0.0, 0.5, 0.5])
    q = torch.zeros(1, 3, 3)
    q[..., 0] = 1 / 3
    for seed in range(20):
        kept, token = verify(torch.zeros(1, 3, dtype=torch.long), p, q, generator(seed))
        assert kept.tolist() == [1]
        assert token.item() in (1, 2)


def test_the_token_more_is_drawn_from_the_target():
    p = torch.tensor([[[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]]).expand(4000, 2, 3)
    guesses = torch.zeros(4000, 1, dtype=torch.long)
    kept, token = verify(guesses, p, p[:, :1], generator())
    assert bool((kept == 1).all())
    frequency = torch.bincount(token, minlength=3) / 4000
    torch.testing.assert_close(frequency, p[0, 1], atol=0.04, rtol=0)


# ---- what it costs


def test_tokens_at_the_ends():
    assert expected_tokens(0, 5) == 1
    assert expected_tokens(1, 5) == 6
    assert expected_speedup(0.8, 0, 0.3) == 1


# ---- text


def table_model(table: torch.Tensor):
    """Logits of a Markov model."""
    return lambda tokens: table[tokens].log()


@given(seed=st.integers(0, 10**6), gamma=st.integers(1, 7), length=st.integers(0, 25))
def test_greedy_text_is_the_targets_own(seed, gamma, length):
    target, draft = rows(seed, 5, 5), rows(seed + 1, 5, 5)
    prompt = torch.tensor([0, 3])
    models = [with_temperature(table_model(t), 0) for t in (target, draft)]
    ours = speculative_generate(*models, prompt, length, gamma=gamma)
    alone = generate(models[0], prompt, length)
    assert ours.tokens.tolist() == alone.tokens.tolist()
    assert len(ours.tokens) == 2 + length
    assert ours.target_passes <= alone.target_passes == length
    assert sum(ours.kept) + ours.target_passes == length


def test_a_perfect_draft_is_always_kept():
    model = with_temperature(table_model(rows(9, 5, 5)))
    text = speculative_generate(model, model, torch.tensor([1]), 30, gamma=4, generator=generator())
    assert text.kept == [4] * 6
    assert text.target_passes == 6


def test_distribution_of_generated_text():
    """The same χ² through `speculative_generate`, one sequence at a time."""
    from scipy.stats import chisquare

    target, draft = rows(10, 3, 3) + 0.1, rows(11, 3, 3) + 0.1
    target, draft = target / target.sum(-1, keepdim=True), draft / draft.sum(-1, keepdim=True)
    models = [with_temperature(table_model(t)) for t in (target, draft)]
    source, counts = generator(), np.zeros(9)
    for _ in range(1500):
        text = speculative_generate(*models, torch.tensor([0]), 2, gamma=2, generator=source)
        counts[int(text.tokens[1]) * 3 + int(text.tokens[2])] += 1
    assert chisquare(counts, 1500 * markov_texts.pair_law(target).ravel()).pvalue > 1e-4


# ---- wrong input


ROWS = rows(0, 2, 3)
MODEL, PROMPT = with_temperature(table_model(rows(0, 3, 3))), torch.tensor([0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: speculative_generate(MODEL, MODEL, PROMPT, 3, gamma=0), "gamma must be at least"),
        (lambda: generate(MODEL, PROMPT[:0], 3), "prompt must hold at least one token"),
        (lambda: generate(MODEL, PROMPT, -1), "length must be at least 0, got -1"),
        (lambda: with_temperature(MODEL, -1), "temperature must be at least 0"),
        (lambda: with_temperature(MODEL, float("nan")), "at least 0 and finite, got nan"),
        (lambda: with_temperature(MODEL, float("inf")), "at least 0 and finite, got inf"),
        (
            lambda: plain("19", "speculative_decoding").acceptance_rate(ROWS[0], ROWS[0, :1]),
            r"q must be floats of shape \(\*batch, vocab\), got torch.float64 of shape \(1\)",
        ),
        (lambda: expected_tokens(1.5, 2), "alpha must lie in"),
        (lambda: expected_tokens(0.5, -1), "gamma must be at least 0"),
        (lambda: expected_speedup(0.5, 1, -1), "cost must be at least 0"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_rows_that_do_not_fit_are_refused():
    p = rows(1, 1, 3, 4)
    with pytest.raises((ValueError, TypeError), match=r"p must have one row more|shape|gamma"):
        verify(torch.zeros(1, 2, dtype=torch.long), p[:, :2], p[:, :2])


def test_after_kept_guesses_comes_the_targets_own():
    assert kept_places([2, 0, 1], 1).tolist() == [0, 1, 1, 0, 0, 1, 0]
