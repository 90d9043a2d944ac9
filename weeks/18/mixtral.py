r"""Mixtral: LLaMA's block with a mixture of experts in place of its MLP.

Attention, norms and positions are those of `week18.llama3`. In each block a router picks two of
eight MLPs for each token (`week18.experts`), so 47 billion weights answer at the cost of 13. What
is trained is the loss of the next token plus two small losses of the routers,

$$L = L_{\mathrm{next}} + \alpha\, E \sum_i f_i P_i
      + \beta\, \mathrm{mean}\big(\mathrm{logsumexp}(h)^2\big),$$

with $f_i$ the share of tokens at expert $i$ and $P_i$ its mean probability. The first
of them is there to keep a few experts from taking most tokens.

>>> model = Mixtral(MixtralConfig(50, n_kv_heads=2), torch.Generator().manual_seed(0))
>>> tokens = torch.arange(12)[None]
>>> model(tokens).shape
torch.Size([1, 12, 50])
>>> round(balance(model).item(), 1)  # two of eight: 2 when balanced, 8 when collapsed
2.1
>>> total, active = n_parameters(MIXTRAL_8X7B)
>>> round(total / 1e9, 1), round(active / 1e9, 1)
(46.7, 12.9)

    uv run weeks/18/mixtral.py

Sources: Jiang et al., "Mixtral of experts" (2024), section 2; Fedus et al., "Switch transformers"
(2021), eq. 3-6; Shazeer et al., "Outrageously large neural networks" (2017), sections 2 and 4.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from shared.require import require
from week09.optimizers import AdamW
from week14.minimal_gpt import next_token_loss, random_batch
from week18 import costs
from week18.experts import (
    Experts,
    balancing_loss,
    capacity_of,
    cv_squared,
    expected_load,
    importance,
    mix,
    noisy_logits,
    route,
    z_loss,
)
from week18.llama3 import Block, Llama, LlamaConfig, initialize


@dataclass(frozen=True)
class MixtralConfig(LlamaConfig):
    """Sizes of a model; `d_ff` is the width of one expert.

    Attributes
    ----------
    top_k
        Experts that each token uses.
    capacity_factor
        In training, an expert takes at most this many times an equal share of the assignments of a
        batch, and the rest are dropped; None drops nothing. Outside training nothing is dropped,
        since what is kept depends on the other rows of the batch.
    noisy
        Whether routers are those of the first paper, with noise of a learned size in training.
    """

    n_experts: int = 8
    top_k: int = 2
    capacity_factor: float | None = None
    noisy: bool = False

    def __post_init__(self):
        super().__post_init__()
        n, k = self.n_experts, self.top_k
        require(1 <= k <= n, f"top_k must be between 1 and n_experts = {n}", k)
        factor = self.capacity_factor
        require(factor is None or factor > 0, "capacity_factor must be positive", factor)
        require(not (self.noisy and k == n), "top_k must be below n_experts where noisy", k)


MIXTRAL_8X7B = MixtralConfig(32_000, 4096, 32, 32, 8, d_ff=14_336, context=32_768, rope_base=1e6)


class MixtureMLP(nn.Module):
    """A router and its experts; keeps the last batch's routing, from which losses are computed."""

    def __init__(self, config: MixtralConfig):
        super().__init__()
        self.config = config
        self.router = nn.Linear(config.d_model, config.n_experts, bias=False)
        self.experts = Experts(config.n_experts, config.d_model, config.d_ff)

    def scores(self, x: Float[Tensor, "token d_model"]) -> Float[Tensor, "token expert"]:
        """What experts are chosen by."""
        return self.router(x)

    def forward(self, u: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Each token's weighted sum over its experts."""
        c, x = self.config, u.flatten(0, -2)
        self.logits = self.scores(x)
        self.weights, self.chosen = route(self.logits, c.top_k)
        capacity = None
        if self.training and c.capacity_factor is not None:
            capacity = capacity_of(len(x), c.top_k, c.n_experts, c.capacity_factor)
        parts = (self.weights, self.chosen, self.experts, c.n_experts)
        return mix(x, *parts, capacity=capacity).view_as(u)

    def load(self) -> Float[Tensor, " expert"]:
        """Share of the last batch's tokens that chose each expert; the shares sum to `top_k`."""
        return self.chosen.flatten().bincount(minlength=self.config.n_experts) / len(self.chosen)


class NoisyMixtureMLP(MixtureMLP):
    """The first paper's router: noise while training, of a learned size."""

    def __init__(self, config: MixtralConfig, generator: torch.Generator | None = None):
        super().__init__(config)
        self.generator = generator
        self.spread = nn.Linear(config.d_model, config.n_experts, bias=False)

    def scores(self, x: Float[Tensor, "token d_model"]) -> Float[Tensor, "token expert"]:
        """Clean scores, and with noise while training."""
        clean = self.router(x)
        if not self.training:
            return clean
        spread = F.softplus(self.spread(x)) + 1e-2  # as the authors' code: never no noise
        noisy = noisy_logits(clean, spread, self.generator)
        self.expected_load = expected_load(clean, noisy, spread, self.config.top_k)
        return noisy


class MixtralBlock(Block):
    """LLaMA's block with experts for its MLP."""

    def __init__(self, config: MixtralConfig, layer: int, generator: torch.Generator | None = None):
        super().__init__(config, layer)
        del self.gate_proj, self.up_proj, self.down_proj
        noisy = config.noisy
        self.moe = NoisyMixtureMLP(config, generator) if noisy else MixtureMLP(config)

    def mlp(self, u: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """A few of many."""
        return self.moe(u)


class Mixtral(Llama):
    """Decoder-only transformer with a mixture of experts in each block."""

    def __init__(self, config: MixtralConfig, generator: torch.Generator | None = None):
        super().__init__(config)
        blocks = (MixtralBlock(config, i, generator) for i in range(config.n_layers))
        self.blocks = nn.ModuleList(blocks)
        initialize(self, config.n_layers, generator)
        for block in self.blocks:
            for name, p in block.moe.experts.named_parameters():
                shrink = (2 * config.n_layers) ** -0.5 if name == "down_proj" else 1.0
                nn.init.normal_(p, std=0.02 * shrink, generator=generator)
            if config.noisy:  # no signal, some noise: all experts begin alike
                nn.init.zeros_(block.moe.router.weight)
                nn.init.zeros_(block.moe.spread.weight)


# ---- losses of the routers, from the last batch


def mixtures(model: nn.Module) -> list[MixtureMLP]:
    """The mixtures of a model, first layer first; none if it is dense."""
    return [m for m in model.modules() if isinstance(m, MixtureMLP)]


def balance(model: nn.Module, real: Bool[Tensor, " token"] | None = None) -> Float[Tensor, ""]:
    """Balancing loss, the mean of the layers': `top_k` when balanced, `n_experts` if collapsed."""
    layers = [balancing_loss(m.logits, m.chosen, real) for m in mixtures(model)]
    return torch.stack(layers).mean()


def router_z(model: nn.Module, real: Bool[Tensor, " token"] | None = None) -> Float[Tensor, ""]:
    """Z-loss, the mean of the layers'."""
    return torch.stack([z_loss(m.logits, real) for m in mixtures(model)]).mean()


def spread_out(model: nn.Module, w_importance: float, w_load: float) -> Float[Tensor, ""]:
    """The first paper's two losses, summed over noisy layers (Shazeer et al., eq. 7 and 11)."""
    losses = [
        w_importance * cv_squared(importance(m.weights, m.chosen, m.config.n_experts))
        + w_load * cv_squared(m.expected_load)
        for m in mixtures(model)
    ]
    return torch.stack(losses).sum()


def n_parameters(config: MixtralConfig) -> tuple[int, int]:
    """All weights, and those that one token uses."""
    attention = costs.n_parameters(config) - 3 * config.n_layers * config.d_model * config.d_ff
    router = config.n_layers * config.d_model * config.n_experts * (2 if config.noisy else 1)
    expert = 3 * config.n_layers * config.d_model * config.d_ff
    rest = attention + router
    return rest + config.n_experts * expert, rest + config.top_k * expert


def train(
    model: nn.Module,
    tokens: Int[Tensor, " n"],
    *,
    steps: int,
    batch_size: int,
    context: int,
    lr: float,
    generator: torch.Generator,
    penalty: Callable[[nn.Module], Tensor | float] | None = None,
) -> tuple[list[float], Float[Tensor, "step layer expert"] | None]:
    """Train in place with AdamW and a rate that falls linearly to zero.

    Parameters
    ----------
    penalty
        What is added to the loss of the next token: the routers' losses with their coefficients.

    Returns
    -------
    losses
        Of the next token, in nats per token, each step.
    loads
        Share of tokens at each expert, each step; None for a dense model.
    """
    optimizer = AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
    losses, loads = [], []
    model.train()
    for step in range(steps):
        optimizer.lr = lr * (1 - step / steps)
        x, y = random_batch(tokens, batch_size, context, generator)
        loss = next_token_loss(model(x), y)
        optimizer.zero_grad()
        (loss if penalty is None else loss + penalty(model)).backward()
        optimizer.step()
        losses.append(loss.item())
        loads.append([m.load() for m in mixtures(model)])
    model.eval()
    return losses, torch.stack([torch.stack(row) for row in loads]) if loads[0] else None


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
