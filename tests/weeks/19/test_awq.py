"""Factors, folding and the search; blocks are rounded where they should be and nowhere else."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from week18.llama3 import Llama, LlamaConfig
from week18.long_context import YaRN
from week19.awq import awq_block, factors, search
from week19.folding import READERS, fold, fold_block, per_kv_head, per_query_head
from week19.gptq import hessian
from week19.layer_inputs import (
    block_inputs,
    gptq_block,
    quantized_losses,
    round_block,
    window_losses,
)
from week19.quantization import fake_quantize

seeds = st.integers(0, 9999)


def small(seed=0, **sizes):
    """A random LLaMA whose query heads share values, in float64, with tokens to read."""
    generator = torch.Generator().manual_seed(seed)
    model = Llama(LlamaConfig(13, 16, 2, 4, 2, d_ff=24, **sizes), generator).double()
    for p in model.parameters():
        nn.init.normal_(p, std=0.5, generator=generator)
    tokens = torch.randint(13, (3, 10), generator=generator)
    return model.eval().requires_grad_(False), tokens


@given(seeds, st.integers(2, 4), st.sampled_from([4, 8]))
def test_the_search_is_never_worse_than_nearest_and_counts_outputs(seed, bits, group):
    g = torch.Generator().manual_seed(seed)
    w, x = torch.randn(5, 8, generator=g).double(), torch.randn(30, 8, generator=g).double()
    x *= torch.rand(8, generator=g) * 9
    mean = x.abs().mean(0)
    found = search(w, hessian(x), mean, bits=bits, group_size=group, steps=7)
    assert found.error == min(found.errors) <= found.errors[0]
    for i, error in enumerate(found.errors):
        s = factors(mean, i / 7)
        new = fake_quantize(w * s, bits=bits, symmetric=False, granularity=group)
        outputs = (x / s) @ new.T
        assert error == pytest.approx(((x @ w.T - outputs) ** 2).mean(0).sum().item())
    assert torch.equal(found.s, factors(mean, found.alpha))


def test_factors_are_of_magnitudes_and_around_one():
    mean = torch.tensor([0.1, 0.4, 1.6])
    torch.testing.assert_close(factors(mean, 0.5), torch.tensor([0.5, 1.0, 2.0]))
    torch.testing.assert_close(factors(mean, 0.0), torch.ones(3))
    assert factors(torch.tensor([0.0, 1.0]), 0.5).isfinite().all()


def test_inputs_of_both_signs_have_a_magnitude():
    model, tokens = small()
    angles = torch.arange(10)[:, None] * model.frequencies
    rotary = [f(angles)[None, None] for f in (torch.cos, torch.sin)]
    x, seen = model.embed(tokens), {}
    block = model.blocks[0]
    hook = block.down_proj.register_forward_pre_hook(lambda _, given: seen.update(x=given[0]))
    out, inputs = block_inputs(block, x, *rotary)
    hook.remove()
    read = seen["x"].flatten(0, 1)
    torch.testing.assert_close(inputs["down_proj"].mean, read.abs().mean(0))
    torch.testing.assert_close(inputs["down_proj"].most, read.abs().amax(0))
    torch.testing.assert_close(inputs["down_proj"].h, read.T @ read / len(read))
    torch.testing.assert_close(out, block(x, *rotary))
    assert set(inputs) == set(READERS)
    assert not block.q_proj._forward_pre_hooks


@given(seeds)
def test_folding_changes_no_output(seed):
    model, tokens = small(seed)
    before = model(tokens)
    g = torch.Generator().manual_seed(seed)
    for block in model.blocks:
        for reader in READERS:
            s = torch.rand(getattr(block, reader).in_features, generator=g).double() + 0.1
            if reader == "out_proj":
                s = per_kv_head(s, 2, 4)
            fold_block(block, reader, s)
    torch.testing.assert_close(model(tokens), before, rtol=1e-9, atol=1e-9)


def test_heads_that_share_values_share_factors():
    s = torch.tensor([1.0, 2.0, 3.0, 4.0])  # two heads of values, of two dimensions
    wide = per_query_head(s, 8, 2)
    assert wide.tolist() == [1, 2, 1, 2, 3, 4, 3, 4]
    assert torch.equal(per_kv_head(wide, 2, 2), s)
    x = torch.tensor([1.0, 5.0, 3.0, 1.0])
    assert per_kv_head(x, 1, 2).tolist() == [2, 3]
    assert per_kv_head(x, 1, 2, "max").tolist() == [3, 5]


def test_awq_is_exact_where_nothing_is_rounded_off():
    model, tokens = small()
    methods = {
        "as it is": lambda b, i: None,
        "nearest": lambda b, i: round_block(b, bits=8, group_size=8),
        "awq": lambda b, i: awq_block(b, i, bits=8, group_size=8, steps=4),
        "gptq": lambda b, i: gptq_block(b, i, bits=8, group_size=8, damping=0.01),
    }
    losses = quantized_losses(model, tokens, tokens, methods)
    for name in methods:
        torch.testing.assert_close(losses[name], losses["as it is"], atol=0.05, rtol=0)
    assert not torch.equal(losses["awq"], losses["nearest"])
    assert window_losses(model, model.embed(tokens), tokens).shape == (3,)


@pytest.mark.parametrize("scaling", [None, YaRN(4.0, original_context=4)])
def test_untouched_blocks_give_the_losses_of_the_model(scaling):
    model, tokens = small(rope_scaling=scaling)  # stretched positions have a gain
    losses = quantized_losses(model, tokens, tokens, {"as it is": lambda b, i: None})
    pairs = zip(model(tokens), tokens, strict=True)
    expected = [nn.functional.cross_entropy(row[:-1], text[1:]) for row, text in pairs]
    torch.testing.assert_close(losses["as it is"], torch.stack(expected))


def test_the_model_itself_is_left_alone():
    model, tokens = small()
    before = copy.deepcopy(model.state_dict())
    quantized_losses(
        model, tokens, tokens, {"r": lambda b, i: round_block(b, bits=2, group_size=8)}
    )
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_layers_that_read_the_same_are_as_if_alone():
    model, tokens = small()
    angles = torch.arange(10)[:, None] * model.frequencies
    rotary = [f(angles)[None, None] for f in (torch.cos, torch.sin)]
    block = model.blocks[0]
    _, inputs = block_inputs(block, model.embed(tokens), *rotary)
    together, alone = copy.deepcopy(block), copy.deepcopy(block)
    gptq_block(together, inputs, bits=3, group_size=8)
    from week19.gptq import gptq

    w = gptq(alone.k_proj.weight, inputs["q_proj"].h, bits=3, group_size=8).dequantize()
    torch.testing.assert_close(together.k_proj.weight, w)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: fold(nn.LayerNorm(3), [], torch.ones(2)), r"s must have shape \(3,\), got \(2,\)"),
        (lambda: fold(nn.LayerNorm(2), [], torch.tensor([1.0, 0.0])), "s must be positive"),
        (
            lambda: fold(nn.LayerNorm(2), [nn.Linear(3, 1)], torch.ones(2)),
            "readers must have 2 inputs, got 3",
        ),
        (
            lambda: search(torch.ones(2, 2), torch.eye(2), -torch.ones(2), bits=3, group_size=2),
            "mean must be of magnitudes",
        ),
        (
            lambda: search(torch.ones(2, 2), torch.eye(3), torch.ones(2), bits=3, group_size=2),
            "h must be floats of shape",
        ),
    ],
)
def test_wrong_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_a_reader_that_is_refused_changes_nothing():
    norm, fits, other = nn.LayerNorm(2), nn.Linear(2, 1), nn.Linear(3, 1)
    before = fits.weight.clone()
    with pytest.raises(ValueError, match="readers"):
        fold(norm, [fits, other], torch.full((2,), 2.0))
    assert torch.equal(norm.weight, torch.ones(2))
    assert torch.equal(fits.weight, before)
