r"""LLaMA 3: what a GPT block looks like after five years of small changes.

Four of them. Layer norm loses its mean and its bias (**RMSNorm**); positions turn queries and keys
instead of being added to the stream (**rotary**, their frequencies stretched for long contexts);
several query heads share one key and value head (**grouped-query attention**); the MLP gains a
gate (**SwiGLU**). With $\odot$ the product by coordinates, one block is

$$h = x + W_o\,\mathrm{attention}\big(\mathrm{norm}(x)\big), \qquad
  y = h + W_{\mathrm{down}}\big(\mathrm{silu}(W_{\mathrm{gate}} u) \odot W_{\mathrm{up}} u\big),
  \quad u = \mathrm{norm}(h),$$

$$\mathrm{norm}(x) = \frac{x}{\sqrt{\mathrm{mean}(x^2) + \epsilon}} \odot g .$$

    uv run weeks/18/llama3.py

Sources: Grattafiori et al., "The Llama 3 herd of models" (2024), section 3.2; Zhang & Sennrich,
"Root mean square layer normalization" (2019), eq. 4; Su et al., "RoFormer" (2021), eq. 34; Ainslie
et al., "GQA" (2023); Shazeer, "GLU variants improve transformer" (2020), eq. 6.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class RopeScaling:
    """How LLaMA 3.1 stretches its rotary frequencies to contexts longer than it was trained on.

    Attributes
    ----------
    factor
        Waves longer than `original_max_positions / low_freq_factor` become this much longer.
    low_freq_factor, high_freq_factor
        Waves shorter than `original_max_positions / high_freq_factor` stay; between the two the
        frequencies are interpolated.
    original_max_positions
        The context of the first training.
    """

    factor: float = 8.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192

    def __post_init__(self):
        if self.factor < 1:
            raise ValueError(f"factor must be at least 1, got {self.factor}")
        if not 0 < self.low_freq_factor < self.high_freq_factor:
            raise ValueError(
                "low_freq_factor must be positive and below high_freq_factor = "
                f"{self.high_freq_factor}, got {self.low_freq_factor}"
            )
        if self.original_max_positions < 1:
            raise ValueError(
                f"original_max_positions must be at least 1, got {self.original_max_positions}"
            )


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes of a model; Hugging Face's names are in `week18.pretrained`.

    Attributes
    ----------
    n_kv_heads
        Heads of keys and values, each shared by `n_heads / n_kv_heads` query heads; all of their
        own if None.
    head_dim
        Size of a head; `d_model / n_heads` if None.
    d_ff
        Width of the gated MLP; if None, 8/3 of d_model, up to the next multiple of 8, so that its
        three matrices weigh what GPT's two of 4 d_model weigh.
    max_positions
        Longest context that `forward` accepts.
    tied
        Whether the output head is the embedding.
    """

    vocab_size: int
    d_model: int = 64
    n_layers: int = 2
    n_heads: int = 4
    n_kv_heads: int | None = None
    head_dim: int | None = None
    d_ff: int | None = None
    max_positions: int = 2048
    rope_base: float = 500_000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-5
    tied: bool = False

    def __post_init__(self):
        if self.head_dim is None and self.n_heads > 0 and self.d_model % self.n_heads:
            raise ValueError(
                f"n_heads must divide d_model = {self.d_model} where head_dim is not given, "
                f"got {self.n_heads}"
            )
        defaults = {
            "n_kv_heads": self.n_heads,
            "head_dim": self.d_model // max(1, self.n_heads),
            "d_ff": -(-8 * self.d_model // 24) * 8,
        }
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        sizes = ("vocab_size", "d_model", "n_layers", "n_heads", "n_kv_heads", "head_dim", "d_ff")
        for name in (*sizes, "max_positions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"n_kv_heads must divide n_heads = {self.n_heads}, got {self.n_kv_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even for rotary positions, got {self.head_dim}")
        if self.rope_base <= 0 or self.norm_eps < 0:
            raise ValueError(
                "rope_base must be positive and norm_eps not negative, "
                f"got {self.rope_base} and {self.norm_eps}"
            )


@runtime_checkable
class Cache(Protocol):
    """What `Llama` asks of a key-value cache; week 19 has two."""

    @property
    def length(self) -> int:
        """Tokens stored so far, the same for all sequences of the batch."""

    def update(
        self,
        layer: int,
        k: Float[Tensor, "batch kv_head new dim"],
        v: Float[Tensor, "batch kv_head new dim"],
    ) -> tuple[Float[Tensor, "batch kv_head key dim"], Float[Tensor, "batch kv_head key dim"]]:
        """Store the keys and values of new tokens; return those of all tokens so far."""

    def advance(self, n: int) -> None:
        """Every layer has stored its n new tokens: `length` grows."""


# ---- the parts


class RMSNorm(nn.Module):
    """Divide by the root mean square, multiply by a learned gain.

    References
    ----------
    Zhang & Sennrich (2019), eq. 4.
    """

    def __init__(self, dim: int, eps: float = 1e-5):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Normalize the last dimension; the mean square is taken in float32 or better."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


def rope_frequencies(
    head_dim: int, *, base: float = 500_000.0, scaling: RopeScaling | None = None
) -> Float[Tensor, "half_dim"]:
    r"""Radians a position for each pair of dimensions, $b^{-2i/d}$, stretched if asked.

    A wave that has turned many times within the training context tells near positions apart and
    stays as it is; one that has not turned once is slowed by `factor`, so that no angle of the
    longer context is new to the model.

    References
    ----------
    Su et al. (2021), eq. 15; the rule of LLaMA 3.1 is in its published code.
    """
    if head_dim < 2 or head_dim % 2:
        raise ValueError(f"head_dim must be even and at least 2, got {head_dim}")
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    frequencies = 1.0 / base**exponents
    if scaling is None:
        return frequencies
    turns = scaling.original_max_positions * frequencies / (2 * math.pi)
    keep = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    keep = keep.clamp(0, 1)  # 1: fast, kept; 0: slow, stretched
    return keep * frequencies + (1 - keep) * frequencies / scaling.factor


def rotate(
    x: Float[Tensor, "batch head seq dim"],
    cos: Float[Tensor, "row 1 seq half_dim"],
    sin: Float[Tensor, "row 1 seq half_dim"],
) -> Float[Tensor, "batch head seq dim"]:
    """Turn dimensions (i, i + dim/2) by their angles: `week13.apply_rope` with a table."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class Block(nn.Module):
    """Attention moves information between positions, the gated MLP works on each alone."""

    def __init__(self, config: LlamaConfig, layer: int):
        super().__init__()
        d, size = config.d_model, config.head_dim
        self.layer, self.head_dim = layer, size
        self.attention_norm = RMSNorm(d, config.norm_eps)
        self.mlp_norm = RMSNorm(d, config.norm_eps)
        self.q_proj = nn.Linear(d, config.n_heads * size, bias=False)
        self.k_proj = nn.Linear(d, config.n_kv_heads * size, bias=False)
        self.v_proj = nn.Linear(d, config.n_kv_heads * size, bias=False)
        self.o_proj = nn.Linear(config.n_heads * size, d, bias=False)
        self.gate_proj = nn.Linear(d, config.d_ff, bias=False)
        self.up_proj = nn.Linear(d, config.d_ff, bias=False)
        self.down_proj = nn.Linear(config.d_ff, d, bias=False)

    def forward(
        self,
        x: Float[Tensor, "batch seq d_model"],
        cos: Float[Tensor, "row 1 seq half_dim"],
        sin: Float[Tensor, "row 1 seq half_dim"],
        cache: Cache | None = None,
        allowed: Bool[Tensor, "#batch 1 seq key"] | None = None,
    ) -> Float[Tensor, "batch seq d_model"]:
        """The residual stream after this layer.

        Parameters
        ----------
        cache
            Holds the keys and values of earlier tokens, and gets those of the new ones.
        allowed
            Which keys each query may see; if None, those that are not later.
        """
        u = self.attention_norm(x)
        q, k, v = (
            project(u).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:
            k, v = cache.update(self.layer, k, v)
        # torch's fused kernel: week 13's is equal to it and slower. Its own causal mask would count
        # queries from position 0, so it serves only where all keys are new; a single new token
        # sees everything.
        causal = allowed is None and q.shape[2] > 1
        heads = F.scaled_dot_product_attention(
            q, k, v, attn_mask=allowed, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1]
        )
        x = x + self.o_proj(heads.transpose(1, 2).flatten(2))
        return x + self.mlp(self.mlp_norm(x))

    def mlp(self, u: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """SwiGLU: one projection says what, the other how much of it may pass."""
        return self.down_proj(F.silu(self.gate_proj(u)) * self.up_proj(u))


class Llama(nn.Module):
    """Decoder-only transformer as in LLaMA 3."""

    def __init__(self, config: LlamaConfig, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.n_layers))
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tied:
            self.head.weight = self.embed.weight
        self.register_buffer("frequencies", self._exact_frequencies(), persistent=False)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                onto_stream = name.endswith(("o_proj.weight", "down_proj.weight"))
                std = 0.02 / math.sqrt(2 * config.n_layers) if onto_stream else 0.02
                nn.init.normal_(p, std=std, generator=generator)

    def _exact_frequencies(self) -> Tensor:
        c = self.config
        return rope_frequencies(c.head_dim, base=c.rope_base, scaling=c.rope_scaling)

    def _apply(self, fn, recurse: bool = True):
        # The frequencies follow the weights to another device, never to half precision: bfloat16
        # has 8 bits, and position 257 times a frequency of 8 bits is no angle.
        super()._apply(fn, recurse)
        dtype = torch.promote_types(self.frequencies.dtype, torch.float32)
        self.frequencies = self._exact_frequencies().to(self.frequencies.device, dtype)
        return self

    def forward(
        self,
        tokens: Int[Tensor, "batch seq"],
        *,
        positions: Int[Tensor, "batch seq"] | Int[Tensor, "seq"] | None = None,
        cache: Cache | None = None,
        mask: Bool[Tensor, "batch key"] | None = None,
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

        Raises
        ------
        ValueError
            If there are more tokens than `max_positions`, or `mask` does not cover them all.
        """
        past, n = (cache.length if cache is not None else 0), tokens.shape[1]
        if past + n > self.config.max_positions:
            raise ValueError(
                f"tokens must be at most max_positions = {self.config.max_positions} long, got "
                f"{past + n}"
            )
        if mask is not None and mask.shape[1] != past + n:
            raise ValueError(f"mask must cover {past + n} tokens, got {mask.shape[1]}")
        if positions is None:
            positions = torch.arange(past, past + n, device=tokens.device)
        rows = positions.reshape(-1, 1, n, 1).to(self.frequencies.dtype)
        x = self.embed(tokens)
        angles = rows * self.frequencies
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        allowed = allowed_keys(past, n, mask, x.device)
        for block in self.blocks:
            x = block(x, cos, sin, cache, allowed)
        if cache is not None:
            cache.advance(n)
        return self.head(self.norm(x))


def allowed_keys(
    past: int, n: int, mask: Bool[Tensor, "batch key"] | None, device: torch.device
) -> Bool[Tensor, "#batch 1 n key"] | None:
    """Which keys each of n queries sees after `past` others; None where causality says it all."""
    if mask is None and (past == 0 or n == 1):
        return None
    query = torch.arange(past, past + n, device=device)[:, None]
    key = torch.arange(past + n, device=device)
    allowed = (key <= query)[None, None]
    if mask is not None:
        # Padding sees itself: a row without any key would be 0/0.
        allowed = allowed & mask[:, None, None, :] | (key == query)
    return allowed


# ---- what it costs

LLAMA_3_1 = {
    name: LlamaConfig(
        128_256, d, layers, heads, 8, d_ff=d_ff, max_positions=131_072, rope_scaling=RopeScaling()
    )
    for name, d, layers, heads, d_ff in (
        ("8B", 4096, 32, 32, 14_336),
        ("70B", 8192, 80, 64, 28_672),
        ("405B", 16_384, 126, 128, 53_248),
    )
}  # Grattafiori et al. (2024), table 3


def _matrix_entries(config: LlamaConfig) -> int:
    """Weights that every token is multiplied by: all but the norms and the look-up table."""
    attention = 2 * (config.n_heads + config.n_kv_heads) * config.head_dim * config.d_model
    mlp = 3 * config.d_model * config.d_ff
    return config.n_layers * (attention + mlp) + config.vocab_size * config.d_model


def n_parameters(config: LlamaConfig) -> int:
    """Trained numbers of a model; a tied head counts once."""
    gains = (2 * config.n_layers + 1) * config.d_model
    table = 0 if config.tied else config.vocab_size * config.d_model
    return _matrix_entries(config) + gains + table


def flops_per_token(config: LlamaConfig, context: float, *, backward: bool = False) -> float:
    """Floating-point operations in matrix products for one token that attends to `context` keys.

    A weight costs a multiplication and an addition; a key costs a score and its share of the
    average, 2 head_dim operations each, for every query head. Grouping the heads saves bytes here,
    not operations.

    Parameters
    ----------
    context
        Keys attended to, on average. For a sequence of n tokens, n if the kernel computes the whole
        square, (n + 1) / 2 if it skips the masked half.
    backward
        Add the backward pass: each product gives two, one for each factor's gradient.
    """
    attention = 4 * config.n_layers * config.n_heads * config.head_dim * context
    return (3 if backward else 1) * (2 * _matrix_entries(config) + attention)


def cache_bytes(config: LlamaConfig, tokens: int, *, bytes_per_value: int = 2) -> int:
    """Bytes of the keys and values of `tokens` tokens in all layers (bfloat16 if not said)."""
    per_layer = 2 * config.n_kv_heads * config.head_dim
    return tokens * config.n_layers * per_layer * bytes_per_value


def weight_bytes(config: LlamaConfig, *, bytes_per_value: int = 2) -> int:
    """Bytes of all weights, nearly all of which are read for each token that is generated alone."""
    return n_parameters(config) * bytes_per_value


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
