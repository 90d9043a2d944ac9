"""Masks against torch's pruners, exact counts with ties, movement, smaller layers, bad input."""

import copy
import itertools

import pytest
import torch
from enforce import plain
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from week18.llama3 import Llama, LlamaConfig
from week27.evidence.pruning import accuracy, fine_tuned, new_net, pruned, rows_of
from week27.pruning import (
    ScoredLinear,
    cubic_sparsity,
    keep_largest,
    masked,
    masks,
    n_of_m,
    to_prune,
    zeros,
)
from week27.structured_pruning import (
    head_scores,
    keep_heads,
    keep_layers,
    keep_neurons,
    neuron_scores,
)

seeds, shares = st.integers(0, 9999), st.floats(0, 1)


def numbers(seed, *shape, dtype=torch.double):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@given(seeds, st.integers(1, 6), st.integers(1, 9), st.integers(1, 9), shares)
def test_masks_are_those_of_torch(seed, a, b, n_in, sparsity):
    layers = {str(k): nn.Linear(n_in, n) for k, n in enumerate((a, b))}
    scores = {}
    for i, (name, layer) in enumerate(layers.items()):
        layer.weight.data = numbers(seed + i, *layer.weight.shape)
        scores[name] = layer.weight.detach().abs()
    for scope in ("layer", "model"):
        twins = copy.deepcopy(layers)
        if scope == "model":
            pairs = [(layer, "weight") for layer in twins.values()]
            prune.global_unstructured(pairs, prune.L1Unstructured, amount=sparsity)
        else:
            for layer in twins.values():
                prune.l1_unstructured(layer, "weight", amount=sparsity)
        found = masks(scores, sparsity, scope=scope)
        for name, twin in twins.items():
            assert torch.equal(found[name], twin.weight_mask.bool())
            assert torch.equal(layers[name].weight * found[name], twin.weight)


@given(seeds, st.integers(1, 5), st.integers(1, 20), shares, st.integers(1, 3))
def test_counts_are_exact_whatever_ties(seed, n_out, n_in, sparsity, values):
    scores = numbers(seed, n_out, n_in).mul(values).round().abs()
    n = scores.numel()
    assert zeros([masks({"": scores}, sparsity)[""]]) == round(sparsity * n)
    by_row = masks({"": scores}, sparsity, scope="row")[""]
    assert ((~by_row).sum(1) == round(sparsity * n_in)).all()
    for row, kept in zip(scores, by_row, strict=True):
        assert row[kept].sum() == row.sort(descending=True).values[: int(kept.sum())].sum()


def test_of_equal_scores_the_first_are_kept():
    assert keep_largest(torch.ones(5), 2).tolist() == [True, True, False, False, False]


@given(seeds, st.integers(1, 5), st.integers(1, 4), st.sampled_from([(2, 4), (4, 8), (1, 3)]))
def test_n_of_m_keeps_the_largest_of_each_group(seed, n_out, groups, pattern):
    n, m = pattern
    scores = numbers(seed, n_out, groups * m).abs()
    mask = n_of_m(scores, n, m)
    for row, kept in zip(scores, mask, strict=True):
        for start in range(0, groups * m, m):
            group, of_it = row[start : start + m], kept[start : start + m]
            assert sorted(group[of_it].tolist()) == sorted(group.tolist())[m - n :]


@given(seeds, st.integers(1, 4), st.integers(1, 5), shares)
def test_scores_get_the_gradient_of_all_weights(seed, n_out, n_in, sparsity):
    w, scores, out = (numbers(seed + i, n_out, n_in) for i in range(3))
    w.requires_grad_()
    scores.requires_grad_()
    mask = masks({"": scores.detach()}, sparsity)[""]
    effective = masked(w, scores, mask)
    assert torch.equal(effective, w * mask)
    (effective * out).sum().backward()
    torch.testing.assert_close(w.grad, out * mask)
    torch.testing.assert_close(scores.grad, out * w.detach())


def test_a_pruned_weight_comes_back_when_it_would_move_away_from_zero():
    linear = nn.Linear(2, 1, bias=False)
    linear.weight.data = torch.tensor([[1.0, 1.0]])
    layer = ScoredLinear(linear)
    layer.scores.data = torch.tensor([[0.0, 0.1]])
    layer.sparsity = 0.5
    assert layer.mask.tolist() == [[False, True]]
    x, y = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0]])  # only the first input matters
    ((layer(x) - y) ** 2).sum().backward()
    assert layer.scores.grad[0, 0] < 0  # descent raises it: the loss wants a larger weight
    with torch.no_grad():
        layer.scores -= layer.scores.grad
    assert layer.mask.tolist() == [[True, False]]


def test_a_scored_layer_has_the_bias_and_starts_dense():
    linear = nn.Linear(4, 3)
    x = numbers(0, 2, 4, dtype=torch.float)
    assert torch.equal(ScoredLinear(linear)(x), linear(x))


def test_the_schedule_rises_to_its_end():
    found = [cubic_sparsity(i, 10, 0.9) for i in range(11)]
    assert found[0] == 0
    assert found[-1] == pytest.approx(0.9)
    steps = [b - a for a, b in itertools.pairwise(found)]
    assert all(a > b > 0 for a, b in itertools.pairwise(steps))


# ---- smaller layers


def llama(seed=0, **sizes):
    config = LlamaConfig(
        **{"vocab_size": 11, "d_model": 16, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2}
        | {"d_ff": 24}
        | sizes
    )
    return Llama(config, torch.Generator().manual_seed(seed)).double().requires_grad_(False)


@given(seeds, st.sets(st.integers(0, 23), min_size=1))
def test_without_neurons_the_output_is_the_masked_one(seed, kept):
    model, tokens = llama(seed), torch.arange(6)[None]
    index = torch.tensor(sorted(kept))
    smaller, zeroed = copy.deepcopy(model), copy.deepcopy(model)
    smaller.blocks[1] = keep_neurons(model.blocks[1], index)
    gone = [i for i in range(24) if i not in kept]
    zeroed.blocks[1].down_proj.weight[:, gone] = 0
    torch.testing.assert_close(smaller(tokens), zeroed(tokens))
    assert smaller.blocks[1].up_proj.weight.shape == (len(kept), 16)
    assert model.blocks[1].up_proj.weight.shape == (24, 16)


@pytest.mark.parametrize("kept", [[0], [3], [0, 1], [0, 2], [1, 3], [2, 3], [0, 1, 2, 3]])
def test_without_heads_the_output_is_the_masked_one(kept):
    model, tokens = llama(), torch.arange(6)[None]
    smaller, zeroed = copy.deepcopy(model), copy.deepcopy(model)
    smaller.blocks[0] = keep_heads(model.blocks[0], torch.tensor(kept))
    for head in set(range(4)) - set(kept):
        zeroed.blocks[0].out_proj.weight[:, 4 * head : 4 * head + 4] = 0
    torch.testing.assert_close(smaller(tokens), zeroed(tokens))
    kv = len({head // 2 for head in kept})
    assert len(smaller.blocks[0].k_proj.weight) == 4 * kv


def test_without_layers_a_cache_still_counts_them():
    from week19.kv_cache import generate
    from week19.sampling import greedy

    model = llama(n_layers=4)
    smaller = keep_layers(model, torch.tensor([0, 3]))
    assert [block.layer for block in smaller.blocks] == [0, 1]
    assert torch.equal(smaller.blocks[1].q_proj.weight, model.blocks[3].q_proj.weight)
    cached, plainly = (
        torch.stack(list(generate(smaller, [[3, 1]], 4, choose=greedy, cache=cache)))
        for cache in (True, False)
    )
    assert torch.equal(cached, plainly)


def test_scores_of_neurons_and_heads_are_norms_of_what_leaves_with_them():
    block = llama().blocks[0]
    with torch.no_grad():
        for name in ("gate_proj", "up_proj", "q_proj", "k_proj"):
            getattr(block, name).weight[4:8] = 0
        for name in ("down_proj", "out_proj"):
            getattr(block, name).weight[:, 4:8] = 0
    neurons, heads = neuron_scores(block), head_scores(block)
    assert neurons[4:8].tolist() == [0] * 4
    assert heads[1] == 0
    assert (neurons > 0).sum() == 20
    assert (heads > 0).sum() == 3
    parts = [block.gate_proj.weight[0], block.up_proj.weight[0], block.down_proj.weight[:, 0]]
    torch.testing.assert_close(neurons[0], torch.cat(parts).norm())


# ---- the judge


def test_rows_to_judge_by_are_others_of_the_same_digits():
    (x, y), (x_test, y_test) = rows_of(range(5, 10), 0, 500)
    assert (len(x), len(x_test)) == (500, 396)
    assert set(y.tolist()) == set(y_test.tolist()) == set(range(5))
    assert not {row.numpy().tobytes() for row in x} & {row.numpy().tobytes() for row in x_test}


@pytest.mark.parametrize("kind", ["movement", "magnitude", "random"])
def test_fine_tuning_ends_at_the_sparsity_asked_for(kind):
    net = new_net(torch.Generator().manual_seed(0))
    training, held_out = rows_of(range(5, 10), 0, 100)
    before = {name: p.clone() for name, p in net.named_parameters()}
    found = fine_tuned(net, kind, training, 0.9, 8, 0)
    for i in (0, 2):
        assert zeros([found[i].mask]) == round(0.9 * found[i].weight.numel())
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
    assert 0 <= accuracy(found, held_out) <= 100


def test_one_shot_pruning_drops_the_lowest_scores_of_a_copy():
    net = new_net(torch.Generator().manual_seed(0))
    scores = {k: p.detach().abs() for k, p in net.named_parameters() if p.ndim == 2}
    found = pruned(net, scores, 0.5, "layer")
    for name, score in scores.items():
        gone = found.get_parameter(name) == 0
        assert int(gone.sum()) == round(0.5 * gone.numel())
        assert score[gone].max() <= score[~gone].min()
        assert not (net.get_parameter(name) == 0).any()


# ---- wrong input


SCORES = torch.ones(2, 6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: to_prune(1.5, 3), r"sparsity must be in \[0, 1\], got 1.5"),
        (lambda: to_prune(float("nan"), 3), "sparsity must be in"),
        (lambda: keep_largest(SCORES, 7), "kept must be between 0 and 6, got 7"),
        (lambda: keep_largest(SCORES * torch.nan, 1), "scores must be numbers, got NaN"),
        (lambda: masks({}, 0.5), "scores must hold a layer"),
        (
            lambda: plain("27", "pruning").masks({"": SCORES}, 0.5, scope="rows"),
            "scope must be model, layer or row, got rows",
        ),
        (lambda: n_of_m(SCORES, 2, 4), "m must divide the 6 inputs, got 4"),
        (lambda: n_of_m(SCORES, 4, 3), "n must be between 0 and m = 3, got 4"),
        (lambda: n_of_m(SCORES, 0, 0), "m must be at least 1, got 0"),
        (lambda: cubic_sparsity(3, 2, 0.5), "step must be between 0 and steps = 2, got 3"),
        (lambda: cubic_sparsity(1, 2, 1.5), r"final must be in \[0, 1\]"),
        (
            lambda: keep_neurons(llama().blocks[0], torch.tensor([], dtype=torch.long)),
            r"neurons must be at least one of 0 to 23, got \[\]",
        ),
        (lambda: keep_neurons(llama().blocks[0], torch.tensor([2, 1])), "neurons must be in order"),
        (lambda: keep_heads(llama().blocks[0], torch.tensor([0, 4])), "heads must be at least one"),
        (
            lambda: keep_heads(llama().blocks[0], torch.tensor([0, 1, 2])),
            r"equally many queries, or none, got \[2, 1\]",
        ),
        (lambda: keep_layers(llama(), torch.tensor([2])), "layers must be at least one of 0 to 1"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
