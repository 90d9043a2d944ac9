"""TRL's loss on the same numbers, two theorems by enumeration, and a policy that learns sums."""

import copy
import itertools
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from shared import plots
from shared.measuring import pinned
from shared.study import PositiveInt, Run
from week18.llama3 import Llama
from week18.transformers_twin import randomize, transformers_twin
from week21.arithmetic import END_ID, Problems, imitate, response_text, small_llama
from week21.evidence.trl_grpo import trl_loss
from week21.grpo import (
    Batch,
    GRPOConfig,
    clipped_losses,
    group_advantages,
    kl_estimate,
    reduce_losses,
    response_log_probs,
    response_mask,
    sample_answers,
    train,
)

SUMS = Problems(terms=2, digits=2)
MAX_LENGTH = 4  # three digits and <end>
SEEN = "three of these seeds: 0.07 ± 0.06"
REDUCTIONS = {"grpo": "sequence", "bnpo": "token", "dapo": "token", "dr_grpo": "constant"}
GRPO = GRPOConfig(n_prompts=32, max_length=MAX_LENGTH, lr=2e-4)
ARMS = {
    "GRPO": (GRPO, "right"),
    "Dr. GRPO": (
        GRPOConfig(32, 8, MAX_LENGTH, 2e-4, scale=False, reduction="constant"),
        "right",
    ),
    "DAPO": (
        GRPOConfig(32, 8, MAX_LENGTH, 2e-4, 0.0, (0.2, 0.28), reduction="token", dynamic=True),
        "right",
    ),
    "rewards shuffled": (GRPO, "shuffled"),
    "learning rate × 10": (GRPOConfig(32, 8, MAX_LENGTH, 2e-3), "right"),
}


def main(run: Run, *, seeds: PositiveInt = 3) -> None:
    """Compare with TRL and with theorems, then train a policy by a verifier.

    Parameters
    ----------
    seeds
        Policies of each kind.
    """
    run.rounding(0.05, "Muon multiplies in bfloat16, which processors round differently")
    check_against_trl(run)
    check_first_steps(run)
    check_expected_gradient(run)
    check_kl(run)
    with pinned():
        learn(run, run.budget(quick=1, default=max(2, seeds), full=max(8, seeds)))


# ---- checks


def random_answers(seed: int, n: int = 8, length: int = 9) -> dict[str, Tensor]:
    """Log-probabilities, advantages and a mask as they come in training, ratios near 1."""
    g = torch.Generator().manual_seed(seed)
    log_old = -2 * torch.rand(n, length, generator=g, dtype=torch.float64)
    lengths = torch.randint(1, length + 1, (n, 1), generator=g)
    near = 0.4 * torch.randn(2, n, length, generator=g, dtype=torch.float64)
    rewards = torch.randint(0, 2, (n // 4, 4), generator=g).double()
    return {
        "log_p": (log_old + near[0]).requires_grad_(),
        "log_old": log_old,
        "log_ref": log_old + near[1],
        "advantages": group_advantages(rewards).flatten(),
        "mask": torch.arange(length) < lengths,
    }


def our_loss(log_p, log_old, log_ref, advantages, mask, *, kind, beta, clip, max_length) -> Tensor:
    """Our loss in the arguments of `trl_loss`."""
    losses = clipped_losses(log_p, log_old, advantages, clip)
    losses = losses + beta * kl_estimate(log_p, log_ref)
    return reduce_losses(losses, mask, REDUCTIONS[kind], max_length=max_length)


def check_against_trl(run: Run) -> None:
    """Loss and gradient of the four kinds, with a clip that is wider above."""
    equal = run.against("trl GRPOTrainer._compute_loss", atol=1e-12, why="float64 rounding")
    for kind in REDUCTIONS:
        values, gradients = [], []
        for function in (our_loss, trl_loss):
            answers = random_answers(run.seed + 3)
            settings = {"kind": kind, "beta": 0.04, "clip": (0.2, 0.28), "max_length": 16}
            loss = function(**answers, **settings)
            loss.backward()
            values.append(loss.item())
            gradients.append(answers["log_p"].grad)
        equal(f"{kind}: loss", *values)
        equal(f"{kind}: gradient", *gradients)


def check_first_steps(run: Run) -> None:
    """Three updates on the same answers, by transformers' LLaMA, TRL's loss and torch's AdamW."""
    policy = randomize(small_llama(run.generator(), d_model=16), seed=run.seed)
    reference, theirs = copy.deepcopy(policy), transformers_twin(policy)
    config = GRPOConfig(3, 4, MAX_LENGTH, lr=1e-2, updates=3)
    before = transformers_twin(policy)
    found = questions("right", run.generator(1))
    prompts, _ = found(3)

    def reward(answers: Tensor) -> Tensor:
        return answers.float().mean(1)  # random weights never hit a sum; this differs everywhere

    options = {"steps": 1, "end": END_ID, "config": config}
    list(
        train(policy, reference, lambda n: (prompts, reward), generator=run.generator(2), **options)
    )
    sampling = {"max_length": MAX_LENGTH, "end": END_ID, "generator": run.generator(2)}
    answers = sample_answers(reference, prompts, 4, **sampling)
    advantages = group_advantages(reward(answers).view(3, 4)).flatten()
    tokens = torch.cat([prompts.repeat_interleave(4, 0), answers], 1)

    def log_probs(model) -> Tensor:
        start = prompts.shape[1] - 1
        logits = model(tokens).logits[:, start:-1]
        return -F.cross_entropy(logits.transpose(1, 2), answers, reduction="none")

    with torch.no_grad():
        old = log_probs(before)
    optimizer = torch.optim.AdamW(theirs.parameters(), 1e-2, (0.9, 0.95), weight_decay=0.0)
    for _ in range(3):
        inputs = log_probs(theirs), old, old, advantages, response_mask(answers, END_ID)
        loss = trl_loss(*inputs, kind="grpo", beta=0.04, clip=(0.2, 0.2), max_length=MAX_LENGTH)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        run.check(
            "log-probabilities after three updates",
            response_log_probs(policy, tokens, prompts.shape[1]),
            log_probs(theirs),
            against="transformers' LLaMA, trl's loss, torch's AdamW",
            atol=2e-4,
            why="float32 rounding, divided by small mean squares in AdamW",
        )


def check_expected_gradient(run: Run) -> None:
    """All groups that a softmax of four answers can give, each with its probability.

    Without the division by std the mean of the update is the policy gradient times (G - 1)/G: the
    group's mean holds the answer's own reward. With it and rewards 0 and 1, large groups climb
    2 arcsin √p instead of p.
    """
    logits = torch.tensor([0.3, -0.5, 0.8, 0.1], dtype=torch.float64, requires_grad=True)
    rewards = torch.tensor([1.0, 0.0, 0.3, 0.0], dtype=torch.float64)
    size = 3
    log_p = logits.log_softmax(0)
    total = torch.zeros((), dtype=torch.float64)
    for group in itertools.product(range(4), repeat=size):
        index = torch.tensor(group)
        chance = log_p[index].sum().exp().detach()
        advantages = group_advantages(rewards[index][None], scale=False)[0]
        losses = clipped_losses(log_p[index, None], log_p[index, None].detach(), advantages)
        total = total + chance * reduce_losses(losses, torch.ones(size, 1, dtype=torch.bool))
    (ours,) = torch.autograd.grad(-total, logits, retain_graph=True)
    (policy_gradient,) = torch.autograd.grad((log_p.exp() * rewards).sum(), logits)
    why = {"kind": "theorem", "why": "float64 rounding of sums of products"}
    equal = run.against("the policy gradient, all groups enumerated", atol=1e-14, **why)
    equal("mean update of Dr. GRPO, groups of 3", ours, policy_gradient * (size - 1) / size)
    p = torch.tensor(0.3, dtype=torch.float64)
    size, share = 400, torch.arange(401, dtype=torch.float64)
    chance = torch.distributions.Binomial(size, p).log_prob(share).exp()
    std = (share * (size - share) / size / (size - 1)).sqrt()
    # d log-probability of a right answer is 1/p per unit of p, of a wrong one -1/(1 - p)
    step = share * (1 - share / size) / p + (size - share) * (share / size) / (1 - p)
    slope = (chance * step / size / std.clamp(min=1e-9)).sum()
    large = run.against("d/dp 2 arcsin √p = 1/√(p (1 - p))", kind="theorem", rtol=1e-2, why="1/G")
    large("slope that GRPO climbs, p = 0.3, groups of 400", slope, (p * (1 - p)) ** -0.5)


def check_kl(run: Run) -> None:
    """The estimate's mean is the KL; its mean gradient is that of the other KL."""
    logits = torch.tensor([0.3, -0.5, 0.8, 0.1, 0.0], dtype=torch.float64, requires_grad=True)
    ref = torch.tensor([0.0, 0.4, 0.2, -0.9, 0.5], dtype=torch.float64).log_softmax(0)
    log_p = logits.log_softmax(0)
    p = log_p.exp().detach()
    estimate = kl_estimate(log_p, ref)
    forward = (log_p.exp() * (log_p - ref)).sum()
    reverse = (ref.exp() * (ref - log_p)).sum()
    equal = run.against(
        "a softmax of five, enumerated", kind="theorem", atol=1e-14, why="float64 rounding"
    )
    equal("mean of k3 is KL(π‖ref)", (p * estimate).sum(), forward)
    gradients = [
        torch.autograd.grad(of, logits, retain_graph=True)[0]
        for of in ((p * estimate).sum(), reverse, forward)
    ]
    equal("mean gradient of k3 as a loss is that of KL(ref‖π)", *gradients[:2])
    apart = float((gradients[0] - gradients[2]).norm() / gradients[2].norm())
    run.metric("distance of k3's mean gradient from that of KL(π‖ref), relative", apart)


# ---- a policy that learns


def careless(numbers: tuple[int, ...], generator: torch.Generator) -> str:
    """An answer as half the pupils write it: they forget the carry into the tens."""
    a, b = numbers
    forgets = torch.rand((), generator=generator) < 0.5
    return str(10 * (a // 10 + b // 10) + (a + b) % 10 if forgets else a + b)


def correct(answers: Tensor, problems: list) -> Tensor:
    """1 for each answer that is the sum, 0 for the others."""
    n = len(answers) // len(problems)
    right = [response_text(row) == str(sum(problems[i // n])) for i, row in enumerate(answers)]
    return torch.tensor(right).float()


def questions(rewards: str, generator: torch.Generator) -> Callable[[int], Batch]:
    """Problems for training with a verifier, whose verdicts are dealt out anew if shuffled."""

    def batch(n: int) -> Batch:
        problems = SUMS.draw(n, generator)

        def reward(answers: Tensor) -> Tensor:
            found = correct(answers, problems)
            if rewards == "shuffled":
                found = found[torch.randperm(len(found), generator=generator)]
            return found

        return SUMS.prompts(problems), reward

    return batch


def accuracy(policy: Llama, n: int, seed: int) -> float:
    """Share of right answers to held-out problems, drawn at temperature 1."""
    generator = torch.Generator().manual_seed(seed)
    problems = SUMS.draw(n, generator, held_out=True)
    options = {"max_length": MAX_LENGTH, "end": END_ID, "generator": generator}
    answers = sample_answers(policy, SUMS.prompts(problems), 4, **options)
    return correct(answers, problems).mean().item()


def learn(run: Run, seeds: int) -> None:
    """A policy that imitated careless pupils, rewarded for right sums."""
    pretraining, steps, n = run.budget(quick=(10, 2, 4), default=(200, 60, 200))
    curves: dict[str, list] = {arm: [] for arm in ARMS}
    gains: dict[str, list] = {arm: [] for arm in ARMS}
    before = []
    for seed in run.progress(range(seeds), "seeds"):
        generator = run.generator(100 + seed)
        base = small_llama(generator)

        def pupils(g: torch.Generator = generator) -> list[tuple[str, str]]:
            return [(SUMS.prompt(p), careless(p, g)) for p in SUMS.draw(64, g)]

        list(imitate(base, pupils, steps=pretraining))
        before.append(accuracy(base, n, 900 + seed))
        for arm, (config, rewards) in ARMS.items():
            policy, g = copy.deepcopy(base), run.generator(200 + seed)
            options = {"steps": steps, "end": END_ID, "config": config, "generator": g}
            seen = train(policy, base, questions(rewards, g), **options)
            curves[arm].append([step.reward for step in seen])
            gains[arm].append(accuracy(policy, n, 900 + seed) - before[-1])
    late = {"quick": False, "rtol": None}
    learns = "rewarded for right sums, the policy gets more of them right"
    unit = "share of held-out answers"
    run.claim(learns, gains["GRPO"], at_least=0.03, unit=unit, seen_before=SEEN, **late)
    run.falsifier("rewards shuffled", gains["rewards shuffled"], breaks=learns)
    run.falsifier("learning rate × 10", gains["learning rate × 10"], breaks=learns)
    run.metric("right before", np.mean(before), rtol=None)
    for arm in ARMS:
        run.metric(f"gain, {arm}", np.mean(gains[arm]), rtol=None)
    draw(run, curves, float(np.mean(before)))


def draw(run: Run, curves: dict[str, list], before: float) -> None:
    """Reward against steps, each arm smoothed a little."""
    title = "What does a policy learn from a verifier, and what from shuffled verdicts?"
    width = 5
    smooth = {
        arm: [np.convolve(row, np.ones(width) / width, "valid") for row in rows]
        for arm, rows in curves.items()
        if len(rows[0]) >= width
    }
    if not smooth:
        return
    x = np.arange(width, len(next(iter(smooth.values()))[0]) + width)
    with run.figure("learning", title) as axes:
        labels = {"xlabel": "step", "ylabel": "right answers in training (mean of 5 steps)"}
        plots.curves(axes, x, smooth, reference={"before": before}, **labels, ylim=(0, 1))


if __name__ == "__main__":
    from shared.study import cli

    cli(main)
