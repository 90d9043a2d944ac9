r"""Reward models: a number per response, learned from which of two was preferred.

Nobody can say how good an answer is on a scale of one to ten, and most can say which of two is
better. Bradley and Terry (1952) give each answer a strength $r$ and let the difference decide,

$$P(a \succ b) = \sigma(r_a - r_b), \qquad
  L = -\ln \sigma(r_{\mathrm{chosen}} - r_{\mathrm{rejected}} - m),$$

with a margin $m$ where raters said "much better". Where $r = w \cdot f$ is linear in features, this
is logistic regression on differences of features, without an intercept. A constant added to all
answers of a prompt changes nothing: rewards of different prompts cannot be compared.

A reward *model* is a language model whose output layer is replaced by one number, read at the last
token that is no padding, the first place where the whole answer has been seen.

>>> preference_loss(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 1.0]))
tensor([0.3133, 0.6931])
>>> soft_preference_loss(torch.zeros(1), torch.zeros(1), torch.tensor([0.5]))  # a tie, expected
tensor([0.6931])
>>> differences = torch.tensor([[1.0, 0.0], [1.0, 1.0], [-1.0, 1.0]])
>>> fit_linear_reward(differences, l2=1.0)
tensor([0.2954, 0.6792])

    uv run weeks/21/reward_model.py

Sources: Bradley & Terry, "Rank analysis of incomplete block designs" (1952); Ouyang et al.,
"Training language models to follow instructions with human feedback" (2022), eq. 1; Touvron et al.,
"Llama 2" (2023), eq. 2, for the margin.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared.arguments import checked
from shared.require import require
from week09.optimizers import AdamW
from week14.minimal_gpt import GPT
from week21.dpo import Preference, collate

# ---- the loss


@checked
def preference_loss(
    chosen: Float[Tensor, " n"],
    rejected: Float[Tensor, " n"],
    margin: Float[Tensor, " n"] | None = None,
) -> Float[Tensor, " n"]:
    """How surprising it is that the first was preferred, in nats; by more than the margin."""
    gap = chosen - rejected
    return -F.logsigmoid(gap if margin is None else gap - margin)


@checked
def soft_preference_loss(
    a: Float[Tensor, " n"], b: Float[Tensor, " n"], share: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """The same where only a share of the raters preferred a; a tie is one half.

    It is least, and not zero, where σ(a - b) is that share.
    """
    inside = ((share >= 0) & (share <= 1)).all()
    require(inside, "share must lie in [0, 1]", share.min().item(), share.max().item())
    return share * preference_loss(a, b) + (1 - share) * preference_loss(b, a)


@checked
def preference_probability(a: Float[Tensor, " n"], b: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Probability that a is preferred to b."""
    return (a - b).sigmoid()


# ---- a linear reward


@checked
def fit_linear_reward(
    differences: Float[Tensor, "n features"], *, l2: float, steps: int = 30
) -> Float[Tensor, " features"]:
    """Weights w of r = w · f, by Newton's method.

    Parameters
    ----------
    differences
        Features of the chosen answer minus those of the rejected one, a row per pair.
    l2
        Half of it times the square of w is added to the summed loss. It must be positive: a
        feature that decides all its pairs would otherwise get an infinite weight.
    """
    require(l2 > 0, "l2 must be positive", l2)
    n_features = differences.shape[1]
    w = differences.new_zeros(n_features)
    for _ in range(steps):
        p = (differences @ w).sigmoid()
        gradient = l2 * w - differences.T @ (1 - p)
        hessian = (differences.T * (p * (1 - p))) @ differences
        hessian += l2 * torch.eye(n_features, dtype=w.dtype)
        w = w - torch.linalg.solve(hessian, gradient)
    return w


# ---- a language model with one number


class RewardModel(nn.Module):
    """A GPT, and a linear layer to one number instead of the next token's logits.

    Lengths are given and not found by looking for padding: where an end of text doubles as padding
    the last token would be missed.

    Parameters
    ----------
    body
        Usually the supervised model; it is trained along.
    """

    def __init__(self, body: GPT, generator: torch.Generator | None = None):
        super().__init__()
        self.body = body
        d_model = body.config.d_model
        self.score = nn.Linear(d_model, 1, bias=False)
        nn.init.normal_(self.score.weight, std=(d_model + 1) ** -0.5, generator=generator)

    def forward(
        self, tokens: Int[Tensor, "batch seq"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """The reward of each text, read at its last token; what follows that is padding."""
        inside = ((lengths >= 1) & (lengths <= tokens.shape[1])).all()
        must = f"lengths must be between 1 and {tokens.shape[1]}"
        require(inside, must, lengths.tolist())
        hidden = self.body.norm(self.body.residual_stream(tokens)[-1])
        last = hidden[torch.arange(len(tokens)), lengths - 1]
        return self.score(last)[:, 0]


def train(
    model: RewardModel,
    pairs: Sequence[Preference],
    *,
    steps: int,
    batch: int,
    generator: torch.Generator,
    lr: float = 1e-3,
    pad: int = 0,
) -> Iterator[dict[str, float]]:
    """Train in place; give the loss of each step and the share of its pairs ranked right."""
    texts, n = collate(pairs, pad), len(pairs)
    lengths = torch.tensor([len(p.prompt) + len(p.chosen) for p in pairs])
    others = torch.tensor([len(p.prompt) + len(p.rejected) for p in pairs])
    lengths = torch.cat([lengths, others])
    optimizer = AdamW(list(model.parameters()), lr=lr, betas=(0.9, 0.99), weight_decay=0.0)
    for _ in range(steps):
        row = torch.randint(n, (batch,), generator=generator)
        rows = torch.cat([row, row + n])
        chosen, rejected = model(texts.tokens[rows], lengths[rows]).chunk(2)
        loss = preference_loss(chosen, rejected).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield {"loss": loss.item(), "accuracy": (chosen > rejected).float().mean().item()}


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
