"""Estimates against enumeration, PPO's loss against trl's, and what λ trades for what."""

import numpy as np
import torch
from torch import Tensor

from shared import plots
from shared.study import PositiveInt, Run
from week21.evidence.trl_loss import losses_and_gradients
from week21.policy_gradients import clipped_policy_loss, gae, kl_estimate, kl_optimum
from week21.small_mdp import MDP, random_mdp, walk

LAMBDAS = (0.0, 0.5, 0.8, 0.9, 0.95, 1.0)
KINDS = ("k1", "k2", "k3")
AVERAGED = 64


def main(run: Run, *, problems: PositiveInt = 8) -> None:
    """Check the estimators, then measure bias and variance of advantages in small problems.

    Parameters
    ----------
    problems
        Random decision problems, each with a value function that is wrong in its own way.
    """
    check_gae(run)
    check_gradient(run)
    check_against_trl(run)
    check_kl(run)
    check_bandit(run)
    problems = run.budget(quick=3, default=max(problems, 2))
    trade_bias_for_variance(run, problems, run.budget(quick=200, default=4000))
    draw_kl(run)


# ---- checks


def double_sum(delta: Tensor, done: Tensor, decay: float) -> Tensor:
    """Advantages as they are defined: for each step, all later errors of the same episode."""
    out = torch.zeros_like(delta)
    for t in range(len(delta)):
        weight = torch.ones_like(delta[0])
        for k in range(t, len(delta)):
            out[t] += weight * delta[k]
            weight = weight * decay * ~done[k]
    return out


def check_gae(run: Run) -> None:
    """The backward pass is the sum over all later steps, with ends and cut-offs."""
    generator = run.generator(1)
    rewards, values, following = torch.randn(
        3, 40, 5, generator=generator, dtype=torch.float64
    ).unbind()
    done = torch.rand(40, 5, generator=generator) < 0.1
    terminated = done & (torch.rand(40, 5, generator=generator) < 0.5)
    ours = gae(rewards, values, following, terminated, done, gamma=0.97, lam=0.9)
    delta = rewards + 0.97 * following * ~terminated - values
    why = {"kind": "theorem", "atol": 1e-12, "why": "float64 sums in another order"}
    equal = run.against("the definition, a sum over all later steps", **why)
    equal("advantages with ends and time limits", ours, double_sum(delta, done, 0.97 * 0.9))


def check_gradient(run: Run) -> None:
    """Before the first step PPO's gradient is the policy gradient; a baseline changes nothing."""
    generator = run.generator(2)
    mdp = random_mdp(generator)
    logits = torch.randn(mdp.rewards.shape, generator=generator, dtype=torch.float64)
    logits.requires_grad_()
    policy = logits.softmax(-1)
    (exact,) = torch.autograd.grad(mdp.objective(policy), logits, retain_graph=True)
    fixed = policy.detach()
    weight = mdp.visits(fixed)[:, None] * fixed  # of each state and action
    baseline = torch.randn(len(mdp.start), 1, generator=generator, dtype=torch.float64)
    why = {"kind": "theorem", "atol": 1e-10, "why": "float64 rounding, two linear systems"}
    equal = run.against("∇J by differentiating the solution of V = r + γPV", **why)
    for name, shift in {"": 0.0, ", any baseline": baseline}.items():
        weighted = (mdp.advantages(fixed) + shift) * weight * weight.numel()
        loss = clipped_policy_loss(policy.log(), fixed.log(), weighted)
        (ours,) = torch.autograd.grad(-loss, logits, retain_graph=True)
        equal(f"gradient of the clipped loss at ratio 1{name}", ours, exact)


def check_against_trl(run: Run) -> None:
    """The clipped loss, alone and with a k3 penalty, in trl's GRPO trainer."""
    ours, theirs = losses_and_gradients(run.generator(3))
    equal = run.against("trl's GRPOTrainer, loss_type 'bnpo'", atol=1e-12, why="float64 rounding")
    for beta in ours:
        name = "clipped loss" + (", k3 penalty" if beta else "")
        equal(name, ours[beta][0], theirs[beta][0])
        equal(f"gradient of the {name}", ours[beta][1], theirs[beta][1])


def kl(p: Tensor, q: Tensor) -> Tensor:
    """Exact divergence of two distributions."""
    return (p * (p / q).log()).sum()


def check_kl(run: Run) -> None:
    """Means and mean gradients of the three estimators, all five actions added up."""
    generator = run.generator(4)
    reference = torch.randn(5, generator=generator, dtype=torch.float64).log_softmax(0)
    logits = torch.randn(5, generator=generator, dtype=torch.float64).requires_grad_()
    log_probs = logits.log_softmax(0)
    p, q = log_probs.exp(), reference.exp()
    estimates = {kind: kl_estimate(log_probs, reference, kind) for kind in KINDS}
    why = {"kind": "theorem", "atol": 1e-12, "why": "float64 rounding"}
    equal = run.against("KL(π ‖ ref) by its definition, 5 actions", **why)
    for kind in ("k1", "k3"):
        equal(f"mean of {kind}", (p * estimates[kind]).sum(), kl(p, q))
    exact = {"k1": 0 * logits.sum(), "k2": kl(p, q), "k3": kl(q, p)}
    names = {"k1": "zero", "k2": "∇KL(π ‖ ref)", "k3": "∇KL(ref ‖ π)"}
    for kind in KINDS:
        loss = (p.detach() * estimates[kind]).sum()  # samples come from the policy as it is
        (ours,) = torch.autograd.grad(loss, logits, retain_graph=True)
        (theirs,) = torch.autograd.grad(exact[kind], logits, retain_graph=True)
        equal = run.against(f"{names[kind]}, by autograd", **why)
        equal(f"mean gradient of {kind} as a loss", ours, theirs)


def check_bandit(run: Run) -> None:
    """With KL in the reward, PPO with exact expectations ends where the formula says."""
    generator = run.generator(5)
    rewards = torch.randn(10, generator=generator, dtype=torch.float64)
    reference = torch.randn(10, generator=generator, dtype=torch.float64).softmax(0)
    why = {"kind": "theorem", "why": "600 updates approach it, geometrically"}
    equal = run.against("π ∝ π_ref exp(r/β)", atol=1e-6, **why)
    for beta in (0.1, 0.5, 2.0):
        policy = bandit_ppo(rewards, reference, beta)
        equal(f"bandit, β = {beta:g}", policy, kl_optimum(reference, rewards, beta))


def bandit_ppo(
    rewards: Tensor, reference: Tensor, beta: float, updates: int = 600, epochs: int = 4
) -> Tensor:
    """Policy after PPO on a bandit; all actions at once, each by its probability."""
    logits = reference.log().clone().requires_grad_()
    lr = 0.5 / (1 + beta)
    for _ in range(updates):
        old = logits.detach().log_softmax(0)
        shaped = rewards - beta * kl_estimate(old, reference.log(), "k1")
        advantages = shaped - (old.exp() * shaped).sum()
        weights = advantages * old.exp() * len(old)
        for _ in range(epochs):
            # dividing by the probability makes it the natural gradient: all actions at one rate
            loss = clipped_policy_loss(logits.log_softmax(0), old, weights, clip=0.2)
            (gradient,) = torch.autograd.grad(loss, logits)
            logits.data -= lr * gradient / logits.detach().softmax(0)
    return logits.detach().softmax(0)


# ---- bias and variance


def trade_bias_for_variance(run: Run, problems: int, walks: int) -> None:
    """Error of the advantages by λ, with a wrong and with an exact value function."""
    errors = {"wrong": [], "exact": []}
    for i in range(problems):
        generator = run.generator(20 + i)
        mdp = random_mdp(generator)
        policy = torch.randn(mdp.rewards.shape, generator=generator, dtype=torch.float64)
        policy = policy.softmax(-1)
        exact = mdp.values(policy)
        noise = torch.randn(len(exact), generator=generator, dtype=torch.float64)
        walked = *walk(mdp, policy, walks, 150, generator), policy
        for name, size in (("wrong", 1.0), ("exact", 0.0)):
            values = exact + size * exact.std() * noise
            errors[name].append([bias_and_noise(mdp, values, walked, lam) for lam in LAMBDAS])
    wrong, exact = (error_of(np.array(errors[name]), AVERAGED) for name in ("wrong", "exact"))
    name = "λ = 0.8 beats both ends where values are wrong"
    rule = {"at_least": 0.0, "unit": "of its error", "quick": False}
    note = f"{AVERAGED} samples averaged, problems"
    seen = "8 other problems"
    run.claim(name, edge(wrong), **rule, note=note, seen_before=seen)
    run.falsifier("exact values", edge(exact), breaks=name)
    for lam, error in zip(LAMBDAS, wrong.mean(0), strict=True):
        run.metric(f"error at λ = {lam:g}, wrong values", error)
    title = "How far should an advantage look ahead? Further, with more samples"
    with run.figure("gae", title, size=(8.0, 4.2)) as axes:
        lines = {
            f"{n} sample{'s' * (n > 1)}": error_of(np.array(errors["wrong"]), n)
            for n in (1, 8, 64, 512)
        }
        labels = {"xlabel": "λ", "ylabel": "error / size of the advantages", "yscale": "log"}
        plots.curves(axes, np.array(LAMBDAS), lines, marker="o", **labels)


def edge(error: np.ndarray) -> np.ndarray:
    """By how much the better of the two ends is worse than λ = 0.8, for each problem."""
    return np.minimum(error[:, 0], error[:, -1]) / error[:, LAMBDAS.index(0.8)] - 1


def error_of(parts: np.ndarray, samples: int) -> np.ndarray:
    """Root mean squared error of the mean of so many samples."""
    return np.sqrt(parts[..., 0] + parts[..., 1] / samples)


def bias_and_noise(mdp: MDP, values: Tensor, walked: tuple, lam: float) -> tuple[float, float]:
    """Mean squared bias and variance of a walk's first advantage, over its mean square.

    The mean of the estimate is known: errors δ on average, and all that follow, decaying. What it
    is off by in a state whatever the action is a baseline, and does not bias the gradient.
    """
    states, actions, policy = walked
    exact = mdp.advantages(policy)
    delta = mdp.rewards + mdp.gamma * mdp.transitions @ values - values[:, None]
    step = torch.einsum("sa,san->sn", policy, mdp.transitions)
    eye, decay = torch.eye(len(values), dtype=values.dtype), mdp.gamma * lam
    later = torch.linalg.solve(eye - decay * step, (policy * delta).sum(1))
    mean = delta + decay * mdp.transitions @ later
    bias = mean - (policy * mean).sum(1, keepdim=True) - exact
    never = torch.zeros_like(actions, dtype=torch.bool)
    seen, rewards = values[states], mdp.rewards[states[:-1], actions]
    found = gae(rewards, seen[:-1], seen[1:], never, never, gamma=mdp.gamma, lam=lam)[0]
    noise = found - mean[states[0], actions[0]]
    share = mdp.start[:, None] * policy
    scale = (share * exact.square()).sum()
    return float((share * bias.square()).sum() / scale), float(noise.square().mean() / scale)


# ---- the estimators' spread


def draw_kl(run: Run) -> None:
    """Standard deviations of k1, k2 and k3 for two Gaussians, one shifted from the other."""
    shifts = np.array([0.03, 0.1, 0.3, 1.0, 2.0])
    x = torch.linspace(-12, 14, 40_001, dtype=torch.float64)
    spread = {kind: [] for kind in KINDS}
    for shift in shifts:
        log_p, log_q = (-((x - m) ** 2) / 2 - np.log(2 * np.pi) / 2 for m in (shift, 0.0))
        weight = log_p.exp() * (x[1] - x[0])
        for kind in KINDS:
            value = kl_estimate(log_p, log_q, kind)
            mean = (weight * value).sum()
            deviation = (weight * (value - mean).square()).sum().sqrt()
            spread[kind].append(float(deviation / (shift**2 / 2)))
    run.metric("deviation of k1 over KL, means 0.1 apart", spread["k1"][1])
    run.metric("deviation of k3 over KL, means 0.1 apart", spread["k3"][1])
    run.metric("deviation of k1 over KL, means 2 apart", spread["k1"][-1])
    run.metric("deviation of k3 over KL, means 2 apart", spread["k3"][-1])
    title = "How noisy is one sample's estimate of KL?"
    with run.figure("kl", title, size=(7.4, 4.2)) as axes:
        labels = {"xlabel": "exact KL of two Gaussians (nats)", "ylabel": "deviation / exact KL"}
        labels |= {"xscale": "log", "yscale": "log"}
        plots.curves(axes, shifts**2 / 2, spread, marker="o", **labels)
