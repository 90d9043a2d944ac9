"""Checks, claims and figures of gpt_recipes."""

import itertools

import numpy as np
import torch

from shared import datasets, plots
from shared.stats import mean_interval
from shared.study import PositiveInt, Run
from week14.gpt_recipes import final_loss, tune
from week14.minimal_gpt import GPT, GPTConfig
from week14.ngram import WittenBell, encode_characters


def main(run: Run, *, seeds: PositiveInt | None = None, steps: PositiveInt | None = None) -> None:
    """Train the four recipes and compare them with n-grams.

    Parameters
    ----------
    seeds
        Seeds a recipe.
    steps
        Training steps a run.
    """
    seeds = seeds or run.budget(quick=1, default=2, full=3)
    steps = steps or run.budget(quick=3, default=60, full=900)
    ids, alphabet = encode_characters(datasets.load_text("pydocs"))
    tokens = torch.from_numpy(ids)
    split = int(0.9 * len(tokens))
    training, validation = tokens[:split], tokens[split:]
    counts = [
        -WittenBell(n, len(alphabet)).fit(ids[:split]).log_probs(ids[split:]).mean()
        for n in range(3, 7)
    ]
    counting = float(min(counts))

    learned = GPTConfig(len(alphabet), positions="learned")
    rotary = GPTConfig(len(alphabet), positions="rotary")
    difference = sum(p.numel() for p in GPT(learned).parameters())
    difference -= sum(p.numel() for p in GPT(rotary).parameters())
    run.check(
        "extra parameters of learned positions",
        difference,
        learned.context * learned.d_model,
        against="context × width",
        why="integers",
    )

    losses, chosen = {}, {}
    recipes = list(itertools.product((learned, rotary), ("adamw", "muon")))
    for config, optimizer in run.progress(recipes, "recipes"):
        name = f"{config.positions} + {'Muon' if optimizer == 'muon' else 'AdamW'}"

        def loss_at(scale: float, seed: int = 0, config=config, optimizer=optimizer) -> float:
            return final_loss(
                training, validation, config, optimizer, steps=steps, lr_scale=scale, seed=seed
            )

        first = tune(loss_at) if run.mode == "full" else {1.0: loss_at(1.0)}
        chosen[name] = min(first, key=first.get)
        losses[name] = [first[chosen[name]]]
        losses[name] += [loss_at(chosen[name], seed) for seed in range(1, seeds)]
        shown = ", ".join(f"{loss:.3f}" for loss in losses[name])
        run.say(f"{name}: {shown} (lr × {chosen[name]:.3g}, best of {len(first)})")
        run.metric(name, np.mean(losses[name]), "nats/char", rtol=0.05)
        run.metric(f"{name}, learning-rate factor", chosen[name], "", rtol=None)
    run.metric("best n-gram", counting, "nats/char", rtol=0.1)

    modern, plain = losses["rotary + Muon"], losses["learned + AdamW"]

    def interval(values) -> str:
        return str(mean_interval(values)) if len(values) > 1 else f"{values[0]:.3f} (n = 1)"

    run.claim(
        "rotary positions with Muon end lower than learned ones with AdamW, in every seed",
        all(m < p for m, p in zip(modern, plain, strict=True)),
        f"{interval(modern)} against {interval(plain)} nats/char",
        quick=False,
    )
    if run.mode == "full":
        for optimizer, beats in (("AdamW", False), ("Muon", True)):
            both = losses[f"learned + {optimizer}"] + losses[f"rotary + {optimizer}"]
            run.claim(
                f"{optimizer} {'beats' if beats else 'does not beat'} counting in {steps} steps, "
                "with either positions and every seed",
                max(both) < counting if beats else min(both) > counting,
                f"{min(both):.3f} to {max(both):.3f}, best n-gram {counting:.3f} nats/char",
            )

    title = "Which part of the recipe beats counting?"
    with run.figure("recipes", title) as axes:
        for row, (name, values) in enumerate(losses.items()):
            color = plots.BLUE if name == "rotary + Muon" else plots.SKY
            axes.plot([min(values), max(values)], [row, row], color=color, lw=4, alpha=0.4)
            axes.plot(values, [row] * len(values), "o", color=color, ms=8)
            axes.text(np.mean(values), row - 0.18, f"{np.mean(values):.3f}", ha="center")
        axes.axvline(counting, color=plots.REFERENCE, ls="--", lw=1.2)
        axes.text(counting, 3.45, f" best n-gram {counting:.3f}", color=plots.REFERENCE)
        axes.set_yticks(range(len(losses)), list(losses))
        low = min(counting, *itertools.chain(*losses.values()))
        axes.set(xlabel="validation loss (nats/character); dots are seeds", ylim=(3.6, -0.6))
        axes.set_xlim(low - 0.1, max(itertools.chain(*losses.values())) + 0.12)
        axes.grid(axis="y", visible=False)
