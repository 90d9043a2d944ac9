"""Filters against transformers and against their definitions; draws; beam search."""

import itertools
import math

import pytest
import torch
import transformers as hf
from enforce import plain
from hypothesis import given, settings
from hypothesis import strategies as st

from week19 import sampling
from week19.beam_search import beam_search, cached_step
from week19.sampling import Sampler, draw, greedy
from week19.speculative_decoding import with_temperature
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
    assert kept(sampling.keep_top_p(logits, 1.0)) == [1, 1, 1, 1]
    assert kept(sampling.keep_min_p(logits, 0.2)) == [1, 1, 1, 0]  # 0.1 and more
    assert kept(sampling.keep_top_k(logits, 3)) == [1, 1, 1, 0]
    assert kept(sampling.keep_top_k(torch.zeros(1, 4), 2)) == [1, 1, 1, 1]  # ties stay
    assert sum(kept(sampling.keep_top_p(torch.zeros(1, 4), 0.75))) == 3  # exactly p is enough
    assert kept(sampling.keep_min_p(torch.tensor([[0.0, -1000.0]]), 0.0)) == [1, 1]


def test_penalties_by_hand():
    logits = torch.tensor([[2.0, -2.0, 1.0, -1.0]])
    history = torch.tensor([[-1, -1, 2, 1, 1]])  # two of padding
    assert sampling.penalize_repetition(logits, history, 2.0).tolist() == [[2.0, -4.0, 0.5, -1.0]]


# ---- draws


def test_defaults_generator_and_dtype():
    nothing = "top_k=None, top_p=None, min_p=None, repetition_penalty=1.0"
    assert str(Sampler()) == f"Sampler(temperature=1.0, {nothing})"
    logits, history = torch.zeros(2, 99, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.long)
    first, again = (torch.Generator().manual_seed(3) for _ in range(2))
    same(Sampler()(logits, history, first), draw(logits, again))
    assert Sampler(0.5, min_p=0.1).process(logits, history).dtype == torch.float64


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
    ("options", "token"),
    [
        ({"repetition_penalty": sampling.FP32.tiny}, 1),  # what was said is all there is
        ({"repetition_penalty": sampling.FP32.max, "temperature": 0}, 2),
        ({"top_k": 1}, 1),
        ({"top_p": 0.0}, 1),
        ({"min_p": 1.0}, 1),
        ({"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}, 1),
    ],
)
def test_legal_ends_of_the_ranges(options, token):
    logits, history = torch.tensor([[-1.0, 3.0, 2.0]]), torch.tensor([[1]])
    assert Sampler(**options)(logits, history).tolist() == [token]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: sampling.apply_temperature(z, 0.0), "temperature must be positive and finite"),
        (lambda z: sampling.apply_temperature(z, math.inf), "must be positive and finite, got inf"),
        (lambda z: sampling.keep_top_k(z, -1), "k must be a whole number of tokens, .* got -1"),
        (lambda z: plain("19", "sampling").keep_top_k(z, 2.5), "k must be .* got 2.5"),
        (lambda z: sampling.keep_top_p(z, 1.2), "p must be between 0 and 1, got 1.2"),
        (lambda z: sampling.keep_min_p(z, -0.1), "p must be between 0 and 1, got -0.1"),
        (lambda z: sampling.penalize_repetition(z, z[:, :1].long(), 0.0), "penalty must be posi"),
        (lambda z: draw(z, [torch.Generator()]), "generator must be one per row, 2, got 1"),
        (lambda z: draw(z, [torch.Generator()] * 3), "generator must be one per row, 2, got 3"),
        (lambda z: Sampler(temperature=-1.0), "temperature must be at least 0"),
        (lambda z: Sampler(top_p=2.0), "p must be between 0 and 1, got 2"),
        (lambda z: Sampler(top_k=-1), "k must be a whole number of tokens, or 0 for all, got -1"),
        (lambda z: Sampler(math.nan), "temperature must be at least 0 and finite, got nan"),
        (lambda z: Sampler(math.inf), "temperature must be at least 0 and finite, got inf"),
        (lambda z: Sampler(top_p=math.nan), "p must be between 0 and 1, got nan"),
        *(
            (lambda z, p=p: Sampler(repetition_penalty=p), "penalty must be positive and finite")
            for p in (0.0, -1.0, math.nan, math.inf, 1e-50, 1e300)
        ),
        (
            lambda z: plain("19", "sampling").Sampler()(z, torch.zeros(1, 4, dtype=torch.long)),
            r"history must be integers of shape \(batch = 2, seq\), got torch.int64 of",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(2, 3))


COLD = torch.tensor([[-5, 3, -math.inf, 2], [-9, -7, -8, -math.inf], [4e4, -4e4, 3e4, 0]])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [1e-5, 1e-40, 1e-300])
def test_a_small_temperature_is_greedy(temperature, dtype):
    """What overflows must not become NaN: that wins every argmax, as token 0."""
    logits, history = COLD.to(dtype), torch.zeros(3, 1, dtype=torch.long)
    assert Sampler(temperature)(logits, history).tolist() == [1, 1, 0]
    assert draw(sampling.apply_temperature(logits, temperature)).tolist() == [1, 1, 0]
    p = with_temperature(lambda tokens: logits[None], temperature)(history.T)
    assert p[0].argmax(-1).tolist() == [1, 1, 0]
    assert p.amax(-1).tolist() == [[1.0, 1.0, 1.0]]


def test_a_large_temperature_draws_all_that_is_left():
    logits = torch.tensor([[3.0, -math.inf, -9.0]]).expand(300, -1)
    drawn = Sampler(1e300)(logits, torch.zeros(300, 1, dtype=torch.long))
    assert set(drawn.tolist()) == {0, 2}


def now_and_then(bad, then):
    fine = torch.zeros(3)
    first, later = (fine, bad) if then else (bad, fine)
    return beam_search(first, lambda parents, _: later.expand(len(parents), -1), 2, n_beams=2)


@pytest.mark.parametrize(
    "bad", [[0.0, math.nan, 1.0], [0.0, math.inf, 1.0], [-math.inf] * 3], ids=["nan", "inf", "-inf"]
)
@pytest.mark.parametrize(
    "door",
    [
        greedy,
        draw,
        *(
            lambda z, options=options: Sampler(**options)(z, torch.zeros(2, 1, dtype=torch.long))
            for options in (
                {"temperature": 0},
                {"temperature": 1e-40},
                {"temperature": 0.7, "top_k": 2, "min_p": 0.1},
                {"top_p": 0.9, "repetition_penalty": 1.3},
            )
        ),
        lambda z: now_and_then(z[1], then=False),
        lambda z: now_and_then(z[1], then=True),
        lambda z: with_temperature(lambda tokens: z[None], 0)(torch.zeros(1, 2, dtype=torch.long)),
        lambda z: with_temperature(lambda tokens: z[None])(torch.zeros(1, 2, dtype=torch.long)),
    ],
)
def test_no_token_is_chosen_from_nothing(door, bad):
    with pytest.raises(ValueError, match="logits must have a finite largest value in each row"):
        door(torch.tensor([[1.0, 2.0, 3.0], bad]))


@pytest.mark.parametrize("k", [0, 3, 4, 10**9])
def test_top_k_of_none_or_more_than_there_are_keeps_all(k):
    logits, history = torch.tensor([[1.0, 3.0, 2.0]]), torch.zeros(1, 1, dtype=torch.long)
    same(sampling.keep_top_k(logits, k), logits)
    same(Sampler(top_k=k).process(logits, history), logits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_top_p_adds_up_in_float32(dtype):
    """In half precision a sum over 20,000 equal tokens would stand still."""
    logits = torch.zeros(1, 20_000, dtype=dtype)
    assert torch.isfinite(sampling.keep_top_p(logits, 0.75)).sum() == pytest.approx(15_000, abs=5)


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
    for penalty in (math.nan, math.inf, -math.inf, 1e3, -1e3):
        with pytest.raises(ValueError, match="length_penalty must be finite, and so must"):
            beam_search(first, step, 3, n_beams=2, length_penalty=penalty)
    with pytest.raises(ValueError, match=r"step must give .* = \(2, 4\), got \(1, 4\)"):
        beam_search(first, lambda parents, tokens: torch.zeros(1, 4), 3, n_beams=2)
    with pytest.raises(
        ValueError, match=r"logits must be .* \(vocab\), got torch.float32 of shape \(1,"
    ):
        plain("19", "beam_search").beam_search(first[None], step, 3, n_beams=2)
    with pytest.raises(ValueError, match="early_stopping must be True, False or 'never', got alw"):
        plain("19", "beam_search").beam_search(first, step, 3, n_beams=2, early_stopping="always")


def test_beams_of_half_precision_are_scored_in_float32():
    first, step, _ = markov(3)
    low = beam_search(first.half(), lambda *at: step(*at).half(), 4, n_beams=3)
    high = beam_search(first.half().float(), lambda *at: step(*at).half().float(), 4, n_beams=3)
    assert low == high
