"""Training with experts that are kept busy by biases, by a loss, or by nothing.

>>> from week18.deepseek_v3 import DeepSeekConfig
>>> from week18.latent_attention import LatentConfig
>>> sizes = LatentConfig(d_model=16, n_heads=2, kv_rank=8, nope_dim=6, rope_dim=4, v_dim=6)
>>> model = DeepSeek(DeepSeekConfig(7, sizes, n_experts=4), torch.Generator().manual_seed(0))
>>> options = {"steps": 90, "batch_size": 8, "context": 12, "generator": torch.Generator()}
>>> run = train(model, torch.arange(200) % 7, rate=0.01, lr=1e-2, **options)
>>> run.losses[0] > 1.5 and run.losses[-1] < 0.5  # guessing costs ln 7 = 1.9 nats
True
>>> run.counts.shape  # step, layer with experts, expert
torch.Size([90, 1, 4])

`uv run weeks/18/deepseek_v3.py` trains with it. DeepSeek-AI, "DeepSeek-V3" (2024), eq. 17 to 20
for the loss; L. Wang et al. (2024), algorithm 1, for the biases.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shared.require import require
from week09.optimizers import AdamW
from week14.minimal_gpt import next_token_loss, random_batch
from week18.balanced_experts import Mixture
from week18.deepseek_v3 import DeepSeek
from week18.multi_token import MultiToken, loss_by_depth, multi_token_loss


@dataclass(frozen=True)
class Training:
    """Losses of each step (of the next token alone), and tokens per expert and step."""

    losses: list[float]
    counts: Int[Tensor, "step layer expert"]


def balance_loss(
    scores: Float[Tensor, "token expert"], experts: Int[Tensor, "token top_k"]
) -> Float[Tensor, ""]:
    """The auxiliary loss: 1 if balanced, more if the experts that get most also score most.

    The shares of tokens have no gradient; it comes through the scores, normalized per token.
    """
    n, (tokens, top_k) = scores.shape[1], experts.shape
    shares = experts.flatten().bincount(minlength=n) * (n / (top_k * tokens))
    return (shares * (scores / scores.sum(1, keepdim=True)).mean(0)).sum()


def train(
    model: DeepSeek | MultiToken,
    tokens: Int[Tensor, " n"],
    *,
    steps: int,
    batch_size: int,
    context: int,
    generator: torch.Generator,
    lr: float = 4e-3,
    rate: float = 0.0,
    loss_weight: float = 0.0,
    mtp_weight: float = 0.3,
) -> Training:
    """Train `model` in place with AdamW, its learning rate falling to zero linearly.

    Parameters
    ----------
    rate
        How far each bias moves per step; 0 leaves them alone.
    loss_weight
        Weight of the auxiliary balancing loss, averaged over layers.
    mtp_weight
        Weight of the further tokens' loss, if the model predicts any.
    """
    require(steps >= 1, "steps must be at least 1", steps)
    optimizer = AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
    mixtures = [m for m in model.modules() if isinstance(m, Mixture)]
    losses, counts = [], []
    model.train()
    for step in range(steps):
        x, y = random_batch(tokens, batch_size, context, generator)
        if isinstance(model, MultiToken):
            by_depth = loss_by_depth(model(x), torch.cat([x, y[:, -1:]], dim=1))
            shown, loss = by_depth[0], multi_token_loss(by_depth, mtp_weight)
        else:
            shown = loss = next_token_loss(model(x), y)
        if loss_weight:
            auxiliary = torch.stack([balance_loss(*mixture.last) for mixture in mixtures])
            loss = loss + loss_weight * auxiliary.mean()
        optimizer.zero_grad()
        optimizer.lr = lr * (1 - step / steps)
        loss.backward()
        optimizer.step()
        losses.append(shown.item())
        counts.append(torch.stack([mixture.counts for mixture in mixtures]))
        model.balance(rate)  # after the step, from what it counted: no gradient, no future
    model.eval()
    return Training(losses, torch.stack(counts))


@torch.no_grad()
def loss_and_load(
    model: DeepSeek, tokens: Int[Tensor, " n"], context: int
) -> tuple[float, Int[Tensor, "expert"]]:
    """Mean loss in windows that do not overlap, and the tokens each expert of the last layer got.

    Leaves the model in evaluation, with nothing counted.
    """
    n = (len(tokens) - 1) // context
    require(n >= 1, f"tokens must be longer than context = {context}", len(tokens))
    x, y = (tokens[i : n * context + i].view(n, context) for i in (0, 1))
    model.balance(0.0)  # count anew
    model.train()  # only to count: there is no dropout
    loss = next_token_loss(model(x), y).item()
    counts = model.mixtures()[-1].counts.clone()
    model.balance(0.0)
    model.eval()
    return loss, counts
