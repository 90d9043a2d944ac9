r"""Proximal policy optimization: act, say how good it was, take many small steps, act again.

A policy and a value network act in several copies of an environment for a while. Advantages of all
steps are estimated (`gae`), and then the same samples are used for several epochs of minibatches
with the clipped losses of `policy_gradients.py`:

$$L = L_\text{policy} + c_V L_\text{value} - c_H\, \mathbb{E}[H(\pi)].$$

Much of what programs add is in no equation: weights drawn orthogonal with a small last layer,
advantages whitened in each minibatch, the norm of the gradient clipped, a learning rate that falls
to 0, and the value of the state in which a time limit cut an episode off. Each has a switch here.

>>> from week21.cartpole import CartPole
>>> config = PPOConfig(total_steps=256, n_envs=4, n_steps=32)
>>> poles = CartPole(config.n_envs, np.random.default_rng(0))
>>> model = ActorCritic(poles.n_inputs, poles.n_actions, torch.Generator().manual_seed(0))
>>> [log.steps for log in train(model, poles, config, torch.Generator().manual_seed(0))]
[128, 256]

    uv run weeks/21/ppo.py

Sources: Schulman et al., "Proximal policy optimization algorithms" (2017), algorithm 1; Huang et
al., "The 37 implementation details of proximal policy optimization" (2022).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared.require import require
from week09.optimizers import Adam
from week21.policy_gradients import clipped_policy_loss, clipped_value_loss, entropy, gae, whiten


@runtime_checkable
class Environment(Protocol):
    """Several episodes side by side, each restarted where it ends; `CartPole` is one."""

    n_envs: int
    n_inputs: int
    n_actions: int

    def reset(self) -> Float[np.ndarray, "env inputs"]:
        """First states."""

    def step(self, action: Int[np.ndarray, " env"]) -> tuple[np.ndarray, ...]:
        """States, rewards, terminated, truncated, and the states reached before any restart."""


@dataclass(frozen=True)
class PPOConfig:
    """Sizes, weights, and a switch for each detail.

    Attributes
    ----------
    n_steps
        Steps of each environment per update.
    clip, value_clip
        Of the ratio and of the value's step; infinity switches either off.
    whiten, anneal, bootstrap_truncated, orthogonal
        Details that may be switched off.
    """

    total_steps: int = 50_000
    n_envs: int = 16
    n_steps: int = 64
    epochs: int = 8
    minibatches: int = 4
    lr: float = 2.5e-3
    gamma: float = 0.99
    lam: float = 0.95
    clip: float = 0.2
    value_clip: float = math.inf
    value_weight: float = 0.5
    entropy_weight: float = 0.01
    max_grad_norm: float = 0.5
    whiten: bool = True
    anneal: bool = True
    bootstrap_truncated: bool = True

    def __post_init__(self):
        for name in ("total_steps", "n_envs", "n_steps", "epochs", "minibatches"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1", getattr(self, name))
        rows = self.n_envs * self.n_steps
        must = f"minibatches must leave 2 of the {rows} samples in each"
        require(rows // self.minibatches >= 2, must, self.minibatches)
        must = f"total_steps must be at least n_envs * n_steps = {rows}"
        require(self.updates >= 1, must, self.total_steps)
        require(self.max_grad_norm > 0, "max_grad_norm must be positive", self.max_grad_norm)

    @property
    def updates(self) -> int:
        """Rounds of acting and learning; what is left over of total_steps is not used."""
        return self.total_steps // (self.n_envs * self.n_steps)


class ActorCritic(nn.Module):
    """A policy and a value network that share nothing, two layers of tanh each.

    Parameters
    ----------
    orthogonal
        Weights orthogonal with gain sqrt(2), the policy's last layer with 0.01 so that it begins
        nearly uniform, the value's with 1; biases 0. Otherwise as torch would draw them.
    """

    def __init__(
        self,
        n_inputs: int,
        n_actions: int,
        generator: torch.Generator | None = None,
        *,
        width: int = 64,
        orthogonal: bool = True,
    ):
        super().__init__()
        self.policy, self.value = (
            nn.Sequential(
                *(nn.Linear(n_inputs, width), nn.Tanh()),
                *(nn.Linear(width, width), nn.Tanh()),
                nn.Linear(width, n_outputs),
            )
            for n_outputs in (n_actions, 1)
        )
        for network, last in ((self.policy, 0.01), (self.value, 1.0)):
            for i in (0, 2, 4):
                weight, bias = network[i].weight, network[i].bias
                if orthogonal:
                    gain = last if i == 4 else math.sqrt(2)
                    nn.init.orthogonal_(weight, gain, generator=generator)
                    nn.init.zeros_(bias)
                else:
                    bound = 1 / math.sqrt(weight.shape[1])
                    nn.init.uniform_(weight, -bound, bound, generator=generator)
                    nn.init.uniform_(bias, -bound, bound, generator=generator)

    def forward(
        self, states: Float[Tensor, "*batch inputs"]
    ) -> tuple[Float[Tensor, "*batch actions"], Float[Tensor, "*batch"]]:
        """Logits of the actions, and the value."""
        return self.policy(states), self.value(states)[..., 0]


@dataclass
class Rollout:
    """What happened, and what was thought of it, (time, env) each or (time, env, inputs)."""

    states: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    reached: Tensor


@dataclass(frozen=True)
class Log:
    """After an update: steps so far, returns of the episodes that ended, how far the policy went.

    `kl` estimates KL(old || new) over the samples, and `clipped` is the share of ratios beyond
    the clip, both after the last epoch's step that saw them.
    """

    steps: int
    returns: list[float]
    kl: float
    clipped: float


def chosen(
    logits: Float[Tensor, "*batch actions"], actions: Int[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """Log-probabilities of the actions taken."""
    return logits.log_softmax(-1).gather(-1, actions[..., None])[..., 0]


@torch.no_grad()
def collect(
    model: ActorCritic,
    environment: Environment,
    states: Float[np.ndarray, "env inputs"],
    n_steps: int,
    generator: torch.Generator,
) -> tuple[Rollout, Float[np.ndarray, "env inputs"]]:
    """Act for `n_steps` from `states` on; what happened, and the states to go on from."""
    rows = []
    for _ in range(n_steps):
        seen = torch.as_tensor(states, dtype=torch.float32)
        logits, values = model(seen)
        actions = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
        states, rewards, terminated, truncated, reached = environment.step(actions.numpy())
        outcome = (torch.as_tensor(x) for x in (rewards, terminated, truncated, reached))
        rows.append((seen, actions, chosen(logits, actions), values, *outcome))
    stacked = [torch.stack(column) for column in zip(*rows, strict=True)]
    rewards, reached = stacked[4].float(), stacked[7].float()
    return Rollout(*stacked[:4], rewards, *stacked[5:7], reached), states


def advantages_of(
    model: ActorCritic, rollout: Rollout, config: PPOConfig
) -> Float[Tensor, "time env"]:
    """GAE; a cut-off episode is worth what its last state is worth, unless that is off."""
    with torch.no_grad():
        next_values = model(rollout.reached)[1]
    done = rollout.terminated | rollout.truncated
    nothing_follows = rollout.terminated if config.bootstrap_truncated else done
    values = rollout.rewards, rollout.values, next_values
    return gae(*values, nothing_follows, done, gamma=config.gamma, lam=config.lam)


def loss_of(
    model: ActorCritic, rows: dict[str, Tensor], config: PPOConfig
) -> tuple[Float[Tensor, ""], Float[Tensor, " row"]]:
    """Loss of a minibatch, and the logarithm of each ratio."""
    logits, values = model(rows["states"])
    log_probs = chosen(logits, rows["actions"])
    advantages = whiten(rows["advantages"]) if config.whiten else rows["advantages"]
    policy = clipped_policy_loss(log_probs, rows["log_probs"], advantages, clip=config.clip)
    value = clipped_value_loss(values, rows["values"], rows["returns"], clip=config.value_clip)
    loss = policy + config.value_weight * value - config.entropy_weight * entropy(logits).mean()
    return loss, (log_probs - rows["log_probs"]).detach()


def clip_gradients(params: list[Tensor], max_norm: float) -> float:
    """Scale all gradients together so that their joint norm is at most max_norm; the norm."""
    grads = [p.grad for p in params if p.grad is not None]
    norm = math.sqrt(sum(float(grad.square().sum()) for grad in grads))
    for grad in grads:
        grad.mul_(min(1.0, max_norm / (norm + 1e-6)))
    return norm


def train(
    model: ActorCritic, environment: Environment, config: PPOConfig, generator: torch.Generator
) -> Iterator[Log]:
    """Train `model` in place, and give a log after each update."""
    params = list(model.parameters())
    optimizer = Adam(params, lr=config.lr, eps=1e-5)
    states, so_far = environment.reset(), np.zeros(config.n_envs)
    for update in range(config.updates):
        if config.anneal:
            optimizer.lr = config.lr * (1 - update / config.updates)
        rollout, states = collect(model, environment, states, config.n_steps, generator)
        advantages = advantages_of(model, rollout, config)
        batch = {name: getattr(rollout, name) for name in ("states", "actions", "log_probs")}
        batch |= {"values": rollout.values, "advantages": advantages}
        batch |= {"returns": advantages + rollout.values}  # what the values should have been
        batch = {name: x.flatten(0, 1) for name, x in batch.items()}
        log_ratios = []
        for epoch in range(config.epochs):
            order = torch.randperm(len(batch["actions"]), generator=generator)
            for index in order.tensor_split(config.minibatches):
                loss, log_ratio = loss_of(model, {k: x[index] for k, x in batch.items()}, config)
                optimizer.zero_grad()
                loss.backward()
                clip_gradients(params, config.max_grad_norm)
                optimizer.step()
                if epoch == config.epochs - 1:
                    log_ratios.append(log_ratio)
        last = torch.cat(log_ratios)
        kl, clipped = (last.expm1() - last).mean(), (last.expm1().abs() > config.clip).float()
        steps = (update + 1) * config.n_envs * config.n_steps
        returns = finished(rollout, so_far)
        yield Log(steps, returns, float(kl), float(clipped.mean()))


def finished(rollout: Rollout, so_far: Float[np.ndarray, " env"]) -> list[float]:
    """Returns of the episodes that ended; `so_far` carries the others' over, in place."""
    found, done = [], (rollout.terminated | rollout.truncated).numpy()
    for rewards, over in zip(rollout.rewards.numpy(), done, strict=True):
        so_far += rewards
        found += so_far[over].tolist()
        so_far[over] = 0
    return found


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
