"""The environment against gymnasium, an update against CleanRL's, and eight details taken away."""

import math
from dataclasses import replace

import numpy as np
import torch

from shared import plots
from shared.study import PositiveInt, Run
from week21.cartpole import CartPole
from week21.evidence.threads import one_thread
from week21.ppo import ActorCritic, Log, PPOConfig, chosen, loss_of, train

SOLVED = 475  # gymnasium's threshold for CartPole-v1
WITHOUT = {
    "clipping": {"clip": math.inf},
    "several epochs": {"epochs": 1},
    "whitening": {"whiten": False},
    "a falling learning rate": {"anneal": False},
    "clipping of the gradient": {"max_grad_norm": math.inf},
    "values at time limits": {"bootstrap_truncated": False},
    "orthogonal weights": {},
    "unclipped values": {"value_clip": 0.2},
}


def main(run: Run, *, seeds: PositiveInt = 3) -> None:
    """Check environment and update, learn to balance a pole, then take details away.

    Parameters
    ----------
    seeds
        Runs of each variant; 6 with --full.
    """
    run.rounding(0.05, "an action that rounding changes leads elsewhere")
    check_environment(run)
    check_update(run)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 6))
    config = run.budget(quick=PPOConfig(total_steps=2048, n_steps=32), default=PPOConfig())
    left = run.budget(quick=["clipping"], default=list(WITHOUT))
    with one_thread():
        learn(run, config, seeds, left)


# ---- checks


def check_environment(run: Run) -> None:
    """The same pushes on gymnasium's cart, until it falls, several times."""
    import gymnasium

    theirs = gymnasium.make("CartPole-v1").unwrapped
    states, ends, expected, expected_ends = [], [], [], []
    for episode in range(10):
        theirs.reset(seed=run.seed + episode)
        ours = CartPole(1, run.rng)
        ours.reset()
        ours.state = theirs.state[None].copy()
        over = False
        while not over:
            action = int(run.rng.integers(2))
            over = theirs.step(action)[2]
            _, _, terminated, _, reached = ours.step(np.array([action]))
            states.append(reached[0])
            ends.append(bool(terminated[0]))
            expected.append(np.array(theirs.state))
            expected_ends.append(over)
    equal = run.against("gymnasium's CartPole-v1", why="float64 sums in another order")
    equal("states of ten episodes", np.array(states), np.array(expected), atol=1e-12)
    equal("when an episode is over", np.array(ends), np.array(expected_ends))


def check_update(run: Run) -> None:
    """Weights after a few minibatches: ours, and CleanRL's update on torch's own parts."""
    generator = run.generator(1)
    model = ActorCritic(4, 2, generator).double()
    other = ActorCritic(4, 2).double()
    other.load_state_dict(model.state_dict())
    config = PPOConfig(value_clip=0.2, max_grad_norm=0.1)
    batches = [random_rows(model, generator) for _ in range(8)]
    ours = our_steps(model, batches, config)
    theirs = cleanrl_steps(other, batches, config)
    where = "CleanRL's update transcribed, on torch's Adam, Categorical and clip_grad_norm_"
    equal = run.against(where, atol=1e-9, why="float64 rounding; Adam divides small by small")
    equal("weights after 8 minibatches", ours, theirs)


def random_rows(model: ActorCritic, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """A minibatch of 64 whose old policy and values lie near the model's."""
    states = torch.randn(64, 4, generator=generator, dtype=torch.float64)
    actions = torch.randint(2, (64,), generator=generator)
    noise = torch.randn(4, 64, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        logits, values = model(states)
    rows = {"states": states, "actions": actions, "advantages": 2 * noise[2] + 1}
    rows |= {"log_probs": chosen(logits, actions) + 0.3 * noise[0]}
    return rows | {"values": values + 0.3 * noise[1], "returns": values + noise[3]}


def our_steps(model: ActorCritic, batches: list, config: PPOConfig) -> torch.Tensor:
    """All weights, after a step on each minibatch."""
    from week09.optimizers import Adam
    from week21.ppo import clip_gradients

    params = list(model.parameters())
    optimizer = Adam(params, lr=config.lr, eps=1e-5)
    for rows in batches:
        optimizer.zero_grad()
        loss_of(model, rows, config)[0].backward()
        clip_gradients(params, config.max_grad_norm)
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in params])


def cleanrl_steps(model: ActorCritic, batches: list, config: PPOConfig) -> torch.Tensor:
    """The same, as CleanRL's ppo.py has it: maxima of negated terms, two squares."""
    params = list(model.parameters())
    optimizer = torch.optim.Adam(params, lr=config.lr, eps=1e-5)
    for rows in batches:
        policy = torch.distributions.Categorical(logits=model.policy(rows["states"]))
        ratio = (policy.log_prob(rows["actions"]) - rows["log_probs"]).exp()
        a = rows["advantages"]
        a = (a - a.mean()) / (a.std() + 1e-8)
        clipped = torch.clamp(ratio, 1 - config.clip, 1 + config.clip)
        policy_loss = torch.max(-a * ratio, -a * clipped).mean()
        values = model.value(rows["states"]).view(-1)
        squares = (values - rows["returns"]) ** 2
        step = torch.clamp(values - rows["values"], -config.value_clip, config.value_clip)
        near = (rows["values"] + step - rows["returns"]) ** 2
        value_loss = 0.5 * torch.max(squares, near).mean()
        loss = policy_loss - config.entropy_weight * policy.entropy().mean()
        loss = loss + config.value_weight * value_loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, config.max_grad_norm)
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in params])


# ---- learning


class RandomRewards(CartPole):
    """The same poles, and rewards that say nothing. With a mean above 0 they would: live long."""

    def step(self, action):
        """One push; normal rewards of mean 0."""
        states, rewards, *rest = super().step(action)
        return states, self.rng.standard_normal(rewards.shape), *rest


@torch.no_grad()
def balance(model: ActorCritic, rng: np.random.Generator, episodes: int = 100) -> float:
    """Mean return of episodes in which the likelier action is taken."""
    poles = CartPole(episodes, rng)
    states, alive, total = poles.reset(), np.ones(episodes, dtype=bool), 0.0
    while alive.any():
        actions = model(torch.as_tensor(states, dtype=torch.float32))[0].argmax(-1)
        states, rewards, terminated, truncated, _ = poles.step(actions.numpy())
        total += rewards[alive].sum()
        alive &= ~(terminated | truncated)
    return total / episodes


def one(
    seed: int, config: PPOConfig, *, orthogonal: bool = True, world: type[CartPole] = CartPole
) -> tuple[float, list[Log]]:
    """Train from scratch: the return at the end, and the logs."""
    generator = torch.Generator().manual_seed(seed)
    environment = world(config.n_envs, np.random.default_rng(seed))
    model = ActorCritic(
        environment.n_inputs, environment.n_actions, generator, orthogonal=orthogonal
    )
    logs = list(train(model, environment, config, generator))
    return balance(model, np.random.default_rng([seed, 1])), logs


def mean_length(logs: list[Log]) -> float:
    """Steps per episode over the whole of training: the sooner it learns, the longer they are."""
    return logs[-1].steps / max(1, sum(len(log.returns) for log in logs))


def curve(logs: list[Log]) -> np.ndarray:
    """Mean return of the episodes that ended in each update; of the last ones where none did."""
    found = [0.0]
    for log in logs:
        found.append(float(np.mean(log.returns)) if log.returns else found[-1])
    return np.array(found[1:])


def learn(run: Run, config: PPOConfig, seeds: int, left_out: list[str]) -> None:
    """The whole, a control whose rewards say nothing, and the whole without each of its parts."""
    of = range(run.seed, run.seed + seeds)
    whole = [one(seed, config) for seed in run.progress(of, "PPO")]
    solves = "PPO balances the pole"
    rule = {"at_least": SOLVED, "each": True, "unit": "steps of 500", "quick": False}
    run.claim(solves, [score for score, _ in whole], **rule, seen_before="4 other seeds")
    control = [one(seed, config, world=RandomRewards)[0] for seed in of]
    run.falsifier("random rewards", control, breaks=solves)
    gains, ends, logs_of = {}, {}, {"PPO": [logs for _, logs in whole]}
    for name in run.progress(left_out, "without"):
        changed, orthogonal = replace(config, **WITHOUT[name]), name != "orthogonal weights"
        found = [one(seed, changed, orthogonal=orthogonal) for seed in of]
        logs_of[name], ends[name] = [logs for _, logs in found], [score for score, _ in found]
        gains[name] = gain(logs_of["PPO"], logs_of[name])
        seen = "4 other seeds" if name == "unclipped values" else ""
        rule = {"at_least": 0.0, "unit": "steps/episode", "seen_before": seen, "quick": False}
        run.claim(f"it learns faster with {name}", gains[name], **rule)
        run.metric(f"balance at the end without {name}", np.mean(ends[name]), rtol=0.5)
    run.metric("balance at the end", np.mean([score for score, _ in whole]), rtol=0.5)
    run.metric("steps per episode in training", np.mean([mean_length(x) for x in logs_of["PPO"]]))
    for name in ("PPO", "clipping"):
        kl = np.mean([np.mean([log.kl for log in logs]) for logs in logs_of[name]])
        run.metric(f"KL per update{'' if name == 'PPO' else ' without clipping'}", kl, rtol=0.5)
    draw(run, logs_of, gains)


def gain(whole: list[list[Log]], without: list[list[Log]]) -> np.ndarray:
    """Steps per episode in training with the part, minus those without it, seed by seed."""
    return np.array([mean_length(x) - mean_length(y) for x, y in zip(whole, without, strict=True)])


def draw(run: Run, logs_of: dict[str, list[list[Log]]], gains: dict[str, np.ndarray]) -> None:
    """Learning curves of the whole and of what its clips do, and a bar for each part."""
    steps = np.array([log.steps for log in logs_of["PPO"][0]]) / 1000
    shown = {"PPO": "PPO", "clipping": "no clipping", "unclipped values": "values clipped too"}
    lines = {text: [curve(x) for x in logs_of[k]] for k, text in shown.items() if k in logs_of}
    title = "How soon does PPO balance the pole, and what do the clips do?"
    with run.figure("learning", title, size=(8.2, 4.2)) as axes:
        labels = {"xlabel": "thousand steps", "ylabel": "return of the episodes that ended"}
        plots.curves(axes, steps, lines, reference={"solved": SOLVED}, **labels)
    title = "What does each detail add? Steps per episode in training, with minus without"
    with run.figure("details", title, size=(8.2, 4.2)) as axes:
        xlabel = "gain in mean length of the training's episodes (steps)"
        plots.bars(axes, gains, reference={"no gain": 0.0}, xlabel=xlabel)
