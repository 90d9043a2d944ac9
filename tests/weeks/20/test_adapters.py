"""Each way of adapting: where it starts, what it may touch, and what it is equal to."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from week14.minimal_gpt import next_token_loss
from week18.llama3 import Llama, LlamaConfig
from week20.adapters import (
    METHODS,
    Bottleneck,
    Prefixed,
    Prompted,
    Scaled,
    Shifted,
    adapt,
    trainable,
)

NEUTRAL = ("bottleneck", "bitfit", "ia3")
CONFIG = LlamaConfig(23, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, context=40)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def base(seed=0):
    return Llama(CONFIG, gen(seed))


def texts(batch=2, n=9, seed=5):
    return torch.randint(23, (batch, n), generator=gen(seed))


def scrambled(model, seed=3):
    """The model with other numbers where something is learned."""
    for p in model.parameters():
        if p.requires_grad:
            p.data = p.data + 0.5 * torch.randn(p.shape, generator=gen(seed))
    return model


@pytest.mark.parametrize("method", NEUTRAL)
def test_training_starts_at_the_model(method):
    model, tokens = base(), texts()
    assert torch.equal(adapt(copy.deepcopy(model), method, 3, gen(1))(tokens), model(tokens))


@pytest.mark.parametrize("method", METHODS)
def test_only_what_is_learned_moves(method):
    model = adapt(base(), method, 3, gen(1))
    before = {name: p.clone() for name, p in model.named_parameters()}
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer, tokens = torch.optim.Adam(learned, lr=0.05), texts()
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = next_token_loss(model(tokens[:, :-1]), tokens[:, 1:])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) == (not p.requires_grad), name


@pytest.mark.parametrize(
    ("method", "count"),
    [
        ("bottleneck", 2 * 2 * (2 * 3 * 16)),
        ("bitfit", 2 * (16 + 8 + 8 + 16 + 48 + 48 + 16)),
        ("ia3", 2 * (8 + 8 + 48)),
        ("prompt", 3 * 16),
        ("prefix", 2 * 2 * 2 * 4 * 3),
    ],
)
def test_budgets_are_the_formulas(method, count):
    assert CONFIG.d_ff == 48
    assert trainable(adapt(base(), method, 3)) == count


@pytest.mark.parametrize("method", METHODS)
def test_no_position_sees_a_later_one(method):
    model, tokens = scrambled(adapt(base(), method, 3, gen(1))), texts()
    other = tokens.clone()
    other[:, 6] = (other[:, 6] + 1) % 23
    a, b = model(tokens), model(other)
    assert torch.equal(a[:, :6], b[:, :6])
    assert not torch.allclose(a[:, 6:], b[:, 6:], atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_row_is_the_same_in_any_company(method):
    model, tokens = scrambled(adapt(base(), method, 3, gen(1))), texts(batch=3)
    alone = torch.cat([model(row[None]) for row in tokens])
    assert torch.allclose(model(tokens), alone, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.integers(1, 12), st.integers(0, 99))
def test_a_prompt_of_real_tokens_is_those_tokens(n, length, seed):
    model = base(seed)
    words, tokens = texts(1, n, seed)[0], texts(2, length, seed + 1)
    whole = torch.cat([words.expand(2, -1), tokens], dim=1)
    expected = model(whole)[:, n:]
    assert torch.allclose(Prompted(model, n, tokens=words)(tokens), expected, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.integers(1, 12), st.integers(0, 99))
def test_a_prefix_of_real_keys_and_values_is_the_text_that_gave_them(n, length, seed):
    from week18.smollm2 import GrownCache

    model = base(seed)
    words, tokens = texts(1, n, seed), texts(2, length, seed + 1)
    cache = GrownCache()
    model(words, cache=cache)
    prefixed = Prefixed(model, n)
    layers = [cache._layers[i] for i in range(CONFIG.n_layers)]
    prefixed.keys.data = torch.stack([k[0] for k, _ in layers])
    prefixed.values.data = torch.stack([v[0] for _, v in layers])
    whole = torch.cat([words.expand(2, -1), tokens], dim=1)
    assert torch.allclose(prefixed(tokens), model(whole)[:, n:], atol=1e-5)
    assert torch.allclose(prefixed(tokens), prefixed(tokens))  # nothing was stored


def test_layers_by_their_definitions():
    torch.manual_seed(0)
    linear, x = nn.Linear(6, 4, bias=False), torch.randn(5, 3, 6)
    outputs, inputs = Scaled(linear, inputs=False), Scaled(linear, inputs=True)
    outputs.scale.data, inputs.scale.data = torch.randn(4), torch.randn(6)
    folded = linear.weight * outputs.scale[:, None], linear.weight * inputs.scale
    assert torch.allclose(outputs(x), x @ folded[0].T, atol=1e-6)
    assert torch.allclose(inputs(x), x @ folded[1].T, atol=1e-6)
    shifted = Shifted(linear)
    shifted.shift.data = torch.randn(4)
    assert torch.allclose(shifted(x), x @ linear.weight.T + shifted.shift, atol=1e-6)
    layer = Bottleneck(linear, 2)
    layer.up.data = torch.randn(4, 2)
    y = linear(x)
    expected = y + nn.functional.gelu(y @ layer.down.T) @ layer.up.T
    assert torch.allclose(layer(x), expected, atol=1e-6)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"method must be one of bottleneck, .*, got 'lora'"):
        adapt(base(), "lora", 1)
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        adapt(base(), "prompt", 0)
    with pytest.raises(ValueError, match="must fit in context = 40, got 41"):
        Prompted(base(), 5)(texts(n=36))
