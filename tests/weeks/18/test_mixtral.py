"""Sorted experts against the definition, balancing against its bounds, Mixtral against theirs."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from week18.evidence.mixtral import (
    dropped_share,
    imbalance,
    mixtral_twin,
    pooled,
    their_gradients,
)
from week18.experts import (
    Experts,
    balancing_loss,
    by_token,
    capacity_of,
    cv_squared,
    dispatch,
    expected_load,
    grouped_linear,
    importance,
    mix,
    noisy_logits,
    route,
    z_loss,
)
from week18.mixtral import (
    Mixtral,
    MixtralConfig,
    balance,
    mixtures,
    n_parameters,
    router_z,
    spread_out,
    train,
)
from week18.transformers_twin import randomize

CONFIG = MixtralConfig(13, 12, 2, 2, 1, d_ff=12, n_experts=4, context=64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def a_layer(tokens, experts, k, seed=0):
    g = generator(seed)
    x = torch.randn(tokens, 6, generator=g, dtype=torch.float64)
    weights, chosen = route(torch.randn(tokens, experts, generator=g, dtype=torch.float64), k)
    layer = Experts(experts, 6, 5).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.normal_(generator=g)
    return x, weights, chosen, layer


# ---- routing and dispatch


@settings(max_examples=15)
@given(tokens=st.integers(1, 12), n=st.integers(1, 6), k=st.integers(1, 6), seed=st.integers(0, 99))
def test_mix_is_the_definition(tokens, n, k, seed):
    x, weights, chosen, experts = a_layer(tokens, n, min(k, n), seed)
    x.requires_grad_()
    found = mix(x, weights, chosen, experts, n), by_token(x, weights, chosen, experts.one)
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)
    leaves = (x, *experts.parameters())
    gradients = [torch.autograd.grad(y.square().sum(), leaves) for y in found]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


def test_softmax_of_the_chosen_is_the_renormalized_one():
    logits = torch.randn(9, 7, generator=generator())
    weights, chosen = route(logits, 3)
    of_all = logits.softmax(-1).gather(1, chosen)
    torch.testing.assert_close(weights, of_all / of_all.sum(-1, keepdim=True))
    assert route(logits.bfloat16(), 3)[0].dtype == torch.bfloat16


def test_an_expert_alone_and_no_tokens():
    x, weights, chosen, experts = a_layer(5, 1, 1)
    torch.testing.assert_close(mix(x, weights, chosen, experts, 1), experts.one(0, x))
    empty = mix(x[:0], weights[:0], chosen[:0], experts, 1)
    assert empty.shape == (0, 6)


def test_capacity_drops_the_last_and_second_choices_first():
    chosen = torch.tensor([[0, 1], [1, 0], [0, 2], [0, 1]])
    order, counts = dispatch(chosen, 4, capacity=2)
    assert counts == [2, 2, 1, 0]
    # Expert 0 keeps the first choices of tokens 0 and 2, expert 1 its first choice (token 1) and
    # the second of token 0.
    assert (order % 4).tolist() == [0, 2, 1, 0, 2]
    assert (order // 4).tolist() == [0, 0, 0, 1, 1]
    full, _ = dispatch(chosen, 4, capacity=8)
    assert torch.equal(full, dispatch(chosen, 4)[0])


def test_a_dropped_token_adds_nothing():
    x, weights, chosen, experts = a_layer(7, 3, 1)
    out = mix(x, weights, chosen, experts, 3, capacity=1)
    kept = {chosen[:, 0].tolist().index(e) for e in set(chosen[:, 0].tolist())}
    for token in range(7):
        expected = experts.one(int(chosen[token, 0]), x[token]) if token in kept else torch.zeros(6)
        torch.testing.assert_close(out[token], expected, check_dtype=False)


def test_capacity_lets_later_tokens_change_earlier_ones():
    """A first choice of the last token takes the place of an earlier token's second choice."""
    x, weights, _, experts = a_layer(3, 2, 2)
    before = mix(x, weights, torch.tensor([[0, 1], [1, 0], [0, 1]]), experts, 2, capacity=2)
    after = mix(x, weights, torch.tensor([[0, 1], [1, 0], [1, 0]]), experts, 2, capacity=2)
    assert not torch.allclose(before[0], after[0])


def test_capacity_of_equal_shares():
    assert capacity_of(100, 2, 8, 1.0) == 25
    assert capacity_of(101, 2, 8, 1.0) == 26
    assert capacity_of(100, 2, 8, 1.25) == 32


def test_grouped_linear_with_idle_experts():
    x, weight = torch.randn(4, 3), torch.randn(3, 2, 3, requires_grad=True)
    out = grouped_linear(x, weight, [3, 0, 1])
    expected = torch.cat([x[:3] @ weight[0].T, x[3:] @ weight[2].T])
    torch.testing.assert_close(out, expected)
    out.sum().backward()
    assert (weight.grad[1] == 0).all()


# ---- losses


@pytest.mark.parametrize(("n", "k"), [(8, 2), (4, 1), (6, 6)])
def test_balancing_loss_is_k_when_balanced_and_n_when_collapsed(n, k):
    tokens = torch.arange(n * 5)
    chosen = (tokens[:, None] + torch.arange(k)) % n
    assert balancing_loss(torch.zeros(n * 5, n), chosen) == pytest.approx(k)
    logits = torch.full((n * 5, n), -1e4)
    logits[:, :k] = 0
    assert balancing_loss(logits, route(logits, k)[1]) == pytest.approx(n)


@given(pads=st.integers(1, 50), seed=st.integers(0, 99))
def test_padding_does_not_count(pads, seed):
    logits = torch.randn(20 + pads, 5, generator=generator(seed))
    real = torch.arange(20 + pads) < 20
    chosen = route(logits, 2)[1]
    found = balancing_loss(logits, chosen, real), z_loss(logits, real)
    expected = balancing_loss(logits[:20], chosen[:20]), z_loss(logits[:20])
    torch.testing.assert_close(found, expected)


def test_balancing_gradient_pushes_the_busy_expert_down():
    logits = torch.tensor([[1.0, 0.0, 0.0]] * 4, requires_grad=True)
    balancing_loss(logits, route(logits, 1)[1]).backward()
    assert (logits.grad[:, 0] > 0).all()
    assert (logits.grad[:, 1:] < 0).all()


def test_z_loss_by_hand():
    assert z_loss(torch.zeros(3, 4)) == pytest.approx(math.log(4) ** 2)


def test_pooled_layers_hide_a_collapse():
    """Each layer on two experts of its own looks balanced if layers are pooled."""
    model = Mixtral(dataclasses.replace(CONFIG, top_k=2))
    model(torch.zeros(1, 9, dtype=torch.long))
    for layer, m in enumerate(mixtures(model)):
        m.logits = torch.full((9, 4), -1e4)
        m.logits[:, 2 * layer : 2 * layer + 2] = 0
        m.chosen = route(m.logits, 2)[1]
    assert pooled(model) == pytest.approx(2)
    assert balance(model) == pytest.approx(4)
    assert imbalance(model) == pytest.approx(2)
    assert dropped_share(model, 1.0) == pytest.approx(1 - 5 / 9)


@settings(max_examples=10)
@given(k=st.integers(1, 4), seed=st.integers(0, 99))
def test_expected_load_by_drawing(k, seed):
    g = generator(seed)
    clean, spread = torch.randn(1, 5, generator=g), 0.3 + torch.rand(1, 5, generator=g)
    noisy = noisy_logits(clean, spread, g)
    counted = torch.zeros(5)
    for expert in range(5):
        again = noisy.repeat(4000, 1)
        again[:, expert] = clean[0, expert] + spread[0, expert] * torch.randn(4000, generator=g)
        counted[expert] = (again.topk(k).indices == expert).any(1).float().mean()
    found = expected_load(clean, noisy, spread, k)
    torch.testing.assert_close(found, counted, rtol=0, atol=0.045)


def test_importance_and_its_variation():
    weights, chosen = torch.tensor([[0.75, 0.25], [0.5, 0.5]]), torch.tensor([[0, 2], [2, 1]])
    found = importance(weights, chosen, 3)
    torch.testing.assert_close(found, torch.tensor([0.75, 0.5, 0.75]))
    assert cv_squared(torch.ones(4)) == 0
    assert cv_squared(torch.tensor([4.0, 0, 0, 0])) == pytest.approx(3)


# ---- the model


@settings(max_examples=5)
@given(
    n=st.integers(2, 5),
    k=st.integers(1, 2),
    kv_heads=st.sampled_from([1, 2]),
    layers=st.integers(1, 2),
    seed=st.integers(0, 99),
)
def test_equals_transformers(n, k, kv_heads, layers, seed):
    sizes = {"n_experts": n, "top_k": k, "n_kv_heads": kv_heads, "n_layers": layers}
    ours = randomize(Mixtral(dataclasses.replace(CONFIG, **sizes)), seed=seed)
    theirs = mixtral_twin(ours)
    theirs.num_experts_per_tok = k
    tokens = torch.randint(13, (2, 17), generator=generator(seed))
    out, reference = ours(tokens[:, :-1]), theirs(tokens[:, :-1])
    torch.testing.assert_close(out, reference.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pooled(ours), reference.aux_loss, rtol=1e-5, atol=1e-5)
    for logits, aux in ((out, pooled(ours)), (reference.logits, reference.aux_loss)):
        (F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()) + aux).backward()
    for p, grad in zip(ours.parameters(), their_gradients(ours, theirs), strict=True):
        torch.testing.assert_close(p.grad, grad, rtol=1e-4, atol=1e-5)


def test_a_row_alone_is_as_in_a_batch():
    """Dropless: no row changes another. With a capacity it would, so evaluation has none."""
    model = randomize(Mixtral(dataclasses.replace(CONFIG, capacity_factor=0.5))).eval()
    tokens = torch.randint(13, (3, 11), generator=generator())
    together = model(tokens)
    alone = torch.cat([model(row[None]) for row in tokens])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model(tokens)[:, :6], model(tokens[:, :6]), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(model.train()(tokens), together, atol=1e-3)


def test_the_penalty_reaches_the_router():
    """Coefficients of 0 and above give different router gradients, in the default configuration."""
    tokens = torch.randint(13, (4, 12), generator=generator())
    gradients = []
    for coefficient in (0.0, 0.1):
        model = Mixtral(CONFIG, generator())
        loss = model(tokens).logsumexp(-1).mean()
        (loss + coefficient * (balance(model) + router_z(model))).backward()
        gradients.append(torch.stack([m.router.weight.grad for m in mixtures(model)]))
    assert not torch.allclose(*gradients, rtol=1e-3)


def test_noise_only_in_training():
    model = Mixtral(dataclasses.replace(CONFIG, noisy=True), generator())
    tokens = torch.randint(13, (2, 12), generator=generator())
    assert not torch.equal(model(tokens), model(tokens))
    spread_out(model, 0.1, 0.1).backward()
    assert all(m.spread.weight.grad.abs().sum() > 0 for m in mixtures(model))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


@pytest.mark.parametrize("noisy", [False, True])
def test_counts(noisy):
    config = dataclasses.replace(CONFIG, noisy=noisy)
    total, active = n_parameters(config)
    model = Mixtral(config)
    assert total == sum(p.numel() for p in model.parameters())
    idle = sum(p[config.top_k :].numel() for m in mixtures(model) for p in m.experts.parameters())
    assert active == total - idle


def test_training_lowers_the_loss_and_repeats():
    text = torch.arange(400) % 7
    options = {"steps": 25, "batch_size": 4, "context": 12, "lr": 1e-2}
    runs = []
    for _ in range(2):
        model = Mixtral(CONFIG, generator())
        extra = {"generator": generator(1), "penalty": lambda m: 0.1 * balance(m)}
        runs.append(train(model, text, **options, **extra))
    (losses, loads), again = runs
    assert losses == again[0]
    assert losses[-1] < 0.5 * losses[0]
    assert loads.shape == (25, 2, 4)
    torch.testing.assert_close(loads.sum(-1), torch.full((25, 2), 2.0))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: route(torch.zeros(2, 3), 4), "k must be between 1 and the 3 experts, got 4"),
        (lambda: dispatch(torch.tensor([[3]]), 3), "chosen must be below n_experts = 3, got 3"),
        (lambda: dispatch(torch.tensor([[-1]]), 3), "chosen must be experts from 0, got -1"),
        (lambda: dispatch(torch.tensor([[0]]), 3, -1), "capacity must not be negative, got -1"),
        (lambda: capacity_of(4, 1, 2, 0.0), "capacity_factor must be positive, got 0.0"),
        (lambda: z_loss(torch.zeros(3)), "logits must be floats"),
        (lambda: MixtralConfig(5, top_k=9), "top_k must be between 1 and n_experts = 8, got 9"),
        (lambda: MixtralConfig(5, top_k=0), "top_k must be between 1 and n_experts = 8, got 0"),
        (lambda: MixtralConfig(5, capacity_factor=-1.0), "capacity_factor must be positive"),
        (lambda: MixtralConfig(5, n_experts=2, noisy=True), "top_k must be below n_experts"),
        (
            lambda: expected_load(*torch.ones(3, 2, 4), 4),
            "k must be between 1 and 3, one fewer than the experts, got 4",
        ),
        (
            lambda: balancing_loss(
                torch.zeros(2, 3), torch.zeros(2, 1).long(), torch.zeros(2).bool()
            ),
            "logits must have a token that is real, got 0",
        ),
    ],
)
def test_wrong_input_gets_one_line(call, match):
    with pytest.raises(ValueError, match=match):
        call()
