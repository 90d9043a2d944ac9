"""What n-grams are worth, and that the formula is right."""

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
    text = text[: run.budget(quick=60_000, default=len(text))]
    check_definition(run, text[:400])
    tokens, alphabet = encode_characters(text)
    split = int(0.9 * len(tokens))
    train, valid = tokens[:split], tokens[split:]
    run.say(f"{dataset}: {len(text):,} characters, alphabet of {len(alphabet)}")

    orders, losses = range(1, order + 1), {"text it counted": [], "held-out text": []}
    for n in run.progress(orders, "counting"):
        model = WittenBell(n, len(alphabet)).fit(train)
        for part, loss in zip((train, valid), losses.values(), strict=True):
            loss.append(-model.log_probs(part).mean())
    unseen = losses["held-out text"]
    for n in orders[-2:]:
        run.metric(f"{n}-gram loss", unseen[n - 1], "nats/char")
    run.metric("unseen n-grams", 100 * (1 - model.seen(valid).mean()), "% of validation")

    gain = unseen[0] - min(unseen)
    shuffled = WittenBell(order, len(alphabet)).fit(run.rng.permutation(train))
    lost = unseen[0] + shuffled.log_probs(valid).mean()
    unit = {"unit": "nats/char", "deterministic": True}
    run.claim("context helps", gain, at_least=0.5, note=f"best {min(unseen):.3f}", **unit)
    run.falsifier("counted on shuffled text", lost, breaks="context helps")
    guess = math.log(len(alphabet))
    with run.figure("order", "More context pays until the counts run out") as axes:
        reference = {"guessing: ln of the alphabet": guess}
        axes.set(xlabel="order n (characters, prediction included)", xticks=orders)
        labels = {"ylabel": "loss (nats/character)", "ylim": (0, None)}
        colors = (plots.SKY, plots.BLUE)
        plots.curves(axes, orders, losses, colors=colors, marker="o", reference=reference, **labels)


def check_definition(run: Run, text: str) -> None:
    """Vectorized counting against the definition read aloud, in exact fractions."""
    tokens, alphabet = encode_characters(text)
    model = WittenBell(3, len(alphabet)).fit(tokens)
    exact = [
        math.log(exact_probability(text, text[i - 2 : i], text[i], alphabet)) for i in range(2, 60)
    ]
    equal = run.against("the definition", kind="theorem", atol=1e-12, why="float64 rounding")
    equal("log p of 58 characters, order 3", model.log_probs(tokens[:60]), np.array(exact))
    after = np.array([np.append(tokens[:2], x) for x in range(len(alphabet))])
    total = sum(np.exp(model.log_probs(row)[0]) for row in after)
    equal("sum of p over the alphabet", total, 1.0)
