"""Witten–Bell n-grams against exact arithmetic."""

import math

import numpy as np
import pytest
from enforce import plain
from hypothesis import given
from hypothesis import strategies as st

from week14.ngram import WittenBell, encode_characters, exact_probability

SMALL = st.text(alphabet="abc", min_size=6, max_size=40)


@given(text=SMALL, order=st.integers(1, 4))
def test_equals_the_definition_in_fractions(text, order):
    tokens, alphabet = encode_characters(text)
    ours = WittenBell(order, len(alphabet)).fit(tokens).log_probs(tokens)
    exact = [
        math.log(exact_probability(text, text[i - order + 1 : i], text[i], alphabet))
        for i in range(order - 1, len(text))
    ]
    np.testing.assert_allclose(ours, exact, rtol=0, atol=1e-12)


@given(text=SMALL, unseen=SMALL, order=st.integers(1, 4))
def test_probabilities_sum_to_one_after_any_context(text, unseen, order):
    alphabet = "abcd"  # d is never seen
    train, context = (np.array([alphabet.index(c) for c in t]) for t in (text, unseen))
    model = WittenBell(order, 4).fit(train)
    total = sum(math.exp(model.log_probs(np.append(context, x))[-1]) for x in range(len(alphabet)))
    assert math.isclose(total, 1, rel_tol=1e-12)


def test_a_failed_fit_leaves_the_model_as_it_was():
    tokens = np.array([0, 1, 2, 0, 1, 1])
    model = WittenBell(2, 3).fit(tokens)
    before = model.log_probs(tokens)
    for bad in (np.array([0, 7]), np.array([1])):
        with pytest.raises(ValueError, match="tokens must"):
            model.fit(bad)
        np.testing.assert_array_equal(model.log_probs(tokens), before)
        assert model.seen(tokens).all()


@pytest.mark.parametrize("take", [list, np.uint64, np.uint8, np.int16])
def test_tokens_of_every_kind_are_counted_alike(take):
    tokens = np.random.default_rng(0).integers(0, 200, 400)
    model = WittenBell(7, 200).fit(tokens)  # keys up to 200**7, beyond what a double can tell apart
    taken = tokens.tolist() if take is list else tokens.astype(take)
    other = plain("14", "ngram").WittenBell(7, 200).fit(taken)
    np.testing.assert_array_equal(other.log_probs(taken), model.log_probs(tokens))


def test_encoding_round_trips_beyond_the_basic_plane():
    text = "naïve 数学 🧮 e\u0301"
    tokens, alphabet = encode_characters(text)
    assert "".join(alphabet[i] for i in tokens) == text
    assert list(alphabet) == sorted(alphabet)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: WittenBell(0, 5), "order must be at least 1, got 0"),
        (lambda: WittenBell(2, 0), "vocab_size must be at least 1, got 0"),
        (lambda: WittenBell(9, 1000), "n-grams must fit in 63-bit keys"),
        (lambda: WittenBell(3, 5).fit(np.array([1, 2])), "tokens must hold at least order = 3"),
        (lambda: WittenBell(1, 5).fit(np.array([1, 7])), r"tokens must lie in 0\.\.4, got 1\.\.7"),
        (lambda: WittenBell(2, 3).log_probs(np.array([1, 2])), "must be fitted before use"),
        (lambda: WittenBell(2, 3).seen(np.array([1, 2])), "must be fitted before use"),
        (
            lambda: WittenBell(4, 3).fit(np.ones(9, int)).log_probs(np.array([1, 2])),
            "tokens must hold at least order = 4, got 2",
        ),
        (lambda: encode_characters(""), "text must hold at least one character"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
