r"""Does DPO find the KL-regularized optimum, and does it buy as much reward per KL as PPO?

The minimum of DPO's loss over all pairs should be

$$ \pi^*(y \mid x) \propto \pi_{\mathrm{ref}}(y \mid x)\, e^{r(x, y)/\beta} , $$

which can be tried where the answers can be listed. Then a small GPT learns from preferences between
reviews of a few words. All 1,365 reviews are known, so expected reward and KL are sums, and no
policy has more reward at its KL than $\pi^*$ of some β. PPO is run beside it, on a reward model
learned from the same pairs. The rules stand in README.md's front matter.

    uv run papers/2023-dpo/reproduce.py

Rafailov et al. (2023), "Direct preference optimization", equation 4, theorem 1, figure 2 (left).
"""

import numpy as np
import torch

from shared import papers, plots
from shared.study import PositiveInt, Run, cli
from week09.optimizers import AdamW
from week21 import trl_preferences as trl
from week21.dpo import (
    Preference,
    collate,
    dpo_loss,
    expected_dpo_loss,
    regularized_optimum,
    response_log_probs,
    train,
)
from week21.reward_model import RewardModel
from week21.reward_model import train as train_reward
from week21.toy_reviews import (
    PAD,
    PROMPTS,
    Reviewer,
    divergence,
    expected_reward,
    frontier,
    log_law,
    preferences,
    responses,
    rewards,
    supervised,
    texts_after,
    trainable_copy,
)

BATCH, EPOCHS, CLIP = 96, 4, 0.2

# ---- the minimum


def minimum(log_reference, wins, beta: float) -> torch.Tensor:
    """Probabilities that minimize DPO's loss over all pairs, by L-BFGS."""
    logits = torch.zeros_like(log_reference, requires_grad=True)
    options = {"max_iter": 2000, "tolerance_grad": 1e-10, "tolerance_change": 1e-14}
    search = torch.optim.LBFGS([logits], line_search_fn="strong_wolfe", **options)

    def closure():
        search.zero_grad()
        loss = expected_dpo_loss(logits.log_softmax(0), log_reference, wins, beta)
        loss.backward()
        return loss

    search.step(closure)
    return logits.detach().softmax(0)


def distance(seed: int, betas: list[float], *, with_reference: bool = True) -> float:
    """Largest total variation over β between the minimum and equation 4, for six answers."""
    generator = torch.Generator().manual_seed(seed)
    log_reference, reward = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    log_reference = log_reference.log_softmax(0)
    wins = (reward[:, None] - reward).sigmoid()
    given = log_reference if with_reference else torch.zeros_like(log_reference)
    off = []
    for beta in betas:
        best = regularized_optimum(log_reference, reward, beta).exp()
        off.append(float((minimum(given, wins, beta) - best).abs().sum() / 2))
    return max(off)


# ---- reward and KL


def by_dpo(reference: Reviewer, pairs, beta: float, lr: float, steps: int, generator) -> Reviewer:
    """A policy trained on the pairs."""
    policy = trainable_copy(reference)
    options = {"parameters": list(policy.parameters()), "steps": steps, "batch": BATCH // 2}
    list(train(policy, reference, pairs, beta=beta, lr=lr, generator=generator, **options))
    return policy


def by_ppo(
    reference: Reviewer, law, values, beta: float, lr: float, steps: int, generator
) -> Reviewer:
    """A policy trained by PPO on a reward minus β ln π/π_ref, without a critic.

    The advantage of a response is its return minus the mean of its prompt's others, for each of its
    tokens; each batch is used for four epochs.
    """
    policy = trainable_copy(reference)
    optimizer = AdamW(list(policy.parameters()), lr=lr, betas=(0.9, 0.99), weight_decay=0.0)
    for _ in range(steps // EPOCHS):
        with torch.no_grad():
            now = log_law(policy)
        drawn = torch.multinomial(
            now.exp(), BATCH // len(PROMPTS), replacement=True, generator=generator
        )
        gain = (values - beta * (now - law)).gather(1, drawn)
        advantage = ((gain - gain.mean(1, keepdim=True)) / gain.std()).flatten()[:, None]
        parts = [texts_after(p).rows(rows) for p, rows in zip(PROMPTS, drawn, strict=True)]
        tokens, scored = torch.cat([t.tokens for t in parts]), torch.cat([t.scored for t in parts])
        before = None
        for _ in range(EPOCHS):
            log_prob = response_log_probs(policy(tokens), tokens, scored)
            before = log_prob.detach() if before is None else before
            ratio = (log_prob - before).exp()
            clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
            better = torch.minimum(ratio * advantage, clipped * advantage) * scored[:, 1:]
            optimizer.zero_grad()
            (-better.sum() / scored.sum()).backward()
            optimizer.step()
    return policy


def learned_reward(reference: Reviewer, pairs, steps: int, generator) -> torch.Tensor:
    """What a reward model says of all responses, a row per prompt."""
    model = RewardModel(trainable_copy(reference), generator)
    list(train_reward(model, pairs, steps=steps, batch=BATCH, generator=generator, pad=PAD))
    length = torch.tensor([1 + len(text) for text in responses()])
    with torch.no_grad():
        return torch.stack([model(texts_after(p).tokens, length) for p in PROMPTS])


def arms(run: Run, seed: int, betas: list[float], lr: dict[str, float], sizes) -> dict:
    """KL and expected reward of each method for each β, and the frontier that bounds them."""
    reference = supervised(run.seed + 300 + seed, sizes["supervised"])
    law, generator = log_law(reference), run.generator(400 + seed)
    pairs = preferences(law, sizes["pairs"], generator).pairs
    values = learned_reward(reference, pairs, sizes["reward"], generator)
    found = {name: [] for name in ("DPO", "PPO, learned reward", "PPO, true reward")}
    for beta in betas:
        options = (beta, lr["PPO"], sizes["steps"], generator)
        made = {
            "DPO": by_dpo(reference, pairs, beta, lr["DPO"], sizes["steps"], generator),
            "PPO, learned reward": by_ppo(reference, law, values, *options),
            "PPO, true reward": by_ppo(reference, law, rewards(), *options),
        }
        for name, policy in made.items():
            with torch.no_grad():
                got = log_law(policy)
            found[name].append([divergence(got, law), expected_reward(got)])
    start = expected_reward(law)
    best = [float(beta * (law + rewards() / beta).logsumexp(dim=1).mean()) for beta in betas]
    points = {name: np.array(rows) for name, rows in found.items()}
    bound = frontier(law, np.geomspace(0.01, 20, 200).tolist()).numpy()
    return {"points": points, "bound": bound, "start": start, "best": np.array(best)}


def reached(found: dict, name: str, betas: list[float]) -> float:
    """Of what E[r] - β KL can gain over the reference, the share gained; the mean over β.

    Both methods maximize it, and its maximum is β ln Z.
    """
    kl, reward = found["points"][name].T
    gain = reward - np.array(betas) * kl - found["start"]
    return float((gain / (found["best"] - found["start"])).mean())


def main(run: Run, *, seeds: PositiveInt = 4) -> None:
    """Judge the minimum where answers can be listed, then reward against KL.

    Parameters
    ----------
    seeds
        Reference policies with preferences of their own; 8 with --full.
    """
    paper = papers.load(__file__)
    run.rounding(0.05, "training multiplies the rounding of its sums")
    torch.set_num_threads(1)  # products this small
    check(run)
    betas = paper.matter["betas"]
    off = [distance(seed, betas) for seed in range(run.budget(quick=2, default=8))]
    name = "the minimum of DPO's loss is the regularized optimum"
    paper.judge(run, name, off, rtol=None)
    without = [distance(seed, betas, with_reference=False) for seed in range(len(off))]
    run.falsifier("without the reference's log-ratio", without, breaks=name)

    seeds = run.budget(quick=1, default=seeds, full=max(seeds, 8))
    sizes = {"supervised": 150, "reward": 200, "pairs": 1500, "steps": 160}
    if run.mode == "quick":
        sizes = {"supervised": 8, "reward": 6, "pairs": 200, "steps": 8}
    betas = run.budget(quick=betas[1:2], default=betas)
    found = [
        arms(run, seed, betas, paper.matter["lr"], sizes)
        for seed in run.progress(range(seeds), "seeds")
    ]
    share = {name: [reached(f, name, betas) for f in found] for name in found[0]["points"]}
    gain = np.subtract(share["DPO"], share["PPO, learned reward"])
    late = {"quick": False, "rtol": None}
    paper.judge(run, "DPO reaches as much of the objective as PPO", gain, **late)
    for name, values in share.items():
        run.metric(f"share of the objective reached, {name}", np.mean(values), rtol=None)
    draw(run, found[0])


def check(run: Run) -> None:
    """DPO's loss against trl's, on a small LLaMA."""
    model, reference = trl.quietly(lambda: (trl.small_llama(0), trl.small_llama(1)))
    batch = collate([Preference([5, 6], [7, 1], [8, 9, 1]), Preference([4], [3, 2, 1], [2, 1])])
    ratio = [
        response_log_probs(m(batch.tokens).logits, batch.tokens, batch.scored).sum(dim=1)
        for m in (model, reference)
    ]
    ours = dpo_loss(*(ratio[0] - ratio[1]).chunk(2), beta=0.1).mean().item()
    theirs = trl.quietly(lambda: trl.pair_loss(model, reference, batch, "sigmoid", 0.1)).item()
    same = {"against": "trl's DPOTrainer, its loss code", "atol": 1e-5}
    run.check("loss of two pairs", ours, theirs, why="float32 sums in another order", **same)


def draw(run: Run, found: dict) -> None:
    """The methods' points, and the curve that none of them can pass."""
    title = "Reward against KL: how near does each come to what is possible?"
    with run.figure("frontier", title, size=(7.5, 4.6)) as axes:
        axes.plot(*found["bound"].T, "--", color=plots.REFERENCE, lw=1, label="the optimum, exact")
        for color, (name, points) in zip(plots.COLORS, found["points"].items(), strict=False):
            axes.plot(*points[points[:, 0].argsort()].T, "o-", color=color, label=name)
        axes.plot(0, found["start"], "s", color=plots.GRAY, label="the reference")
        axes.set(xlabel="KL from the reference (nats per response)", ylabel="expected reward")
        axes.legend(loc="lower right")


if __name__ == "__main__":
    cli(main)
