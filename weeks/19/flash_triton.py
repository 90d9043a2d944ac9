r"""FlashAttention's forward pass as one Triton kernel: what `flash_attention.py` counts, on a GPU.

Each program owns one tile of queries of one head, keeps $m$, $\ell$ and $a$ in registers and walks
over the keys. Exponents are taken to base 2, which the hardware has, so the scores are scaled by
$\log_2 e$ first. Only the forward pass is here; gradients are those of `flash_attention.py`.

The module can be imported anywhere. The kernel needs an NVIDIA or AMD GPU, or no GPU at all with
`TRITON_INTERPRET=1` in the environment *before* the import, which runs it slowly in NumPy.

>>> q = torch.zeros(1, 1, 3, 12)
>>> flash_attention_triton(q, q, q)
Traceback (most recent call last):
ValueError: dim must be a power of two of at least 16, got 12

`uv run weeks/19/flash_attention.py` is the same in PyTorch. P. Tillet, H. T. Kung and D. Cox
(2019), "Triton"; Dao (2023), "FlashAttention-2", algorithm 1.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from shared.require import require
from week19.flash_attention import validate_shapes

try:
    import triton
    import triton.language as tl
except ImportError:  # not made for every system; torch's wheels bring it where it is
    triton = None

LOG2_E = math.log2(math.e)

if triton is not None:

    @triton.jit
    def _forward_kernel(
        q_ptr,
        k_ptr,
        v_ptr,
        out_ptr,
        lse_ptr,
        n,
        n_keys,
        group,
        log2_scale,
        IS_CAUSAL: tl.constexpr,
        DIM: tl.constexpr,
        ROWS: tl.constexpr,
        COLS: tl.constexpr,
    ):
        """One tile of queries; q is (heads, n, DIM), k and v are (heads / group, n_keys, DIM)."""
        # In 64 bits: heads × n × DIM passes 2³¹ at lengths that attention is made for.
        head = tl.program_id(1).to(tl.int64)
        rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        columns = tl.arange(0, DIM)
        q_at = head * n * DIM + rows[:, None] * DIM + columns[None, :]
        q = tl.load(q_ptr + q_at, mask=rows[:, None] < n, other=0.0)
        m = tl.full([ROWS], float("-inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        mixed = tl.zeros([ROWS, DIM], tl.float32)
        last = n_keys
        if IS_CAUSAL:  # what follows the tile's last query is neither loaded nor computed
            last = tl.minimum(n_keys, n_keys - n + (tl.program_id(0) + 1) * ROWS)
        kv_head = (head // group) * n_keys * DIM
        for start in range(0, last, COLS):
            keys = start + tl.arange(0, COLS)
            kv_at = kv_head + keys[:, None] * DIM + columns[None, :]
            there = keys[:, None] < n_keys
            k = tl.load(k_ptr + kv_at, mask=there, other=0.0)
            v = tl.load(v_ptr + kv_at, mask=there, other=0.0)
            scores = tl.dot(q, tl.trans(k), input_precision="ieee") * log2_scale
            seen = keys[None, :] < n_keys
            if IS_CAUSAL:
                seen = seen & (keys[None, :] <= (rows + n_keys - n)[:, None])
            scores = tl.where(seen, scores, float("-inf"))
            new_m = tl.maximum(m, tl.max(scores, 1))
            shrink = tl.exp2(m - new_m)
            p = tl.exp2(scores - new_m[:, None])
            total = shrink * total + tl.sum(p, 1)
            mixed = shrink[:, None] * mixed
            mixed += tl.dot(p.to(v.dtype), v, input_precision="ieee")
            m = new_m
        out = (mixed / total[:, None]).to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + q_at, out, mask=rows[:, None] < n)
        lse = (m + tl.log2(total)) / 1.4426950408889634
        tl.store(lse_ptr + head * n + rows, lse, mask=rows < n)


def flash_attention_triton(
    q: Float[Tensor, "batch head query dim"],
    k: Float[Tensor, "batch kv_head key dim"],
    v: Float[Tensor, "batch kv_head key dim"],
    *,
    is_causal: bool = False,
    scale: float | None = None,
    tile: tuple[int, int] = (64, 64),
) -> tuple[Float[Tensor, "batch head query dim"], Float[Tensor, "batch head query"]]:
    """Output and log-sum-exp, the arguments as in `flash_attention.flash_attention`."""
    validate_shapes(q, k, v, is_causal)
    batch, heads, n, dim = q.shape
    require(v.shape[-1] == dim, f"v must have the dim of q = {dim}", v.shape[-1])
    for name, size in (("dim", dim), ("tile[0]", tile[0]), ("tile[1]", tile[1])):
        fits = size >= 16 and size & (size - 1) == 0  # what tl.dot multiplies
        require(fits, f"{name} must be a power of two of at least 16", size)
    missing = "triton is not installed; flash_attention.py runs everywhere"
    require(triton is not None, missing, error=RuntimeError)
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    out, lse = torch.empty_like(q), q.new_empty((batch, heads, n), dtype=torch.float32)
    scale = 1 / math.sqrt(dim) if scale is None else scale
    if q.numel():
        # Heads of all batches in one row: head h of batch b reads key head (b·heads + h) // group.
        grid = (triton.cdiv(n, tile[0]), batch * heads)
        lengths = (n, k.shape[2], heads // k.shape[1], scale * LOG2_E)
        sizes = {"IS_CAUSAL": is_causal, "DIM": dim, "ROWS": tile[0], "COLS": tile[1]}
        _forward_kernel[grid](q, k, v, out, lse, *lengths, **sizes)
    return out, lse
