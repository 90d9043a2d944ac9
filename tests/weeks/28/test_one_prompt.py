"""A prompt that is read once gives what each continuation gives alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from week18.llama3 import Llama, LlamaConfig
from week18.smollm2 import continue_greedily
from week19.sampling import Sampler
from week20.domain_lora import Row, nats
from week28.one_prompt import draw_answers, nats_of

CONFIG = LlamaConfig(vocab_size=30, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, context=32)
MODEL = Llama(CONFIG, torch.Generator().manual_seed(0)).eval().requires_grad_(False)
IDS = st.lists(st.integers(0, 29), min_size=1, max_size=8)


@settings(max_examples=30, deadline=None)
@given(IDS, st.lists(IDS, min_size=1, max_size=5))
def test_nats_are_those_of_each_whole_row(prompt, options):
    total, count = nats(MODEL, [Row([*prompt, *option], len(prompt)) for option in options])
    assert torch.allclose(nats_of(MODEL, prompt, options), total / count, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(IDS, st.integers(1, 4), st.integers(0, 29))
def test_greedy_answers_are_those_of_one_row(prompt, n, end):
    alone = continue_greedily(MODEL, prompt, 6, end)
    options = {"most": 6, "end": end, "sampler": Sampler(temperature=0)}
    assert draw_answers(MODEL, prompt, n, **options) == [alone] * n


def test_drawn_tokens_have_the_models_frequencies():
    prompt, n = [3, 1, 4], 4000
    sampler = Sampler(temperature=0.7)
    options = {"most": 2, "end": -1, "sampler": sampler}
    found = draw_answers(MODEL, prompt, n, generator=torch.Generator().manual_seed(0), **options)
    logits = MODEL(torch.tensor([prompt]))[0, -1] / 0.7
    shares = torch.bincount(torch.tensor([f[0] for f in found]), minlength=30) / n
    assert (shares - logits.softmax(0)).abs().max() < 5 * (0.25 / n) ** 0.5
    first = shares.argmax()  # rows go on from what they drew themselves
    second = torch.tensor([f[1] for f in found if f[0] == int(first)])
    logits = MODEL(torch.tensor([[*prompt, int(first)]]))[0, -1] / 0.7
    gap = torch.bincount(second, minlength=30) / len(second) - logits.softmax(0)
    assert gap.abs().max() < 5 * (0.25 / len(second)) ** 0.5


def test_rows_go_on_from_what_they_drew_themselves():
    prompt = [3, 1, 4]

    def sampler(logits, history, generator):
        """Another first token in each row, then the likeliest."""
        first = history.shape[1] == len(prompt)
        return torch.arange(len(logits)) if first else logits.argmax(-1)

    found = draw_answers(MODEL, prompt, 9, most=4, end=-1, sampler=sampler)
    for first, answer in enumerate(found):
        assert answer == [first, *continue_greedily(MODEL, [*prompt, first], 3, -1)]


def test_rows_end_by_themselves():
    options = {"most": 8, "end": 5, "sampler": Sampler(), "n": 40}
    found = draw_answers(MODEL, [1, 2], generator=torch.Generator().manual_seed(1), **options)
    lengths = {len(answer) for answer in found}
    assert len(lengths) > 2
    assert not any(5 in answer for answer in found)
    cut = draw_answers(MODEL, [1], enough=lambda ids: len(ids) == 3, **options)
    assert {len(answer) for answer in cut} <= {0, 1, 2, 3}
    assert max(len(answer) for answer in cut) == 3


def test_bad_arguments():
    options = {"most": 8, "end": 5, "sampler": Sampler()}
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        draw_answers(MODEL, [1], 0, **options)
    with pytest.raises(ValueError, match="prompt must not be empty"):
        draw_answers(MODEL, [], 1, **options)
    must = "the prompt and its answer must have at most 32 tokens, got 38"
    with pytest.raises(ValueError, match=must):
        draw_answers(MODEL, [1] * 30, 1, **options)
    with pytest.raises(ValueError, match="options must each have a token"):
        nats_of(MODEL, [1], [[1], []])
