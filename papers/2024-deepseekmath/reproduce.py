r"""Does reinforcement raise what the majority says more than what is within reach?

A small LLaMA imitates right sums of three digits and is stopped early, so that it is often wrong;
GRPO then rewards its right answers. Before and after, many answers to held-out sums are drawn:
maj@k lets k of them vote, pass@k asks whether one of them is right.

$$A_i = (r_i - \operatorname{mean}(r)) / \operatorname{std}(r)$$

    uv run papers/2024-deepseekmath/reproduce.py

Shao et al. (2024), "DeepSeekMath", section 5.2.2 and figure 7.
"""

import copy
import itertools
import statistics

import numpy as np
import torch
from torch import Tensor, nn

from shared import papers, plots
from shared.measuring import pinned
from shared.study import PositiveInt, Run, cli
from week21.arithmetic import END_ID, Problems, imitate, response_text, small_llama
from week21.grpo import (
    Batch,
    GRPOConfig,
    clipped_losses,
    group_advantages,
    reduce_losses,
    response_log_probs,
    response_mask,
    sample_answers,
    train,
)
from week21.r1 import corpus, majority_at_k, pass_at_k, questions

SUMS = Problems(terms=3, digits=1)
MAX_LENGTH = 3  # two digits and <end>
DRAWN = 32
KS = (1, 2, 4, 8, 16, 32)


def right(response: str, answer: str) -> float:
    """The verifier."""
    return float(response == answer)


def shuffled(batches, generator: torch.Generator):
    """As many rewards, dealt out to answers by chance."""

    def batch(n: int) -> Batch:
        prompts, reward = batches(n)

        def dealt(answers: Tensor) -> Tensor:
            found = reward(answers)
            return found[torch.randperm(len(found), generator=generator)]

        return prompts, dealt

    return batch


def measure(policy: nn.Module, n: int, temperature: float, seed: int) -> dict[str, list[float]]:
    """Maj@k and pass@k on held-out sums, each as a list over `KS`."""
    generator = torch.Generator().manual_seed(seed)
    problems = SUMS.draw(n, generator, held_out=True)
    options = {"max_length": MAX_LENGTH, "end": END_ID, "temperature": temperature}
    answers = sample_answers(policy, SUMS.prompts(problems), DRAWN, generator=generator, **options)
    texts = [response_text(row) for row in answers]
    rows = [texts[i : i + DRAWN] for i in range(0, len(texts), DRAWN)]
    truth = [str(sum(numbers)) for numbers in problems]
    n_right = torch.tensor([row.count(t) for row, t in zip(rows, truth, strict=True)])
    return {
        "maj": [float(majority_at_k(rows, truth, k).mean()) for k in KS],
        "pass": [float(pass_at_k(n_right, DRAWN, k).mean()) for k in KS],
    }


def gradient_spread(policy: nn.Module, batches, n: int, generator) -> float:
    """Variance of the policy gradient with the group's mean taken off, over that without."""
    found: dict[bool, list[Tensor]] = {True: [], False: []}
    for _ in range(n):
        prompts, reward = batches(8)
        options = {"max_length": MAX_LENGTH, "end": END_ID, "generator": generator}
        answers = sample_answers(policy, prompts, 8, **options)
        rewards = reward(answers).view(-1, 8)
        tokens = torch.cat([prompts.repeat_interleave(8, 0), answers], 1)
        log_p = response_log_probs(policy, tokens, prompts.shape[1])
        for baseline in (True, False):
            # the mean holds the answer's own reward, which shrinks the gradient by (G - 1)/G
            weight = group_advantages(rewards, scale=False) * 8 / 7 if baseline else rewards
            losses = clipped_losses(log_p, log_p.detach(), weight.flatten())
            mask = response_mask(answers, END_ID)
            loss = reduce_losses(losses, mask, "constant", max_length=MAX_LENGTH)
            gradient = torch.autograd.grad(loss, list(policy.parameters()), retain_graph=True)
            found[baseline].append(torch.cat([g.flatten() for g in gradient]))
    spread = {key: torch.stack(rows).var(0).sum().item() for key, rows in found.items()}
    return spread[True] / max(spread[False], 1e-30)


def main(run: Run, *, seeds: PositiveInt = 3) -> None:
    """Stop imitation early, reinforce, and count votes and reach before and after.

    Parameters
    ----------
    seeds
        Policies; 8 with --full.
    """
    paper = papers.load(__file__)
    run.rounding(0.05, "Muon multiplies in bfloat16, which processors round differently")
    seeds = run.budget(quick=1, default=max(2, seeds), full=max(8, seeds))
    settings = paper.matter["settings"]
    pretraining, steps, n, batches_n = run.budget(
        quick=(5, 2, 4, 2), default=(settings["imitation"], settings["steps"], 200, 40)
    )
    config = GRPOConfig(
        settings["questions"], settings["answers"], MAX_LENGTH, settings["lr"], settings["beta"]
    )
    found: dict[str, list] = {"before": [], "GRPO": [], "shuffled": []}
    spread = []
    with pinned():  # products this small are slower on several threads
        for seed in run.progress(range(seeds), "seeds"):
            g = run.generator(500 + seed)
            base = small_llama(g)
            list(
                imitate(base, lambda g=g: corpus(SUMS, {"direct": 1.0}, 128, g), steps=pretraining)
            )
            spread.append(gradient_spread(base, questions(SUMS, right, g), batches_n, g))
            found["before"].append(measure(base, n, settings["temperature"], 700 + seed))
            for arm in ("GRPO", "shuffled"):
                policy, g = copy.deepcopy(base), run.generator(600 + seed)
                batches = questions(SUMS, right, g)
                batches = shuffled(batches, g) if arm == "shuffled" else batches
                options = {"steps": steps, "end": END_ID, "config": config, "generator": g}
                list(train(policy, base, batches, **options))
                found[arm].append(measure(policy, n, settings["temperature"], 700 + seed))

    def gain(arm: str, what: str, k: int) -> np.ndarray:
        i = KS.index(k)
        return np.array(
            [a[what][i] - b[what][i] for a, b in zip(found[arm], found["before"], strict=True)]
        )

    check_estimates(run)
    late = {"quick": False, "rtol": None}
    paper.judge(run, "maj@1 rises", gain("GRPO", "maj", 1), **late)
    paper.judge(run, "maj@8 rises", gain("GRPO", "maj", 8), **late)
    excess = gain("GRPO", "pass", 32) - gain("GRPO", "maj", 8) / 2
    paper.judge(run, "pass@32 rises by less than half of that", excess, **late)
    paper.judge(run, "the group's mean makes the gradient less noisy", spread, **late)
    for k in (1, 8):
        values = gain("shuffled", "maj", k)
        run.falsifier(f"rewards shuffled, maj@{k}", values, breaks=f"maj@{k} rises")
    for what, k in (("maj", 1), ("maj", 8), ("pass", 32)):
        for arm in ("before", "GRPO"):
            values = [one[what][KS.index(k)] for one in found[arm]]
            run.metric(f"{what}@{k}, {arm}", np.mean(values), rtol=None)
    draw(run, found)


def check_estimates(run: Run) -> None:
    """Both estimates on six answers, against all their pairs and Python's own mode."""
    row = ["a", "b", "a", "c", "b", "a"]
    naive = np.mean(["a" in pair for pair in itertools.combinations(row, 2)])
    why = {"kind": "theorem", "why": "float64 rounding"}
    equal = run.against("all pairs of six answers", atol=1e-12, **why)
    equal("pass@2", pass_at_k(torch.tensor([3]), 6, 2)[0].item(), naive)
    modes = [statistics.multimode(row[i : i + 3]) for i in (0, 3)]
    votes = np.mean([("a" in mode) / len(mode) for mode in modes])
    run.check(
        "maj@3",
        majority_at_k([row], ["a"], 3).item(),
        votes,
        against="statistics.multimode",
        atol=1e-12,
        why="float64 rounding",
    )


def draw(run: Run, found: dict[str, list]) -> None:
    """Four curves over k, beside what the paper says of its own."""
    title = "Does reinforcement raise the majority, or the reach?"
    lines = {
        f"{what}@k {when}": [one[what] for one in found[arm]]
        for what in ("pass", "maj")
        for when, arm in (("before", "before"), ("after GRPO", "GRPO"))
    }
    with run.figure("votes", title) as axes:
        colors = (plots.SKY, plots.BLUE, plots.YELLOW, plots.ORANGE)
        labels = {"xlabel": "answers k", "ylabel": "share of held-out sums", "xscale": "log"}
        plots.curves(axes, np.array(KS), lines, colors=colors, marker="o", **labels)
        axes.set_xticks(KS, [str(k) for k in KS])
        axes.minorticks_off()


if __name__ == "__main__":
    cli(main)
