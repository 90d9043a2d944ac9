"""Logistic regression on differences, a small GPT that learns a hidden reward, and real pairs."""

import numpy as np
import torch

from shared import plots
from shared.study import PositiveInt, Run, UserError
from week06.probabilities import calibration_curve, calibration_error
from week21 import trl_preferences as trl
from week21.dialogues import common_words, harmless_pairs, last_answer, word_features
from week21.evidence.threads import one_thread
from week21.reward_model import (
    RewardModel,
    fit_linear_reward,
    preference_loss,
    preference_probability,
    soft_preference_loss,
    train,
)
from week21.toy_reviews import (
    PAD,
    PROMPTS,
    log_law,
    preferences,
    responses,
    rewards,
    supervised,
    texts_after,
    trainable_copy,
)


def main(run: Run, *, seeds: PositiveInt = 4) -> None:
    """Compare with scikit-learn, learn a known reward, then people's preferences.

    Parameters
    ----------
    seeds
        Sets of preferences between reviews.
    """
    run.rounding(0.05, "training multiplies the rounding of its sums")
    check_linear(run)
    check_losses(run)
    with one_thread():
        learn(run, run.budget(quick=2, default=max(seeds, 2)))
    if run.mode != "quick":
        judge_people(run)


# ---- checks


def check_linear(run: Run) -> None:
    """Weights of a linear reward, few features and many, weak and strong regularization."""
    from sklearn.linear_model import LogisticRegression

    why = "scikit-learn stops at a gradient of 1e-10"
    equal = run.against("sklearn, LogisticRegression without intercept", why=why, atol=1e-6)
    for n, features, l2 in ((40, 3, 0.1), (200, 12, 1.0), (30, 50, 10.0)):
        x = torch.randn(n, features, generator=run.generator(n), dtype=torch.float64)
        model = LogisticRegression(C=1 / l2, fit_intercept=False, tol=1e-10, max_iter=10_000)
        # each pair both ways, or there would be one class; then each counts twice
        labels, weight = np.repeat([1, 0], n), np.full(2 * n, 0.5)
        model.fit(torch.cat([x, -x]).numpy(), labels, sample_weight=weight)
        name = f"{features} weights from {n} pairs"
        equal(name, fit_linear_reward(x, l2=l2), model.coef_[0])


def check_losses(run: Run) -> None:
    """Loss and gradient with margins against trl's trainer, and with shares against torch."""
    a, b = torch.randn(2, 9, generator=run.generator(1))
    margin = torch.rand(9, generator=run.generator(2))
    both = torch.cat([a, b]).requires_grad_()
    why = {"why": "float32 rounding", "atol": 1e-6}
    if run.mode != "quick":
        equal = run.against("trl's RewardTrainer, its loss code", **why)
        ours = preference_loss(*both.chunk(2), margin).mean()
        theirs = trl.quietly(lambda: trl.reward_loss(both, margin))
        equal("loss with margins", ours.item(), theirs.item())
        equal("its gradient", *(torch.autograd.grad(x, both)[0] for x in (ours, theirs)))
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits
    equal = run.against("torch, cross-entropy with soft labels", **why)
    ours = soft_preference_loss(*both.chunk(2), margin).mean()
    theirs = cross_entropy(both[:9] - both[9:], margin)
    equal("loss of shares", ours.item(), theirs.item())
    equal("its gradient, shares", *(torch.autograd.grad(x, both)[0] for x in (ours, theirs)))


# ---- a reward that is known


def learned(
    run: Run, seed: int, steps: tuple[int, int], shuffled: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards that a model gives to all responses, a row per prompt; and the reference's law."""
    reference = supervised(run.seed + 60 + seed, steps[0])
    law, generator = log_law(reference), run.generator(200 + seed)
    pairs = preferences(law, 3000, generator, shuffled=shuffled).pairs
    model = RewardModel(trainable_copy(reference), generator)
    options = {"steps": steps[1], "batch": 64, "generator": generator, "pad": PAD}
    list(train(model, pairs, **options))
    with torch.no_grad():
        found = []
        for prompt in PROMPTS:
            length = torch.tensor([1 + len(text) for text in responses()])
            found.append(model(texts_after(prompt).tokens, length))
    return torch.stack(found), law


def correlation(found: torch.Tensor, law: torch.Tensor) -> float:
    """With the true reward, as often as the reference says each response; mean over prompts."""
    return float(
        np.mean(
            [
                np.cov(r.numpy(), rewards().numpy(), aweights=p.exp().numpy())[0, 1]
                / np.sqrt(np.diag(np.cov(r, rewards(), aweights=p.exp().numpy())).prod())
                for r, p in zip(found, law, strict=True)
            ]
        )
    )


def learn(run: Run, seeds: int) -> None:
    """Correlation with the true reward, accuracy and calibration on new pairs, and the control."""
    steps = run.budget(quick=(15, 12), default=(100, 200))
    real, control, right, error = [], [], [], []
    for seed in run.progress(range(seeds), "seeds"):
        found, law = learned(run, seed, steps, shuffled=False)
        real.append(correlation(found, law))
        control.append(correlation(*learned(run, seed, steps, shuffled=True)))
        said, happened = new_pairs(found, law, run.generator(700 + seed))
        right.append(((said > 0.5) == happened).mean())
        error.append(calibration_error(happened, said, n_bins=10))
        if seed == 0:
            draw(run, said, happened)
    name = "the learned reward follows the true one"
    options = {"rtol": None, "quick": False, "seen_before": "nothing"}
    run.claim(name, real, at_least=0.8, unit="correlation", **options)
    run.falsifier("shuffled preferences", control, breaks=name)
    run.metric("new pairs ranked as judged", np.mean(right), rtol=0.05)
    run.metric("calibration error on new pairs", np.mean(error), rtol=None)


def new_pairs(found, law, generator) -> tuple[np.ndarray, np.ndarray]:
    """What the model says of fresh pairs, and which of the two was preferred."""
    prompt = torch.arange(6000) % len(PROMPTS)
    a, b = torch.multinomial(law.exp()[prompt], 2, replacement=True, generator=generator).T
    true = (rewards()[a] - rewards()[b]).sigmoid()
    happened = torch.rand(len(true), generator=generator) < true
    said = preference_probability(found[prompt, a], found[prompt, b])
    differ = a != b
    return said[differ].double().numpy(), happened[differ].numpy()


def draw(run: Run, said: np.ndarray, happened: np.ndarray) -> None:
    """Of the pairs called 30 %, do 30 % happen?"""
    title = "Is the reward model's probability to be believed?"
    with run.figure("calibration", title, size=(5.2, 4.6)) as axes:
        often, claimed, weight = calibration_curve(happened, said, n_bins=10)
        spread = 2 * np.sqrt(often * (1 - often) / weight)
        axes.plot([0, 1], [0, 1], "--", color=plots.REFERENCE, lw=1)
        axes.errorbar(claimed, often, yerr=spread, fmt="o", color=plots.BLUE, capsize=3)
        axes.set(xlabel="probability that the first is preferred, as said by the model")
        axes.set(ylabel="how often it was (± 2 standard errors)")


# ---- people


def judge_people(run: Run) -> None:
    """Words of the last answer against a coin, against length, and against shuffled choices."""
    try:
        pairs = harmless_pairs()
    except UserError as error:
        run.say(f"without people's preferences: {error}")
        return
    order = run.rng.permutation(len(pairs))
    a, b = ([last_answer(pairs[i][side]) for i in order] for side in (0, 1))
    n = 1500
    vocabulary = common_words(a[:n] + b[:n], at_least=10)
    gap = torch.from_numpy(word_features(a, vocabulary) - word_features(b, vocabulary))
    longer = np.array([len(x.split()) - len(y.split()) for x, y in zip(a, b, strict=True)])

    def ranked(difference: torch.Tensor) -> np.ndarray:
        value = gap[n:] @ fit_linear_reward(difference, l2=100.0)
        return ((value.sign() + 1) / 2).numpy()  # a tie is half right

    signs = torch.from_numpy(run.rng.choice([-1.0, 1.0], (n, 1)))
    name = "words of an answer say which one people preferred"
    seen = "five folds of the training part: 0.62"
    note = f"{len(pairs) - n} pairs, {len(vocabulary)} words"
    run.claim(name, ranked(gap[:n]), at_least=0.55, seen_before=seen, note=note, rtol=None)
    run.falsifier("shuffled choices", ranked(gap[:n] * signs), breaks=name)
    run.metric("people preferred the shorter answer", ((1 - np.sign(longer[n:])) / 2).mean())
