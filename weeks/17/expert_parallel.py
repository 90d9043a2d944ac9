r"""Expert parallelism: experts live on different processes, and tokens travel to them and back.

A mixture of experts uses $k$ of its $E$ MLPs per token,
$y = \sum_{i \in \mathrm{top}_k} w_i\, \mathrm{expert}_i(x)$. With the experts dealt to processes, a
layer is two *all-to-alls*: each process sorts its tokens by expert, sends every process the rows
for that one's experts, the experts work, and the rows come back the same way. How many rows go
where is known only when the router has spoken, so the counts go first.

What an expert learns is complete where it lives, for it saw the tokens of all processes. The
router and all else is replicated, and its gradients are summed as in data parallelism.

>>> first_experts(8, 3)  # experts 0-2, 3-5, 6-7
[0, 3, 6, 8]
>>> order, counts = by_expert(torch.tensor([[1, 0], [1, 2]]), 4)
>>> order, counts  # rows by expert; row `slot * n_tokens + token`
(tensor([2, 0, 1, 3]), tensor([1, 2, 1, 0]))

    uv run weeks/17/expert_parallel.py

Sources: Shazeer et al., "Outrageously large neural networks" (2017), section 3.1; Lepikhin et al.,
"GShard" (2020), section 3; Jiang et al., "Mixtral of experts" (2024), section 2.1.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from shared.require import require


def first_experts(n_experts: int, world: int) -> list[int]:
    """The first expert of each process, and after them the number of all."""
    sizes = [n_experts // world + (rank < n_experts % world) for rank in range(world)]
    return [sum(sizes[:rank]) for rank in range(world + 1)]


def by_expert(
    chosen: Int[Tensor, "token k"], n_experts: int
) -> tuple[Int[Tensor, " row"], Int[Tensor, " expert"]]:
    """Assignments in the order of their experts, and how many each expert has."""
    flat = chosen.T.flatten()
    return flat.argsort(stable=True), flat.bincount(minlength=n_experts)


class _AllToAll(torch.autograd.Function):
    """Rows to their processes; the gradient travels back along the same ways."""

    @staticmethod
    def forward(ctx, x, sent, received, group):
        ctx.ways, ctx.group = (sent, received), group
        out = x.new_empty(sum(received), *x.shape[1:])
        dist.all_to_all_single(out, x.contiguous(), received, sent, group=group)
        return out

    @staticmethod
    def backward(ctx, grad):
        sent, received = ctx.ways
        out = grad.new_empty(sum(sent), *grad.shape[1:])
        dist.all_to_all_single(out, grad.contiguous(), sent, received, group=ctx.group)
        return out, None, None, None


def all_to_all(
    x: Float[Tensor, "row d"], sent: list[int], received: list[int], group: ProcessGroup | None
) -> Float[Tensor, "row_here d"]:
    """`sent[r]` rows go to process r, in order; `received[r]` come from it."""
    return _AllToAll.apply(x, sent, received, group)


def mix_across(
    x: Float[Tensor, "token d_model"],
    weights: Float[Tensor, "token k"],
    chosen: Int[Tensor, "token k"],
    experts: Callable[[Tensor, list[int]], Tensor],
    n_experts: int,
    group: ProcessGroup | None = None,
) -> Float[Tensor, "token d_model"]:
    """Each token's weighted sum over its experts, wherever they live.

    Parameters
    ----------
    x, weights, chosen
        The own tokens; other processes may have other numbers of them, or none.
    experts
        The own experts. Called with rows sorted by expert and how many each has.
    n_experts
        Of all processes together.
    """
    world = dist.get_world_size(group)
    first = first_experts(n_experts, world)
    order, counts = by_expert(chosen, n_experts)
    token = order % max(1, len(x))

    # ---- how many rows for which expert: the one message whose size is known
    mine = first[dist.get_rank(group) + 1] - first[dist.get_rank(group)]
    owned = [b - a for a, b in pairwise(first)]
    arriving = counts.new_empty(world * mine)
    dist.all_to_all_single(arriving, counts, [mine] * world, owned, group=group)
    sent = [int(part.sum()) for part in counts.split(owned)]
    received = arriving.view(world, mine).sum(1).tolist()

    # ---- there: rows come sorted by process, and within it by expert; experts want them together
    rows = all_to_all(x[token], sent, received, group)
    expert = torch.arange(mine).repeat(world).repeat_interleave(arriving)
    together = expert.argsort(stable=True)
    out = experts(rows[together], arriving.view(world, mine).sum(0).tolist())
    out = torch.empty_like(out).index_copy(0, together, out)

    # ---- and back
    back = all_to_all(out, received, sent, group) * weights.T.flatten()[order, None]
    return torch.zeros_like(x).index_add(0, token, back)


class ExpertParallelMLP(nn.Module):
    """A router, which every process has, and this process's share of the SwiGLU experts.

    Parameters
    ----------
    router
        Weight of the router.
    gate_proj, up_proj, down_proj
        Weights of all experts; the own ones are copied.
    """

    def __init__(
        self,
        router: Float[Tensor, "expert d_model"],
        gate_proj: Float[Tensor, "expert d_ff d_model"],
        up_proj: Float[Tensor, "expert d_ff d_model"],
        down_proj: Float[Tensor, "expert d_model d_ff"],
        *,
        top_k: int,
        group: ProcessGroup | None = None,
    ):
        super().__init__()
        n, world, rank = len(router), dist.get_world_size(group), dist.get_rank(group)
        require(n >= world, f"router must have an expert for each of {world} processes", n)
        require(1 <= top_k <= n, f"top_k must be between 1 and the {n} experts", top_k)
        self.top_k, self.group, first = top_k, group, first_experts(n, world)
        here = slice(first[rank], first[rank + 1])
        self.router = nn.Parameter(router.detach().clone())
        self.gate_proj, self.up_proj, self.down_proj = (
            nn.Parameter(p.detach()[here].clone()) for p in (gate_proj, up_proj, down_proj)
        )

    def experts(self, x: Float[Tensor, "row d_model"], counts: list[int]) -> Float[Tensor, "row d"]:
        """The own experts, each on its slice."""
        own = zip(x.split(counts), self.gate_proj, self.up_proj, self.down_proj, strict=True)
        return torch.cat([F.linear(F.silu(r @ g.T) * (r @ u.T), d) for r, g, u, d in own])

    def forward(self, x: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """The own tokens' outputs; keeps the routing."""
        best, self.chosen = (x @ self.router.T).topk(self.top_k)
        parts = (best.softmax(-1), self.chosen, self.experts, len(self.router))
        return mix_across(x, *parts, group=self.group)

    def sum_replicas(self) -> None:
        """The router's gradient over all processes' tokens; the experts' are complete."""
        dist.all_reduce(self.router.grad, group=self.group)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
