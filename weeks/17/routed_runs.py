"""Ring attention and experts on small random inputs, in parts and as a whole.

>>> case = {"seed": 0, "length": 7, "layout": "zigzag"}
>>> [x.shape for x in whole_attention(case)][0]
torch.Size([2, 3, 7, 5])
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from week17.context_parallel import positions, ring_attention
from week17.expert_parallel import ExpertParallelMLP

D_MODEL, D_FF = 6, 7


def drawn(case: dict[str, Any]) -> list[Float[Tensor, "batch head seq dim"]]:
    """Queries, keys, values, and a gradient of the output."""
    g = torch.Generator().manual_seed(case["seed"])
    shape = (2, 3, case["length"], 5)
    scale = case.get("scale", 1.0)
    q, *rest = (torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(4))
    return [q * scale, *rest]


def whole_attention(case: dict[str, Any]) -> list[Float[Tensor, "batch head seq dim"]]:
    """Output and gradients of q, k and v by torch's attention in one process."""
    *qkv, grad = drawn(case)
    for x in qkv:
        x.requires_grad_()
    out = F.scaled_dot_product_attention(*qkv, is_causal=True)
    out.backward(grad)
    return [out.detach(), *(x.grad for x in qkv)]


def ring_run(case: dict[str, Any], group: dist.ProcessGroup) -> dict[str, Any]:
    """The own tokens' part of the same."""
    kept = positions(case["length"], dist.get_world_size(group), case["layout"])
    own = kept[dist.get_rank(group)]
    *qkv, grad = (x[:, :, own] for x in drawn(case))
    for x in qkv:
        x.requires_grad_()
    out = ring_attention(*qkv, kept, group)
    out.backward(grad)
    return {"kept": own, "parts": [out.detach(), *(x.grad for x in qkv)]}


def in_order(parts: list[dict[str, Any]]) -> list[Float[Tensor, "batch head seq dim"]]:
    """All processes' parts in the order of the text."""
    order = torch.cat([part["kept"] for part in parts]).argsort()
    pieces = zip(*(part["parts"] for part in parts), strict=True)
    return [torch.cat(piece, 2)[:, :, order] for piece in pieces]


# ---- experts


def expert_weights(case: dict[str, Any]) -> list[Float[Tensor, "..."]]:
    """Router, gate_proj, up_proj and down_proj of all experts."""
    g, n = torch.Generator().manual_seed(case["seed"]), case["n_experts"]
    shapes = ((n, D_MODEL), (n, D_FF, D_MODEL), (n, D_FF, D_MODEL), (n, D_MODEL, D_FF))
    weights = [torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes]
    weights[0][0] += case.get("favor", 0.0)  # a favorite, so that counts differ much
    return weights


def expert_inputs(
    case: dict[str, Any],
) -> tuple[list[Float[Tensor, "token d_model"]], list[Float[Tensor, "token d_model"]]]:
    """The tokens of each process, unequal in number, and gradients of the outputs."""
    g = torch.Generator().manual_seed(case["seed"] + 1)
    n = sum(case["tokens"])
    x, grad = (torch.randn(n, D_MODEL, generator=g, dtype=torch.float64) for _ in range(2))
    x = x + case.get("mean", 0.0)
    return list(x.split(case["tokens"])), list(grad.split(case["tokens"]))


def expert_run(case: dict[str, Any], group: dist.ProcessGroup) -> dict[str, Any]:
    """Outputs and gradients of the own tokens and experts; how many rows the own experts had."""
    rank = dist.get_rank(group)
    layer = ExpertParallelMLP(*expert_weights(case), top_k=case["top_k"], group=group)
    x, grad = (parts[rank].clone() for parts in expert_inputs(case))
    rows = []
    run = layer.experts
    layer.experts = lambda some, counts: rows.append(sum(counts)) or run(some, counts)
    x.requires_grad_()
    out = layer(x)
    out.backward(grad)
    layer.sum_replicas()
    grads = [p.grad for p in (layer.router, layer.gate_proj, layer.up_proj, layer.down_proj)]
    return {"out": out.detach(), "x": x.grad, "grads": grads, "rows": rows[0]}


def joined_experts(parts: list[dict[str, Any]]) -> list[Float[Tensor, "..."]]:
    """Outputs, gradients of tokens, of the router, and of all experts' three matrices."""
    tokens = [torch.cat([part[what] for part in parts]) for what in ("out", "x")]
    experts = [torch.cat([part["grads"][i] for part in parts]) for i in (1, 2, 3)]
    return [*tokens, parts[0]["grads"][0], *experts]


def routed_runs(
    rank: int, world: int, rings: list[dict[str, Any]], experts: list[dict[str, Any]]
) -> dict[str, list]:
    """For `launch`: each case by the first `case["world"]` processes."""
    groups = {n: dist.new_group(range(n)) for n in range(1, world + 1)}

    def each(work, cases: list[dict[str, Any]]) -> list:
        return [
            work(case, groups[case["world"]]) if rank < case["world"] else None for case in cases
        ]

    return {"rings": each(ring_run, rings), "experts": each(expert_run, experts)}
