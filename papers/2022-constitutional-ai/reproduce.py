r"""Do critiques and revisions raise a preference model's score, each round by less?

The loop is the paper's, the critics are rules. Drafts of a few sentences offend against eight
principles; a round draws one of them and mends its offenses with probability s = 0.8. The score is
that of an independent preference model, fitted to noisy comparisons of other drafts, which has
never seen a rule. What offends in one draft survives k rounds with probability

$$ (1 - s/K)^k . $$

The rules of judgment stand in README.md's front matter.

    uv run papers/2022-constitutional-ai/reproduce.py

Bai et al. (2022), "Constitutional AI: harmlessness from AI feedback", figures 5 and 6.
"""

import numpy as np
import torch

from shared import papers, plots
from shared.study import PositiveInt, Run, cli
from week21.constitutional_ai import (
    CONSTITUTION,
    HARMLESS,
    count_offenses,
    offenses,
    revisions,
    survival,
    write_draft,
)
from week21.dialogues import common_words, word_features
from week21.reward_model import fit_linear_reward

SKILL, ROUNDS = 0.8, 4
SIZES = (1, 4, 8)
BAD = [word for principle in CONSTITUTION for word in principle.gentler]


class Scorer:
    """A preference model on words, from comparisons by offenses in all, with Bradley–Terry's noise.

    It stands for the paper's, which was fitted to people's comparisons.
    """

    def __init__(self, pairs: int, rng: np.random.Generator):
        drafts = [write_draft(CONSTITUTION, rng) for _ in range(2 * pairs)]
        # mended drafts too, or the words that replace would be unknown
        drafts = [revisions(d, CONSTITUTION, rounds=3, rng=rng)[-1] for d in drafts[::2]] + drafts
        rng.shuffle(drafts)
        self.vocabulary = common_words(drafts, at_least=3)
        a, b = drafts[:pairs], drafts[pairs : 2 * pairs]
        gap = np.array([self.truth(y) - self.truth(x) for x, y in zip(a, b, strict=True)])
        sign = np.where(rng.random(pairs) < 1 / (1 + np.exp(-gap)), 1, -1)
        features = word_features(a, self.vocabulary) - word_features(b, self.vocabulary)
        self.differences = torch.from_numpy(features * sign[:, None])
        self.weights = fit_linear_reward(self.differences, l2=1.0).numpy()

    @staticmethod
    def truth(text: str) -> int:
        """Offenses against all principles."""
        return count_offenses(CONSTITUTION, text)

    def __call__(self, texts: list[str]) -> np.ndarray:
        """Scores of texts."""
        return word_features(texts, self.vocabulary) @ self.weights


def rewritten_at_random(draft: str, rounds: int, rng: np.random.Generator) -> list[str]:
    """As many words replaced each round as an honest one would, at random, by any word."""
    history = [draft]
    for _ in range(rounds):
        words = history[-1].split()
        principle = CONSTITUTION[rng.integers(len(CONSTITUTION))]
        for place in rng.integers(len(words), size=len(offenses(principle, history[-1]))):
            words[place] = str(rng.choice(BAD if rng.random() < 0.5 else HARMLESS))
        history.append(" ".join(words))
    return history


def scores(scorer: Scorer, histories: list[list[str]]) -> np.ndarray:
    """Mean score after each round, in standard deviations of the drafts' own scores."""
    found = np.array([scorer(list(texts)) for texts in zip(*histories, strict=True)])
    return (found.mean(axis=1) - found[0].mean()) / found[0].std()


def main(run: Run, *, seeds: PositiveInt = 5) -> None:
    """Score drafts and their revisions by an independent preference model.

    Parameters
    ----------
    seeds
        Preference models with drafts of their own; 10 with --full.
    """
    paper = papers.load(__file__)
    run.rounding(0.05, "libraries add in another order")
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 10))
    pairs, drafts = run.budget(quick=(150, 60), default=(1000, 600))
    by_size: dict[int, list] = {size: [] for size in SIZES}
    wrong, left, right = [], [], []
    for _ in run.progress(range(seeds), "seeds"):
        scorer = Scorer(pairs, run.rng)
        texts = [write_draft(CONSTITUTION, run.rng) for _ in range(drafts)]
        options = {"rounds": ROUNDS, "rng": run.rng, "skill": SKILL}
        for size in SIZES:
            histories = [revisions(text, CONSTITUTION[:size], **options) for text in texts]
            by_size[size].append(scores(scorer, histories))
        left.append([[scorer.truth(text) for text in history] for history in histories])
        random = [rewritten_at_random(text, ROUNDS, run.rng) for text in texts]
        wrong.append(scores(scorer, random))
        score, truth = scorer(texts), np.array([scorer.truth(text) for text in texts])
        gap, worse = score[::2] - score[1::2], truth[1::2] - truth[::2]
        right.append(((gap > 0) == (worse > 0))[worse != 0].mean())
    check(run, scorer, np.concatenate(left))
    rows, wrong = np.array(by_size[len(CONSTITUTION)]), np.array(wrong)
    late = {"quick": False, "rtol": None}
    name = "two revisions raise the score"
    paper.judge(run, name, rows[:, 2] - rows[:, 0], **late)
    run.falsifier("random critiques and revisions", wrong[:, 2] - wrong[:, 0], breaks=name)
    less = (rows[:, 2] - rows[:, 0]) - (rows[:, 4] - rows[:, 2])
    paper.judge(run, "the first two revisions add more than the next two", less, **late)
    run.metric("pairs that the preference model ranks right", np.mean(right), rtol=None)
    for size, found in by_size.items():
        run.metric(f"gain after 4 rounds, K = {size}", np.mean(found, axis=0)[-1], "sd", rtol=None)
    draw(run, by_size, wrong)


def check(run: Run, scorer: Scorer, counts: np.ndarray) -> None:
    """The preference model against scikit-learn, and offenses left against the formula."""
    from sklearn.linear_model import LogisticRegression

    x = scorer.differences.numpy()
    model = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-10, max_iter=10_000)
    labels, weight = np.repeat([1, 0], len(x)), np.full(2 * len(x), 0.5)
    model.fit(np.concatenate([x, -x]), labels, sample_weight=weight)
    against = "sklearn, LogisticRegression on differences"
    why = "scikit-learn stops at a gradient of 1e-10"
    run.check(
        "weights of words", scorer.weights, model.coef_[0], against=against, why=why, atol=1e-5
    )
    theory = np.array([survival(k, len(CONSTITUTION), SKILL) for k in range(ROUNDS + 1)])
    error = (counts - counts[:, :1] * theory).std(axis=0).max() / counts[:, 0].mean()
    share = counts.mean(axis=0) / counts[:, 0].mean()
    name = f"offenses left after 1 to {ROUNDS} rounds"
    options = {"against": "(1 - s/K)^k", "kind": "theorem", "why": "four standard errors"}
    run.check(name, share[1:], theory[1:], atol=4 * error / len(counts) ** 0.5, **options)


def draw(run: Run, by_size: dict[int, list], wrong: np.ndarray) -> None:
    """Scores by round, for constitutions of several lengths, and for random critiques."""
    title = "Does each revision raise the preference model's score?"
    with run.figure("score", title, size=(7.5, 4.4)) as axes:
        lines = {f"{n} principle{'s' if n > 1 else ''}": rows for n, rows in by_size.items()}
        lines["random critiques"] = wrong
        labels = {"xlabel": "revisions", "ylabel": "score (sd of the drafts' scores)"}
        colors = (plots.GREEN, plots.ORANGE, plots.BLUE, plots.GRAY)
        options = {"marker": "o", "colors": colors, "reference": {"the drafts": 0.0}}
        plots.curves(axes, np.arange(ROUNDS + 1), lines, **options, **labels)
        axes.set_xticks(range(ROUNDS + 1))


if __name__ == "__main__":
    cli(main)
