r"""Do rewards that a rule computes raise accuracy by themselves, with no examples of the form?

A small LLaMA imitates a mixed corpus of sums: bare answers, sums worked out, and a few with tags
around thought and answer. Without a cold start GRPO then rewards it in four ways. Is the last
number right; has the answer the form; both,

$$r = r_\text{accuracy} + \tfrac12\, r_\text{format};$$

and a coin. R1-Zero is the third of these, at a size some millions of times larger.

    uv run papers/2025-deepseek-r1/reproduce.py

DeepSeek-AI (2025), "DeepSeek-R1", section 2.2.
"""

import copy
import random

import numpy as np
import torch
from torch import nn

from shared import papers, plots
from shared.measuring import pinned
from shared.study import PositiveInt, Run, cli
from week21.arithmetic import END_ID, Problems, imitate, response_text, small_llama
from week21.grpo import GRPOConfig, sample_answers, train
from week21.r1 import Reward, corpus, format_reward, last_number, pass_at_k, questions

SUMS = Problems(terms=6, digits=1)
MAX_LENGTH = 32
CORPUS = {"direct": 0.5, "worked": 0.375, "tagged": 0.125}
DRAWN = 16


def right(response: str, answer: str) -> float:
    """The verifier: is the number said last the sum?"""
    return float(last_number(response) == answer)


def rewards(seed: int) -> dict[str, Reward]:
    """The four ways to reward; the coin is thrown anew for each answer."""
    coin = random.Random(seed)
    return {
        "accuracy and format": lambda r, a: right(r, a) + 0.5 * format_reward(r),
        "accuracy only": right,
        "format only": lambda r, a: format_reward(r),
        "a coin": lambda r, a: float(coin.random() < 0.5),
    }


def measure(policy: nn.Module, n: int, seed: int) -> dict[str, float]:
    """Held-out sums at temperature 1: right, of the form, tokens per answer, pass@k."""
    generator = torch.Generator().manual_seed(seed)
    problems = SUMS.draw(n, generator, held_out=True)
    options = {"max_length": MAX_LENGTH, "end": END_ID, "generator": generator}
    drawn = sample_answers(policy, SUMS.prompts(problems), DRAWN, **options)
    texts = [response_text(row) for row in drawn]
    truth = [str(sum(numbers)) for numbers in problems for _ in range(DRAWN)]
    found = np.array([right(t, a) for t, a in zip(texts, truth, strict=True)])
    n_right = torch.tensor(found.reshape(n, DRAWN).sum(1)).long()
    return {
        "right": found.mean(),
        "form": float(np.mean([format_reward(t) for t in texts])),
        "length": float((drawn != END_ID).sum(1).float().mean()),
        "pass@16": float(pass_at_k(n_right, DRAWN, DRAWN).mean()),
    }


def main(run: Run, *, seeds: PositiveInt = 3) -> None:
    """Reinforce a model of a mixed corpus in four ways, and judge by the paper's rules.

    Parameters
    ----------
    seeds
        Models; 5 with --full.
    """
    paper = papers.load(__file__)
    run.rounding(0.05, "Muon multiplies in bfloat16, which processors round differently")
    check_estimate(run)
    settings = paper.matter["settings"]
    seeds = run.budget(quick=1, default=max(2, seeds), full=max(5, seeds))
    pretraining, steps, n = run.budget(
        quick=(5, 2, 2), default=(settings["imitation"], settings["steps"], 100)
    )
    config = GRPOConfig(
        settings["questions"], settings["answers"], MAX_LENGTH, settings["lr"], settings["beta"]
    )
    arms = list(rewards(0))
    found: dict[str, list] = {arm: [] for arm in ["base", *arms]}
    with pinned():  # products this small are slower on several threads
        for seed in run.progress(range(seeds), "seeds"):
            g = run.generator(1500 + seed)
            base = small_llama(g)
            list(imitate(base, lambda g=g: corpus(SUMS, CORPUS, 64, g), steps=pretraining))
            found["base"].append(measure(base, n, 1700 + seed))
            for arm, reward in rewards(run.seed + seed).items():
                policy, g = copy.deepcopy(base), run.generator(1600 + seed)
                options = {"steps": steps, "end": END_ID, "config": config, "generator": g}
                list(train(policy, base, questions(SUMS, reward, g), **options))
                found[arm].append(measure(policy, n, 1700 + seed))

    def gain(arm: str, what: str) -> np.ndarray:
        pairs = zip(found[arm], found["base"], strict=True)
        return np.array([after[what] - before[what] for after, before in pairs])

    late = {"quick": False, "rtol": None}
    name = "a rule's rewards raise accuracy"
    paper.judge(run, name, gain("accuracy and format", "right"), **late)
    paper.judge(run, "a coin does not", gain("a coin", "right"), **late)
    paper.judge(run, "the form comes by reward alone", gain("accuracy and format", "form"), **late)
    run.falsifier("rewarded by a coin", gain("a coin", "right"), breaks=name)
    for arm, rows in found.items():
        for what in ("right", "form", "length", "pass@16"):
            run.metric(f"{what}, {arm}", np.mean([row[what] for row in rows]), rtol=None)
    draw(run, found)


def check_estimate(run: Run) -> None:
    """pass@k against the hypergeometric law."""
    from scipy.stats import hypergeom

    n_right = torch.arange(DRAWN + 1)
    reference = hypergeom(DRAWN, n_right.numpy(), 4).sf(0)
    equal = run.against("scipy.stats.hypergeom", atol=1e-12, why="float64 rounding")
    equal("pass@4 of 16, all counts", pass_at_k(n_right, DRAWN, 4), reference)


def draw(run: Run, found: dict[str, list]) -> None:
    """Three measures, one bar for each way to reward."""
    titles = {"right": "right answers, share", "form": "of the form, share", "length": "tokens"}
    title = "What do four kinds of reward make of one model?"
    with run.figure("arms", title, columns=3, size=(11, 3.6), sharey=True) as axes:
        for place, (what, label) in zip(axes, titles.items(), strict=True):
            values = {arm: [row[what] for row in rows] for arm, rows in found.items()}
            plots.bars(place, values, colors=(plots.GRAY, *plots.COLORS), xlabel=label)


if __name__ == "__main__":
    cli(main)
