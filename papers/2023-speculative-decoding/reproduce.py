r"""Does guessing ahead leave the text's law alone, and does the formula say how far it gets?

A draft guesses γ tokens, the target keeps the first few of them, each with probability
$\min(1, p/q)$. With guesses kept independently at rate α, one pass of the target gives

$$ \frac{1 - \alpha^{\gamma + 1}}{1 - \alpha} $$

tokens. Markov models, whose law is known, judge the rule; two character GPTs, whose acceptance is
not independent, judge the formula. The rules stand in README.md's front matter.

    uv run papers/2023-speculative-decoding/reproduce.py

Leviathan, Kalman & Matias (2023), "Fast inference from transformers via speculative decoding",
algorithm 1, equation 1 and theorem 3.5.
"""

import numpy as np
import torch

from shared import papers, plots
from shared.study import PositiveInt, Run, cli
from week19 import markov_texts, speakers
from week19.speculative_decoding import (
    acceptance_rate,
    expected_tokens,
    generate,
    speculative_generate,
    verify,
    with_temperature,
)

STATES = 50


def long_run_rate(target: torch.Tensor, draft: torch.Tensor) -> float:
    """α of two Markov models: their overlap, averaged over the states that the target visits."""
    share = torch.full((len(target),), 1 / len(target), dtype=target.dtype)
    for _ in range(200):
        share = share @ target
    return float(share @ acceptance_rate(target, draft))


def markov(run: Run, seed: int, gammas: list[int], chains: int) -> dict:
    """One pair of models: tokens per run beside the formula, and distances from the law."""
    generator = run.generator(100 + seed)
    target = markov_texts.random_table(STATES, generator, 1.0)
    draft = markov_texts.mixed_with_noise(target, 0.6, generator)
    alpha, found = long_run_rate(target, draft), {"measured": [], "formula": []}
    for gamma in gammas:
        runs = markov_texts.simulate(target, draft, 40, gamma, chains // 20, generator).tokens_a_run
        later = runs[2:][runs[2:] > 0]  # the first runs all start from state 0
        found["measured"].append(float(later.mean()))
        found["formula"].append(expected_tokens(alpha, gamma))
    small = [table[:8, :8] / table[:8, :8].sum(-1, keepdim=True) for table in (target, draft)]
    law = markov_texts.pair_law(small[0])
    floor = markov_texts.sampling_floor(law, chains, run.rng)
    for name, rule in (("right", verify), ("swapped", markov_texts.swapped)):
        texts = markov_texts.simulate(*small, 2, 4, chains, generator, rule).texts
        found[name] = markov_texts.total_variation(texts, law) / floor
    return found


def speak(run: Run, seed: int, gammas: list[int], n_prompts: int, length: int) -> dict:
    """One pair of GPTs: greedy text, and characters per pass beside the formula."""
    steps = run.budget(quick=(15, 15), default=(150, 125))
    found = speakers.train_speakers(run.seed + 10 * seed, steps=steps)
    prompts, target = speakers.prompts_from(found.held_out, n_prompts), found.target
    draft = found.drafts["small GPT"]
    greedy = [with_temperature(model, 0) for model in (target, draft)]
    equal = []
    for prompt in prompts[:4]:
        text = speculative_generate(*greedy, prompt, length, gamma=4).tokens
        equal.append(torch.equal(text, generate(greedy[0], prompt, length).tokens))
    sampled = [with_temperature(model) for model in (target, draft)]
    plain = [
        generate(sampled[0], prompt, length, generator=run.generator(200 + seed)).tokens
        for prompt in prompts
    ]
    alpha = speakers.rate_on(target, draft, plain, len(prompts[0]))
    measured = []
    for gamma in gammas:
        written = (
            speculative_generate(*sampled, p, length, gamma=gamma, generator=run.generator(300 + i))
            for i, p in enumerate(prompts)
        )
        measured.append(n_prompts * length / sum(text.target_passes for text in written))
    formula = [expected_tokens(alpha, gamma) for gamma in gammas]
    return {"equal": equal, "alpha": alpha, "measured": measured, "formula": formula}


def deviations(found: dict) -> np.ndarray:
    """Measured over formula, minus one, without signs; one per γ."""
    return np.abs(np.array(found["measured"]) / np.array(found["formula"]) - 1)


def main(run: Run, *, seeds: PositiveInt = 3) -> None:
    """Judge the law and the formula on Markov models, then on character GPTs.

    Parameters
    ----------
    seeds
        Pairs of models of each kind; 8 with --full.
    """
    paper = papers.load(__file__)
    run.rounding(0.05, "Muon multiplies in bfloat16, which processors round differently")
    seeds = run.budget(quick=2, default=seeds, full=max(seeds, 8))
    gammas = run.budget(quick=[2], default=paper.matter["gammas"])
    chains = run.budget(quick=2000, default=40_000)
    laws = {"against": "the target's own law, all texts enumerated", "kind": "theorem"}
    laws |= {"atol": 1e-12, "why": "float64 rounding of sums of products"}
    for gamma in (1, 2, 3):
        name = f"law of {gamma + 1} tokens, {gamma} guesses"
        run.check(name, *markov_texts.enumerated_laws(gamma, run.generator(gamma)), **laws)
    same = {"against": "transformers, assistant_model", "why": "identical"}
    run.check("greedy text with a draft model", *speakers.assisted_greedy(run.seed), **same)

    chains_of = [markov(run, seed, gammas, chains) for seed in range(2 * seeds)]
    off = [deviations(found).max() for found in chains_of]
    paper.judge(run, "tokens per run follow the formula, Markov models", off, quick=False)
    paper.judge(run, "the law is unchanged", [found["right"] for found in chains_of])
    wrong = [found["swapped"] for found in chains_of]
    run.falsifier("accept with min(1, q/p)", wrong, breaks="the law is unchanged")

    size = run.budget(quick=(2, 12), default=(10, 60))
    texts_of = [speak(run, seed, gammas, *size) for seed in range(seeds)]
    equal = [same for found in texts_of for same in found["equal"]]
    note = f"{sum(equal)} of {len(equal)} texts, γ = 4"
    paper.judge(run, "greedy text is identical", float(np.mean(equal)), note=note)
    off = [deviations(found).mean() for found in texts_of]
    late = {"quick": False, "rtol": None}  # what a few steps of training give is not compared
    paper.judge(run, "tokens per run follow the formula, language models", off, **late)
    run.metric("α of the GPTs", np.mean([found["alpha"] for found in texts_of]), rtol=0.15)
    if 4 in gammas:
        values = [found["measured"][gammas.index(4)] for found in texts_of]
        run.metric("characters per pass, γ = 4", np.mean(values), rtol=0.2)
    draw(run, chains_of, texts_of)


def draw(run: Run, chains_of: list[dict], texts_of: list[dict]) -> None:
    """The paper gives a formula and no table of it: our points beside its line."""
    title = "Tokens per pass: is one number, α, enough?"
    with run.figure("formula", title, size=(6.4, 4.6)) as axes:
        kinds = {"Markov models": (chains_of, "o"), "character GPTs": (texts_of, "D")}
        for name, (found, marker) in kinds.items():
            x, y = (np.ravel([one[key] for one in found]) for key in ("formula", "measured"))
            axes.plot(x, y, marker, label=name)
        axes.axline((1, 1), slope=1, ls="--", color=plots.REFERENCE, lw=1, label="the formula")
        axes.set(xlabel="tokens per pass by the formula, $(1 - α^{γ+1})/(1 - α)$")
        axes.set(ylabel="tokens per pass, measured")
        axes.legend(loc="lower right")


if __name__ == "__main__":
    cli(main)
