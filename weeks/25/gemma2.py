r"""A small Gemma 2: a LLaMA with bounded logits, whose layers look near and far by turns.

Scores of attention and the last logits are squashed before anything is masked or normalized,

$$ s \mapsto c \tanh(s / c), \qquad c = 50 \text{ and } 30 . $$

Every other layer sees a window of the last keys only. Each half of a layer has a norm before and
one after, $x + \mathrm{norm}(f(\mathrm{norm}(x)))$, and a norm multiplies by $1 + w$, in float32.
The gate of the MLP is a GELU. The embedding is the output head, too, and as an input it is
multiplied by $\sqrt{d}$.

>>> model = Gemma2(Gemma2Config(vocab_size=50), torch.Generator().manual_seed(0))
>>> tokens = torch.arange(12)[None]
>>> model(model.embed(tokens)).shape
torch.Size([1, 12, 50])
>>> soft_cap(torch.tensor([1.0, 1000.0]), 50.0)
tensor([ 0.9999, 50.0000])
>>> 1 * window_mask(3, 3, window=2)
tensor([[1, 0, 0],
        [1, 1, 0],
        [0, 1, 1]])

    uv run weeks/25/paligemma2.py

Source: Gemma Team, "Gemma 2: Improving open language models at a practical size" (2024), section 2.
Reduced here: two layers, width 64.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from shared.require import require
from week13.attention import causal_mask
from week18.rotary import rope_frequencies, rotate
from week19.kv_cache import KVCache


@dataclass(frozen=True)
class Gemma2Config:
    """Sizes of a model.

    Attributes
    ----------
    query_scalar
        Scores are divided by its root (`query_pre_attn_scalar`): 256 in the smallest Gemma 2, which
        is its head_dim, and d_model / n_heads in the largest, which is not. head_dim if None.
    window
        How many keys a local layer sees, its own among them; layers 0, 2, 4 … are local.
    attention_cap, final_cap
        Bounds of scores and of logits; None leaves them free.
    """

    vocab_size: int
    d_model: int = 64
    n_layers: int = 2
    n_heads: int = 4
    n_kv_heads: int = 2
    head_dim: int = 16
    d_ff: int = 128
    query_scalar: int | None = None
    window: int = 4096
    attention_cap: float | None = 50.0
    final_cap: float | None = 30.0
    rope_base: float = 10_000.0
    norm_eps: float = 1e-6

    def __post_init__(self):
        n, n_kv = self.n_heads, self.n_kv_heads
        require(n_kv >= 1 and n % n_kv == 0, f"n_kv_heads must divide n_heads = {n}", n_kv)
        require(self.head_dim % 2 == 0, "head_dim must be even", self.head_dim)
        require(self.window >= 1, "window must be at least 1", self.window)


def soft_cap(x: Float[Tensor, "*dims"], cap: float | None) -> Float[Tensor, "*dims"]:
    """Nearly x where it is small, never beyond ± cap."""
    return x if cap is None else cap * torch.tanh(x / cap)


def window_mask(query_len: int, key_len: int, *, window: int) -> Bool[Tensor, "query key"]:
    """The causal mask, but only the last `window` keys; queries are the last positions."""
    return causal_mask(query_len, key_len).triu(key_len - query_len - window + 1)


class RMSNorm(nn.Module):
    """Divide by the root mean square and multiply by 1 + w, in float32 until the end."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.zeros(dim)), eps

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Normalize the last dimension."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * (1 + self.weight.to(wide.dtype))).to(x.dtype)


class Block(nn.Module):
    """Attention, then a gated MLP, each between two norms."""

    def __init__(self, config: Gemma2Config, layer: int):
        super().__init__()
        d, size, c = config.d_model, config.head_dim, config
        self.layer, self.head_dim, self.cap = layer, size, config.attention_cap
        self.scale = (c.head_dim if c.query_scalar is None else c.query_scalar) ** -0.5
        self.attention_norm, self.attention_post_norm = (RMSNorm(d, c.norm_eps) for _ in range(2))
        self.mlp_norm, self.mlp_post_norm = (RMSNorm(d, c.norm_eps) for _ in range(2))
        self.q_proj = nn.Linear(d, c.n_heads * size, bias=False)
        self.k_proj = nn.Linear(d, c.n_kv_heads * size, bias=False)
        self.v_proj = nn.Linear(d, c.n_kv_heads * size, bias=False)
        self.out_proj = nn.Linear(c.n_heads * size, d, bias=False)
        self.gate_proj = nn.Linear(d, c.d_ff, bias=False)
        self.up_proj = nn.Linear(d, c.d_ff, bias=False)
        self.down_proj = nn.Linear(c.d_ff, d, bias=False)

    def forward(
        self,
        x: Float[Tensor, "batch seq d_model"],
        cos: Float[Tensor, "1 1 seq half_dim"],
        sin: Float[Tensor, "1 1 seq half_dim"],
        allowed: Bool[Tensor, "#batch 1 seq key"],
        cache: KVCache | None = None,
    ) -> Float[Tensor, "batch seq d_model"]:
        """The residual stream after this layer."""
        u = self.attention_norm(x)
        q, k, v = (
            project(u).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:
            k, v = cache.update(self.layer, k, v)
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
        # Capped before the mask: a capped -inf would be -50, which a softmax still sees.
        scores = soft_cap(self.scale * q @ k.transpose(-1, -2), self.cap)
        weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
        heads = (weights @ v).transpose(1, 2).flatten(2)
        x = x + self.attention_post_norm(self.out_proj(heads))
        u = self.mlp_norm(x)
        gate = F.gelu(self.gate_proj(u), approximate="tanh")
        return x + self.mlp_post_norm(self.down_proj(gate * self.up_proj(u)))


class Gemma2(nn.Module):
    """A decoder that takes embeddings, so that a picture's tokens may stand among the words'."""

    def __init__(self, config: Gemma2Config, generator: torch.Generator):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.n_layers))
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        with torch.no_grad():
            for p in self.parameters():
                if p.ndim == 2:
                    # Rows of the embedding reach length about 1, matrices keep lengths.
                    p.normal_(0, p.shape[1] ** -0.5, generator=generator)

    def embed(self, tokens: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq d_model"]:
        """Scaled embeddings: what the first layer takes. A picture's tokens are not scaled."""
        weight = self.embedding.weight
        scale = torch.tensor(self.config.d_model**0.5, dtype=weight.dtype)  # rounded as it is
        return self.embedding(tokens) * scale.to(weight.device)

    def new_cache(self, batch: int, max_length: int) -> KVCache:
        """For keys and values of all positions, in local layers too: masks do the windowing."""
        c, weight = self.config, self.embedding.weight
        sizes = {"n_layers": c.n_layers, "n_kv_heads": c.n_kv_heads, "head_dim": c.head_dim}
        sizes |= {"batch": batch, "max_length": max_length}
        return KVCache(**sizes, dtype=weight.dtype, device=weight.device)

    def forward(
        self,
        x: Float[Tensor, "batch seq d_model"],
        *,
        allowed: Bool[Tensor, "#batch seq key"] | None = None,
        local: Bool[Tensor, "#batch seq key"] | None = None,
        cache: KVCache | None = None,
    ) -> Float[Tensor, "batch seq vocab"]:
        """Logits of the next token after each position.

        Parameters
        ----------
        allowed, local
            Which keys the queries see in global and in local layers; causal ones if not given.
        """
        past, n = 0 if cache is None else cache.length, x.shape[1]
        if allowed is None:
            allowed = causal_mask(n, past + n)[None]
        sides = tuple(allowed.shape[1:])
        require(sides == (n, past + n), f"allowed must be {n} × {past + n}", sides)
        if local is None:
            local = allowed & window_mask(n, past + n, window=self.config.window)
        positions = torch.arange(past, past + n, device=x.device)[:, None].float()
        frequencies = rope_frequencies(self.config.head_dim, base=self.config.rope_base)
        angles = positions * frequencies.to(x.device)
        cos, sin = (wave.to(x.dtype)[None, None] for wave in (angles.cos(), angles.sin()))
        for i, block in enumerate(self.blocks):
            x = block(x, cos, sin, (local if i % 2 == 0 else allowed)[:, None], cache)
        if cache is not None:
            cache.advance(n)
        return soft_cap(self.norm(x) @ self.embedding.weight.T, self.config.final_cap)
