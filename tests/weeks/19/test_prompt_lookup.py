"""Prompt lookup: guesses by brute force, and always the tokens of greedy decoding."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from week19.kv_cache import generate
from week19.prompt_lookup import guess, prompt_lookup_generate
from week19.sampling import greedy
from week19.twins import small_llama

MODELS = [small_llama(seed, vocab_size=13) for seed in range(3)]


@given(
    tokens=st.lists(st.integers(0, 2), min_size=1, max_size=14),
    ngram=st.integers(1, 3),
    gamma=st.integers(0, 4),
)
def test_guess_by_brute_force(tokens, ngram, gamma):
    expected = []
    for end in range(ngram, len(tokens)):  # the last match is taken
        if tokens[end - ngram : end] == tokens[-ngram:]:
            expected = tokens[end : end + gamma]
    assert guess(torch.tensor(tokens), ngram=ngram, gamma=gamma).tolist() == expected


@settings(max_examples=12)
@given(
    seed=st.integers(0, 2),
    prompt=st.lists(st.integers(0, 12), min_size=1, max_size=10),
    n=st.integers(1, 40),
    ngram=st.integers(1, 3),
    gamma=st.integers(1, 9),
)
def test_tokens_are_those_of_greedy_decoding(seed, prompt, n, ngram, gamma):
    model = MODELS[seed]
    expected = [int(t) for t in generate(model, [prompt], n, choose=greedy)]
    found = prompt_lookup_generate(model, torch.tensor(prompt), n, ngram=ngram, gamma=gamma)
    assert found.tokens.tolist() == prompt + expected
    assert found.target_passes == len(found.kept)
    assert found.target_passes + sum(found.kept) == n
    assert max(found.kept) <= gamma


def test_repetition_saves_passes():
    found = prompt_lookup_generate(MODELS[0], torch.tensor([1, 2, 3]), 200, gamma=8)
    assert found.target_passes < 150  # small random models run in circles


@pytest.mark.parametrize("place", [0, 7, 39])
def test_the_end_is_kept_and_nothing_after_it(place):
    prompt = torch.tensor([1, 2, 3])
    full = prompt_lookup_generate(MODELS[0], prompt, 40).tokens[3:].tolist()
    end = full[place]
    found = prompt_lookup_generate(MODELS[0], prompt, 40, end=end)
    assert found.tokens[3:].tolist() == full[: full.index(end) + 1]
    assert found.target_passes + sum(found.kept) == full.index(end) + 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ngram": 0}, "ngram and gamma must be at least 1, got 0 and 8"),
        ({"gamma": 0}, "ngram and gamma must be at least 1, got 2 and 0"),
        ({"prompt": torch.tensor([], dtype=torch.long)}, "prompt must hold at least one token"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"max_new_tokens": 9999}, "must fit in context = 2048"),
    ],
)
def test_bad_arguments(options, message):
    arguments = {"prompt": torch.tensor([1]), "max_new_tokens": 3} | options
    with pytest.raises(ValueError, match=message):
        prompt_lookup_generate(MODELS[0], **arguments)
