r"""A decision problem of a few states, in which values, advantages and gradients are exact.

With the policy's transition matrix $P_\pi$ and discount $\gamma$, values solve $V = r_\pi + \gamma
P_\pi V$, the discounted visits solve $d = \rho + \gamma P_\pi^\top d$, and $J = \rho^\top V$.

>>> mdp = random_mdp(torch.Generator().manual_seed(0), n_states=4, n_actions=2)
>>> policy = torch.full((4, 2), 0.5, dtype=torch.float64)
>>> advantages = mdp.advantages(policy)
>>> bool((policy * advantages).sum(1).abs().max() < 1e-12)  # the average action is as expected
True
>>> bool(mdp.objective(policy) < mdp.best())
True

Source: Puterman, *Markov Decision Processes* (1994), sections 6.1 and 6.4.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from shared.require import require

Policy = Float[Tensor, "state action"]


@dataclass(frozen=True)
class MDP:
    """Transitions P(s' | s, a), rewards of each state and action, first states, discount."""

    transitions: Float[Tensor, "state action next"]
    rewards: Policy
    start: Float[Tensor, " state"]
    gamma: float = 0.95

    def values(self, policy: Policy) -> Float[Tensor, " state"]:
        """Discounted return from each state on."""
        step = torch.einsum("sa,san->sn", policy, self.transitions)
        eye = torch.eye(len(step), dtype=step.dtype)
        return torch.linalg.solve(eye - self.gamma * step, (policy * self.rewards).sum(1))

    def visits(self, policy: Policy) -> Float[Tensor, " state"]:
        """Discounted number of visits; they add up to 1 / (1 - gamma)."""
        step = torch.einsum("sa,san->sn", policy, self.transitions)
        eye = torch.eye(len(step), dtype=step.dtype)
        return torch.linalg.solve(eye - self.gamma * step.T, self.start)

    def advantages(self, policy: Policy) -> Policy:
        """How much better each action is than the policy's average."""
        values = self.values(policy)
        return self.rewards + self.gamma * self.transitions @ values - values[:, None]

    def objective(self, policy: Policy) -> Float[Tensor, ""]:
        """Expected discounted return from the first states."""
        return self.start @ self.values(policy)

    def best(self) -> Float[Tensor, ""]:
        """The largest objective, by policy iteration."""
        n_states, n_actions = self.rewards.shape
        choice = torch.zeros(n_states, dtype=torch.long)
        while True:
            policy = torch.nn.functional.one_hot(choice, n_actions).to(self.rewards.dtype)
            advantages = self.advantages(policy)
            better = advantages.argmax(1)
            gain = advantages.gather(1, better[:, None])[:, 0]
            if gain.max() < 1e-10:
                return self.objective(policy)
            choice = torch.where(gain > 1e-10, better, choice)


def random_mdp(
    generator: torch.Generator, *, n_states: int = 8, n_actions: int = 3, gamma: float = 0.95
) -> MDP:
    """Peaked random transitions (squared uniforms, normalized) and normal rewards."""
    require(n_states >= 1, "n_states must be at least 1", n_states)
    require(n_actions >= 1, "n_actions must be at least 1", n_actions)
    options = {"generator": generator, "dtype": torch.float64}
    raw = torch.rand(n_states, n_actions, n_states, **options) ** 6 + 1e-6
    rewards = torch.randn(n_states, n_actions, **options)
    start = torch.full((n_states,), 1 / n_states, dtype=torch.float64)
    return MDP(raw / raw.sum(-1, keepdim=True), rewards, start, gamma)


@torch.no_grad()
def walk(
    mdp: MDP, policy: Policy, walks: int, steps: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """States (steps + 1, walks) and actions (steps, walks) of so many walks."""
    state = torch.multinomial(mdp.start, walks, True, generator=generator)
    states, actions = [state], []
    for _ in range(steps):
        action = torch.multinomial(policy[state], 1, generator=generator)[:, 0]
        state = torch.multinomial(mdp.transitions[state, action], 1, generator=generator)[:, 0]
        states.append(state)
        actions.append(action)
    return torch.stack(states), torch.stack(actions)
