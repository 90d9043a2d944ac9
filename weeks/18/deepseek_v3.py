r"""DeepSeek-V3: latent attention, and experts that biases keep busy.

The residual stream passes two changes per layer, with the first layers' MLP dense:

$$ h = x + \mathrm{latent\ attention}\big(\mathrm{norm}(x)\big), \qquad
   y = h + \mathrm{experts}\big(\mathrm{norm}(h)\big). $$

`latent_attention.py` makes the cache small, `balanced_experts.py` makes the layer wide and cheap,
`multi_token.py` adds a second prediction. Here they are put together.

>>> sizes = LatentConfig(d_model=24, n_heads=4, kv_rank=10, nope_dim=6, rope_dim=4, v_dim=5)
>>> model = DeepSeek(DeepSeekConfig(50, sizes), torch.Generator().manual_seed(0)).eval()
>>> tokens = torch.arange(12)[None]
>>> cache = LatentCache(sizes, n_layers=2, batch=1, max_length=12)
>>> parts = [model(part, cache=cache) for part in tokens.split([9, 1, 1, 1], dim=1)]
>>> torch.allclose(torch.cat(parts, dim=1), model(tokens), atol=1e-5)
True

    uv run weeks/18/deepseek_v3.py

Source: DeepSeek-AI, "DeepSeek-V3" (2024), section 2.1; YaRN's stretched positions are left out.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared.require import require
from week18.balanced_experts import Mixture, SwiGLU, check_routing
from week18.latent_attention import (
    Allowed,
    LatentAttention,
    LatentCache,
    LatentConfig,
    Stream,
    Turn,
    turns,
)
from week18.llama3 import RMSNorm, allowed_keys
from week18.rotary import rope_frequencies


@dataclass(frozen=True)
class DeepSeekConfig:
    """Sizes of a model.

    Attributes
    ----------
    attention
        Sizes of each layer's latent attention; `d_model` and the norms' epsilon stand there.
    n_dense
        First layers that have one MLP of width `d_ff` instead of experts.
    expert_d_ff, n_experts, top_k, n_shared
        Width of an expert, routed ones, how many of them a token takes, and shared ones.
    n_groups, top_groups
        Groups of routed experts, and how many of them a token may visit.
    routed_scale
        The sum of a token's weights.
    """

    vocab_size: int
    attention: LatentConfig
    n_layers: int = 2
    n_dense: int = 1
    d_ff: int = 128
    expert_d_ff: int = 32
    n_experts: int = 8
    top_k: int = 2
    n_shared: int = 1
    n_groups: int = 1
    top_groups: int = 1
    routed_scale: float = 1.0
    context: int = 2048
    rope_base: float = 10_000.0

    def __post_init__(self):
        at_least_1 = ("vocab_size", "n_layers", "d_ff", "expert_d_ff", "n_shared", "context")
        for name in at_least_1:
            size = getattr(self, name)
            require(size >= 1, f"{name} must be at least 1", size)
        must = f"n_dense must be between 0 and n_layers = {self.n_layers}"
        require(0 <= self.n_dense <= self.n_layers, must, self.n_dense)
        check_routing(self.n_experts, self.top_k, self.n_groups, self.top_groups)


# ---- the model


class Block(nn.Module):
    """Latent attention, then one MLP or a mixture of them."""

    def __init__(self, config: DeepSeekConfig, layer: int, *, dense: bool):
        super().__init__()
        d, eps = config.attention.d_model, config.attention.norm_eps
        self.attention_norm, self.mlp_norm = RMSNorm(d, eps), RMSNorm(d, eps)
        self.attention = LatentAttention(config.attention, layer)
        self.mlp = SwiGLU(d, config.d_ff) if dense else mixture_of(config)

    def forward(
        self,
        x: Stream,
        cos: Turn,
        sin: Turn,
        cache: LatentCache | None = None,
        allowed: Allowed | None = None,
    ) -> Stream:
        """The residual stream after this layer."""
        x = x + self.attention(self.attention_norm(x), cos, sin, cache, allowed)
        return x + self.mlp(self.mlp_norm(x))


def mixture_of(config: DeepSeekConfig) -> Mixture:
    """The experts of one layer."""
    names = ("n_experts", "n_shared", "top_k", "n_groups", "top_groups", "routed_scale")
    options = {name: getattr(config, name) for name in names}
    return Mixture(config.attention.d_model, config.expert_d_ff, **options)


class DeepSeek(nn.Module):
    """Decoder-only transformer as in DeepSeek-V3, without YaRN and without the predictors."""

    def __init__(self, config: DeepSeekConfig, generator: torch.Generator | None = None):
        super().__init__()
        self.config, layers = config, range(config.n_layers)
        d, eps = config.attention.d_model, config.attention.norm_eps
        self.embed = nn.Embedding(config.vocab_size, d)
        self.blocks = nn.ModuleList(Block(config, i, dense=i < config.n_dense) for i in layers)
        self.norm = RMSNorm(d, eps)
        self.head = nn.Linear(d, config.vocab_size, bias=False)
        initialize(self, config.n_layers, generator)

    def forward(
        self, tokens: Int[Tensor, "batch seq"], *, cache: LatentCache | None = None
    ) -> Float[Tensor, "batch seq vocab"]:
        """Logits of the next token after each one; `cache` holds what earlier calls remembered."""
        return self.head(self.hidden(tokens, cache))

    def hidden(
        self, tokens: Int[Tensor, "batch seq"], cache: LatentCache | None = None
    ) -> Float[Tensor, "batch seq d_model"]:
        """The normalized stream that the head reads."""
        past, n = 0 if cache is None else cache.length, tokens.shape[1]
        most = self.config.context
        require(past + n <= most, f"tokens must be at most context = {most} long", past + n)
        x = self.embed(tokens)
        cos, sin = turns_after(past, n, self.config, x)
        allowed = allowed_keys(past, n, None, x.device)
        for block in self.blocks:
            x = block(x, cos, sin, cache, allowed)
        if cache is not None:
            cache.advance(n)
        return self.norm(x)

    def balance(self, rate: float) -> None:
        """After an optimizer's step: move each mixture's bias against the load since the last."""
        for mixture in self.mixtures():
            mixture.balance(rate)

    def mixtures(self) -> list[Mixture]:
        """The layers with experts, in order."""
        return [block.mlp for block in self.blocks if isinstance(block.mlp, Mixture)]


def turns_after(past: int, n: int, config: DeepSeekConfig, like: Stream) -> tuple[Turn, Turn]:
    """Cosines and sines of n positions after `past` others; angles are in float32 or better."""
    frequencies = rope_frequencies(config.attention.rope_dim, base=config.rope_base)
    frequencies = frequencies.to(like.device, torch.promote_types(like.dtype, torch.float32))
    positions = torch.arange(past, past + n, device=like.device)
    cos, sin = turns(positions, frequencies)
    return cos.to(like.dtype), sin.to(like.dtype)


def initialize(model: nn.Module, n_layers: int, generator: torch.Generator | None) -> nn.Module:
    """GPT-2's start for matrices and stacks of them: small, smaller where added to the stream."""
    for name, p in model.named_parameters():
        if p.ndim >= 2:
            onto_stream = "out_proj" in name or "down_proj" in name
            std = 0.02 / math.sqrt(2 * n_layers) if onto_stream else 0.02
            nn.init.normal_(p, std=std, generator=generator)
    return model


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
