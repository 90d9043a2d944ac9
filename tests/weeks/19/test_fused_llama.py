"""The fused LLaMA gives the last logits of the plain one, however it is called."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from week18.llama3 import Llama, LlamaConfig
from week18.long_context import DynamicNTK, YaRN
from week18.transformers_twin import randomize
from week19.fused_llama import FusedLlama, attention_of_one, packed
from week19.kv_cache import KVCache, generate, left_pad
from week19.quantized_linear import DynamicInt8Linear
from week19.sampling import greedy


def pair(batch=1, **sizes):
    sizes = {"vocab_size": 31, "d_model": 24, "n_heads": 6, "n_kv_heads": 2, "context": 64} | sizes
    model = randomize(Llama(LlamaConfig(**sizes))).requires_grad_(False)
    return model, FusedLlama(model, batch=batch)


@settings(max_examples=15)
@example(batch=1, parts=[3, 1, 1], n_kv=2, tied=False, prepared=1)
@given(
    batch=st.sampled_from([1, 2, 3, 9]),
    parts=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    n_kv=st.sampled_from([1, 2, 6]),
    tied=st.booleans(),
    prepared=st.sampled_from([1, 8]),
)
def test_last_logits_in_any_split(batch, parts, n_kv, tied, prepared):
    model, fused = pair(prepared, n_kv_heads=n_kv, tied=tied)
    tokens = torch.randint(31, (batch, sum(parts)))
    expected, cache = model(tokens), KVCache.for_model(model, batch, sum(parts))
    for end, part in zip(torch.tensor(parts).cumsum(0), tokens.split(parts, dim=1), strict=True):
        out = fused(part, cache=cache)
        assert out.shape == (batch, 1, 31)
        torch.testing.assert_close(out[:, 0], expected[:, end - 1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
@pytest.mark.parametrize("shape", [(7, 5), (5, 8), (8, 4)])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_product_is_the_same_in_every_order(batch, shape, capability, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    weight = torch.randn(shape)
    for rows in (1, 3):
        x = torch.randn(rows, 1, shape[1])
        torch.testing.assert_close(packed(weight, batch)(x), x @ weight.T)


@given(
    batch=st.sampled_from([1, 5, 8]),
    n_kv=st.sampled_from([1, 2, 3]),
    queries=st.integers(1, 3),
    keys=st.integers(1, 9),
    masked=st.booleans(),
)
def test_attention_of_one_is_torchs(batch, n_kv, queries, keys, masked):
    q, k, v = (torch.randn(batch, n_kv, n, 4) for n in (queries, keys, keys))
    allowed = (torch.rand(batch, 1, 1, keys) < 0.5) if masked else None
    if masked:
        allowed[..., -1] = True  # a token sees itself
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
    torch.testing.assert_close(attention_of_one(q, k, v, allowed), expected)


@pytest.mark.parametrize("last", [1, 3, 9])
def test_as_many_logits_as_were_asked_for(last):
    model, _ = pair()
    fused, tokens = FusedLlama(model, last=last), torch.randint(31, (2, 6))
    expected = model(tokens)[:, -last:]
    torch.testing.assert_close(fused(tokens), expected, atol=1e-4, rtol=1e-4)


def test_no_logits_at_all_are_refused():
    with pytest.raises(ValueError, match="last must be at least 1, got 0"):
        FusedLlama(pair()[0], last=0)


def test_padded_rows_and_generate():
    model, fused = pair(batch=3)
    prompts = [[3, 1, 4, 1, 5], [9, 2], [6, 5, 3]]
    rows = left_pad(prompts)
    given = {"mask": rows.mask, "positions": rows.positions}
    out = fused(rows.tokens.clamp(min=0), **given)[:, 0]
    expected = model(rows.tokens.clamp(min=0), **given)[:, -1]
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)
    texts = [torch.stack(list(generate(m, prompts, 12, choose=greedy))) for m in (model, fused)]
    assert torch.equal(*texts)


def test_stretched_positions_keep_their_gain():
    model, fused = pair(rope_scaling=YaRN(4.0, original_context=16))
    tokens = torch.arange(30)[None]
    torch.testing.assert_close(fused(tokens)[:, 0], model(tokens)[:, -1], atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="rope_scaling must be one whose angles do not depend"):
        pair(rope_scaling=DynamicNTK(4.0, original_context=16))


def test_gains_are_not_forgotten():
    model, _ = pair()
    model.blocks[0].attention_norm.weight[3] += 1.0
    tokens = torch.arange(9)[None]
    out, expected = FusedLlama(model)(tokens)[:, 0], model(tokens)[:, -1]
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)


def test_weights_are_copies():
    model, fused = pair()
    tokens = torch.arange(5)[None]
    before = fused(tokens)
    model.blocks[0].down_proj.weight.zero_()
    assert torch.equal(fused(tokens), before)
    with pytest.raises(IndexError):
        fused(torch.tensor([[31]]))


def test_takes_integers_for_matrices():
    config = LlamaConfig(vocab_size=48, d_model=32, n_heads=4, n_kv_heads=2, d_ff=64, n_layers=2)
    model = Llama(config, torch.Generator().manual_seed(0))
    integers = FusedLlama(model, product=lambda weight, _: DynamicInt8Linear(weight))
    tokens = torch.arange(9)[None]
    ours, theirs = integers(tokens)[0, -1], model(tokens)[0, -1]
    assert not torch.equal(ours, theirs)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.05 * float(theirs.abs().max()))
