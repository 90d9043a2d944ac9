"""What is measured about speculative decoding: exact laws, thousands of chains, and two GPTs."""

import itertools
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from shared import datasets, plots
from shared.stats import mean_interval
from shared.study import PositiveInt, Run, UserError
from week14.minimal_gpt import GPT, GPTConfig, evaluate, train
from week14.ngram import encode_characters
from week19.speculative_decoding import (
    Generation,
    acceptance_rate,
    best_gamma,
    expected_speedup,
    expected_tokens,
    generate,
    residual,
    speculative_generate,
    verify,
    with_temperature,
)

# ---- Markov models: p and q are rows of a table


def random_table(states: int, generator: torch.Generator, sharpness: float = 1.5) -> Tensor:
    """Transition probabilities: one random distribution a state."""
    logits = sharpness * torch.randn(states, states, generator=generator, dtype=torch.float64)
    return logits.softmax(-1)


def mixed_with_noise(table: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """A draft for it: the table, blurred by another one."""
    return (1 - share) * table + share * random_table(len(table), generator)


def law_of_text(target: Tensor, draft: Tensor, start: int, gamma: int) -> dict[tuple, float]:
    """Probability of each text of gamma + 1 tokens, by adding up all that algorithm 1 can do.

    After a rejection the text is shorter; the target goes on from there.
    """
    states, law = range(len(target)), {}
    for guesses in itertools.product(states, repeat=gamma):
        before = (start, *guesses)
        reach = 1.0  # probability that these guesses are drawn and all kept so far
        for i, guess in enumerate(guesses):
            p, q = target[before[i]], draft[before[i]]
            later = float(torch.prod(torch.stack([draft[a, b] for a, b in _pairs(before[i:])])))
            keep = min(1.0, float(p[guess] / q[guess]))
            for token, r in enumerate(residual(p, q)):
                _add_target(law, target, (*guesses[:i], token), gamma + 1,
                            reach * later * (1 - keep) * float(r))  # fmt: skip
            reach *= float(q[guess]) * keep
        for token, p in enumerate(target[before[-1]]):
            key = (*guesses, token)
            law[key] = law.get(key, 0.0) + reach * float(p)
    return law


def _pairs(tokens: tuple) -> list[tuple]:
    return list(itertools.pairwise(tokens))


def _add_target(law: dict, target: Tensor, text: tuple, length: int, mass: float) -> None:
    if len(text) == length:
        law[text] = law.get(text, 0.0) + mass
        return
    for token, p in enumerate(target[text[-1]]):
        _add_target(law, target, (*text, token), length, mass * float(p))


def check_by_enumeration(run: Run) -> None:
    """Every text's probability, all paths of the algorithm added up, is the target's."""
    generator = run.generator()
    for gamma in (1, 2, 3):
        target, draft = random_table(3, generator), random_table(3, generator)
        draft = torch.where(draft < 0.1, 0.0, draft)  # guesses that q never makes
        draft = draft / draft.sum(-1, keepdim=True)
        law = law_of_text(target, draft, 0, gamma)
        texts = sorted(law)
        run.check(
            f"law of {gamma + 1} tokens, {gamma} guesses",
            np.array([law[text] for text in texts]),
            np.array([
                float(torch.stack([target[a, b] for a, b in _pairs((0, *text))]).prod())
                for text in texts
            ]),
            against="the target's own law, all texts enumerated",
            atol=1e-12,
            why="float64 rounding of sums of products",
        )  # fmt: skip


Verify = Callable[[Tensor, Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]


class Chains(NamedTuple):
    """Texts of many chains, and how many tokens their runs gave."""

    texts: Tensor
    tokens_a_run: np.ndarray


def simulate(
    target: Tensor,
    draft: Tensor,
    length: int,
    gamma: int,
    chains: int,
    generator: torch.Generator,
    rule: Verify = verify,
) -> Chains:
    """Many independent texts from state 0, all chains at once."""
    n = torch.zeros(chains, dtype=torch.long)
    texts = torch.zeros(chains, length + gamma + 1, dtype=torch.long)
    state, gained = torch.zeros(chains, dtype=torch.long), []
    while int(n.min()) < length:
        guesses, q, at = [], [], state
        for _ in range(gamma):
            q.append(draft[at])
            at = torch.multinomial(q[-1], 1, generator=generator)[:, 0]
            guesses.append(at)
        guesses = torch.stack(guesses, dim=1)
        p = target[torch.cat([state[:, None], guesses], dim=1)]
        kept, token = rule(guesses, p, torch.stack(q, dim=1), generator)
        new = torch.cat([guesses, token[:, None]], dim=1).scatter(1, kept[:, None], token[:, None])
        place = (n[:, None] + torch.arange(gamma + 1)).clamp(max=texts.shape[1] - 1)
        active = n < length
        writes = active[:, None] & (torch.arange(gamma + 1) <= kept[:, None])
        rows = torch.arange(chains)[:, None].expand_as(place)
        texts[rows[writes], place[writes]] = new[writes]
        gained.append(np.where(active.numpy(), kept.numpy() + 1, 0))
        n = n + torch.where(active, kept + 1, 0)
        state = torch.where(active, token, state)
    return Chains(texts[:, :length], np.stack(gained))


def tokens_of_first_run(target: Tensor, draft: Tensor, gamma: int) -> Tensor:
    """Expected tokens of a run from each state, exactly: 1 + A1 + A²1 + …

    A(s, t) = min(p, q) is the probability that t is guessed after s, and kept.
    """
    kept = torch.minimum(target, draft)
    reach = total = torch.ones(len(target), dtype=target.dtype)
    for _ in range(gamma):
        reach = kept @ reach
        total = total + reach
    return total


def total_variation(texts: Tensor, law: np.ndarray) -> float:
    """Half the summed differences between the texts' frequencies and a law over pairs."""
    states = law.shape[0]
    counts = np.bincount((texts[:, 0] * states + texts[:, 1]).numpy(), minlength=states**2)
    return 0.5 * float(np.abs(counts / counts.sum() - law.ravel()).sum())


def pair_law(target: Tensor) -> np.ndarray:
    """The target's law of the first two tokens after state 0."""
    return (target[0][:, None] * target).numpy()


def sampling_floor(law: np.ndarray, n: int, rng: np.random.Generator, repeats: int = 200) -> float:
    """Mean total variation of n texts drawn from the law itself."""
    counts = rng.multinomial(n, law.ravel(), size=repeats)
    return 0.5 * float(np.abs(counts / n - law.ravel()).sum(axis=1).mean())


def check_markov(run: Run, seeds: int) -> None:
    """Tokens a run against the exact expectation, and against the formula for independent α."""
    chains = run.budget(quick=4000, default=40_000)
    measured, exact, errors = [], [], []
    for seed, gamma in itertools.product(range(seeds), (1, 2, 4, 8)):
        generator = run.generator(10 + seed)
        target = random_table(50, generator)
        draft = mixed_with_noise(target, 0.5, generator)
        first = simulate(target, draft, 1, gamma, chains, generator).tokens_a_run[0]
        measured.append(first.mean())
        exact.append(float(tokens_of_first_run(target, draft, gamma)[0]))
        errors.append(first.std() / chains**0.5)
    run.check(
        f"tokens a run, {seeds} pairs of models, γ = 1, 2, 4, 8",
        np.array(measured),
        np.array(exact),
        against="powers of the matrix of kept guesses",
        atol=4 * max(errors),
        why="four standard errors of the mean",
    )


def swapped(guesses: Tensor, p: Tensor, q: Tensor, generator: torch.Generator):
    """Wrong: keep a guess with probability min(1, q/p)."""
    u = torch.rand(guesses.shape, generator=generator, dtype=p.dtype)
    of_guess = guesses[..., None]
    kept = u * p[:, :-1].gather(-1, of_guess)[..., 0] < q.gather(-1, of_guess)[..., 0]
    return _finish(kept, p, q, generator, residual)


def resampled_from_target(guesses: Tensor, p: Tensor, q: Tensor, generator: torch.Generator):
    """Wrong: after a rejection, draw from p as if nothing had been tried."""
    u = torch.rand(guesses.shape, generator=generator, dtype=p.dtype)
    of_guess = guesses[..., None]
    kept = u * q.gather(-1, of_guess)[..., 0] < p[:, :-1].gather(-1, of_guess)[..., 0]
    return _finish(kept, p, q, generator, lambda p, q: p)


def _finish(kept: Tensor, p: Tensor, q: Tensor, generator: torch.Generator, left_of: Callable):
    n = kept.long().cumprod(dim=1).sum(dim=1)
    rows = torch.arange(len(n))
    q = torch.cat([q, torch.zeros_like(p[:, :1])], dim=1)
    left = left_of(p[rows, n], q[rows, n])
    return n, torch.multinomial(left, 1, generator=generator)[:, 0]


RULES = {
    "algorithm 1": verify,
    "accept with min(1, q/p)": swapped,
    "redraw from p": resampled_from_target,
}


def show_falsifiers(run: Run, seeds: int) -> None:
    """The first two tokens of many texts against the target's law: the right rule and two wrong."""
    from scipy.stats import chisquare

    chains = run.budget(quick=10_000, default=100_000)
    distance = {name: [] for name in RULES}
    p_values = {name: [] for name in RULES}
    floors = []
    for seed in range(seeds):
        generator = run.generator(20 + seed)
        target = random_table(8, generator)
        draft = mixed_with_noise(target, 0.5, generator)
        law = pair_law(target)
        floors.append(sampling_floor(law, chains, run.rng))
        for name, rule in RULES.items():
            texts = simulate(target, draft, 2, 3, chains, generator, rule).texts
            distance[name].append(total_variation(texts, law))
            counts = np.bincount((texts[:, 0] * 8 + texts[:, 1]).numpy(), minlength=64)
            p_values[name].append(float(chisquare(counts, chains * law.ravel()).pvalue))
    right, *wrong = RULES
    run.claim(
        "the text follows the target",
        min(p_values[right]) > 1e-3
        and all(d < 1.5 * f for d, f in zip(distance[right], floors, strict=True)),
        f"{seeds} pairs of models, {chains:,} texts: χ² p ≥ {min(p_values[right]):.2f}, total "
        f"variation at most {max(distance[right]):.4f}, of exact samples {max(floors):.4f}",
    )
    run.claim(
        "each half of the rule is needed",
        all(max(p_values[name]) < 1e-6 for name in wrong),
        "; ".join(f"{name}: total variation {min(distance[name]):.3f} or more" for name in wrong),
    )
    with run.figure("rules", "Which rule leaves the text alone?", size=(8, 2.9)) as axes:
        colors = (plots.BLUE, plots.ORANGE, plots.PINK)
        for row, (values, color) in enumerate(zip(distance.values(), colors, strict=True)):
            axes.plot(values, [row] * len(values), "o", ms=8, color=color, alpha=0.8)
        axes.axvline(np.mean(floors), color=plots.REFERENCE, ls="--", lw=1)
        axes.text(np.mean(floors) * 1.06, -0.45, "exact samples", color=plots.REFERENCE, va="top")
        axes.set(
            xscale="log",
            yticks=range(len(RULES)),
            yticklabels=list(RULES),
            ylim=(len(RULES) - 0.5, -0.75),
            xlabel="distance of the first two tokens from the target's law (total variation)",
        )
        axes.grid(axis="y", visible=False)


# ---- two GPTs

CONTEXT = 128


class Speakers(NamedTuple):
    """A trained target, its drafts, and held-out text to begin from."""

    target: Callable[[Tensor], Tensor]
    drafts: dict[str, Callable[[Tensor], Tensor]]
    held_out: Tensor
    alphabet: str


def bigram_logits(tokens: Tensor, vocab: int) -> Callable[[Tensor], Tensor]:
    """The cheapest draft there is: how often each character followed this one."""
    counts = torch.bincount(tokens[:-1] * vocab + tokens[1:], minlength=vocab**2).double()
    table = (counts.view(vocab, vocab) + 0.1).log().float()
    return lambda text: table[text]


def train_speakers(run: Run, seed: int = 0, share: float = 1.0) -> Speakers:
    """A GPT, a smaller one, and a table of bigrams, all from the same characters.

    `share` scales the number of training steps.
    """
    ids, alphabet = encode_characters(datasets.pydocs_text())
    tokens = torch.from_numpy(ids)
    split = int(0.9 * len(tokens))
    sizes = {"target": (3, 96, 300), "small GPT": (1, 32, 250)}
    models = {}
    for i, (name, (layers, width, steps)) in enumerate(sizes.items()):
        config = GPTConfig(len(alphabet), CONTEXT, layers, 4, width)
        model = GPT(config, run.generator(30 + i + 10 * seed))
        train(
            model,
            tokens[:split],
            steps=run.budget(quick=15, default=round(share * steps)),
            batch=8,
            optimizer="muon",
            generator=run.generator(40 + i + 10 * seed),
            steps_of=lambda n, name=name: run.progress(range(n), f"training the {name}"),
        )
        models[name] = model.eval()
        if seed == 0:
            loss = evaluate(model, tokens[split:], window=CONTEXT)
            run.metric(f"held-out loss, {name}", loss, "nats/character", rtol=0.1)
    drafts = {
        "small GPT": models["small GPT"],
        "bigrams": bigram_logits(tokens[:split], len(alphabet)),
    }
    return Speakers(models["target"], drafts, tokens[split:], alphabet)


def prompts_from(held_out: Tensor, n: int, length: int = 24) -> list[Tensor]:
    """Beginnings at equal distances through the held-out text."""
    starts = np.linspace(0, len(held_out) - CONTEXT - 1, n).astype(int)
    return [held_out[start : start + length] for start in starts]


@torch.no_grad()
def rate_on(target: Callable, draft: Callable, texts: list[Tensor], skip: int) -> float:
    """Mean overlap of the two models' distributions along texts that the target wrote."""
    rates = []
    for text in texts:
        p = target(text[None])[0, skip - 1 : -1].softmax(-1)
        q = draft(text[None])[0, skip - 1 : -1].softmax(-1)
        rates.append(acceptance_rate(p, q))
    return float(torch.cat(rates).mean())


def speak(run: Run, length: int) -> None:
    """Two small GPTs and a table: identical greedy text, tokens a pass, and who wrote what."""
    if length > CONTEXT - 24:
        raise UserError(f"length must be at most {CONTEXT - 24}, got {length}")
    check_assisted_generation(run)
    length = run.budget(quick=min(length, 12), default=length)
    speakers = train_speakers(run)
    prompts = prompts_from(speakers.held_out, run.budget(quick=2, default=10))
    greedy = [with_temperature(m, 0) for m in (speakers.target, speakers.drafts["small GPT"])]
    ours = [speculative_generate(*greedy, prompt, length, gamma=4).tokens for prompt in prompts]
    run.check(
        f"greedy text, {len(prompts)} prompts",
        torch.stack(ours),
        torch.stack([generate(greedy[0], prompt, length).tokens for prompt in prompts]),
        against="the target alone, one pass a character",
        atol=0,
        why="identical",
    )
    gammas = run.budget(quick=(2,), default=(1, 2, 4, 8))
    measured = tokens_a_pass(run, speakers, prompts, length, gammas)
    alphas = {}
    plain = [
        generate(with_temperature(speakers.target), p, length, generator=run.generator(60)).tokens
        for p in prompts
    ]
    for name, draft in speakers.drafts.items():
        alphas[name] = rate_on(speakers.target, draft, plain, len(prompts[0]))
        run.metric(f"α, {name}", alphas[name], "", rtol=0.15)
        for gamma in gammas:
            value = float(np.mean(measured[name][gamma]))
            run.metric(f"characters a pass, {name}, γ = {gamma}", value, rtol=0.2)
    off = [
        abs(np.mean(values) / expected_tokens(alphas[name], gamma) - 1)
        for name, of_gamma in measured.items()
        for gamma, values in of_gamma.items()
    ]
    run.claim(
        "characters a pass follow the formula within a quarter, though keeping is not independent",
        max(off) < 0.25,
        f"largest deviation {max(off):.0%}, mean {np.mean(off):.0%}, for two drafts and "
        f"γ = {', '.join(map(str, gammas))}",
        quick=False,
    )
    cost = pass_cost(speakers)
    for name, alpha in alphas.items():
        run.metric(f"cost of a draft pass, {name}", cost[name], "target passes", rtol=None)
        run.metric(f"best γ by the formula, {name}", best_gamma(alpha, cost[name], 16), rtol=None)
        predicted = expected_speedup(alpha, 4, cost[name])
        run.metric(f"predicted speed-up at γ = 4, {name}", predicted, "times", rtol=None)
    draw_tokens_a_pass(run, measured, alphas)
    draw_authors(run, speakers, length)


def tokens_a_pass(
    run: Run, speakers: Speakers, prompts: list[Tensor], length: int, gammas: tuple[int, ...]
) -> dict[str, dict[int, list[float]]]:
    """Characters a pass of the target, by draft, number of guesses and prompt."""
    target = with_temperature(speakers.target)
    found = {name: {gamma: [] for gamma in gammas} for name in speakers.drafts}
    jobs = list(itertools.product(speakers.drafts, gammas, range(len(prompts))))
    for name, gamma, i in run.progress(jobs, "writing"):
        text = speculative_generate(
            target, with_temperature(speakers.drafts[name]), prompts[i], length,
            gamma=gamma, generator=run.generator(50 + i),
        )  # fmt: skip
        found[name][gamma].append(length / text.target_passes)
    return found


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


def check_assisted_generation(run: Run) -> None:
    """Our greedy text with a draft, and transformers' with an assistant, on the same weights."""
    from transformers import GPT2Config, GPT2LMHeadModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    models = []
    for i, layers in enumerate((2, 1)):
        torch.manual_seed(run.seed + i)
        config = GPT2Config(
            vocab_size=40, n_positions=64, n_embd=16, n_layer=layers, n_head=2,
            initializer_range=0.5, bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        models.append(GPT2LMHeadModel(config).eval())
    prompt = torch.arange(1, 6)
    theirs = models[0].generate(
        prompt[None],
        attention_mask=torch.ones(1, 5, dtype=torch.long),
        assistant_model=models[1],
        max_new_tokens=40,
        do_sample=False,
    )
    greedy = [with_temperature(lambda t, m=model: m(t).logits, 0) for model in models]
    ours: Generation = speculative_generate(*greedy, prompt, 40, gamma=3)
    run.check(
        "greedy text with a draft model",
        ours.tokens,
        theirs[0],
        against="transformers, assistant_model",
        atol=0,
        why="identical",
    )


def draw_tokens_a_pass(run: Run, measured: dict, alphas: dict[str, float]) -> None:
    """Measured characters a pass, with the formula as a line."""
    with run.figure("tokens_a_pass", "How far does one pass of the target get?") as axes:
        gamma = np.arange(0, 13)
        colors = dict(zip(measured, (plots.BLUE, plots.ORANGE), strict=True))
        for aside, (name, of_gamma) in zip((-0.1, 0.1), measured.items(), strict=True):
            values = np.array([expected_tokens(alphas[name], int(g)) for g in gamma])
            axes.plot(gamma, values, "--", color=colors[name], lw=1.2)
            axes.annotate(
                f"{name}, α = {alphas[name]:.2f}", (gamma[-1], values[-1]), color=colors[name],
                xytext=(6, 0), textcoords="offset points", va="center",
            )  # fmt: skip
            for g, samples in of_gamma.items():
                interval = mean_interval(samples)
                low, high = interval.mean - interval.low, interval.high - interval.mean
                axes.errorbar(
                    g + aside,
                    interval.mean,
                    [[low], [high]],
                    fmt="o",
                    color=colors[name],
                    capsize=3,
                )
        axes.text(0.3, 1.05, "dashed: formula", color=plots.REFERENCE, fontsize=9)
        axes.set(xlabel="guesses a pass, γ", ylabel="characters a pass", ylim=(0.9, None))


def draw_authors(run: Run, speakers: Speakers, length: int) -> None:
    """A text with every character marked: guessed by the draft and kept, or the target's own."""
    beginning = "If the expression is a "
    prompt = torch.tensor([speakers.alphabet.index(char) for char in beginning])
    text = speculative_generate(
        with_temperature(speakers.target, 0.7),
        with_temperature(speakers.drafts["small GPT"], 0.7),
        prompt, length, gamma=4, generator=run.generator(70),
    )  # fmt: skip
    guessed = np.zeros(len(text.tokens), dtype=bool)
    at = len(prompt)
    for kept in text.kept:
        guessed[at : at + kept] = True
        at += kept + 1
    share = 100 * guessed[len(prompt) :].mean()
    run.metric("characters written by the small GPT, temperature 0.7", share, "%", rtol=0.2)
    title = f"Who wrote this? The small GPT guessed {share:.0f} % of it (blue), the target the rest"
    with run.figure("authors", title, size=(8.3, 2.2)) as axes:
        columns = 64
        for i, token in enumerate(text.tokens.tolist()):
            char = speakers.alphabet[token].replace("\n", "⏎").replace(" ", "·")
            row, column = divmod(i, columns)
            color = plots.BLUE if guessed[i] else plots.ORANGE
            if i >= len(prompt):
                axes.add_patch(_cell(column, row, color))
            axes.text(
                column + 0.5, row + 0.5, char, family="monospace", fontsize=10,
                ha="center", va="center",
            )  # fmt: skip
        rows = -(-len(text.tokens) // columns)
        axes.set(xlim=(0, columns), ylim=(rows + 0.2, -0.2))
        axes.axis("off")


def _cell(column: int, row: int, color: str):
    from matplotlib.patches import Rectangle

    return Rectangle((column, row + 0.06), 0.98, 0.88, fc=color, ec="none", alpha=0.35)


def main(run: Run, *, seeds: PositiveInt = 3, length: PositiveInt = 100) -> None:
    """Exact laws by enumeration, Markov models by the thousand, then two small GPTs.

    Parameters
    ----------
    seeds
        Pairs of models for the statistics.
    length
        Characters that the GPTs write.
    """
    check_by_enumeration(run)
    check_markov(run, seeds)
    show_falsifiers(run, seeds)
    speak(run, length)
