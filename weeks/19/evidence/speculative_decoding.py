"""Exact laws by enumeration, thousands of Markov texts, and two GPTs that write together."""

import itertools
import statistics
import time

import numpy as np
import torch

from shared import plots
from shared.study import PositiveInt, Run, UserError
from week19.evidence.threads import one_thread
from week19.markov_texts import (
    enumerated_laws,
    mixed_with_noise,
    pair_law,
    random_table,
    resampled_from_target,
    sampling_floor,
    simulate,
    swapped,
    tokens_of_first_run,
    total_variation,
)
from week19.speakers import (
    CONTEXT,
    Speakers,
    assisted_greedy,
    prompts_from,
    rates_on,
    train_speakers,
)
from week19.speculative_decoding import (
    expected_speedup,
    expected_tokens,
    generate,
    speculative_generate,
    verify,
    with_temperature,
)


def main(run: Run, *, seeds: PositiveInt = 6, length: PositiveInt = 100) -> None:
    """Exact laws by enumeration, Markov models by the thousand, then two small GPTs.

    Parameters
    ----------
    seeds
        Pairs of Markov models.
    length
        Characters that the GPTs write.
    """
    if length > CONTEXT - 24:
        raise UserError(f"length must be at most {CONTEXT - 24}, got {length}")
    run.rounding(0.05, "Muon multiplies in bfloat16, which processors round differently")
    check_by_enumeration(run)
    check_against_transformers(run)
    seeds = run.budget(quick=3, default=max(seeds, 2))
    check_markov(run, seeds)
    judge_rules(run, seeds)
    with one_thread():
        speakers = train_speakers(run.seed, steps=run.budget(quick=(4, 4), default=(240, 200)))
        speak(run, speakers, run.budget(quick=min(length, 12), default=length))


# ---- checks


def check_by_enumeration(run: Run) -> None:
    """Every text's probability, all paths of the algorithm added up, is the target's."""
    why = {"kind": "theorem", "why": "float64 rounding of sums of products"}
    equal = run.against("the target's own law, all texts enumerated", atol=1e-12, **why)
    for gamma in (1, 2, 3):
        laws = enumerated_laws(gamma, run.generator(gamma))
        equal(f"law of {gamma + 1} tokens, {gamma} guesses", *laws)


def check_against_transformers(run: Run) -> None:
    """Greedy text with a draft, and with transformers' assistant, on the same weights."""
    equal = run.against("transformers, assistant_model", why="identical")
    equal("greedy text with a draft model", *assisted_greedy(run.seed))


def check_markov(run: Run, seeds: int) -> None:
    """Tokens per run against the exact expectation."""
    chains = run.budget(quick=1000, default=10_000)
    measured, exact, errors = [], [], []
    for seed, gamma in itertools.product(range(seeds), (1, 2, 4, 8)):
        generator = run.generator(10 + seed)
        target = random_table(50, generator)
        draft = mixed_with_noise(target, 0.5, generator)
        first = simulate(target, draft, 1, gamma, chains, generator).tokens_a_run[0]
        measured.append(first.mean())
        exact.append(float(tokens_of_first_run(target, draft, gamma)[0]))
        errors.append(first.std() / chains**0.5)
    why = {"kind": "theorem", "why": "four standard errors of the mean"}
    equal = run.against("powers of the matrix of kept guesses", atol=4 * max(errors), **why)
    equal("tokens per run, pairs of models, γ = 1, 2, 4, 8", measured, exact)


# ---- the rule, and two wrong ones


def judge_rules(run: Run, seeds: int) -> None:
    """The first two tokens of many texts against the target's law."""
    from scipy.stats import chisquare

    chains = run.budget(quick=5000, default=50_000)
    rules = {"algorithm 1": verify, "accept with min(1, q/p)": swapped}
    rules |= {"redraw from p": resampled_from_target}
    distance, p_values = {name: [] for name in rules}, {name: [] for name in rules}
    for seed in range(seeds):
        generator = run.generator(20 + seed)
        target = random_table(8, generator)
        draft = mixed_with_noise(target, 0.5, generator)
        law = pair_law(target)
        floor = sampling_floor(law, chains, run.rng)
        for name, rule in rules.items():
            texts = simulate(target, draft, 2, 3, chains, generator, rule).texts
            distance[name].append(total_variation(texts, law) / floor)
            counts = np.bincount((texts[:, 0] * 8 + texts[:, 1]).numpy(), minlength=64)
            p_values[name].append(chisquare(counts, chains * law.ravel()).pvalue)
    right, *wrong = rules
    follows, unit = "the text follows the target", "times the distance of exact samples"
    note = f"{chains:,} texts per pair of models"
    run.claim(follows, distance[right], at_most=1.5, unit=unit, note=note)
    passes = "the text passes a χ² test"
    options = {"each": True, "note": "p-values", "rtol": None}
    run.claim(passes, p_values[right], at_least=1e-3, **options)
    for name in wrong:
        run.falsifier(name, distance[name], breaks=follows)
        run.falsifier(f"{name}, χ²", p_values[name], breaks=passes)


# ---- two GPTs


def speak(run: Run, speakers: Speakers, length: int) -> None:
    """Two small GPTs and a table: characters per pass, and authors."""
    target, drafts, held_out, _ = speakers
    prompts = prompts_from(held_out, run.budget(quick=2, default=8))
    sampled, off, cost = with_temperature(target), [], pass_cost(speakers)
    texts = [generate(sampled, p, length, generator=run.generator(60)).tokens for p in prompts]
    for name, draft in drafts.items():
        rates = [rates_on(target, draft, text, len(prompts[0])) for text in texts]
        alpha = float(torch.cat(rates).mean())
        for gamma in run.budget(quick=(2,), default=(2, 4)):
            passes = 0
            for i, prompt in enumerate(prompts):
                options = {"gamma": gamma, "generator": run.generator(50 + i)}
                pair = sampled, with_temperature(draft)
                passes += speculative_generate(*pair, prompt, length, **options).target_passes
            per_pass = len(prompts) * length / passes
            off.append(per_pass / expected_tokens(alpha, gamma) - 1)
        run.metric(f"α, {name}", alpha, rtol=0.15)
        first, second = (torch.cat([r[i : len(r) - 1 + i] for r in rates]) for i in (0, 1))
        dependence = torch.corrcoef(torch.stack([first, second]))[0, 1]
        run.metric(f"correlation of neighboring α, {name}", dependence, rtol=None)
        speedup = expected_speedup(alpha, 4, cost[name])
        run.metric(f"cost of a draft pass, {name}", cost[name], "target passes", rtol=None)
        run.metric(f"predicted speed-up at γ = 4, {name}", speedup, "times", rtol=None)
    follow, note = "characters per pass follow the formula within a quarter", "relative deviations"
    rule = {"at_least": -0.25, "at_most": 0.25, "each": True, "note": note, "quick": False}
    run.claim(follow, off, **rule, rtol=None)
    draw_authors(run, speakers, length)


@torch.no_grad()
def pass_cost(speakers: Speakers) -> dict[str, float]:
    """Seconds of a draft's pass over the target's, medians of 15, on the same text."""
    text = speakers.held_out[None, :CONTEXT]
    models = {"target": speakers.target, **speakers.drafts}
    seconds = {name: [] for name in models}
    for _ in range(16):
        for name, model in models.items():
            start = time.perf_counter()
            model(text)
            seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    return {name: median[name] / median["target"] for name in speakers.drafts}


def draw_authors(run: Run, speakers: Speakers, length: int) -> None:
    """A text with every character marked: guessed by the draft and kept, or the target's own."""
    from matplotlib.patches import Rectangle

    prompt = torch.tensor([speakers.alphabet.index(c) for c in "If the expression is a "])
    models = speakers.target, speakers.drafts["small GPT"]
    pair = [with_temperature(model, 0.7) for model in models]
    options = {"gamma": 4, "generator": run.generator(70)}
    text = speculative_generate(*pair, prompt, length, **options)
    guessed = kept_places(text.kept, len(prompt))
    share = 100 * guessed[len(prompt) :].mean()
    title = f"Who wrote this? The small GPT guessed {share:.0f} % of it (blue), the target the rest"
    columns, ink = 64, {"family": "monospace", "fontsize": 10, "ha": "center", "va": "center"}
    with run.figure("authors", title, size=(8.3, 2.2)) as axes:
        for i, token in enumerate(text.tokens.tolist()):
            char = speakers.alphabet[token].replace("\n", "⏎").replace(" ", "·")
            row, column = divmod(i, columns)
            if i >= len(prompt):
                look = {"fc": plots.BLUE if guessed[i] else plots.ORANGE, "ec": "none"}
                axes.add_patch(Rectangle((column, row + 0.06), 0.98, 0.88, alpha=0.35, **look))
            axes.text(column + 0.5, row + 0.5, char, **ink)
        axes.set(xlim=(0, columns), ylim=(-(-len(text.tokens) // columns) + 0.2, -0.2))
        axes.axis("off")


def kept_places(kept: list[int], start: int) -> np.ndarray:
    """Which characters were guessed and kept: after each run of them comes one of the target's."""
    places = [False] * start
    for n in kept:
        places += [True] * n + [False]
    return np.array(places)
