"""DeepSeek-V3's routing, model and balance: random sizes where the evidence has fixed ones."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from week18.balanced_experts import balanced, choose_experts, max_violation
from week18.balanced_training import balance_loss, loss_and_load, train
from week18.deepseek_twin import randomize, their_tensors, transformers_twin
from week18.deepseek_v3 import DeepSeek, DeepSeekConfig
from week18.evidence.deepseek_v3 import starved
from week18.latent_attention import LatentCache, LatentConfig

SIZES = LatentConfig(12, 2, 9, 7, 4, 5, q_rank=6)
CONFIG = DeepSeekConfig(13, SIZES, 2, 1, 10, 8, n_experts=6, top_k=2, context=64)
GROUPS = {"n_groups": 3, "top_groups": 2}


def random_tokens(*shape, seed=0):
    return torch.randint(13, shape, generator=torch.Generator().manual_seed(seed))


def random_scores(tokens=12, experts=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(tokens, experts, generator=generator, dtype=torch.float64)
    return scores, torch.randn(experts, generator=generator, dtype=torch.float64) / 3


# ---- routing


@given(
    seed=st.integers(0, 99),
    top_k=st.integers(1, 4),
    shape=st.sampled_from([(1, 1), (3, 2), (4, 2), (6, 3), (12, 4)]),
)
def test_routing_by_the_definition(seed, top_k, shape):
    scores, bias = random_scores(seed=seed)
    options = {"n_groups": shape[0], "top_groups": shape[1], "routed_scale": 2.5}
    weights, experts = choose_experts(scores, bias, top_k=top_k, **options)
    for s, w, chosen in zip(scores.tolist(), weights, experts, strict=True):
        choice, size = [a + b for a, b in zip(s, bias.tolist(), strict=True)], 12 // shape[0]
        groups = [range(g * size, (g + 1) * size) for g in range(shape[0])]
        best = sorted(groups, key=lambda g: -sum(sorted(choice[i] for i in g)[-2:]))[: shape[1]]
        open_to = sorted((i for g in best for i in g), key=lambda i: -choice[i])[:top_k]
        assert chosen.tolist() == open_to
        expected = torch.tensor([2.5 * s[i] / sum(s[j] for j in open_to) for i in open_to])
        torch.testing.assert_close(w, expected.double())


@given(seed=st.integers(0, 20), shift=st.floats(-3, 3))
def test_a_constant_added_to_all_biases_changes_nothing(seed, shift):
    scores, bias = random_scores(seed=seed)
    here = choose_experts(scores, bias, top_k=3, n_groups=4, top_groups=2)
    there = choose_experts(scores, bias + shift, top_k=3, n_groups=4, top_groups=2)
    assert torch.equal(here[1], there[1])
    torch.testing.assert_close(here[0], there[0], rtol=0, atol=0)


def test_tiny_scores_keep_their_weights_under_large_biases():
    """(s + b) - b is 0 in float32 for small s; and sigmoids that are all 0 give no 0/0."""
    scores, bias = torch.tensor([[1e-9, 3e-9, 0.0]]), torch.tensor([5.0, 5.0, 0.0])
    weights, experts = choose_experts(scores, bias, top_k=2)
    torch.testing.assert_close(weights.gather(1, experts.argsort(1)), torch.tensor([[0.25, 0.75]]))
    weights, _ = choose_experts(torch.zeros(1, 3), bias, top_k=2)
    assert weights.tolist() == [[0.0, 0.0]]


def test_the_bias_has_no_gradient_and_the_scores_have():
    scores, bias = (t.requires_grad_() for t in random_scores())
    weights, _ = choose_experts(scores, bias, top_k=2)
    weights[:, 0].sum().backward()
    assert bias.grad is None
    assert (scores.grad != 0).any()


@given(counts=st.lists(st.integers(0, 9), min_size=2, max_size=8), rate=st.floats(0, 0.1))
def test_biases_move_against_the_load(counts, rate):
    counts = torch.tensor(counts)
    step = balanced(torch.zeros(len(counts)), counts, rate=rate)
    mean = counts.double().mean()
    expected = [rate * ((c < mean).item() - (c > mean).item()) for c in counts.double()]
    torch.testing.assert_close(step, torch.tensor(expected, dtype=step.dtype))
    if counts.sum():
        assert max_violation(counts) == pytest.approx((counts.max() / mean - 1).item())


def test_balancing_brings_fixed_scores_into_balance():
    scores = torch.rand(600, 8, generator=torch.manual_seed(0)) + torch.linspace(0, 1, 8)
    bias = torch.zeros(8)
    excess = []
    for _ in range(300):
        counts = choose_experts(scores, bias, top_k=2)[1].flatten().bincount(minlength=8)
        bias = balanced(bias, counts, rate=0.005)
        excess.append(max_violation(counts))
    assert excess[0] > 1.5
    assert max(excess[-5:]) < 0.15


def test_balance_loss_is_one_when_even_and_more_when_not():
    even = torch.full((8, 4), 0.3)
    experts = torch.tensor([[0, 1], [2, 3]] * 4)
    assert balance_loss(even, experts).item() == pytest.approx(1)
    collapsed = torch.tensor([[0.9, 0.9, 1e-9, 1e-9]] * 8)
    assert balance_loss(collapsed, torch.tensor([[0, 1]] * 8)).item() == pytest.approx(2)


# ---- the model


@settings(max_examples=4)
@given(
    top_k=st.integers(1, 4),
    n_shared=st.integers(1, 2),
    dense=st.integers(0, 2),
    seed=st.integers(0, 9),
)
def test_equals_transformers(top_k, n_shared, dense, seed):
    config = dataclasses.replace(
        CONFIG, top_k=top_k, n_shared=n_shared, n_dense=dense, routed_scale=1.5, **GROUPS
    )
    ours = randomize(DeepSeek(config), seed=seed)
    theirs, tokens = transformers_twin(ours), random_tokens(2, 20, seed=seed)
    outputs = ours(tokens), theirs(tokens).logits
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)
    for out in outputs:
        F.cross_entropy(out.flatten(0, 1), tokens.flatten()).backward()
    expected = {name: p.grad for name, p in theirs.named_parameters()}
    found = their_tensors(
        ours, {n: p.grad for n, p in ours.named_parameters() if p.grad is not None}
    )
    for name, grad in found.items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-4, atol=1e-5)


@given(pieces=st.lists(st.integers(1, 5), min_size=1, max_size=5), seed=st.integers(0, 9))
@settings(max_examples=10)
def test_cached_equals_uncached(pieces, seed):
    model = randomize(DeepSeek(CONFIG), seed=seed).double().eval()
    sizes = {"n_layers": 2, "batch": 2, "max_length": 25, "dtype": torch.float64}
    cache, tokens = LatentCache(SIZES, **sizes), random_tokens(2, sum(pieces), seed=seed)
    parts = [model(part, cache=cache) for part in tokens.split(pieces, dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), model(tokens))


def test_counts_add_up_over_micro_batches_and_are_used_once():
    whole, parts = (randomize(DeepSeek(CONFIG)).train() for _ in range(2))
    tokens = random_tokens(4, 9)
    whole(tokens)
    for row in tokens.split(2):
        parts(row)
    (a,), (b,) = whole.mixtures(), parts.mixtures()
    assert a.counts.sum() == 4 * 9 * 2
    assert torch.equal(a.counts, b.counts)
    before, expected = a.bias.clone(), balanced(a.bias, a.counts, rate=0.1)
    whole.balance(0.1)
    assert torch.equal(a.bias, expected)
    assert not torch.equal(a.bias, before)
    whole.balance(0.1)  # nothing counted since: all are at the mean
    assert torch.equal(a.bias, expected)
    whole.eval()(tokens)
    assert a.counts.sum() == 0


def test_the_bias_stays_in_float32():
    model = DeepSeek(CONFIG)
    (mixture,) = model.mixtures()
    mixture.bias.fill_(1 + 2**-12)
    model.to(torch.bfloat16)
    assert mixture.bias.dtype == torch.float32
    assert (mixture.bias == 1 + 2**-12).all()
    assert model(random_tokens(1, 5)).dtype == torch.bfloat16


def test_training_with_a_rate_moves_biases_and_without_leaves_them():
    tokens = random_tokens(300)
    options = {"steps": 3, "batch_size": 2, "context": 8}
    for rate in (0.0, 0.01):
        model = DeepSeek(CONFIG, torch.Generator().manual_seed(0))
        run = train(model, tokens, rate=rate, generator=torch.Generator().manual_seed(0), **options)
        assert (run.counts.sum(-1) == 2 * 8 * 2).all()
        assert (model.mixtures()[0].bias != 0).any() == (rate > 0)
        assert not model.training


def test_the_balancing_loss_reaches_the_router():
    tokens, models = random_tokens(300), []
    for weight in (0.0, 1.0):
        model = DeepSeek(CONFIG, torch.Generator().manual_seed(0))
        options = {"steps": 1, "batch_size": 2, "context": 8, "loss_weight": weight}
        train(model, tokens, generator=torch.Generator().manual_seed(0), **options)
        models.append(model.mixtures()[0])
    assert not torch.equal(*(m.router.weight for m in models))
    torch.testing.assert_close(*(m.shared.up_proj.weight for m in models))


def test_loads_are_counted_on_the_text_itself():
    model = randomize(DeepSeek(CONFIG)).eval()
    loss, counts = loss_and_load(model, random_tokens(129), 32)
    assert counts.sum() == 128 * 2
    assert math.isfinite(loss)
    assert model.mixtures()[0].counts.sum() == 0
    assert starved(torch.tensor([0, 1, 50, 49])) == 2


def test_initial_loss_is_guessing():
    model = DeepSeek(CONFIG, torch.Generator().manual_seed(0))
    tokens = random_tokens(8, 33)
    loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    assert abs(loss.item() - math.log(13)) < 0.03


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DeepSeekConfig(0, SIZES), "vocab_size must be at least 1, got 0"),
        (lambda: DeepSeekConfig(5, SIZES, n_dense=3), "n_dense must be between 0 and n_layers = 2"),
        (lambda: DeepSeekConfig(5, SIZES, n_groups=3), "divide n_experts = 8, got 3"),
        (lambda: DeepSeekConfig(5, SIZES, top_groups=2), "top_groups must be between 1 and"),
        (lambda: DeepSeekConfig(5, SIZES, top_k=3, n_groups=4), "the 2 experts of 1 groups, got 3"),
        (lambda: choose_experts(*random_scores(), top_k=0), "top_k must be between 1 and the 12"),
        (
            lambda: balanced(torch.zeros(2), torch.ones(2).long(), rate=-1),
            "rate must be at least 0",
        ),
        (lambda: max_violation(torch.zeros(3, dtype=torch.long)), "at least one token, got 0"),
        (lambda: DeepSeek(CONFIG)(random_tokens(1, 65)), "at most context = 64 long, got 65"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
