"""Revisions against a formula, a preference model without human labels, SmolLM2 as the judge."""

import numpy as np
import torch

from shared import plots
from shared.study import PositiveInt, Run
from week21.constitutional_ai import (
    CONSTITUTION,
    ai_preferences,
    count_offenses,
    in_both_orders,
    judge_by_model,
    offenses,
    prefer,
    revise,
    revisions,
    survival,
    write_draft,
)
from week21.dialogues import common_words, word_features
from week21.reward_model import fit_linear_reward

SKILL = 0.8  # of the reviser, so that a principle drawn once is not enough


def main(run: Run, *, seeds: PositiveInt = 5, judged: PositiveInt = 64) -> None:
    """Count what revisions leave, train on the rules' preferences, ask a small language model.

    Parameters
    ----------
    seeds
        Sets of drafts.
    judged
        Pairs that SmolLM2 is asked about, each in both orders; none with --quick.
    """
    left = check_revisions(run)
    learn(run, run.budget(quick=2, default=max(seeds, 2)))
    if run.mode != "quick":
        ask_smollm2(run, judged)
    draw(run, left)


def check_revisions(run: Run) -> dict[int, np.ndarray]:
    """Share of offenses left after each round, for constitutions of several lengths."""
    rounds, drafts = 8, run.budget(quick=150, default=1500)
    found = {}
    for n_principles in (1, 4, 8):
        part, counts = CONSTITUTION[:n_principles], []
        for _ in range(drafts):
            draft = write_draft(part, run.rng)
            history = revisions(draft, part, rounds=rounds, rng=run.rng, skill=SKILL)
            counts.append([count_offenses(part, text) for text in history])
        counts = np.array(counts)
        share = counts / counts[:, 0].mean()
        found[n_principles] = share.mean(axis=0)
        theory = np.array([survival(k, n_principles, SKILL) for k in range(rounds + 1)])
        # a draft's offenses are mended together, so drafts and not offenses are what is counted
        error = (counts - counts[:, :1] * theory).std(axis=0) / counts[:, 0].mean()
        run.check(
            f"offenses left after 1 to 8 rounds, {n_principles} principles",
            found[n_principles][1:],
            theory[1:],
            against="(1 - s/K)^k",
            kind="theorem",
            atol=4 * error.max() / drafts**0.5,
            why="four standard errors of the mean",
        )
    return found


# ---- a preference model from rules


def preference_model(pairs, judge, vocabulary, rng, *, shuffled: bool = False) -> torch.Tensor:
    """Weights of words, learned from a judge's preferences; what is a tie is left out."""
    judged = [c for c in ai_preferences(pairs, CONSTITUTION, judge, rng) if c.share != 0.5]
    a, b = (word_features([getattr(c, side) for c in judged], vocabulary) for side in "ab")
    sign = np.sign([c.share - 0.5 for c in judged])
    if shuffled:
        sign = rng.permutation(sign)
    return fit_linear_reward(torch.from_numpy((a - b) * sign[:, None]), l2=1.0)


def learn(run: Run, seeds: int) -> None:
    """The preference model ranks unseen drafts, and the best of eight by it offends less."""
    n = run.budget(quick=150, default=800)
    ranked, control, less, none = [], [], [], []
    for _ in range(seeds):
        drafts = [write_draft(CONSTITUTION, run.rng) for _ in range(4 * n)]
        vocabulary = common_words(drafts[: 2 * n], at_least=2)
        pairs = list(zip(drafts[:n], drafts[n : 2 * n], strict=True))
        features = word_features(drafts[2 * n :], vocabulary)
        count = np.array([count_offenses(CONSTITUTION, text) for text in drafts[2 * n :]])
        for shuffled, accuracy, saved in ((False, ranked, less), (True, control, none)):
            options = {"shuffled": shuffled}
            w = preference_model(pairs, prefer, vocabulary, run.rng, **options).numpy()
            score = features @ w
            gap, truth = score[:n] - score[n:], count[n:] - count[:n]
            accuracy.append(((gap > 0) == (truth > 0))[truth != 0].mean())
            eight = score[: n // 8 * 8].reshape(-1, 8).argmax(axis=1)
            best = count[: n // 8 * 8].reshape(-1, 8)[np.arange(n // 8), eight]
            saved.append(1 - best.mean() / count.mean())
    name = "a model of the rules' preferences ranks unseen drafts by all rules"
    options = {"rtol": None, "seen_before": "nothing", "quick": False}
    run.claim(name, ranked, at_least=0.8, **options)
    run.falsifier("shuffled preferences", control, breaks=name)
    name = "the best of eight by that model offends less"
    run.claim(name, less, at_least=0.3, unit="of the offenses saved", **options)
    run.falsifier("shuffled preferences, best of eight", none, breaks=name)


# ---- a language model as the judge


def ask_smollm2(run: Run, n: int) -> None:
    """A sentence with an offense beside its mended version: which is better by the principle?"""
    from week18.smollm2 import smollm2

    model, tokenizer = smollm2()
    (first,), (second,) = tokenizer.encode("A"), tokenizer.encode("B")

    @torch.inference_mode()
    def letters(question: str) -> tuple[float, float]:
        ids = tokenizer.chat([{"role": "user", "content": question}])
        found = model(torch.tensor([ids]))[0, -1].log_softmax(-1)
        return found[first].item(), found[second].item()

    judge = judge_by_model(letters)
    right, says_a = [], []
    for i in run.progress(range(n), "pairs"):
        principle = CONSTITUTION[i % len(CONSTITUTION)]
        draft = ""
        while not offenses(principle, draft):
            draft = write_draft([principle], run.rng, sentences=1)
        mended = revise(principle, draft)
        asked = []

        def ask(*question, asked=asked):
            asked.append(judge(*question))
            return asked[-1]

        right.append(float(in_both_orders(ask)(principle, mended, draft) > 0.5))
        says_a += [share > 0.5 for share in asked]
    seen = "40 pairs, with a system prompt: 0.65"
    options = {"rtol": None, "seen_before": seen, "note": f"{n} pairs in both orders"}
    run.claim("SmolLM2 sides with the rules more often than a coin", right, at_least=0.5, **options)
    run.metric("SmolLM2 answers A", np.mean(says_a), rtol=None)


def draw(run: Run, left: dict[int, np.ndarray]) -> None:
    """Measured shares as points, the formula as lines."""
    title = "How many rounds does a constitution need?"
    with run.figure("rounds", title, size=(7.0, 4.2)) as axes:
        for color, (n_principles, share) in zip(plots.COLORS, left.items(), strict=False):
            place = range(len(share))
            theory = [survival(k, n_principles, SKILL) for k in place]
            word = "principle" if n_principles == 1 else "principles"
            axes.plot(place, share, "o", color=color, label=f"{n_principles} {word}")
            axes.plot(place, theory, "--", color=color, lw=1, label=f"_theory {n_principles}")
        axes.plot([], [], "--", color=plots.REFERENCE, lw=1, label="$(1 - s/K)^k$, s = 0.8")
        axes.set(xlabel="rounds of critique and revision k", ylabel="share of offenses left")
        axes.set_ylim(0, 1.05)
        axes.legend()
