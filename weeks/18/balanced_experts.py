r"""Balanced experts: many small ones, kept busy by a bias that no gradient sees.

A layer has a shared expert for every token and $N$ routed ones, of which a token $u$ takes $K$.
Affinities are sigmoids; a bias $b_i$ takes part in the *choice* and never in the *weight*,

$$ s_i = \sigma(u \cdot e_i), \quad T = \mathrm{top}_K(s_i + b_i), \quad
   g_i = \gamma\, \frac{s_i}{\sum_{j \in T} s_j}, \quad
   y = \mathrm{shared}(u) + \sum_{i \in T} g_i\, \mathrm{expert}_i(u), $$

and after each step it moves against the load, $b_i \leftarrow b_i + r\,\mathrm{sign}(\bar c - c_i)$
with $c_i$ the tokens that expert $i$ got. Experts may stand in groups (machines) of which a token
visits few: those with the largest sum of their two best $s_i + b_i$.

>>> scores, bias = torch.tensor([[0.9, 0.8, 0.3, 0.1]]), torch.tensor([0.0, 0.0, 0.7, 0.0])
>>> choose_experts(scores, bias, top_k=2)  # 2 is chosen for its bias, and weighs 0.3 / 1.2
(tensor([[0.2500, 0.7500]]), tensor([[2, 0]]))
>>> balanced(bias, torch.tensor([9, 1, 5, 5]), rate=0.1)
tensor([-0.1000,  0.1000,  0.7000,  0.0000])

The model with these experts, and the evidence: `uv run weeks/18/deepseek_v3.py`.

Sources: DeepSeek-AI, "DeepSeek-V3" (2024), section 2.1.2, eq. 12 to 16; L. Wang et al.,
"Auxiliary-loss-free load balancing strategy for mixture-of-experts" (2024), algorithm 1.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared.arguments import checked
from shared.require import require
from week18.experts import Experts, mix


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


# ---- the layer


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


class Mixture(nn.Module):
    """One shared expert (as wide as `n_shared`) and the chosen routed ones.

    `counts` adds up the tokens of each expert while training, until `balance` uses them.
    """

    def __init__(self, d_model: int, d_ff: int, *, n_experts: int, n_shared: int, **routing):
        super().__init__()
        self.routing = routing
        self.router = nn.Linear(d_model, n_experts, bias=False)
        self.experts = Experts(n_experts, d_model, d_ff)
        self.shared = SwiGLU(d_model, n_shared * d_ff)
        self.last: tuple[Tensor, Tensor] | None = None
        self.register_buffer("bias", torch.zeros(n_experts))
        self.register_buffer("counts", torch.zeros(n_experts, dtype=torch.long), persistent=False)

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
        routed = mix(tokens, weights.to(u.dtype), experts, self.experts, len(self.bias))
        return self.shared(u) + routed.view_as(u)

    @torch.no_grad()
    def balance(self, rate: float) -> None:
        """Move the bias once by what was counted since the last time, and count anew."""
        self.bias.copy_(balanced(self.bias, self.counts, rate=rate))
        self.counts.zero_()
