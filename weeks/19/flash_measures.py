"""What can be counted and broken in tiled attention: traffic, saved numbers, wrong updates.

>>> flash_accesses(256, 12_288) == predicted_accesses(256, 12_288)
True
>>> standard_accesses(256)  # 4 N² + 4 N d
327680

`uv run weeks/19/flash_attention.py` draws and judges these. Dao et al. (2022), "FlashAttention".
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from week19.flash_attention import Rows, State, flash_attention, online_update
from week19.slow_memory import SlowMemory, standard_backward, standard_forward, tile_sizes

Numbers = Sequence[float] | Shaped[np.ndarray, " n"]
DIM = 64  # of a head, as in the paper's figure 2


def with_gradients(
    attention: Callable[..., Tensor], tensors: Sequence[Tensor], grad: Float[Tensor, "..."]
) -> list[Tensor]:
    """Output and the gradients of all tensors."""
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    out = attention(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


# ---- traffic


def flash_accesses(n: int, fast: int, *, backward: bool = False) -> int:
    """Numbers that one head of tiled attention moves, counted while it runs."""
    memory, x = SlowMemory(), torch.zeros(1, 1, n, DIM, requires_grad=backward)
    tiles = {"tile": tile_sizes(fast, DIM), "backward_tile": tile_sizes(fast, DIM, backward=True)}
    out = flash_attention(x, x, x, memory=memory, **tiles)
    if backward:
        out.backward(torch.zeros_like(out))
    return memory.accesses


def standard_accesses(n: int, *, backward: bool = False) -> int:
    """Numbers that one head of attention moves if every matrix is written down."""
    memory, x = SlowMemory(), torch.zeros(n, DIM)
    _, p = standard_forward(x, x, x, memory)
    if backward:
        standard_backward(x, x, x, p, x, memory)
    return memory.accesses


def predicted_accesses(n: int, fast: int) -> int:
    """Read q, write the output and L once; read k and v once for each tile of queries."""
    tiles = -(-n // tile_sizes(fast, DIM)[0])
    return 2 * n * DIM + n + 2 * n * DIM * tiles


def slope(x: Numbers, y: Numbers) -> float:
    """Of log y in log x, by least squares."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


# ---- memory


class LargestTensor(TorchDispatchMode):
    """Remembers the most numbers any operation returned."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run the operation and look at what came out."""
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, Tensor):
                self.numbers = max(self.numbers, x.numel())
        return out


def saved_and_largest(attention: Callable[..., Tensor], n: int, seed: int = 0) -> tuple[int, int]:
    """Numbers kept for the backward pass (a tensor once), and the largest tensor of both passes."""
    saved = {}

    def pack(x: Tensor) -> Tensor:
        saved[x.data_ptr()] = x.numel()
        return x

    g = torch.Generator().manual_seed(seed)
    shape = (1, 1, n, 16)
    q, k, v = (
        torch.randn(shape, generator=g, dtype=torch.float64).requires_grad_() for _ in range(3)
    )
    with LargestTensor() as largest, torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        attention(q, k, v).sum().backward()
    return sum(saved.values()), largest.numbers


# ---- wrong updates, in place of `online_update`


def without_maximum(
    m: Rows,
    total: Rows,
    mixed: Float[Tensor, "*head query value_dim"],
    scores: Float[Tensor, "*head query key"],
    values: Float[Tensor, "*#head key value_dim"],
) -> State:
    """Exponents of the bare scores: they overflow."""
    p = torch.exp(scores)
    return torch.zeros_like(m), total + p.sum(dim=-1), mixed + p @ values


def without_rescaling(
    m: Rows,
    total: Rows,
    mixed: Float[Tensor, "*head query value_dim"],
    scores: Float[Tensor, "*head query key"],
    values: Float[Tensor, "*#head key value_dim"],
) -> State:
    """A new maximum, but the old sums stay relative to the old one."""
    new_m, *_ = online_update(m, total, mixed, scores, values)
    p = torch.exp(scores - new_m[..., None])
    return new_m, total + p.sum(dim=-1), mixed + p @ values
