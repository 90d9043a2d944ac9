r"""GRPO: policy gradients whose baseline is the other answers to the same question.

The policy writes $G$ answers $o_1, \dots, o_G$ to a question, each gets a reward $r_i$, and

$$A_i = \frac{r_i - \operatorname{mean}(r)}{\operatorname{std}(r)}$$

says how much better it is than its siblings: no value network. All tokens of an answer share its
advantage. With the ratio $\rho_t = \pi(o_t) / \pi_\text{old}(o_t)$ a token's loss is PPO's, plus a
penalty for leaving a reference that is estimated from the very tokens that were drawn,

$$-\min\big(\rho_t A,\ \operatorname{clip}(\rho_t, 1 - \epsilon, 1 + \epsilon) A\big)
  + \beta \Big(\frac{\pi_\text{ref}}{\pi} - \log \frac{\pi_\text{ref}}{\pi} - 1\Big) .$$

How token losses become one number is a choice with consequences: a mean within each answer, then
over answers (GRPO); over all tokens (DAPO); their sum over a constant (Dr. GRPO, which also drops
the division by std).

>>> group_advantages(torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 1]]))
tensor([[ 1.5000, -0.5000, -0.5000, -0.5000],
        [ 0.0000,  0.0000,  0.0000,  0.0000]])
>>> losses = torch.tensor([[1.0] * 8, [3.0] * 8])
>>> mask = torch.arange(8) < torch.tensor([[2], [8]])  # answers of 2 and of 8 tokens
>>> for how in ("sequence", "token", "constant"):
...     print(how, reduce_losses(losses, mask, how, max_length=16).item())
sequence 2.0
token 2.5999999046325684
constant 0.8125

    uv run weeks/21/grpo.py

Sources: Shao et al., "DeepSeekMath" (2024), equations 3, 4 and section 4.1; Liu et al.,
"Understanding R1-Zero-like training" (2025), section 3; Yu et al., "DAPO" (2025), section 3.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from shared.arguments import checked
from shared.require import require
from week09.optimizers import AdamW
from week19.kv_cache import generate
from week19.sampling import Sampler

Reduction = Literal["sequence", "token", "constant"]


@checked
def group_advantages(
    rewards: Float[Tensor, "group answer"], *, scale: bool = True
) -> Float[Tensor, "group answer"]:
    """How much better each answer is than its group's mean, in the group's own spread (n - 1).

    A group of equal rewards says nothing and gets zeros. Equality is asked for as such: the std of
    equal float32 numbers need not be 0, and dividing by it would blow rounding up to ±1.

    Parameters
    ----------
    scale
        Divide by the group's standard deviation (GRPO) or not (Dr. GRPO).

    References
    ----------
    Shao et al. (2024), section 4.1.2; Liu et al. (2025), section 3.2.
    """
    size = rewards.shape[1]
    require(size >= 2, "rewards must hold at least 2 answers per group", size)
    advantages = rewards - rewards.mean(dim=1, keepdim=True)
    if scale:
        advantages = advantages / rewards.std(dim=1, keepdim=True)
    return torch.where(informative(rewards)[:, None], advantages, 0.0)


def informative(rewards: Float[Tensor, "group answer"]) -> Bool[Tensor, "group"]:
    """Groups whose rewards differ; DAPO samples until it has enough of them."""
    return (rewards != rewards[:, :1]).any(dim=1)


@checked
def kl_estimate(
    log_p: Float[Tensor, "*tokens"], log_ref: Float[Tensor, "*tokens"]
) -> Float[Tensor, "*tokens"]:
    r"""k3, $\pi_\text{ref}/\pi - \log(\pi_\text{ref}/\pi) - 1 \ge 0$: its mean under π is the KL.

    As a *loss*, differentiated at the tokens drawn, it has the mean gradient of KL(ref‖π) and not
    of KL(π‖ref): the tokens' own dependence on π is not in it.

    References
    ----------
    Shao et al. (2024), equation 4; Schulman, "Approximating KL divergence" (2020).
    """
    log_ratio = log_ref - log_p
    return log_ratio.exp() - log_ratio - 1


@checked
def clipped_losses(
    log_p: Float[Tensor, "answer token"],
    log_old: Float[Tensor, "answer token"],
    advantages: Float[Tensor, "answer"],
    clip: tuple[float, float] = (0.2, 0.2),
) -> Float[Tensor, "answer token"]:
    """PPO's loss of each token, that answer's advantage at every one of them.

    Parameters
    ----------
    clip
        How far the ratio may fall below and rise above 1; DAPO's upper one is wider, 0.28.

    References
    ----------
    Shao et al. (2024), equation 3.
    """
    low, high = clip
    require(0 <= low <= 1 and high >= 0, "clip must be in [0, 1] and not negative", low, high)
    ratio = (log_p - log_old).exp()
    a = advantages[:, None]
    return -torch.minimum(ratio * a, ratio.clamp(1 - low, 1 + high) * a)


@checked
def reduce_losses(
    losses: Float[Tensor, "answer token"],
    mask: Bool[Tensor, "answer token"],
    how: Reduction = "sequence",
    *,
    max_length: int | None = None,
) -> Float[Tensor, ""]:
    """One number of all token losses; what the mask leaves out has no part in it.

    Parameters
    ----------
    how
        ``"sequence"``: each answer counts as much as another, so a token of a long one less
        (GRPO). ``"token"``: each token counts as much as another (DAPO). ``"constant"``: sums of
        answers over `max_length`, so that no token's weight depends on any length (Dr. GRPO).

    References
    ----------
    Yu et al. (2025), section 3.3; Liu et al. (2025), section 3.2.
    """
    require(how in ("sequence", "token", "constant"), "how must be a known reduction", how)
    losses = torch.where(mask, losses, 0.0)  # not times the mask: padding may hold NaN
    if how == "token":
        return losses.sum() / mask.sum().clamp(min=1)
    if how == "sequence":
        return (losses.sum(dim=1) / mask.sum(dim=1).clamp(min=1)).mean()
    given = max_length is not None and max_length >= 1
    require(given, "max_length must be at least 1 with how = 'constant'", max_length)
    return losses.sum() / (len(losses) * max_length)


# ---- answers, and their tokens' probabilities


@checked
def response_mask(tokens: Int[Tensor, "answer token"], end: int) -> Bool[Tensor, "answer token"]:
    """True up to the first `end` and on it: the policy chose to stop, so stopping has a loss.

    What follows is padding, even where padding and `end` are the same token.
    """
    ended = (tokens == end).cumsum(dim=1)
    return (ended == 0) | ((ended == 1) & (tokens == end))


def response_log_probs(
    model: nn.Module, tokens: Int[Tensor, "answer seq"], n_prompt: int
) -> Float[Tensor, "answer token"]:
    """Log-probability of each token after the prompt, given all before it."""
    inside = 1 <= n_prompt < tokens.shape[1]
    require(inside, f"n_prompt must be in 1..{tokens.shape[1] - 1}", n_prompt)
    # the logits *at* the prompt's last token say what the response's first one should be
    log_probs = model(tokens[:, :-1])[:, n_prompt - 1 :].log_softmax(dim=-1)
    return log_probs.gather(-1, tokens[:, n_prompt:, None])[..., 0]


def sample_answers(
    model: nn.Module,
    prompts: Int[Tensor, "prompt seq"],
    n_answers: int,
    *,
    max_length: int,
    end: int,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "answer token"]:
    """`n_answers` to each prompt, those to one prompt in a row; `end` fills what is left."""
    require(n_answers >= 1, "n_answers must be at least 1", n_answers)
    rows = prompts.repeat_interleave(n_answers, dim=0)
    options = {"choose": Sampler(temperature), "stop": (end,), "generator": generator}
    columns = list(generate(model, rows, max_length, **options))
    answers = torch.stack(columns, dim=1)
    return answers.masked_fill(answers < 0, end)


# ---- training


@dataclass(frozen=True)
class GRPOConfig:
    """Settings of a run.

    Attributes
    ----------
    n_prompts, group_size
        Questions per step, and answers to each.
    updates
        Gradient steps on the same answers; the clip acts from the second on.
    scale, reduction, clip, dynamic
        GRPO as it stands; Dr. GRPO is ``scale=False, reduction="constant"``; DAPO is
        ``reduction="token", clip=(0.2, 0.28), dynamic=True, beta=0``.
    """

    n_prompts: int = 16
    group_size: int = 8
    max_length: int = 8
    lr: float = 1e-3
    beta: float = 0.04
    clip: tuple[float, float] = (0.2, 0.2)
    updates: int = 1
    scale: bool = True
    reduction: Reduction = "sequence"
    dynamic: bool = False


@dataclass(frozen=True)
class Step:
    """What one step of training saw: means over its answers."""

    reward: float
    length: float
    kl: float
    informative: float


# A batch of questions: their tokens, and a function that gives the reward of each answer.
Batch = tuple[Int[Tensor, "prompt seq"], Callable[[Int[Tensor, "answer token"]], Tensor]]


def train(
    policy: nn.Module,
    reference: nn.Module,
    questions: Callable[[int], Batch],
    *,
    steps: int,
    end: int,
    config: GRPOConfig,
    generator: torch.Generator,
) -> Iterator[Step]:
    """Train `policy` in place, a step at a time.

    Parameters
    ----------
    questions
        Gives so many questions and the function that rewards answers to them.

    References
    ----------
    Shao et al. (2024), algorithm 1, with one reward model that stays.
    """
    optimizer = AdamW(policy.parameters(), lr=config.lr, betas=(0.9, 0.95), weight_decay=0.0)
    sampling = {"max_length": config.max_length, "end": end, "generator": generator}
    for _ in range(steps):
        prompts, reward = questions(config.n_prompts)
        answers = sample_answers(policy, prompts, config.group_size, **sampling)
        rewards = reward(answers).view(-1, config.group_size)
        useful = informative(rewards)
        advantages = group_advantages(rewards, scale=config.scale).flatten()
        tokens = torch.cat([prompts.repeat_interleave(config.group_size, dim=0), answers], dim=1)
        mask = response_mask(answers, end)
        seen = Step(rewards.mean().item(), mask.sum(1).float().mean().item(), 0.0, 0.0)
        if config.dynamic and useful.any():  # the paper draws more questions to fill the batch up
            keep = useful.repeat_interleave(config.group_size)
            tokens, mask, advantages = tokens[keep], mask[keep], advantages[keep]
        n_prompt = prompts.shape[1]
        with torch.no_grad():
            log_old = response_log_probs(policy, tokens, n_prompt)
            log_ref = response_log_probs(reference, tokens, n_prompt)
        for _ in range(config.updates):
            log_p = response_log_probs(policy, tokens, n_prompt)
            losses = clipped_losses(log_p, log_old, advantages, config.clip)
            losses = losses + config.beta * kl_estimate(log_p, log_ref)
            loss = reduce_losses(losses, mask, config.reduction, max_length=config.max_length)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
        kl = kl_estimate(log_old, log_ref)[mask].mean().item()
        yield Step(seen.reward, seen.length, kl, useful.float().mean().item())


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
