r"""A LLaMA for decoding on a processor: fewer and larger products, packed once.

A new token reads every weight for one multiplication, so the time has a floor,

$$t \ge \frac{\text{bytes of the weights}}{\text{bytes per second}} .$$

What stands above the floor is overhead, and that is what goes here. Queries, keys and values are
one product, the MLP's gate and value another; the norms' gains are multiplied into the matrices
that follow them; cosines and sines stand in a table; the query heads that share a key are one
small matrix; only the last positions get logits. For several rows every matrix lies in the order
in which oneDNN's kernels read it: torch would bring it into that order anew each time. For one row
without AVX-512 it lies transposed, in four parts that all threads share: a product with one row
would otherwise be one thread's.

>>> from week18.llama3 import LlamaConfig
>>> model = Llama(LlamaConfig(vocab_size=50, n_kv_heads=2), torch.Generator().manual_seed(0))
>>> tokens = torch.arange(8)[None]
>>> torch.allclose(FusedLlama(model)(tokens)[:, -1], model(tokens)[:, -1], atol=1e-5)
True

`uv run study bench 19` measures it. Pope et al., "Efficiently scaling transformer inference"
(2022), section 2, for the floor.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from shared.require import require
from week18.llama3 import Cache, Llama, allowed_keys

MANY_HEADS = 16  # from here on plain products are faster: measured with two threads
PARTS = 4  # of a matrix that meets one row
Product = Callable[[Float[Tensor, "*batch d"]], Float[Tensor, "*batch rows"]]


def packed(weight: Float[Tensor, "rows d"], batch: int) -> Product:
    """`x @ weight.T`, the weight in the order that is read fastest here.

    The order depends on shapes and on the processor alone: a clock might choose differently the
    next time, and a model made twice would not round alike.
    """
    n_rows, d = weight.shape
    narrow = weight.is_cpu and torch.backends.cpu.get_cpu_capability() == "AVX2"
    if narrow and batch == 1 and d % PARTS == 0:
        transposed = weight.T.clone(memory_format=torch.contiguous_format)
        parts = transposed.view(PARTS, -1, n_rows)

        def product(x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch rows"]:
            if x.numel() > d:
                return x @ transposed
            return (x.reshape(PARTS, 1, -1) @ parts).sum(0).view(*x.shape[:-1], n_rows)

        return product
    weight, ops = weight.clone(memory_format=torch.contiguous_format), torch.ops.mkldnn
    there = torch.backends.mkldnn.is_available() and hasattr(ops, "_linear_pointwise")
    if batch > 1 and weight.is_cpu and there:
        ordered = ops._reorder_linear_weight(weight, batch)
        return lambda x: ops._linear_pointwise(x, ordered, None, "none", [], "")
    return lambda x: F.linear(x, weight)


def attention_of_one(
    q: Float[Tensor, "batch kv_head query dim"],
    k: Float[Tensor, "batch kv_head key dim"],
    v: Float[Tensor, "batch kv_head key dim"],
    allowed: Bool[Tensor, "#batch #kv_head #query key"] | None = None,
) -> Float[Tensor, "batch kv_head query dim"]:
    """Attention where all of `k` may be seen, unless `allowed` says less: that of a new token.

    torch's fused kernel pays for every head; for many heads of few queries three plain operations
    are faster.
    """
    if q.shape[0] * q.shape[1] < MANY_HEADS:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    return scores.softmax(dim=-1) @ v


class FusedLlama(Llama):
    """The logits of a `Llama` after the last tokens; nothing in it can be trained.

    Parameters
    ----------
    model
        What it computes. Its weights are copied, in another order.
    batch
        How many rows the products are prepared for; others are right too, and slower.
    product
        `product(weight, batch)` gives what multiplies by a matrix: `packed`, or integers of it.
    last
        How many tokens get logits: one to go on, and one more for each guess that is checked.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: Llama,
        *,
        batch: int = 1,
        product: Callable[[Tensor, int], Product] = packed,
        last: int = 1,
    ):
        nn.Module.__init__(self)  # the parts of a Llama are not wanted, only to be one
        require(last >= 1, "last must be at least 1", last)
        self.last = last
        self.config, self.embed, self.frequencies = model.config, model.embed, model.frequencies
        scaling, dtype = self.config.rope_scaling, model.embed.weight.dtype
        must = "rope_scaling must be one whose angles do not depend on the text's length"
        require(scaling is None or not scaling.by_length, must, scaling)
        waves = model.waves(torch.arange(self.config.context), None)
        cos, sin = (table[0, 0].to(dtype) for table in waves)
        # (a, b) turned is (a, b)·(cos, cos) + (b, a)·(-sin, sin).
        self.cos, self.sin = torch.cat([cos, cos], dim=1), torch.cat([-sin, sin], dim=1)
        # x / √(‖x‖²/d + ε) = √d x / √(‖x‖² + dε): on a processor F.rms_norm is ten operations.
        self.least = torch.tensor(self.config.d_model * self.config.norm_eps, dtype=dtype).sqrt()
        root = self.config.d_model**0.5
        self.layers = []
        for block in model.blocks:
            qkv = torch.cat([p.weight for p in (block.q_proj, block.k_proj, block.v_proj)])
            gated = torch.cat([block.gate_proj.weight, block.up_proj.weight])
            self.layers.append(
                (
                    product(qkv * (block.attention_norm.weight * root), batch),
                    product(block.out_proj.weight, batch),
                    product(gated * (block.mlp_norm.weight * root), batch),
                    product(block.down_proj.weight, batch),
                )
            )
        self.head = product(model.head.weight * (model.norm.weight * root), batch)

    def norm(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """RMSNorm without its gain and without √d, which the matrix after it has taken over."""
        return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), self.least)

    @torch.inference_mode()
    def forward(
        self,
        tokens: Int[Tensor, "batch seq"],
        *,
        positions: Int[Tensor, "batch seq"] | None = None,
        cache: Cache | None = None,
        mask: Bool[Tensor, "batch key"] | None = None,
    ) -> Float[Tensor, "batch most_last vocab"]:
        """As `Llama.forward`, for the last tokens only."""
        past, n = 0 if cache is None else cache.length, tokens.shape[1]
        at = slice(past, past + n) if positions is None else positions
        cos, sin = (table[at].reshape(-1, 1, n, table.shape[1]) for table in (self.cos, self.sin))
        allowed = allowed_keys(past, n, mask, tokens.device)
        x = self.embed(tokens).flatten(0, 1)
        for layer, (qkv, out, gated, down) in enumerate(self.layers):
            wide = qkv(self.norm(x)).view(*tokens.shape, -1)
            x = x + out(self.attend(wide, layer, cos, sin, cache, allowed))
            gate, up = gated(self.norm(x)).chunk(2, dim=-1)
            x = x + down(F.silu(gate) * up)
        if cache is not None:
            cache.advance(n)
        return self.head(self.norm(x.view(*tokens.shape, -1)[:, -self.last :]))

    def attend(
        self,
        qkv: Float[Tensor, "batch seq width"],
        layer: int,
        cos: Float[Tensor, "row 1 seq dim"],
        sin: Float[Tensor, "row 1 seq dim"],
        cache: Cache | None,
        allowed: Bool[Tensor, "#batch 1 seq key"] | None,
    ) -> Float[Tensor, "tokens d"]:
        """All heads' outputs side by side."""
        n_heads, n_kv = self.config.n_heads, self.config.n_kv_heads
        batch, n = qkv.shape[:2]
        heads = qkv.view(batch, n, n_heads + 2 * n_kv, -1).transpose(1, 2)
        qk, v = heads.split([n_heads + n_kv, n_kv], dim=1)
        swapped = qk.roll(qk.shape[-1] // 2, -1)
        q, k = torch.addcmul(qk * cos, swapped, sin).split([n_heads, n_kv], dim=1)
        if cache is not None:
            k, v = cache.update(layer, k, v)
        if n == 1:  # the queries of a key's group are rows of one product
            q = q.reshape(batch, n_kv, n_heads // n_kv, -1)
            found = attention_of_one(q, k, v, allowed)
        else:
            options = {"is_causal": allowed is None, "enable_gqa": n_heads != n_kv}
            found = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, **options)
        return found.reshape(batch, n_heads, n, -1).transpose(1, 2).reshape(batch * n, -1)
