"""Filters against transformers and against their definitions; draws; beam search."""

import itertools
import math

import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st

from week19 import sampling
from week19.beam_search import beam_search, cached_step
from week19.sampling import Sampler, draw, greedy
from week19.twins import small_llama

SMALL = st.integers(-3, 3).map(float) | st.floats(-8, 8, width=32)


@st.composite
def logits_batches(draw):
    batch, vocab = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    row = st.lists(SMALL | st.just(-math.inf), min_size=vocab, max_size=vocab)
    rows = draw(st.lists(row.filter(lambda r: max(r) > -9), min_size=batch, max_size=batch))
    return torch.tensor(rows)


def history_for(logits, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(logits.shape[1], (len(logits), 6), generator=generator)


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


# ---- filters


def top_k(logits, share):
    k = 1 + int(14 * share)
    return sampling.keep_top_k(logits, k), hf.TopKLogitsWarper(k)


def top_p(logits, share):
    return sampling.keep_top_p(logits, share), hf.TopPLogitsWarper(share)


def repetition_penalty(logits, share):
    penalty = 0.5 + 1.5 * share
    ours = sampling.penalize_repetition(logits, history_for(logits), penalty)
    return ours, hf.RepetitionPenaltyLogitsProcessor(penalty)


@pytest.mark.parametrize("both", [top_k, top_p, repetition_penalty])
@given(logits=logits_batches(), share=st.floats(0, 1))
def test_equals_transformers(both, logits, share):
    ours, theirs = both(logits, share)
    same(ours, theirs(history_for(logits), logits))


@given(logits=logits_batches(), p=st.sampled_from([0, 0.01, 0.1, 0.7, 1]))
def test_min_p_equals_transformers(logits, p):
    theirs = hf.MinPLogitsWarper(p)(history_for(logits), logits)
    ours = sampling.keep_min_p(logits, p)
    probabilities = logits.softmax(-1)
    edge = (probabilities / probabilities.amax(-1, keepdim=True) - p).abs() < 1e-6
    if edge.any():
        return  # at the very border, rounding decides
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_sampler_applies_transformers_order():
    logits = 3 * torch.randn(32, 40, generator=torch.Generator().manual_seed(0))
    history = history_for(logits)
    filters = [hf.TopKLogitsWarper(20), hf.TopPLogitsWarper(0.9), hf.MinPLogitsWarper(0.03)]
    first = [hf.RepetitionPenaltyLogitsProcessor(1.4), hf.TemperatureLogitsWarper(0.6)]
    chain = hf.LogitsProcessorList([*first, *filters])
    sampler = Sampler(0.6, top_k=20, top_p=0.9, min_p=0.03, repetition_penalty=1.4)
    same(sampler.process(logits, history), chain(history, logits))


def test_worked_examples():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()

    def kept(z):
        return torch.isfinite(z)[0].int().tolist()

    assert kept(sampling.keep_top_p(logits, 0.75)) == [1, 1, 0, 0]  # 0.5 + 0.3 crosses 0.75
    assert kept(sampling.keep_top_p(logits, 0.4)) == [1, 0, 0, 0]
    assert kept(sampling.keep_min_p(logits, 0.2)) == [1, 1, 1, 0]  # 0.1 and more
    assert kept(sampling.keep_top_k(logits, 3)) == [1, 1, 1, 0]
    assert kept(sampling.keep_top_k(torch.zeros(1, 4), 2)) == [1, 1, 1, 1]  # ties stay


def test_penalties_by_hand():
    logits = torch.tensor([[2.0, -2.0, 1.0, -1.0]])
    history = torch.tensor([[-1, -1, 2, 1, 1]])  # two of padding
    assert sampling.penalize_repetition(logits, history, 2.0).tolist() == [[2.0, -4.0, 0.5, -1.0]]


# ---- draws


def test_half_precision_draws_rare_tokens():
    logits = torch.tensor([[0.0, -6.0]])
    n = 200_000
    tokens = draw(logits.expand(n, -1).bfloat16(), torch.Generator().manual_seed(0))
    expected = n * float(logits.softmax(-1)[0, 1])
    assert abs(int(tokens.sum()) - expected) < 5 * math.sqrt(expected)


@given(batch=st.integers(1, 5), at=st.integers(0, 4))
def test_rows_are_independent_with_generators_of_their_own(batch, at):
    at = at % batch
    logits = torch.randn(batch, 30, generator=torch.Generator().manual_seed(1))
    together = draw(logits, [torch.Generator().manual_seed(i) for i in range(batch)])
    alone = draw(logits[at : at + 1], [torch.Generator().manual_seed(at)])
    same(together[at : at + 1], alone)
    same(alone, draw(logits[at : at + 1], torch.Generator().manual_seed(at)))


def test_zero_probability_is_never_drawn_even_with_zero_noise(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "exponential_", lambda self, **_: self.zero_())
    assert draw(torch.tensor([[0.0, -math.inf], [-math.inf, 0.0]])).tolist() == [0, 1]


def test_greedy_and_temperature_zero():
    logits = torch.tensor([[1.0, 3.0, 3.0], [0.0, -1.0, -2.0]])
    history = torch.tensor([[1], [0]])
    assert greedy(logits).tolist() == [1, 0]
    assert Sampler(temperature=0)(logits, history).tolist() == [1, 0]
    assert Sampler(temperature=0, repetition_penalty=2.0)(logits, history).tolist() == [2, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: sampling.apply_temperature(z, 0.0), "temperature must be positive and finite"),
        (lambda z: sampling.keep_top_k(z, 0), "k must be at least 1, got 0"),
        (lambda z: sampling.keep_top_p(z, 1.2), "p must be between 0 and 1, got 1.2"),
        (lambda z: sampling.keep_min_p(z, -0.1), "p must be between 0 and 1, got -0.1"),
        (lambda z: sampling.penalize_repetition(z, z[:, :1].long(), 0.0), "penalty must be posi"),
        (lambda z: draw(z, [torch.Generator()]), "generator must be one per row, 2, got 1"),
        (lambda z: Sampler(temperature=-1.0), "temperature must be at least 0"),
        (lambda z: Sampler(top_p=2.0), "p must be between 0 and 1, got 2"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(2, 3))


# ---- beam search


def markov(seed, vocab=4):
    """A language whose next token depends on the last one: first logits, a step, log p."""
    generator = torch.Generator().manual_seed(seed)
    first = 2 * torch.randn(vocab, generator=generator)
    table = 2 * torch.randn(vocab, vocab, generator=generator)

    def log_p(text):
        total = first.log_softmax(-1)[text[0]]
        for a, b in itertools.pairwise(text):
            total = total + table.log_softmax(-1)[a, b]
        return float(total)

    return first, lambda parents, tokens: table[tokens], log_p


@given(seed=st.integers(0, 1000), n=st.integers(1, 4), penalty=st.sampled_from([0.0, 0.7, 1, 2.0]))
@settings(max_examples=20)
def test_enough_beams_find_the_best_of_all_texts(seed, n, penalty):
    first, step, log_p = markov(seed)
    texts = set()
    for text in itertools.product(range(4), repeat=n):
        texts.add(text[: text.index(0) + 1] if 0 in text else text)
    scores = {text: log_p(text) / len(text) ** penalty for text in texts}
    best = max(scores, key=scores.get)
    options = {"n_beams": 4**3, "length_penalty": penalty, "early_stopping": "never"}
    found = beam_search(first, step, n, stop=(0,), **options)
    assert found[0].score == pytest.approx(scores[best], abs=1e-5)
    assert scores[found[0].tokens] == pytest.approx(scores[best], abs=1e-5)
    assert len({h.tokens for h in found}) == len(found)
    for h in found:
        assert h.score == pytest.approx(scores[h.tokens], abs=1e-5)


def test_length_penalty_chooses_between_short_and_long():
    first = torch.tensor([0.4, 0.6]).log()  # 0 ends the text
    table = torch.tensor([[0.5, 0.5], [0.6, 0.4]]).log()

    def step(parents, tokens):
        return table[tokens]

    short = beam_search(first, step, 2, n_beams=4, length_penalty=0.0, stop=(0,))[0]
    options = {"n_beams": 4, "length_penalty": 2.0, "early_stopping": "never"}
    long = beam_search(first, step, 2, stop=(0,), **options)[0]
    assert short.tokens == (0,)
    assert long.tokens == (1, 0)


def test_ended_beams_are_replaced():
    """Both best first tokens end the text; the best text of all starts with the third."""
    first = torch.tensor([0.5, 0.3, 0.2]).log()
    table = torch.tensor([[0.4, 0.3, 0.3], [0.4, 0.3, 0.3], [0.98, 0.01, 0.01]]).log()
    options = {"n_beams": 2, "length_penalty": 2.0, "early_stopping": "never", "stop": (0, 1)}
    found = beam_search(first, lambda parents, tokens: table[tokens], 2, **options)
    assert found[0].tokens == (2, 0)


def test_cached_beams_are_uncached_beams():
    model = small_llama(3, vocab_size=11, d_model=16)
    prompt = torch.tensor([1, 4, 9])
    texts = [prompt]

    def uncached(parents, tokens):
        texts[:] = [
            torch.cat([texts[i], t[None]]) for i, t in zip(parents.tolist(), tokens, strict=True)
        ]
        return model(torch.stack(texts))[:, -1].detach()

    logits, step = cached_step(model, prompt, 8)
    ours = beam_search(logits, step, 8, n_beams=4)
    theirs = beam_search(model(prompt[None])[0, -1].detach(), uncached, 8, n_beams=4)
    assert [h.tokens for h in ours] == [h.tokens for h in theirs]


def test_beam_search_names_bad_input():
    first, step, _ = markov(0)
    with pytest.raises(ValueError, match="n_beams must be at least 1, got 0"):
        beam_search(first, step, 3, n_beams=0)
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1, got 0"):
        beam_search(first, step, 0, n_beams=2)
