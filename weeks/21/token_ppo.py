r"""PPO for a language model: tokens are actions, the reward comes at the end, and a leash holds.

A text $y$ gets one score. To stay near a reference model, each token pays for what it departs by,

$$r_t = -\beta \ln \frac{\pi(y_t \mid y_{<t})}{\pi_\text{ref}(y_t \mid y_{<t})}
        + [t = \text{last}]\ \text{score}(y),$$

and the sum over a text is $\text{score} - \beta \ln \pi/\pi_\text{ref}$, whose mean is largest for
$\pi^*(y) \propto \pi_\text{ref}(y)\, e^{\text{score}(y)/\beta}$. For short texts that can be
enumerated. The divergence enters once, here, and not in the loss again.

>>> mask = torch.tensor([[True, True, False]])  # the third token is padding
>>> token_rewards(torch.tensor([5.0]), torch.zeros(1, 3), torch.ones(1, 3), mask, beta=0.1)
tensor([[0.1000, 5.1000, 0.0000]])
>>> control = AdaptiveKL(beta=0.1, target=2.0)
>>> control.update(6.0)  # three times the target, so the leash is shortened
>>> f"{control.beta:.3f}"
'0.102'

    uv run weeks/21/token_ppo.py

Sources: Ziegler et al., "Fine-tuning language models from human preferences" (2019), section 2;
Stiennon et al., "Learning to summarize from human feedback" (2020), section 3.4.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from shared.arguments import checked
from shared.require import require
from week09.optimizers import Adam
from week14.minimal_gpt import GPT, GPTConfig
from week21.policy_gradients import (
    clipped_policy_loss,
    clipped_value_loss,
    gae,
    kl_estimate,
    whiten,
)
from week21.ppo import chosen, clip_gradients

Score = Callable[[Int[Tensor, "text token"], Bool[Tensor, "text token"]], Float[Tensor, " text"]]


# ---- rewards and advantages of tokens


@checked
def token_rewards(
    scores: Float[Tensor, " text"],
    log_probs: Float[Tensor, "text token"],
    reference_log_probs: Float[Tensor, "text token"],
    mask: Bool[Tensor, "text token"],
    *,
    beta: float,
) -> Float[Tensor, "text token"]:
    """The price of departing at every token that counts, the score at the last of them.

    References
    ----------
    Ziegler et al. (2019), equation 2, with the divergence spread over the tokens.
    """
    price = beta * kl_estimate(log_probs, reference_log_probs, "k1")
    return torch.where(mask, -price, 0.0) + scores[:, None] * last_of(mask)


def last_of(mask: Bool[Tensor, "text token"]) -> Bool[Tensor, "text token"]:
    """True at the last True of each row, and nowhere else."""
    require(bool(mask.any(1).all()), "mask must have a True in every row")
    after = mask.flip(1).long().cumsum(1).flip(1)  # how many count from here on
    return mask & (after == 1)


def token_advantages(
    rewards: Float[Tensor, "text token"],
    values: Float[Tensor, "text token"],
    mask: Bool[Tensor, "text token"],
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
) -> Float[Tensor, "text token"]:
    """GAE along each text, which ends with its last token that counts; 0 where none does."""
    end = last_of(mask)
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    turned = (x.T for x in (rewards, values, following, end, end))
    return torch.where(mask, gae(*turned, gamma=gamma, lam=lam).T, 0.0)


# ---- the leash


@dataclass
class AdaptiveKL:
    """A weight that follows the measured divergence: longer leash below the target, else shorter.

    References
    ----------
    Ziegler et al. (2019), section 2.2: a proportional controller of the logarithm, cut at 20 %.
    """

    beta: float
    target: float
    gain: float = 0.1

    def __post_init__(self):
        require(self.beta > 0, "beta must be positive", self.beta)
        require(self.target > 0, "target must be positive", self.target)

    def update(self, kl: float) -> None:
        """Take the divergence of a batch (nats per text) into account."""
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.beta *= 1 + self.gain * error


@dataclass
class FixedKL:
    """A weight that stays."""

    beta: float

    def update(self, kl: float) -> None:
        """Nothing changes."""


# ---- the program


class TextActorCritic(nn.Module):
    """A GPT that writes and one that judges, over the same tokens; token 0 ends a text.

    A prompt is one token, the last of the vocabulary, which is never written.
    """

    def __init__(self, config: GPTConfig, generator: torch.Generator | None = None):
        super().__init__()
        self.policy, self.critic = (GPT(config, generator) for _ in range(2))
        self.value = nn.Linear(config.d_model, 1)
        nn.init.zeros_(self.value.weight)  # the first advantages are the rewards themselves
        nn.init.zeros_(self.value.bias)

    def forward(
        self, tokens: Int[Tensor, "text token"]
    ) -> tuple[Float[Tensor, "text token vocab"], Float[Tensor, "text token"]]:
        """Log-probabilities of the next token, the prompt's left out, and the value before it."""
        logits = self.policy(tokens)
        prompt = torch.arange(logits.shape[-1]) == logits.shape[-1] - 1
        stream = self.critic.norm(self.critic.residual_stream(tokens)[-1])
        return logits.masked_fill(prompt, -torch.inf).log_softmax(-1), self.value(stream)[..., 0]


def mask_of(written: Int[Tensor, "text token"], length: int) -> Bool[Tensor, "text token"]:
    """Tokens that count: up to the first 0, which counts too, and at most `length` of them.

    Padding is 0 as well. Without the limit a text that was cut off would end in its padding.
    """
    ended = (written == 0).long().cumsum(1)
    counts = (ended == 0) | ((ended == 1) & (written == 0))
    return counts & (torch.arange(written.shape[1]) < length)


@torch.no_grad()
def write(
    model: TextActorCritic, n: int, length: int, generator: torch.Generator
) -> Int[Tensor, "text token"]:
    """`n` texts of at most `length` tokens, padded with 0, the prompt in front."""
    vocab_size = model.policy.config.vocab_size
    tokens = torch.full((n, 1), vocab_size - 1)
    ended = torch.zeros(n, 1, dtype=torch.bool)
    for _ in range(length):
        probs = model(tokens)[0][:, -1].exp()
        token = torch.multinomial(probs, 1, generator=generator).masked_fill(ended, 0)
        tokens, ended = torch.cat([tokens, token], dim=1), ended | (token == 0)
    return tokens


@dataclass(frozen=True)
class TextPPO:
    """Sizes of the program: texts per update, their length, and how they are used."""

    updates: int = 60
    texts: int = 128
    length: int = 5
    epochs: int = 4
    minibatches: int = 1
    lr: float = 1e-3
    lam: float = 0.95
    clip: float = 0.2
    value_weight: float = 0.5
    max_grad_norm: float = 1.0


def text_loss(
    model: TextActorCritic, rows: dict[str, Tensor], config: TextPPO
) -> Float[Tensor, ""]:
    """Both clipped losses, means over the tokens that count."""
    log_probs, values = model(rows["tokens"][:, :-1])
    log_probs, mask = chosen(log_probs, rows["tokens"][:, 1:]), rows["mask"]
    advantages = whiten(rows["advantages"], mask)
    options = {"clip": config.clip, "mask": mask}
    policy = clipped_policy_loss(log_probs, rows["log_probs"], advantages, **options)
    value = clipped_value_loss(values, rows["values"], rows["returns"], mask=mask)
    return policy + config.value_weight * value


def train(
    model: TextActorCritic,
    reference: TextActorCritic,
    score: Score,
    control: AdaptiveKL | FixedKL,
    config: TextPPO,
    generator: torch.Generator,
) -> Iterator[tuple[float, float]]:
    """Train in place; after each update give the mean score and the mean KL of its texts."""
    params = list(model.parameters())
    optimizer = Adam(params, lr=config.lr, eps=1e-5)
    for update in range(config.updates):
        optimizer.lr = config.lr * (1 - update / config.updates)
        tokens = write(model, config.texts, config.length, generator)
        mask = mask_of(tokens[:, 1:], config.length)
        rows = experience(model, reference, tokens, mask, score, control.beta, config.lam)
        kl = rows.pop("kl").sum(1).mean().item()
        mean_score = rows.pop("scores").mean().item()
        for _ in range(config.epochs):
            order = torch.randperm(config.texts, generator=generator)
            for index in order.tensor_split(config.minibatches):
                loss = text_loss(model, {k: x[index] for k, x in rows.items()}, config)
                optimizer.zero_grad()
                loss.backward()
                clip_gradients(params, config.max_grad_norm)
                optimizer.step()
        control.update(kl)
        yield mean_score, kl


@torch.no_grad()
def experience(
    model: TextActorCritic,
    reference: TextActorCritic,
    tokens: Int[Tensor, "text token_plus_1"],
    mask: Bool[Tensor, "text token"],
    score: Score,
    beta: float,
    lam: float,
) -> dict[str, Tensor]:
    """All that the update needs of the texts, each (text, token); scores, and KL by token."""
    written = tokens[:, 1:]
    log_probs, values = model(tokens[:, :-1])
    theirs = reference(tokens[:, :-1])[0]
    log_probs, theirs = (chosen(x, written).masked_fill(~mask, 0.0) for x in (log_probs, theirs))
    scores = score(written, mask)
    rewards = token_rewards(scores, log_probs, theirs, mask, beta=beta)
    advantages = token_advantages(rewards, values, mask, lam=lam)
    rows = {"tokens": tokens, "mask": mask, "log_probs": log_probs, "values": values}
    rows |= {"advantages": advantages, "returns": advantages + values}
    return rows | {"scores": scores, "kl": log_probs - theirs}


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
