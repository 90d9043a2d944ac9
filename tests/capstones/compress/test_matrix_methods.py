"""Rounding against torchao and week 19, GPTQ with a mask against solving again, exact counts."""

import itertools
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from compress.layers import install
from compress.methods import equalizing
from compress.methods.equalizing import equalize
from compress.methods.gptq import gptq, masked_gptq
from compress.methods.masks import global_masks, prune
from compress.methods.matrix import compress_matrix
from compress.methods.rounding import hqq, rtn
from compress.models.testing import tiny_model
from compress.pipeline.stages import begin, inputs_of, stages
from compress.pipeline.steps import Prune, Quantize
from week19.awq import factors, search
from week19.folding import READERS, per_query_head
from week19.gptq import gptq as week19_gptq
from week19.gptq import hessian, layer_error
from week19.hqq import hqq as week19_hqq
from week19.layer_inputs import Inputs
from week19.quantization import dequantize, fake_quantize, grid, quantize
from week27.pruning import masks

seeds = st.integers(0, 9999)


def layer(seed, n_out, n_in, samples=None, dtype=torch.double):
    """Random weights, correlated inputs and their Hessian."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(samples or 3 * n_in, n_in, generator=g, dtype=dtype)
    x = x @ torch.randn(n_in, n_in, generator=g, dtype=dtype)
    return torch.randn(n_out, n_in, generator=g, dtype=dtype), x, hessian(x)


def half_mask(w, seed=0):
    return torch.rand(w.shape, generator=torch.Generator().manual_seed(seed)) < 0.5


# ---- rounding


def test_int8_weights_are_torchaos():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    linear = nn.Linear(96, 48, bias=False)
    ours = rtn(linear.weight.detach(), bits=8, symmetric=True)
    quantize_(linear, Int8WeightOnlyConfig(version=2))
    theirs = linear.weight
    assert torch.equal((ours.values.short() - 128).to(torch.int8), theirs.qdata)
    torch.testing.assert_close(ours.scale.flatten(), theirs.scale.flatten(), rtol=1e-7, atol=0)
    torch.testing.assert_close(ours.dense(), theirs.dequantize(), rtol=1e-6, atol=0)


def test_dynamic_int8_is_torchaos():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
    opened, _ = tiny_model(0)
    linear = opened.model.blocks[0].gate_proj
    chosen = Quantize(method="rtn", bits=8, symmetric=True, group_size=None, int8_inputs=True)
    weight, _ = compress_matrix(linear.weight.detach(), None, quantize=chosen)
    x = torch.randn(5, 32)
    quantize_(linear, Int8DynamicActivationInt8WeightConfig())
    theirs = linear(x)
    assert install(opened.model, "blocks.0.gate_proj", weight) == "DynamicInt8Linear"
    torch.testing.assert_close(opened.model.blocks[0].gate_proj(x), theirs, rtol=1e-5, atol=1e-5)


@given(seeds, st.sampled_from([2, 3, 4, 8]), st.booleans(), st.sampled_from([3, 6, 12]))
def test_whole_groups_are_rounded_as_in_week_19(seed, bits, symmetric, size):
    w = layer(seed, 4, 12, dtype=torch.float32)[0]
    found = rtn(w, bits=bits, group_size=size, symmetric=symmetric)
    expected = fake_quantize(w, bits=bits, symmetric=symmetric, granularity=size)
    torch.testing.assert_close(found.dense(), expected, rtol=0, atol=0)
    if not symmetric:
        theirs = week19_hqq(w, bits=bits, group_size=size).dequantize()
        assert torch.equal(hqq(w, bits=bits, group_size=size).dense(), theirs)


@pytest.mark.parametrize("method", [rtn, hqq])
def test_a_last_group_that_is_shorter_has_a_grid_of_its_own(method):
    w = layer(0, 3, 10, dtype=torch.float32)[0]
    found = method(w, bits=4, group_size=8)
    assert found.group_of.tolist() == [0] * 8 + [1] * 2
    parts = method(w[:, :8], bits=4, group_size=8), method(w[:, 8:], bits=4, group_size=2)
    assert torch.equal(found.dense(), torch.cat([part.dense() for part in parts], dim=1))


# ---- GPTQ


@given(seeds, st.integers(1, 4), st.integers(1, 10), st.integers(2, 4), st.booleans())
def test_gptq_with_a_mask_is_solving_again_for_each_weight(seed, n_out, n_in, bits, symmetric):
    w, _, h = layer(seed, n_out, n_in)
    mask = half_mask(w, seed)
    options = {"bits": bits, "symmetric": symmetric}
    found = masked_gptq(w, h, mask, damping=0.0, **options)
    kept = w * mask
    scale, zero = grid(kept.amin(1), kept.amax(1), **options)
    q = w.clone()
    for j in range(n_in):
        lost = w[:, :j] - q[:, :j]
        free = w[:, j:] + torch.linalg.solve(h[j:, j:], h[j:, :j] @ lost.T).T
        codes = quantize(free[:, 0], scale, zero, **options)
        q[:, j] = torch.where(mask[:, j], dequantize(codes, scale, zero), 0)
    torch.testing.assert_close(found.dequantize(), q, rtol=1e-9, atol=1e-9)


@given(seeds, st.sampled_from([None, 4, 5, 16]), st.booleans(), st.integers(1, 20), st.booleans())
def test_without_zeros_it_is_gptq_in_the_same_blocks(seed, group_size, act_order, block, symmetric):
    w, _, h = layer(seed, 4, 16)
    options = {"bits": 3, "group_size": group_size, "act_order": act_order, "symmetric": symmetric}
    everything = torch.ones_like(w, dtype=torch.bool)
    ours = masked_gptq(w, h, everything, block_size=block, **options)
    theirs = week19_gptq(w, h, block_size=block, **options)
    assert torch.equal(ours.codes, theirs.codes)
    torch.testing.assert_close(ours.dequantize(), theirs.dequantize())


@given(seeds, st.sampled_from([2, 3, 4]), st.booleans(), st.booleans(), st.booleans())
def test_gptqs_error_is_at_most_that_of_rounding(seed, bits, masked, act_order, symmetric):
    w, _, h = layer(seed, 2, 3)
    mask = half_mask(w, seed) if masked else None
    options = {"bits": bits, "symmetric": symmetric}
    found, _, worse = gptq(w, h, act_order=act_order, damping=0.0, mask=mask, **options)
    nearest = rtn(w, mask=mask, **options)
    ours, rounded = (layer_error(w - each.dense(), h).sum() for each in (found, nearest))
    assert ours <= rounded
    if worse:
        assert torch.equal(found.dense(), nearest.dense())


def test_rounding_is_sometimes_better_and_then_it_is_taken():
    taken = 0
    for seed in range(60):
        w, _, h = layer(seed, 1, 3)
        found, _, worse = gptq(w, h, bits=2, damping=0.0)
        nearest = rtn(w, bits=2)
        ours, rounded = (layer_error(w - each.dense(), h).sum() for each in (found, nearest))
        assert ours <= rounded
        assert not worse or torch.equal(found.dense(), nearest.dense())
        taken += int(worse)
    assert 0 < taken < 30


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
def test_what_was_pruned_stays_zero_and_is_made_up_for(symmetric, act_order):
    w, x, h = layer(1, 16, 32)
    options = {"bits": 4, "group_size": 16, "symmetric": symmetric}
    dropped = prune(w, h, Prune(method="wanda", pattern="2:4"))
    found, *_ = gptq(w, h, mask=dropped.mask, pattern=(2, 4), act_order=act_order, **options)
    assert (found.dense()[~dropped.mask] == 0).all()
    assert found.n_pruned == w.numel() // 2
    refilled, *_ = gptq(dropped.w, h, act_order=act_order, **options)
    assert (refilled.dense()[~dropped.mask] != 0).any()  # what the mask is for
    alone = rtn(dropped.w, mask=dropped.mask, **options)
    errors = [((x @ (w - each.dense()).T) ** 2).sum() for each in (found, alone)]
    assert errors[0] < 0.95 * errors[1]


def test_joint_is_better_than_one_after_the_other():
    prune_step, quantize_step = Prune(method="sparsegpt"), Quantize(bits=3, group_size=16)
    better = 0
    for seed in range(12):
        w, x, h = layer(seed, 16, 32)
        inputs = Inputs(h, x.abs().mean(0), x.abs().amax(0))
        joint, _ = compress_matrix(w, inputs, prune=prune_step, quantize=quantize_step)
        first, _ = compress_matrix(w, inputs, prune=prune_step)
        then, _ = compress_matrix(first.dense(), inputs, quantize=quantize_step, was=first)
        assert torch.equal(joint.mask, then.mask)
        a, b = (layer_error(w - each.dense(), h).sum() for each in (joint, then))
        better += int(a < b)
    assert better >= 8


def test_the_damping_that_was_needed_is_told():
    w, x, h = layer(0, 4, 12, samples=3)  # of rank 3
    inputs = Inputs(h, x.abs().mean(0), x.abs().amax(0))
    flat = Inputs(-torch.eye(12).double() * 0.05 + h / h.diagonal().mean(), *2 * (inputs.mean,))
    for step in ({"prune": Prune()}, {"quantize": Quantize(group_size=None)}):
        assert compress_matrix(w, inputs, **step)[1]["damping"] == 0.01
        found, record = compress_matrix(w, flat, **step)
        assert record["damping"] == pytest.approx(0.1)
        assert found.dense().isfinite().all()


# ---- masks


@given(seeds, st.integers(1, 5), st.integers(1, 9), st.floats(0, 0.99))
def test_wandas_mask_is_a_sort_of_each_row(seed, n_out, n_in, sparsity):
    w, x, h = layer(seed, n_out, n_in)
    mask = prune(w, h, Prune(method="wanda", sparsity=sparsity)).mask
    scores = (w.abs() * x.norm(dim=0)).tolist()
    for row, kept in zip(scores, mask, strict=True):
        going = sorted(range(n_in), key=row.__getitem__)[: round(sparsity * n_in)]
        assert sorted(going) == (~kept).nonzero()[:, 0].tolist()


@given(seeds, st.integers(1, 5), st.integers(1, 9), st.floats(0, 0.99))
def test_wandas_mask_of_a_layer_is_a_sort_of_all_its_weights(seed, n_out, n_in, sparsity):
    w, x, h = layer(seed, n_out, n_in)
    mask = prune(w, h, Prune(method="wanda", sparsity=sparsity, scope="layer")).mask.flatten()
    scores = (w.abs() * x.norm(dim=0)).flatten().tolist()
    going = sorted(range(len(scores)), key=scores.__getitem__)[: round(sparsity * len(scores))]
    assert sorted(going) == (~mask).nonzero()[:, 0].tolist()


@given(seeds, st.integers(1, 6), st.sampled_from(["2:4", "4:8", "1:4"]))
def test_n_of_m_holds_exactly_for_all_methods(seed, groups, pattern):
    n, m = map(int, pattern.split(":"))
    w, _, h = layer(seed, 3, groups * m)
    for method in ("magnitude", "wanda", "sparsegpt"):
        found = prune(w, h, Prune(method=method, pattern=pattern))
        assert (found.mask.unflatten(1, (-1, m)).sum(-1) == n).all()


@given(seeds, st.integers(1, 5), st.integers(1, 9), st.floats(0, 0.99))
def test_counts_are_exact_with_ties_and_dead_inputs(seed, n_out, n_in, sparsity):
    w, _, h = layer(seed, n_out, n_in)
    w = w.round()
    h[0], h[:, 0] = 0, 0
    for method, scope in itertools.product(("magnitude", "wanda", "sparsegpt"), ("row", "layer")):
        if (method, scope) == ("sparsegpt", "row"):
            continue
        mask = prune(w, h, Prune(method=method, sparsity=sparsity, scope=scope)).mask
        if scope == "layer":
            assert int((~mask).sum()) == round(sparsity * w.numel())
        else:
            assert ((~mask).sum(1) == round(sparsity * n_in)).all()


@given(seeds, st.integers(0, 9), st.booleans())
def test_a_layers_magnitudes_are_torchs(seed, tenths, ties):
    import torch.nn.utils.prune as theirs

    w = layer(seed, 5, 8, dtype=torch.float32)[0]
    chosen = Prune(method="magnitude", sparsity=tenths / 10, scope="layer")
    mask = prune(w, None, chosen).mask
    linear = nn.Linear(8, 5, bias=False)
    linear.weight.data = w
    theirs.l1_unstructured(linear, "weight", tenths / 10)
    assert torch.equal(mask, linear.weight_mask.bool())


@given(seeds, st.floats(0, 0.99), st.booleans())
def test_global_masks_are_those_of_sorting_everything(seed, sparsity, ties):
    weights = {
        name: layer(seed + i, n_out, n_in, dtype=torch.float32)[0]
        for i, (name, n_out, n_in) in enumerate([("a", 3, 5), ("b", 4, 2), ("c", 1, 7)])
    }
    if ties:
        weights = {name: w.round() for name, w in weights.items()}
    found = global_masks(weights, sparsity)
    sorted_ = masks({name: w.abs() for name, w in weights.items()}, sparsity, scope="model")
    assert all(torch.equal(found[name], sorted_[name]) for name in weights)


def test_pruning_after_rounding_keeps_the_codes():
    w, x, h = layer(0, 8, 16)
    inputs = Inputs(h, x.abs().mean(0), x.abs().amax(0))
    rounded, _ = compress_matrix(w, inputs, quantize=Quantize(group_size=8))
    found, record = compress_matrix(
        rounded.dense(), inputs, prune=Prune(method="wanda"), was=rounded
    )
    assert torch.equal(found.values, rounded.values)
    assert record["n_pruned"] == found.n_pruned == 64
    assert torch.equal(found.dense(), rounded.dense() * found.mask)


# ---- factors


@pytest.mark.parametrize("method", ["awq", "smoothquant"])
def test_factors_change_nothing_but_what_rounding_does(method):
    opened, text = tiny_model(3, n_layers=1)
    model = opened.model.double()
    block = model.blocks[0]
    with torch.no_grad():
        block.attention_norm.weight.mul_(torch.linspace(0.1, 10, 32))
    xs, waves = begin(model, text.ids, text.ids.shape[1])
    waves = [wave.double() for wave in waves]
    before = model(text.ids)
    running = [stages(block, x, *waves) for x in xs]
    inputs = inputs_of(running)
    bits = 8 if method == "smoothquant" else 3
    found = equalize(block, inputs, Quantize(method=method, bits=bits, group_size=12))
    assert any(s.min() < 0.9 * s.max() for s in found.values())
    torch.testing.assert_close(model(text.ids), before, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
def test_the_error_that_awq_searches_is_that_of_the_factors_it_folds_in(n_kv_heads, monkeypatch):
    w, x, h = layer(0, 6, 32, dtype=torch.float32)
    searched = []

    def spy(w, h, mean, **options):
        searched.append(factors(mean, 0.5))
        return search(w, h, mean, **options)._replace(alpha=0.5)

    monkeypatch.setattr(equalizing, "search", spy)
    inputs = Inputs(h, x.abs().mean(0), x.abs().amax(0))
    chosen = Quantize(method="awq", bits=3, group_size=12)
    s = equalizing.scale_up(w, inputs, chosen, (n_kv_heads, 8))
    torch.testing.assert_close(searched[0][:32], per_query_head(s, 32, 8))


def test_awqs_factors_are_never_worse_than_rounding_alone():
    opened, text = tiny_model(3, n_layers=1)
    block = opened.model.blocks[0]
    xs, waves = begin(opened.model, text.ids, text.ids.shape[1])
    running = [stages(block, x, *waves) for x in xs]
    inputs = inputs_of(running)
    names = READERS["gate_proj"]
    h = inputs["gate_proj"].h
    plain = [block.get_submodule(name).weight.clone() for name in names]
    s = equalize(block, inputs, Quantize(method="awq", bits=3, group_size=12))["gate_proj"]
    errors = [0.0, 0.0]
    for name, w in zip(names, plain, strict=True):
        scaled = block.get_submodule(name).weight
        if name == "gate_proj":  # up_proj's rows were scaled too, for what reads them
            ours = rtn(scaled, bits=3, group_size=12).dense() / s
            errors[0] += layer_error(w - ours, h).sum().item()
            errors[1] += layer_error(w - rtn(w, bits=3, group_size=12).dense(), h).sum().item()
    assert errors[0] < 1.05 * errors[1]
