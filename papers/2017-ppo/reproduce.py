r"""What does the clip do, and when? It matters once the same samples are used many times.

$$L(\theta) = \mathbb{E}\big[\min(\rho A,\ \mathrm{clip}(\rho, 1 - \epsilon, 1 + \epsilon) A)\big],
\qquad \rho = \pi_\theta(a \mid s) / \pi_\text{old}(a \mid s)$$

stops rewarding a ratio beyond $1 \pm \epsilon$. With one step per batch of samples the ratio begins
at 1 and the clip never acts. Decision problems of 8 states, in which advantages, returns and the
best policy are exact, compare one step with many, at several learning rates. The rules stand in
README.md's front matter.

    uv run papers/2017-ppo/reproduce.py

Schulman, Wolski, Dhariwal, Radford & Klimov (2017), "Proximal policy optimization algorithms",
equation 7, section 6.1 and table 1.
"""

import math

import numpy as np
import torch
from torch import Tensor

from shared import papers, plots
from shared.study import PositiveInt, Run, cli
from week21.policy_gradients import clipped_policy_loss, gae, whiten
from week21.small_mdp import MDP, random_mdp, walk

ARMS = {"no clip": math.inf, "clip 0.1": 0.1, "clip 0.2": 0.2, "clip 0.3": 0.3}


def improve(
    mdp: MDP, arm: str, epochs: int, lr: float, generator: torch.Generator, updates: int
) -> tuple[float, float]:
    """Normalized score over the second half of the updates, and the mean KL per update.

    The score is 0 for the uniform policy and 1 for the best. An update draws one walk of 25 steps
    and takes `epochs` steps of gradient descent on all of it.
    """
    logits = torch.zeros_like(mdp.rewards)
    random, best = mdp.objective(logits.softmax(1)), mdp.best()
    scores, kls = [], []
    for _ in range(updates):
        old = logits.log_softmax(1)
        states, actions = walk(mdp, old.exp(), 1, 25, generator)
        at = states[:-1].flatten(), actions.flatten()
        advantages = whiten(estimated(mdp, mdp.values(old.exp()), states, actions)).flatten()
        for _ in range(epochs):
            logits = logits.detach().requires_grad_()
            new = logits.log_softmax(1)
            loss = clipped_policy_loss(new[at], old[at], advantages, clip=ARMS[arm])
            (gradient,) = torch.autograd.grad(loss, logits)
            logits = logits.detach() - lr * gradient
        kls.append(float(divergence(old, logits.log_softmax(1), at[0])))
        scores.append(float((mdp.objective(logits.softmax(1)) - random) / (best - random)))
    return float(np.mean(scores[updates // 2 :])), float(np.mean(kls))


def estimated(mdp: MDP, values: Tensor, states: Tensor, actions: Tensor) -> Tensor:
    """Advantages as PPO has them: from the walk, by GAE, here with the values exact."""
    never = torch.zeros_like(actions, dtype=torch.bool)
    rewards, seen = mdp.rewards[states[:-1], actions], values[states]
    return gae(rewards, seen[:-1], seen[1:], never, never, gamma=mdp.gamma, lam=0.95)


def divergence(old: Tensor, new: Tensor, states: Tensor) -> Tensor:
    """KL(old ‖ new) averaged over the states that were seen."""
    return (old.exp() * (old - new)).sum(1)[states].mean()


def check(run: Run) -> None:
    """At ratio 1 the loss has the policy gradient, which is exact here."""
    generator = run.generator(1)
    mdp = random_mdp(generator)
    logits = torch.randn(mdp.rewards.shape, generator=generator, dtype=torch.float64)
    logits.requires_grad_()
    policy, old = logits.softmax(1), logits.detach().log_softmax(1)
    (exact,) = torch.autograd.grad(mdp.objective(policy), logits, retain_graph=True)
    weight = mdp.visits(old.exp())[:, None] * old.exp() * old.numel()
    loss = clipped_policy_loss(policy.log(), old, mdp.advantages(old.exp()) * weight)
    (ours,) = torch.autograd.grad(-loss, logits)
    why = {"kind": "theorem", "atol": 1e-10, "why": "float64 rounding, two linear systems"}
    against = "∇J by differentiating the solution of V = r + γPV"
    run.check("gradient at ratio 1", ours, exact, against=against, **why)


def main(run: Run, *, seeds: PositiveInt = 6) -> None:
    """Score and divergence by clip, steps per batch and learning rate.

    Parameters
    ----------
    seeds
        Decision problems of 8 states.
    """
    torch.set_num_threads(1)  # products this small are slower on several
    paper = papers.load(__file__)
    few, many = paper.matter["steps"]
    rates = run.budget(quick=[10.0], default=paper.matter["rates"])
    arms = run.budget(quick=["no clip", "clip 0.2"], default=list(ARMS))
    seeds, updates = run.budget(quick=(2, 4), default=(max(seeds, 2), 40))
    check(run)
    found = {}
    for arm in run.progress(arms, "clips"):
        for steps in (few, many):
            for lr in rates:
                rows = [one(run, seed, arm, steps, lr, updates) for seed in range(seeds)]
                found[arm, steps, lr] = np.array(rows)
    judge(run, paper, found, few, many, rates[-1])
    if run.mode != "quick":
        draw(run, found, few, many, rates)


def one(run: Run, seed: int, arm: str, steps: int, lr: float, updates: int) -> tuple[float, float]:
    """Score and divergence in one problem; all arms see the same one."""
    mdp = random_mdp(run.generator(100 + seed))
    return improve(mdp, arm, steps, lr, run.generator(200 + seed), updates)


def judge(run: Run, paper, found: dict, few: int, many: int, lr: float) -> None:
    """The three rules at the largest learning rate; the first again with one step per batch."""

    def gain(steps: int) -> np.ndarray:
        return found["clip 0.2", steps, lr][:, 0] - found["no clip", steps, lr][:, 0]

    name = "with many steps per batch the clip helps"
    paper.judge(run, name, gain(many), quick=False)
    run.falsifier("one step per batch", gain(few), breaks=name)
    paper.judge(run, "with one step per batch it does nothing", np.abs(gain(few)))
    ratio = found["no clip", many, lr][:, 1] / found["clip 0.2", many, lr][:, 1]
    name = "the clip keeps the policy near the old one"
    paper.judge(run, name, ratio, quick=False)
    for arm in ("no clip", "clip 0.2"):
        run.metric(f"score, {arm}, many steps", found[arm, many, lr][:, 0].mean(), rtol=0.1)
        run.metric(f"KL per update, {arm}, many steps", found[arm, many, lr][:, 1].mean(), rtol=0.2)
    best = {arm: max(v[:, 0].mean() for k, v in found.items() if k[0] == arm) for arm, *_ in found}
    for arm in ("no clip", "clip 0.2"):
        run.metric(f"best mean score of any cell, {arm}", best[arm], rtol=0.1)


def draw(run: Run, found: dict, few: int, many: int, rates: list[float]) -> None:
    """Scores by learning rate, with few and with many steps per batch."""
    title = "When does the clip matter?"
    options = {"size": (9.0, 4.2), "sharey": True}
    with run.figure("clip", title, columns=2, **options) as (left, right):
        for axes, steps in ((left, few), (right, many)):
            lines = {arm: [found[arm, steps, lr][:, 0] for lr in rates] for arm in ARMS}
            lines = {arm: np.transpose(rows) for arm, rows in lines.items()}
            labels = {"xlabel": "learning rate", "xscale": "log"}
            best = {"the best policy": 1.0}
            plots.curves(axes, rates, lines, marker="o", reference=best, ends=False, **labels)
            axes.set_title(f"{steps} step{'s' * (steps > 1)} per batch")
        left.set_ylabel("score (0: uniform policy)")


if __name__ == "__main__":
    cli(main)
