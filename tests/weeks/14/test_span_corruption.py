"""Cutting and splicing, and what each objective keeps of a text."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from week14.span_corruption import (
    EOS,
    OBJECTIVES,
    corrupt_spans,
    infill,
    mask_tokens,
    noise_counts,
    noise_mask,
    raw_length,
    restore,
    source_and_target_length,
    span_corruption,
)

VOCAB, RNG = 200, np.random.default_rng(0)
texts = st.lists(st.integers(2, 90), min_size=2, max_size=60).map(np.array)
seeds = st.integers(0, 1000).map(np.random.default_rng)


@given(texts, seeds, st.floats(0.01, 0.99), st.floats(1, 6))
def test_splicing_restores_and_lengths_follow_the_formula(tokens, rng, density, mean_span):
    options = {"density": density, "mean_span": mean_span}
    sides = source, target = corrupt_spans(tokens, rng, VOCAB, **options)
    assert (restore(source, target, vocab_size=VOCAB) == tokens).all()
    assert tuple(map(len, sides)) == source_and_target_length(len(tokens), **options)
    marks = [[t for t in side.tolist() if t > 90] for side in sides]
    assert marks[0] == marks[1] == [VOCAB - 1 - k for k in range(len(marks[0]))]
    assert source[-1] == target[-1] == EOS


@given(st.integers(3, 700), st.floats(0.05, 0.5), st.floats(1, 5))
def test_raw_length_fills_the_source(length, density, mean_span):
    options = {"density": density, "mean_span": mean_span}
    n = raw_length(length, **options)
    assert source_and_target_length(n + 1, **options)[0] > length
    assert all(source_and_target_length(m, **options)[0] <= length for m in range(2, n + 1))


def test_paper_example():
    words = ["Thank", "you", "for", "inviting", "me", "to", "your", "party", "last", "week"]
    tokens = np.arange(2, 12)
    cut = np.array([word in ("for", "inviting", "last") for word in words])
    source, target = span_corruption(tokens, cut, vocab_size=VOCAB)
    assert source.tolist() == [2, 3, 199, 6, 7, 8, 9, 198, 11, EOS]
    assert target.tolist() == [199, 4, 5, 198, 10, 197, EOS]  # with the closing sentinel
    assert (restore(source, target, vocab_size=VOCAB) == tokens).all()


@given(st.integers(2, 60), seeds)
def test_the_mask_has_the_counts(n, rng):
    mask, (noise, spans) = noise_mask(n, rng), noise_counts(n)
    assert mask.sum() == noise
    assert (np.diff(mask * 1) == 1).sum() == spans
    assert not mask[0]
    assert mask[-1]


def test_what_a_wrong_answer_leaves_out_is_nothing():
    source = np.array([5, 199, 6, 198, EOS])
    spliced = restore(source, np.array([198, 8, 8, EOS, 9]), vocab_size=VOCAB)
    assert spliced.tolist() == [5, 6, 8, 8]
    assert restore(source, np.array([7, 7]), vocab_size=VOCAB).tolist() == [5, 6]


@given(texts, seeds, st.floats(0.05, 1.0))
def test_infilling_keeps_the_order_and_hides_the_share(tokens, rng, share):
    source, target = infill(tokens, rng, VOCAB, share=share)
    assert (target == [*tokens, EOS]).all()
    kept = [t for t in source.tolist() if t != VOCAB - 1]
    assert len(kept) == 1 + len(tokens) - round(share * len(tokens))
    rest = iter(target.tolist())
    assert all(t in rest for t in kept)  # a subsequence


def test_infilling_hides_every_place_in_spans_of_the_rate():
    rng, tokens, n = np.random.default_rng(0), np.arange(2, 62), 500
    sources = [infill(tokens, rng, VOCAB)[0] for _ in range(n)]
    kept = Counter(np.concatenate(sources).tolist())
    hidden = np.array([1 - kept[t] / n for t in tokens])
    assert hidden.mean() == pytest.approx(0.3)
    assert hidden.min() > 0.05  # the ends less often: fewer spans reach them
    assert np.abs(hidden[9:-9] - 0.3).max() < 0.12
    marks = np.mean([(s == VOCAB - 1).sum() for s in sources])
    assert 18 / 3 < marks < 18 / 3 + 1  # spans of mean 3 until 18 tokens are covered
    assert any((np.diff(s) == 0).any() for s in sources)  # marks may meet


def test_masking_has_its_shares():
    rng, tokens = np.random.default_rng(0), np.full(20_000, 7)
    source, target = mask_tokens(tokens, rng, VOCAB)
    assert (target[:-1] == 7).all()
    assert (source == VOCAB - 1).mean() == pytest.approx(0.135, abs=0.01)
    assert (source[:-1] != 7).mean() == pytest.approx(0.15, abs=0.01)
    assert source.min() >= EOS


@given(texts, seeds)
def test_prefix_and_deshuffling_keep_all_tokens(tokens, rng):
    source, target = OBJECTIVES["prefix"](tokens, rng, VOCAB)
    assert (np.concatenate([source[:-1], target[:-1]]) == tokens).all()
    assert min(len(source), len(target)) >= 2
    source, target = OBJECTIVES["deshuffling"](tokens, rng, VOCAB)
    assert (target[:-1] == tokens).all()
    assert (np.sort(source[:-1]) == np.sort(tokens)).all()


@given(texts, st.integers(0, 1000), st.sampled_from(sorted(OBJECTIVES)))
def test_objectives_end_their_sides_and_repeat(tokens, seed, name):
    pairs = [OBJECTIVES[name](tokens, np.random.default_rng(seed), VOCAB) for _ in range(2)]
    for side, again in zip(*pairs, strict=True):
        assert side[-1] == EOS
        assert (side == again).all()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: noise_counts(1), "n must be at least 2, got 1"),
        (lambda: noise_counts(9, 0.0), r"density must be in \(0, 1\), got 0.0"),
        (lambda: noise_counts(9, mean_span=0.5), "mean_span must be at least 1, got 0.5"),
        (lambda: raw_length(2), "source_length must be at least 3, got 2"),
        (
            lambda: span_corruption(np.arange(2, 5), np.array([True, False, True]), vocab_size=9),
            r"mask must begin with a token that is kept, got \[ True\]",
        ),
        (
            lambda: span_corruption(np.arange(5), np.array([False] * 5), vocab_size=9),
            "tokens must be between 2 and 7, below the sentinels, got 0 and 4",
        ),
        (
            lambda: span_corruption(
                np.arange(2, 9), np.array([False, True] * 3 + [False]), vocab_size=9
            ),
            "tokens must be between 2 and 4, below the sentinels, got 2 and 8",
        ),
        (
            lambda: span_corruption(np.arange(2, 5), np.array([False]), vocab_size=9),
            r"mask must be booleans of shape \(n = 3\)",
        ),
        (lambda: infill(np.arange(2, 9), RNG, 20, share=0.0), "share must be in"),
        (lambda: infill(np.arange(2, 9), RNG, 20, rate=0), "rate must be positive, got 0"),
        (lambda: mask_tokens(np.arange(2, 9), RNG, 20, density=1), "density must be in"),
        (
            lambda: OBJECTIVES["prefix"](np.arange(2, 3), RNG, 20),
            "tokens must be at least 2, got 1",
        ),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()
