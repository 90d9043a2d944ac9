"""The model: one decoder whose parts `GPTConfig` chooses.

`GPT.forward` embeds, goes through the blocks, and gives logits. What makes it long is how a block
may be computed, always to the same numbers: plainly, with a cache of keys and values, again in the
backward pass (`checkpoint_blocks`), or as one operator (`fused.py`).
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from shared.require import require
from tiny_gpt.model.config import GPTConfig
from tiny_gpt.model.fused import FusedBlock, rotary_table
from week16.activation_checkpointing import checkpoint
from week18.llama3 import Cache, RMSNorm, allowed_keys
from week18.rotary import rope_frequencies, rotate

__all__ = ["GPT", "Block", "GPTConfig", "attend"]


def _norm(config: GPTConfig) -> nn.Module:
    d, eps = config.d_model, config.norm_eps
    if config.norm == "rms":
        return RMSNorm(d, eps)
    return nn.LayerNorm(d, eps, elementwise_affine=config.norm == "layer", bias=config.bias)


class Block(nn.Module):
    """Attention moves information between positions, the MLP works on each alone (pre-norm)."""

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.layer, self.config = layer, config
        d, head_dim, bias = config.d_model, config.head_dim, config.bias
        self.attention_norm, self.mlp_norm = _norm(config), _norm(config)
        # One product for queries, keys and values; week 18 has three, which is the same map.
        self.qkv = nn.Linear(d, (config.n_heads + 2 * config.n_kv_heads) * head_dim, bias=bias)
        self.out_proj = nn.Linear(d, d, bias=bias)
        # SwiGLU's gate and up projections lie side by side in the same matrix.
        self.up = nn.Linear(d, config.d_ff * (2 if config.mlp == "swiglu" else 1), bias=bias)
        self.down = nn.Linear(config.d_ff, d, bias=bias)

    def forward(
        self,
        x: Float[Tensor, "batch seq d_model"],
        cos: Float[Tensor, "row 1 seq half_dim"] | None = None,
        sin: Float[Tensor, "row 1 seq half_dim"] | None = None,
        allowed: Bool[Tensor, "#batch 1 seq key"] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "batch seq d_model"]:
        """The residual stream after this layer; arguments as in `week18.llama3.Block`."""
        c = self.config
        # (batch, heads of q, k and v, seq, head_dim)
        qkv = self.qkv(self.attention_norm(x)).unflatten(-1, (-1, c.head_dim)).transpose(1, 2)
        qk, v = qkv.split((c.n_heads + c.n_kv_heads, c.n_kv_heads), dim=1)
        if c.qk_norm:
            qk = F.rms_norm(qk, (c.head_dim,))
        if cos is not None:
            qk = rotate(qk, cos, sin)
        q, k = qk.split((c.n_heads, c.n_kv_heads), dim=1)
        if cache is not None:
            k, v = cache.update(self.layer, k, v)
        heads = attend(q, k, v, allowed).to(x.dtype)
        x = x + self._dropped(self.out_proj(heads.transpose(1, 2).flatten(2)))
        return x + self._dropped(self.feed_forward(self.mlp_norm(x)))

    def feed_forward(self, u: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """GELU (of any slope: GPT-2's tanh form), the gate of SwiGLU, or the square of ReLU."""
        h = self.up(u)
        if self.config.mlp == "gelu":
            h = F.gelu(h, approximate="tanh")
        elif self.config.mlp == "relu2":
            h = F.relu(h).square()
        else:
            gate, h = h.chunk(2, dim=-1)
            h = F.silu(gate) * h
        return self.down(h)

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.config.dropout, self.training) if self.config.dropout else x


def attend(
    q: Float[Tensor, "batch head query dim"],
    k: Float[Tensor, "batch kv_head key dim"],
    v: Float[Tensor, "batch kv_head key dim"],
    allowed: Bool[Tensor, "#batch 1 query key"] | None,
) -> Float[Tensor, "batch head query dim"]:
    """Scaled dot-product attention by torch's fused kernel, to which week 13's is equal.

    Without `allowed`, queries see what is not later, a single query everything.
    """
    options = {"enable_gqa": q.shape[1] != k.shape[1]}
    options |= {"attn_mask": allowed, "is_causal": allowed is None and q.shape[2] > 1}
    narrow = q.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
    if q.device.type != "cpu" or not narrow:
        return F.scaled_dot_product_attention(q, k, v, **options)
    # On a CPU the kernel's backward pass takes six times as long in bfloat16 as in float32.
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), **options)


class GPT(nn.Module):
    """Decoder-only transformer.

    Attributes
    ----------
    checkpoint_blocks
        Keep only each block's input for the backward pass and compute the rest again
        (week 16): less memory, a third more arithmetic, the same gradients.
    fused
        Use `FusedBlock` where it applies; False computes every operator by itself.
    """

    def __init__(self, config: GPTConfig, generator: torch.Generator | None = None):
        super().__init__()
        self.config, self.checkpoint_blocks, self.fused = config, False, True
        d = config.d_model
        self.embed = nn.Embedding(config.vocab_size, d)
        if config.mix_previous:
            # One row more than the vocabulary: the first token of a text has none before it.
            self.previous = nn.Embedding(config.vocab_size + 1, d)
        if config.positions == "learned":
            self.positions = nn.Embedding(config.context, d)
        else:
            self.register_buffer("frequencies", self.exact_frequencies(), persistent=False)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.n_layers))
        self.norm = _norm(config)
        self.head = nn.Linear(d, config.vocab_size, bias=False)
        if config.tied:
            self.head.weight = self.embed.weight
        if not self.embed.weight.is_meta:  # as where a checkpoint's weights will follow
            self.initialize(generator)

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Normal weights of 0.02; zero biases (and zero head).

        Onto the residual stream by 1/sqrt(2 n_layers) smaller: Radford et al. (2019), section 2.3.
        """
        for name, p in self.named_parameters():
            if p.ndim == 2:
                onto_stream = name.endswith(("out_proj.weight", "down.weight"))
                std = 0.02 / math.sqrt(2 * self.config.n_layers) if onto_stream else 0.02
                nn.init.normal_(p, std=std, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(p)
        if self.config.zero_head:
            nn.init.zeros_(self.head.weight)

    def exact_frequencies(self) -> Float[Tensor, "half_dim"]:
        """The rotary frequencies, on the CPU; they are in no checkpoint."""
        return rope_frequencies(self.config.head_dim, base=self.config.rope_base)

    def _apply(self, fn, recurse: bool = True):
        # As in week 18: the angles follow the weights to a device, never to half precision.
        super()._apply(fn, recurse)
        if self.config.positions == "rotary" and not self.frequencies.is_meta:
            dtype = torch.promote_types(self.frequencies.dtype, torch.float32)
            self.frequencies = self.exact_frequencies().to(self.frequencies.device, dtype)
        return self

    def n_parameters(self) -> int:
        """Trained numbers; a tied head counts once."""
        return sum(p.numel() for p in self.parameters())

    def forward(
        self,
        tokens: Int[Tensor, "batch seq"],
        *,
        positions: Int[Tensor, "batch seq"] | Int[Tensor, "seq"] | None = None,
        cache: Cache | None = None,
        mask: Bool[Tensor, "batch key"] | None = None,
        segments: Int[Tensor, "batch seq"] | None = None,
        previous: Int[Tensor, "batch seq"] | None = None,
    ) -> Float[Tensor, "batch seq vocab"]:
        """Logits of the next token after each one.

        Parameters
        ----------
        positions
            Position of each token; by default they go on where the cache ends.
        cache
            What earlier calls computed. Sequences of unequal length are padded on the left, with
            `mask` and `positions` saying so.
        mask
            False for keys that are padding: of all tokens, those in the cache included.
        segments
            Document of each token: attention stays within a document. Not with a cache.
        previous
            The token before each one, `vocab_size` where there is none; by default it is read
            from `tokens` (and from the cache's `last` tokens), a text's first having none.
        """
        past, n = (cache.length if cache is not None else 0), tokens.shape[1]
        context = self.config.context
        require(past + n <= context, f"tokens must be at most context = {context} long", past + n)
        if mask is not None:
            require(mask.shape[1] == past + n, f"mask must cover {past + n} tokens", mask.shape[1])
        if positions is None:
            positions = torch.arange(past, past + n, device=tokens.device)
        if self.config.mix_previous and previous is None:
            previous = self.tokens_before(tokens, positions, segments, cache)
        x = self.embedded(tokens, positions, previous)
        cos, sin = self.rotation(positions, x)
        allowed = _allowed(past, n, mask, segments, x.device)
        if self.fused and cache is None and allowed is None and self._can_fuse(x):
            x = self._through_fused_blocks(x, positions, cos.dtype)
        else:
            for block in self.blocks:
                if self.checkpoint_blocks and torch.is_grad_enabled():
                    x = checkpoint(_WithoutCache(block, cos, sin, allowed), x)
                else:
                    x = block(x, cos, sin, allowed, cache)
        if cache is not None:
            cache.advance(n)
        return self.head(self.norm(x))

    def embedded(
        self,
        tokens: Int[Tensor, "batch seq"],
        positions: Int[Tensor, "batch seq"] | Int[Tensor, "seq"],
        previous: Int[Tensor, "batch seq"] | None,
    ) -> Float[Tensor, "batch seq d_model"]:
        """What goes into the first block."""
        x = self.embed(tokens)
        if self.config.mix_previous:
            x = x + self.previous(previous)
        if self.config.positions == "learned":
            x = x + self.positions(positions)
        return F.dropout(x, self.config.dropout, self.training) if self.config.dropout else x

    def rotation(
        self,
        positions: Int[Tensor, "batch seq"] | Int[Tensor, "seq"],
        x: Float[Tensor, "batch seq d_model"],
    ) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Cosines and sines of the rotary angles, (row, 1, seq, half of head_dim); else None."""
        if self.config.positions == "learned":
            return None, None
        angles = self._angles(positions)
        # Under autocast the table must not widen what the products made narrow.
        dtype = x.dtype
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
        return angles.cos().to(dtype), angles.sin().to(dtype)

    def _angles(self, positions: Tensor) -> Tensor:
        columns = positions.reshape(-1, 1, positions.shape[-1], 1).to(self.frequencies.dtype)
        return columns * self.frequencies

    def _through_fused_blocks(self, x: Tensor, positions: Tensor, dtype: torch.dtype) -> Tensor:
        """All blocks as `fused.FusedBlock`, products in `dtype`."""
        c, angles = self.config, self._angles(positions)[:1]
        table = rotary_table(angles.cos(), angles.sin())
        for block in self.blocks:
            matrices = (block.qkv, block.out_proj, block.up, block.down)
            weights = [matrix.weight for matrix in matrices]
            x = FusedBlock.apply(x, *weights, *table, c.n_heads, c.norm_eps, dtype)
        return x

    def _can_fuse(self, x: Tensor) -> bool:
        """Whether `FusedBlock` computes just this: training on a CPU, nothing special."""
        c = self.config
        parts = (c.norm, c.mlp, c.positions, c.qk_norm, c.bias)
        return (
            parts == ("plain", "relu2", "rotary", True, False)
            and c.n_kv_heads == c.n_heads
            and not (c.dropout or self.checkpoint_blocks or torch.compiler.is_compiling())
            and torch.is_grad_enabled()
            and x.device.type == "cpu"
            and x.dtype == torch.float32
        )

    def tokens_before(
        self,
        tokens: Int[Tensor, "batch seq"],
        positions: Int[Tensor, "batch seq"] | Int[Tensor, "seq"],
        segments: Int[Tensor, "batch seq"] | None = None,
        cache: Cache | None = None,
    ) -> Int[Tensor, "batch seq"]:
        """The token before each one; `vocab_size` before the first of a text or document."""
        none = self.config.vocab_size
        before = F.pad(tokens[:, :-1], (1, 0), value=none)
        if segments is not None:
            same = segments[:, 1:] == segments[:, :-1]
            before[:, 1:] = torch.where(same, before[:, 1:], none)
        if cache is not None:
            before[:, 0] = cache.last if cache.length else none
            cache.last = tokens[:, -1]
        return before.masked_fill(positions == 0, none)


def _allowed(
    past: int, n: int, mask: Tensor | None, segments: Tensor | None, device: torch.device
) -> Tensor | None:
    """Which keys each query sees, (batch, 1, query, key); None for all that are not later."""
    if segments is None:
        return allowed_keys(past, n, mask, device)
    everything = torch.ones_like(segments, dtype=torch.bool) if mask is None else mask
    allowed = allowed_keys(past, n, everything, device)
    return allowed & (segments[:, None, :, None] == segments[:, None, None, :])


class _WithoutCache(nn.Module):
    """A block as the function of one tensor that `checkpoint` wants."""

    def __init__(self, block: Block, cos, sin, allowed):
        super().__init__()
        self.block, self.rest = block, (cos, sin, allowed)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x, *self.rest)
