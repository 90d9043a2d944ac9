"""Ring attention is attention; experts elsewhere are the experts of week 18's Mixtral."""

from itertools import pairwise

import pytest
import torch

from week17.answers import ask
from week17.context_parallel import pairs, positions
from week17.expert_parallel import by_expert, first_experts
from week17.routed_runs import (
    expert_inputs,
    expert_weights,
    in_order,
    joined_experts,
    routed_runs,
    whole_attention,
)
from week18.experts import dispatch
from week18.mixtral import MixtralConfig, MixtureMLP

RINGS = [
    {"seed": world, "world": world, "length": length, "layout": layout, "scale": scale}
    for world, length in ((1, 5), (2, 7), (3, 13), (4, 8))
    for layout, scale in (("contiguous", 1.0), ("zigzag", 300.0))
]
EXPERTS = [
    {"seed": 2, "world": 1, "n_experts": 4, "top_k": 2, "tokens": [5]},
    {"seed": 3, "world": 2, "n_experts": 5, "top_k": 2, "tokens": [7, 2]},
    {"seed": 4, "world": 3, "n_experts": 8, "top_k": 3, "tokens": [1, 0, 6]},
    {"seed": 5, "world": 4, "n_experts": 4, "top_k": 1, "tokens": [3, 5, 2, 4]},
    {"seed": 6, "world": 4, "n_experts": 8, "top_k": 1, "tokens": [3, 2, 2, 4], "mean": 2.0},
]
EXPERTS[-1]["favor"] = 50.0  # all tokens want one expert: three processes have none
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture(scope="module")
def results():
    return ask(routed_runs, 4, RINGS, EXPERTS, timeout=240)


@pytest.mark.parametrize("i", range(len(RINGS)))
def test_a_ring_is_attention(results, i):
    parts = [result["rings"][i] for result in results[: RINGS[i]["world"]]]
    for ours, theirs in zip(in_order(parts), whole_attention(RINGS[i]), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


def mixtral_layer(case):
    """Output and gradients of week 18's layer in one process."""
    config = MixtralConfig(
        9, d_model=6, d_ff=7, n_heads=1, n_experts=case["n_experts"], top_k=case["top_k"]
    )
    layer = MixtureMLP(config).double()
    parameters = [layer.router.weight, *layer.experts.parameters()]
    with torch.no_grad():
        for p, value in zip(parameters, expert_weights(case), strict=True):
            p.copy_(value)
    x, grad = (torch.cat(parts) for parts in expert_inputs(case))
    x.requires_grad_()
    out = layer(x)
    out.backward(grad)
    return [out.detach(), x.grad, *(p.grad for p in parameters)], layer


@pytest.mark.parametrize("i", range(len(EXPERTS)))
def test_experts_elsewhere_are_the_experts(results, i):
    case = EXPERTS[i]
    parts = [result["experts"][i] for result in results[: case["world"]]]
    expected, layer = mixtral_layer(case)
    for ours, theirs in zip(joined_experts(parts), expected, strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)
    first = first_experts(case["n_experts"], case["world"])
    counts = layer.chosen.flatten().bincount(minlength=case["n_experts"])
    owned = [int(counts[a:b].sum()) for a, b in pairwise(first)]
    assert [part["rows"] for part in parts] == owned


def test_a_favorite_leaves_processes_without_rows(results):
    assert [r["experts"][-1]["rows"] for r in results] == [11, 0, 0, 0]


@pytest.mark.parametrize(("n", "world"), [(8, 2), (17, 3), (8, 4), (4, 1)])
@pytest.mark.parametrize("layout", ["contiguous", "zigzag"])
def test_each_position_has_one_keeper(n, world, layout):
    kept = positions(n, world, layout)
    assert torch.cat(kept).sort().values.tolist() == list(range(n))
    assert int(pairs(kept).sum()) == n * (n + 1) // 2


@pytest.mark.parametrize("world", [2, 3, 5])
def test_a_zigzag_is_balanced(world):
    work = pairs(positions(8 * world, world, "zigzag"))
    assert bool((work == work[:, :1]).all())
    work = pairs(positions(8 * world, world, "contiguous"))
    assert int(work[:, 0].sum()) < int(work[:, -1].sum()) / world * 1.5


def test_too_few_tokens_are_named():
    with pytest.raises(ValueError, match="n_tokens must be at least 6, one a piece, got 5"):
        positions(5, 3, "zigzag")


def test_rows_stand_as_in_one_process():
    chosen = torch.randint(5, (9, 2), generator=torch.Generator().manual_seed(0))
    order, counts = by_expert(chosen, 5)
    theirs, theirs_counts = dispatch(chosen, 5)
    assert torch.equal(order, theirs)
    assert counts.tolist() == theirs_counts
