r"""The model: one decoder whose parts are chosen by name, from GPT-2 to what the ablation kept.

Three architectures, each a row of choices (`ARCHITECTURES`):

- ``gpt2``: layer norm, learned positions, GELU, biases, tied head (Radford et al., 2019).
- ``llama``: RMS norm, rotary positions, SwiGLU, optional grouped queries (week 18's block).
- ``modern``: rotary positions, normalized queries and keys, ReLU², the previous token's embedding
  mixed in, an untied head that starts at zero. Layer norm without gain and bias normalizes here:
  one fused operator where RMS norm takes five. The ablation of the README has RMS norm and SwiGLU a
  little ahead in loss at equal steps; these two are chosen for their speed on a CPU.

Sources: Radford et al., "Language models are unsupervised multitask learners" (2019), section 2.3;
Grattafiori et al., "The Llama 3 herd of models" (2024), section 3.2; Henry et al., "Query-key
normalization" (2020), section 3; So et al., "Primer" (2021), section 4.1, for ReLU²; Su et al.,
"RoFormer" (2021), eq. 34.
"""

import math
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tiny_gpt.model.fused import FusedBlock, rotary_table
from week16.activation_checkpointing import checkpoint
from week18.llama3 import Cache, RMSNorm, allowed_keys, rope_frequencies, rotate

Architecture = Literal["gpt2", "llama", "modern"]

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt2": {
        "norm": "layer",
        "positions": "learned",
        "mlp": "gelu",
        "bias": True,
        "tied": True,
    },
    "llama": {"norm": "rms", "positions": "rotary", "mlp": "swiglu", "rope_base": 10_000.0},
    "modern": {
        "norm": "plain",
        "positions": "rotary",
        "mlp": "relu2",
        "qk_norm": True,
        "mix_previous": True,
        "zero_head": True,
    },
}


@dataclass(frozen=True)
class GPTConfig:
    """Sizes and choices of a model.

    Attributes
    ----------
    context
        Most tokens the model sees at once.
    n_kv_heads
        Heads of keys and values, each shared by `n_heads / n_kv_heads` query heads; all of their
        own if None.
    d_ff
        Width of the MLP; if None 4 d_model, or for `swiglu` 8/3 d_model up to a multiple of 8.
    norm
        `layer` with gain and bias (bias only with `bias`), `rms` with gain, `plain` layer norm
        without either.
    qk_norm
        Normalize each query and key to root mean square 1, so that no logit can run away.
    mix_previous
        Add a second embedding, of the token before, to each token's.
    tied
        The output head is the embedding.
    zero_head
        An untied head starts at zero: the first loss is ln(vocab_size), no gradient is noise.
    dropout
        Probability, on the embedding and on both branches of a block.
    """

    vocab_size: int
    context: int = 64
    n_layers: int = 4
    n_heads: int = 4
    d_model: int = 128
    n_kv_heads: int | None = None
    d_ff: int | None = None
    norm: Literal["layer", "rms", "plain"] = "plain"
    positions: Literal["learned", "rotary"] = "rotary"
    mlp: Literal["gelu", "swiglu", "relu2"] = "relu2"
    bias: bool = False
    qk_norm: bool = False
    mix_previous: bool = False
    tied: bool = False
    zero_head: bool = False
    dropout: float = 0.0
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5

    def __post_init__(self):
        if self.n_heads > 0 and self.d_model % self.n_heads:
            raise ValueError(f"n_heads must divide d_model = {self.d_model}, got {self.n_heads}")
        wide = -(-8 * self.d_model // 24) * 8 if self.mlp == "swiglu" else 4 * self.d_model
        for name, value in (("n_kv_heads", self.n_heads), ("d_ff", wide)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name in (
            "vocab_size",
            "context",
            "n_layers",
            "n_heads",
            "d_model",
            "n_kv_heads",
            "d_ff",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"n_kv_heads must divide n_heads = {self.n_heads}, got {self.n_kv_heads}"
            )
        if self.positions == "rotary" and self.head_dim % 2:
            raise ValueError(
                f"rotary positions need an even d_model / n_heads, got {self.head_dim}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if self.tied and self.zero_head:
            raise ValueError("zero_head must be off where the head is tied to the embedding")

    @classmethod
    def of(cls, architecture: Architecture, vocab_size: int, **changes: Any) -> "GPTConfig":
        """The configuration of a named architecture; `changes` override its choices."""
        if architecture not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise ValueError(f"architecture must be one of {known}, got {architecture!r}")
        return cls(vocab_size, **{**ARCHITECTURES[architecture], **changes})

    @property
    def head_dim(self) -> int:
        """Size of one head."""
        return self.d_model // self.n_heads

    @property
    def max_positions(self) -> int:
        """The name that week 19's decoding uses for `context`."""
        return self.context

    @property
    def architecture(self) -> str | None:
        """The named architecture whose choices these are, sizes and dropout aside."""
        sizes = {"vocab_size", "context", "n_layers", "n_heads", "d_model", "n_kv_heads", "d_ff"}
        for name in ARCHITECTURES:
            other = GPTConfig.of(name, self.vocab_size)
            free = sizes | {"dropout", "rope_base", "norm_eps"}
            free |= {"tied", "bias"} if name == "gpt2" else {"tied"} if name == "llama" else set()
            same = all(
                getattr(self, f.name) == getattr(other, f.name)
                for f in fields(self)
                if f.name not in free
            )
            if same:
                return name
        return None


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
        d, size, bias = config.d_model, config.head_dim, config.bias
        self.attention_norm, self.mlp_norm = _norm(config), _norm(config)
        # One product for queries, keys and values; week 18 has three, which is the same map.
        self.qkv = nn.Linear(d, (config.n_heads + 2 * config.n_kv_heads) * size, bias=bias)
        self.out = nn.Linear(d, d, bias=bias)
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
        x = x + self._dropped(self.out(heads.transpose(1, 2).flatten(2)))
        return x + self._dropped(self.feed_forward(self.mlp_norm(x)))

    def fused(
        self,
        x: Float[Tensor, "batch seq d_model"],
        cos: Float[Tensor, "seq 1 dim"],
        sin: Float[Tensor, "seq 1 dim"],
        dtype: torch.dtype,
    ) -> Float[Tensor, "batch seq d_model"]:
        """`forward` as one operator; for what it can do see `GPT._can_fuse`."""
        weights = (self.qkv.weight, self.out.weight, self.up.weight, self.down.weight)
        c = self.config
        return FusedBlock.apply(x, *weights, cos, sin, c.n_heads, c.norm_eps, dtype)

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

    Parameters
    ----------
    config
        Sizes and choices.
    generator
        Random numbers of the initial weights.

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
            self.register_buffer("frequencies", self._exact_frequencies(), persistent=False)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.n_layers))
        self.norm = _norm(config)
        self.head = nn.Linear(d, config.vocab_size, bias=False)
        if config.tied:
            self.head.weight = self.embed.weight
        if not self.embed.weight.is_meta:  # as where a checkpoint's weights will follow
            self.initialize(generator)

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Normal weights of 0.02, smaller onto the residual stream; zero biases (and zero head).

        References
        ----------
        Radford et al. (2019), section 2.3: residual projections scaled by 1/sqrt(2 n_layers).
        """
        for name, p in self.named_parameters():
            if p.ndim == 2:
                onto_stream = name.endswith(("out.weight", "down.weight"))
                std = 0.02 / math.sqrt(2 * self.config.n_layers) if onto_stream else 0.02
                nn.init.normal_(p, std=std, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(p)
        if self.config.zero_head:
            nn.init.zeros_(self.head.weight)

    def _exact_frequencies(self) -> Tensor:
        return rope_frequencies(self.config.head_dim, base=self.config.rope_base)

    def _apply(self, fn, recurse: bool = True):
        # As in week 18: the angles follow the weights to a device, never to half precision.
        super()._apply(fn, recurse)
        if self.config.positions == "rotary" and not self.frequencies.is_meta:
            dtype = torch.promote_types(self.frequencies.dtype, torch.float32)
            exact = self._exact_frequencies().to(self.frequencies.device, dtype)
            self.frequencies = exact
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

        Raises
        ------
        ValueError
            If there are more tokens than `context`, or `mask` does not cover them all.
        """
        past, n = (cache.length if cache is not None else 0), tokens.shape[1]
        if past + n > self.config.context:
            raise ValueError(
                f"tokens must be at most context = {self.config.context} long, got {past + n}"
            )
        if mask is not None and mask.shape[1] != past + n:
            raise ValueError(f"mask must cover {past + n} tokens, got {mask.shape[1]}")
        if positions is None:
            positions = torch.arange(past, past + n, device=tokens.device)
        x = self.embed(tokens)
        if self.config.mix_previous:
            if previous is None:
                previous = self.tokens_before(tokens, positions, segments, cache)
            x = x + self.previous(previous)
        cos = sin = None
        if self.config.positions == "learned":
            x = x + self.positions(positions)
        else:
            angles = positions.reshape(-1, 1, n, 1).to(self.frequencies.dtype) * self.frequencies
            # Under autocast the table must not widen what the products made narrow.
            dtype = x.dtype
            if torch.is_autocast_enabled(x.device.type):
                dtype = torch.get_autocast_dtype(x.device.type)
            cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
        if self.config.dropout:
            x = F.dropout(x, self.config.dropout, self.training)
        if segments is not None:
            everything = torch.ones_like(segments, dtype=torch.bool) if mask is None else mask
            allowed = allowed_keys(past, n, everything, x.device)
            allowed = allowed & (segments[:, None, :, None] == segments[:, None, None, :])
        else:
            allowed = allowed_keys(past, n, mask, x.device)
        if self.fused and cache is None and allowed is None and self._can_fuse(x):
            table = rotary_table(angles[:1].cos(), angles[:1].sin())
            for block in self.blocks:
                x = block.fused(x, *table, cos.dtype)
            return self.head(self.norm(x))
        for block in self.blocks:
            if self.checkpoint_blocks and torch.is_grad_enabled():
                x = checkpoint(_WithoutCache(block, cos, sin, allowed), x)
            else:
                x = block(x, cos, sin, allowed, cache)
        if cache is not None:
            cache.advance(n)
        return self.head(self.norm(x))

    def _can_fuse(self, x: Tensor) -> bool:
        """Whether `fused.FusedBlock` computes just this: training on a CPU, nothing special."""
        c = self.config
        return (
            (c.norm, c.mlp, c.positions, c.qk_norm, c.bias)
            == ("plain", "relu2", "rotary", True, False)
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


class _WithoutCache(nn.Module):
    """A block as the function of one tensor that `checkpoint` wants."""

    def __init__(self, block: Block, cos, sin, allowed):
        super().__init__()
        self.block, self.rest = block, (cos, sin, allowed)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x, *self.rest)
