"""Attention as a GPU sees it: what passes between slow and fast memory, and how tiles are chosen.

Slow memory (HBM) is large, fast memory (SRAM) small; a kernel fetches with `load` and writes back
with `store`, and both count. Written out, attention moves $4N^2 + 4Nd$ numbers forward.

>>> memory, x = SlowMemory(), torch.zeros(100, 64)
>>> out, probabilities = standard_forward(x, x, x, memory)
>>> memory.accesses == 4 * 100**2 + 4 * 100 * 64
True
>>> tile_sizes(12_288, 64)  # rows of queries and of keys in a fast memory of 12,288 numbers
(70, 16)

`uv run weeks/19/flash_attention.py` counts the same for tiles. Dao et al. (2022),
"FlashAttention", algorithms 0 and 3.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from shared.require import require


class SlowMemory:
    """Counts the numbers that pass between slow memory (HBM) and fast memory (SRAM)."""

    def __init__(self):
        self.loads = 0
        self.stores = 0

    @property
    def accesses(self) -> int:
        """Numbers read and written so far."""
        return self.loads + self.stores

    def load(self, tile: Float[Tensor, "*tile"]) -> Float[Tensor, "*tile"]:
        """Read a tile."""
        self.loads += tile.numel()
        return tile

    def store(self, target: Float[Tensor, "*tile"], values: Float[Tensor, "*tile"]) -> None:
        """Write values into their place, rounded to its dtype."""
        self.stores += values.numel()
        target.copy_(values)


def tile_sizes(fast: int, dim: int, *, backward: bool = False) -> tuple[int, int]:
    """Query and key tile that fit in a fast memory of `fast` numbers, for one head.

    All keys are read once for each tile of queries, so that tile is made as large as it goes and
    the inner one small. Forward, q, a (`large` × dim each), k, v (`small` × dim), the scores and
    m, ℓ must fit; backward, k, v and their gradients are the large ones.
    """
    require(dim >= 1, "dim must be at least 1", dim)
    small = max(1, min(16, fast // (8 * dim)))
    if backward:
        large = (fast - small * (3 * dim + 2)) // (4 * dim + 2 * small)
    else:
        large = (fast - 2 * small * dim) // (2 * dim + small + 2)
    must = "fast must hold a row of every matrix"
    require(large >= 1, must, f"{fast} numbers for dim = {dim}")
    return (small, large) if backward else (large, small)


def standard_forward(
    q: Float[Tensor, "query dim"],
    k: Float[Tensor, "key dim"],
    v: Float[Tensor, "key value_dim"],
    memory: SlowMemory,
) -> tuple[Float[Tensor, "query value_dim"], Float[Tensor, "query key"]]:
    """Three kernels, each of which writes its result: scores, softmax, product (algorithm 0)."""
    scores, p = q.new_empty(len(q), len(k)), q.new_empty(len(q), len(k))
    out = q.new_empty(len(q), v.shape[1])
    memory.store(scores, memory.load(q) @ memory.load(k).T / math.sqrt(q.shape[1]))
    memory.store(p, memory.load(scores).softmax(dim=1))
    memory.store(out, memory.load(p) @ memory.load(v))
    return out, p


def standard_backward(
    q: Float[Tensor, "query dim"],
    k: Float[Tensor, "key dim"],
    v: Float[Tensor, "key value_dim"],
    p: Float[Tensor, "query key"],
    grad: Float[Tensor, "query value_dim"],
    memory: SlowMemory,
) -> tuple[Float[Tensor, "query dim"], Float[Tensor, "key dim"], Float[Tensor, "key value_dim"]]:
    """Five kernels, with the stored probabilities (algorithm 3)."""
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    dp, ds = torch.empty_like(p), torch.empty_like(p)
    scale = 1 / math.sqrt(q.shape[1])
    memory.store(dv, memory.load(p).T @ memory.load(grad))
    memory.store(dp, memory.load(grad) @ memory.load(v).T)
    weights, inner = memory.load(p), memory.load(dp)
    memory.store(ds, weights * (inner - (weights * inner).sum(dim=1, keepdim=True)))
    memory.store(dq, scale * memory.load(ds) @ memory.load(k))
    memory.store(dk, scale * memory.load(ds).T @ memory.load(q))
    return dq, dk, dv
