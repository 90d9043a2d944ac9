r"""DeepSeek-V3: many small experts, kept busy by a bias that no gradient sees.

A layer has one shared expert for every token and $N$ routed ones, of which a token $u$ takes $K$.
Affinities are sigmoids; a bias $b_i$ takes part in the *choice* and never in the *weight*,

$$ s_i = \sigma(u \cdot e_i), \quad T = \mathrm{top}_K(s_i + b_i), \quad
   g_i = \gamma\, \frac{s_i}{\sum_{j \in T} s_j}, \quad
   y = \mathrm{shared}(u) + \sum_{i \in T} g_i\, \mathrm{expert}_i(u), $$

and after each step it moves against the load, $b_i \leftarrow b_i + r\,\mathrm{sign}(\bar c - c_i)$
with $c_i$ the tokens that expert $i$ got. Experts may stand in groups (machines) of which a token
visits few: those with the largest sum of their two best $s_i + b_i$.

>>> scores, bias = torch.tensor([[0.9, 0.8, 0.3, 0.1]]), torch.tensor([0.0, 0.0, 0.6, 0.0])
>>> choose_experts(scores, bias, top_k=2)  # 2 is chosen for its bias, and weighs 0.3 / 1.2
(tensor([[0.2500, 0.7500]]), tensor([[2, 0]]))
>>> balanced(bias, torch.tensor([9, 1, 5, 5]), rate=0.1)
tensor([-0.1000,  0.1000,  0.6000,  0.0000])

    uv run weeks/18/deepseek_v3.py

Sources: DeepSeek-AI, "DeepSeek-V3" (2024), section 2.1, eq. 12 to 16; L. Wang et al.,
"Auxiliary-loss-free load balancing strategy for mixture-of-experts" (2024), algorithm 1.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared.arguments import checked
from shared.require import require
from week18.latent_attention import LatentAttention, LatentCache, LatentConfig, turns
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


def check_routing(n_experts: int, top_k: int, n_groups: int, top_groups: int) -> None:
    """Refuse groups that are unequal, too many, or too few for `top_k`."""
    must = f"n_groups must be at least 1 and divide n_experts = {n_experts}"
    require(n_groups >= 1 and n_experts % n_groups == 0, must, n_groups)
    must = f"top_groups must be between 1 and n_groups = {n_groups}"
    require(1 <= top_groups <= n_groups, must, top_groups)
    most = n_experts // n_groups * top_groups
    must = f"top_k must be between 1 and the {most} experts of {top_groups} groups"
    require(1 <= top_k <= most, must, top_k)


# ---- routing


@checked
def choose_experts(
    scores: Float[Tensor, "token expert"],
    bias: Float[Tensor, " expert"],
    *,
    top_k: int,
    n_groups: int = 1,
    top_groups: int = 1,
    routed_scale: float = 1.0,
) -> tuple[Float[Tensor, "token top_k"], Int[Tensor, "token top_k"]]:
    """Weights and indices of each token's experts: chosen by score plus bias, weighed by score.

    References
    ----------
    DeepSeek-V3, eq. 13 to 16. The weight is gathered and not computed as (s + b) - b, which is 0
    in float32 for small s.
    """
    check_routing(scores.shape[1], top_k, n_groups, top_groups)
    choice = scores.detach() + bias
    if top_groups < n_groups:
        groups = choice.unflatten(1, (n_groups, -1))
        two_best = groups.topk(min(2, groups.shape[2]), dim=2).values.sum(2)
        visited = torch.zeros_like(two_best, dtype=torch.bool)
        visited.scatter_(1, two_best.topk(top_groups, dim=1).indices, True)
        choice = groups.masked_fill(~visited[..., None], -math.inf).flatten(1)
    experts = choice.topk(top_k, dim=1).indices
    weights = scores.gather(1, experts)
    # Sigmoids can all underflow; softmax never did, which is why no one used to guard this sum.
    weights = weights / (weights.sum(1, keepdim=True) + 1e-20)
    return routed_scale * weights, experts


def balanced(
    bias: Float[Tensor, " expert"], counts: Int[Tensor, " expert"], *, rate: float
) -> Float[Tensor, " expert"]:
    """The next bias: up by `rate` for experts with fewer tokens than the mean, down for others.

    The counts are those of a whole batch, over all machines (Wang et al., algorithm 1).
    """
    require(rate >= 0, "rate must be at least 0", rate)
    counts = counts.to(bias.dtype)
    return bias + rate * (counts.mean() - counts).sign()


def max_violation(counts: Int[Tensor, " expert"]) -> float:
    """How far the busiest expert is above the mean, relative to it (Wang et al., eq. 4)."""
    total = counts.sum().item()
    require(total > 0, "counts must hold at least one token", total)
    return counts.max().item() * len(counts) / total - 1


class SwiGLU(nn.Module):
    """The gated MLP of week 18's LLaMA, on its own."""

    def __init__(self, d_model: int, d_ff: int):
        super().__init__()
        self.gate_proj = nn.Linear(d_model, d_ff, bias=False)
        self.up_proj = nn.Linear(d_model, d_ff, bias=False)
        self.down_proj = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, u: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Widen and gate, narrow."""
        return self.down_proj(F.silu(self.gate_proj(u)) * self.up_proj(u))


class Experts(nn.Module):
    """TEMPORARY."""

    def __init__(self, n_experts: int, d_model: int, d_ff: int):
        super().__init__()
        self.gate_proj = nn.Parameter(torch.empty(n_experts, d_ff, d_model))
        self.up_proj = nn.Parameter(torch.empty(n_experts, d_ff, d_model))
        self.down_proj = nn.Parameter(torch.empty(n_experts, d_model, d_ff))

    def forward(self, x, experts, weights):
        out = torch.zeros_like(x)
        for e in range(len(self.gate_proj)):
            token, slot = (experts == e).nonzero(as_tuple=True)
            u = x[token]
            h = F.silu(u @ self.gate_proj[e].T) * (u @ self.up_proj[e].T)
            out = out.index_add(0, token, h @ self.down_proj[e].T * weights[token, slot, None])
        return out


class Mixture(nn.Module):
    """One shared expert (as wide as `n_shared`) and the chosen routed ones.

    `counts` adds up the tokens of each expert while training, until `balance` uses them.
    """

    def __init__(self, config: DeepSeekConfig):
        super().__init__()
        c, d = config, config.attention.d_model
        names = ("top_k", "n_groups", "top_groups", "routed_scale")
        self.routing = {name: getattr(config, name) for name in names}
        self.router = nn.Linear(d, c.n_experts, bias=False)
        self.experts = Experts(c.n_experts, d, c.expert_d_ff)
        self.shared = SwiGLU(d, c.n_shared * c.expert_d_ff)
        self.last: tuple[Tensor, Tensor] | None = None
        self.register_buffer("bias", torch.zeros(c.n_experts))
        self.register_buffer("counts", torch.zeros(c.n_experts, dtype=torch.long), persistent=False)

    def _apply(self, fn, recurse: bool = True):
        # The bias follows the weights to another device, never to half precision, where steps of
        # 0.001 are lost.
        bias = self.bias
        super()._apply(fn, recurse)
        self.bias = bias.to(self.router.weight.device)
        return self

    def forward(self, u: Float[Tensor, "batch seq d_model"]) -> Float[Tensor, "batch seq d_model"]:
        """What the experts add to the stream."""
        tokens = u.flatten(0, 1)
        wide = torch.promote_types(u.dtype, torch.float32)
        scores = F.linear(tokens.to(wide), self.router.weight.to(wide)).sigmoid()
        weights, experts = choose_experts(scores, self.bias.to(wide), **self.routing)
        if self.training:
            self.last = scores, experts  # what a balancing loss would be made of
            self.counts += experts.flatten().bincount(minlength=len(self.bias))
        return self.shared(u) + self.experts(tokens, experts, weights.to(u.dtype)).view_as(u)

    @torch.no_grad()
    def balance(self, rate: float) -> None:
        """Move the bias once by what was counted since the last time, and count anew."""
        self.bias.copy_(balanced(self.bias, self.counts, rate=rate))
        self.counts.zero_()


# ---- the model


class Block(nn.Module):
    """Latent attention, then one MLP or a mixture of them."""

    def __init__(self, config: DeepSeekConfig, layer: int, *, dense: bool):
        super().__init__()
        d, eps = config.attention.d_model, config.attention.norm_eps
        self.attention_norm, self.mlp_norm = RMSNorm(d, eps), RMSNorm(d, eps)
        self.attention = LatentAttention(config.attention, layer)
        self.mlp = SwiGLU(d, config.d_ff) if dense else Mixture(config)

    def forward(self, x, cos, sin, cache=None, allowed=None):
        """The residual stream after this layer."""
        x = x + self.attention(self.attention_norm(x), cos, sin, cache, allowed)
        return x + self.mlp(self.mlp_norm(x))


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


def turns_after(past: int, n: int, config: DeepSeekConfig, like: Tensor) -> tuple[Tensor, Tensor]:
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
