r"""Mixture of experts: many MLPs, of which a token uses few, so that size and cost come apart.

A router scores $E$ experts, $h = W_r x$. Only the $k$ highest of them work, and their outputs are
added with weights that sum to one:

$$y = \sum_{i \in T} \frac{e^{h_i}}{\sum_{j \in T} e^{h_j}}\, \mathrm{expert}_i(x), \qquad
  T = \mathrm{top}_k(h).$$

`by_token` says this in three lines, and `mix` computes it: tokens are sorted by expert, and each
expert multiplies its own slice once. Left alone, a router can end up feeding a few of them, so
balancing losses are added to what is trained.

>>> logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 3.0]])
>>> weights, chosen = route(logits, 2)
>>> weights
tensor([[0.7311, 0.2689],
        [0.5000, 0.5000]])
>>> order, counts = dispatch(torch.tensor([[0, 1], [1, 2]]), 3)
>>> counts  # assignments of each expert; `order` lists them, expert by expert
[1, 2, 1]

The model around it, and the evidence: `uv run weeks/18/mixtral.py`. Sources: Shazeer et al.,
"Outrageously large neural networks" (2017), eq. 1-11; Lepikhin et al., "GShard" (2020); Fedus et
al., "Switch transformers" (2021), eq. 3-6; Zoph et al., "ST-MoE" (2022), eq. 5.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor, nn

from shared.arguments import checked
from shared.require import require

# ---- which experts, with which weights


@checked
def route(
    logits: Float[Tensor, "token expert"], k: int
) -> tuple[Float[Tensor, "token k"], Int[Tensor, "token k"]]:
    """Weights of the k best experts of each token, and which they are, the best first.

    The softmax is over the chosen alone. Taking it over all and dividing by the sum of the chosen
    gives the same numbers.
    """
    n = logits.shape[1]
    require(1 <= k <= n, f"k must be between 1 and the {n} experts", k)
    best, chosen = logits.topk(k)
    wide = torch.promote_types(logits.dtype, torch.float32)
    return best.softmax(-1, dtype=wide).to(logits.dtype), chosen


# ---- the sum, by definition and by sorting


def by_token(
    x: Float[Tensor, "token d_model"],
    weights: Float[Tensor, "token k"],
    chosen: Int[Tensor, "token k"],
    expert: Callable[[int, Tensor], Tensor],
) -> Float[Tensor, "token d_model"]:
    """The definition: for each token the weighted sum of what its experts say."""
    pairs = [zip(w, e.tolist(), strict=True) for w, e in zip(weights, chosen, strict=True)]
    rows = zip(x, pairs, strict=True)
    return torch.stack([sum(w * expert(e, row) for w, e in pair) for row, pair in rows])


@checked
def dispatch(
    chosen: Int[Tensor, "token k"], n_experts: int, capacity: int | None = None
) -> tuple[Int[Tensor, " row"], list[int]]:
    """Assignments in the order of their experts, and how many each expert has.

    Assignment `slot * n_tokens + token` is the token's choice number `slot`; so the token of a row
    is `order % n_tokens`. Within an expert all first choices stand before the second ones.

    Parameters
    ----------
    capacity
        Most rows that an expert takes; those after them are dropped. None keeps all.
    """
    require(capacity is None or capacity >= 0, "capacity must not be negative", capacity)
    flat = chosen.T.flatten()
    least = int(flat.min()) if len(flat) else 0
    require(least >= 0, "chosen must be experts from 0", least)
    counts = flat.bincount(minlength=n_experts)
    most = len(counts) - 1
    require(most < n_experts, f"chosen must be below n_experts = {n_experts}", most)
    order = flat.argsort(stable=True)
    if capacity is not None:
        first = (counts.cumsum(0) - counts).repeat_interleave(counts)
        place = torch.arange(len(flat), device=flat.device) - first
        order, counts = order[place < capacity], counts.clamp(max=capacity)
    return order, counts.tolist()


@checked
def mix(
    x: Float[Tensor, "token d_model"],
    weights: Float[Tensor, "token k"],
    chosen: Int[Tensor, "token k"],
    experts: Callable[[Tensor, list[int]], Tensor],
    n_experts: int,
    *,
    capacity: int | None = None,
) -> Float[Tensor, "token d_model"]:
    """`by_token` with one call of all experts.

    Parameters
    ----------
    experts
        Called with rows sorted by expert and how many each has; gives as many rows.
    capacity
        Most rows per expert; an assignment that is dropped adds nothing.
    """
    order, counts = dispatch(chosen, n_experts, capacity)
    token = order % max(1, len(x))
    rows = experts(x[token], counts) * weights.T.flatten()[order, None]
    return torch.zeros_like(x).index_add(0, token, rows)


def capacity_of(n_tokens: int, k: int, n_experts: int, factor: float) -> int:
    """Rows per expert: `factor` times an equal share, rounded up (Fedus et al., eq. 3)."""
    require(factor > 0, "capacity_factor must be positive", factor)
    return math.ceil(factor * n_tokens * k / n_experts)


def grouped_linear(
    x: Float[Tensor, "row d_in"], weight: Float[Tensor, "expert d_out d_in"], counts: list[int]
) -> Float[Tensor, "row d_out"]:
    """Each expert's matrix times its own slice of the sorted rows.

    `torch.nn.functional.grouped_mm` does it in one call, but takes neither float64 nor rows whose
    length is no multiple of 16 bytes.
    """
    slices = zip(x.split(counts), weight.unbind(), strict=True)
    return torch.cat([F.linear(rows, matrix) for rows, matrix in slices])


class Experts(nn.Module):
    """SwiGLU MLPs side by side: one tensor per projection holds those of all."""

    def __init__(self, n_experts: int, d_model: int, d_ff: int):
        super().__init__()
        self.gate_proj = nn.Parameter(torch.empty(n_experts, d_ff, d_model))
        self.up_proj = nn.Parameter(torch.empty(n_experts, d_ff, d_model))
        self.down_proj = nn.Parameter(torch.empty(n_experts, d_model, d_ff))
        for p in self.parameters():
            nn.init.normal_(p, std=0.02)

    def forward(
        self, x: Float[Tensor, "row d_model"], counts: list[int]
    ) -> Float[Tensor, "row d_model"]:
        """Outputs of rows sorted by expert."""
        gate = grouped_linear(x, self.gate_proj, counts)
        up = grouped_linear(x, self.up_proj, counts)
        return grouped_linear(F.silu(gate) * up, self.down_proj, counts)

    def one(
        self, expert: int, x: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch d_model"]:
        """Output of a single expert, for `by_token`."""
        gate, up = (F.linear(x, p[expert]) for p in (self.gate_proj, self.up_proj))
        return F.linear(F.silu(gate) * up, self.down_proj[expert])


# ---- losses that keep a router in order


def _real(
    x: Num[Tensor, "token some"], real: Bool[Tensor, " token"] | None
) -> Num[Tensor, "real_token some"]:
    return x if real is None else x[real]


@checked
def balancing_loss(
    logits: Float[Tensor, "token expert"],
    chosen: Int[Tensor, "token k"],
    real: Bool[Tensor, " token"] | None = None,
) -> Float[Tensor, ""]:
    r"""Fedus et al., eq. 4-6, for top-k: $E \sum_i f_i P_i$, which is k when balanced.

    $f_i$ is the share of *tokens* that choose expert $i$ (the shares sum to k) and $P_i$ its mean
    probability. All tokens on the same k experts, with no probability elsewhere, give E. Only P
    has a gradient.

    Parameters
    ----------
    real
        False for padding, which does not count.
    """
    n = logits.shape[1]
    chosen, probabilities = _real(chosen, real), _real(logits, real).float().softmax(-1)
    require(len(chosen) > 0, "logits must have a token that is real", len(chosen))
    share = chosen.flatten().bincount(minlength=n) / len(chosen)
    return n * (share * probabilities.mean(0)).sum()


@checked
def z_loss(
    logits: Float[Tensor, "token expert"], real: Bool[Tensor, " token"] | None = None
) -> Float[Tensor, ""]:
    """Mean squared log of the softmax's denominator: keeps logits small (Zoph et al., eq. 5)."""
    return _real(logits, real).float().logsumexp(-1).square().mean()


def cv_squared(x: Float[Tensor, " expert"]) -> Float[Tensor, ""]:
    """Squared coefficient of variation, 0 where all are equal (Shazeer et al., eq. 7 and 11)."""
    return x.var(correction=0) / x.mean().square()


# ---- noisy gates, as in the first paper


@checked
def noisy_logits(
    clean: Float[Tensor, "token expert"],
    spread: Float[Tensor, "token expert"],
    generator: torch.Generator | None = None,
) -> Float[Tensor, "token expert"]:
    """Scores with normal noise of standard deviation `spread` (Shazeer et al., eq. 4)."""
    noise = torch.randn(clean.shape, generator=generator, dtype=clean.dtype)
    return clean + noise.to(clean.device) * spread


@checked
def expected_load(
    clean: Float[Tensor, "token expert"],
    noisy: Float[Tensor, "token expert"],
    spread: Float[Tensor, "token expert"],
    k: int,
) -> Float[Tensor, " expert"]:
    """Tokens each expert would get if its own noise were drawn anew (Shazeer et al., eq. 8-10).

    Counts have no gradient. The chance that an expert is among the k best has one: it is one of
    them if it beats the k-th best of the *others*.
    """
    n = clean.shape[1]
    require(1 <= k < n, f"k must be between 1 and {n - 1}, one fewer than the experts", k)
    values, indices = noisy.topk(k + 1)
    inside = torch.zeros_like(noisy, dtype=torch.bool).scatter(1, indices[:, :k], True)
    to_beat = torch.where(inside, values[:, k:], values[:, k - 1 : k])
    return torch.special.ndtr((clean - to_beat) / spread).sum(0)


@checked
def importance(
    weights: Float[Tensor, "token k"], chosen: Int[Tensor, "token k"], n_experts: int
) -> Float[Tensor, " expert"]:
    """Sum of each expert's weights over the tokens (Shazeer et al., eq. 6)."""
    return weights.new_zeros(n_experts).index_add(0, chosen.flatten(), weights.flatten())
