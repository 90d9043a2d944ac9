"""The GPT against transformers, and what must hold of any language model."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from enforce import plain
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shared.errors import UserError
from week14.evidence.minimal_gpt import count_ngrams, encode_prompt, twins
from week14.minimal_gpt import (
    GPT,
    GPTConfig,
    evaluate,
    make_optimizers,
    next_token_loss,
    random_batch,
    sample,
    train,
    training_losses,
)

CYCLE = torch.arange(600) % 11


def small(positions="rotary", vocab=11, context=12, seed=0):
    config = GPTConfig(vocab, context, n_layers=2, n_heads=2, d_model=16, positions=positions)
    return GPT(config, torch.Generator().manual_seed(seed))


def random_weights(model):
    torch.manual_seed(0)
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@settings(max_examples=6)
@given(
    layers=st.integers(1, 3),
    heads=st.sampled_from([1, 2, 3]),
    head_dim=st.sampled_from([2, 4, 6]),
    length=st.integers(1, 9),
)
def test_equals_transformers(positions, layers, heads, head_dim, length):
    """GPT-2 with learned positions, GPT-NeoX with rotary ones; all weights random."""
    sizes = {"layers": layers, "heads": heads, "width": heads * head_dim}
    torch.manual_seed(0)
    ours, theirs, _ = twins(positions, vocab_size=7, context=9, **sizes)
    tokens = torch.randint(7, (2, length), generator=torch.manual_seed(1))
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_the_future_is_invisible(positions):
    model = random_weights(small(positions))
    tokens = torch.randint(11, (1, 12), generator=torch.manual_seed(0))
    for t in range(11):
        changed = tokens.clone()
        changed[:, t + 1 :] = (changed[:, t + 1 :] + 3) % 11
        torch.testing.assert_close(model(tokens)[:, : t + 1], model(changed)[:, : t + 1])
        assert not torch.allclose(model(tokens)[:, t + 1], model(changed)[:, t + 1])


def test_loss_is_cross_entropy_and_its_gradient():
    logits = torch.randn(3, 5, 7, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(7, (3, 5))
    ours = next_token_loss(logits, targets)
    theirs = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(*(torch.autograd.grad(v, logits)[0] for v in (ours, theirs)))


@given(batch=st.integers(1, 5), context=st.integers(1, 8), seed=st.integers(0, 99))
def test_targets_are_the_next_characters(batch, context, seed):
    tokens = torch.arange(20)
    x, y = random_batch(tokens, batch, context, torch.Generator().manual_seed(seed))
    assert x.shape == y.shape == (batch, context)
    assert (y == x + 1).all()
    assert x.min() >= 0
    assert y.max() < 20


def test_every_window_can_be_drawn():
    tokens = torch.arange(6)
    x, y = random_batch(tokens, 400, 3, torch.Generator().manual_seed(0))
    assert set(x[:, 0].tolist()) == {0, 1, 2}
    assert y.max() == 5


def test_residual_projections_start_smaller():
    model = GPT(GPTConfig(50, n_layers=8, d_model=64))
    stds = {n: float(p.detach().std()) for n, p in model.named_parameters() if p.ndim == 2}
    for name, std in stds.items():
        onto_stream = name.endswith(("out_proj.weight", "down.weight"))
        assert math.isclose(std, 0.02 / 4 if onto_stream else 0.02, rel_tol=0.1)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_seed_decides_everything():
    found = []
    for seed in (0, 0, 1):
        model, generator = small(seed=seed), torch.Generator().manual_seed(seed)
        train(model, CYCLE, steps=3, batch=3, optimizer="muon", generator=generator)
        found.append(weights(model))
    first, again, other = found
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_learning_rate_falls_to_zero():
    assert [o.lr for o in make_optimizers(small(), "muon", lr_scale=2.0)] == [0.04, 0.024]
    model = small()
    options = {"steps": 4, "batch": 2, "optimizer": "muon"}
    path, generator = [weights(model)], torch.Generator().manual_seed(0)
    for _ in training_losses(model, CYCLE, generator=generator, **options):
        path.append(weights(model))
    moved = torch.stack(path).diff(dim=0).norm(dim=1)
    assert moved[-1] < 0.6 * moved[0]


def test_every_parameter_is_trained_by_one_optimizer():
    for positions in ("rotary", "learned"):
        model = small(positions)
        for name in ("muon", "adamw"):
            ids = [id(p) for o in make_optimizers(model, name) for p in o.params]
            assert sorted(ids) == sorted(id(p) for p in model.parameters())
    muon, adamw = make_optimizers(small(), "muon")
    assert all(p.ndim == 2 for p in muon.params)
    assert len(adamw.params) > 2


def test_evaluation_covers_the_whole_split_once():
    model = random_weights(small())
    tokens = torch.randint(11, (12 * 70 + 1,), generator=torch.manual_seed(0))
    by_hand = [
        next_token_loss(model(tokens[i : i + 12][None]), tokens[i + 1 : i + 13][None]).item()
        for i in range(0, 12 * 70, 12)
    ]
    assert math.isclose(evaluate(model, tokens, window=12), np.mean(by_hand), rel_tol=1e-5)


def test_sampling_follows_the_distribution():
    """χ² of 600 draws; 29.59 is the 99.9 % point for 11 - 1 degrees of freedom."""
    model = random_weights(small())
    prompt, n, temperature = torch.tensor([3, 1, 4]), 600, 1.7
    generator = torch.Generator().manual_seed(0)
    style = {"temperature": temperature, "generator": generator}
    drawn = [int(sample(model, prompt, 1, **style)[-1]) for _ in range(n)]
    expected = n * (model(prompt[None])[0, -1] / temperature).softmax(-1).detach().numpy()
    counts = np.bincount(drawn, minlength=11)
    assert ((counts - expected) ** 2 / expected).sum() < 29.59


def test_top_k_draws_among_the_k_likeliest():
    model = random_weights(small())
    prompt = torch.tensor([3, 1, 4])
    allowed = set(model(prompt[None])[0, -1].topk(3).indices.tolist())
    generator = torch.Generator().manual_seed(0)
    style = {"temperature": 5.0, "top_k": 3, "generator": generator}
    drawn = {int(sample(model, prompt, 1, **style)[-1]) for _ in range(200)}
    assert drawn == allowed


@pytest.mark.parametrize("temperature", [1e-5, 1e-40, 1e-300])
def test_a_small_temperature_is_greedy(temperature):
    model, prompt = random_weights(small()), torch.tensor([3, 1, 4])
    cold = sample(model, prompt, 20, temperature=temperature)
    assert cold.tolist() == sample(model, prompt, 20, top_k=1).tolist()


def test_top_k_beyond_the_alphabet_is_all():
    model, prompt = random_weights(small()), torch.tensor([3, 1, 4])
    texts = [
        sample(model, prompt, 20, top_k=k, generator=torch.Generator().manual_seed(0)).tolist()
        for k in (0, 11, 10**9)
    ]
    assert texts[0] == texts[1] == texts[2]


def broken(value):
    model = small()
    nn.init.constant_(model.head.weight, value)
    return model


LOSS = plain("14", "minimal_gpt").next_token_loss


def test_greedy_limit_and_length():
    model = random_weights(small())
    prompt = torch.tensor([3, 1, 4])
    written = sample(model, prompt, 30, top_k=1)  # longer than the context
    assert written.tolist()[:3] == [3, 1, 4]
    assert len(written) == 33
    for i in range(3, 33):
        window = written[max(0, i - 12) : i]
        assert written[i] == model(window[None])[0, -1].argmax()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GPTConfig(0), "vocab_size must be at least 1, got 0"),
        (lambda: GPTConfig(5, n_layers=0), "n_layers must be at least 1, got 0"),
        (lambda: GPTConfig(5, d_model=10, n_heads=3), "n_heads must divide d_model = 10, got 3"),
        (lambda: GPTConfig(5, d_model=9, n_heads=3), "even head dimension, got .* = 3"),
        (
            lambda: small()(torch.zeros(1, 13, dtype=torch.long)),
            "most context = 12 long, got 13",
        ),
        (lambda: evaluate(small(), torch.zeros(12, dtype=torch.long), window=12), "longer than"),
        (lambda: sample(small(), torch.tensor([1]), 1, temperature=0.0), "temperature must be"),
        (lambda: sample(small(), torch.tensor([1]), 1, top_k=-1), "top_k must be at least 0"),
        (lambda: sample(small(), torch.zeros(0, dtype=torch.long), 1), "prompt must hold"),
        (lambda: evaluate(small(), CYCLE, window=0), "window must be at least 1, got 0"),
        (
            lambda: random_batch(torch.arange(5), 2, 5, torch.Generator()),
            "tokens must be longer than context = 5, got 5",
        ),
        (
            lambda: plain("14", "minimal_gpt").sample(small(), [1], 1),
            "prompt must be integers of shape .* got list",
        ),
        (lambda: sample(small(), torch.tensor([1]), -1), "length must be at least 0, got -1"),
        *(
            (
                lambda t=t: sample(small(), torch.tensor([1]), 1, temperature=t),
                f"temperature must be positive and finite, got {t}",
            )
            for t in (-1.0, math.nan, math.inf)
        ),
        (lambda: sample(broken(math.nan), torch.tensor([1]), 1), "finite maximum, got nan"),
        *(
            (
                lambda shape=shape: LOSS(torch.zeros(2, 3, 5), torch.zeros(shape).long()),
                "targets must be integers of shape",
            )
            for shape in ((2, 2), (1, 3), (2,), (2, 3, 1))
        ),
        (lambda: LOSS(torch.zeros(2, 3, 5), torch.zeros(2, 3)), "targets must be integers"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_prompts():
    assert encode_prompt("ba", "ab").tolist() == [1, 0]
    assert encode_prompt(None, " Teh").tolist() == [1, 3, 2, 0]
    assert encode_prompt(None, "xy").tolist() == [1]
    with pytest.raises(UserError, match="has characters that the text has not: 'q'"):
        encode_prompt("qa", "ab")
    with pytest.raises(UserError, match="at least one character"):
        encode_prompt("", "ab")


def test_ngrams_stop_where_keys_would_overflow():
    tokens = np.arange(5000) % 4000
    assert list(count_ngrams(tokens, tokens, 4000)) == [1, 2, 3, 4, 5]
