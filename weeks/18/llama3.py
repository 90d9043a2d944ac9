r"""LLaMA 3: what a GPT block looks like after five years of small changes.

Four of them. Layer norm loses its mean and its bias (**RMSNorm**); positions turn queries and keys
instead of being added to the stream (**rotary**, their frequencies stretched for long contexts);
several query heads share one key and value head (**grouped-query attention**); the MLP gains a
gate (**SwiGLU**). With $\odot$ the product by coordinates, one block is

$$h = x + W_o\,\mathrm{attention}\big(\mathrm{norm}(x)\big), \qquad
  y = h + W_{\mathrm{down}}\big(\mathrm{silu}(W_{\mathrm{gate}} u) \odot W_{\mathrm{up}} u\big),
  \quad u = \mathrm{norm}(h),$$

$$\mathrm{norm}(x) = \frac{x}{\sqrt{\mathrm{mean}(x^2) + \epsilon}} \odot g .$$

>>> model = Llama(LlamaConfig(vocab_size=50, n_kv_heads=2), torch.Generator().manual_seed(0))
>>> tokens = torch.arange(12)[None]
>>> model(tokens).shape
torch.Size([1, 12, 50])
>>> later = model(tokens, positions=torch.arange(700, 712))
>>> torch.allclose(model(tokens), later, atol=1e-5)  # only distances count
True

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

from shared.require import require
from week18.rotary import Scaling, rope_frequencies, rotate


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
    context
        Most tokens that `forward` accepts.
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
    context: int = 2048
    rope_base: float = 500_000.0
    rope_scaling: Scaling | None = None
    norm_eps: float = 1e-5
    tied: bool = False

    def __post_init__(self):
        d, n = self.d_model, self.n_heads
        divides = self.head_dim is not None or n < 1 or d % n == 0
        require(divides, f"n_heads must divide d_model = {d} where head_dim is not given", n)
        defaults = {"n_kv_heads": n, "head_dim": d // max(1, n), "d_ff": -(-8 * d // 24) * 8}
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        sizes = ("vocab_size", "d_model", "n_layers", "n_heads", "n_kv_heads", "head_dim", "d_ff")
        for name in (*sizes, "context"):
            size = getattr(self, name)
            require(size >= 1, f"{name} must be at least 1", size)
        n_kv, dim, base, eps = self.n_kv_heads, self.head_dim, self.rope_base, self.norm_eps
        require(n % n_kv == 0, f"n_kv_heads must divide n_heads = {n}", n_kv)
        require(dim % 2 == 0, "head_dim must be even for rotary positions", dim)
        must = "rope_base must be positive and norm_eps not negative"
        require(base > 0 and eps >= 0, must, base, eps)


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
    """Divide by the root mean square, multiply by a learned gain (Zhang & Sennrich, eq. 4)."""

    def __init__(self, dim: int, eps: float = 1e-5):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Normalize the last dimension; the mean square is taken in float32 or better."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


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
        self.out_proj = nn.Linear(config.n_heads * size, d, bias=False)
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
        """The residual stream after this layer; keys not `allowed` are not seen, nor later ones."""
        u = self.attention_norm(x)
        q, k, v = (
            project(u).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:
            k, v = cache.update(self.layer, k, v)
        # torch's causal mask would count queries from position 0, so it serves only where all keys
        # are new; a single new token sees everything.
        causal = allowed is None and q.shape[2] > 1
        heads = F.scaled_dot_product_attention(
            q, k, v, attn_mask=allowed, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1]
        )
        x = x + self.out_proj(heads.transpose(1, 2).flatten(2))
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
        initialize(self, config.n_layers, generator)

    def _exact_frequencies(self, length: int = 1) -> Tensor:
        c = self.config
        options = {"scaling": c.rope_scaling, "length": length}
        return rope_frequencies(c.head_dim, base=c.rope_base, **options)

    def _apply(self, fn, recurse: bool = True):
        # The frequencies follow the weights to another device, never to half precision: bfloat16
        # has 8 bits, and position 257 times a frequency of 8 bits is no angle.
        super()._apply(fn, recurse)
        dtype = torch.promote_types(self.frequencies.dtype, torch.float32)
        self.frequencies = self._exact_frequencies().to(self.frequencies.device, dtype)
        return self

    def waves(
        self, positions: Int[Tensor, "*batch seq"], cache: Cache | None
    ) -> tuple[Float[Tensor, "row 1 seq half_dim"], ...]:
        """Cosine and sine of the angles, times the gain that a scaling asks for."""
        frequencies, scaling, n = self.frequencies, self.config.rope_scaling, positions.shape[-1]
        if scaling is not None and scaling.by_length:
            must = "cache must be None: its keys would stay turned by the angles of a shorter text"
            require(cache is None, must)
            length = int(positions.max()) + 1 if n else 1
            frequencies = self._exact_frequencies(length).to(frequencies)
        angles = positions.reshape(-1, 1, n, 1).to(frequencies.dtype) * frequencies
        gain = 1.0 if scaling is None else scaling.gain
        return gain * angles.cos(), gain * angles.sin()

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
            If there are more tokens than `context`, or `mask` does not cover them all.
        """
        past, n = 0 if cache is None else cache.length, tokens.shape[1]
        most = self.config.context
        require(past + n <= most, f"tokens must be at most context = {most} long", past + n)
        if mask is not None:
            require(mask.dtype == torch.bool, "mask must be booleans", mask.dtype)
            covered = mask.shape[1]
            require(covered == past + n, f"mask must cover {past + n} tokens", covered)
        if positions is None:
            positions = torch.arange(past, past + n, device=tokens.device)
        x = self.embed(tokens)
        cos, sin = (wave.to(x.dtype) for wave in self.waves(positions, cache))
        allowed = allowed_keys(past, n, mask, x.device)
        for block in self.blocks:
            x = block(x, cos, sin, cache, allowed)
        if cache is not None:
            cache.advance(n)
        return self.head(self.norm(x))


def initialize(model: nn.Module, n_layers: int, generator: torch.Generator | None) -> nn.Module:
    """GPT-2's start: every matrix small, and smaller if it adds to the residual stream."""
    for name, p in model.named_parameters():
        if p.ndim == 2:
            onto_stream = name.endswith(("out_proj.weight", "down_proj.weight"))
            std = 0.02 / math.sqrt(2 * n_layers) if onto_stream else 0.02
            nn.init.normal_(p, std=std, generator=generator)
    return model


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


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
