r"""Does guessing ahead leave the text's law alone, and does the formula say how far it gets?

A draft guesses γ tokens, the target keeps the first few of them, each with probability
$\min(1, p/q)$. With guesses kept independently at rate α, one pass of the target gives

$$ \frac{1 - \alpha^{\gamma + 1}}{1 - \alpha} $$

tokens. Markov models, whose law is known, judge the rule; two character GPTs, whose acceptance is
not independent, judge the formula. What counts as reproduced stands in README.md's front matter.

    uv run papers/2023-speculative-decoding/reproduce.py

Leviathan, Kalman & Matias (2023), "Fast inference from transformers via speculative decoding",
algorithm 1, equation 1 and theorem 3.5.
"""

from pathlib import Path

import numpy as np
import torch
import yaml

from shared import plots
from shared.stats import mean_interval
from shared.study import PositiveInt, Run, cli
from week19.evidence import speculative_decoding as evidence
from week19.speculative_decoding import (
    acceptance_rate,
    expected_tokens,
    generate,
    speculative_generate,
    verify,
    with_temperature,
)

README = Path(__file__).with_name("README.md")
STATES = 50


def front_matter(readme: str) -> dict:
    """The YAML between the first two lines of three dashes."""
    parts = readme.split("---\n", 2)
    if len(parts) < 3 or parts[0]:
        raise ValueError("readme must start with front matter between two lines '---', got none")
    return yaml.safe_load(parts[1])


def judge(values: list[float], most: float) -> str:
    """`reproduced` if every value is at most `most`, `not reproduced` if none is."""
    if not values:
        raise ValueError("values must hold at least one number, got none")
    within = [value <= most for value in values]
    return "reproduced" if all(within) else "inconclusive" if any(within) else "not reproduced"


def long_run_rate(target: torch.Tensor, draft: torch.Tensor) -> float:
    """α of two Markov models: their overlap, averaged over the states that the target visits."""
    share = torch.full((len(target),), 1 / len(target), dtype=target.dtype)
    for _ in range(200):
        share = share @ target
    return float(share @ acceptance_rate(target, draft))


def markov(run: Run, seed: int, gammas: list[int], chains: int) -> dict[str, list[float]]:
    """One pair of models: tokens a run beside the formula, and distances from the law."""
    generator = run.generator(100 + seed)
    target = evidence.random_table(STATES, generator, 1.0)
    draft = evidence.mixed_with_noise(target, 0.6, generator)
    alpha, found = long_run_rate(target, draft), {"measured": [], "formula": []}
    for gamma in gammas:
        runs = evidence.simulate(target, draft, 40, gamma, chains // 20, generator).tokens_a_run
        later = runs[2:][runs[2:] > 0]  # the first runs all start from state 0
        found["measured"].append(float(later.mean()))
        found["formula"].append(expected_tokens(alpha, gamma))
    law = evidence.pair_law(target[:8, :8] / target[:8, :8].sum(-1, keepdim=True))
    small_target = target[:8, :8] / target[:8, :8].sum(-1, keepdim=True)
    small_draft = draft[:8, :8] / draft[:8, :8].sum(-1, keepdim=True)
    floor = evidence.sampling_floor(law, chains, run.rng)
    for name, rule in (("right", verify), ("swapped", evidence.swapped)):
        texts = evidence.simulate(small_target, small_draft, 2, 4, chains, generator, rule).texts
        found[name] = [evidence.total_variation(texts, law) / floor]
    return found


def speak(run: Run, seed: int, gammas: list[int], n_prompts: int, length: int) -> dict:
    """One pair of GPTs: greedy text, and characters a pass beside the formula."""
    speakers = evidence.train_speakers(run, seed, share=0.5)
    prompts = evidence.prompts_from(speakers.held_out, n_prompts)
    draft = speakers.drafts["small GPT"]
    greedy = [with_temperature(model, 0) for model in (speakers.target, draft)]
    equal = [
        speculative_generate(*greedy, prompt, length, gamma=4).tokens.tolist()
        == generate(greedy[0], prompt, length).tokens.tolist()
        for prompt in prompts[:4]
    ]
    sampled = [with_temperature(model) for model in (speakers.target, draft)]
    plain = [
        generate(sampled[0], prompt, length, generator=run.generator(200 + seed)).tokens
        for prompt in prompts
    ]
    alpha = evidence.rate_on(speakers.target, draft, plain, len(prompts[0]))
    passes = dict.fromkeys(gammas, 0)
    for gamma in gammas:
        for i, prompt in enumerate(prompts):
            text = speculative_generate(
                *sampled, prompt, length, gamma=gamma, generator=run.generator(300 + i)
            )
            passes[gamma] += text.target_passes
    measured = [n_prompts * length / passes[gamma] for gamma in gammas]
    return {
        "equal": equal,
        "alpha": alpha,
        "measured": measured,
        "formula": [expected_tokens(alpha, gamma) for gamma in gammas],
    }


def deviations(found: dict) -> list[float]:
    """Measured over formula, minus one, without signs."""
    return [abs(m / f - 1) for m, f in zip(found["measured"], found["formula"], strict=True)]


def main(run: Run, *, seeds: PositiveInt = 3) -> None:
    """Judge the law and the formula on Markov models, then on character GPTs.

    Parameters
    ----------
    seeds
        Pairs of models of each kind; 8 with --full.
    """
    paper = front_matter(README.read_text(encoding="utf-8"))
    rules = {rule["name"]: rule for rule in paper["rules"]}
    seeds = run.budget(quick=1, default=seeds, full=max(seeds, 8))
    gammas = run.budget(quick=[2], default=paper["gammas"])
    chains = run.budget(quick=4000, default=40_000)
    evidence.check_by_enumeration(run)
    evidence.check_assisted_generation(run)

    chains_of = [markov(run, seed, gammas, chains) for seed in range(seeds)]
    rule = rules["tokens a run follow the formula, Markov models"]
    off = [max(deviations(found)) for found in chains_of]
    run.verdict(rule["name"], judge(off, rule["most"]),
                f"largest deviation of each seed: {_percent(off)}, at most {rule['most']:.0%}"
                )  # fmt: skip
    rule = rules["the law is unchanged"]
    distances = [found["right"][0] for found in chains_of]
    run.verdict(rule["name"], judge(distances, rule["most"]),
                f"total variation over that of exact samples: {_list(distances)}, at most "
                f"{rule['most']}")  # fmt: skip
    wrong = [found["swapped"][0] for found in chains_of]
    run.claim("accepting with min(1, q/p) changes the law",
              min(wrong) > paper["falsifier"]["margin"],
              f"total variation over that of exact samples: {_list(wrong)}")  # fmt: skip

    size = run.budget(quick=(2, 12), default=(10, 60))
    texts_of = [speak(run, seed, gammas, *size) for seed in range(seeds)]
    rule = rules["greedy text is identical"]
    different = [float(np.mean(np.logical_not(found["equal"]))) for found in texts_of]
    run.verdict(rule["name"], judge(different, rule["most"]),
                f"{sum(map(sum, (f['equal'] for f in texts_of)))} of "
                f"{sum(len(f['equal']) for f in texts_of)} texts equal, γ = 4")  # fmt: skip
    rule = rules["tokens a run follow the formula, language models"]
    off = [float(np.mean(deviations(found))) for found in texts_of]
    run.verdict(rule["name"], judge(off, rule["most"]),
                f"mean deviation of each seed: {_percent(off)}, at most {rule['most']:.0%}"
                )  # fmt: skip
    alphas = mean_interval([found["alpha"] for found in texts_of]) if seeds > 1 else None
    run.metric("α of the GPTs", np.mean([found["alpha"] for found in texts_of]), rtol=0.15)
    if alphas:
        run.say(f"α over {seeds} pairs of GPTs: {alphas}")
    for i, gamma in enumerate(gammas):
        values = [found["measured"][i] for found in texts_of]
        run.metric(f"characters a pass, γ = {gamma}", np.mean(values), rtol=0.2)
    draw(run, gammas, chains_of, texts_of)


def _percent(values: list[float]) -> str:
    return ", ".join(f"{value:.1%}" for value in values)


def _list(values: list[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


def draw(run: Run, gammas: list[int], chains_of: list[dict], texts_of: list[dict]) -> None:
    """The paper gives a formula and no table of it: our points beside its line."""
    title = "Tokens a pass: does one number, α, tell them?"
    with run.figure("formula", title, size=(6.4, 4.6)) as axes:
        highest = 1.0
        for found, color, marker, label in (
            *((f, plots.BLUE, "o", "Markov models") for f in chains_of),
            *((f, plots.ORANGE, "D", "character GPTs") for f in texts_of),
        ):
            axes.plot(found["formula"], found["measured"], marker, color=color, label=label)
            highest = max(highest, *found["formula"], *found["measured"])
        axes.plot([1, highest * 1.05], [1, highest * 1.05], "--", color=plots.REFERENCE, lw=1)
        axes.text(highest, highest * 1.06, "as in the paper", ha="right", color=plots.REFERENCE)
        axes.set(
            xlabel="tokens a pass by the formula, $(1 - α^{γ+1})/(1 - α)$",
            ylabel="tokens a pass, measured",
        )
        handles, labels = axes.get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        axes.legend(unique.values(), unique.keys(), loc="lower right")


if __name__ == "__main__":
    cli(main)
