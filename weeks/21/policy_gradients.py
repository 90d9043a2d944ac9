r"""Policy gradients: do more of what turned out better than expected, but not too much at once.

The gradient of the expected return needs no model of the world, only what was done and how much
better it was than the average of the state, its advantage $A$:

$$\nabla J = \mathbb{E}\Big[\sum_t \nabla \ln \pi(a_t \mid s_t)\, A_t\Big], \qquad
A_t = \sum_{l \ge 0} (\gamma \lambda)^l \delta_{t+l}, \quad
\delta_t = r_t + \gamma V(s_{t+1}) - V(s_t).$$

Samples are dear, so they are used for several steps. Then the policy is no longer the one that
acted, and PPO does not count what a ratio $\rho = \pi / \pi_\text{old}$ gains beyond
$1 \pm \epsilon$:

$$L = -\mathbb{E}\big[\min(\rho A,\ \mathrm{clip}(\rho, 1 - \epsilon, 1 + \epsilon) A)\big].$$

>>> ones, never = torch.ones(3, 1), torch.zeros(3, 1, dtype=torch.bool)
>>> gae(ones, 0 * ones, 0 * ones, never, never, gamma=0.5, lam=1.0).T  # 1 + 1/2 + 1/4, …
tensor([[1.7500, 1.5000, 1.0000]])
>>> log_ratio, good = torch.tensor([0.5, 0.1]), torch.ones(2)
>>> f"{clipped_policy_loss(log_ratio, 0 * log_ratio, good, clip=0.2):.3f}"  # -(1.2 + e^0.1) / 2
'-1.153'
>>> kl_optimum(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0]), beta=1.0)  # odds e to 1
tensor([0.7311, 0.2689])

    uv run weeks/21/policy_gradients.py

Sources: Sutton et al., "Policy gradient methods" (2000), theorem 1; Schulman et al., "GAE" (2016),
equation 16; Schulman et al., "PPO" (2017), equation 7; Schulman, "Approximating KL" (2020).
"""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from shared.arguments import checked
from shared.require import require

# ---- advantages


@checked
def gae(
    rewards: Float[Tensor, "time env"],
    values: Float[Tensor, "time env"],
    next_values: Float[Tensor, "time env"],
    terminated: Bool[Tensor, "time env"],
    done: Bool[Tensor, "time env"],
    *,
    gamma: float = 0.99,
    lam: float = 0.95,
) -> Float[Tensor, "time env"]:
    """Generalized advantage estimates, from the last step back to the first.

    Parameters
    ----------
    next_values
        Of the state that each step led to, *before* a reset: where an episode was cut off, the
        value of the state in which it was cut off.
    terminated
        The episode ended in that state, and nothing follows: its value counts as 0.
    done
        Terminated, or cut off by a time limit: what comes next in the row is another episode.

    References
    ----------
    Schulman et al. (2016), equations 11 to 16; Pardo et al. (2018) for the time limits.
    """
    require(0 <= gamma <= 1, "gamma must lie in [0, 1]", gamma)
    require(0 <= lam <= 1, "lam must lie in [0, 1]", lam)
    require(not bool((terminated & ~done).any()), "done must be True wherever terminated is")
    delta = rewards + gamma * torch.where(terminated, 0.0, next_values) - values
    advantages, following = torch.empty_like(delta), torch.zeros_like(delta[:1])[0]
    for t in reversed(range(len(delta))):
        following = delta[t] + gamma * lam * torch.where(done[t], 0.0, following)
        advantages[t] = following
    return advantages


# ---- means over what counts


def masked_mean(
    x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"] | None = None
) -> Float[Tensor, ""]:
    """Mean over the entries where the mask is True; over all of them without a mask."""
    if mask is None:
        return x.mean()
    require(bool(mask.any()), "mask must be True somewhere")
    return torch.where(mask, x, 0.0).sum() / mask.sum()  # a NaN in the padding stays there


def whiten(
    x: Float[Tensor, "*shape"],
    mask: Bool[Tensor, "*shape"] | None = None,
    *,
    shift: bool = True,
    eps: float = 1e-8,
) -> Float[Tensor, "*shape"]:
    """Divide by the standard deviation (over n - 1) and, with `shift`, take the mean off."""
    n = x.numel() if mask is None else int(mask.sum())
    require(n >= 2, "x must have at least 2 entries that count", n)
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean).square(), mask) * (n / (n - 1))
    white = (x - mean) / (variance.sqrt() + eps)
    white = white if shift else white + mean / (variance.sqrt() + eps)
    return white if mask is None else torch.where(mask, white, 0.0)


# ---- losses


@checked
def clipped_policy_loss(
    log_probs: Float[Tensor, "*shape"],
    old_log_probs: Float[Tensor, "*shape"],
    advantages: Float[Tensor, "*shape"],
    *,
    clip: float = 0.2,
    mask: Bool[Tensor, "*shape"] | None = None,
) -> Float[Tensor, ""]:
    """PPO's loss: a gain from moving further than `clip` does not count, a loss does.

    With `clip` = infinity it is the plain importance-weighted policy gradient.

    References
    ----------
    Schulman et al. (2017), equation 7.
    """
    require(clip > 0, "clip must be positive", clip)
    ratio = (log_probs - old_log_probs).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return -masked_mean(torch.minimum(ratio * advantages, clipped * advantages), mask)


@checked
def clipped_value_loss(
    values: Float[Tensor, "*shape"],
    old_values: Float[Tensor, "*shape"],
    returns: Float[Tensor, "*shape"],
    *,
    clip: float = math.inf,
    mask: Bool[Tensor, "*shape"] | None = None,
) -> Float[Tensor, ""]:
    """Half the squared error of the values; the larger of it and that after a step of `clip`.

    In the paper's code and not in the paper. `clip` is in units of the return.
    """
    require(clip > 0, "clip must be positive", clip)
    near = old_values + (values - old_values).clamp(-clip, clip)
    worse = torch.maximum((values - returns).square(), (near - returns).square())
    return masked_mean(worse, mask) / 2


def entropy(logits: Float[Tensor, "*batch actions"]) -> Float[Tensor, "*batch"]:
    """Entropy of the softmax, in nats; an action of logit minus infinity adds nothing."""
    log_probs = logits.log_softmax(-1)
    return -(log_probs.exp() * log_probs.clamp(min=torch.finfo(logits.dtype).min)).sum(-1)


# ---- keeping near a reference

Estimator = Literal["k1", "k2", "k3"]


@checked
def kl_estimate(
    log_probs: Float[Tensor, "*shape"],
    reference_log_probs: Float[Tensor, "*shape"],
    kind: Estimator = "k3",
) -> Float[Tensor, "*shape"]:
    r"""One sample's estimate of $\mathrm{KL}(\pi \| \pi_\text{ref})$, for samples of $\pi$.

    k1 is $\ln \pi/\pi_\text{ref}$, k2 half its square, k3 is $e^{-k_1} - 1 + k_1$. As *values* k1
    and k3 are unbiased and k3 is never negative. As *losses*, to be differentiated, they are
    something else: the mean gradient of k1 is zero, that of k2 is $\nabla \mathrm{KL}(\pi \|
    \pi_\text{ref})$, that of k3 is $\nabla \mathrm{KL}(\pi_\text{ref} \| \pi)$.

    References
    ----------
    Schulman (2020), "Approximating KL divergence".
    """
    log_ratio = log_probs - reference_log_probs
    if kind == "k1":
        return log_ratio
    if kind == "k2":
        return log_ratio.square() / 2
    require(kind == "k3", "kind must be 'k1', 'k2' or 'k3'", repr(kind))
    return (-log_ratio).expm1() + log_ratio


@checked
def kl_optimum(
    reference: Float[Tensor, "*batch actions"],
    rewards: Float[Tensor, "*batch actions"],
    beta: float,
) -> Float[Tensor, "*batch actions"]:
    r"""The policy of the largest $\mathbb{E}_\pi[r] - \beta\,\mathrm{KL}(\pi \| \pi_\text{ref})$.

    It is $\pi_\text{ref}\, e^{r/\beta} / Z$: the objective is $\beta \ln Z - \beta\,
    \mathrm{KL}(\pi \| \text{this})$.
    """
    require(beta > 0, "beta must be positive", beta)
    return (reference.log() + rewards / beta).softmax(-1)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
