r"""FlashAttention: exact attention in tiles, without ever writing down the square of scores.

Attention needs one softmax per query over all N keys, so it seems to need the whole row of scores.
It does not. With the largest score so far $m$, the sum $\ell$ and the mixture $a$ of the values,

$$ m' = \max(m, \max_j s_j), \quad \ell' = e^{m - m'} \ell + \sum_j e^{s_j - m'}, \quad
   a' = e^{m - m'} a + \sum_j e^{s_j - m'} v_j, \qquad o = a / \ell , $$

absorbs a block of keys at a time. For the backward pass only $L = m + \ln \ell$ is kept, one number
per query: from it every probability comes back as $p_{ij} = e^{s_{ij} - L_i}$.

>>> q, k, v = torch.randn(3, 1, 2, 50, 8, generator=torch.Generator().manual_seed(0))
>>> memory = SlowMemory()
>>> out = flash_attention(q, k, v, is_causal=True, tile=(16, 16), memory=memory)
>>> theirs = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
>>> torch.allclose(out, theirs, atol=1e-6)
True
>>> memory.accesses  # numbers loaded and stored
6372

Reduced: this is the algorithm in PyTorch, with a counter where a GPU has its slow memory. It saves
traffic and memory, not time; `flash_triton.py` is the forward pass as one kernel.

    uv run weeks/19/flash_attention.py

Dao et al. (2022), "FlashAttention", algorithms 0 to 4 and theorem 2; the order of the loops is that
of Dao (2023), "FlashAttention-2", algorithms 1 and 2. The running softmax: Milakov and Gimelshein
(2018), "Online normalizer calculation for softmax", algorithm 3.
"""

import math
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from shared.require import require
from week19.slow_memory import SlowMemory

Rows = Float[Tensor, "*head query"]
State = tuple[Tensor, Tensor, Tensor]  # m, ℓ and a

# ---- forward


def online_update(
    m: Rows,
    total: Rows,
    mixed: Float[Tensor, "*head query value_dim"],
    scores: Float[Tensor, "*head query key"],
    values: Float[Tensor, "*#head key value_dim"],
) -> State:
    """Absorb a block of keys into the running maximum, sum and mixture (the docstring's equation).

    Every row needs a finite score by the end of its first block: max(-inf, -inf) has no exponent.
    """
    new_m = torch.maximum(m, scores.amax(dim=-1))
    shrink = torch.exp(m - new_m)  # what was summed relative to the old maximum; 0 at the start
    p = torch.exp(scores - new_m[..., None])
    return new_m, shrink * total + p.sum(dim=-1), shrink[..., None] * mixed + p @ values


def tiled_forward(
    q: Float[Tensor, "*head query dim"],
    k: Float[Tensor, "*#head key dim"],
    v: Float[Tensor, "*#head key value_dim"],
    *,
    scale: float,
    is_causal: bool = False,
    tile: tuple[int, int] = (64, 64),
    memory: SlowMemory | None = None,
    update: Callable[..., State] = online_update,
) -> tuple[Float[Tensor, "*head query value_dim"], Rows]:
    """Attention a tile of queries at a time, each in one pass over the keys.

    Arguments as in `flash_attention`, but leading dimensions broadcast; `update` absorbs a block.

    Returns
    -------
    out, lse
        The output in q's dtype, and L = m + ln ℓ in float32 at least.

    References
    ----------
    Dao (2023), algorithm 1.
    """
    memory = memory or SlowMemory()
    wide = _accumulator(q.dtype)
    n, n_keys = q.shape[-2], k.shape[-2]
    out = q.new_empty((*q.shape[:-1], v.shape[-1]))
    lse = q.new_empty(q.shape[:-1], dtype=wide)
    for rows in _tiles(n, tile[0]):
        q_i = memory.load(q[..., rows, :]).to(wide)
        m = q_i.new_full(q_i.shape[:-1], -torch.inf)
        state = m, torch.zeros_like(m), q_i.new_zeros((*m.shape, v.shape[-1]))
        for cols in _tiles(n_keys, tile[1]):
            if is_causal and cols.start > n_keys - n + rows.stop - 1:
                break  # all of these keys lie in the future of all of these queries
            k_j = memory.load(k[..., cols, :]).to(wide)
            v_j = memory.load(v[..., cols, :]).to(wide)
            scores = scale * (q_i @ k_j.transpose(-2, -1))
            if is_causal:
                scores = _hide_future(scores, rows, cols, n_keys - n)
            state = update(*state, scores, v_j)
        m, total, mixed = state
        memory.store(out[..., rows, :], mixed / total[..., None])  # one division, at the end
        memory.store(lse[..., rows], m + total.log())
    return out, lse


# ---- backward


def tiled_backward(
    q: Float[Tensor, "*head query dim"],
    k: Float[Tensor, "*head_k key dim"],
    v: Float[Tensor, "*head_k key value_dim"],
    out: Float[Tensor, "*head query value_dim"],
    lse: Rows,
    grad: Float[Tensor, "*head query value_dim"],
    *,
    scale: float,
    is_causal: bool = False,
    tile: tuple[int, int] = (64, 64),
    memory: SlowMemory | None = None,
) -> tuple[
    Float[Tensor, "*head query dim"],
    Float[Tensor, "*head_k key dim"],
    Float[Tensor, "*head_k key value_dim"],
]:
    r"""Gradients for q, k and v, every probability computed again from `lse`.

    With $D_i = \sum_c dO_{ic} O_{ic}$ the softmax's own gradient needs no row of probabilities:
    $dS_{ij} = P_{ij} (dP_{ij} - D_i)$, $dP = dO\, V^\top$.

    References
    ----------
    Dao et al. (2022), appendix B.2; Dao (2023), algorithm 2.
    """
    memory = memory or SlowMemory()
    wide = _accumulator(q.dtype)
    n, n_keys = q.shape[-2], k.shape[-2]
    dq = torch.zeros_like(q, dtype=wide)
    dk, dv = torch.empty_like(k), torch.empty_like(v)
    delta = torch.empty_like(lse)
    for rows in _tiles(n, tile[0]):
        o_i, do_i = memory.load(out[..., rows, :]), memory.load(grad[..., rows, :])
        memory.store(delta[..., rows], (o_i.to(wide) * do_i.to(wide)).sum(dim=-1))
    for cols in _tiles(n_keys, tile[1]):
        k_j = memory.load(k[..., cols, :]).to(wide)
        v_j = memory.load(v[..., cols, :]).to(wide)
        dk_j, dv_j = torch.zeros_like(k_j), torch.zeros_like(v_j)
        for rows in _tiles(n, tile[0]):
            if is_causal and cols.start > n_keys - n + rows.stop - 1:
                continue
            q_i = memory.load(q[..., rows, :]).to(wide)
            do_i = memory.load(grad[..., rows, :]).to(wide)
            lse_i, delta_i = memory.load(lse[..., rows]), memory.load(delta[..., rows])
            scores = scale * (q_i @ k_j.transpose(-2, -1))
            if is_causal:
                scores = _hide_future(scores, rows, cols, n_keys - n)
            p = torch.exp(scores - lse_i[..., None])
            ds = p * (do_i @ v_j.transpose(-2, -1) - delta_i[..., None])
            # what broadcasting had spread, the query heads of a group, is added up
            dv_j += (p.transpose(-2, -1) @ do_i).sum_to_size(dv_j.shape)
            dk_j += scale * (ds.transpose(-2, -1) @ q_i).sum_to_size(dk_j.shape)
            dq_i = memory.load(dq[..., rows, :])
            memory.store(dq[..., rows, :], dq_i + scale * (ds @ k_j))
        memory.store(dk[..., cols, :], dk_j)
        memory.store(dv[..., cols, :], dv_j)
    return dq.to(q.dtype), dk, dv


class _FlashAttention(torch.autograd.Function):
    """Joins both passes; between them only the inputs, the output and `lse` are kept."""

    @staticmethod
    def forward(ctx, q, k, v, options, backward_tile):
        out, lse = tiled_forward(q, k, v, **options)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.options = {**options, "tile": backward_tile}
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return *tiled_backward(*ctx.saved_tensors, grad, **ctx.options), None, None


def flash_attention(
    q: Float[Tensor, "batch head query dim"],
    k: Float[Tensor, "batch kv_head key dim"],
    v: Float[Tensor, "batch kv_head key value_dim"],
    *,
    is_causal: bool = False,
    scale: float | None = None,
    tile: tuple[int, int] = (64, 64),
    backward_tile: tuple[int, int] | None = None,
    memory: SlowMemory | None = None,
) -> Float[Tensor, "batch head query value_dim"]:
    """Attention whose extra memory grows with the number of tokens, not with its square.

    Parameters
    ----------
    q, k, v
        `kv_head` divides `head`; query heads 0 … head/kv_head - 1 share key head 0, and so on. A
        group is worked on together: its keys are fetched once.
    is_causal
        Queries see keys up to their own position, the queries being the *last* `query` positions.
        Tiles that lie in the future are neither loaded nor computed.
    scale
        Factor of the scores; $1/\\sqrt{d}$ if not given.
    tile, backward_tile
        Rows of queries and keys in fast memory (`tile_sizes`); the same for both unless given.
    memory
        Counts the traffic, of the backward pass too.
    """
    validate_shapes(q, k, v, is_causal)
    for name, sizes in (("tile", tile), ("backward_tile", backward_tile or tile)):
        two = len(sizes) == 2 and min(sizes) >= 1
        require(two, f"{name} must be two sizes of at least 1", sizes)
    batch, heads, n, dim = q.shape
    kv_heads = k.shape[1]
    options = {
        "scale": 1 / math.sqrt(dim) if scale is None else scale,
        "is_causal": is_causal,
        "tile": tile,
        "memory": memory or SlowMemory(),
    }
    grouped = q.reshape(batch, kv_heads, heads // kv_heads, n, dim)
    out = _FlashAttention.apply(
        grouped, k[:, :, None], v[:, :, None], options, backward_tile or tile
    )
    return out.reshape(batch, heads, n, v.shape[-1])


# ---- helpers


def _tiles(n: int, size: int) -> Iterator[slice]:
    """Cut 0 … n into tiles, the last one smaller where n does not divide."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def _hide_future(scores: Tensor, rows: slice, cols: slice, past: int) -> Tensor:
    """Scores of keys after their query become -inf; `past` keys precede the first query."""
    query = torch.arange(rows.start + past, rows.stop + past, device=scores.device)
    key = torch.arange(cols.start, cols.stop, device=scores.device)
    return scores.masked_fill(key > query[:, None], -torch.inf)


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def validate_shapes(
    q: Float[Tensor, "batch head query dim"],
    k: Float[Tensor, "batch_k kv_head key dim_k"],
    v: Float[Tensor, "batch_v kv_head_v key_v value_dim"],
    is_causal: bool,
) -> None:
    """Raise a ValueError that names what does not fit."""
    agree = q.shape[-1] == k.shape[-1] and q.shape[0] == k.shape[0]
    require(agree, "q and k must agree in batch and dim", tuple(q.shape), tuple(k.shape))
    must = f"v must have the batch, heads and length of k {tuple(k.shape[:-1])}"
    require(v.shape[:-1] == k.shape[:-1], must, tuple(v.shape[:-1]))
    heads, kv_heads, n, n_keys = q.shape[1], k.shape[1], q.shape[2], k.shape[2]
    divides = kv_heads > 0 and heads % kv_heads == 0
    require(divides, "the heads of k must divide those of q", kv_heads, heads)
    same = q.dtype == k.dtype == v.dtype
    require(same, "q, k and v must have one dtype", f"{q.dtype}, {k.dtype}, {v.dtype}")
    require(n_keys > 0, "k must have at least one key, got none")
    must = f"causal queries must be at most as many as keys = {n_keys}"
    require(not is_causal or n <= n_keys, must, n)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
