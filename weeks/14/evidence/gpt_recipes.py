"""Four recipes at their own best rates, judged on seeds that tuned none of them."""

import itertools

import numpy as np
import torch

from shared import datasets, plots
from shared.study import PositiveInt, Run
from week14.gpt_recipes import final_loss, tune
from week14.minimal_gpt import GPT, GPTConfig, next_token_loss, random_batch, train
from week14.ngram import WittenBell, encode_characters

TUNING_SEED = 100
NAMES = {"adamw": "AdamW", "muon": "Muon"}


def main(run: Run, *, seeds: PositiveInt | None = None, steps: PositiveInt | None = None) -> None:
    """Train the four recipes and compare them with n-grams.

    Parameters
    ----------
    seeds
        Seeds per recipe.
    steps
        Training steps per run.
    """
    run.rounding(0.05, "Muon multiplies in bfloat16, which processors round differently")
    seeds = seeds or run.budget(quick=2, default=2, full=3)
    steps = steps or run.budget(quick=2, default=60, full=900)
    run.chose(seeds=seeds, steps=steps)
    for optimizer in NAMES:
        check_steps(run, optimizer)
    ids, alphabet = encode_characters(datasets.load_text("pydocs"))
    split = int(0.9 * len(ids))
    training, validation = torch.from_numpy(ids[:split]), torch.from_numpy(ids[split:])
    validation = validation[: run.budget(quick=1000, default=len(validation))]
    counting = best_ngram(ids[:split], ids[split:], len(alphabet))
    run.metric("best n-gram", counting, "nats/char")

    losses = {}
    recipes = list(itertools.product(("learned", "rotary"), NAMES))
    for positions, optimizer in run.progress(recipes, "recipes"):
        config, name = GPTConfig(len(alphabet), positions=positions), NAMES[optimizer]
        name = f"{positions} + {name}"

        def loss_at(scale: float, seed: int = TUNING_SEED, config=config, optimizer=optimizer):
            options = {"steps": steps, "lr_scale": scale, "seed": seed}
            return final_loss(training, validation, config, optimizer, **options)

        tuning = tune(loss_at) if run.mode == "full" else {1.0: 0.0}
        factor = min(tuning, key=tuning.get)
        losses[name] = np.array([loss_at(factor, seed) for seed in range(seeds)])
        run.metric(name, losses[name].mean(), "nats/char", rtol=0.05)
        run.metric(f"{name}, learning-rate factor", factor)
    judge(run, losses, counting)
    draw(run, losses, counting)


def best_ngram(train: np.ndarray, valid: np.ndarray, vocab_size: int) -> float:
    """Lowest loss of Witten–Bell n-grams of orders 3 to 6."""
    models = (WittenBell(n, vocab_size).fit(train) for n in range(3, 7))
    return min(-float(model.log_probs(valid).mean()) for model in models)


def check_steps(run: Run, optimizer: str) -> None:
    """The first steps of a recipe are those of torch's optimizers on the same batches."""
    config = GPTConfig(13, 8, n_layers=1, n_heads=2, d_model=8)
    ours, theirs = (GPT(config, run.generator()).double() for _ in range(2))
    tokens, steps = torch.randint(13, (99,), generator=run.generator(1)), 5
    sizes = {"steps": steps, "batch": 3}
    losses = train(ours, tokens, optimizer=optimizer, generator=run.generator(2), **sizes)

    matrices = [p for p in theirs.blocks.parameters() if p.ndim == 2]
    rest, adamw = list(theirs.parameters()), {"lr": 3e-3, "weight_decay": 0.1}
    if optimizer == "muon":
        rest = [p for p in rest if all(p is not m for m in matrices)]
        adamw = {"lr": 1.2e-2, "weight_decay": 0.0}
    reference = [torch.optim.AdamW(rest, betas=(0.9, 0.95), **adamw)]
    if optimizer == "muon":
        reference.append(torch.optim.Muon(matrices, lr=0.02, adjust_lr_fn="original"))
    falling = [torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.0, steps) for o in reference]
    generator, found = run.generator(2), []
    for _ in range(steps):
        x, y = random_batch(tokens, 3, config.context, generator)
        found.append(next_token_loss(theirs(x), y))
        for o in reference:
            o.zero_grad()
        found[-1].backward()
        for o in (*reference, *falling):
            o.step()
    limit = {"rtol": 1e-8, "why": "float64 rounding, amplified by five steps"}
    if optimizer == "muon":
        limit = {"rtol": 1e-3, "why": "bfloat16 products, batched here, one by one there"}
    check = run.against(f"torch.optim.{NAMES[optimizer]}", **limit)
    check(f"losses of the first five steps, {NAMES[optimizer]}", losses, torch.stack(found))


def judge(run: Run, losses: dict[str, np.ndarray], counting: float) -> None:
    """The recipes against each other, seed by seed, and against counting."""
    seen = "an earlier run of the four recipes, tuned on a seed that also judged"
    unit = {"unit": "nats/char", "quick": False, "seen_before": seen}
    by_optimizer = {n: losses[f"learned + {n}"] - losses[f"rotary + {n}"] for n in NAMES.values()}
    for name, gain in by_optimizer.items():
        run.claim(f"rotary positions help {name}", gain, at_least=0, **unit)
    for positions in ("learned", "rotary"):
        gain = losses[f"{positions} + AdamW"] - losses[f"{positions} + Muon"]
        run.claim(f"Muon helps, {positions} positions", gain, at_least=0, **unit)
    newest = losses["learned + AdamW"] - losses["rotary + Muon"]
    run.claim("the newest recipe beats the oldest", newest, at_least=0, **unit)
    if run.mode == "full":
        for name, ahead in {name: counting - values for name, values in losses.items()}.items():
            run.claim(f"{name} beats counting", ahead, at_least=0, **unit)


def draw(run: Run, losses: dict[str, np.ndarray], counting: float) -> None:
    """The four recipes, with the line to cross."""
    colors = [plots.BLUE if name == "rotary + Muon" else plots.SKY for name in losses]
    with run.figure("recipes", "Which part of the recipe beats counting?") as axes:
        labels = {"xlabel": "validation loss (nats/character); dots are seeds"}
        low = min(counting, *(v.min() for v in losses.values()))
        high = max(v.max() for v in losses.values())
        labels["xlim"] = (low - 0.15, high + 0.15)
        reference = {f"best n-gram {counting:.2f}": counting}
        plots.bars(axes, losses, colors=colors, reference=reference, **labels)
