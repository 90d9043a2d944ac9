r"""Context parallelism: attention over a text that no process holds as a whole.

Each of $n$ processes keeps its queries and passes its keys and values round a ring. A softmax over
all keys is put together block by block from what each block says alone, an output $o_j$ and the
log of its denominator $l_j$:

$$o = \sum_j e^{l_j - l}\, o_j , \qquad l = \ln \sum_j e^{l_j} .$$

Backward, keys and values go round once more, and their gradients travel with them. If the text is
causal and cut in $n$ pieces in order, the last process sees $n$ blocks and the first sees one, and
the ring waits for the slowest at each step. In a *zigzag*, process $r$ of $n$ takes pieces $r$ and
$2n-1-r$ of $2n$, one early and one late: all have the same to do.

>>> [x.tolist() for x in positions(12, 3, "contiguous")]
[[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
>>> [x.tolist() for x in positions(12, 3, "zigzag")]
[[0, 1, 10, 11], [2, 3, 8, 9], [4, 5, 6, 7]]
>>> pairs(positions(12, 3, "contiguous"))  # rows: steps of the ring, columns: processes
tensor([[10, 10, 10],
        [ 0, 16, 16],
        [ 0,  0, 16]])

    uv run weeks/17/context_parallel.py

Sources: Liu et al., "Ring attention with blockwise transformers" (2023), section 3; Brandon et al.,
"Striped attention" (2023) for the imbalance; Grattafiori et al., "The Llama 3 herd of models"
(2024), section 3.3.2 for the 2n pieces.
"""

from typing import Literal

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributed import ProcessGroup

from shared.require import require

Layout = Literal["contiguous", "zigzag"]


# ---- who keeps which positions


def positions(n_tokens: int, world: int, layout: Layout) -> list[Int[Tensor, " kept"]]:
    """The positions that each process keeps, in order; pieces differ by at most one token."""
    n_pieces = world if layout == "contiguous" else 2 * world
    require(n_tokens >= n_pieces, f"n_tokens must be at least {n_pieces}, one a piece", n_tokens)
    pieces = torch.arange(n_tokens).tensor_split(n_pieces)
    if layout == "contiguous":
        return list(pieces)
    return [torch.cat([pieces[r], pieces[n_pieces - 1 - r]]) for r in range(world)]


def pairs(kept: list[Int[Tensor, "..."]]) -> Int[Tensor, "step process"]:
    """Pairs of query and key that a process works on at each step of a causal ring."""
    n = len(kept)
    return torch.tensor(
        [
            [int((kept[r][:, None] >= kept[(r - step) % n]).sum()) for r in range(n)]
            for step in range(n)
        ]
    )


# ---- attention of a block, and what joins blocks


def block_attention(
    q: Float[Tensor, "*batch query dim"],
    k: Float[Tensor, "*batch key dim"],
    v: Float[Tensor, "*batch key dim"],
    at: Int[Tensor, " query"],
    of: Int[Tensor, " key"],
) -> tuple[Float[Tensor, "*batch query dim"], Float[Tensor, "*batch query"]]:
    """Causal attention of queries at `at` to keys of `of`: outputs, and logs of denominators.

    A query that sees none of these keys has the output 0 and the logarithm of 0.
    """
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    scores = scores.masked_fill(at[:, None] < of, -torch.inf)
    log_sum = scores.logsumexp(-1)
    weights = (scores - log_sum[..., None]).exp().nan_to_num(0.0)  # -inf - (-inf)
    return weights @ v, log_sum


def join(
    out: Float[Tensor, "*batch query dim"],
    log_sum: Float[Tensor, "*batch query"],
    more: Float[Tensor, "*batch query dim"],
    more_log_sum: Float[Tensor, "*batch query"],
) -> tuple[Float[Tensor, "*batch query dim"], Float[Tensor, "*batch query"]]:
    """Attention to two sets of keys from attention to each."""
    total = torch.logaddexp(log_sum, more_log_sum)
    old, new = ((part - total).exp()[..., None] for part in (log_sum, more_log_sum))
    return old * out + new * more, total


# ---- the ring


def pass_on(
    tensors: list[Float[Tensor, "..."]], lengths: list[int], group: ProcessGroup | None
) -> list[Float[Tensor, "..."]]:
    """Send to the next process and receive as many, `lengths[…]` tokens long, from the one before.

    Sends are begun before anything is received: a ring in which all received first would stand
    still for ever.
    """
    rank, n = dist.get_rank(group), dist.get_world_size(group)
    if n == 1:
        return tensors
    work, received = [], []
    for tag, (x, length) in enumerate(zip(tensors, lengths, strict=True)):
        x = x.contiguous()
        work.append((dist.isend(x, group_dst=(rank + 1) % n, group=group, tag=tag), x))
        received.append(x.new_empty(*x.shape[:-2], length, x.shape[-1]))
    for tag, x in enumerate(received):
        dist.recv(x, group_src=(rank - 1) % n, group=group, tag=tag)
    for sent, _ in work:
        sent.wait()
    return received


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, kept, group):
        rank, n = dist.get_rank(group), dist.get_world_size(group)
        out, log_sum = block_attention(q, k, v, kept[rank], kept[rank])
        block = [k, v]
        for step in range(1, n):
            owner = (rank - step) % n  # of the block that comes now
            block = pass_on(block, [len(kept[owner])] * 2, group)
            more = block_attention(q, *block, kept[rank], kept[owner])
            out, log_sum = join(out, log_sum, *more)
        ctx.save_for_backward(q, k, v, out, log_sum)
        ctx.kept, ctx.group = kept, group
        return out

    @staticmethod
    def backward(ctx, grad):
        q, k, v, out, log_sum = ctx.saved_tensors
        kept, group = ctx.kept, ctx.group
        rank, n = dist.get_rank(group), dist.get_world_size(group)
        scale, dq = q.shape[-1] ** -0.5, torch.zeros_like(q)
        mean = (grad * out).sum(-1, keepdim=True)  # of dweights under the weights
        block = [k, v, torch.zeros_like(k), torch.zeros_like(v)]
        for step in range(n):
            owner = (rank - step) % n
            k, v, dk, dv = block
            scores = q @ k.transpose(-1, -2) * scale
            scores = scores.masked_fill(kept[rank][:, None] < kept[owner], -torch.inf)
            weights = (scores - log_sum[..., None]).exp()  # of the whole softmax at once
            dscores = weights * (grad @ v.transpose(-1, -2) - mean) * scale
            dq += dscores @ k
            dk, dv = dk + dscores.transpose(-1, -2) @ q, dv + weights.transpose(-1, -2) @ grad
            # After n steps the gradients are back where their keys and values live.
            block = pass_on([k, v, dk, dv], [len(kept[(owner - 1) % n])] * 4, group)
        return dq, *block[2:], None, None


def ring_attention(
    q: Float[Tensor, "*batch kept dim"],
    k: Float[Tensor, "*batch kept dim"],
    v: Float[Tensor, "*batch kept dim"],
    kept: list[Int[Tensor, "..."]],
    group: ProcessGroup | None = None,
) -> Float[Tensor, "*batch kept dim"]:
    """Causal attention of the own queries to the whole text.

    Parameters
    ----------
    q, k, v
        Of the tokens that this process keeps.
    kept
        Positions of each process, from `positions`; a process's own come first in its ring, so
        that each query has seen a key before it meets a block of which it sees none.
    """
    n, rank = dist.get_world_size(group), dist.get_rank(group)
    require(len(kept) == n, f"kept must list the positions of {n} processes", len(kept))
    own = len(kept[rank])
    require(q.shape[-2] == own, f"q must hold the {own} tokens of process {rank}", q.shape[-2])
    return _Ring.apply(q, k, v, kept, group)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
