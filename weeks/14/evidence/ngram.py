"""Checks, claims and figures of ngram."""

import math

import numpy as np

from shared import datasets, plots
from shared.study import PositiveInt, Run
from week14.ngram import WittenBell, encode_characters, exact_probability


def main(run: Run, *, order: PositiveInt = 6, dataset: str = "pydocs") -> None:
    """Count n-grams of growing order and see where more context stops paying.

    Parameters
    ----------
    order
        Highest order to count.
    dataset
        Text to model: pydocs, tinyshakespeare, wikitext2 or wikipedia.
    """
    text = datasets.load_text(dataset)
    tokens, alphabet = encode_characters(text)
    split = int(0.9 * len(tokens))
    train, valid = tokens[:split], tokens[split:]
    run.say(f"{dataset}: {len(text):,} characters, alphabet of {len(alphabet)}")

    small = text[:400]
    small_tokens, small_alphabet = encode_characters(small)
    model = WittenBell(3, len(small_alphabet)).fit(small_tokens)
    ours = model.log_probs(small_tokens[:60])
    exact = [
        math.log(exact_probability(small, small[i - 2 : i], small[i], small_alphabet))
        for i in range(2, 60)
    ]
    run.check(
        "log p of 58 characters, order 3",
        ours,
        np.array(exact),
        against="the definition in exact fractions",
        atol=1e-12,
        why="float64 rounding of a sum",
    )
    after = np.array([np.append(small_tokens[:2], x) for x in range(len(small_alphabet))])
    total = sum(np.exp(model.log_probs(row)[0]) for row in after)
    run.check(
        "sum of p over the alphabet",
        total,
        1.0,
        against="probabilities sum to one",
        atol=1e-12,
        why="float64 rounding of a sum",
    )

    train_loss, valid_loss, unsmoothed_fails = [], [], []
    for n in run.progress(range(1, order + 1), "counting"):
        model = WittenBell(n, len(alphabet)).fit(train)
        train_loss.append(-model.log_probs(train).mean())
        valid_loss.append(-model.log_probs(valid).mean())
        grams = model._grams[-1][0]
        unsmoothed_fails.append(1 - np.isin(model._keys(valid, n), grams).mean())
        run.metric(f"{n}-gram loss", valid_loss[-1], "nats/char", rtol=0.1)
    run.metric("best n-gram loss", min(valid_loss), "nats/char", rtol=0.1)
    run.metric("unseen n-grams", 100 * unsmoothed_fails[-1], "% of validation", rtol=None)
    shuffled = run.rng.permutation(train)
    control = -WittenBell(order, len(alphabet)).fit(shuffled).log_probs(valid).mean()
    run.claim(
        "context helps, and only because of the order of the characters",
        min(valid_loss) < valid_loss[0] - 0.5 and control > valid_loss[0] - 0.01,
        f"order 1: {valid_loss[0]:.3f}, best: {min(valid_loss):.3f}, "
        f"counted on shuffled text: {control:.3f} nats/char",
    )
    with run.figure("order", "More context pays until the counts run out") as axes:
        orders = np.arange(1, order + 1)
        axes.plot(orders, train_loss, "o-", color=plots.SKY, label="text it counted")
        axes.plot(orders, valid_loss, "o-", color=plots.BLUE, label="held-out text")
        axes.axhline(math.log(len(alphabet)), color=plots.REFERENCE, lw=1, ls="--")
        axes.text(1, math.log(len(alphabet)) - 0.05, "guessing: ln of the alphabet", va="top")
        axes.set(
            xlabel="order n (characters, prediction included)",
            ylabel="loss (nats/character)",
            ylim=(0, None),
            xticks=orders,
        )
        plots.label_lines(axes)
